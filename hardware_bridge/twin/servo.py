"""What all emulated servos have in common: instructions, memory rules, heat, supply, motion towards a goal.

``twin/servo1.py`` and ``twin/servo2.py`` hold the families. A servo is driven from outside: ``execute`` a
packet that the line decoded, ``advance`` by some milliseconds. It never sleeps, draws no random number and
knows no clock but its own, so the same calls give the same bytes.

Numbers that no manual gives (how fast it heats, how long an overload may last) are ours and stand in
``Nature``.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

from hardware_bridge.protocol import BROADCAST, PROTOCOLS, Instruction, Packet
from hardware_bridge.servos import Register, ServoModel, baud_rate
from hardware_bridge.twin.joint import RELEASED, Drive, Shaft
from hardware_bridge.twin.table import Table


@dataclass(frozen=True)
class Nature:
    """How an emulated servo behaves where its manual is silent. All values are estimates of ours.

    Args:
        ambient: °C.
        heating: Steady rise at full stall torque (°C); goes with the square of the load.
        cooling_time: Time constant (s).
        overload_time: At the torque limit and hardly moving for this long is an overload (s).
        brownout: Supply below which the servo restarts (V).
        boot_time: Deaf after power-up or reboot (s).
        goal_enables_torque: Protocol 1 servos switch torque on when a goal position is written.
    """

    ambient: float = 25.0
    heating: float = 90.0
    cooling_time: float = 300.0
    overload_time: float = 0.5
    brownout: float = 6.0
    boot_time: float = 0.1
    goal_enables_torque: bool = True


#: Rates that differ by less than this share understand each other (8N1 samples ten bits a byte).
BAUD_TOLERANCE = 0.03
#: Least status return level at which an instruction is answered; 2 for all others.
_LEVELS = {int(Instruction.PING): 0, int(Instruction.READ): 1}


class Answer(NamedTuple):
    """Error byte and data of a status packet."""

    error: int
    data: bytes = b""


class Profile:
    """The moving reference inside a servo: goes to the goal with bounded speed and acceleration."""

    def __init__(self) -> None:
        self.position = 0.0
        self.velocity = 0.0

    def reset(self, position: float) -> None:
        self.position, self.velocity = position, 0.0

    def rests_at(self, goal: float) -> bool:
        """Whether there is nothing to follow."""
        return self.position == goal and self.velocity == 0.0

    def follow(self, goal: float, speed: float, acceleration: float, dt: float) -> None:
        """One step; ``inf`` means unbounded."""
        distance = goal - self.position
        if math.isinf(speed) and math.isinf(acceleration):
            self.reset(goal)
            return
        top = min(speed, math.sqrt(2 * acceleration * abs(distance)))
        wanted = math.copysign(top, distance)
        change = acceleration * dt
        self.velocity = min(self.velocity + change, max(self.velocity - change, wanted))
        if abs(self.velocity) * dt >= abs(distance) and self.velocity * distance >= 0:
            self.reset(goal)
        else:
            self.position += self.velocity * dt

    def roll(self, velocity: float, acceleration: float, dt: float) -> None:
        """One step of running on at a speed."""
        change = acceleration * dt
        self.velocity = min(self.velocity + change, max(self.velocity - change, velocity))
        self.position += self.velocity * dt


class Servo(ABC):
    """One emulated servo.

    Args:
        model: What it is.
        servo_id: Its id.
        shaft: What it moves.
        nature: What the manual does not say.
        eeprom: Registers that differ from the factory's.

    Attributes:
        table: Its memory; tests may write there past all rules, inside ``Line.lock``.
        voltage: Its supply (V), of which the servo sees tenths.
        temperature: °C.
        mute: Its data line is cut: it hears and says nothing, and goes on with what it was told.
        sense: A hook on the encoder: raw position in, raw position out (ticks, not rounded).
    """

    #: Error byte: no such instruction; value or block out of range; register not to be written.
    INSTRUCTION_ERROR: int
    RANGE_ERROR: int
    ACCESS_ERROR: int
    CHECKSUM_ERROR: int

    def __init__(
        self,
        model: ServoModel,
        servo_id: int,
        shaft: Shaft,
        nature: Nature | None = None,
        **eeprom: int,
    ) -> None:
        self.model = model
        self.protocol = model.protocol
        self.shaft = shaft
        self.nature = nature or Nature()
        self.table = Table(model)
        self._values = self.table.values
        self.table["id"] = servo_id
        for name, value in eeprom.items():
            if model.register(name).area != "eeprom":
                raise ValueError(
                    f"{name} is not in the EEPROM of {model.name}: it would not survive power-up"
                )
            self.table[name] = value
        self.voltage = 12.0
        self.temperature = self.nature.ambient
        self.mute = False
        self.sense: Callable[[float], float] | None = None
        self.now = 0.0
        self.powered = False
        self._drive = RELEASED
        self._profile = Profile()
        self._browned_out = False
        self._boot_until = 0.0
        self._stalled = 0.0
        self._pending: tuple[int, bytes] | None = None
        self._word = PROTOCOLS[model.protocol].word
        self.power_up()
        self._boot_until = 0.0  # it has been on for a while

    # ------------------------------------------------------------ what the line asks

    @property
    def id(self) -> int:
        return self._values["id"]

    @property
    def second_id(self) -> int | None:
        """Another id that it obeys without ever answering."""
        return None

    @property
    def baud(self) -> int:
        """Bits per second at which it listens and speaks."""
        return baud_rate(self.protocol, self._values["baud_rate"])

    @property
    def return_delay(self) -> float:
        """From the end of an instruction to its answer (s)."""
        return self.table["return_delay_time"] * 2e-6

    @property
    def listening(self) -> bool:
        return self.powered and not self.mute and self.now >= self._boot_until

    def hears(self, protocol: int, rate: int) -> bool:
        """Whether it understands now what is sent in a protocol at a rate (bits per second)."""
        own = self.baud
        return self.protocol == protocol and self.listening and abs(own - rate) <= BAUD_TOLERANCE * own

    def bus_activity(self) -> None:  # noqa: B027 - only servos with a bus watchdog care
        """Somebody sent an instruction that this servo understands, to whomever."""

    def execute(self, packet: Packet) -> Answer | None:
        """Does what a packet says, its id having been matched; None: no answer is due."""
        code, level = packet.code, self._values["status_return_level"]
        answer = self._handlers.get(code, self._unknown)(packet)
        if answer is None or packet.id == BROADCAST:
            return None
        needed = _LEVELS.get(code, 2)
        return answer if level >= needed else None

    @cached_property
    def _handlers(self) -> dict[int, Callable[[Packet], Answer | None]]:
        return {
            int(Instruction.PING): self._ping,
            int(Instruction.READ): self._read,
            int(Instruction.WRITE): self._write,
            int(Instruction.REG_WRITE): self._reg_write,
            int(Instruction.ACTION): self._action,
            int(Instruction.FACTORY_RESET): self._factory_reset,
            int(Instruction.SYNC_WRITE): self._sync_write,
            **self._more_handlers(),
        }

    def answer_read(self, address: int, length: int) -> Answer | None:
        """Its part of a bulk or sync read."""
        return self._read_block(address, length) if self.table["status_return_level"] >= 1 else None

    def answer_damaged(self) -> Answer | None:
        """To a packet with its id and a wrong checksum."""
        return self._answer(self.CHECKSUM_ERROR) if self.table["status_return_level"] >= 2 else None

    # ------------------------------------------------------------ instructions

    def _more_handlers(self) -> dict[int, Callable[[Packet], Answer | None]]:
        return {}

    def _answer(self, error: int = 0, data: bytes = b"") -> Answer:
        return Answer(error | self._health_bits(), data)

    def _unknown(self, packet: Packet) -> Answer:
        return self._answer(self.INSTRUCTION_ERROR)

    @abstractmethod
    def _ping(self, packet: Packet) -> Answer: ...

    def _number(self, params: bytes, index: int) -> int:
        return int.from_bytes(params[index * self._word : (index + 1) * self._word], "little")

    def _read(self, packet: Packet) -> Answer:
        if len(packet.params) != 2 * self._word:
            return self._answer(self.INSTRUCTION_ERROR)
        return self._read_block(self._number(packet.params, 0), self._number(packet.params, 1))

    def _read_block(self, address: int, length: int) -> Answer:
        if not self.table.holds(address, length):
            return self._answer(self.RANGE_ERROR)
        self.refresh(address, length)
        return self._answer(0, self.table.read(address, length))

    def _write(self, packet: Packet) -> Answer:
        return self._answer(self.write(self._number(packet.params, 0), packet.params[self._word :]))

    def _reg_write(self, packet: Packet) -> Answer:
        address, data = self._number(packet.params, 0), packet.params[self._word :]
        error, _ = self._judge(address, data)
        if not error:
            self._pending = (address, data)
            self.table[self._registered_name] = 1
        return self._answer(error)

    @property
    @abstractmethod
    def _registered_name(self) -> str:
        """The register that shows a waiting REG_WRITE."""

    def _action(self, packet: Packet) -> Answer:
        if self._pending is None:
            return self._answer(self.INSTRUCTION_ERROR)
        (address, data), self._pending = self._pending, None
        self.table[self._registered_name] = 0
        return self._answer(self.write(address, data))

    def _factory_reset(self, packet: Packet) -> Answer:
        answer = self._answer()
        self.table.reset("eeprom", keep=self._survives_reset(packet.params))
        self.power_up()
        return answer

    def _survives_reset(self, params: bytes) -> tuple[str, ...]:
        return ()

    def _sync_write(self, packet: Packet) -> None:
        """Broadcast only; each servo finds its own part."""
        if packet.id != BROADCAST or len(packet.params) < 2 * self._word:
            return
        (address, parts), mine = _sync_parts(packet.params, self._word), (self.id, self.second_id)
        for servo_id, data in parts:
            if servo_id in mine:
                self.write(address, data)

    # ------------------------------------------------------------ memory

    def write(self, address: int, data: bytes) -> int:
        """Writes a block, all of it or nothing; the error byte's part about it (0: done)."""
        error, decoded = self._judge(address, data)
        if error:
            return error
        before = [(register.name, self._values[register.name]) for register, _ in decoded]
        self.table.put(address, data, decoded)
        for name, old in before:
            self._written(name, old)
        return 0

    def _judge(self, address: int, data: bytes) -> tuple[int, list[tuple[Register, int]]]:
        """The error byte with which a write would be refused, 0 if it would not; and what it would write."""
        if not self.table.holds(address, len(data)):
            return self.RANGE_ERROR, []
        decoded = self.table.decoded(address, data)
        for register, value in decoded:
            if register.access == "r" or (register.area == "eeprom" and self._eeprom_locked()):
                return self.ACCESS_ERROR, decoded
            error = self._refuse(register, value)
            if error:
                return error, decoded
        return 0, decoded

    @abstractmethod
    def _eeprom_locked(self) -> bool: ...

    @abstractmethod
    def _refuse(self, register: Register, value: int) -> int:
        """The error byte for a value that this register does not take now; 0 if it does."""

    @abstractmethod
    def _written(self, name: str, old: int) -> None:
        """What happens because a register was written."""

    def refresh(self, address: int = 0, length: int | None = None) -> None:
        """Puts what the sensors say into the table, as far as a block shows it; by default all."""
        block = (address, self.table.size if length is None else length)
        if block not in self._shown:
            names = [register.name for register in self.table.touched(*block)]
            self._shown[block] = [(name, self._sensors[name]) for name in names if name in self._sensors]
        for name, sensor in self._shown[block]:
            self.table[name] = sensor()

    @property
    @abstractmethod
    def _sensors(self) -> Mapping[str, Callable[[], int]]:
        """What registers show that the servo itself writes, by name; more than a model has may be there."""

    @cached_property
    def _shown(self) -> dict[tuple[int, int], list[tuple[str, Callable[[], int]]]]:
        """The sensors that blocks show which were read so far: (address, length)."""
        return {}

    # ------------------------------------------------------------ power, health, motion

    def power_up(self) -> None:
        """Supply comes back, or a reboot: RAM forgets, torque is off, the goal is where it stands."""
        self.powered = True
        self._boot_until = self.now + self.nature.boot_time
        self._pending = None
        self._stalled = 0.0
        self.table.reset("ram")
        self._started()
        self._release()

    def power_off(self) -> None:
        """Supply is gone: motor free, deaf, dumb."""
        self.powered = False
        self._release()

    @abstractmethod
    def _started(self) -> None:
        """What a family does at power-up besides."""

    def _release(self) -> None:
        self._profile.reset(self.shaft.angle)
        self._set_drive(RELEASED)

    def _set_drive(self, drive: Drive) -> None:
        if drive != self._drive:
            self._drive = drive
            self.shaft.drive(drive)

    def advance(self, dt: float) -> None:
        """Time passes for the electronics (s); the mechanics are stepped by whoever calls this."""
        self.now += dt
        push, speed = self._drive.push(self.shaft.angle), self.shaft.speed
        self._heat(push - self._drive.damping * speed, dt)
        if self.voltage < self.nature.brownout:
            if self.powered:
                self.power_off()
                self._browned_out = True
            return
        if not self.powered:
            if self._browned_out:
                self._browned_out = False
                self.power_up()
            return
        self._watch_stall(push, speed, dt)
        self._supervise(dt)
        self._command(dt)

    def _heat(self, torque: float, dt: float) -> None:
        nature, load = self.nature, torque / self.model.motor.stall
        rest = nature.ambient + nature.heating * load * load
        self.temperature += (rest - self.temperature) * dt / nature.cooling_time

    def _watch_stall(self, push: float, speed: float, dt: float) -> None:
        limit = self._drive.saturation
        pushing = limit > 0 and abs(push) >= 0.98 * limit
        slow = pushing and abs(speed) < 0.05 * self.model.no_load_speed
        self._stalled = self._stalled + dt if slow else 0.0

    @property
    def overloaded(self) -> bool:
        """It has pushed at its limit without moving for too long."""
        return self._stalled >= self.nature.overload_time

    @property
    def voltage(self) -> float:
        return self._voltage

    @voltage.setter
    def voltage(self, volts: float) -> None:
        self._voltage, self._decivolts = volts, round(volts * 10)

    @property
    def voltage_fault(self) -> bool:
        low, high = self._values["min_voltage_limit"], self._values["max_voltage_limit"]
        return not low <= self._decivolts <= high

    @property
    def hot(self) -> bool:
        return self.temperature >= self._values["temperature_limit"]

    @abstractmethod
    def _health_bits(self) -> int:
        """What the error byte says of the servo itself."""

    @abstractmethod
    def _supervise(self, dt: float) -> None:
        """Shuts down what must be shut down."""

    @abstractmethod
    def _command(self, dt: float) -> None:
        """Moves the reference and sets the drive."""

    # ------------------------------------------------------------ helpers for the families

    @property
    def full_torque(self) -> float:
        """Stall torque at the present supply (Nm)."""
        return self.model.motor.stall * self.voltage / 12

    def _ticks(self) -> float:
        """The encoder, before rounding: ticks from the zero of the first turn."""
        raw = self.model.centre + self.shaft.angle / self.model.rad_per_tick
        return self.sense(raw) if self.sense else raw

    def _angle(self, tick: float) -> float:
        """Shaft angle (rad) of a raw position."""
        return (tick - self.model.centre) * self.model.rad_per_tick


@lru_cache(maxsize=16)
def _sync_parts(params: bytes, word: int) -> tuple[int, tuple[tuple[int, bytes], ...]]:
    """Of a sync write's parameters: the address, and id and data of each servo. All servos hear the same."""
    address, length = (int.from_bytes(params[i * word : (i + 1) * word], "little") for i in (0, 1))
    starts = range(2 * word, len(params) - length, length + 1)
    return address, tuple((params[at], params[at + 1 : at + 1 + length]) for at in starts)
