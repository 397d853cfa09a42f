"""``python -m hardware_bridge calibrate``: measures, shows what would change in the file, and writes it."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Callable
from typing import Any

import yaml

from hardware_bridge.calibration import devices, eeprom, joints
from hardware_bridge.calibration.hand import CalibrationError, Measured, Patience
from hardware_bridge.cameras import CameraError
from hardware_bridge.config import ConfigError, Configuration, changed, parse, read, write_back
from hardware_bridge.errors import LinkError
from hardware_bridge.insertion import SensorError
from hardware_bridge.link import Link

PARTS = ("joints", "height", "rig", "cameras", "sensor")
_FAILURES = (CalibrationError, ConfigError, LinkError, CameraError, SensorError)


def add_parser(commands: Any) -> None:
    """Adds the command to the parser of all."""
    parser = commands.add_parser("calibrate", help="measures a robot by hand and writes it into its file")
    parser.add_argument("config", metavar="CONFIG", help="the robot's file; a copy of the old one is kept")
    parser.add_argument(
        "parts", nargs="*", metavar="PART",
        help=f"what to measure (default: {', '.join(PARTS)}); `fences` writes the servos' EEPROM",
    )  # fmt: skip
    parser.add_argument(
        "--yes", action="store_true", help="ask nothing: without a terminal; write at the end"
    )
    parser.add_argument("--dry-run", action="store_true", help="write nothing, show what would change")
    parser.add_argument("--poses", metavar="FILE", help="poses of the arm, instead of the documented ones")
    parser.add_argument("--base-height", type=float, metavar="M", help="as measured with a ruler (m)")
    parser.add_argument("--wait", type=float, default=60.0, metavar="S", help="for each pose (default: 60)")
    parser.set_defaults(run=calibrate)


def calibrate(options: argparse.Namespace, patience: Patience | None = None) -> int:
    """The command. Exit code 0: all parts were measured; 1: one was not; 2: it was not begun."""
    person = sys.stdin.isatty() and not options.yes
    parts = options.parts or list(PARTS)
    try:
        if unknown := set(parts) - {*PARTS, "fences"}:
            raise ConfigError(f"no part {sorted(unknown)[0]!r}; there are {', '.join(PARTS)}, fences")
        if not (person or options.yes or options.dry_run):
            raise ConfigError("there is no terminal to ask at: add --yes, or --dry-run to write nothing")
        poses = _poses(options.poses) if options.poses else _documented(person)
        old = read(options.config)
        robot = parse(old, options.config)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    patience = patience or Patience(wait=options.wait)
    measure: dict[str, Callable[[Configuration], Measured]] = {
        "joints": lambda robot: joints.joints(robot, poses, patience, _tell),
        "height": lambda robot: joints.height(robot, patience, _tell, options.base_height),
        "rig": lambda robot: devices.rig(robot, patience, _tell),
        "cameras": lambda robot: devices.cameras(robot, patience, _tell),
        "sensor": lambda robot: devices.sensor(robot, patience, _tell, person),
    }
    changes: dict[str, Any] = {}
    new, failed = old, False
    for part in (part for part in PARTS if part in parts):
        try:
            found = measure[part](robot)
            done = sorted({*robot.calibrated, part}, key=PARTS.index)
            more = {**changes, **found.changes, "calibrated": done}
            new = changed(old, more, options.config)
            robot, changes = parse(new, options.config), more
            print(*(f"[  ok   ] {part}: {line}" for line in found.lines), sep="\n", flush=True)
        except _FAILURES as error:
            print(f"[ FAULT ] {part}: {error}", flush=True)
            new, failed = changed(old, changes), True
    written = set(parts) != {"fences"} and _written(options, person, changes, old, new)
    if "fences" in parts and (written or options.dry_run or not changes):
        failed |= not _fenced(robot, options, person)
    return int(failed)


def _tell(line: str) -> None:
    print(f"          {line}", flush=True)


def _documented(person: bool) -> tuple[joints.Pose, ...]:
    """With nobody there, the arm is held (by a jig) at the first, and directions are taken as they are."""
    return (joints.LEVEL, joints.TURNED) if person else (joints.LEVEL,)


def _poses(path: str) -> tuple[joints.Pose, ...]:
    """Poses from a file: a list of ``{name, angles}``, and as wanted ``ticks``, ``what``, ``exact``.

    Raises:
        ConfigError: it holds something else.
    """
    try:
        rows = yaml.safe_load(read(path))
        if not isinstance(rows, list) or not rows:
            raise ValueError("expected a list of poses, `- {name: level, angles: [0, 0, 0, 0, 0]}`")
        return tuple(_pose(row) for row in rows)
    except (yaml.YAMLError, TypeError, ValueError) as error:
        raise error if isinstance(error, ConfigError) else ConfigError(f"{path}: {error}") from error


def _pose(row: Any) -> joints.Pose:
    if not isinstance(row, dict) or not {"name", "angles"} <= set(row):
        raise ValueError(f"a pose needs a name and angles, got {row!r}")
    known = {"name", "what", "angles", "exact", "ticks"}
    if unknown := set(row) - known:
        raise ValueError(
            f"pose {row['name']}: unknown key {min(unknown)!r}; known: {', '.join(sorted(known))}"
        )
    numbers = {key: tuple(float(value) for value in row[key]) for key in ("angles", "ticks") if row.get(key)}
    wrong = [key for key, values in numbers.items() if len(values) != len(joints.LEVEL.angles)]
    if wrong or "angles" not in numbers:
        wrong = wrong or ["angles"]
        raise ValueError(f"pose {row['name']}: {wrong[0]} must be {len(joints.LEVEL.angles)} numbers")
    return joints.Pose(
        str(row["name"]), str(row.get("what", "as your file of poses has it")), numbers["angles"],
        bool(row.get("exact", True)), numbers.get("ticks"),
    )  # fmt: skip


def _written(options: argparse.Namespace, person: bool, changes: dict[str, Any], old: str, new: str) -> bool:
    """Shows the difference and writes it, if it may be; whether it did."""
    if not changes:
        print("nothing was measured, nothing is written")
        return False
    lines = difflib.unified_diff(
        old.splitlines(), new.splitlines(), options.config, "measured", lineterm="", n=0
    )
    print(*lines, sep="\n")
    if options.dry_run or not _agreed(f"write this to {options.config}?", person):
        print("nothing is written")
        return False
    write_back(options.config, changes, backup=True)
    print(f"written to {options.config}; the old file is beside it")
    return True


def _agreed(question: str, person: bool) -> bool:
    """Asks a person, if there is one; whoever ends the input has not agreed."""
    try:
        return not person or input(f"{question} [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False


def _fenced(robot: Configuration, options: argparse.Namespace, person: bool) -> bool:
    """Compares the servos' EEPROM with the fences and writes them, if it may; whether they are right now."""
    port = robot.port
    try:
        with Link(port.device, port.baud, latency_timer=port.latency_timer, slack=0.02) as link:
            wrong = eeprom.wrong_fences(robot, link)
            for item in wrong:
                print(f"[differs] fences: {item}")
            if not wrong:
                print("[  ok   ] fences: all as they should be")
                return True
            if options.dry_run or not _agreed("write these into the servos?", person):
                return False
            left = eeprom.write_fences(robot, link, wrong)
    except (CalibrationError, LinkError) as error:
        print(f"[ FAULT ] fences: {error}")
        return False
    for item in left:
        print(f"[ FAULT ] fences: {item}, although it was written")
    if not left:
        print("fences are written; switch the servos' supply off and on, with the arm at rest")
    return not left
