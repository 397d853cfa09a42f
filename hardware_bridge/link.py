"""Strict transport: one transaction at a time on a serial port, with a deadline, and nothing taken on trust.

What this gives that the maker's SDK does not: waiting without spinning; deadlines on the monotonic clock; id,
length and checksum of every reply checked; a reply that comes too late never taken for the answer to the next
question; every failure of the port one exception; a second program kept out; a record of every byte.

Late replies. Protocol 1 has no sequence number, so after a missing reply the servo "owes" one. Before it is
asked again, its worst latency is waited out, the input is drained, and a read of a length that it does not
owe is sent: the line keeps the order of bytes, so once that answer is here, nothing older can follow. Replies
of servos that owe one are counted while others are asked, and no answer to what is asked then; whoever asked
gets one, if he said so (``late``) and it can only be the answer to that one question.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import select
import termios
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import NamedTuple

import serial

from hardware_bridge.errors import (
    BadReply,
    LinkError,
    NoReply,
    PortBusy,
    PortGone,
    PortMissing,
    Refused,
    Reply,
    ReplyError,
    WriteBlocked,
)
from hardware_bridge.protocol import (
    BROADCAST,
    PROTOCOL_2,
    PROTOCOLS,
    Decoder,
    Error1,
    Error2,
    Event,
    Junk,
    Packet,
    ProtocolError,
    Status,
    as_status,
    error_names,
    refusal,
)
from hardware_bridge.servos import ServoRef

#: Greatest return delay a servo can be set to (register value 254), in s.
MAX_RETURN_DELAY = 254 * 2e-6
#: Lengths of the reads that settle what a servo owes, all from address 0 (model number and what follows): so
#: many that the oldest answer has come, or never will, before one has to be used again.
SETTLE_LENGTHS = (4, 3, *range(5, 15))

#: For so long after a late answer (s) the next ones are expected to be late as well.
SLOW = 0.5

_PORT_ERRORS = (OSError, serial.SerialException, termios.error)


@dataclass(frozen=True)
class Transaction:
    """One attempt, as it went over the wire: what a recorder keeps. Times are monotonic seconds."""

    what: str
    protocol: int
    attempt: int
    sent: bytes
    received: bytes
    started: float
    ended: float
    deadline: float
    outcome: str  # "ok", or the error's kind


class _Wait:
    """Until when answers are waited for.

    Args:
        started, deadline: of the question (monotonic, s).
        silent: until then, if that is later, while nobody answers at all.
        begun: until then, if that is later, once somebody did.

    Attributes:
        due: until when, as things are (monotonic, s).
    """

    def __init__(self, started: float, deadline: float, silent: float, begun: float) -> None:
        self._deadline, self._usual, self._begun = deadline, deadline - started, begun
        self.due = max(deadline, silent)

    def is_late(self) -> bool:
        """Whether what came now is; the rest has as much time as all had, if anybody has more than that."""
        now = time.monotonic()
        if self.due > self._deadline:
            self.due = max(now + self._usual, self._begun)
        return now > self._deadline


Record = Callable[[Transaction], None]
#: Gets the answer to a question that was given up, if it comes after all: amid another transaction.
Late = Callable[[Reply], None]


class _Owed(NamedTuple):
    """A question without an answer: when it was sent (monotonic, s), and who wants to have that after all."""

    sent_at: float
    late: Late | None


class Link:
    """A port with servos behind it. Safe to share between threads; one process only.

    Args:
        port: Device path; use one of ``/dev/serial/by-id`` that stays the same.
        baud: Bits per second.
        latency_timer: Of the USB adapter (s): FTDI's default is 16 ms, 1 ms is what the bridge wants.
        slack: Added to every deadline for a busy computer (s).
        retries: Further attempts after a missing or damaged reply.
        write_timeout: How long bytes may wait to be taken by the port (s).
        record: Called with every attempt, from the thread that asked.
        serve: Called before replies are waited for, with ``sent``: whoever answers in the same thread does so
            then (a twin in lockstep).

    Attributes:
        counts: Outcomes of ``attempts`` by kind; also ``junk bytes``, ``stale bytes``, ``retries``, and of
            replies that nobody waited for: ``late``, ``doubled`` (one that came before), ``foreign``.
        counts_by_id: The same outcomes, by the id that was asked alone, or of several the one that failed.
        sent: Bytes written so far.

    Raises:
        PortMissing, PortBusy: at once, if the port cannot be had.
    """

    def __init__(
        self,
        port: str | os.PathLike[str],
        baud: int = 1_000_000,
        *,
        latency_timer: float = 1e-3,
        slack: float = 2e-3,
        retries: int = 2,
        write_timeout: float = 0.2,
        record: Record | None = None,
        serve: Callable[[int], None] | None = None,
    ) -> None:
        if retries < 0 or min(latency_timer, slack, write_timeout) < 0:
            raise ValueError(
                f"{retries=}, {latency_timer=}, {slack=}, {write_timeout=}: none may be negative"
            )
        self.port = os.fspath(port)
        self.baud = baud
        self.latency_timer = latency_timer
        self.slack = slack
        self.retries = retries
        self.write_timeout = write_timeout
        self.record = record
        self.serve = serve
        self.counts: Counter[str] = Counter()
        self.counts_by_id: dict[int, Counter[str]] = {}
        self.sent = 0
        self._repeat_until = self._patience = math.inf
        self._lock = threading.RLock()
        self._owed: dict[int, dict[int, list[_Owed]]] = {}  # by id and length: replies that may still come
        self._quiet_from = 0.0  # by when anything owed should have come
        self._late_at = -math.inf  # when an answer came late last: this computer is slow (monotonic, s)
        self._received = bytearray()  # of this attempt
        self._last: deque[bytes] = deque(maxlen=8)  # replies, by which doubled ones are known
        self._serial: serial.Serial | None = _open(self.port, baud)

    # ------------------------------------------------------------ life

    def close(self) -> None:
        """Gives the port back; calling it twice is harmless."""
        with self._lock:
            if self._serial is not None:
                port, self._serial = self._serial, None
                try:
                    port.close()
                except _PORT_ERRORS:
                    self.counts["close failed"] += 1  # it is gone anyway

    @property
    def is_open(self) -> bool:
        return self._serial is not None

    def __enter__(self) -> Link:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextlib.contextmanager
    def tuned(self, baud: int) -> Iterator[None]:
        """At another rate for a while, to look who is there; nobody else may use the link meanwhile.

        Raises:
            PortError: the port cannot, or is gone.
        """
        with self._lock:
            before = self.baud
            try:
                self._tune(baud)
                yield
            finally:
                if self.is_open:
                    self._tune(before)

    @contextlib.contextmanager
    def hurried(self, until: float, patience: float = -math.inf) -> Iterator[None]:
        """Meanwhile no question is repeated after that time (monotonic, s); each is asked once at least.

        A chained read, which is not repeated at all, waits until then if nobody answers. For ``SLOW`` s after
        a late answer every question does, until ``patience`` if that is later: on a computer that is kept
        from its work a second question would be late as well, and would have to be settled first.
        """
        with self._lock:
            before = self._repeat_until, self._patience
            self._repeat_until, self._patience = until, max(until, patience)
            try:
                yield
            finally:
                self._repeat_until, self._patience = before

    def _tune(self, baud: int) -> None:
        self._fd()
        assert self._serial is not None
        try:
            self._serial.baudrate = self.baud = baud
        except _PORT_ERRORS as error:
            raise self._gone(error) from error

    # ------------------------------------------------------------ registers by name

    def read_registers(
        self, servo: ServoRef, first: str, last: str | None = None
    ) -> tuple[dict[str, int], Reply]:
        """Registers from ``first`` to ``last`` in one transaction: values in ticks by name, and the reply."""
        address, length = servo.model.span(first, last or first)
        reply = self.read(servo.protocol, servo.id, address, length)
        return servo.model.unpack(address, reply.data), reply

    def write_registers(self, servo: ServoRef, **values: int) -> Reply:
        """Registers that adjoin each other, in one transaction, all or none."""
        address, data = servo.model.pack(values)
        return self.write(servo.protocol, servo.id, address, data)

    def sync_write_registers(self, values: Mapping[ServoRef, Mapping[str, int]]) -> None:
        """The same registers of several servos in one packet per protocol and layout; nobody answers."""
        groups: dict[tuple[int, int, int], dict[int, bytes]] = {}
        for servo, registers in values.items():
            address, data = servo.model.pack(registers)
            groups.setdefault((servo.protocol, address, len(data)), {})[servo.id] = data
        for (protocol, address, length), parts in groups.items():
            self.sync_write(protocol, address, length, parts)

    # ------------------------------------------------------------ instructions

    def ping(self, protocol: int, servo_id: int, *, retries: int | None = None) -> Reply:
        """Whether it is there. With Protocol 2 the data are model number (2 bytes) and firmware (1)."""
        length = 0 if protocol == 1 else 3
        packet = PROTOCOLS[protocol].ping(servo_id)
        return self._one(protocol, f"ping id {servo_id}", packet, servo_id, length, retries)

    def read(
        self,
        protocol: int,
        servo_id: int,
        address: int,
        length: int,
        *,
        retries: int | None = None,
        late: Late | None = None,
    ) -> Reply:
        """``length`` bytes from ``address``."""
        if length < 1:
            raise ValueError(f"a read of {length} bytes from id {servo_id}")
        what = f"read {length} bytes at {address} of id {servo_id}"
        packet = PROTOCOLS[protocol].read(servo_id, address, length)
        return self._one(protocol, what, packet, servo_id, length, retries, late)

    def write(self, protocol: int, servo_id: int, address: int, data: bytes) -> Reply:
        """Writes and waits for the acknowledgement, which proves arrival and not obedience."""
        what = f"write {data.hex(' ')} at {address} of id {servo_id}"
        return self._one(
            protocol, what, PROTOCOLS[protocol].write(servo_id, address, data), servo_id, 0, None
        )

    def reg_write(self, protocol: int, servo_id: int, address: int, data: bytes) -> Reply:
        """Leaves a write with the servo, to be done at ``action``."""
        what = f"register write {data.hex(' ')} at {address} of id {servo_id}"
        packet = PROTOCOLS[protocol].reg_write(servo_id, address, data)
        return self._one(protocol, what, packet, servo_id, 0, None)

    def reboot(self, servo_id: int) -> Reply:
        """Protocol 2: restarts a servo, which clears a shutdown and drops its torque."""
        return self._one(2, f"reboot id {servo_id}", PROTOCOL_2.reboot(servo_id), servo_id, 0, None)

    def action(self, protocol: int) -> None:
        """All servos do what was left with them; nobody answers."""
        self._many(protocol, "action", PROTOCOLS[protocol].action(), ())

    def broadcast_write(self, protocol: int, address: int, data: bytes) -> None:
        """The same bytes to everybody; nobody answers."""
        what = f"write {data.hex(' ')} at {address} of all"
        self._many(protocol, what, PROTOCOLS[protocol].write(BROADCAST, address, data), ())

    def sync_write(self, protocol: int, address: int, length: int, values: Mapping[int, bytes]) -> None:
        """``length`` bytes at ``address`` of each servo, in one packet; nobody answers."""
        what = f"sync write at {address} of ids {', '.join(map(str, values))}"
        self._many(protocol, what, PROTOCOLS[protocol].sync_write(address, length, values), ())

    def bulk_read(
        self, protocol: int, requests: Sequence[tuple[int, int, int]], late: Late | None = None
    ) -> dict[int, Reply]:
        """(id, address, length) of several servos in one packet. Tried once: single reads are the way on.

        Raises:
            NoReply: with ``partial``, the replies up to the first servo that was silent, and ``ids``, those
            missing:
                that servo, and all behind it, which wait for it.
        """
        what = f"bulk read of ids {', '.join(str(request[0]) for request in requests)}"
        expected = [(servo_id, length) for servo_id, _, length in requests]
        return self._many(protocol, what, PROTOCOLS[protocol].bulk_read(requests), expected, 0, late)

    def sync_read(
        self, address: int, length: int, ids: Sequence[int], late: Late | None = None
    ) -> dict[int, Reply]:
        """Protocol 2: the same registers of several servos in one packet; errors as in ``bulk_read``."""
        what = f"sync read of {length} bytes at {address} of ids {', '.join(map(str, ids))}"
        packet = PROTOCOL_2.sync_read(address, length, ids)
        return self._many(2, what, packet, [(servo_id, length) for servo_id in ids], 0, late)

    def scan(self, protocol: int, ids: Iterable[int]) -> dict[int, Reply | BadReply]:
        """Who answers a ping; a damaged answer may be two servos with one id."""
        found: dict[int, Reply | BadReply] = {}
        for servo_id in ids:
            try:
                found[servo_id] = self.ping(protocol, servo_id, retries=0)
            except BadReply as error:
                found[servo_id] = error
            except NoReply:
                continue
        return found

    # ------------------------------------------------------------ attempts

    def _one(
        self,
        protocol: int,
        what: str,
        packet: bytes,
        servo_id: int,
        length: int,
        retries: int | None,
        late: Late | None = None,
    ) -> Reply:
        if servo_id == BROADCAST:
            raise ValueError(f"{what}: nobody answers a broadcast; use broadcast_write or action")
        return self._many(protocol, what, packet, [(servo_id, length)], retries, late)[servo_id]

    def _many(
        self,
        protocol: int,
        what: str,
        packet: bytes,
        expected: Sequence[tuple[int, int]],
        retries: int | None = None,
        late: Late | None = None,
    ) -> dict[int, Reply]:
        """One packet and its replies, tried again after a missing or damaged one."""
        attempts = 1 + (self.retries if retries is None else retries)
        with self._lock:
            for attempt in range(1, attempts + 1):
                try:
                    self._settle(protocol, [servo_id for servo_id, _ in expected])
                    return self._attempt(protocol, what, packet, expected, attempt, late=late)
                except (NoReply, BadReply, Refused) as error:
                    over = time.monotonic() >= self._repeat_until
                    if over or attempt == attempts or not _worth_repeating(protocol, error):
                        raise
                    self.counts["retries"] += 1
        raise AssertionError("unreachable: the last attempt returns or raises")

    def owes(self, protocol: int, servo_id: int) -> bool:
        """Whether an answer to an earlier question may still come from there; what has come counts."""
        with self._lock:
            if servo_id in self._owed:
                self._drain(protocol)
            return servo_id in self._owed

    def _came_late(self, status: Status) -> None:
        """An answer to an earlier question: it is owed no longer, and for whoever wants it still."""
        self.counts["late"] += 1
        self._late_at = time.monotonic()
        owed = self._owed.get(status.id, {})
        questions = owed.pop(len(status.data), [])
        if questions[1:]:  # of several alike nobody knows which it answers
            owed[len(status.data)] = questions[1:]
        elif questions and questions[0].late is not None:
            protocol, error, data = status.protocol, status.error, status.data
            questions[0].late(Reply(status.id, protocol, error, data, questions[0].sent_at, self._late_at))
        if not owed:
            self._owed.pop(status.id, None)

    def _settle(self, protocol: int, ids: Sequence[int]) -> None:
        """Makes sure that none of these servos can still send an answer to an earlier question."""
        if self._owed.keys().isdisjoint(ids):
            return
        time.sleep(max(0.0, self._quiet_from - time.monotonic()))
        self._drain(protocol)  # what has come late by now is owed no longer
        for servo_id in ids:
            owed = self._owed.get(servo_id)
            if not owed:
                continue
            stale = frozenset(owed)
            free = [length for length in SETTLE_LENGTHS if length not in owed]
            if not free:  # it has been asked in vain many times, each time with this wait
                del self._owed[servo_id]
                stale, free = frozenset(), list(SETTLE_LENGTHS)
            length = free[0]
            packet = PROTOCOLS[protocol].read(servo_id, 0, length)
            self._attempt(protocol, f"settle id {servo_id}", packet, [(servo_id, length)], 1, stale=stale)
            self._owed.pop(servo_id, None)

    def _attempt(
        self,
        protocol: int,
        what: str,
        packet: bytes,
        expected: Sequence[tuple[int, int]],
        attempt: int,
        stale: frozenset[int] = frozenset(),
        late: Late | None = None,
    ) -> dict[int, Reply]:
        """One packet out, its replies in; books the outcome."""
        self._received.clear()
        started = time.monotonic()
        deadline = started + self.reply_time(protocol, len(packet), expected)
        outcome, concerned = "ok", [servo_id for servo_id, _ in expected]
        try:
            self._drain(protocol)
            self._write(packet, what)
            if self.serve is not None and expected:
                self.serve(self.sent)
            return self._collect(protocol, what, expected, started, deadline, stale, late)
        except ReplyError as error:
            outcome, concerned = error.reason, list(error.ids[:1])
            raise
        except LinkError as error:
            outcome = error.kind
            raise
        finally:
            self._book(outcome, concerned)
            if self.record is not None:
                now = time.monotonic()
                received = bytes(self._received)
                self.record(
                    Transaction(what, protocol, attempt, packet, received, started, now, deadline, outcome)
                )

    def _book(self, outcome: str, ids: Sequence[int]) -> None:
        self.counts["attempts"] += 1
        self.counts[outcome] += 1
        if len(ids) == 1:
            self.counts_by_id.setdefault(ids[0], Counter())[outcome] += 1

    def reply_time(self, protocol: int, sent: int, expected: Sequence[tuple[int, int]]) -> float:
        """How long replies to a packet of ``sent`` bytes may take (s): wire, delays, adapter, slack."""
        overhead = PROTOCOLS[protocol].status_overhead
        wire = sent + sum(overhead + length for _, length in expected)
        delays = MAX_RETURN_DELAY * len(expected)
        return wire * 10 / self.baud + delays + 2 * self.latency_timer + self.slack

    def _wait(self, started: float, deadline: float, *, chained: bool) -> _Wait:
        """For the answers to one question: longer than usual in a hurry only, where time passes by itself."""
        slow = time.monotonic() - self._late_at < SLOW
        if self._patience == math.inf or not (slow or chained):
            return _Wait(started, deadline, -math.inf, -math.inf)
        if slow:
            return _Wait(started, deadline, self._patience, self._patience)
        return _Wait(started, deadline, self._repeat_until, -math.inf)

    def _collect(
        self,
        protocol: int,
        what: str,
        expected: Sequence[tuple[int, int]],
        started: float,
        deadline: float,
        stale: frozenset[int],
        late: Late | None,
    ) -> dict[int, Reply]:
        """Waits for the replies, in their order."""
        replies: dict[int, Reply] = {}
        waiting = list(expected)
        # Stuffing lengthens Protocol 2 packets by a third at most.
        longest = PROTOCOLS[protocol].status_overhead + max((n * 4 // 3 + 1 for _, n in expected), default=0)
        decoder = Decoder((protocol,), max(longest, 32))
        wait = self._wait(started, deadline, chained=len(expected) > 1)
        try:
            while waiting:
                data = self._read_until(wait.due)
                if not data:
                    raise self._silent(what, waiting, decoder.pending, replies)
                if wait.is_late():
                    self._late_at = time.monotonic()
                for event in decoder.feed(data):
                    if isinstance(event, Junk):
                        self.counts["junk bytes"] += len(event.raw)
                    elif not waiting:
                        self._unasked(event)
                    else:
                        status = self._status(what, event, waiting, stale)
                        if status is not None:
                            waiting.pop(0)
                            at = time.monotonic()
                            self._last.append(event.raw)
                            reply = Reply(status.id, protocol, status.error, status.data, started, at)
                            replies[status.id] = reply
        except ReplyError as error:
            # What was damaged or refused has come; everything else may still come.
            arrived = not isinstance(error, NoReply) and error.reason not in (
                "truncated",
                "wrong id",
                "skipped",
            )
            for servo_id, length in waiting[arrived:]:
                owed = self._owed.setdefault(servo_id, {})
                owed.setdefault(length, []).append(_Owed(started, late))
            # No question may meet it on the wire; what a slow computer sees later is settled by its length.
            self._quiet_from = max(deadline, time.monotonic()) + 2 * self.latency_timer
            raise
        return replies

    def _status(
        self, what: str, event: Packet | ProtocolError, due: Sequence[tuple[int, int]], stale: frozenset[int]
    ) -> Status | None:
        """The status if it is the first that is due; None for a late one."""
        servo_id, length = due[0]
        try:
            if isinstance(event, ProtocolError):
                raise event
            status = as_status(event)
        except ProtocolError as error:
            raise self._bad(what, error.kind, str(error), error.raw, servo_id) from None
        if status.id != servo_id:
            if status.id in self._owed:
                self._came_late(status)
                return None
            # In a chained read the next one's answer says that this one's was lost on its way.
            skipped = any(status.id == other for other, _ in due)
            text = f"the answer came from id {status.id}"
            raise self._bad(what, "skipped" if skipped else "wrong id", text, status.raw, servo_id)
        if len(status.data) != length and len(status.data) in stale:
            self._came_late(status)
            return None
        if refusal(status.protocol, status.error) and not status.data:
            names = ", ".join(error_names(status.protocol, status.error))
            remedy = "Compare the value with the servo's limits and its access rules; it was not written."
            raise Refused(f"{what}: refused ({names})", self.port, remedy, status)
        if len(status.data) != length:
            text = f"{len(status.data)} bytes of data instead of {length}"
            raise self._bad(what, "length", text, status.raw, servo_id)
        return status

    def _silent(
        self, what: str, waiting: Sequence[tuple[int, int]], pending: bytes, partial: Mapping[int, Reply]
    ) -> ReplyError:
        missing = [servo_id for servo_id, _ in waiting]
        if pending:
            return self._bad(what, "truncated", f"only {len(pending)} bytes came", pending, missing[0])
        text = f"{what}: no answer from id {', '.join(map(str, missing))}"
        remedy = "Check supply, cable, id and baud rate (python -m hardware_bridge doctor scans for them)."
        error = NoReply(text, self.port, remedy, missing)
        error.partial = dict(partial)
        return error

    def _bad(self, what: str, reason: str, text: str, raw: bytes, servo_id: int) -> BadReply:
        remedy = (
            "Single cases are noise and are tried again; many mean a bad cable, or two servos with one id."
        )
        return BadReply(f"{what}: {text}", self.port, remedy, (servo_id,), raw, reason)

    # ------------------------------------------------------------ bytes

    def _fd(self) -> int:
        if self._serial is None:
            raise PortGone("the port is closed", self.port, "Open a new link.")
        return self._serial.fileno()

    def _gone(self, error: BaseException | str) -> PortGone:
        self.close()
        remedy = "Check the USB cable and the adapter's supply, then open a new link by the same name."
        return PortGone(f"the port vanished ({error})", self.port, remedy)

    def _poll(self, events: int, deadline: float) -> int:
        """Waits for a condition; what was seen, 0 at the deadline."""
        poller = select.poll()
        poller.register(self._fd(), events)
        while True:
            left = deadline - time.monotonic()
            ready = poller.poll(max(0.0, left) * 1000)
            if ready:
                return ready[0][1]
            if left <= 0:
                return 0

    def _read_until(self, deadline: float) -> bytes:
        """Whatever comes first; empty at the deadline."""
        try:
            if not self._poll(select.POLLIN, deadline):
                return b""
            data = os.read(self._fd(), 4096)
        except BlockingIOError:
            return b""
        except _PORT_ERRORS as error:
            raise self._gone(error) from error
        if not data:
            raise self._gone("end of file")
        self._received += data
        return data

    def _drain(self, protocol: int) -> None:
        """Throws away, and counts, what nobody asked for."""
        decoder: Decoder | None = None
        while data := self._read_until(0.0):
            decoder = decoder or Decoder((protocol,))
            self.counts["stale bytes"] += len(data)
            for event in decoder.feed(data):
                self._unasked(event)

    def _unasked(self, event: Event) -> None:
        """Counts what it was that nobody waited for."""
        if not isinstance(event, Packet):
            self.counts["junk bytes"] += len(event.raw)
            return
        try:
            status = as_status(event)
        except ProtocolError:
            self.counts["foreign"] += 1
            return
        if status.id in self._owed:
            self._came_late(status)
        else:
            self.counts["doubled" if event.raw in self._last else "foreign"] += 1

    def _write(self, packet: bytes, what: str) -> None:
        deadline = time.monotonic() + self.write_timeout
        left = memoryview(packet)
        while left:
            try:
                written = self._write_now(left)
                ready = written or self._poll(select.POLLOUT, deadline)
            except _PORT_ERRORS as error:
                raise self._gone(error) from error
            if not ready:
                self.close()
                text = f"{what}: the line took no bytes for {self.write_timeout} s"
                raise WriteBlocked(text, self.port, "Unplug the adapter and plug it in again.")
            self.sent += written
            left = left[written:]

    def _write_now(self, data: memoryview) -> int:
        """How much of it the port took; it does not block."""
        try:
            return os.write(self._fd(), data)
        except BlockingIOError:
            return 0


def _worth_repeating(protocol: int, error: ReplyError) -> bool:
    """A refusal is an answer, unless it only says that the servo could not read us."""
    if not isinstance(error, Refused):
        return True
    return bool(error.error & Error1.CHECKSUM) if protocol == 1 else error.error & 0x7F == Error2.CRC


def _open(port: str, baud: int) -> serial.Serial:
    try:
        return serial.Serial(port, baud, timeout=0, write_timeout=0, exclusive=True)
    except ValueError as error:
        what = f"{baud} baud is not possible ({error})"
        raise PortMissing(what, port, "Choose a rate of the servos.") from error
    except _PORT_ERRORS as error:
        number = getattr(error, "errno", None)
        if number in (errno.EWOULDBLOCK, errno.EBUSY):
            raise PortBusy(
                "another program holds the port",
                port,
                "Close it: two programs would steal each other's replies.",
            ) from error
        remedies = {
            errno.ENOENT: "Plug the adapter in; ls /dev/serial/by-id shows what is there.",
            errno.EACCES: "You need the right to use it: sudo usermod -aG dialout $USER, then log in anew.",
        }
        remedy = remedies.get(number or 0, "Check that this is a serial port.")
        raise PortMissing(f"cannot open the port ({error})", port, remedy) from error
