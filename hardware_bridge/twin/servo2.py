"""Emulated servos of Protocol 2: the X series, and MX servos with 2.0 firmware.

Not emulated, because the bridge never uses them: I and D gains and feed-forward, indirect addresses, external
ports, moving status, fast sync read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import ClassVar

from hardware_bridge.protocol import ALERT, Error2, Instruction, Packet
from hardware_bridge.servos import Register
from hardware_bridge.twin.joint import Drive
from hardware_bridge.twin.servo import Answer, Servo

CURRENT, VELOCITY, POSITION, EXTENDED, CURRENT_POSITION, PWM = 0, 1, 3, 4, 5, 16
MODES = (CURRENT, VELOCITY, POSITION, EXTENDED, CURRENT_POSITION, PWM)

REVERSE, TIME_PROFILE = 0x01, 0x04  # bits of the drive mode

HARDWARE_VOLTAGE, HARDWARE_HEAT, HARDWARE_OVERLOAD = 0x01, 0x04, 0x20

#: What the bus watchdog makes unwritable once it has bitten.
GOALS = frozenset(
    {"goal_pwm", "goal_current", "goal_velocity", "goal_position", "profile_velocity", "profile_acceleration"}
)
CLEAR_TURNS = bytes([0x01, 0x44, 0x58, 0x4C, 0x22])


class Servo2(Servo):
    """A Protocol 2 servo."""

    INSTRUCTION_ERROR = int(Error2.INSTRUCTION)
    RANGE_ERROR = int(Error2.DATA_RANGE)
    ACCESS_ERROR = int(Error2.ACCESS)
    CHECKSUM_ERROR = int(Error2.CRC)

    #: Which EEPROM limit bounds a goal, either way.
    LIMITS: ClassVar[dict[str, str]] = {
        "goal_pwm": "pwm_limit",
        "goal_current": "current_limit",
        "goal_velocity": "velocity_limit",
        "profile_velocity": "velocity_limit",
        "profile_acceleration": "acceleration_limit",
    }

    @property
    def _registered_name(self) -> str:
        return "registered_instruction"

    @property
    def second_id(self) -> int | None:
        second = self.table["secondary_id"]
        return second if second <= 252 else None

    @property
    def mode(self) -> int:
        """The operating mode."""
        return self.table["operating_mode"]

    def _more_handlers(self) -> dict[int, Callable[[Packet], Answer | None]]:
        return {
            Instruction.REBOOT: self._reboot,
            Instruction.CLEAR: self._clear,
            Instruction.BULK_WRITE: self._bulk_write,
        }

    def bus_activity(self) -> None:
        self._silence = 0.0

    def _ping(self, packet: Packet) -> Answer:
        return self._answer(0, self.table.read(0, 2) + self.table.read(6, 1))

    def _reboot(self, packet: Packet) -> Answer:
        answer = self._answer()
        self.power_up()
        return answer

    def _clear(self, packet: Packet) -> Answer:
        if packet.params != CLEAR_TURNS:
            return self._answer(int(Error2.DATA_RANGE))
        if self.table["torque_enable"]:
            return self._answer(int(Error2.ACCESS))
        self._wrap()
        return self._answer()

    def _bulk_write(self, packet: Packet) -> None:
        """(id, address, length, data) for each servo, of any length."""
        params = packet.params
        while len(params) >= 5:
            address, length = self._number(params[1:], 0), self._number(params[1:], 1)
            if params[0] in (self.id, self.second_id):
                self.write(address, params[5 : 5 + length])
            params = params[5 + length :]

    def _survives_reset(self, params: bytes) -> tuple[str, ...]:
        return {b"\x01": ("id",), b"\x02": ("id", "baud_rate")}.get(params, ())

    # ------------------------------------------------------------ memory

    def _eeprom_locked(self) -> bool:
        return self.table["torque_enable"] == 1

    def _refuse(self, register: Register, value: int) -> int:
        name, table = register.name, self.table
        if name in GOALS and self._bitten:
            return int(Error2.DATA_RANGE)
        if name == "operating_mode" and value not in MODES:
            return int(Error2.DATA_RANGE)
        if not register.low <= value <= register.high:
            return int(Error2.DATA_RANGE)
        if name == "goal_position" and self.mode == POSITION:
            inside = table["min_position_limit"] <= value <= table["max_position_limit"]
            return 0 if inside else int(Error2.DATA_LIMIT)
        timed = name.startswith("profile_") and table["drive_mode"] & TIME_PROFILE
        if name in self.LIMITS and not timed and abs(value) > table[self.LIMITS[name]]:
            return int(Error2.DATA_LIMIT)
        return 0

    def _written(self, name: str, old: int) -> None:
        table = self.table
        if name == "torque_enable":
            if table["torque_enable"] and self._shut:
                table["torque_enable"] = 0  # acknowledged, without effect, until a reboot
            elif table["torque_enable"] and not old:
                self._stand_here()
        elif name == "operating_mode":
            self._stand_here()
        elif name == "bus_watchdog":
            self._silence = 0.0
            if table["bus_watchdog"] == 0:
                self._bitten = False
        elif name == "goal_position":
            self._plan()

    def _stand_here(self) -> None:
        self._profile.reset(self.shaft.angle)
        self.table["goal_position"] = self._present_position()
        self.table["goal_velocity"] = 0
        self._plan()

    def _plan(self) -> None:
        """Speed and acceleration towards a new goal, from the profile registers."""
        table = self.table
        speed, ramp = table["profile_velocity"], table["profile_acceleration"]
        if not table["drive_mode"] & TIME_PROFILE:
            velocity, acceleration = self.model.register("profile_velocity"), "profile_acceleration"
            self._speed = speed * velocity.unit or math.inf
            self._acceleration = ramp * self.model.register(acceleration).unit or math.inf
            return
        # Milliseconds for the whole way and for its ramps.
        distance = abs(self._angle(self._raw(table["goal_position"])) - self._profile.position)
        seconds, ramp_seconds = speed / 1000, min(ramp, speed / 2) / 1000
        self._speed = distance / (seconds - ramp_seconds) if seconds else math.inf
        self._acceleration = self._speed / ramp_seconds if seconds and ramp_seconds else math.inf

    @cached_property
    def _sensors(self) -> Mapping[str, Callable[[], int]]:
        model, current = self.model, self.model.register("present_current")
        unit = model.register("present_velocity").unit
        full = (model.motor.stall_current if current.unit_name == "A" else 1.0) / current.unit
        return {
            "present_position": self._present_position,
            "present_velocity": lambda: self._present_velocity(unit),
            "present_current": lambda: round(self._share * full),
            "present_pwm": lambda: max(-885, min(885, round(self._share * 885))),
            "position_trajectory": lambda: round(self._reported(self._profile.position)),
            "velocity_trajectory": lambda: round(self._direction * self._profile.velocity / unit),
            "present_input_voltage": lambda: self._decivolts,
            "present_temperature": lambda: min(255, round(self.temperature)),
            "realtime_tick": lambda: int(self.now * 1000) % 32_768,
            "moving": lambda: int(abs(self._present_velocity(unit)) > self.table["moving_threshold"]),
            "hardware_error_status": lambda: self._hardware,
        }

    @property
    def _share(self) -> float:
        """Of stall torque, signed as the registers are."""
        return self._direction * self.shaft.torque / self.model.motor.stall

    def _present_velocity(self, unit: float) -> int:
        return round(self._direction * self.shaft.speed / unit)

    # ------------------------------------------------------------ positions

    @property
    def _direction(self) -> int:
        return -1 if self.table["drive_mode"] & REVERSE else 1

    def _present_position(self) -> int:
        raw = self._ticks() - self._turns * 4096
        return round(self._report(raw))

    def _report(self, raw: float) -> float:
        return self.model.centre + self._direction * (raw - self.model.centre) + self.table["homing_offset"]

    def _reported(self, angle: float) -> float:
        return self._report(self.model.centre + angle / self.model.rad_per_tick - self._turns * 4096)

    def _raw(self, reported: int) -> float:
        """Encoder ticks of a position register: the inverse of what ``present_position`` shows."""
        offset = reported - self.table["homing_offset"] - self.model.centre
        return self.model.centre + self._direction * offset + self._turns * 4096

    def _wrap(self) -> None:
        """Forgets whole turns: an absolute encoder knows only where in its turn it stands."""
        self._turns = math.floor(self._ticks() / 4096)

    # ------------------------------------------------------------ health and motion

    def _started(self) -> None:
        self._hardware = 0
        self._shut = False
        self._bitten = False
        self._silence = 0.0
        self._speed = self._acceleration = math.inf
        self._wrap()
        for goal, limit in (("goal_pwm", "pwm_limit"), ("goal_current", "current_limit")):
            self.table[goal] = self.table[limit]
        self._stand_here()

    def _health_bits(self) -> int:
        return ALERT if self._hardware else 0

    def _supervise(self, dt: float) -> None:
        now = HARDWARE_VOLTAGE if self.voltage_fault else 0
        now |= HARDWARE_HEAT if self.hot else 0
        now |= HARDWARE_OVERLOAD if self.overloaded else 0
        # Supply faults pass by themselves, the others stay until a reboot.
        self._hardware = now | (self._hardware & ~HARDWARE_VOLTAGE)
        if self._hardware & self.table["shutdown"]:
            self._shut = True
            self.table["torque_enable"] = 0
        self._silence += dt
        period = self.table["bus_watchdog"] * 0.02
        if period > 0 and self.table["torque_enable"] and self._silence >= period and not self._bitten:
            self._bitten = True
            self.table["bus_watchdog"] = -1
            self._profile.reset(self.shaft.angle)

    def _command(self, dt: float) -> None:
        table, motor, full = self.table, self.model.motor, self.full_torque
        if not table["torque_enable"]:
            self._release()
            return
        pwm = min(table["pwm_limit"], abs(table["goal_pwm"])) / 885 if self.mode != PWM else 1.0
        saturation = full * min(motor.duty_limit, pwm)
        stiffness = full * motor.gain * table["position_p_gain"]
        if self.mode == CURRENT_POSITION:
            saturation = min(saturation, abs(self._current_torque()))
        if not self._bitten:
            if self.mode in (PWM, CURRENT):
                bias = self._current_torque() if self.mode == CURRENT else full * table["goal_pwm"] / 885
                damping = 0.0 if self.mode == CURRENT else motor.damping
                self._set_drive(Drive(bias=self._direction * bias, damping=damping))
                return
            self._move_reference(saturation / stiffness if stiffness else 0.0, dt)
        ahead = 0.0
        if self.mode == VELOCITY and stiffness:  # the speed loop makes up for back-EMF
            ahead = motor.damping * self._profile.velocity / stiffness
        self._set_drive(Drive(self._profile.position + ahead, stiffness, saturation, motor.damping))

    def _current_torque(self) -> float:
        unit, motor = self.model.register("goal_current").unit, self.model.motor
        return motor.stall * self.table["goal_current"] * unit / motor.stall_current

    def _move_reference(self, lead: float, dt: float) -> None:
        if self.mode != VELOCITY:
            goal = self._angle(self._raw(self.table["goal_position"]))
            self._profile.follow(goal, self._speed, self._acceleration, dt)
            return
        unit = self.model.register("goal_velocity").unit
        ramp = self.table["profile_acceleration"] * self.model.register("profile_acceleration").unit
        self._profile.roll(self._direction * self.table["goal_velocity"] * unit, ramp or math.inf, dt)
        angle = self.shaft.angle
        self._profile.position = min(angle + lead, max(angle - lead, self._profile.position))
