"""A real serial line with emulated servos on it: a pseudo-terminal that a driver opens like any other port.

The line knows bytes, baud rates and time; the servos know registers. A driver's baud rate is read from the
terminal, and a servo hears only its own, as on a real bus: whoever asks at another rate gets no answer at
all.

Two clocks. ``real``: time passes by itself, replies take as long as their bytes, the servo's return delay and
the USB adapter's latency timer need. ``lockstep``: time stands still but for ``advance``, and replies come at
once.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import struct
import termios
import threading
import time
import tty
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Literal

from hardware_bridge.protocol import (
    BROADCAST,
    PROTOCOLS,
    ChecksumError,
    Decoder,
    Event,
    Instruction,
    Junk,
    Packet,
)
from hardware_bridge.twin.faults import Reply, Wire
from hardware_bridge.twin.joint import Mechanics
from hardware_bridge.twin.servo import Answer, Servo

#: Electronics and mechanics are advanced in steps of this (s).
TICK = 2e-3
#: A real line that fell behind by more than this drops the rest instead of running after it (s).
MAX_LAG = 0.25
#: A packet whose bytes stop coming is forgotten (s); servos do so, too, though sooner.
BYTE_GAP = 0.1

#: Linux: struct termios2, whose last word is the output rate as a number, odd rates included.
_TCGETS2 = 0x802C542A
_TERMIOS2 = struct.Struct("4I B 19s 2I")


def terminal_baud(fd: int) -> int:
    """The rate that whoever opened the terminal has set (bits per second)."""
    return int(_TERMIOS2.unpack(fcntl.ioctl(fd, _TCGETS2, bytes(_TERMIOS2.size)))[-1])


class Line:
    """Servos on a pseudo-terminal, served by a thread of its own.

    Use it as a context manager, or call ``start`` and ``close``. Whoever touches servos from another thread
    holds ``lock``.

    Args:
        servos: Who is on the bus. Two may have the same id: their replies then collide. mechanics: What they
        move. clock: ``real`` or ``lockstep``. link_path: A symbolic link that always leads to the present
        terminal, across ``unplug`` and ``replug``. latency_timer: Of the USB adapter (s): how long it keeps a
        reply to itself; real clock only. seed: Of the wire's faults. tick: Electronics and
        mechanics are advanced in steps of this (s).

    Attributes:
        wire: Damage on demand.
        lock: Guards servos and mechanics.
        received: Bytes that came from the driver so far.
        counts: What happened on the line, by name.
        deaf: Nothing is read from the driver (a line that does not drain).
        tap: Called with the line's time (s), "driver" or "servo", and the bytes of each sound packet as it
            was sent, before the wire damages it.
    """

    def __init__(
        self,
        servos: Sequence[Servo],
        mechanics: Mechanics,
        *,
        clock: Literal["real", "lockstep"] = "real",
        link_path: str | os.PathLike[str] | None = None,
        latency_timer: float = 1e-3,
        seed: int = 0,
        tick: float = TICK,
    ) -> None:
        if clock not in ("real", "lockstep"):
            raise ValueError(f"clock {clock!r} is neither 'real' nor 'lockstep'")
        self.servos = list(servos)
        self.mechanics = mechanics
        if not 0.0 < tick <= 0.01:
            raise ValueError(f"tick {tick} s is not in 0..0.01: servos have no more patience than that")
        self.clock = clock
        self.tick = tick
        self.latency_timer = latency_timer if clock == "real" else 0.0
        self.wire = Wire(seed)
        self.lock = threading.RLock()
        self.received = 0
        self.counts: Counter[str] = Counter()
        self.deaf = False
        self.tap: Callable[[float, Literal["driver", "servo"], bytes], None] | None = None
        self.now = 0.0  # of servos and mechanics (s)
        self._link = Path(link_path) if link_path is not None else None
        self._decoder = Decoder()
        self._last_byte = 0.0
        self._outbox: deque[tuple[float, bytes]] = deque()
        self._master = self._slave = -1
        self._thread: threading.Thread | None = None
        self._stop = False
        self._failure: BaseException | None = None
        self._wake_read, self._wake_write = os.pipe()
        self._origin = 0.0
        self._arrived = threading.Condition(self.lock)

    def servo(self, servo_id: int) -> Servo:
        """The first servo with this id.

        Raises:
            KeyError: if there is none.
        """
        for servo in self.servos:
            if servo.id == servo_id:
                return servo
        raise KeyError(f"no servo has id {servo_id}; there are {sorted(servo.id for servo in self.servos)}")

    def supply(self, volts: float) -> None:
        """Sets the supply of all servos."""
        with self.lock:
            for servo in self.servos:
                servo.voltage = volts

    # ------------------------------------------------------------ port

    @property
    def port(self) -> str:
        """The path that a driver opens.

        Raises:
            RuntimeError: while unplugged, where there is no stable link.
        """
        if self._link is not None:
            return str(self._link)
        if self._slave < 0:
            raise RuntimeError("the line is unplugged and has no link_path")
        return os.ttyname(self._slave)

    @property
    def plugged(self) -> bool:
        return self._master >= 0

    def replug(self) -> None:
        """A new terminal under the same link; servos keep their state, as their power was never cut."""
        with self.lock:
            if self.plugged:
                return
            self._master, self._slave = os.openpty()
            # We keep the slave open: without that the master fails whenever the driver closes.
            tty.setraw(self._slave)
            os.set_blocking(self._master, False)
            if self._link is not None:
                fresh = self._link.with_name(self._link.name + ".new")
                fresh.unlink(missing_ok=True)
                fresh.symlink_to(os.ttyname(self._slave))
                fresh.replace(self._link)
        self._wake()

    def jam(self) -> None:
        """The adapter takes no more bytes, as one does whose flow control stopped it; until ``replug``."""
        with self.lock:
            termios.tcflow(self._slave, termios.TCOOFF)

    def unplug(self) -> None:
        """The adapter vanishes: the driver's reads and writes fail, its terminal is gone. Servos go on."""
        with self.lock:
            for fd in (self._master, self._slave):
                if fd >= 0:
                    os.close(fd)
            self._master = self._slave = -1
            self._outbox.clear()
            self._decoder.reset()
            if self._link is not None:
                self._link.unlink(missing_ok=True)
        self._wake()

    # ------------------------------------------------------------ life

    @property
    def thread_id(self) -> int:
        """The system's number of the thread that serves; 0 if there is none."""
        return (self._thread.native_id or 0) if self._thread is not None else 0

    def start(self) -> Line:
        """Opens the terminal and serves it from a thread."""
        if self._thread is not None:
            raise RuntimeError("the line is already served")
        self.replug()
        self._origin = time.monotonic() - self.now
        self._stop = False
        self._thread = threading.Thread(target=self._serve, name="servo line", daemon=True)
        self._thread.start()
        return self

    def open(self) -> Line:
        """Lockstep without a thread: whoever advances time serves, too, by ``pump``. Close it afterwards.

        On a busy computer each change of threads waits for its turn; a driver in the same process needs none.

        Raises:
            RuntimeError: if the clock is not lockstep, or a thread serves already.
        """
        if self.clock != "lockstep" or self._thread is not None:
            raise RuntimeError("only a lockstep line that no thread serves is served by its driver")
        self.replug()
        return self

    def pump(self, after_bytes: int, timeout: float = 5.0) -> None:
        """Obeys what the driver has sent, ``after_bytes`` in all (``Link.sent``), and answers.

        Raises:
            TimeoutError: if those bytes do not come within ``timeout`` seconds of the wall's clock.
        """
        with self._arrived:
            self._receive(after_bytes, timeout)
            self._send_due()

    def _receive(self, after_bytes: int, timeout: float) -> None:
        """Obeys input until so many bytes have come, by the serving thread or here."""
        self._take_input()
        until = time.monotonic() + timeout
        while self._thread is None and self.received < after_bytes and self._master >= 0:
            left = until - time.monotonic()
            if left <= 0:
                break
            poller = select.poll()
            poller.register(self._master, select.POLLIN)
            poller.poll(left * 1000)
            self._take_input()
        left = until - time.monotonic()
        if not self._arrived.wait_for(lambda: self.received >= after_bytes, max(0.0, left)):
            raise TimeoutError(
                f"{after_bytes} bytes were sent, {self.received} arrived on {self._link or 'the line'}"
            )

    def serve_forever(self) -> None:
        """The same in the calling thread, for a process of its own, until ``stop``; then closes."""
        self.replug()
        self._origin = time.monotonic() - self.now
        try:
            self._serve()
        finally:
            self.close()

    def stop(self) -> None:
        """Ends ``serve_forever``; may be called from a signal handler."""
        self._stop = True
        self._wake()

    def close(self) -> None:
        """Stops serving; the terminal and the link are gone.

        Raises:
            RuntimeError: if the serving thread had died, with its reason as the cause.
        """
        self.stop()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.unplug()
        for fd in (self._wake_read, self._wake_write):
            if fd >= 0:
                os.close(fd)
        self._wake_read = self._wake_write = -1
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise RuntimeError("the thread that served the line failed") from failure

    def __enter__(self) -> Line:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _wake(self) -> None:
        if self._wake_write >= 0:
            os.write(self._wake_write, b"!")

    # ------------------------------------------------------------ time

    @property
    def due(self) -> float:
        """Where its time should be by now (s): on a busy computer a real line lags behind at times."""
        return time.monotonic() - self._origin if self.clock == "real" else self.now

    def advance(self, dt: float, after_bytes: int | None = None, timeout: float = 5.0) -> None:
        """Lockstep: lets ``dt`` seconds pass for servos and mechanics, once the driver's bytes are obeyed.

        A write that nobody answers (sync write) may still be on its way when the driver goes on;
        ``after_bytes``, how many the driver has sent in all (``Link.sent``), makes the order certain.

        Raises:
            RuntimeError: if the clock is not lockstep.
            TimeoutError: if those bytes do not come within ``timeout`` seconds of the wall's clock.
        """
        if self.clock != "lockstep":
            raise RuntimeError("advance is for lockstep lines; a real line's time passes by itself")
        with self._arrived:
            if self._failure is not None:
                raise RuntimeError("the thread that served the line failed") from self._failure
            self._receive(after_bytes or 0, timeout)
            self._send_due()
            self._pass(dt)

    def _pass(self, dt: float) -> None:
        ticks = max(1, round(dt / self.tick)) if dt > 0 else 0
        for _ in range(ticks):
            step = dt / ticks
            for servo in self.servos:
                servo.advance(step)
            self.mechanics.step(step)
            self.now += step

    def _catch_up(self) -> None:
        lag = time.monotonic() - self._origin - self.now
        if lag > MAX_LAG:
            self.counts["lag dropped"] += 1
            self._origin += lag - MAX_LAG
            lag = MAX_LAG
        if lag >= self.tick:
            self._pass(lag)

    # ------------------------------------------------------------ serving

    def _serve(self) -> None:
        try:
            while not self._stop:
                self._wait()
                with self._arrived:
                    if self.clock == "real":
                        self._catch_up()
                    if self._take_input():
                        self._arrived.notify_all()
                    self._send_due()
        except BaseException as error:  # noqa: BLE001 - kept for close(), which raises it where it is seen
            self._failure = error

    def _wait(self) -> None:
        """Until there is something to read, to send or to simulate; one wait, for each may be a long one."""
        with self.lock:
            watched = [self._wake_read]
            if self._master >= 0 and not self.deaf:
                watched.append(self._master)
            due = self._delivery()
        sleep = None if self.clock == "lockstep" else 2 * self.tick
        if due is not None:
            left = max(0.0, due - time.monotonic())
            sleep = left if sleep is None else min(left, sleep)
        try:
            ready = select.select(watched, [], [], sleep)[0]  # poll would wait in whole milliseconds
        except OSError as error:
            if error.errno != errno.EBADF:  # unplugged since
                raise
            return
        if self._wake_read in ready:
            os.read(self._wake_read, 4096)

    def _take_input(self) -> bool:
        """Reads and obeys whatever the driver has sent; whether there was anything."""
        data = b""
        if self._master >= 0 and not self.deaf:
            try:
                data = os.read(self._master, 65536)
            except OSError as error:
                if error.errno not in (errno.EAGAIN, errno.EIO):
                    raise
        if not data:
            return False
        now = time.monotonic()
        if now - self._last_byte > BYTE_GAP:
            self._decoder.reset()
        self._last_byte = now
        self.received += len(data)
        rate = terminal_baud(self._master)
        for event in self._decoder.feed(data):
            self._obey(event, rate)
        return True

    def _delivery(self) -> float | None:
        """When the adapter hands on what it has: together with all that comes within its timer."""
        if not self._outbox:
            return None
        first = self._outbox[0][0]
        return max(due for due, _ in self._outbox if due <= first + self.latency_timer)

    def _send_due(self) -> None:
        """In one piece, for each costs the kernel a change of threads, here and where it is read."""
        delivery, due = self._delivery(), b""
        if delivery is None or delivery > time.monotonic():
            return
        while self._outbox and self._outbox[0][0] <= time.monotonic():
            due += self._outbox.popleft()[1]
        self._put(due)

    def _put(self, data: bytes) -> None:
        if self._master < 0:
            return
        try:
            sent = os.write(self._master, data)
        except BlockingIOError:
            sent = 0
        self.counts["overrun bytes"] += len(data) - sent  # nobody reads: a UART loses them

    # ------------------------------------------------------------ the bus

    def _obey(self, event: Event, rate: int) -> None:
        if isinstance(event, Junk):
            self.counts["junk bytes"] += len(event.raw)
        elif isinstance(event, Packet):
            self.counts["packets"] += 1
            self._packet(event, rate)
        else:
            self.counts[f"damaged: {event.kind}"] += 1
            if isinstance(event, ChecksumError):
                self._damaged(event.raw, rate)

    def _listeners(self, protocol: int, rate: int) -> list[Servo]:
        return [servo for servo in self.servos if servo.hears(protocol, rate)]

    def _damaged(self, raw: bytes, rate: int) -> None:
        second = raw.startswith(b"\xff\xff\xfd\x00")
        servo_id = raw[4] if second else raw[2]
        for servo in self._listeners(2 if second else 1, rate):
            if servo.id == servo_id:
                self._reply(servo, 0, servo.answer_damaged(), rate, len(raw), servo.return_delay)

    def _packet(self, packet: Packet, rate: int) -> None:
        if self.tap is not None:
            self.tap(self.now, "driver", packet.raw)
        listeners = self._listeners(packet.protocol, rate)
        for servo in listeners:
            servo.bus_activity()
        if packet.id != BROADCAST:
            self._single(packet, listeners, rate)
        elif packet.code in (Instruction.SYNC_READ, Instruction.BULK_READ):
            self._chain(packet, listeners, rate)
        elif packet.code == Instruction.PING:
            self._roll_call(packet, listeners, rate)
        else:
            for servo in listeners:
                servo.execute(packet)

    def _single(self, packet: Packet, listeners: list[Servo], rate: int) -> None:
        answers = []
        for servo in listeners:
            own_id = servo.id
            if own_id == packet.id:
                wait = servo.return_delay  # as both were before it obeyed
                answer = servo.execute(packet)
                if answer is not None:
                    raw = PROTOCOLS[packet.protocol].status(own_id, answer.error, answer.data)
                    answers.append((raw, wait))
            elif servo.second_id == packet.id:
                servo.execute(packet)
        if answers:
            raw = _collide([raw for raw, _ in answers])
            wait = max(wait for _, wait in answers)
            self._send(Reply(packet.id, packet.code, raw), rate, len(packet.raw), wait)

    def _roll_call(self, packet: Packet, listeners: list[Servo], rate: int) -> None:
        """Broadcast ping: Protocol 2 answers in the order of ids, Protocol 1 not at all."""
        sent = len(packet.raw)
        for servo in sorted(listeners, key=lambda servo: servo.id) if packet.protocol == 2 else ():
            answer = servo.execute(Packet(2, servo.id, packet.code, b"", b""))
            if answer is not None:
                self._reply(servo, packet.code, answer, rate, sent, servo.return_delay)
                sent = 0

    def _chain(self, packet: Packet, listeners: list[Servo], rate: int) -> None:
        """Bulk and sync read: each waits for the status of the one before it, for ever if that is dead."""
        by_id = {servo.id: servo for servo in listeners}
        sent = len(packet.raw)
        for servo_id, address, length in _requests(packet):
            servo = by_id.get(servo_id)
            if servo is None or (packet.protocol == 1 and not servo.model.bulk_read):
                return
            answer = servo.answer_read(address, length)
            if answer is None or not self._reply(servo, packet.code, answer, rate, sent, servo.return_delay):
                return
            sent = 0

    def _reply(
        self, servo: Servo, instruction: int, answer: Answer | None, rate: int, sent: int, wait: float
    ) -> bool:
        """Queues a status packet; False if none goes out."""
        if answer is None:
            return False
        raw = PROTOCOLS[servo.protocol].status(servo.id, answer.error, answer.data)
        return self._send(Reply(servo.id, instruction, raw), rate, sent, wait)

    def _send(self, reply: Reply, rate: int, sent: int, wait: float) -> bool:
        """Puts a reply, or what the wire leaves of it, in the outbox at the time it will arrive."""
        if self.tap is not None:
            self.tap(self.now, "servo", reply.raw)
        pieces = self.wire.carry(reply)
        self.counts["replies"] += 1
        real = self.clock == "real"
        for extra, data in pieces:
            now = time.monotonic()
            # Bytes keep their order: what is behind a late reply is late, too.
            before = self._outbox[-1][0] if self._outbox else 0.0
            on_wire = (sent + len(data)) * 10 / rate + wait if real else 0.0
            usb = 0.0 if self._outbox else self.latency_timer
            self._outbox.append((max(now + usb, before) + on_wire + extra, data))
            sent = 0
        if self._thread is not None and threading.current_thread() is not self._thread:
            self._wake()
        return bool(pieces)


def _requests(packet: Packet) -> Iterator[tuple[int, int, int]]:
    """(id, address, length) of each servo that a bulk or sync read asks, in order."""
    params = packet.params
    if packet.protocol == 1:
        for length, servo_id, address in zip(*[iter(params[1:])] * 3):
            yield servo_id, address, length
    elif packet.code == Instruction.SYNC_READ:
        address, length = (int.from_bytes(params[i : i + 2], "little") for i in (0, 2))
        for servo_id in params[4:]:
            yield servo_id, address, length
    else:
        for start in range(0, len(params) - 4, 5):
            address, length = (int.from_bytes(params[start + i : start + i + 2], "little") for i in (1, 3))
            yield params[start], address, length


def _collide(replies: Sequence[bytes]) -> bytes:
    """Several servos at once: a driven 0 wins over a 1 on an open-collector line."""
    longest = max(replies, key=len)
    mixed = bytearray(longest)
    for raw in replies:
        for index, byte in enumerate(raw):
            mixed[index] &= byte
    return bytes(mixed)
