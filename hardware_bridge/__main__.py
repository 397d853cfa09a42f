"""``python -m hardware_bridge``: doctor, twin, calibrate, record, replay, campaign; see ``--help``."""

from __future__ import annotations

import os

# Before numpy comes: its algebra library's threads keep ordinary priority, and servos and driver, which go
# before other programs, would wait for them on a busy computer, until servos seem to be missing.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import contextlib
import dataclasses
import gc
import json
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hardware_bridge import recording, soak
from hardware_bridge.calibration import command as calibration
from hardware_bridge.config import EXAMPLE, TWIN, ConfigError, load
from hardware_bridge.doctor import Finding, examine
from hardware_bridge.process import PRIORITY, real_time
from hardware_bridge.recorder import RecorderError, export_npz, replay
from hardware_bridge.twin.robot import DEFECTS, EmulatedRobot


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; its exit code."""
    options = _parser().parse_args(arguments)
    return int(options.run(options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m hardware_bridge", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    doctor = commands.add_parser("doctor", help="checks every device; exit code 0 if all are healthy")
    doctor.add_argument("--config", default=EXAMPLE, metavar="FILE", help="the robot (default: the example)")
    doctor.add_argument("--json", action="store_true", help="findings as JSON, for programs")
    doctor.set_defaults(run=_doctor)
    twin = commands.add_parser("twin", help="starts the emulated robot, until Ctrl-C")
    twin.add_argument("--config", default=TWIN, metavar="FILE", help="the robot to emulate")
    twin.add_argument("--folder", help="where its devices appear (default: a new one, removed at the end)")
    twin.add_argument(
        "--defect", action="append", default=[], choices=DEFECTS, metavar="NAME",
        help="what is to be wrong with it; may be repeated: " + ", ".join(DEFECTS),
    )  # fmt: skip
    twin.set_defaults(run=_twin)
    calibration.add_parser(commands)
    recording.add_parsers(commands)
    shown = commands.add_parser("replay", help="shows the steps of a recording, each when it was recorded")
    shown.add_argument("file")
    shown.add_argument("--speed", type=float, default=1.0, help="2 is twice as fast, inf as fast as can be")
    shown.add_argument("--export", metavar="FOLDER", help="write its episodes there as .npz files instead")
    shown.set_defaults(run=_replay)
    faults = commands.add_parser(
        "campaign", help="does every fault to the twin; exit code 0 if all are handled"
    )
    faults.add_argument("--only", type=int, nargs="+", default=[], metavar="NUMBER", help="some faults")
    faults.add_argument("--out", type=Path, metavar="FOLDER", help="write the table there")
    faults.set_defaults(run=_campaign)
    soak.add_command(commands)
    return parser


def _doctor(options: argparse.Namespace) -> int:
    try:
        robot = load(options.config)
    except ConfigError as error:
        remedy = "Correct the file, then call doctor again."
        findings = [Finding("configuration", "fault", "configuration", str(error), remedy)]
    else:
        findings = [Finding("configuration", "ok", "", f"{options.config}, {robot.profile}")]
        findings += examine(robot, folder=Path(options.config).parent)
    faults = sum(finding.level == "fault" for finding in findings)
    if options.json:
        report = {"healthy": not faults, "findings": [dataclasses.asdict(item) for item in findings]}
        print(json.dumps(report, indent=2, ensure_ascii=False))
    else:
        print(*findings, sep="\n")
        print(f"{faults} faults" if faults else "every device is healthy")
    return 1 if faults else 0


def _twin(options: argparse.Namespace) -> int:
    # Blocked in all threads and waited for in one: a handler runs only once this thread wakes, and the signal
    # does not wake it where the system gives it to another thread.
    ends = {signal.SIGINT, signal.SIGTERM}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ends)
    with contextlib.ExitStack() as stack:
        stack.callback(signal.pthread_sigmask, signal.SIG_SETMASK, before)
        if options.folder:
            Path(options.folder).mkdir(parents=True, exist_ok=True)
        folder = options.folder or stack.enter_context(tempfile.TemporaryDirectory(prefix="widowx-twin-"))
        try:
            # Real servos and cameras do not wait for other programs; all threads inherit this.
            real_time(load(options.config).scheduling, priority=PRIORITY - 1)
            robot = stack.enter_context(EmulatedRobot(folder, options.config, options.defect))
        except (ConfigError, ValueError, OSError) as error:
            print(error, file=sys.stderr)
            return 1
        # Looking through all that was imported takes 40 ms, on a busy computer 80, in which no servo answers.
        gc.collect()
        gc.freeze()
        for name in options.defect:
            print(f"defect         {name}: {DEFECTS[name].what}")
        print(f"serial port    {robot.port}")
        print(f"configuration  {robot.config}", flush=True)
        signal.sigwait(ends)
    return 0


def _replay(options: argparse.Namespace) -> int:
    try:
        if options.export:
            print(*export_npz(options.file, options.export), sep="\n")
            return 0
        first: float | None = None
        for step in replay(options.file, speed=options.speed):
            first = step.at if first is None else first
            values = "  ".join(f"{name}={_short(value)}" for name, value in step.values.items())
            print(f"{step.sequence:6d}  {step.at - first:9.3f} s  {values}", flush=True)
    except (RecorderError, ValueError, FileExistsError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _campaign(options: argparse.Namespace) -> int:
    from hardware_bridge.campaign.run import campaign  # it needs the simulation, which doctor does not

    try:
        return campaign(options.only, options.out, lambda line: print(line, flush=True))
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2


def _short(value: object) -> str:
    """A value for a line: large arrays by their shape."""
    if not isinstance(value, np.ndarray) or value.size <= 8:
        return str(value)
    return f"{value.dtype}{list(value.shape)}"


if __name__ == "__main__":
    sys.exit(main())
