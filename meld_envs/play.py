"""Drive an agent yourself: ``python -m meld_envs.play meld/PegInsert-v0``.

Opens MuJoCo's viewer, with the goal made visible, and turns held keys into actions at the family's control
rate, in real time. The clock of an episode starts with the first move.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
import warnings
from collections.abc import Callable, Sequence, Set
from typing import Any, NamedTuple

import gymnasium as gym
import mujoco
import numpy as np

import meld_envs
from meld_envs.camera import Marker
from meld_envs.env import TaskEnv
from meld_envs.gallery import make_env
from meld_envs.window import Window, has_display
from meld_envs.world import World

# Key codes are GLFW's: capital letters and digits by their characters, by place on a US keyboard.
RIGHT, LEFT, DOWN, UP, ENTER = 262, 263, 264, 265, 257
SHIFTS = {340, 344}
ESCAPE = 256
RESET, NEXT = ord("R"), ord("N")

#: The keys that make an action larger and smaller: arrows for two actions, else columns of letters.
ARROWS = ((RIGHT, LEFT), (UP, DOWN))
COLUMNS = tuple((ord(upper), ord(lower)) for upper, lower in zip("QWETYUIO", "ASDGHJKL", strict=True))
FINE = 0.25  # what Shift makes of an action
PAUSE_SECONDS = 1.0  # for which an episode's end stays in view
POLL_SECONDS = 0.02  # how often a waiting loop looks up

_NAMES = {RIGHT: "→", LEFT: "←", DOWN: "↓", UP: "↑"}


class Look(NamedTuple):
    """The keyboard, as found.

    Attributes:
        held: keys that are down, or were since the last look.
        tapped: keys that went down since the last look.
    """

    held: Set[int]
    tapped: Set[int]

    @property
    def command(self) -> int | None:
        """R or N, if tapped."""
        return next((code for code in (RESET, NEXT) if code in self.tapped), None)


class Keyboard:
    """What is held and what was tapped; written by the viewer's thread, read by the loop's."""

    def __init__(self, num_actions: int) -> None:
        """Lays the keys out.

        Args:
            num_actions: A. More than eight are reached in banks of eight: digit d chooses the d-th bank.
        """
        self.num_actions = num_actions
        self.pairs = ARROWS if num_actions <= len(ARROWS) else COLUMNS
        self.bank = 0
        self._held: set[int] = set()
        self._tapped: set[int] = set()
        self._lock = threading.Lock()

    @property
    def num_banks(self) -> int:
        """How many banks of keys the actions need."""
        return -(-self.num_actions // len(self.pairs))

    def press(self, code: int) -> None:
        """A key goes down."""
        with self._lock:
            self._held.add(code)
            self._tapped.add(code)

    def release(self, code: int) -> None:
        """A key goes up; a tap between two looks still counts once."""
        with self._lock:
            self._held.discard(code)

    def look(self) -> Look:
        """What happened since the last look."""
        with self._lock:
            tapped, self._tapped = self._tapped, set()
            held = self._held | tapped
        for bank in range(self.num_banks):
            if ord("1") + bank in tapped:
                self.bank = bank
        return Look(held, tapped)

    def action(self, keys: Set[int]) -> np.ndarray:
        """What these keys ask for, ``(A,)`` float32 in [−1, 1]."""
        action = np.zeros(self.num_actions, dtype=np.float32)
        first = self.bank * len(self.pairs)
        for index, (plus, minus) in enumerate(self.pairs[: self.num_actions - first], first):
            action[index] = (plus in keys) - (minus in keys)
        return action * FINE if keys & SHIFTS else action

    def table(self, rate: float) -> str:
        """The keys, for people."""
        lines = [f"  {'action':<8} {'+':<3} −"]
        for index in range(self.num_actions):
            bank, column = divmod(index, len(self.pairs))
            choose = f"   after {bank + 1}" if self.num_banks > 1 else ""
            plus, minus = (_NAMES.get(code, chr(code)) for code in self.pairs[column])
            lines.append(f"  {index + 1:<8} {plus:<3} {minus}{choose}")
        return "\n".join(
            [
                f"Keys, in the viewer's window (hold them; {rate:g} actions a second):",
                *lines,
                f"  Shift with them: {FINE:g} of the action",
                "  R: reset   N: next task   Esc: a camera to move with the mouse   close the window: end",
            ]
        )


class KeyWindow(Window):
    """The environment's window, which also listens to the keyboard.

    MuJoCo's viewer tells of keys that go down only, and has a use of its own for most letters. So the first
    key, whose call comes from the viewer's thread, makes GLFW report all later ones to us instead.
    """

    def __init__(self, camera: str, keyboard: Keyboard) -> None:
        super().__init__(camera, self._first_key)
        self._keyboard = keyboard
        self._drawn_as: tuple[np.ndarray, np.ndarray] | None = None

    def is_open(self) -> bool:
        """Whether the user sees it still."""
        return self._viewer is not None and self._viewer.is_running()

    def show(self, world: World, sim: int, markers: Sequence[Marker]) -> None:
        """Shows a simulation, drawn as at first: the first key may have meant something to the viewer too."""
        if self.is_open() and self._drawn_as is not None:
            with self._viewer.lock():
                self._viewer.user_scn.flags[:], self._viewer.opt.flags[:] = self._drawn_as
        super().show(world, sim, markers)
        if self.is_open() and self._drawn_as is None:
            with self._viewer.lock():
                self._drawn_as = self._viewer.user_scn.flags.copy(), self._viewer.opt.flags.copy()

    def _first_key(self, code: int) -> None:
        self._keyboard.press(code)
        if not self._listen():
            self._keyboard.release(code)  # we shall not hear of it

    def _listen(self) -> bool:
        import glfw

        window = glfw.get_current_context()
        if window:
            glfw.set_key_callback(window, self._any_key)
        return bool(window)

    def _any_key(self, window: Any, code: int, scancode: int, event: int, modifiers: int) -> None:
        import glfw

        if event == glfw.PRESS:
            self._keyboard.press(code)
        elif event == glfw.RELEASE:
            self._keyboard.release(code)
        if code == ESCAPE and self._viewer is not None:
            self._viewer.cam.type = mujoco.mjtCamera.mjCAMERA_FREE


# Playing --------------------------------------------------------------------------------------


class Game:
    """Episodes of a person: the loop, and what it tells."""

    def __init__(self, env: TaskEnv, keyboard: Keyboard, is_open: Callable[[], bool]) -> None:
        """Prepares.

        Args:
            env: whose ``render_mode`` is ``"human"``.
            keyboard: what is pressed.
            is_open: whether to go on.
        """
        self._env, self._keyboard, self._is_open = env, keyboard, is_open
        self._tasks = env.task_set.split(env.config.split)

    def play(self, episodes: int | None = None, task: int | None = None, seed: int | None = None) -> int:
        """Plays episodes until there were enough or the window is closed.

        Args:
            episodes: how many; until the window is closed if not given.
            task: index of the first task in the split's list; drawn by the environment if not given.
            seed: of the first reset.

        Returns:
            How many were lived to their end.
        """
        ended = 0
        index = self._reset(task, seed)
        while True:
            command = self._live()
            if not self._is_open():
                return ended
            if command is None:
                ended += 1
                time.sleep(PAUSE_SECONDS)
            if ended == episodes:
                return ended
            index = self._reset((index + (command == NEXT)) % len(self._tasks))

    def _reset(self, task: int | None, seed: int | None = None) -> int:
        options = {"task": None if task is None else self._tasks[task]}
        _, info = self._env.reset(seed=seed, options=options)
        index = int(info["task_id"])
        print(f"\ntask {index} of {self._env.config.split}: {self._env.task}")
        print("The clock starts with your first move.", flush=True)
        return index

    def _live(self) -> int | None:
        """One episode in real time; returns R or N if that ended it."""
        period = 1.0 / self._env.family.control_hz
        rewards: list[float] = []
        successes: list[bool] = []
        due = 0.0
        while len(rewards) < self._env.episode_steps:
            look = self._keyboard.look()
            if look.command or not self._is_open():
                return look.command
            if not rewards and not self._keyboard.action(look.tapped).any():
                time.sleep(POLL_SECONDS)  # a key still held from the last episode does not start this one
                continue
            _, reward, _, _, info = self._env.step(self._keyboard.action(look.held))
            rewards.append(reward)
            successes.append(info["success"])
            self._tell_step(len(rewards), reward, info)
            due = max(due + period, time.monotonic())
            time.sleep(max(0.0, due - time.monotonic()))
        _tell_end(rewards, successes, info["score"])
        return None

    def _tell_step(self, step: int, reward: float, info: dict[str, Any]) -> None:
        success = "SUCCESS" if info["success"] else "-"
        words = (
            f"step {step:3d} of {self._env.episode_steps}   reward {reward:8.3f}"
            f"   score {info['score']:8.3f}   {success}"
        )
        start, end = ("\r\033[K", "") if sys.stdout.isatty() else ("", "\n")
        print(f"{start}{words}", end=end, flush=True)


def _tell_end(rewards: list[float], successes: list[bool], score: float) -> None:
    outcome = "no success"
    if any(successes):
        at_end = "and at the end" if successes[-1] else "but not at the end"
        outcome = f"success at step {successes.index(True) + 1}, {at_end}"
    print(f"\nepisode over: return {sum(rewards):.2f}, final score {score:.3f}, {outcome}", flush=True)


# The command ----------------------------------------------------------------------------------


def why_no_window() -> str | None:
    """Why no window can be opened here, or ``None`` if one can."""
    if not has_display():
        return "there is no display here (DISPLAY and WAYLAND_DISPLAY are unset)"
    if not sys.platform.startswith("linux"):
        return None
    import glfw

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", glfw.GLFWError)
        return None if glfw.init() else "the display that DISPLAY or WAYLAND_DISPLAY names cannot be opened"


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; ends with status 2 where it cannot be followed."""
    parser = argparse.ArgumentParser(
        prog="python -m meld_envs.play",
        description="Drive an agent with the keyboard in MuJoCo's viewer, in real time; the goal is shown.",
        epilog=f"Ours: {', '.join(meld_envs.FAMILIES)}. Without a display: python -m meld_envs.gallery.",
    )
    parser.add_argument("env", metavar="ID", help="e.g. meld/PointNav-v0")
    parser.add_argument("--split", choices=("train", "test"), default="train", help="(default: train)")
    parser.add_argument("--task", type=int, help="which of the split's tasks (default: drawn)")
    parser.add_argument("--seed", type=int, help="of the drawn task and the start states")
    parser.add_argument("--episodes", type=int, help="end after so many (default: with the window)")
    options = parser.parse_args(arguments)
    if options.episodes is not None and options.episodes < 1:
        parser.error(f"--episodes must be at least 1, got {options.episodes}")
    try:
        options.made = open_env(options.env, options.split, options.task)
        if options.seed is not None and options.seed < 0:
            raise ValueError(f"--seed must not be negative, got {options.seed}")
    except (gym.error.Error, ValueError, ImportError) as error:
        parser.error(str(error))
    return options


def open_env(env_id: str, split: str, task: int | None) -> TaskEnv:
    """The environment, which draws no observations.

    Raises:
        gymnasium.error.Error: no such id; names the nearest one.
        ValueError: an environment that is not ours, or no such task.
    """
    env = make_env(env_id, split=split, obs_type="state", render_mode="human")
    tasks = env.task_set.split(split)
    if task is not None and not 0 <= task < len(tasks):
        raise ValueError(f"--task: {split} tasks are numbered 0 to {len(tasks) - 1}; there is no {task}")
    return env


def main(arguments: Sequence[str] | None = None) -> int:
    """The command: 0, or 2 where there is no display or the command line cannot be followed."""
    options = parse(arguments)
    env: TaskEnv = options.made
    reason = why_no_window()
    if reason is not None:
        print(
            f"{options.env}: to drive it needs a window, and {reason}.\n"
            f"Pictures and a film of it instead: python -m meld_envs.gallery --envs {options.env}",
            file=sys.stderr,
        )
        return 2
    keyboard = Keyboard(env.family.action_size)
    window = KeyWindow(env.family.cameras[0], keyboard)
    env.use_window(window)
    print(f"{options.env}: {(type(env.family).__doc__ or '').splitlines()[0]}")
    print(keyboard.table(env.family.control_hz))
    try:
        Game(env, keyboard, window.is_open).play(options.episodes, options.task, options.seed)
    except KeyboardInterrupt:
        print()
    finally:
        env.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
