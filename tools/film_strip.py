"""Makes a picture of a filmed held-out trial: what people see, what the agent saw, what it imagined.

Usage:
    python tools/film_strip.py RUN_FOLDER PICTURE.png [--trials N] [--every STEPS]

RUN_FOLDER is one agent's folder of a finished run, e.g. ``runs/x/meld/PointNav-v0/meld/seed0``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import imageio_ffmpeg
import numpy as np
from matplotlib import pyplot

#: Inches of one frame in the picture.
FRAME_INCHES = 0.8


def video_frames(path: Path) -> np.ndarray:
    """All frames ``(T, H, W, 3)`` uint8 of a video."""
    reader = imageio_ffmpeg.read_frames(str(path))
    width, height = next(reader)["size"]
    return np.stack([np.frombuffer(frame, np.uint8).reshape(height, width, 3) for frame in reader])


def rows_of_trial(
    folder: Path, name: str, strips: dict[str, np.ndarray], index: int
) -> dict[str, np.ndarray]:
    """The named rows of one trial's strip, each ``(T, H, W, 3)``."""
    seen = strips["seen"][index]
    people = video_frames(next((folder / "videos").glob(f"*{name}*.mp4")))[: len(seen)]
    rows = {"for people": people, "seen": seen}
    return rows | ({"imagined": strips["imagined"][index]} if "imagined" in strips else {})


def draw(folder: Path, picture: Path, trials: int, every: int) -> None:
    """Writes the picture.

    Raises:
        FileNotFoundError: the folder holds no strips or videos; train with ``evaluation.videos`` above 0.
    """
    with np.load(folder / "strips.npz", allow_pickle=False) as file:
        strips = {key: file[key] for key in file.files}
    names = [str(name) for name in strips["names"][:trials]]
    table = [row for i, name in enumerate(names) for row in rows_of_trial(folder, name, strips, i).items()]
    steps = range(0, len(strips["seen"][0]), every)
    size = (FRAME_INCHES * len(steps) + 0.8, FRAME_INCHES * len(table) + 0.3)
    figure, axes = pyplot.subplots(len(table), len(steps), figsize=size, squeeze=False)
    for line, (label, frames) in zip(axes, table, strict=True):
        for axis, step in zip(line, steps, strict=True):
            axis.imshow(frames[step], interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
        line[0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=8)
    for axis, step in zip(axes[-1], steps, strict=True):
        axis.set_xlabel(f"step {step}", fontsize=7)
    figure.subplots_adjust(
        left=0.8 / size[0], right=0.995, top=0.99, bottom=0.3 / size[1], wspace=0.04, hspace=0.04
    )
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, dpi=110)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--trials", type=int, default=2, help="filmed trials, one below the other")
    parser.add_argument("--every", type=int, default=2, help="steps between frames")
    options = parser.parse_args()
    draw(options.folder, options.picture, options.trials, options.every)


if __name__ == "__main__":
    main()
