"""Facts about servos and arms, in tables: registers, units, ratings, joints.

Registers have the names of the maker's manuals. ``MODELS`` holds the servos, ``PROFILES`` the arms; a joint
says which servo moves it, and the servo's model says which protocol it speaks (so a bus may carry both).

Sources: Robotis e-manual (control tables, ratings); Robotnik ``widowx_arm``, Trossen's firmware (Mark II);
Interbotix ``interbotix_xsarm_control`` (WidowX 200); Rhoban's BAM (identified motor of the MX-64).
"""

from __future__ import annotations

import difflib
import itertools
import math
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Literal, NamedTuple

RPM = math.tau / 60  # rad/s

#: Protocol 1, register 4: bits per second = 2,000,000 / (code + 1), but for these: what drivers name where
#: the servo's own rate is a little off, and three codes that only the MX knows.
_NAMED_BAUD_1 = {
    16: 115_200,
    34: 57_600,
    103: 19_200,
    207: 9_600,
    250: 2_250_000,
    251: 2_500_000,
    252: 3_000_000,
}
#: X series and MX with 2.0 firmware, register 8.
BAUD_2 = (9_600, 57_600, 115_200, 1_000_000, 2_000_000, 3_000_000, 4_000_000, 4_500_000)


@lru_cache
def baud_rate(protocol: int, code: int) -> int:
    """Bits per second that a baud register asks for, as a driver would name them.

    Raises:
        ValueError: if the code is not in the control table.
    """
    if protocol == 2:
        if not 0 <= code < len(BAUD_2):
            raise ValueError(f"baud code {code} is not in 0..{len(BAUD_2) - 1} (Protocol 2)")
        return BAUD_2[code]
    if not 0 < code <= 252:
        raise ValueError(f"baud code {code} is not in 1..252 (Protocol 1)")
    return _NAMED_BAUD_1.get(code, round(2_000_000 / (code + 1)))


def baud_code(protocol: int, rate: int) -> int:
    """The register value for a rate.

    Raises:
        ValueError: if no code gives it.
    """
    codes = range(len(BAUD_2)) if protocol == 2 else range(1, 253)
    for code in codes:
        if baud_rate(protocol, code) == rate:
            return code
    raise ValueError(f"no servo of Protocol {protocol} runs at {rate} baud")


# ---------------------------------------------------------------- registers


@dataclass(frozen=True)
class Register:
    """One entry of a control table.

    ``coding``: how its bytes are to be read. ``magnitude10`` is Protocol 1's speed and load, where bit 10 set
    means clockwise, towards smaller positions; they become negative numbers here. ``low`` and ``high`` bound
    what may be written; ``default`` is the factory value (EEPROM) or that after power-up (RAM).
    """

    name: str
    address: int
    size: int
    area: Literal["eeprom", "ram"]
    access: Literal["r", "rw"]
    default: int = 0
    low: int = 0
    high: int = 0
    unit: float = 1.0
    unit_name: str = ""
    coding: Literal["unsigned", "signed", "magnitude10"] = "unsigned"

    @property
    def end(self) -> int:
        """The first address after it."""
        return self.address + self.size

    def encode(self, value: int) -> bytes:
        """Little-endian bytes of a value, in ticks of the register.

        Raises:
            ValueError: if the value does not fit into the register (a servo would take its low bytes).
            TypeError: if it is no integer.
        """
        number = value.__index__()  # refuses floats, NaN among them
        if self.coding == "magnitude10":
            if abs(number) > 1023:
                raise ValueError(f"{self.name} = {number} is not in -1023..1023")
            number = abs(number) | (0x400 if number < 0 else 0)
        try:
            return number.to_bytes(self.size, "little", signed=self.coding == "signed")
        except OverflowError:
            raise ValueError(f"{self.name} = {value} does not fit into {self.size} bytes") from None

    def decode(self, data: bytes) -> int:
        """The inverse of ``encode``.

        Raises:
            ValueError: if there are not exactly ``size`` bytes.
        """
        if len(data) != self.size:
            raise ValueError(f"{self.name} has {self.size} bytes, got {len(data)}: {data.hex(' ')}")
        number = int.from_bytes(data, "little", signed=self.coding == "signed")
        return _magnitude10(number) if self.coding == "magnitude10" else number


ControlTable = Mapping[str, Register]

#: How ``struct`` calls registers, by size; signed ones in small letters.
_LETTERS = {1: "B", 2: "H", 4: "I"}


class _Block(NamedTuple):
    """Registers that were read in one piece, and how: those of ``magnitudes`` are the odd ones."""

    layout: struct.Struct
    names: tuple[str, ...]
    magnitudes: tuple[str, ...]

    @classmethod
    def of(cls, address: int, inside: Iterable[Register]) -> _Block:
        """The block that begins at an address, by the registers that lie in it."""
        letters, end = "<", address
        row = sorted(inside, key=lambda register: register.address)
        for register in row:
            letter = _LETTERS[register.size]
            letters += f"{register.address - end}x"
            letters += letter.lower() if register.coding == "signed" else letter
            end = register.end
        magnitudes = tuple(register.name for register in row if register.coding == "magnitude10")
        return cls(struct.Struct(letters), tuple(register.name for register in row), magnitudes)

    def unpack(self, data: bytes) -> dict[str, int]:
        """Their values; bytes beyond the last of them are nobody's."""
        values = dict(zip(self.names, self.layout.unpack_from(data)))
        for name in self.magnitudes:
            values[name] = _magnitude10(values[name])
        return values


def _magnitude10(number: int) -> int:
    """Ten bits, and one that says which way."""
    return -(number & 0x3FF) if number & 0x400 else number & 0x3FF


def _table(rows: str) -> dict[str, Register]:
    """Reads lines of name, address, size, area, access, and as far as given default, low, high, coding."""
    registers = {}
    for row in filter(None, rows.splitlines()):
        name, address, size, area, access, *rest = row.split()
        numbers = [int(word) for word in rest if word.lstrip("-").isdigit()]
        coding = next((word for word in rest if word in ("signed", "magnitude10")), "unsigned")
        defaults = dict(zip(("default", "low", "high"), numbers))
        registers[name] = Register(name, int(address), int(size), area, access, coding=coding, **defaults)  # type: ignore[arg-type]
    return registers


def _with(
    table: ControlTable, units: Mapping[str, tuple[float, str]], **defaults: int
) -> dict[str, Register]:
    """A table with units filled in and some factory values replaced."""
    result = dict(table)
    for name, (unit, unit_name) in units.items():
        if name in result:
            result[name] = replace(result[name], unit=unit, unit_name=unit_name)
    for name, value in defaults.items():
        result[name] = replace(result[name], default=value)
    return result


# name                 addr size area access default low high coding
_COMMON_1 = """
model_number            0  2 eeprom r
firmware_version        2  1 eeprom r  36
id                      3  1 eeprom rw 1 0 253
baud_rate               4  1 eeprom rw 34 1 252
return_delay_time       5  1 eeprom rw 250 0 254
cw_angle_limit          6  2 eeprom rw 0 0 4095
ccw_angle_limit         8  2 eeprom rw 4095 0 4095
temperature_limit      11  1 eeprom rw 80 10 99
min_voltage_limit      12  1 eeprom rw 60 50 250
max_voltage_limit      13  1 eeprom rw 160 50 250
max_torque             14  2 eeprom rw 1023 0 1023
status_return_level    16  1 eeprom rw 2 0 2
alarm_led              17  1 eeprom rw 36 0 127
shutdown               18  1 eeprom rw 36 0 127
torque_enable          24  1 ram rw 0 0 1
led                    25  1 ram rw 0 0 1
goal_position          30  2 ram rw 0 0 65535
moving_speed           32  2 ram rw 0 0 2047
torque_limit           34  2 ram rw 1023 0 1023
present_position       36  2 ram r
present_speed          38  2 ram r 0 0 0 magnitude10
present_load           40  2 ram r 0 0 0 magnitude10
present_voltage        42  1 ram r
present_temperature    43  1 ram r
registered             44  1 ram r
moving                 46  1 ram r
lock                   47  1 ram rw 0 0 1
punch                  48  2 ram rw 0 0 1023
"""

_MX_1 = (
    _COMMON_1
    + """
multi_turn_offset      20  2 eeprom rw 0 -24576 24576 signed
resolution_divider     22  1 eeprom rw 1 1 4
d_gain                 26  1 ram rw 0 0 254
i_gain                 27  1 ram rw 0 0 254
p_gain                 28  1 ram rw 32 0 254
realtime_tick          50  2 ram r
goal_acceleration      73  1 ram rw 0 0 254
"""
)

_MX64_1 = (
    _MX_1
    + """
present_current        68  2 ram r 2048
torque_control_enable  70  1 ram rw 0 0 1
goal_torque            71  2 ram rw 0 0 2047
"""
)

_AX_1 = (
    _COMMON_1
    + """
cw_compliance_margin   26  1 ram rw 1 0 255
ccw_compliance_margin  27  1 ram rw 1 0 255
cw_compliance_slope    28  1 ram rw 32 2 128
ccw_compliance_slope   29  1 ram rw 32 2 128
"""
)

_X_2 = """
model_number            0  2 eeprom r
model_information       2  4 eeprom r
firmware_version        6  1 eeprom r  45
id                      7  1 eeprom rw 1 0 252
baud_rate               8  1 eeprom rw 1 0 7
return_delay_time       9  1 eeprom rw 250 0 254
drive_mode             10  1 eeprom rw 0 0 13
operating_mode         11  1 eeprom rw 3 0 16
secondary_id           12  1 eeprom rw 255 0 255
protocol_type          13  1 eeprom rw 2 1 2
homing_offset          20  4 eeprom rw 0 -1044479 1044479 signed
moving_threshold       24  4 eeprom rw 10 0 1023
temperature_limit      31  1 eeprom rw 80 0 100
max_voltage_limit      32  2 eeprom rw 160 60 160
min_voltage_limit      34  2 eeprom rw 95 60 160
pwm_limit              36  2 eeprom rw 885 0 885
current_limit          38  2 eeprom rw 1193 0 2047
acceleration_limit     40  4 eeprom rw 32767 0 32767
velocity_limit         44  4 eeprom rw 200 0 1023
max_position_limit     48  4 eeprom rw 4095 0 4095
min_position_limit     52  4 eeprom rw 0 0 4095
shutdown               63  1 eeprom rw 52 0 63
torque_enable          64  1 ram rw 0 0 1
led                    65  1 ram rw 0 0 1
status_return_level    68  1 ram rw 2 0 2
registered_instruction 69  1 ram r
hardware_error_status  70  1 ram r
velocity_i_gain        76  2 ram rw 1920 0 16383
velocity_p_gain        78  2 ram rw 100 0 16383
position_d_gain        80  2 ram rw 0 0 16383
position_i_gain        82  2 ram rw 0 0 16383
position_p_gain        84  2 ram rw 800 0 16383
bus_watchdog           98  1 ram rw 0 0 127 signed
goal_pwm              100  2 ram rw 885 -885 885 signed
goal_current          102  2 ram rw 1193 -2047 2047 signed
goal_velocity         104  4 ram rw 0 -1023 1023 signed
profile_acceleration  108  4 ram rw 0 0 32767
profile_velocity      112  4 ram rw 0 0 32767
goal_position         116  4 ram rw 0 -1048575 1048575 signed
realtime_tick         120  2 ram r
moving                122  1 ram r
moving_status         123  1 ram r
present_pwm           124  2 ram r 0 0 0 signed
present_current       126  2 ram r 0 0 0 signed
present_velocity      128  4 ram r 0 0 0 signed
present_position      132  4 ram r 0 0 0 signed
velocity_trajectory   136  4 ram r 0 0 0 signed
position_trajectory   140  4 ram r 0 0 0 signed
present_input_voltage 144  2 ram r
present_temperature   146  1 ram r
"""


def _units_1(rad_per_tick: float, speed_unit: float) -> dict[str, tuple[float, str]]:
    angle, speed, fraction = (rad_per_tick, "rad"), (speed_unit, "rad/s"), (1 / 1023, "of stall torque")
    return {
        **dict.fromkeys(("goal_position", "present_position", "cw_angle_limit", "ccw_angle_limit"), angle),
        **dict.fromkeys(("moving_speed", "present_speed"), speed),
        **dict.fromkeys(("max_torque", "torque_limit", "present_load", "punch"), fraction),
        **dict.fromkeys(("present_voltage", "min_voltage_limit", "max_voltage_limit"), (0.1, "V")),
        **dict.fromkeys(("present_temperature", "temperature_limit"), (1.0, "°C")),
        "return_delay_time": (2e-6, "s"),
        "realtime_tick": (1e-3, "s"),
        "present_current": (4.5e-3, "A"),
        "goal_torque": (4.5e-3, "A"),
        "goal_acceleration": (math.radians(8.583), "rad/s²"),
    }


def _units_2(current_unit: float) -> dict[str, tuple[float, str]]:
    angle, speed, current = (math.tau / 4096, "rad"), (0.229 * RPM, "rad/s"), (current_unit, "A")
    positions = ("goal_position", "present_position", "position_trajectory", "homing_offset")
    speeds = (
        "goal_velocity",
        "present_velocity",
        "velocity_trajectory",
        "profile_velocity",
        "velocity_limit",
    )
    return {
        **dict.fromkeys((*positions, "min_position_limit", "max_position_limit"), angle),
        **dict.fromkeys((*speeds, "moving_threshold"), speed),
        **dict.fromkeys(("goal_current", "present_current", "current_limit"), current),
        **dict.fromkeys(("goal_pwm", "present_pwm", "pwm_limit"), (1 / 885, "of supply voltage")),
        **dict.fromkeys(("present_input_voltage", "min_voltage_limit", "max_voltage_limit"), (0.1, "V")),
        **dict.fromkeys(("present_temperature", "temperature_limit"), (1.0, "°C")),
        **dict.fromkeys(("profile_acceleration", "acceleration_limit"), (214.577 * RPM / 60, "rad/s²")),
        "return_delay_time": (2e-6, "s"),
        "realtime_tick": (1e-3, "s"),
        "bus_watchdog": (0.02, "s"),
    }


# ---------------------------------------------------------------- models


@dataclass(frozen=True)
class Motor:
    """The motor law of one servo, seen at its output shaft.

    duty = clip(gain · P · error in rad, ±duty_limit); torque = stall · duty · V/12 − damping · speed.
    AX servos have 1 / (slope in ticks) in place of the P register.

    Args:
        stall: Torque at 12 V, full duty, standing still (Nm).
        stall_current: The current then (A).
        damping: Back-EMF, kt²/R (Nm s/rad).
        gain: Duty per rad of error and unit of the P register.
        duty_limit: Greatest duty of the position loop.
        armature, coulomb, viscous: Rotor inertia (kg m²) and friction (Nm, Nm s/rad), through the gears.
    """

    stall: float
    stall_current: float
    damping: float
    gain: float
    armature: float
    coulomb: float
    viscous: float
    duty_limit: float = 1.0


@dataclass(frozen=True)
class ServoModel:
    """A servo as its manual describes it."""

    name: str
    number: int
    protocol: Literal[1, 2]
    registers: ControlTable = field(repr=False, compare=False)
    motor: Motor = field(repr=False)
    rad_per_tick: float
    max_tick: int  # of one turn, or of the range an AX can measure
    centre: int  # tick of angle 0
    no_load_speed: float  # rad/s at 12 V
    temperature_limit: int  # °C
    bulk_read: bool = True
    measured_range: float = math.tau  # rad; beyond it the encoder reads nonsense

    def register(self, name: str) -> Register:
        """A register by its manual's name.

        Raises:
            KeyError: if this model has none; names the nearest.
        """
        try:
            return self.registers[name]
        except KeyError:
            near = difflib.get_close_matches(name, self.registers, n=3)
            hint = f"; did you mean {', '.join(near)}?" if near else ""
            raise KeyError(f"{self.name} has no register {name!r}{hint}") from None

    def span(self, first: str, last: str) -> tuple[int, int]:
        """Address and length of the block from one register to another, both included."""
        start, end = self.register(first), self.register(last)
        if end.address < start.address:
            raise ValueError(f"{last} ({end.address}) stands before {first} ({start.address})")
        return start.address, end.end - start.address

    def unpack(self, address: int, data: bytes) -> dict[str, int]:
        """All registers that lie wholly inside a block that was read, in ticks."""
        block = (address, len(data))
        if block not in self._blocks:
            end = address + len(data)
            inside = [r for r in self.registers.values() if address <= r.address and r.end <= end]
            self._blocks[block] = _Block.of(address, inside)
        return self._blocks[block].unpack(data)

    @cached_property
    def _blocks(self) -> dict[tuple[int, int], _Block]:
        """Blocks that were read so far: (address, length)."""
        return {}

    def pack(self, values: Mapping[str, int]) -> tuple[int, bytes]:
        """Address and bytes of registers that follow each other without a gap, for one write.

        Raises:
            ValueError: if they leave a gap or overlap.
        """
        names = tuple(values)
        if names not in self._rows:
            self._rows[names] = self._row(names)
        row = self._rows[names]
        return row[0].address, b"".join([register.encode(values[register.name]) for register in row])

    def _row(self, names: Iterable[str]) -> tuple[Register, ...]:
        """Registers by address, which must follow each other."""
        row = sorted(map(self.register, names), key=lambda register: register.address)
        for before, after in itertools.pairwise(row):
            if before.end != after.address:
                raise ValueError(f"{before.name} and {after.name} do not adjoin: they need two writes")
        return tuple(row)

    @cached_property
    def _rows(self) -> dict[tuple[str, ...], tuple[Register, ...]]:
        """Registers that were written together so far, by address."""
        return {}

    def to_unit(self, name: str, value: int) -> float:
        """A register's ticks in its unit (``register(name).unit_name``)."""
        return value * self.register(name).unit

    def to_ticks(self, name: str, value: float) -> int:
        """A quantity in the register's unit as the nearest tick.

        Raises:
            ValueError: if it is not finite.
        """
        return round(_finite(value, name) / self.register(name).unit)

    # Names that the two families of control tables do not share.

    @property
    def speed_register(self) -> str:
        """The register that bounds the speed of a position goal."""
        return "moving_speed" if self.protocol == 1 else "profile_velocity"

    @property
    def voltage_register(self) -> str:
        return "present_voltage" if self.protocol == 1 else "present_input_voltage"

    @property
    def limit_registers(self) -> tuple[str, str]:
        """Least and greatest goal position, in EEPROM."""
        return (
            ("cw_angle_limit", "ccw_angle_limit")
            if self.protocol == 1
            else ("min_position_limit", "max_position_limit")
        )

    @property
    def state_registers(self) -> tuple[str, str]:
        """First and last register of the block to poll: position, speed, load, voltage, temperature."""
        return (
            ("present_position", "present_temperature")
            if self.protocol == 1
            else ("present_current", "present_temperature")
        )

    @cached_property
    def state_block(self) -> tuple[int, int]:
        """Its address and length."""
        return self.span(*self.state_registers)

    def __hash__(self) -> int:
        return hash(self.name)  # whoever is equal has the same; all fields would take a while, in every tick


def _finite(value: float, what: str) -> float:
    if not math.isfinite(value):
        raise ValueError(f"{what} = {value} is not a number one can send to a servo")
    return value


_AX_UNIT = math.radians(300) / 1023
_TURN_UNIT = math.tau / 4096
#: X series: Kp = P / 128 PWM units per tick of error, of 885 in all (e-manual, position PID gain).
_X_GAIN = 1 / _TURN_UNIT / 128 / 885


def _mx(name: str, number: int, table: str, no_load_rpm: float, motor: Motor) -> ServoModel:
    registers = _with(_table(table), _units_1(_TURN_UNIT, 0.114 * RPM), model_number=number)
    return ServoModel(name, number, 1, registers, motor, _TURN_UNIT, 4095, 2048, no_load_rpm * RPM, 80)


def _x(name: str, number: int, no_load_rpm: float, motor: Motor, **defaults: int) -> ServoModel:
    registers = _with(_table(_X_2), _units_2(2.69e-3), model_number=number, **defaults)
    hot = registers["temperature_limit"].default
    return ServoModel(name, number, 2, registers, motor, _TURN_UNIT, 4095, 2048, no_load_rpm * RPM, hot)


def _x_motor(
    stall: float, stall_current: float, no_load_rpm: float, armature: float, coulomb: float
) -> Motor:
    return Motor(stall, stall_current, stall / (no_load_rpm * RPM), _X_GAIN, armature, coulomb, viscous=0.01)


# MX-64: identified (BAM, model M1: kt 1.622 Nm/A, R 3.95 ohm). The others: the same law with the stall torque
# and speed of their data sheets; their armature and friction are our estimates.
MX_28 = _mx("MX-28", 29, _MX_1, 55, Motor(2.5, 1.4, 0.434, 0.158, 0.004, 0.045, 0.0, duty_limit=0.9625))
MX_64 = _mx(
    "MX-64", 310, _MX64_1, 63,
    Motor(12 * 1.622 / 3.95, 12 / 3.95, 1.622**2 / 3.95, 0.158, 0.01195, 0.09, 0.0117, duty_limit=0.9625),
)  # fmt: skip
AX_12 = ServoModel(
    "AX-12", 12, 1,
    _with(
        _table(_AX_1), _units_1(_AX_UNIT, 0.111 * RPM),
        model_number=12, firmware_version=24, baud_rate=1, ccw_angle_limit=1023,
        temperature_limit=70, max_voltage_limit=140, punch=32,
    ),
    # Full torque at an error of `slope` ticks (default 32 = 0.164 rad): the gain is duty per rad at slope 1.
    Motor(1.5, 1.5, 1.5 / (59 * RPM), 1 / _AX_UNIT, 0.003, 0.025, 0.0),
    _AX_UNIT, 1023, 512, 59 * RPM, 70, bulk_read=False, measured_range=math.radians(300),
)  # fmt: skip
XM430_W350 = _x("XM430-W350", 1020, 46, _x_motor(4.1, 2.3, 46, 0.008, 0.08))
XM540_W270 = _x(
    "XM540-W270", 1120, 30, _x_motor(10.6, 4.4, 30, 0.02, 0.15), current_limit=2047, velocity_limit=128
)
# The XL430 measures no current: the same register holds its load in 0.1 % of full torque.
XL430_W250 = _x(
    "XL430-W250", 1060, 61, _x_motor(1.5, 1.4, 61, 0.004, 0.04),
    temperature_limit=72, max_voltage_limit=140, min_voltage_limit=60, velocity_limit=265,
    position_p_gain=640,
)  # fmt: skip
XL430_W250 = replace(
    XL430_W250,
    registers=_with(XL430_W250.registers, {"present_current": (1e-3, "of stall torque")}),
)
# MX servos with 2.0 firmware have the X series' table; with AX servos on the wire the bus is then mixed.
MX_28_2 = _x("MX-28(2.0)", 30, 55, _x_motor(2.5, 1.4, 55, 0.004, 0.05), position_p_gain=850)
MX_64_2 = _x("MX-64(2.0)", 311, 63, _x_motor(6.0, 4.1, 63, 0.012, 0.09), position_p_gain=850)

MODELS: dict[str, ServoModel] = {
    model.name: model
    for model in (MX_28, MX_64, AX_12, XM430_W350, XL430_W250, XM540_W270, MX_28_2, MX_64_2)
}  # fmt: skip


def model_by_number(number: int) -> ServoModel:
    """The model that answers with this number in register 0.

    Raises:
        KeyError: if the tables do not hold it.
    """
    for model in MODELS.values():
        if model.number == number:
            return model
    known = ", ".join(f"{model.number} ({model.name})" for model in MODELS.values())
    raise KeyError(f"servo model number {number} is not known; known are {known}")


# ---------------------------------------------------------------- joints and arms


@dataclass(frozen=True)
class ServoRef:
    """A servo on the bus, as a driver addresses it: its id, and the model that says how to read it."""

    id: int
    model: ServoModel

    @property
    def protocol(self) -> int:
        return self.model.protocol


@dataclass(frozen=True)
class JointSpec:
    """One axis and the servo that moves it.

    Position of the axis = sign · (tick − centre) · rad_per_tick / ratio. For joints of the arm the unit is
    rad and ``ratio`` is 1; for a linear axis the unit is m and ``ratio`` is rad of the servo per m.

    Args:
        lower, upper: Limits of the axis (rad or m).
        max_speed: Greatest speed one may ask of it (rad/s or m/s).
        shadow_ids: Further servos on the same shaft that follow this one by their secondary id.
        drive_mode: Register 10 of Protocol 2 (bit 0: reverse); the shadows have the opposite direction.
    """

    name: str
    id: int
    model: ServoModel
    sign: int
    lower: float
    upper: float
    max_speed: float
    ratio: float = 1.0
    shadow_ids: tuple[int, ...] = ()
    drive_mode: int = 0

    def __post_init__(self) -> None:
        if self.sign not in (-1, 1):
            raise ValueError(f"{self.name}: sign {self.sign} is neither 1 nor -1")
        if not self.lower < self.upper or self.max_speed <= 0 or self.ratio <= 0:
            raise ValueError(
                f"{self.name}: limits {self.lower}..{self.upper}, speed {self.max_speed}, ratio {self.ratio}"
            )
        for end in (self.lower, self.upper):
            self.to_tick(end)  # raises if the servo cannot get there

    @property
    def protocol(self) -> int:
        return self.model.protocol

    @cached_property
    def servo(self) -> ServoRef:
        """The servo to command and to read."""
        return ServoRef(self.id, self.model)

    @property
    def ids(self) -> tuple[int, ...]:
        """All servos of the axis."""
        return (self.id, *self.shadow_ids)

    def to_position(self, tick: float) -> float:
        """Position of the axis (rad or m) at a position register."""
        return self.sign * (tick - self.model.centre) * self.model.rad_per_tick / self.ratio

    def to_tick(self, position: float) -> int:
        """The nearest tick to a position of the axis.

        Raises:
            ValueError: if it is not finite or outside what the servo can hold. Limits are not looked at here.
        """
        offset = self.sign * _finite(position, self.name) * self.ratio / self.model.rad_per_tick
        tick = round(self.model.centre + offset)
        if not 0 <= tick <= self.model.max_tick:
            raise ValueError(f"{self.name} = {position:.4f}: tick {tick} is not in 0..{self.model.max_tick}")
        return tick

    @property
    def tick_limits(self) -> tuple[int, int]:
        """Least and greatest tick inside the limits of the axis: what belongs into the servo's EEPROM."""
        ticks = sorted(self.to_tick(end) for end in (self.lower, self.upper))
        return ticks[0], ticks[1]

    def to_speed_ticks(self, speed: float) -> int:
        """Magnitude for the register that bounds a goal's speed: never 0, which means "as fast as you can".

        Raises:
            ValueError: if the speed is not finite or beyond ``max_speed``.
        """
        if abs(_finite(speed, f"{self.name} speed")) > self.max_speed * (1 + 1e-9):
            raise ValueError(f"{self.name}: speed {speed:.4f} is beyond its limit {self.max_speed:.4f}")
        unit = self.model.register(self.model.speed_register).unit
        return max(1, round(abs(speed) * self.ratio / unit))

    def to_speed(self, value: int) -> float:
        """Speed of the axis (rad/s or m/s) from the register of the present speed."""
        name = "present_speed" if self.protocol == 1 else "present_velocity"
        return self.sign * self.model.to_unit(name, value) / self.ratio


@dataclass(frozen=True)
class ArmProfile:
    """An arm, its gripper and the rig that resets its tasks, as they sit on one bus.

    Args:
        joints: The joints that a policy moves, base first.
        gripper: Holds the plug.
        rig: The task's two axes: ``rotation`` (rad) and ``translation`` (m).
        base_height: Of the second joint's axis above the mounting plane (m). Sources differ: calibrate it.
        rest: Joint angles at which torque may go off without a fall (rad).
        max_torque: Fence for EEPROM, as a fraction of full torque.
    """

    name: str
    joints: tuple[JointSpec, ...]
    gripper: JointSpec
    rig: tuple[JointSpec, JointSpec]
    base_height: float
    rest: tuple[float, ...]
    baud: int = 1_000_000
    max_torque: float = 0.5

    def __post_init__(self) -> None:
        ids = [servo_id for axis in self for servo_id in axis.ids]
        doubles = sorted({servo_id for servo_id in ids if ids.count(servo_id) > 1})
        if doubles:
            raise ValueError(f"profile {self.name}: ids {doubles} are used twice")
        if len(self.rest) != len(self.joints):
            raise ValueError(
                f"profile {self.name}: {len(self.rest)} rest angles for {len(self.joints)} joints"
            )

    def __iter__(self) -> Iterator[JointSpec]:
        """Every axis on the bus: joints, gripper, rig."""
        yield from self.joints
        yield self.gripper
        yield from self.rig

    @property
    def names(self) -> dict[int, str]:
        """Of the axes, by the ids of their servos, shadows included."""
        return {servo: axis.name for axis in self for servo in axis.ids}

    def axis(self, name: str) -> JointSpec:
        """An axis by name.

        Raises:
            KeyError: if there is none; lists the names.
        """
        for axis in self:
            if axis.name == name:
                return axis
        raise KeyError(f"{self.name} has no axis {name!r}; it has {', '.join(axis.name for axis in self)}")


#: The task-reset rig. The paper gives 16° and 2 cm, a gear and a timing pulley (appendix E) and nothing else;
#: servos, ratios, speeds and the choice of the middle as zero are ours. Rotation: a printed gear pair 3:1,
#: which also divides the servo's backlash by three. Translation: a GT2 pulley of 20 teeth, 40 mm a turn, so
#: 2 cm is half a turn and the servo's absolute encoder needs no homing.
RIG_GEAR = 3.0
RIG_PULLEY = math.tau / 0.040  # rad per m
RIG_ROTATION = math.radians(16)  # from end to end
RIG_TRANSLATION = 0.02  # m, from end to end


def _rig(ids: tuple[int, int], model: ServoModel) -> tuple[JointSpec, JointSpec]:
    turn, slide = RIG_ROTATION / 2, RIG_TRANSLATION / 2
    return (
        JointSpec("rotation", ids[0], model, 1, -turn, turn, max_speed=0.2, ratio=RIG_GEAR),
        JointSpec("translation", ids[1], model, 1, -slide, slide, max_speed=0.01, ratio=RIG_PULLEY),
    )


#: Robotnik's URDF: names, limits, speeds; its arm.yaml: ids and signs. The gripper's crank goes from 0 (wide
#: open) to 2.6 rad (closed), each finger 30 mm: crank = 2.6 − 86.67 · opening of a finger in m.
WIDOWX_MK2 = ArmProfile(
    "widowx_mk2",
    joints=(
        JointSpec("joint_1", 1, MX_28, 1, -2.617, 2.617, 0.785),
        JointSpec("joint_2", 2, MX_64, 1, -1.571, 1.571, 1.571),
        JointSpec("joint_3", 3, MX_64, -1, -1.571, 1.571, 1.571),
        JointSpec("joint_4", 4, MX_28, -1, -1.745, 1.745, 1.571),
        JointSpec("joint_5", 5, AX_12, 1, -2.617, 2.617, 1.571),
    ),
    gripper=JointSpec("gripper", 6, AX_12, -1, 0.0, 2.6, 1.571),
    rig=_rig((7, 8), MX_28),
    base_height=0.125,
    rest=(0.0, -1.571, 1.562, 0.0, 0.0),  # Trossen's Rest, within the limits
)

#: Interbotix: ids, drive modes, tick limits, sleep pose. Id 7 is its gripper, so the rig has 8 and 9. Models
#: from the maker's parts list, from memory: XM430-W350 up to the wrist's pitch, XL430-W250 beyond.
WX200 = ArmProfile(
    "wx200",
    joints=(
        JointSpec("waist", 1, XM430_W350, 1, -math.pi + 0.002, math.pi - 0.002, math.pi),
        JointSpec("shoulder", 2, XM430_W350, 1, -1.8853, 1.9711, math.pi, shadow_ids=(3,)),
        JointSpec("elbow", 4, XM430_W350, 1, -1.8853, 1.6229, math.pi, drive_mode=1),
        JointSpec("wrist_angle", 5, XM430_W350, 1, -1.7457, 2.1460, math.pi, drive_mode=1),
        JointSpec("wrist_rotate", 6, XL430_W250, 1, -math.pi + 0.002, math.pi - 0.002, math.pi),
    ),
    gripper=JointSpec("gripper", 7, XL430_W250, 1, -1.57, 1.57, math.pi),
    rig=_rig((8, 9), XL430_W250),
    base_height=0.072 + 0.03865,
    rest=(0.0, -1.88, 1.5, 0.8, 0.0),
)

PROFILES: dict[str, ArmProfile] = {profile.name: profile for profile in (WIDOWX_MK2, WX200)}
