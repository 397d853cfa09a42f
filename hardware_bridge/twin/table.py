"""A servo's memory: the bytes of its control table, by name and by address."""

from __future__ import annotations

from collections.abc import Iterable

from hardware_bridge.servos import Register, ServoModel


class Table:
    """The control table of one servo. Access by name knows no rules: those are the servo's business.

    Decoded values are kept beside the bytes, as a servo looks at a dozen registers every tick.

    Attributes:
        values: by name, for looking at; written they are by way of the table.
        changes: how often registers that may be written were, so far: as long as it stands still, what was
            worked out from them holds.
    """

    def __init__(self, model: ServoModel) -> None:
        self.model = model
        self.size = max(register.end for register in model.registers.values())
        self._image = bytearray(self.size)
        self.values: dict[str, int] = {}
        self.changes = 0
        self._touched: dict[tuple[int, int], tuple[Register, ...]] = {}
        self.reset("eeprom")
        self.reset("ram")

    def reset(self, area: str, keep: tuple[str, ...] = ()) -> None:
        """Puts every register of an area back to its default, except those named."""
        for name, register in self.model.registers.items():
            if register.area == area and name not in keep:
                self[name] = register.default

    def __getitem__(self, name: str) -> int:
        return self.values[name]

    def __setitem__(self, name: str, value: int) -> None:
        if self.values.get(name) is value:  # small integers are one object each: most readings repeat
            return
        register = self.model.registers.get(name) or self.model.register(name)
        self._image[register.address : register.end] = register.encode(value)
        self.values[name] = value
        self.changes += register.access == "rw"

    def __contains__(self, name: str) -> bool:
        return name in self.values

    def decoded(self, address: int, data: bytes) -> list[tuple[Register, int]]:
        """The registers that a block touches, with what they would hold once it were written."""
        touched = self.touched(address, len(data))
        if not touched:
            return []
        start, end = min(address, touched[0].address), max(address + len(data), touched[-1].end)
        image = self._image[start:address] + data + self._image[address + len(data) : end]
        values = self.model.unpack(start, bytes(image))
        return [(register, values[register.name]) for register in touched]

    def put(self, address: int, data: bytes, decoded: Iterable[tuple[Register, int]]) -> None:
        """Writes a block that lies inside the table, and what ``decoded`` said of it."""
        self._image[address : address + len(data)] = data
        self.values.update({register.name: value for register, value in decoded})
        self.changes += 1

    def holds(self, address: int, length: int) -> bool:
        """Whether a block lies inside the table and is not empty."""
        return length > 0 and address >= 0 and address + length <= self.size

    def read(self, address: int, length: int) -> bytes:
        return bytes(self._image[address : address + length])

    def touched(self, address: int, length: int) -> tuple[Register, ...]:
        """The registers of which a block covers at least one byte, by address."""
        key = (address, length)
        if key not in self._touched:
            inside = [
                r for r in self.model.registers.values() if r.address < address + length and address < r.end
            ]
            self._touched[key] = tuple(sorted(inside, key=lambda register: register.address))
        return self._touched[key]
