"""Where the emulated robot's arm and rig are, in memory that other processes see."""

from __future__ import annotations

import mmap
import os
import struct
import weakref
from collections.abc import Sequence

from meld_envs.robots import widowx

_NUMBERS = struct.Struct(f"{widowx.NUM_JOINTS + 2}d")


class Posture:
    """One process writes, others read, and nobody waits: numbers of two steps may be mixed, 1 mrad apart.

    Args:
        descriptor: of the memory of an earlier one, as passed on by another process; None for new memory.

    Attributes:
        descriptor: to pass on; closed with this object.
    """

    def __init__(self, descriptor: int | None = None) -> None:
        if descriptor is None:
            descriptor = os.memfd_create("posture")
            os.ftruncate(descriptor, _NUMBERS.size)
        self.descriptor = descriptor
        weakref.finalize(self, os.close, descriptor)
        self._memory = mmap.mmap(descriptor, _NUMBERS.size)

    def write(self, angles: Sequence[float], rig: tuple[float, float]) -> None:
        """Angles ``(5,)`` rad of the joints, and rotation (rad) and translation (m) of the switch."""
        _NUMBERS.pack_into(self._memory, 0, *angles, *rig)

    def read(self) -> tuple[tuple[float, ...], tuple[float, float]]:
        """The same, as written last."""
        *angles, rotation, translation = _NUMBERS.unpack_from(self._memory)
        return tuple(angles), (rotation, translation)
