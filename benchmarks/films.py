"""Films of held-out trials: videos for people, and the agent's own frames beside those it imagines."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv

from benchmarks.evaluate import face
from benchmarks.files import write_whole
from meld_agents.interface import Evidence, Policy

#: Frames per second of a video where the environment does not say.
DEFAULT_FPS = 10


class FilmRecorder:
    """Watches trials and keeps people's pictures, the agent's frames, and the imagined ones."""

    def __init__(self) -> None:
        self.pictures: list[tuple[np.ndarray, ...]] = []
        self._seen: list[np.ndarray] = []
        self._imagined: list[np.ndarray] = []

    def __call__(self, t: int, evidence: Evidence, policy: Policy, env: VectorEnv) -> None:
        self.pictures.append(tuple(np.array(picture) for picture in face(env).render()))
        if evidence.observation.ndim == 4:
            self._seen.append(np.array(evidence.observation))
            if hasattr(policy, "imagine"):
                self._imagined.append(np.array(policy.imagine()))

    def write_videos(self, folder: Path, names: list[str], fps: float) -> None:
        """Writes one ``.mp4`` for every trial (H.264, as browsers play it).

        Raises:
            ImportError: imageio-ffmpeg is not installed.
        """
        folder.mkdir(exist_ok=True)
        for index, name in enumerate(names):
            write_video(folder / f"{name}.mp4", [pictures[index] for pictures in self.pictures], fps)

    def write_strips(self, path: Path, names: list[str]) -> None:
        """Keeps what the agent saw, and imagined if it can: arrays ``(videos, frames, H, W, C)``."""
        if not self._seen:
            return
        arrays: dict[str, Any] = {"names": np.array(names), "seen": np.stack(self._seen, axis=1)}
        if self._imagined:
            arrays["imagined"] = np.stack(self._imagined, axis=1)
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)
        write_whole(path, buffer.getvalue())


def frames_per_second(env: VectorEnv) -> float:
    """The control rate, so that a video runs in the robot's own time."""
    return float(env.metadata.get("render_fps") or DEFAULT_FPS)


def write_video(path: Path, pictures: list[np.ndarray], fps: float) -> None:
    """Writes pictures ``(H, W, 3)`` uint8; the last one stays for a second."""
    import imageio_ffmpeg

    height, width = (side // 2 * 2 for side in pictures[0].shape[:2])  # H.264 wants even sides
    aside = path.with_name(f".{path.stem}.tmp.mp4")
    writer = imageio_ffmpeg.write_frames(
        str(aside), (width, height), fps=fps, macro_block_size=2, quality=7, ffmpeg_log_level="error"
    )
    try:
        writer.send(None)
        for picture in [*pictures, *[pictures[-1]] * round(fps)]:
            writer.send(np.ascontiguousarray(picture[:height, :width]))
        writer.close()
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
