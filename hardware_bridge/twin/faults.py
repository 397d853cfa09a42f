"""Damage on the wire between servos and driver, on demand: what may happen to a reply before it arrives.

A ``WireFault`` says which replies it meets and how often; a kind is a function from the reply's bytes to what
arrives instead: pieces, each with an extra delay. Everything random comes from one seeded generator.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from hardware_bridge.protocol import HEADER_2, PROTOCOL_1, PROTOCOL_2

#: What arrives: (extra delay in s, bytes), in the order of sending.
Pieces = list[tuple[float, bytes]]


@dataclass(frozen=True)
class Reply:
    """A status packet on its way to the driver."""

    servo_id: int
    instruction: int
    raw: bytes


Damage = Callable[[Reply, np.random.Generator], Pieces]


def flip(bit: int | None = None) -> Damage:
    """Inverts one bit, counted from the first byte's lowest, or from the end if negative; None: any."""

    def damage(reply: Reply, rng: np.random.Generator) -> Pieces:
        chosen = int(rng.integers(8 * len(reply.raw))) if bit is None else bit % (8 * len(reply.raw))
        raw = bytearray(reply.raw)
        raw[chosen // 8] ^= 1 << chosen % 8
        return [(0.0, bytes(raw))]

    return damage


def drop(index: int | None = None) -> Damage:
    """Loses one byte, counted from the end if negative; None: any."""

    def damage(reply: Reply, rng: np.random.Generator) -> Pieces:
        chosen = int(rng.integers(len(reply.raw))) if index is None else index % len(reply.raw)
        return [(0.0, reply.raw[:chosen] + reply.raw[chosen + 1 :])]

    return damage


def truncate(keep: int) -> Damage:
    """Only the first bytes arrive."""
    return lambda reply, rng: [(0.0, reply.raw[:keep])]


def delay(seconds: float) -> Damage:
    """It arrives late, and so does whatever is sent behind it."""
    return lambda reply, rng: [(seconds, reply.raw)]


def duplicate() -> Damage:
    """It arrives twice."""
    return lambda reply, rng: [(0.0, reply.raw), (0.0, reply.raw)]


def noise(length: int = 5) -> Damage:
    """Random bytes arrive before it."""
    return lambda reply, rng: [(0.0, rng.bytes(length) + reply.raw)]


def silence() -> Damage:
    """Nothing arrives. In a chained read the servos behind it wait for it and say nothing either."""
    return lambda reply, rng: []


def wrong_id(servo_id: int) -> Damage:
    """A sound packet that claims to come from another servo."""

    def damage(reply: Reply, rng: np.random.Generator) -> Pieces:
        return [(0.0, reframe(reply.raw, servo_id=servo_id))]

    return damage


def bare() -> Damage:
    """The data are missing: a sound acknowledgement in place of a reading."""
    return lambda reply, rng: [(0.0, reframe(reply.raw, data=b""))]


def compensate(first: int = 5, second: int = 6) -> Damage:
    """Adds 1 to one byte and takes 1 from another: Protocol 1's sum does not notice."""

    def damage(reply: Reply, rng: np.random.Generator) -> Pieces:
        raw = bytearray(reply.raw)
        raw[first] = (raw[first] + 1) & 0xFF
        raw[second] = (raw[second] - 1) & 0xFF
        return [(0.0, bytes(raw))]

    return damage


def reframe(raw: bytes, servo_id: int | None = None, data: bytes | None = None) -> bytes:
    """A status packet with another id or other data, and with the right check."""
    if raw.startswith(HEADER_2):
        old_id, error, old_data = raw[4], raw[8], raw[9:-2]
        protocol = PROTOCOL_2
        if data is None:
            data = old_data.replace(b"\xff\xff\xfd\xfd", b"\xff\xff\xfd")
        return protocol.status(old_id if servo_id is None else servo_id, error, data)
    return PROTOCOL_1.status(
        raw[2] if servo_id is None else servo_id, raw[4], raw[5:-1] if data is None else data
    )


@dataclass
class WireFault:
    """Damage for the replies that match.

    Args:
        damage: What happens to them.
        servo_id: Only this servo's; None: anybody's.
        instruction: Only answers to this instruction.
        count: How many more; None: for ever.
        probability: Of each reply that matches.
        skip: So many matching replies pass unharmed first.
    """

    damage: Damage
    servo_id: int | None = None
    instruction: int | None = None
    count: int | None = 1
    probability: float = 1.0
    skip: int = 0
    hits: int = field(default=0, init=False)

    def meets(self, reply: Reply, rng: np.random.Generator) -> bool:
        """Whether it strikes this reply; counts if it does."""
        if self.servo_id not in (None, reply.servo_id) or self.instruction not in (None, reply.instruction):
            return False
        if self.count is not None and self.hits >= self.count:
            return False
        if self.skip > 0:
            self.skip -= 1
            return False
        if self.probability < 1.0 and rng.random() >= self.probability:
            return False
        self.hits += 1
        return True


class Wire:
    """All the damage that is ordered; the first fault that meets a reply has it."""

    def __init__(self, seed: int = 0) -> None:
        self._rng = np.random.default_rng(seed)
        self.faults: list[WireFault] = []

    def add(self, fault: WireFault) -> WireFault:
        """Orders a fault; returns it, so that its ``hits`` can be read later."""
        self.faults.append(fault)
        return fault

    def clear(self) -> None:
        """The wire is sound again."""
        self.faults.clear()

    def carry(self, reply: Reply) -> Pieces:
        """What arrives of a reply."""
        for fault in self.faults:
            if fault.meets(reply, self._rng):
                return fault.damage(reply, self._rng)
        return [(0.0, reply.raw)]
