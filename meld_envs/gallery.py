"""Pictures and films of the environments: ``python -m meld_envs.gallery``.

Writes for every family a contact sheet (``PointNav-v0.png``) and a film (``PointNav-v0.mp4``), and one
contact sheet of them all (``gallery.png``): what the agent sees, what people see, and a held-out task as the
scripted expert and a random policy live it.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

import meld_envs
from meld_envs.env import PEOPLE_HEIGHT, TaskEnv
from meld_envs.tasks import Task

# Sizes in pixels.
PAGE = 1584  # width of a sheet between its margins: four panels, or eight frames, and the gaps between
MARGIN, GAP = 40, 16
PANEL = 384  # height of the large views of a sheet: six times an observation of 64
THUMB = 192  # height of the views of the sheet of all families
SCREEN = 448  # height of both views of a film
FRAMES_PER_ROW = 8  # of a film strip with one camera
MAX_NAMED = 6  # hidden parameters that a title names

# Colours, and the sizes of letters.
PAPER, INK, QUIET, EDGE = (250, 250, 247), (28, 32, 40), (104, 110, 122), (206, 209, 214)
GOOD = (16, 128, 60)
TITLE, HEADING, BODY, CAPTION = 40, 26, 20, 16

HEADINGS = {"expert": "Scripted expert", "random": "Random policy"}
MIN_FPS = 4  # slower films stutter in some players
PLAIN = str.maketrans({"−": "-", "–": "-", "—": "-", "×": "x", "²": "2", "≤": "<="})  # Pillow's font is small

Colour = tuple[int, int, int]
Act = Callable[[TaskEnv], np.ndarray]


# Filming --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Episode:
    """One episode of T steps, as seen.

    Attributes:
        policy: who acted: ``"expert"`` or ``"random"``.
        seen: observations ``(T + 1, H, W, 3)`` uint8.
        people: pictures for people ``(T + 1, 480, W, 3)`` uint8.
        rewards: ``(T + 1,)``, the first one 0.
        scores: ``(T + 1,)``.
        successes: ``(T + 1,)`` bool.
    """

    policy: str
    seen: np.ndarray
    people: np.ndarray
    rewards: np.ndarray
    scores: np.ndarray
    successes: np.ndarray

    @property
    def summary(self) -> str:
        """How it went, in a line."""
        outcome = "no success"
        if self.successes.any():
            last = "and at the end" if self.successes[-1] else "but not at the end"
            outcome = f"success at step {self.successes.argmax()}, {last}"
        total, final = _number(self.rewards.sum()), _number(self.scores[-1])
        return f"return {total} · final score {final} · {outcome}"


def _number(value: float) -> str:
    """Two digits after the point, and no minus sign before zero."""
    return f"{round(value, 2) + 0.0:.2f}"


@dataclass(frozen=True)
class Film:
    """One held-out task of one family, lived twice.

    Attributes:
        env_id: Gymnasium's id.
        about: the family in a sentence.
        hidden: what is hidden, with this task's values.
        facts: which task, and the family's sizes.
        cameras: how many views an observation has, side by side.
        fps: the control rate.
        episodes: the expert's and the random policy's.
    """

    env_id: str
    about: str
    hidden: str
    facts: str
    cameras: int
    fps: int
    episodes: tuple[Episode, Episode]


def _silent(words: str) -> None:
    pass


def shoot(env_id: str, seed: int = 0, task_index: int = 0, say: Callable[[str], None] = _silent) -> Film:
    """Lives one held-out task with the scripted expert, then with a random policy.

    Args:
        env_id: of an environment of ours.
        seed: of the episodes' start states and of the random actions.
        task_index: which of the held-out tasks.
        say: is told what is being done.

    Raises:
        ValueError: no such task, or an environment that is not ours.
        ImportError: the expert needs something that is not installed.
    """
    env = make_env(env_id, split="test", obs_type="pixels", render_mode="rgb_array")
    try:
        tasks = env.task_set.test
        if not 0 <= task_index < len(tasks):
            raise ValueError(f"held-out tasks are numbered 0 to {len(tasks) - 1}; there is no {task_index}")
        task, rng = tasks[task_index], np.random.default_rng(seed)

        def act_at_random(env: TaskEnv) -> np.ndarray:
            return rng.uniform(-1.0, 1.0, env.action_space.shape).astype(np.float32)

        expert = record(env, task, seed, "expert", TaskEnv.expert_action, say)
        random = record(env, task, seed, "random", act_at_random, say)
        return Film(
            env_id=env_id,
            about=(inspect.getdoc(type(env.family)) or "").split("\n")[0],
            hidden=name_hidden(env, task),
            facts=_facts(env, task_index, seed),
            cameras=len(env.family.cameras),
            fps=max(MIN_FPS, env.metadata["render_fps"]),
            episodes=(expert, random),
        )
    finally:
        env.close()


def make_env(env_id: str, **keywords: Any) -> TaskEnv:
    """The environment of ours, without Gymnasium's wrappers.

    Raises:
        gymnasium.error.Error: no such id; names the nearest one.
        ValueError: an environment that is not ours.
    """
    if gym.spec(env_id).entry_point not in (TaskEnv, f"{TaskEnv.__module__}:{TaskEnv.__name__}"):
        raise ValueError(f"{env_id} is not a family of meld_envs, as {', '.join(meld_envs.FAMILIES)} are")
    env = gym.make(env_id, **keywords).unwrapped
    assert isinstance(env, TaskEnv), f"{env_id}: {type(env)}"
    return env


def record(env: TaskEnv, task: Task, seed: int, policy: str, act: Act, say: Callable[[str], None]) -> Episode:
    """Lives one episode of a task."""
    seen, info = env.reset(seed=seed, options={"task": task})
    rows = [(seen, env.render(), 0.0, info["score"], info["success"])]
    for step in range(1, env.episode_steps + 1):
        say(f"{policy}, step {step} of {env.episode_steps}")
        seen, reward, _, _, info = env.step(act(env))
        rows.append((seen, env.render(), reward, info["score"], info["success"]))
    return Episode(policy, *(np.array(column) for column in zip(*rows, strict=True)))


def name_hidden(env: TaskEnv, task: Task) -> str:
    """What is hidden, with a task's values, e.g. ``velocity = 1.3 m/s``."""
    hidden = [parameter for parameter in env.family.parameters if parameter.hidden]
    named = [f"{p.name} = {task.parameters[p.name]:.3g} {p.unit}".strip() for p in hidden[:MAX_NAMED]]
    more = [f"{len(hidden) - MAX_NAMED} more"] if len(hidden) > MAX_NAMED else []
    return " · ".join(named + more)


def _facts(env: TaskEnv, task_index: int, seed: int) -> str:
    sizes = "×".join(map(str, env.observation_space.shape or ()))
    (actions,) = env.action_space.shape or (0,)
    rate = f"{env.family.control_hz:.3g} Hz"
    return (
        f"held-out task {task_index} · seed {seed} · observations {sizes} · {actions} actions"
        f" · {env.episode_steps} steps at {rate}"
    )


# Laying out: blocks are pictures (H, W, 3) uint8 --------------------------------------------------


def _optional(module: str) -> Any:
    """A module that the environments do without.

    Raises:
        ImportError: it is not installed; says what to install.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        hint = "pip install pillow imageio-ffmpeg (the extra 'bench' brings both)"
        raise ImportError(f"the gallery needs {module}: {hint}") from error


def _blank(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), PAPER, dtype=np.uint8)


def _text(words: str, size: int, colour: Colour = INK, width: int | None = None) -> np.ndarray:
    """A line of text, cut to ``width`` if that is given."""
    image, draw, font = (_optional(f"PIL.{name}") for name in ("Image", "ImageDraw", "ImageFont"))
    words, letters = words.translate(PLAIN), font.load_default(size=size)
    while width and words and letters.getlength(words) > width:
        words = words.rstrip("…")[:-1] + "…" if len(words) > 1 else ""
    canvas = image.new("RGB", (width or round(letters.getlength(words)) + 1, round(1.4 * size)), PAPER)
    draw.Draw(canvas).text((0, 0), words, font=letters, fill=colour)
    return np.asarray(canvas)


def _resized(picture: np.ndarray, height: int) -> np.ndarray:
    """The picture at this height: pixels stay squares where it grows, and are averaged where it shrinks."""
    image = _optional("PIL.Image")
    width = round(picture.shape[1] * height / picture.shape[0])
    how = image.Resampling.NEAREST if height > picture.shape[0] else image.Resampling.LANCZOS
    return np.asarray(image.fromarray(picture).resize((width, height), how))


def _outlined(picture: np.ndarray) -> np.ndarray:
    """The picture with an edge one pixel wide, drawn on it so that it keeps its size."""
    picture = picture.copy()
    picture[[0, -1]] = EDGE
    picture[:, [0, -1]] = EDGE
    return picture


def _column(blocks: Sequence[np.ndarray], gap: int = 0) -> np.ndarray:
    """Blocks below each other."""
    width = max(block.shape[1] for block in blocks)
    padded = [np.hstack([block, _blank(len(block), width - block.shape[1])]) for block in blocks]
    return np.vstack([part for block in padded for part in (_blank(gap, width), block)][1:])


def _row(blocks: Sequence[np.ndarray], gap: int = GAP) -> np.ndarray:
    """Blocks beside each other."""
    height = max(len(block) for block in blocks)
    padded = [np.vstack([block, _blank(height - len(block), block.shape[1])]) for block in blocks]
    return np.hstack([part for block in padded for part in (_blank(height, gap), block)][1:])


def _spread(blocks: Sequence[np.ndarray], width: int = PAGE) -> np.ndarray:
    """Blocks beside each other, from one edge of the page to the other."""
    free = width - sum(block.shape[1] for block in blocks)
    return _row(blocks, free // max(len(blocks) - 1, 1))


def _page(blocks: Sequence[np.ndarray], margin: int = MARGIN) -> np.ndarray:
    """Blocks below each other, with margins around; even sides, as films want them."""
    page = _column(blocks)
    height, width = page.shape[:2]
    sheet = _blank(height + height % 2 + 2 * margin, width + width % 2 + 2 * margin)
    sheet[margin : margin + height, margin : margin + width] = page
    return sheet


def _space(height: int) -> np.ndarray:
    return _blank(height, 1)


def _tile(picture: np.ndarray, height: int, caption: str, colour: Colour = QUIET) -> np.ndarray:
    """A picture with a line below it."""
    picture = _outlined(_resized(picture, height))
    return _column([picture, _text(caption, CAPTION, colour, picture.shape[1])], gap=4)


# Sheets and films -----------------------------------------------------------------------------


def evenly_spaced(steps: int, frames: int) -> list[int]:
    """Step numbers from 0 to ``steps``, without repetition."""
    return sorted({round(step) for step in np.linspace(0, steps, frames)})


def sheet(film: Film, frames: int) -> np.ndarray:
    """A family's contact sheet ``(H, W, 3)`` uint8: title, the two views, two film strips."""
    blocks = [*_title(film), _views(film)]
    for episode in film.episodes:
        blocks += [_space(24), _heading(episode), _strip(film, episode, frames)]
    return _page(blocks)


def _title(film: Film) -> list[np.ndarray]:
    return [
        _text(film.env_id, TITLE),
        _text(film.about, BODY, INK, PAGE),
        _text(f"Hidden: {film.hidden}", BODY, INK, PAGE),
        _text(film.facts[:1].upper() + film.facts[1:], BODY, QUIET, PAGE),
        _space(GAP),
    ]


def _views(film: Film) -> np.ndarray:
    """What the agent and what people see, at the start and, if there is room, at the expert's end."""
    expert, tiles = film.episodes[0], []
    last = len(expert.seen) - 1
    for step in (0, last) if film.cameras == 1 else (0,):
        tiles.append(_tile(expert.seen[step], PANEL, f"what the agent sees, step {step}"))
        tiles.append(_tile(expert.people[step], PANEL, f"what people see, step {step}"))
    return _spread(tiles)


def _heading(episode: Episode) -> np.ndarray:
    name = _text(HEADINGS[episode.policy], HEADING)
    summary = _column([_space(round(HEADING - BODY)), _text(episode.summary, BODY, QUIET)])
    return _column([_row([name, summary], 2 * GAP), _space(8)])


def _strip(film: Film, episode: Episode, frames: int) -> np.ndarray:
    """Evenly spaced frames of an episode, in one or more rows."""
    steps = evenly_spaced(len(episode.people) - 1, frames)
    per_row = min(len(steps), max(1, FRAMES_PER_ROW // film.cameras))
    width = (PAGE - (per_row - 1) * GAP) // per_row
    height = min(PANEL, round(width * PEOPLE_HEIGHT / episode.people.shape[2]))
    tiles = [_step_tile(episode, step, height) for step in steps]
    return _column([_row(tiles[k : k + per_row]) for k in range(0, len(tiles), per_row)], gap=8)


def _step_tile(episode: Episode, step: int, height: int, prefix: str = "") -> np.ndarray:
    success = bool(episode.successes[step])
    caption = f"{prefix}step {step}" + (" · success" if success else "")
    return _tile(episode.people[step], height, caption, GOOD if success else QUIET)


def section(film: Film) -> np.ndarray:
    """A family's part of the sheet of all families: the two views, each beside a film strip."""
    expert, random = film.episodes
    name = _text(film.env_id, HEADING)
    hidden = _text(f"hidden: {film.hidden}", BODY, QUIET, PAGE - name.shape[1] - 2 * GAP)
    heading = _row([name, _column([_space(HEADING - BODY), hidden])], 2 * GAP)
    first = _tile(expert.seen[0], THUMB, "what the agent sees")
    second = _tile(expert.people[0], THUMB, "what people see")
    rows = [_spread([first, *_later(expert)]), _spread([second, *_later(random)])]
    return _column([heading, _space(8), *rows], gap=4)


def _later(episode: Episode) -> list[np.ndarray]:
    """As many frames of an episode after its first as fit beside a view on a page."""
    width = episode.people.shape[2] * THUMB // PEOPLE_HEIGHT
    fits = (PAGE + GAP) // (width + GAP) - 1
    steps = evenly_spaced(len(episode.people) - 1, fits + 1)[1:]
    first = _step_tile(episode, steps[0], THUMB, f"{episode.policy}, ")
    return [first, *(_step_tile(episode, step, THUMB) for step in steps[1:])]


def sheet_of_all(sections: Sequence[np.ndarray]) -> np.ndarray:
    """The contact sheet of all families."""
    words = (
        "Above: what the agent sees, and the scripted expert. Below: what people see, and a random policy."
    )
    blocks = [_text("Families of tasks", TITLE), _text(words, BODY, QUIET, PAGE)]
    for part in sections:
        blocks += [_space(28), part]
    return _page(blocks)


def film_frames(film: Film) -> Iterator[np.ndarray]:
    """The film's frames, all of one size: each episode, its last frame held for a second."""
    for episode in film.episodes:
        for step in range(len(episode.people)):
            frame = _film_frame(film, episode, step)
            for _ in range(film.fps if step == len(episode.people) - 1 else 1):
                yield frame


def _film_frame(film: Film, episode: Episode, step: int) -> np.ndarray:
    views = [
        _column([_text(caption, CAPTION, QUIET), _outlined(_resized(frames[step], SCREEN))], 2)
        for caption, frames in (("what people see", episode.people), ("what the agent sees", episode.seen))
    ]
    both = _row(views) if film.cameras == 1 else _column(views, 8)
    success = bool(episode.successes[step])
    state = f"{HEADINGS[episode.policy]} · step {step} of {len(episode.people) - 1}"
    state += f" · score {_number(episode.scores[step])}" + (" · success" if success else "")
    blocks = [
        _text(film.env_id, HEADING, INK, both.shape[1]),
        _text(f"hidden: {film.hidden}", CAPTION, QUIET, both.shape[1]),
        _text(state, BODY, GOOD if success else INK, both.shape[1]),
        _space(8),
        both,
    ]
    return _page(blocks, margin=24)


def write_picture(path: Path, picture: np.ndarray) -> None:
    """Writes a PNG."""
    _optional("PIL.Image").fromarray(picture).save(path)


def write_film(path: Path, frames: Iterator[np.ndarray], fps: int) -> None:
    """Writes an MP4 (H.264, as browsers play it)."""
    first = next(frames)
    size = (first.shape[1], first.shape[0])
    writer = _optional("imageio_ffmpeg").write_frames(
        str(path), size, fps=fps, macro_block_size=2, quality=8, ffmpeg_log_level="error"
    )
    writer.send(None)
    writer.send(first)
    for frame in frames:
        writer.send(np.ascontiguousarray(frame))
    writer.close()


# The command ----------------------------------------------------------------------------------


def say(words: str, final: bool = False) -> None:
    """Tells the terminal what is being done: one line that changes; elsewhere only what is final."""
    if sys.stdout.isatty():
        print(f"\r\033[K{words}", end="\n" if final else "", flush=True)
    elif final:
        print(words, flush=True)


def write_family(env_id: str, options: argparse.Namespace, prefix: str) -> np.ndarray:
    """Films a family and writes its sheet and its film; returns its part of the sheet of all."""
    started = time.perf_counter()
    shot = shoot(env_id, options.seed, options.task, lambda words: say(f"{prefix}: {words}"))
    say(f"{prefix}: writing")
    stem = env_id.removeprefix("meld/").replace("/", "-").replace(":", "-")
    write_picture(options.out / f"{stem}.png", sheet(shot, options.frames))
    write_film(options.out / f"{stem}.mp4", film_frames(shot), shot.fps)
    seconds = time.perf_counter() - started
    say(f"{prefix}: {options.out / stem}.png and .mp4 ({seconds:.0f} s)", final=True)
    return section(shot)


def write_gallery(options: argparse.Namespace) -> int:
    """Writes everything asked for; returns how many families failed."""
    options.out.mkdir(parents=True, exist_ok=True)
    sections = []
    for number, env_id in enumerate(options.envs, 1):
        prefix = f"[{number}/{len(options.envs)}] {env_id}"
        try:
            sections.append(write_family(env_id, options, prefix))
        except Exception as error:  # noqa: BLE001 - one family's failure must not cost the others
            say("", final=sys.stdout.isatty())
            print(f"{prefix} failed: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
    if sections:
        write_picture(options.out / "gallery.png", sheet_of_all(sections))
        say(f"all together: {options.out / 'gallery.png'}", final=True)
    return len(options.envs) - len(sections)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; ends with status 2 where it cannot be followed."""
    parser = argparse.ArgumentParser(
        prog="python -m meld_envs.gallery",
        description="Writes pictures and films of the environments: the agent's view, people's view, and a"
        " held-out task as the scripted expert and a random policy live it.",
    )
    parser.add_argument("--out", type=Path, default=Path("gallery"), help="folder (default: %(default)s)")
    parser.add_argument(
        "--envs", nargs="+", metavar="ID", default=list(meld_envs.FAMILIES), help="families (default: all)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of start states and random actions (default: 0)")
    parser.add_argument("--task", type=int, default=0, help="which held-out task (default: 0)")
    parser.add_argument("--frames", type=int, default=8, help="of a film strip (default: %(default)s)")
    options = parser.parse_args(arguments)
    if options.frames < 2:
        parser.error(f"--frames must be at least 2, got {options.frames}")
    if min(options.seed, options.task) < 0:
        parser.error("--seed and --task must not be negative")
    try:
        for env_id in options.envs:
            gym.spec(env_id)
        for module in ("PIL", "imageio_ffmpeg"):
            _optional(module)
    except (gym.error.Error, ImportError) as error:
        parser.error(str(error))
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """The command: 0 if all went well, 1 if a family failed, 2 if the command line cannot be followed."""
    return 1 if write_gallery(parse(arguments)) else 0


if __name__ == "__main__":
    sys.exit(main())
