"""Emulated servos of Protocol 1: MX-28, MX-64 and AX-12.

Not emulated, because the bridge never uses them: I and D gains, punch, multi-turn offset and resolution
divider, torque-control mode (writing it is refused).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import NamedTuple

from hardware_bridge.protocol import Error1, Packet
from hardware_bridge.servos import Register
from hardware_bridge.twin.joint import Drive
from hardware_bridge.twin.servo import Answer, Servo

_VOLTAGE, _OVERHEATING, _OVERLOAD = map(int, (Error1.VOLTAGE, Error1.OVERHEATING, Error1.OVERLOAD))
#: Goal positions of the multi-turn mode (e-manual: seven turns each way).
MULTI_TURN = 28_672


class _Orders(NamedTuple):
    """What registers tell the motor to do (rad, rad/s, rad/s², Nm); in wheel mode some do not count."""

    turns: bool
    goal: float
    speed: float
    acceleration: float
    stiffness: float
    saturation: float
    damping: float
    deadband: float


class Servo1(Servo):
    """A Protocol 1 servo; its mode follows from its angle limits, as the manual has it."""

    _told: tuple[int, float] | None = None  # of what the orders are: changes of the table, supply
    _orders: _Orders | None = None

    INSTRUCTION_ERROR = int(Error1.INSTRUCTION)
    RANGE_ERROR = int(Error1.RANGE)
    ACCESS_ERROR = int(Error1.RANGE)
    CHECKSUM_ERROR = int(Error1.CHECKSUM)

    @property
    def _registered_name(self) -> str:
        return "registered"

    @property
    def is_ax(self) -> bool:
        return "cw_compliance_slope" in self._values

    @property
    def mode(self) -> str:
        """``joint``, ``wheel`` or ``multi-turn``."""
        low, high = self._values["cw_angle_limit"], self._values["ccw_angle_limit"]
        if low != high:
            return "joint"
        if low == 0:
            return "wheel"
        return "multi-turn" if low == 4095 and not self.is_ax else "joint"

    def _ping(self, packet: Packet) -> Answer:
        return self._answer()

    # ------------------------------------------------------------ memory

    def _eeprom_locked(self) -> bool:
        return self.table["lock"] == 1

    def _refuse(self, register: Register, value: int) -> int:
        name = register.name
        if name == "goal_position":
            return self._refuse_goal(value)
        if name == "lock" and value == 0 and self.table["lock"] == 1:
            return int(Error1.RANGE)  # only a power cycle unlocks
        if name == "torque_control_enable" and value:
            return int(Error1.RANGE)  # not emulated
        top = {"moving_speed": 1023 if self.mode != "wheel" else 2047}.get(name, register.high)
        if name in ("cw_angle_limit", "ccw_angle_limit"):
            top = self.model.max_tick
        return 0 if register.low <= value <= top else int(Error1.RANGE)

    def _refuse_goal(self, value: int) -> int:
        if self.mode == "wheel":
            return 0
        if self.mode == "multi-turn":
            return 0 if abs(_signed(value)) <= MULTI_TURN else int(Error1.RANGE)
        low, high = self.table["cw_angle_limit"], self.table["ccw_angle_limit"]
        return 0 if low <= value <= high else int(Error1.ANGLE_LIMIT)

    def _written(self, name: str, old: int) -> None:
        if name == "goal_position" and self.nature.goal_enables_torque and not self.table["torque_enable"]:
            self.table["torque_enable"] = 1
            self._profile.reset(self.shaft.angle)
        elif name == "torque_enable" and not old:
            self._profile.reset(self.shaft.angle)
        elif name == "torque_limit" and self.table["torque_limit"]:
            self._shut = False
            self._overload = False
            self._stalled = 0.0

    @cached_property
    def _sensors(self) -> Mapping[str, Callable[[], int]]:
        unit, stall = self.model.register("present_speed").unit, self.model.motor.stall
        amps = self.model.motor.stall_current / stall / 4.5e-3  # in the register's unit, for 1 Nm
        return {
            "present_position": self._present_position,
            "present_speed": lambda: _clip10(self.shaft.speed / unit),
            "present_load": lambda: _clip10(1023 * self.shaft.torque / stall),
            "present_voltage": lambda: min(255, self._decivolts),
            "present_temperature": lambda: min(255, round(self.temperature)),
            "moving": lambda: int(self._profile.velocity != 0 or abs(self.shaft.speed) > 2 * unit),
            "realtime_tick": lambda: int(self.now * 1000) % 32_768,
            "present_current": lambda: min(4095, max(0, 2048 + round(amps * self.shaft.torque))),
        }

    def _present_position(self) -> int:
        raw = self._ticks()
        if self.is_ax:
            return self._ax_position(raw)
        return round(raw) & 0xFFFF if self.mode == "multi-turn" else round(raw) % 4096

    def _ax_position(self, raw: float) -> int:
        """The potentiometer measures 300°; in the other 60° it reads one end, then the other."""
        turn = math.tau / self.model.rad_per_tick
        raw = (raw + (turn - self.model.max_tick) / 2) % turn - (turn - self.model.max_tick) / 2
        return min(self.model.max_tick, max(0, round(raw)))

    # ------------------------------------------------------------ health and motion

    def _started(self) -> None:
        self._shut = False
        self._overload = False
        self.table["torque_limit"] = self.table["max_torque"]
        self.table["goal_position"] = self._present_position()

    def trip(self) -> None:
        """Shuts down as after an overload: bit 5 set, torque limit 0, goals still acknowledged."""
        self._overload = self._shut = True
        self.table["torque_limit"] = 0

    def _health_bits(self) -> int:
        bits = _VOLTAGE if self.voltage_fault else 0
        bits |= _OVERHEATING if self.hot else 0
        return bits | (_OVERLOAD if self._overload else 0)

    def _supervise(self, dt: float) -> None:
        self._overload = self.overloaded or (self._overload and self._shut)
        bits = self._health_bits()
        if not bits:
            return
        if bits & self.table["shutdown"]:
            # It goes on acknowledging goals; only a new torque limit, once the cause is gone, revives it.
            self._shut = True
            self.table["torque_limit"] = 0
        if bits & self.table["alarm_led"]:
            self.table["led"] = 1

    def _command(self, dt: float) -> None:
        told = (self.table.changes, self.voltage)
        new = told != self._told
        if new:
            self._told, self._orders = told, self._ordered()
        orders = self._orders
        if orders is None:
            self._release()
        elif orders.turns:
            self._turn(orders.saturation, dt)
        elif new or not self._profile.rests_at(orders.goal):
            self._profile.follow(orders.goal, orders.speed, orders.acceleration, dt)
            self._set_drive(
                Drive(
                    self._profile.position,
                    orders.stiffness,
                    orders.saturation,
                    orders.damping,
                    deadband=orders.deadband,
                )
            )

    def _ordered(self) -> _Orders | None:
        """What the registers, at the present supply, come to; None: the motor is free."""
        values, motor, full, mode = self._values, self.model.motor, self.full_torque, self.mode
        if not values["torque_enable"] or not values["torque_limit"]:
            return None
        goal, unit = values["goal_position"], self.model.register("moving_speed").unit
        return _Orders(
            turns=mode == "wheel",
            goal=self._angle(_signed(goal) if mode == "multi-turn" else goal),
            speed=values["moving_speed"] * unit or math.inf,
            acceleration=self._acceleration(),
            stiffness=full * self._duty_per_rad(),
            saturation=full * min(motor.duty_limit, values["torque_limit"] / 1023),
            damping=motor.damping,
            deadband=values["cw_compliance_margin"] * self.model.rad_per_tick if self.is_ax else 0.0,
        )

    def _acceleration(self) -> float:
        if self.is_ax or not self._values["goal_acceleration"]:
            return math.inf
        return self.table["goal_acceleration"] * self.model.register("goal_acceleration").unit

    def _duty_per_rad(self) -> float:
        if not self.is_ax:
            return self.model.motor.gain * self._values["p_gain"]
        # Seven steps, 2 to 128: the register is rounded down to a power of two (e-manual, compliance slope).
        slope = 1 << (self.table["cw_compliance_slope"].bit_length() - 1)
        return self.model.motor.gain / slope

    def _turn(self, saturation: float, dt: float) -> None:
        """Wheel mode: the MX holds a speed, the AX only a duty. Bit 10 set is clockwise."""
        register = self.table["moving_speed"]
        size = (register & 0x3FF) * (-1 if register & 0x400 else 1)
        motor = self.model.motor
        if self.is_ax:
            bias = max(-saturation, min(saturation, self.full_torque * size / 1023))
            self._set_drive(Drive(bias=bias, damping=motor.damping))
            return
        stiffness = self.full_torque * self._duty_per_rad()
        self._profile.roll(size * self.model.register("moving_speed").unit, self._acceleration(), dt)
        lead = saturation / stiffness if stiffness else 0.0
        angle = self.shaft.angle
        self._profile.position = min(angle + lead, max(angle - lead, self._profile.position))
        # The speed loop makes up for back-EMF, so that it is speed, not duty, which the register means.
        goal = (
            self._profile.position + motor.damping * self._profile.velocity / stiffness
            if stiffness
            else angle
        )
        self._set_drive(Drive(goal, stiffness, saturation, motor.damping))


def _signed(value: int) -> int:
    """Sixteen bits as two's complement."""
    return value - 0x10000 if value & 0x8000 else value


def _clip10(value: float) -> int:
    return max(-1023, min(1023, round(value)))
