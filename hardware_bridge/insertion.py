"""Is the plug in, in which port, and since when: one small interface over four kinds of sensor.

A *probe* says what is so now: a dry contact in the plug, the carrier of a network interface, the ports of a
switch, or the twin's plug. ``InsertionSensor`` makes a state of that: a contact that lasts is an insertion,
which began with its *first* touch (contacts chatter while a plug slides in); one that opens and stays open
is none. A probe that learns of the contact late, as a carrier does, says by how much, and the insertion is
dated back by it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
import termios
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Protocol

from hardware_bridge import config


class SensorError(Exception):
    """The sensor cannot say: what, where, and what to do. ``kind``: a row of ``faults.KINDS``."""

    kind = "sensor failed"

    def __init__(self, where: str, what: str, remedy: str) -> None:
        super().__init__(f"insertion sensor {where}: {what}. {remedy}")
        self.where, self.what, self.remedy = where, what, remedy


class SensorStuck(SensorError):  # noqa: N818 - named for what happened
    """It says inserted where nothing can be."""

    kind = "sensor stuck"


class Delay(NamedTuple):
    """From the contact until a probe shows it: least and most (s)."""

    least: float = 0.0
    most: float = 0.0


class Probe(Protocol):
    """What a kind of sensor says now."""

    name: str
    #: Whether it knows the ports of the panel apart.
    tells_port: bool
    delay: Delay

    def sample(self) -> tuple[bool, ...]:
        """Contact, port by port; a single value from a probe that does not know them apart.

        Raises:
            SensorError: it cannot say.
        """

    def close(self) -> None:
        """Gives back what it holds."""


# Probes --------------------------------------------------------------------------------------------

#: Modem lines of a serial adapter, as Linux numbers them.
_LINE_BITS = {
    "cts": termios.TIOCM_CTS,
    "dsr": termios.TIOCM_DSR,
    "ri": termios.TIOCM_RI,
    "cd": termios.TIOCM_CD,
}


class DryContact:
    """A pair of wires that the plug shorts, on the modem lines of a serial adapter: 1 to 20 ms, by port.

    Args:
        device: The adapter; its settings are left alone, so it may be the one of the servos.
        pins: A line per port: cts, dsr, ri, cd.

    Raises:
        SensorError: it cannot be opened, or has no such lines.
    """

    tells_port = True
    delay = Delay(0.001, 0.020)

    def __init__(self, device: str, pins: Sequence[str]) -> None:
        self.name = f"{device} ({', '.join(pins)})"
        self._masks = [_LINE_BITS[pin] for pin in pins]
        try:
            self._file = os.open(device, os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            remedy = "Plug the adapter in; ls /dev/serial/by-id shows what is there."
            raise SensorError(self.name, f"cannot be opened ({error.strerror})", remedy) from error
        try:
            self.sample()
        except SensorError:
            self.close()
            raise

    def sample(self) -> tuple[bool, ...]:
        try:
            bits = self._lines()
        except OSError as error:
            if error.errno in (errno.ENOTTY, errno.EINVAL):
                remedy = "Use an adapter that has modem lines (FT232R, CP2102), or another kind of sensor."
                raise SensorError(self.name, "this adapter has no modem lines", remedy) from error
            remedy = "Check the adapter's cable."
            raise SensorError(self.name, f"cannot be read ({error.strerror})", remedy) from error
        return tuple(bool(bits & mask) for mask in self._masks)

    def _lines(self) -> int:
        answer = fcntl.ioctl(self._file, termios.TIOCMGET, struct.pack("I", 0))
        return int(struct.unpack("I", answer)[0])

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


class Carrier:
    """The link state of a network interface of this computer, at the plug's other end.

    It rises only when both ends have agreed on a rate: by memory 1 to 2 s at 100 Mbit/s and 2 to 4 s at
    1 Gbit/s; measure yours. It does not know which port.

    Args:
        interface: Such as ``eth1``.
        root: The folder in which the kernel shows its interfaces.
    """

    tells_port = False
    delay = Delay(1.0, 4.0)

    def __init__(self, interface: str, root: str | os.PathLike[str] = "/sys/class/net") -> None:
        self.name = interface
        self._root = Path(root)

    def sample(self) -> tuple[bool, ...]:
        path = self._root / self.name / "carrier"
        try:
            text = path.read_text(encoding="ascii").strip()
        except FileNotFoundError as error:
            there = sorted(found.name for found in self._root.glob("*")) or ["none"]
            what = f"there is no network interface {self.name}; there are {', '.join(there)}"
            raise SensorError(self.name, what, "Correct insertion.interface.") from error
        except OSError as error:
            if error.errno == errno.EINVAL:  # so the kernel answers for an interface that is down
                remedy = f"sudo ip link set {self.name} up"
                raise SensorError(self.name, "the interface is switched off", remedy) from error
            raise SensorError(self.name, f"{path} cannot be read ({error.strerror})", "") from error
        if text not in ("0", "1"):
            raise SensorError(self.name, f"{path} holds {text!r}, neither 0 nor 1", "")
        return (text == "1",)

    def close(self) -> None:
        """Nothing is held."""


class SwitchPorts:
    """The ports of a managed switch, asked by SNMP (version 2c) for their link states: knows the ports apart.

    Args:
        host: The switch, as ``name`` or ``name:port``.
        ports: Numbers of the interfaces (``ifIndex``), one per port of the panel.
        community: The word by which the switch lets itself be read.
        timeout: For one answer (s).
    """

    tells_port = True
    delay = Delay(1.0, 4.0)

    def __init__(
        self, host: str, ports: Sequence[int], community: str = "public", timeout: float = 0.3
    ) -> None:
        name, _, number = host.partition(":")
        self.name = f"switch {host}"
        if number and not number.isdigit():
            raise SensorError(
                self.name, f"{number!r} is no port", "Write insertion.host as name or name:161."
            )
        self._address = (name, int(number or 161))
        self._ports, self._community, self._request = tuple(ports), community, 0
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.settimeout(timeout)

    def sample(self) -> tuple[bool, ...]:
        self._request = self._request % 0x7FFF + 1
        question = snmp_get(self._request, self._community, [(*_OPER_STATUS, port) for port in self._ports])
        try:
            self._socket.sendto(question, self._address)
            values = self._answer()
        except OSError as error:
            remedy = "Check its address, that SNMP v2c is on, and the community."
            raise SensorError(self.name, f"does not answer ({error})", remedy) from error
        if len(values) != len(self._ports) or None in values:
            what = f"knows no interface of {', '.join(map(str, self._ports))}"
            raise SensorError(self.name, what, "Correct insertion.ports: `snmpwalk ... ifDescr` lists them.")
        return tuple(value == 1 for value in values)  # 1 is up

    def _answer(self) -> list[int | None]:
        """The answer to the last question; late ones to earlier questions are thrown away."""
        deadline = time.monotonic() + 2 * (self._socket.gettimeout() or 0.0)
        while time.monotonic() < deadline:
            request, values = snmp_values(self._socket.recv(4096))
            if request == self._request:
                return values
        raise TimeoutError("only answers to earlier questions came")

    def close(self) -> None:
        self._socket.close()


class TwinContact:
    """The twin's plug: a file that holds 0 or 1 for each port, ``0 1 0``."""

    tells_port = True
    delay = Delay(0.0, 0.0)

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.name = os.fspath(path)
        self._path = Path(path)

    def sample(self) -> tuple[bool, ...]:
        try:
            words = self._path.read_text(encoding="ascii").split()
        except OSError as error:
            remedy = "Start the twin: python -m hardware_bridge twin."
            raise SensorError(self.name, f"cannot be read ({error.strerror})", remedy) from error
        if not words or set(words) - {"0", "1"}:
            raise SensorError(self.name, f"holds {' '.join(words)!r}, not 0 or 1 for each port", "")
        return tuple(word == "1" for word in words)

    def close(self) -> None:
        """Nothing is held."""


def probe(settings: config.Insertion, servo_port: str) -> Probe:
    """The probe that a configuration names.

    Raises:
        SensorError: it cannot be had.
    """
    if settings.kind == "dry_contact":
        return DryContact(settings.device or servo_port, settings.pins)
    if settings.kind == "carrier":
        return Carrier(settings.interface or "")
    if settings.kind == "switch":
        return SwitchPorts(settings.host or "", settings.ports, settings.community)
    if settings.device is None:
        raise SensorError("twin", "insertion.device is missing", "The twin writes it into its configuration.")
    return TwinContact(settings.device)


# SNMP, as much of it as a link state needs (RFC 3416; encoding: X.690) -------------------------------

#: ifOperStatus of RFC 2863.
_OPER_STATUS = (1, 3, 6, 1, 2, 1, 2, 2, 1, 8)
_INTEGER, _STRING, _NULL, _OID, _SEQUENCE, _GET, _RESPONSE = 0x02, 0x04, 0x05, 0x06, 0x30, 0xA0, 0xA2


def snmp_get(request: int, community: str, names: Sequence[tuple[int, ...]]) -> bytes:
    """A GetRequest of version 2c for these object names."""
    bindings = b"".join(_tlv(_SEQUENCE, _tlv(_OID, _oid(name)) + _tlv(_NULL, b"")) for name in names)
    body = _integer(request) + _integer(0) + _integer(0) + _tlv(_SEQUENCE, bindings)
    return _tlv(_SEQUENCE, _integer(1) + _tlv(_STRING, community.encode()) + _tlv(_GET, body))


def snmp_values(packet: bytes) -> tuple[int, list[int | None]]:
    """Request number and values of a Response; None for what is no integer (no such object).

    Raises:
        OSError: it is no such packet, or reports an error.
    """
    try:
        _, message = next(_elements(packet))
        (_, _), (_, _), (kind, body) = _elements(message)
        (_, request), (_, status), (_, _), (_, bindings) = _elements(body)
        number, failed = int.from_bytes(request, "big"), int.from_bytes(status, "big")
        values: list[int | None] = []
        for _, binding in _elements(bindings):
            (_, _), (what, value) = _elements(binding)
            values.append(int.from_bytes(value, "big", signed=True) if what == _INTEGER else None)
    except (ValueError, StopIteration, IndexError) as error:
        raise OSError(f"its answer is no SNMP: {packet[:32].hex(' ')}") from error
    if kind != _RESPONSE or failed:
        raise OSError(f"it answered with error {failed}")
    return number, values


def _tlv(kind: int, value: bytes) -> bytes:
    size = len(value)
    if size < 0x80:
        return bytes([kind, size]) + value
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([kind, 0x80 | len(length)]) + length + value


def _integer(value: int) -> bytes:
    return _tlv(_INTEGER, value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True))


def _oid(name: Sequence[int]) -> bytes:
    encoded = bytearray([name[0] * 40 + name[1]])
    for number in name[2:]:
        digits = [number & 0x7F]
        while number := number >> 7:
            digits.append(0x80 | number & 0x7F)
        encoded += bytes(reversed(digits))
    return bytes(encoded)


def _elements(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Type and value of each element of a sequence."""
    at = 0
    while at < len(data):
        kind, length, at = data[at], data[at + 1], at + 2
        if length & 0x80:
            count = length & 0x7F
            length, at = int.from_bytes(data[at : at + count], "big"), at + count
        if at + length > len(data):
            raise ValueError("it is cut off")
        yield kind, data[at : at + length]
        at += length


# State ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Insertion:
    """What is known of the plug.

    Attributes:
        inserted: Whether it is in.
        port: In which port of the panel; None if it is in none, or the probe cannot say.
        since: When this began: the first touch, or the first parting (monotonic, s).
        uncertainty: ``since`` may be wrong by this much either way (s).
        settled: False while a contact is there that has not lasted yet, or is not there that was.
    """

    inserted: bool
    port: int | None
    since: float
    uncertainty: float
    settled: bool


@dataclass
class _Debounced:
    """One contact. ``first``: the first sample that differed from the state, since the last settling."""

    state: bool
    since: float
    gap: float = 0.0
    raw: bool = False
    steady_from: float = 0.0
    first: float | None = None
    first_gap: float = 0.0

    def feed(self, raw: bool, now: float, gap: float, debounce: float) -> None:
        if raw != self.raw:
            self.raw, self.steady_from = raw, now
        if raw != self.state and self.first is None:
            self.first, self.first_gap = now, gap
        if now - self.steady_from < debounce:
            return
        if raw != self.state and self.first is not None:
            self.state, self.since, self.gap = raw, self.first, self.first_gap
        self.first = None  # a chatter that came to nothing is forgotten


class InsertionSensor:
    """A probe's word, debounced and dated back. ``poll`` it often; it may be shared between threads.

    Args:
        source: What says so.
        debounce: How long a contact must last, or be gone (s).
        clock: Monotonic time (s).
    """

    def __init__(
        self, source: Probe, debounce: float = 0.05, clock: Callable[[], float] = time.monotonic
    ) -> None:
        if debounce < 0:
            raise ValueError(f"debounce: must be at least 0, got {debounce!r}")
        self.source, self.debounce, self._clock = source, debounce, clock
        self._lock = threading.Lock()
        self._contacts: list[_Debounced] = []
        self._last = -1.0

    @property
    def dwell(self) -> float:
        """How long to hold still at an episode's end, until the sensor has had its say (s)."""
        return self.source.delay.most + self.debounce

    def poll(self) -> Insertion:
        """Asks the probe, and says what is known now.

        Raises:
            SensorError: the probe cannot say.
        """
        with self._lock:
            raw, now = self.source.sample(), self._clock()
            if not self._contacts:
                self._contacts = [_Debounced(value, now, raw=value, steady_from=now) for value in raw]
                self._last = now
            for contact, value in zip(self._contacts, raw):
                contact.feed(value, now, now - self._last, self.debounce)
            self._last = now
            return self._state()

    def _state(self) -> Insertion:
        least, most = self.source.delay
        made = [index for index, contact in enumerate(self._contacts) if contact.state]
        # In a port: since that contact; in none: since the last one parted.
        deciding = self._contacts[made[0]] if made else max(self._contacts, key=lambda item: item.since)
        port = made[0] if made and self.source.tells_port else None
        return Insertion(
            inserted=bool(made),
            port=port,
            since=deciding.since - (least + most) / 2,
            uncertainty=(most - least) / 2 + deciding.gap,
            settled=all(contact.first is None for contact in self._contacts),
        )

    def check_free(self) -> None:
        """To be called before an episode: nothing may be in, and nothing may touch.

        Raises:
            SensorStuck: it says that the plug is in.
            SensorError: it cannot say.
        """
        state = self.poll()
        if state.inserted or not state.settled:
            where = f"{self.source.name}" + (f", port {state.port}" if state.port is not None else "")
            what = "it says that the plug is in before the episode began"
            raise SensorStuck(where, what, "Pull the plug; if it is out, look for a short in its wiring.")

    def close(self) -> None:
        """Gives the probe back."""
        self.source.close()


class Watch:
    """A thread that polls a sensor, for loops slower than contacts. Use it as a context manager.

    Args:
        sensor: Which.
        period: From poll to poll (s).
    """

    def __init__(self, sensor: InsertionSensor, period: float = 0.01) -> None:
        self.sensor, self.period = sensor, period
        self._newest: Insertion | None = None
        self._polled = -1.0
        self._error: BaseException | None = None
        self._stop = threading.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="insertion sensor", daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(2.0)  # a probe that hangs is left behind

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._newest, self._error = self.sensor.poll(), None
            except Exception as error:  # noqa: BLE001 - read() raises it where it is seen
                self._error = error
            self._polled = time.monotonic()
            self._ready.set()
            self._stop.wait(self.period)

    def read(self, timeout: float = 1.0) -> Insertion:
        """What is known now.

        Raises:
            SensorError: the probe cannot say.
            SensorError: it has said nothing for ``timeout`` s.
        """
        if not self._ready.wait(timeout) or time.monotonic() - self._polled > timeout:
            name = self.sensor.source.name
            raise SensorError(name, f"silent for {timeout} s", "Look at what it is read from.")
        if self._error is not None:
            raise self._error
        assert self._newest is not None
        return self._newest
