"""One YAML file per robot: what it is, where things are plugged in, how it is calibrated, what it may do.

``load`` reads a file into frozen dataclasses and refuses what it does not know or cannot be: with the line,
what was expected, what to do. ``write_back`` puts measured values into a file for ``calibrate`` and leaves
everything else, comments included, as it stood. ``configs/widowx_mk2.yaml`` is a documented example.
"""

from __future__ import annotations

import dataclasses
import difflib
import itertools
import math
import os
import tempfile
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml

from hardware_bridge.limiter import Limits
from hardware_bridge.safety_settings import SafetySettings
from hardware_bridge.servos import PROFILES, ArmProfile, JointSpec
from meld_envs.robots.workspace import BODIES, Box, Workspace

T = TypeVar("T")
Triple = tuple[float, float, float]
EXAMPLE = Path(__file__).with_name("configs") / "widowx_mk2.yaml"
TWIN = EXAMPLE.with_name("widowx_twin.yaml")
#: How a process comes before other programs.
Scheduling = Literal["niceness", "fifo"]


class ConfigError(ValueError):
    """A configuration that cannot be: where in the file, what was expected, what to do."""


def _number(unit: str, low: float = -math.inf, high: float = math.inf, **more: Any) -> Any:
    """A field that is a number, or several, with its unit and range."""
    return field(metadata={"unit": unit, "low": low, "high": high}, **more)


# What a file holds ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Port:
    """The serial line. ``device``: best one of /dev/serial/by-id, which stays the same."""

    device: str
    baud: int = _number("bit/s", 9_600, 4_500_000, default=1_000_000)
    latency_timer: float = _number("s", 0.0, 0.016, default=0.001)


@dataclass(frozen=True)
class Joint:
    """A joint of the arm or an axis of the rig.

    ``zero``: what it would read at its zero pose without calibration; taken off, to a position of the servo.
    ``id``: of its servo, the profile's by default. ``sign``: 1 or -1, of the servo's ticks against the
    angle; the profile's by default.
    """

    name: str
    low: float = _number("rad or m")
    high: float = _number("rad or m")
    zero: float = _number("rad or m", -0.5, 0.5, default=0.0)
    id: int | None = _number("", 0, 252, default=None)
    sign: int | None = _number("", -1, 1, default=None)


@dataclass(frozen=True)
class Arm:
    """The arm.

    ``speed`` and ``acceleration`` are the most that a policy gets; a speed is at most acceleration · horizon.
    """

    joints: tuple[Joint, ...]
    base_height: float = _number("m", 0.0, 0.3)
    speed: tuple[float, ...] = _number("rad/s", 0.012, 1.0)
    acceleration: tuple[float, ...] = _number("rad/s²", 0.1, 50.0)
    rest: tuple[float, ...] = _number("rad", -math.pi, math.pi)
    ready: tuple[float, ...] = _number("rad", -math.pi, math.pi)
    max_torque: float = _number("fractions", 0.05, 0.5, default=0.5)


@dataclass(frozen=True)
class BoxLimits:
    """A box along the axes of the arm's base."""

    low: tuple[float, ...] = _number("m", -2.0, 2.0)
    high: tuple[float, ...] = _number("m", -2.0, 2.0)


@dataclass(frozen=True)
class Surroundings:
    """Where the body may be: in the box, above the table, out of the rig's housing."""

    box: BoxLimits
    table: float = _number("m", -1.0, 1.0)
    keep_out: BoxLimits | None = None


@dataclass(frozen=True)
class Camera:
    """A camera.

    ``device``: path or number; ``crop``: left, top, width, height; ``exposure``: None is automatic.
    ``reference``: what it sees with the arm at ``rest``: brightness of 8×8 fields, by which exchanged cameras
    are found, while the arm is there.
    """

    name: Literal["front", "wrist"]
    device: str
    size: tuple[int, ...] = _number("pixels", 64, 4096, default=(640, 480))
    crop: tuple[int, ...] | None = _number("pixels", 0, 4096, default=None)
    rate: float = _number("Hz", 5.0, 120.0, default=30.0)
    exposure: float | None = _number("as the driver counts", default=None)
    reference: tuple[int, ...] | None = _number("", 0, 255, default=None)


@dataclass(frozen=True)
class Rig:
    """The rig that resets tasks. ``home``: of rotation (rad) and translation (m)."""

    rotation: Joint
    translation: Joint
    home: tuple[float, ...] = _number("rad and m", -math.pi, math.pi, default=(0.0, 0.0))


@dataclass(frozen=True)
class Insertion:
    """The sensor that says that the plug is in.

    ``pins``: of ``dry_contact``, the lines of the adapter (cts, dsr, ri, cd), one per port of the panel, and
    ``device``, the adapter, if it is not the servos' own; ``interface`` of ``carrier``: the network
    interface; ``host`` of ``switch``: the managed switch, ``ports`` its interfaces' numbers, one per port of
    the panel, ``community`` the word by which it lets itself be read; of ``twin`` ``device`` is a file.
    """

    kind: Literal["dry_contact", "carrier", "switch", "twin"]
    pins: tuple[str, ...] = ()
    interface: str | None = None
    host: str | None = None
    device: str | None = None
    ports: tuple[int, ...] = _number("", 1, 65_535, default=(1,))
    community: str = "public"
    debounce: float = _number("s", 0.0, 1.0, default=0.05)


@dataclass(frozen=True)
class Recording:
    """Where recordings go. A relative folder is relative to the configuration's file."""

    folder: str


@dataclass(frozen=True)
class Configuration:
    """A robot. Build it with ``load``.

    ``scheduling``: how the driver's process comes before other programs, see ``process.real_time``.
    ``calibrated``: the parts that ``calibrate`` has measured, and written here.

    Raises:
        ConfigError: parts that contradict each other.
    """

    profile: Literal["widowx_mk2", "wx200"]
    port: Port
    arm: Arm
    workspace: Surroundings
    cameras: tuple[Camera, ...]
    rig: Rig
    insertion: Insertion
    recording: Recording
    scheduling: Scheduling = "niceness"
    safety: SafetySettings = field(default_factory=SafetySettings)
    calibrated: tuple[Literal["joints", "height", "rig", "cameras", "sensor"], ...] = ()

    def __post_init__(self) -> None:
        profile, arm = PROFILES[self.profile], self.arm
        _same_names(
            "arm.joints", [joint.name for joint in arm.joints], [joint.name for joint in profile.joints]
        )
        for name in ("speed", "acceleration", "rest", "ready"):
            _length(f"arm.{name}", getattr(arm, name), len(profile.joints), "one per joint")
        for index, (joint, spec) in enumerate(zip(arm.joints, profile.joints)):
            _within_spec(f"arm.joints.{index}", joint, spec)
        for name, spec in zip(("rotation", "translation"), profile.rig):
            _within_spec(f"rig.{name}", getattr(self.rig, name), spec)
        _length("rig.home", self.rig.home, 2, "of rotation and translation")
        for value, axis in zip(self.rig.home, (self.rig.rotation, self.rig.translation)):
            if not axis.low <= value <= axis.high:
                raise ConfigError(f"rig.home: {value} is not in {axis.name}'s {axis.low}..{axis.high}")
        names = [camera.name for camera in self.cameras]
        if sorted(names) != ["front", "wrist"]:
            raise ConfigError(f"cameras: expected one named front and one named wrist, got {names}")
        for index, camera in enumerate(self.cameras):
            _check_crop(f"cameras.{index}", camera)
        _check_insertion(self.insertion)
        self._check_motion()

    def _check_motion(self) -> None:
        """What the safety layer refuses is refused here, when the file is read."""
        try:
            limits = self.limits()
        except ConfigError:
            raise
        except ValueError as error:
            raise ConfigError(f"arm: {error}") from error
        for name in ("rest", "ready"):
            _check_pose(f"arm.{name}", getattr(self.arm, name), limits)

    def arm_profile(self) -> ArmProfile:
        """The arm's table with this robot's ids and limits."""
        profile = PROFILES[self.profile]
        joints = tuple(_specialised(spec, joint) for spec, joint in zip(profile.joints, self.arm.joints))
        axes = (self.rig.rotation, self.rig.translation)
        first, second = (_specialised(spec, axis) for spec, axis in zip(profile.rig, axes))
        return dataclasses.replace(
            profile,
            joints=joints,
            rig=(first, second),
            base_height=self.arm.base_height,
            rest=self.arm.rest,
            baud=self.port.baud,
            max_torque=self.arm.max_torque,
        )

    def limits(self) -> Limits:
        """What the safety layer needs of the arm."""
        around = self.workspace
        space = Workspace(
            BODIES[self.profile].at_height(self.arm.base_height),
            _box("workspace.box", around.box),
            around.table,
            None if around.keep_out is None else _box("workspace.keep_out", around.keep_out),
        )
        joints = self.arm_profile().joints
        return Limits.of(joints, self.safety, space, self.arm.speed, self.arm.acceleration)


def _same_names(where: str, names: Sequence[str], expected: Sequence[str]) -> None:
    if list(names) != list(expected):
        raise ConfigError(f"{where}: expected {', '.join(expected)}, in this order, got {', '.join(names)}")


def _length(where: str, values: Sequence[float], length: int, what: str) -> None:
    if len(values) != length:
        raise ConfigError(f"{where}: expected {length} numbers, {what}, got {len(values)}")


def _within_spec(where: str, joint: Joint, spec: JointSpec) -> None:
    """A robot's limits may be tighter than its profile's, never wider; its calibrated goals fit its servo."""
    if joint.name != spec.name:
        raise ConfigError(f"{where}.name: expected {spec.name!r}, got {joint.name!r}")
    slack = 1e-9
    if not spec.lower - slack <= joint.low < joint.high <= spec.upper + slack:
        raise ConfigError(
            f"{where}: limits {joint.low}..{joint.high} must lie in {spec.name}'s "
            f"{spec.lower}..{spec.upper}, low below high"
        )


def _specialised(spec: JointSpec, joint: Joint) -> JointSpec:
    """A profile's joint with a robot's id, limits and zero, which moves the servo's centre."""
    sign = spec.sign if joint.sign is None else joint.sign
    offset = round(sign * joint.zero * spec.ratio / spec.model.rad_per_tick)
    model = dataclasses.replace(spec.model, centre=spec.model.centre + offset) if offset else spec.model
    servo = spec.id if joint.id is None else joint.id
    return dataclasses.replace(spec, id=servo, sign=sign, model=model, lower=joint.low, upper=joint.high)


def _box(where: str, limits: BoxLimits) -> Box:
    for side in ("low", "high"):
        _length(f"{where}.{side}", getattr(limits, side), 3, "x, y and z")
    try:
        return Box(typing.cast(Triple, limits.low), typing.cast(Triple, limits.high))
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from error


def _check_crop(where: str, camera: Camera) -> None:
    _length(f"{where}.size", camera.size, 2, "width and height")
    if camera.reference is not None:
        _length(f"{where}.reference", camera.reference, 64, "of 8×8 fields")
    if camera.crop is None:
        return
    _length(f"{where}.crop", camera.crop, 4, "left, top, width and height")
    left, top, width, height = camera.crop
    if width < 1 or height < 1 or left + width > camera.size[0] or top + height > camera.size[1]:
        raise ConfigError(
            f"{where}.crop: {list(camera.crop)} does not lie in an image of {list(camera.size)}"
        )


_LINES = ("cts", "dsr", "ri", "cd")


def _check_insertion(sensor: Insertion) -> None:
    needed = {"dry_contact": "pins", "carrier": "interface", "switch": "host"}.get(sensor.kind)
    if needed and not getattr(sensor, needed):
        raise ConfigError(f"insertion.{needed}: is needed by a sensor of kind {sensor.kind}")
    for pin in sensor.pins:
        if pin not in _LINES:
            raise ConfigError(f"insertion.pins: unknown line {pin!r}{suggestion(pin, _LINES)}")


def _check_pose(where: str, pose: Sequence[float], limits: Limits) -> None:
    for name, angle, low, high in zip(limits.names, pose, limits.low, limits.high):
        if not low <= angle <= high:
            raise ConfigError(
                f"{where}: {name} at {angle} is not in {low:.3f}..{high:.3f}, its limits less safety.margin"
            )
    assert limits.workspace is not None
    nearest = limits.workspace.nearest(typing.cast(Any, pose))
    if nearest.clearance < limits.settings.clearance:
        raise ConfigError(f"{where}: there {nearest}, {1000 * limits.settings.clearance:.0f} mm are wanted")


# Reading -------------------------------------------------------------------------------------------


def load(path: str | os.PathLike[str]) -> Configuration:
    """Reads a robot's file.

    Raises:
        ConfigError: the file, its line, what was expected there, and what to do.
    """
    return parse(read(path), os.fspath(path))


def read(path: str | os.PathLike[str]) -> str:
    """The text of a file, its line ends as they are.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        return Path(path).read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}; {EXAMPLE} is an example to copy") from error


def parse(text: str, name: str = "configuration") -> Configuration:
    """A configuration from the text of a file; see ``load``."""
    root = _compose(text, name)
    try:
        return typing.cast(Configuration, _build(Configuration, root, ""))
    except ConfigError as error:
        where = str(error).split(":")[0]
        raise ConfigError(f"{name}, line {_line(root, where)}: {error}") from error


def _compose(text: str, name: str) -> yaml.Node:
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or error
        raise ConfigError(f"{name}{line}: is no YAML: {problem}; look at indentation and quotes") from error
    if root is None:
        raise ConfigError(f"{name}: is empty; {EXAMPLE} is an example to copy")
    return root


def _line(root: yaml.Node, where: str) -> int:
    """The line of a dotted place, or of the nearest thing around it that the file holds."""
    node = root
    for part in filter(None, where.split(".")):
        inner = _child(node, part)
        if inner is None:
            break
        node = inner
    return int(node.start_mark.line) + 1


def _child(node: yaml.Node, part: str) -> yaml.Node | None:
    if isinstance(node, yaml.MappingNode):
        return next((value for key, value in node.value if key.value == part), None)
    if isinstance(node, yaml.SequenceNode) and part.isdigit() and int(part) < len(node.value):
        return typing.cast(yaml.Node, node.value[int(part)])
    return None


def suggestion(wrong: str, known: Sequence[str]) -> str:
    """``"; did you mean 'x'?"`` for the nearest known name, else the list of known names."""
    near = difflib.get_close_matches(str(wrong), known, n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(sorted(known))}"


def _build(kind: Any, node: yaml.Node, where: str, limits: Mapping[str, Any] | None = None) -> Any:
    """What a field of this type is made of this node."""
    origin, options = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        if node.tag == "tag:yaml.org,2002:null":
            return None
        return _build(next(option for option in options if option is not type(None)), node, where, limits)
    if dataclasses.is_dataclass(kind):
        return _section(typing.cast(type, kind), node, where)
    if origin is tuple:
        if not isinstance(node, yaml.SequenceNode):
            raise ConfigError(f"{where}: expected a list, like [1, 2], got {_shown(node)}")
        return tuple(_build(options[0], item, f"{where}.{i}", limits) for i, item in enumerate(node.value))
    if not isinstance(node, yaml.ScalarNode):
        raise ConfigError(f"{where}: expected {_described(kind, limits)}, got {_shown(node)}")
    return _scalar(kind, node, where, limits)


def _section(kind: type[T], node: yaml.Node, where: str) -> T:
    """A dataclass from a mapping; its own checks name their field, so the place is put before."""
    prefix = f"{where}." if where else ""
    if not isinstance(node, yaml.MappingNode):
        raise ConfigError(f"{where or 'file'}: expected names and values, `name: value`, got {_shown(node)}")
    hints = typing.get_type_hints(kind)
    fields = {item.name: item for item in dataclasses.fields(kind)}  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for key, value in node.value:
        name = str(key.value)
        if name not in fields:
            raise ConfigError(f"{prefix}{name}: unknown key{suggestion(name, list(fields))}")
        if name in values:
            raise ConfigError(f"{prefix}{name}: stands here for the second time; keep one")
        values[name] = _build(hints[name], value, f"{prefix}{name}", fields[name].metadata)
    for name, item in fields.items():
        needed = item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
        if needed and name not in values:
            raise ConfigError(
                f"{where or 'file'}: {name!r} is missing; {EXAMPLE.name} shows how it is written"
            )
    try:
        return kind(**values)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"{prefix}{error}") from error


def _scalar(kind: Any, node: yaml.ScalarNode, where: str, limits: Mapping[str, Any] | None) -> Any:
    wrong = ConfigError(f"{where}: expected {_described(kind, limits)}, got {_shown(node)}")
    if typing.get_origin(kind) is Literal:
        if node.value not in typing.get_args(kind):
            raise ConfigError(f"{wrong}{suggestion(node.value, typing.get_args(kind))}")
        return node.value
    if kind is str:
        if node.tag == "tag:yaml.org,2002:null":
            raise wrong
        return node.value
    try:
        value = float(node.value)  # YAML itself reads 3e-4 as a text
    except ValueError:
        raise wrong from None
    bounds = limits or {}
    low, high = bounds.get("low", -math.inf), bounds.get("high", math.inf)
    if not math.isfinite(value) or not low <= value <= high or (kind is int and value != int(value)):
        raise wrong
    return int(value) if kind is int else value


def _described(kind: Any, limits: Mapping[str, Any] | None) -> str:
    if typing.get_origin(kind) is Literal:
        return "one of " + ", ".join(typing.get_args(kind))
    if kind is str:
        return "a text"
    what = "a whole number" if kind is int else "a number"
    unit = (limits or {}).get("unit", "")
    low, high = (limits or {}).get("low", -math.inf), (limits or {}).get("high", math.inf)
    inside = f" from {low:.12g} to {high:.12g}" if math.isfinite(low) and math.isfinite(high) else ""
    return f"{what}{f' in {unit}' if unit else ''}{inside}"


def _shown(node: yaml.Node) -> str:
    if isinstance(node, yaml.MappingNode):
        return "names and values"
    if isinstance(node, yaml.SequenceNode):
        return "a list"
    return repr(node.value) if node.value else "nothing"


# Writing -------------------------------------------------------------------------------------------


def changed(text: str, changes: Mapping[str, Any], name: str = "configuration") -> str:
    """A file's text with values put into it; everything else stays as it is, comments included.

    A name that the text does not hold is added at the end of its section.

    Args:
        text: of the file.
        changes: by dotted place, list items by number: ``{"arm.joints.0.zero": 0.012}``; numbers, texts,
            None, and lists of these.
        name: of the file, for messages.

    Raises:
        ConfigError: a place that there is not, or a value that cannot be written.
    """
    for where, value in changes.items():
        text = _changed(text, where, value, name)
    return text


def write_back(
    path: str | os.PathLike[str], changes: Mapping[str, Any], *, backup: bool = False
) -> Configuration:
    """Puts values into a robot's file, whole or not at all, and returns what it then says.

    Args:
        path: the file.
        changes: as for ``changed``.
        backup: keeps the file as it was beside it, as NAME.bak-1, NAME.bak-2, ...

    Raises:
        ConfigError: a place that there is not, or values that make no robot. The file is then as it was.
    """
    path, old = Path(path), read(path)
    text = changed(old, changes, str(path))
    configuration = parse(text, str(path))
    if backup:
        _keep(path, old)
    _replace_file(path, text)
    return configuration


def _keep(path: Path, text: str) -> None:
    """Puts a text on the disk beside a file, under a name that is not in use."""
    for number in itertools.count(1):
        try:
            with open(f"{path}.bak-{number}", "x", encoding="utf-8", newline="") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            return
        except FileExistsError:
            continue


def _changed(text: str, where: str, value: Any, name: str) -> str:
    node, parts = _compose(text, name), where.split(".")
    for depth, part in enumerate(parts):
        inner = _child(node, part)
        if inner is None:
            missing = parts[depth:]
            if len(missing) > 1 or not isinstance(node, yaml.MappingNode) or not node.value:
                raise ConfigError(f"{name}: there is no {'.'.join(parts[: depth + 1])} to write to")
            return _added(text, node, missing[0], value)
        node = inner
    if isinstance(node, yaml.MappingNode):
        raise ConfigError(f"{name}: {where} is a section; write to one of its values")
    start, end = node.start_mark.index, node.end_mark.index
    if isinstance(node, yaml.SequenceNode) and not node.flow_style:
        raise ConfigError(f"{name}: {where} is not written like [1, 2]; write to its items")
    gap = "" if start == 0 or text[start - 1].isspace() or node.value else " "
    return text[:start] + gap + _yaml(value) + text[end:]


def _added(text: str, section: yaml.MappingNode, key: str, value: Any) -> str:
    """After the section's last value; in a section in braces before the brace."""
    entry = f"{key}: {_yaml(value)}"
    if section.flow_style:
        end = section.end_mark.index - 1
        before = text[:end].rstrip()
        return f"{before}{'' if before.endswith(',') else ','} {entry}{text[end:]}"
    first, last = section.value[0][0], section.value[-1][1]
    end = _last_leaf(last).end_mark.index
    newline = text.find("\n", end)  # a comment behind the value stays behind it
    newline = len(text) if newline < 0 else newline
    return f"{text[:newline]}\n{' ' * first.start_mark.column}{entry}{text[newline:]}"


def _last_leaf(node: yaml.Node) -> yaml.Node:
    """The last thing of a block: the block's own end lies behind the comments that follow it."""
    while isinstance(node, (yaml.MappingNode, yaml.SequenceNode)) and not node.flow_style and node.value:
        last = node.value[-1]
        node = last[1] if isinstance(last, tuple) else last
    return node


def _yaml(value: Any) -> str:
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_yaml, value)) + "]"
    if isinstance(value, float) and not isinstance(value, bool):
        return repr(round(value, 9))
    if value is None or isinstance(value, (int, str)):
        dumped: str = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=math.inf)
        return dumped.removesuffix("\n").removesuffix("\n...")
    raise ConfigError(f"{value!r} cannot be written to a configuration")


def _replace_file(path: Path, text: str) -> None:
    """Whoever reads the file meanwhile sees the old one or the new one; so does one who lost power."""
    target = path.resolve()
    descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, target.stat().st_mode & 0o7777)
        os.replace(temporary, target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def places(configuration: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of a configuration with its dotted place, for ``doctor`` to print."""
    for item in dataclasses.fields(configuration):
        value, where = getattr(configuration, item.name), f"{prefix}{item.name}"
        if dataclasses.is_dataclass(value):
            yield from places(value, f"{where}.")
        elif isinstance(value, tuple) and value and dataclasses.is_dataclass(value[0]):
            for index, inner in enumerate(value):
                yield from places(inner, f"{where}.{index}.")
        else:
            yield where, value
