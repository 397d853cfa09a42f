"""Steps per second of Meta-World's peg insertion with a picture per step.

    python benchmarks/peers/metaworld_pixels.py
    python benchmarks/peers/metaworld_pixels.py --rounds 30 --json

Meta-World asks for an older mujoco than ours, so it gets a virtual environment of its own, which the first
call makes and later ones use. What is measured is the environment as its users get it: ``gym.make``, one
simulation, a frame drawn by ``render()`` after each step, Mesa's own choice of threads. The measuring
process answers one round at a time, so that others can be measured in between (throughput.py --metaworld).
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # run as a script: its folder comes first on the path, where the clone's root should be
    sys.path[0] = str(Path(__file__).resolve().parent.parent.parent)

import argparse
import fcntl
import importlib.metadata
import json
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from benchmarks.errors import BAD_REQUEST, OK, RequestError
from benchmarks.peers import drawing_step, markdown, speed_row, steps_per_second

TASK = "peg-insert-side-v3"
CAMERA = "corner"
NAME = f"peer: Meta-World {TASK}, rgb_array"

#: What is installed. Gymnasium imports packaging and asks for it only in an extra; these releases of numpy
#: and scipy have wheels for every Python that Meta-World accepts.
PINS = (
    "metaworld==3.1.1",
    "mujoco==3.3.0",
    "gymnasium==1.4.0",
    "numpy==2.2.6",
    "scipy==1.15.3",
    "packaging==26.3",
)
TOO_NEW = (3, 14)  # the first Python that metaworld 3.1.1 refuses
REPORTED = ("metaworld", "mujoco", "gymnasium")

DEFAULT_VENV = Path(__file__).resolve().parent.parent.parent / ".venv-metaworld"
MARKER = "meld-peer-metaworld"  # in the folder: that we made it, and once it is finished, with what

WARM_UP_STEPS = 3  # the first frame creates the context
LOG_LINES = 15  # of the measuring process, shown when it fails
EXIT_SECONDS = 10.0  # that it may take to close its environment

# ---------------------------------------------------------------- the virtual environment


def installed(venv: Path) -> Path:
    """Makes the virtual environment, unless it is there and finished; what was interrupted begins anew.

    Returns:
        Its interpreter.

    Raises:
        RequestError: the folder belongs to something else, or the installation failed.
    """
    python = venv / "bin" / "python"
    with _one_at_a_time():
        if not (python.exists() and _marker(venv) == _key()):
            _begin(venv)
            _make(venv, python)
            (venv / MARKER).write_text(_key())
    return python


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Lets a second call wait for the first, so that they do not install into each other."""
    with open(__file__) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _key() -> str:
    """Changes with all that the installation depends on."""
    return "\n".join([*PINS, sys.version, sys.base_prefix])


def _marker(venv: Path) -> str | None:
    try:
        return (venv / MARKER).read_text()
    except OSError:
        return None


def _begin(venv: Path) -> None:
    """Empties the folder but for our marker, which is written first and stays: it allows the deleting."""
    if sys.version_info >= TOO_NEW:
        raise RequestError(
            f"{PINS[0]} cannot run on Python {sys.version_info[0]}.{sys.version_info[1]}; use one before "
            f"{TOO_NEW[0]}.{TOO_NEW[1]}, for instance after 'make clean; make setup PYTHON=python3.13'"
        )
    try:
        venv.mkdir(parents=True, exist_ok=True)
        if _marker(venv) is None and any(venv.iterdir()):
            raise RequestError(f"{venv} holds something that this program did not make; name another folder")
        (venv / MARKER).write_text("unfinished\n")
        for path in venv.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path.name != MARKER:
                path.unlink()
    except OSError as error:
        raise RequestError(
            f"{venv} cannot hold a virtual environment: {error.strerror}; name another folder"
        ) from error


def _make(venv: Path, python: Path) -> None:
    _say(f"creating {venv}")
    _run(
        [sys.executable, "-m", "venv", str(venv)],
        f"{sys.executable} cannot make virtual environments (see above); on Debian or Ubuntu, install "
        "python3-venv. Then give the same command again.",
    )
    _say(f"installing {', '.join(PINS)} (a minute, only this once)")
    pip = [str(python), "-m", "pip", "install", "--disable-pip-version-check", "--no-input"]
    quiet = [] if sys.stderr.isatty() else ["--quiet"]
    _run(
        [*pip, *quiet, *shlex.split(os.environ.get("PIP_ARGS", "")), *PINS],
        f"pip could not install {PINS[0]} into {venv} (see above). It needs a network or a mirror of PyPI, "
        "which PIP_ARGS can name (PIP_ARGS='--index-url ...'), and some 400 MB of disk. Then give the same "
        "command again: it starts the installation afresh.",
    )
    _say("installed")


def _run(command: list[str], advice: str) -> None:
    """Runs a command whose output all goes to our standard error, as standard output is for results."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=sys.stderr.fileno(), env=_environment())
    if done.returncode:
        raise RequestError(advice)


def _environment() -> dict[str, str]:
    """Ours, without what would show the project's packages to another interpreter."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}


def _say(what: str) -> None:
    print(f"==> Meta-World: {what}", file=sys.stderr, flush=True)


# ---------------------------------------------------------------- the measuring process, from outside


class Metaworld:
    """The measuring process: it waits, and steps when it is told to.

    Attributes:
        name: for the table.
        rates: environment steps per second, one number per round.
        versions: what it runs, by package.
    """

    name = NAME

    def __init__(self, process: subprocess.Popen[str], log: TextIO) -> None:
        self._process, self._log = process, log
        self.rates: list[float] = []
        self.versions: Mapping[str, str] = self._answer()

    def measure(self, seconds: float) -> None:
        """Lets it step for so long and notes the rate.

        Raises:
            RequestError: it has ended.
        """
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # then there is no answer either
            print(seconds, file=self._process.stdin, flush=True)
        self.rates.append(self._answer()["steps_per_second"])

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.endswith("\n"):
            raise RequestError(self._obituary())
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _obituary(self) -> str:
        code = self._process.wait()
        self._log.seek(0)
        last_words = "".join(self._log.readlines()[-LOG_LINES:])
        return (
            f"Meta-World's measuring process ended with code {code}:\n{last_words}"
            "If it could not draw, see 'Drawing without a screen' in docs/installation.md; if packages are "
            "missing, delete its virtual environment and give the same command again."
        )


@contextmanager
def metaworld(venv: Path, size: int) -> Iterator[Metaworld]:
    """Meta-World, warmed up and waiting, in a process of its own.

    Args:
        venv: where its virtual environment is or shall be.
        size: height and width of its frames in pixels.

    Raises:
        RequestError: it cannot be installed or started.
    """
    command = [str(installed(venv.absolute())), str(Path(__file__).resolve())]
    command += ["--serve", "--image-size", str(size)]
    environment = {"MUJOCO_GL": "egl", **_environment(), "PYTHONWARNINGS": "ignore"}
    # MuJoCo leaves its log where it runs.
    with tempfile.TemporaryDirectory() as folder, open(Path(folder) / "stderr.txt", "w+") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            cwd=folder,
            env=environment,
        )
        with _ended(process):
            yield Metaworld(process, log)


@contextmanager
def _ended(process: subprocess.Popen[str]) -> Iterator[None]:
    """Ends a process that reads its standard input until that is closed."""
    with process:
        try:
            yield
        finally:
            assert process.stdin is not None
            with suppress(BrokenPipeError):
                process.stdin.close()
            try:
                process.wait(EXIT_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()


# ---------------------------------------------------------------- the measuring process, from inside


def serve(size: int) -> None:
    """Says what it runs, then answers each line, a number of seconds, with the rate of one round."""
    sys.unraisablehook = _ignore  # what fails while a failed start is cleared away would hide its cause
    replies = _reply_channel()
    step, close = stepping(size)
    for _ in range(WARM_UP_STEPS):
        step()
    _reply(replies, {name: importlib.metadata.version(name) for name in REPORTED})
    for line in sys.stdin:
        _reply(replies, {"steps_per_second": steps_per_second(step, 1, float(line))})
    close()


def _ignore(unraisable: Any) -> None:
    """Says nothing."""


def _reply_channel() -> TextIO:
    """Keeps standard output for replies: what libraries print there, C's included, goes to the log."""
    channel = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return channel


def _reply(channel: TextIO, value: Mapping[str, Any]) -> None:
    print(json.dumps(value), file=channel, flush=True)


def stepping(size: int) -> tuple[Callable[[], None], Callable[[], None]]:
    """Meta-World's environment: a function that takes one step and draws it, and one that ends it."""
    import gymnasium as gym  # of the virtual environment; outside, this file needs none

    env = gym.make(
        "metaworld:Meta-World/MT1",
        env_name=TASK,
        seed=0,
        render_mode="rgb_array",
        camera_name=CAMERA,
        width=size,
        height=size,
    )
    env.reset(seed=0)
    env.action_space.seed(0)
    return drawing_step(env), env.close


# ---------------------------------------------------------------- the command line


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    """The command line, or these words in its place."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--image-size", type=int, default=64, help="pixels (default 64)")
    parser.add_argument("--rounds", type=int, default=15, help="rounds (default 15)")
    parser.add_argument("--seconds", type=float, default=0.4, help="of a round (default 0.4)")
    parser.add_argument(
        "--venv",
        type=Path,
        default=DEFAULT_VENV,
        metavar="DIR",
        help=f"its virtual environment, made at first use (default {DEFAULT_VENV.name} in the clone)",
    )
    parser.add_argument("--json", action="store_true", help="print the row as one line of JSON")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)  # in the virtual environment
    return parser.parse_args(words)


def main() -> int:
    """Measures and prints one row."""
    options = arguments()
    if options.serve:
        serve(options.image_size)
        return OK
    try:
        with metaworld(options.venv, options.image_size) as peer:
            for _ in range(options.rounds):
                peer.measure(options.seconds)
    except RequestError as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_REQUEST
    row = speed_row(peer.name, peer.rates, times_peer=peer.rates)
    print(json.dumps(row) if options.json else markdown([row]))
    return OK


if __name__ == "__main__":
    sys.exit(main())
