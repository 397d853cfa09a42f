"""The wire: Dynamixel Protocol 1 and 2 as bytes, both directions, nothing else.

Pure functions of bytes: no port, no clock, no register names. ``PROTOCOLS[1]`` and ``PROTOCOLS[2]`` encode;
a ``Decoder`` is fed whatever arrives and says, byte for byte, what it was: packets, junk, or damaged packets
with the reason. Source: Robotis e-manual, "DYNAMIXEL Protocol 1.0" and "2.0".
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from enum import IntEnum, IntFlag
from typing import ClassVar, NamedTuple

#: All servos obey packets to this id and none answers, except where an instruction says otherwise.
BROADCAST = 0xFE

HEADER = b"\xff\xff"
HEADER_2 = b"\xff\xff\xfd\x00"


class Instruction(IntEnum):
    """Instruction bytes. Protocol 1 knows only some of them and its encoder refuses the others."""

    PING = 0x01
    READ = 0x02
    WRITE = 0x03
    REG_WRITE = 0x04
    ACTION = 0x05
    FACTORY_RESET = 0x06
    REBOOT = 0x08
    CLEAR = 0x10
    STATUS = 0x55
    SYNC_READ = 0x82
    SYNC_WRITE = 0x83
    BULK_READ = 0x92
    BULK_WRITE = 0x93


class Error1(IntFlag):
    """Error byte of a Protocol 1 status packet: several bits may be set at once."""

    VOLTAGE = 0x01
    ANGLE_LIMIT = 0x02
    OVERHEATING = 0x04
    RANGE = 0x08
    CHECKSUM = 0x10
    OVERLOAD = 0x20
    INSTRUCTION = 0x40


class Error2(IntEnum):
    """Low seven bits of the error byte of a Protocol 2 status packet: one code at a time."""

    NONE = 0
    RESULT_FAIL = 1
    INSTRUCTION = 2
    CRC = 3
    DATA_RANGE = 4
    DATA_LENGTH = 5
    DATA_LIMIT = 6
    ACCESS = 7


#: Protocol 2, error byte: "read Hardware Error Status (70)".
ALERT = 0x80

#: Protocol 1 error bits about this packet (it was not obeyed), as opposed to those about the servo's health.
REFUSALS_1 = Error1.ANGLE_LIMIT | Error1.RANGE | Error1.CHECKSUM | Error1.INSTRUCTION


class ProtocolError(Exception):
    """Bytes that are no valid packet: what was wrong (``reason``) and the bytes themselves (``raw``)."""

    kind: ClassVar[str] = "protocol"

    def __init__(self, reason: str, raw: bytes) -> None:
        super().__init__(f"{reason}: {raw.hex(' ')}")
        self.reason = reason
        self.raw = raw


class LengthError(ProtocolError):
    """The length field cannot be true, or is not the one that the request calls for."""

    kind = "length"


class ChecksumError(ProtocolError):
    """Checksum (Protocol 1) or CRC (Protocol 2) disagrees with the bytes."""

    kind = "checksum"


class StuffingError(ProtocolError):
    """Protocol 2: ``FF FF FD`` inside a packet without the extra ``FD`` that must follow it."""

    kind = "stuffing"


class StatusError(ProtocolError):
    """A sound packet that is no status packet, for example our own instruction echoed by the adapter."""

    kind = "status"


class Packet(NamedTuple):
    """A sound packet. ``code`` is an instruction or Protocol 1's error byte: the wire does not tell which."""

    protocol: int
    id: int
    code: int
    params: bytes  # after unstuffing
    raw: bytes


class Junk(NamedTuple):
    """Bytes between packets that belong to none."""

    raw: bytes


class Status(NamedTuple):
    """What a servo answered: ``error`` is ``Error1`` bits, or ``Error2`` code plus ``ALERT``."""

    protocol: int
    id: int
    error: int
    data: bytes
    raw: bytes = b""


def check_id(servo_id: int, *, broadcast: bool = True) -> int:
    """Returns the id if a packet can be sent to it.

    Raises:
        ValueError: if it is not in 0..253, nor the broadcast id where that is allowed.
    """
    if 0 <= servo_id <= 0xFD or (broadcast and servo_id == BROADCAST):
        return servo_id
    raise ValueError(f"servo id {servo_id} is not in 0..253" + (" (or 254, broadcast)" if broadcast else ""))


def refusal(protocol: int, error: int) -> int:
    """The part of an error byte that says this packet was not obeyed; 0 if it was."""
    return error & (int(REFUSALS_1) if protocol == 1 else 0x7F)


def error_names(protocol: int, error: int) -> tuple[str, ...]:
    """The words for an error byte, for messages and logs: ``("overload", "overheating")``."""
    if protocol == 1:
        names = [bit.name.lower() for bit in Error1 if error & bit and bit.name]
        return (*names, "bit 7") if error & 0x80 else tuple(names)
    code = error & 0x7F
    known = code in {int(item) for item in Error2}
    names = [] if not code else [Error2(code).name.lower() if known else f"code {code}"]
    return (*names, "alert") if error & ALERT else tuple(names)


# ---------------------------------------------------------------- checksums and stuffing


def checksum(body: bytes) -> int:
    """Protocol 1: the low byte of the inverted sum of everything after the header."""
    return ~sum(body) & 0xFF


def _crc_table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        crc = byte << 8
        for _ in range(8):
            crc = (crc << 1) ^ (0x8005 if crc & 0x8000 else 0)
        table.append(crc & 0xFFFF)
    return tuple(table)


_CRC = _crc_table()


def crc16(packet: bytes) -> int:
    """Protocol 2: polynomial 0x8005, start 0, not reflected, from the first ``FF`` to the last parameter."""
    crc = 0
    for byte in packet:
        crc = ((crc << 8) & 0xFFFF) ^ _CRC[(crc >> 8) ^ byte]
    return crc


def stuff(body: bytes) -> bytes:
    """Instruction and parameters of Protocol 2 with an ``FD`` after each ``FF FF FD``."""
    return body.replace(b"\xff\xff\xfd", b"\xff\xff\xfd\xfd")


def unstuff(body: bytes) -> bytes:
    """The inverse of ``stuff``.

    Raises:
        StuffingError: if the body holds a header that was not stuffed.
    """
    plain = body.replace(b"\xff\xff\xfd\xfd", b"\xff\xff\xfd")
    if stuff(plain) != body:
        raise StuffingError("unstuffed header inside a packet", body)
    return plain


# ---------------------------------------------------------------- encoding


def _words(*values: int) -> bytes:
    return b"".join(value.to_bytes(2, "little") for value in values)


def _same_length(values: Mapping[int, bytes], length: int) -> None:
    wrong = {servo_id: len(data) for servo_id, data in values.items() if len(data) != length}
    if not values or wrong:
        raise ValueError(f"sync write of {length} bytes each: got {wrong or 'no servo'}")


class Protocol(ABC):
    """Builds packets. Ids are checked; what a register may hold is not known here."""

    version: ClassVar[int]
    #: Bytes of a status packet without data.
    status_overhead: ClassVar[int]
    instructions: ClassVar[frozenset[Instruction]]
    #: How many bytes an address or a length takes in parameters.
    word: ClassVar[int]

    @abstractmethod
    def _frame(self, servo_id: int, code: int, params: bytes) -> bytes:
        """Header, id, length, code, parameters and check."""

    @abstractmethod
    def status(self, servo_id: int, error: int = 0, data: bytes = b"") -> bytes:
        """What a servo sends."""

    def instruction(self, servo_id: int, instruction: Instruction, params: bytes = b"") -> bytes:
        """Any instruction packet.

        Raises:
            ValueError: if the id, the instruction or the length does not exist in this protocol.
        """
        if instruction not in self.instructions:
            raise ValueError(f"Protocol {self.version} has no {Instruction(instruction).name}")
        return self._frame(check_id(servo_id), instruction, params)

    def _number(self, value: int) -> bytes:
        return value.to_bytes(self.word, "little")

    def ping(self, servo_id: int) -> bytes:
        return self.instruction(servo_id, Instruction.PING)

    def read(self, servo_id: int, address: int, length: int) -> bytes:
        return self.instruction(servo_id, Instruction.READ, self._number(address) + self._number(length))

    def write(self, servo_id: int, address: int, data: bytes) -> bytes:
        return self.instruction(servo_id, Instruction.WRITE, self._number(address) + data)

    def reg_write(self, servo_id: int, address: int, data: bytes) -> bytes:
        return self.instruction(servo_id, Instruction.REG_WRITE, self._number(address) + data)

    def action(self, servo_id: int = BROADCAST) -> bytes:
        return self.instruction(servo_id, Instruction.ACTION)

    def sync_write(self, address: int, length: int, values: Mapping[int, bytes]) -> bytes:
        """One packet that writes ``length`` bytes at ``address`` of each servo; nobody answers."""
        _same_length(values, length)
        params = self._number(address) + self._number(length)
        for servo_id, data in values.items():
            params += bytes([check_id(servo_id, broadcast=False)]) + data
        return self.instruction(BROADCAST, Instruction.SYNC_WRITE, params)

    @abstractmethod
    def bulk_read(self, requests: Sequence[tuple[int, int, int]]) -> bytes:
        """One packet that asks several servos: ``(id, address, length)`` each, in the order of answering."""


class Protocol1(Protocol):
    """``FF FF | ID | LEN | INST or ERR | params | CHK``."""

    version = 1
    status_overhead = 6
    word = 1
    instructions = frozenset(
        {
            Instruction.PING,
            Instruction.READ,
            Instruction.WRITE,
            Instruction.REG_WRITE,
            Instruction.ACTION,
            Instruction.FACTORY_RESET,
            Instruction.SYNC_WRITE,
            Instruction.BULK_READ,
        }
    )

    def _frame(self, servo_id: int, code: int, params: bytes) -> bytes:
        if len(params) > 0xFD:
            raise ValueError(f"{len(params)} parameter bytes; a Protocol 1 packet holds 253 at most")
        body = bytes([servo_id, len(params) + 2, code]) + params
        return HEADER + body + bytes([checksum(body)])

    def status(self, servo_id: int, error: int = 0, data: bytes = b"") -> bytes:
        return self._frame(servo_id, error, data)

    def bulk_read(self, requests: Sequence[tuple[int, int, int]]) -> bytes:
        params = b"\x00"
        for servo_id, address, length in requests:
            params += bytes([length, check_id(servo_id, broadcast=False), address])
        return self.instruction(BROADCAST, Instruction.BULK_READ, params)


class Protocol2(Protocol):
    """``FF FF FD 00 | ID | LEN LEN | INST | params | CRC CRC``; a status has instruction 55 and ERR first."""

    version = 2
    status_overhead = 11
    word = 2
    instructions = frozenset(Instruction)

    def _frame(self, servo_id: int, code: int, params: bytes) -> bytes:
        body = stuff(bytes([code]) + params)
        if len(body) + 2 > 0xFFFF:
            raise ValueError(f"{len(params)} parameter bytes do not fit into a Protocol 2 packet")
        packet = HEADER_2 + bytes([servo_id]) + _words(len(body) + 2) + body
        return packet + _words(crc16(packet))

    def status(self, servo_id: int, error: int = 0, data: bytes = b"") -> bytes:
        return self._frame(servo_id, Instruction.STATUS, bytes([error]) + data)

    def bulk_read(self, requests: Sequence[tuple[int, int, int]]) -> bytes:
        params = b""
        for servo_id, address, length in requests:
            params += bytes([check_id(servo_id, broadcast=False)]) + _words(address, length)
        return self.instruction(BROADCAST, Instruction.BULK_READ, params)

    def sync_read(self, address: int, length: int, ids: Sequence[int]) -> bytes:
        """One packet that asks each of ``ids``, in this order, for the same registers."""
        params = _words(address, length) + bytes(check_id(servo_id, broadcast=False) for servo_id in ids)
        return self.instruction(BROADCAST, Instruction.SYNC_READ, params)

    def reboot(self, servo_id: int) -> bytes:
        return self.instruction(servo_id, Instruction.REBOOT)


PROTOCOL_1 = Protocol1()
PROTOCOL_2 = Protocol2()
PROTOCOLS: dict[int, Protocol] = {1: PROTOCOL_1, 2: PROTOCOL_2}


# ---------------------------------------------------------------- decoding


def as_status(packet: Packet) -> Status:
    """A packet that is known to come from a servo.

    Raises:
        StatusError: if it is no status packet.
    """
    if packet.id == BROADCAST:
        raise StatusError("a status packet from the broadcast id", packet.raw)
    if packet.protocol == 1:
        if packet.code & 0x80:
            raise StatusError("error byte with bit 7 set, which is always 0", packet.raw)
        return Status(1, packet.id, packet.code, packet.params, packet.raw)
    if packet.code != Instruction.STATUS or not packet.params:
        raise StatusError("not a status packet", packet.raw)
    return Status(2, packet.id, packet.params[0], packet.params[1:], packet.raw)


Event = Packet | Junk | ProtocolError


class Decoder:
    """Finds packets in a stream of bytes that arrives in pieces of any size.

    Nothing is lost without a word: every byte fed ends in a ``Packet``, in ``Junk``, in a ``ProtocolError``
    (returned, not raised: the stream goes on), or is still ``pending``.

    Args:
        protocols: Which of the two may occur. On a mixed bus both do: ``FF FF FD 00`` can only be the second,
            as the length 00 does not exist in the first.
        longest: Greatest plausible packet in bytes; a length field that claims more is an error at once,
            instead of a wait for bytes that will never come.
    """

    def __init__(self, protocols: Sequence[int] = (1, 2), longest: int = 1024) -> None:
        self._protocols = frozenset(protocols)
        self._longest = longest
        self._buffer = bytearray()
        self._junk = bytearray()

    @property
    def pending(self) -> bytes:
        """Bytes that may yet become a packet."""
        return bytes(self._buffer)

    def reset(self) -> bytes:
        """Forgets the bytes that were waiting for more, and returns them."""
        dropped = bytes(self._junk + self._buffer)
        self._junk.clear()
        self._buffer.clear()
        return dropped

    def feed(self, data: bytes) -> list[Event]:
        """Everything that became clear with these bytes, in the order of the wire."""
        self._buffer += data
        events: list[Event] = []
        while self._skip_to_header():
            size = self._size()
            if size is None or (not isinstance(size, ProtocolError) and len(self._buffer) < size):
                break
            self._flush_junk(events)
            events.append(self._damaged(size) if isinstance(size, ProtocolError) else self._take(size))
        self._flush_junk(events)
        return events

    def _flush_junk(self, events: list[Event]) -> None:
        if self._junk:
            events.append(Junk(bytes(self._junk)))
            self._junk.clear()

    def _skip(self, count: int) -> None:
        self._junk += self._buffer[:count]
        del self._buffer[:count]

    def _skip_to_header(self) -> bool:
        """Moves bytes that cannot start a packet to the junk; whether a whole header stands at the front."""
        while True:
            start = self._buffer.find(HEADER)
            if start < 0:
                self._skip(len(self._buffer) - self._buffer.endswith(b"\xff"))
                return False
            if start:
                self._skip(start)
            known = self._header_known()
            if known is not False:
                return known is True
            self._skip(1)

    def _header_known(self) -> bool | None:
        """Whether the buffer starts with the header of a protocol that may occur; None: too early to say."""
        buffer = self._buffer
        if len(buffer) < 4:
            return False if len(buffer) == 3 and buffer[2] == 0xFF else None
        second = buffer.startswith(HEADER_2)
        return (2 if second else 1) in self._protocols and buffer[2] != 0xFF

    def _size(self) -> int | LengthError | None:
        """Bytes of the packet at the front, as it claims."""
        buffer = self._buffer
        if not buffer.startswith(HEADER_2):
            size, least = buffer[3] + 4, 6
        elif len(buffer) < 7:
            return None
        else:
            size, least = int.from_bytes(buffer[5:7], "little") + 7, 10
        if least <= size <= self._longest:
            return size
        return LengthError(
            f"a packet of {size} bytes (possible: {least} to {self._longest})", bytes(buffer[:7])
        )

    def _damaged(self, error: ProtocolError) -> ProtocolError:
        """Drops a damaged packet up to where the next one may start inside it."""
        inside = self._buffer.find(HEADER, 1, len(error.raw) + 1)
        end = inside if inside > 0 else len(error.raw)
        del self._buffer[: max(end, 1)]
        return error

    def _take(self, size: int) -> Packet | ProtocolError:
        raw = bytes(self._buffer[:size])
        try:
            packet = _unpack(raw)
        except ProtocolError as error:
            return self._damaged(error)
        del self._buffer[:size]
        return packet


def _unpack(raw: bytes) -> Packet:
    if not raw.startswith(HEADER_2):
        if raw[-1] != checksum(raw[2:-1]):
            raise ChecksumError(f"checksum {raw[-1]:02x}, should be {checksum(raw[2:-1]):02x}", raw)
        return Packet(1, raw[2], raw[4], raw[5:-1], raw)
    crc = crc16(raw[:-2])
    if raw[-2:] != _words(crc):
        raise ChecksumError(f"CRC {raw[-2:].hex()}, should be {_words(crc).hex()}", raw)
    try:
        body = unstuff(raw[7:-2])
    except StuffingError as error:
        raise StuffingError(error.reason, raw) from None
    return Packet(2, raw[4], body[0], body[1:], raw)
