"""Packets of both protocols: the manual's bytes, random round trips, and damage that must not pass."""

from __future__ import annotations

import numpy as np
import pytest

from hardware_bridge import protocol
from hardware_bridge.protocol import (
    PROTOCOL_1,
    PROTOCOL_2,
    PROTOCOLS,
    ChecksumError,
    Decoder,
    Instruction,
    Junk,
    LengthError,
    Packet,
    StatusError,
    StuffingError,
    as_status,
)

GOLDEN = {
    "ping 1": (PROTOCOL_1.ping(1), "FF FF 01 02 01 FB"),
    "ping 1 answered": (PROTOCOL_1.status(1), "FF FF 01 02 00 FC"),
    "read 1, 36, 8": (PROTOCOL_1.read(1, 36, 8), "FF FF 01 04 02 24 08 CC"),
    "all torque off": (PROTOCOL_1.write(254, 24, b"\x00"), "FF FF FE 04 03 18 00 E2"),
    "overload and overheating": (PROTOCOL_1.status(1, 0x24), "FF FF 01 02 24 D8"),
    "sync write": (
        PROTOCOL_1.sync_write(30, 4, {1: bytes([0, 8, 100, 0]), 2: bytes([0, 8, 100, 0])}),
        "FF FF FE 0E 83 1E 04 01 00 08 64 00 02 00 08 64 00 73",
    ),
    "bulk read": (
        PROTOCOL_1.bulk_read([(servo_id, 36, 8) for servo_id in (1, 2, 3, 4)]),
        "FF FF FE 0F 92 00 08 01 24 08 02 24 08 03 24 08 04 24 A6",
    ),
    "the manual's write": (PROTOCOL_1.write(1, 12, b"\x64\xaa"), "FF FF 01 05 03 0C 64 AA DC"),
    "ping 1, protocol 2": (PROTOCOL_2.ping(1), "FF FF FD 00 01 03 00 01 19 4E"),
    "sync read": (
        PROTOCOL_2.sync_read(132, 4, (1, 2, 3)),
        "FF FF FD 00 FE 0A 00 82 84 00 04 00 01 02 03 2A 6C",
    ),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_packets(name):
    built, expected = GOLDEN[name]
    assert built.hex(" ").upper() == expected
    (packet,) = Decoder().feed(built)
    assert isinstance(packet, Packet) and packet.raw == built


def test_crc_table():
    assert (protocol._CRC[1], protocol._CRC[255]) == (0x8005, 0x0202)


def random_data(rng: np.random.Generator, length: int) -> bytes:
    """Bytes in which header-like sequences are frequent."""
    return bytes(rng.choice([0xFF, 0xFD, 0xFE, 0x00, 0x01, int(rng.integers(256))]) for _ in range(length))


def random_status(rng: np.random.Generator, version: int) -> bytes:
    data = random_data(rng, int(rng.integers(0, 20)))
    return PROTOCOLS[version].status(int(rng.integers(0, 253)), int(rng.integers(0, 128)), data)


@pytest.mark.parametrize("version", [1, 2])
def test_what_is_encoded_is_decoded(version):
    rng = np.random.default_rng(version)
    for _ in range(300):
        servo_id, error = int(rng.integers(0, 253)), int(rng.integers(0, 128))
        data = random_data(rng, int(rng.integers(0, 40)))
        raw = PROTOCOLS[version].status(servo_id, error, data)
        (packet,) = Decoder((version,)).feed(raw)
        status = as_status(packet)
        assert (status.id, status.error, status.data, status.raw) == (servo_id, error, data, raw)


def test_protocol_2_never_shows_a_header_inside_a_packet():
    rng = np.random.default_rng(3)
    for _ in range(200):
        raw = PROTOCOL_2.write(1, 116, random_data(rng, 30))
        assert b"\xff\xff\xfd" not in raw[4:].replace(b"\xff\xff\xfd\xfd", b"")


@pytest.mark.parametrize("seed", range(5))
def test_a_stream_of_both_protocols_and_junk_in_any_pieces(seed):
    rng = np.random.default_rng(seed)
    sent, stream = [], b""
    for _ in range(40):
        if rng.random() < 0.3:  # junk that cannot be taken for the start of a packet
            stream += bytes(rng.integers(0, 255, size=int(rng.integers(1, 6)), dtype=np.uint8))
        raw = random_status(rng, int(rng.integers(1, 3)))
        sent.append(raw)
        stream += raw
    decoder, events, start = Decoder(), [], 0
    while start < len(stream):
        end = start + int(rng.integers(1, 12))
        events += decoder.feed(stream[start:end])
        start = end
    assert [event.raw for event in events if isinstance(event, Packet)] == sent
    assert not [event for event in events if not isinstance(event, Packet | Junk)]
    total = sum(len(event.raw) for event in events) + len(decoder.pending)
    assert total == len(stream), "every byte is accounted for"


@pytest.mark.parametrize("version", [1, 2])
def test_no_flipped_bit_passes(version):
    """Nor makes the packet behind it unreadable, unless its length now reaches into that."""
    raw = PROTOCOLS[version].status(7, 0, bytes([1, 8, 0, 0, 30, 4, 120, 40]))
    for bit in range(8 * len(raw)):
        damaged = bytearray(raw)
        damaged[bit // 8] ^= 1 << bit % 8
        decoder = Decoder((version,), longest=32)
        events = decoder.feed(bytes(damaged))
        assert not [event for event in events if isinstance(event, Packet)], f"bit {bit} passed"
        events = decoder.feed(40 * b"\x00" + raw)
        assert [event.raw for event in events if isinstance(event, Packet)] == [raw], f"after bit {bit}"


def test_errors_name_the_reason_and_the_bytes():
    raw = bytearray(PROTOCOL_1.status(1, 0, b"\x01\x08"))
    raw[-1] ^= 1
    (error,) = Decoder().feed(bytes(raw))
    assert isinstance(error, ChecksumError) and error.raw == bytes(raw) and raw.hex(" ") in str(error)

    (error, *_) = Decoder(longest=32).feed(bytes.fromhex("FFFF01C800"))
    assert isinstance(error, LengthError) and "204" in error.reason

    body = bytes.fromhex("FFFFFD000108005500FFFFFD01")  # an FF FF FD without its FD
    (error, *_) = Decoder().feed(body + protocol._words(protocol.crc16(body)))
    assert isinstance(error, StuffingError)


def test_an_instruction_is_no_status():
    for raw in (PROTOCOL_2.ping(1), PROTOCOL_1.ping(254), PROTOCOL_1.status(1, 0x80)):
        (packet,) = Decoder().feed(raw)
        with pytest.raises(StatusError):
            as_status(packet)


def test_an_unfinished_packet_waits_and_can_be_dropped():
    raw = PROTOCOL_1.status(1, 0, b"\x01\x08")
    decoder = Decoder()
    assert decoder.feed(raw[:-1]) == [] and decoder.pending == raw[:-1]
    assert decoder.reset() == raw[:-1] and decoder.pending == b""
    assert [event.raw for event in decoder.feed(raw)] == [raw]


@pytest.mark.parametrize(
    "build",
    [
        lambda: PROTOCOL_1.ping(255),
        lambda: PROTOCOL_1.ping(-1),
        lambda: PROTOCOL_1.instruction(1, Instruction.REBOOT),
        lambda: PROTOCOL_1.instruction(1, Instruction.SYNC_READ),
        lambda: PROTOCOL_1.sync_write(30, 4, {1: b"\x00"}),
        lambda: PROTOCOL_1.sync_write(30, 4, {}),
        lambda: PROTOCOL_1.sync_write(30, 1, {254: b"\x00"}),
        lambda: PROTOCOL_1.bulk_read([(254, 36, 8)]),
        lambda: PROTOCOL_1.write(1, 0, bytes(300)),
    ],
)
def test_what_no_servo_could_understand_is_not_built(build):
    with pytest.raises(ValueError, match=r"id|Protocol 1|sync write|parameter"):
        build()


def test_error_bytes_in_words():
    assert protocol.error_names(1, 0x24) == ("overheating", "overload")
    assert protocol.error_names(2, 0x80 | 6) == ("data_limit", "alert")
    assert protocol.refusal(1, 0x24) == 0 and protocol.refusal(1, 0x22) == 0x02
    assert protocol.refusal(2, 0x80) == 0 and protocol.refusal(2, 0x87) == 7
