"""The driver in a process of its own, and the door to it.

Whatever the policy's process does (learn for seconds, collect garbage, die), the inner loop goes on: it has
its own interpreter, and asks to come before other programs. ``DriverProcess`` starts it and talks to
it over a pair of sockets, one message of JSON a packet, each with its own end: a request that is not answered
in time, or a driver that is gone, is an error at once.

What ends what. The policy's end of the socket closed, or SIGTERM or SIGINT to the driver: the arm goes to its
rest pose and only there is torque off; faults that hold it leave it held, torque on, and the exit code is 3.
``kill -9`` of the driver: the servos stop at their last goals by themselves, a horizon ahead.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, ClassVar

import numpy as np

from hardware_bridge.arm import NotReadyError
from hardware_bridge.cell import Cell
from hardware_bridge.config import Scheduling, load
from hardware_bridge.driver import RealTime
from hardware_bridge.errors import LinkError
from hardware_bridge.faults import Condition, Fault, FaultError, Response, Severity
from hardware_bridge.link import Link, Transaction
from hardware_bridge.rig import RigError
from hardware_bridge.safety import Command, Mode, Received

#: Added to the deadline of every reply, for a computer that has other things to do (s); and retries. Both are
#: small: three cycles with a silent servo must not take longer than the loop may be late.
SLACK, RETRIES = 0.005, 1
#: Bytes of the longest message.
LONGEST = 1 << 16
#: Transactions on the bus that are kept, to be shown if the arm is held: about 0.4 s.
KEPT = 80
#: How long a request may take at most (s): the way home of an unwell arm, and a reset over the whole
#: workspace, faults included.
PATIENCE = 240.0
#: From the end of the policy's process until the driver's must have gone to rest (s).
PARKING = 60.0
#: Among real-time processes; the lowest is above everything else.
PRIORITY = 10
#: Exit codes: at rest; could not start; held by faults, torque on.
AT_REST, NOT_STARTED, HELD = 0, 1, 3


class DriverGone(Exception):  # noqa: N818 - named for what happened
    """The driver's process has ended, or does not answer: what is known, and what to do."""


# Messages ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tick:
    """What the driver tells after each cycle.

    Attributes:
        number: of the cycle, from 0.
        at: when it was decided (monotonic, s).
        mode: name of a ``safety.Mode``.
        torque: whether torque is on.
        goal, speed: ``(joints,)`` rad and rad/s, as sent; None if nothing was.
        velocity: ``(joints,)`` rad/s, at which the reference moves: the action that was really taken.
        reference: ``(joints,)`` rad, where the arm should be.
        changes: names of ``limiter.Change``: why it is not what was asked for.
        faults: that are not over.
        measured_at: when ``position`` and ``rates`` (``(joints,)`` rad, rad/s) were measured; NaN before.
        rig: rotation (rad) and translation (m), as measured last.
        received: what became of the newest action: its number, whether it counts, and if not, why.
    """

    number: int
    at: float
    mode: str
    torque: bool
    goal: np.ndarray | None
    speed: np.ndarray | None
    velocity: np.ndarray
    reference: np.ndarray
    changes: tuple[str, ...]
    faults: tuple[Fault, ...]
    measured_at: float
    position: np.ndarray
    rates: np.ndarray
    rig: np.ndarray
    received: tuple[int, bool, str]

    @classmethod
    def parse(cls, message: Mapping[str, Any]) -> Tick:
        """From a message."""
        values = dict(message)
        for name in ("goal", "speed", "velocity", "reference", "position", "rates", "rig"):
            if values[name] is not None:
                values[name] = np.array(values[name], dtype=np.float64)
        values["changes"] = tuple(values["changes"])
        values["faults"] = tuple(map(_fault, values["faults"]))
        values["received"] = tuple(values["received"])
        return cls(**values)


def _plain(fault: Fault) -> list[Any]:
    return [
        *(fault.kind, fault.where, fault.detail, fault.severity.name, fault.response.name),
        *(fault.remedy, fault.since, fault.last, fault.present),
    ]


def _fault(values: Sequence[Any]) -> Fault:
    kind, where, detail, severity, response, *rest = values
    return Fault(kind, where, detail, Severity[severity], Response[response], *rest)


def _error(error: BaseException) -> dict[str, Any]:
    """An exception as a message."""
    faults = [_plain(fault) for fault in error.faults] if isinstance(error, FaultError) else []
    conditions = error.conditions if isinstance(error, NotReadyError) else ()
    what = str(error)
    if isinstance(error, FaultError):
        what = what.partition(": ")[0]  # the rest follows from the faults
    return {"type": type(error).__name__, "what": what, "faults": faults, "conditions": list(conditions)}


_KINDS: dict[str, type[Exception]] = {
    kind.__name__: kind for kind in (ValueError, RuntimeError, KeyError, TypeError, RigError)
}


def _raise(message: Mapping[str, Any]) -> None:
    """The exception of a message: its own kind where the policy can do something about it."""
    if message["type"] == "FaultError":
        raise FaultError(message["what"], map(_fault, message["faults"]))
    if message["type"] == "NotReadyError":
        raise NotReadyError([Condition(*values) for values in message["conditions"]])
    raise _KINDS.get(message["type"], DriverGone)(message["what"])


# The driver's side ---------------------------------------------------------------------------------


class _Leave(Exception):  # noqa: N818 - not an error
    """Somebody wants the process to end, in the midst of a long move."""


class _Beat(RealTime):
    """Even ticks, between which messages are served."""

    def __init__(self, tick: float, messages: socket.socket, serve: Callable[[], None]) -> None:
        super().__init__(tick)
        self._messages, self._serve = messages, serve
        self.leaving = False

    def wait(self) -> None:
        self._serve()  # a tick that took all of its time, for a servo is silent, must not make it deaf
        super().wait()

    def sleep(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if self.leaving:
                time.sleep(left)
            elif select.select([self._messages], [], [], left)[0]:
                self._serve()


class Durations:
    """A histogram of times (s), with bins that grow by 5 %: however many there are, it costs the same."""

    EDGES: ClassVar[list[float]] = [1e-5 * 1.05**index for index in range(300)]  # 10 µs to 22 s

    def __init__(self) -> None:
        self._counts = [0] * (len(self.EDGES) + 1)
        self.count, self.most = 0, 0.0

    def add(self, seconds: float) -> None:
        self._counts[bisect_right(self.EDGES, seconds)] += 1
        self.count += 1
        self.most = max(self.most, seconds)

    def percentile(self, percent: float) -> float:
        """The upper edge of the bin in which it lies (s), and never more than the most."""
        wanted, seen = self.count * percent / 100.0, 0
        for edge, count in zip(self.EDGES, self._counts):
            seen += count
            if seen >= wanted:
                return min(edge, self.most)
        return self.most

    def summary(self) -> dict[str, Any]:
        """How many, median, 99th percentile, most (s); and the bins that hold any, with their edges."""
        filled = [index for index, count in enumerate(self._counts) if count]
        first = max(1, filled[0]) if filled else 1
        last = max(first, filled[-1] if filled else 1) + 1
        edges = [self.EDGES[min(index - 1, len(self.EDGES) - 1)] for index in range(first, last + 1)]
        return {
            "count": self.count,
            "p50": self.percentile(50),
            "p99": self.percentile(99),
            "max": self.most,
            "edges": edges,
            "histogram": [sum(self._counts[: first + 1]), *self._counts[first + 1 : last]],
        }


class Host:
    """The process itself: cycles, and does what the door asks.

    Args:
        config: the robot's file.
        messages: its end of the pair of sockets.
        cameras: names of those whose images must be fresh while the policy acts.
    """

    def __init__(self, config: str, messages: socket.socket, cameras: Sequence[str] = ()) -> None:
        self._messages = messages
        messages.setblocking(False)
        configuration = load(config)
        self.beat = _Beat(configuration.safety.tick, messages, self._serve)
        self._port, self._scheduling = configuration.port, configuration.scheduling
        link = self._open()
        self.cell = Cell(configuration, link, self.beat, cameras=cameras, after=self._tell, reopen=self._open)
        self._inside = False  # a long command
        self._asked: deque[dict[str, Any]] = deque()
        self._received = (0, Received(True))
        self._rig = np.zeros(2)
        self._cycle = 0
        self._unsent = 0
        self._round_trips, self._cycles, self._late = Durations(), Durations(), Durations()
        self._transactions: deque[Transaction] = deque(maxlen=KEPT)
        self._before_hold: list[str] = []
        self._held = False
        self._stop, self._why = False, ""

    def _open(self) -> Link:
        """The bus, by its name."""
        return Link(
            self._port.device, self._port.baud,
            latency_timer=self._port.latency_timer, slack=SLACK, retries=RETRIES, record=self._transacted,
        )  # fmt: skip

    @property
    def link(self) -> Link:
        """The bus; another one after the port vanished and came back."""
        return self.cell.arm.link

    def stop(self, why: str) -> None:
        """Leave after this tick; may be called from a signal handler."""
        self._why, self._stop = self._why or why, True

    def run(self) -> int:
        """Until it is told to leave; the exit code."""
        try:
            self.cell.start()
            self._rig = self.cell.rig.last
        except (Exception, _Leave) as error:
            self._send({"failed": _error(error)})
            raise
        gc.collect()
        gc.freeze()  # what there is now stays: the collector need not look through it in a tick
        self.beat.start()
        self._send({"ready": {"pid": os.getpid(), "scheduling": real_time(self._scheduling)}})
        try:
            while not self._stop:
                self.cell.driver.cycle()
                self.beat.wait()
                while self._asked:
                    self._answer(self._asked.popleft())
        except _Leave:
            pass
        return self._park()

    def _park(self) -> int:
        self._stop, self.beat.leaving = False, True
        if self._why:
            print(f"driver: {self._why}: going to rest", file=sys.stderr, flush=True)
        self._inside = False
        try:
            self.cell.park()
        except (FaultError, RuntimeError, ValueError) as error:
            try:
                self.cell.driver.shut_down()
            except FaultError:
                print(f"driver: {error}", file=sys.stderr)
                return HELD
        finally:
            self.cell.arm.disarm()
            self.link.close()
        return AT_REST

    # ------------------------------------------------------------ messages

    def _send(self, message: dict[str, Any]) -> None:
        try:
            self._messages.send(json.dumps(message).encode())
        except BlockingIOError:
            self._unsent += 1  # the policy does not read: that is no reason to wait
        except OSError:
            self.stop("policy gone")

    def _serve(self) -> None:
        """Reads all messages there are; short ones are done at once, long ones after this tick."""
        while not self.beat.leaving:
            try:
                data = self._messages.recv(LONGEST)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self.stop("policy gone")
                break
            try:
                message = json.loads(data)
            except ValueError as error:  # cut off, for example: no reason to leave the arm to nobody
                what = f"a message of {len(data)} bytes cannot be read: {error}"
                self.cell.safety.report("action invalid", "policy", what)
                continue
            if message["do"] in _AT_ONCE:
                self._answer(message)
            else:
                self._asked.append(message)
        if self._stop and self._inside:
            raise _Leave

    def _answer(self, message: dict[str, Any]) -> None:
        number, name, arguments = message.get("ask"), message["do"], message["arguments"]
        reply: dict[str, Any] = {"answer": number}
        long = name not in _AT_ONCE
        self._inside = self._inside or long
        try:
            reply["result"] = getattr(self, f"_do_{name}")(*arguments)
        except _Leave:
            raise
        except Exception as error:  # noqa: BLE001 - whatever was asked, the loop goes on
            reply["error"] = _error(error)
        self._inside = self._inside and not long
        if number is not None:
            self._send(reply)

    def _tell(self, command: Command) -> None:
        """After each cycle."""
        driver = self.cell.driver
        reading, (number, received) = driver.reading, self._received
        self._send({
            "number": self._cycle,
            "at": command.at,
            "mode": command.mode.name,
            "torque": command.torque,
            "goal": None if command.goal is None else command.goal.tolist(),
            "speed": None if command.speed is None else command.speed.tolist(),
            "velocity": command.velocity.tolist(),
            "reference": self.cell.safety.reference.tolist(),
            "changes": [change.name for change in command.changes],
            "faults": [_plain(fault) for fault in command.faults],
            "measured_at": reading.at if reading is not None else float("nan"),
            "position": [] if reading is None else reading.position.tolist(),
            "rates": [] if reading is None else reading.velocity.tolist(),
            "rig": self._rig.tolist(),
            "received": [number, received.accepted, received.why],
        })  # fmt: skip
        self._cycle += 1
        held = command.mode is Mode.HOLDING
        if held and not self._held:
            self._before_hold = [_line(done, command.at) for done in self._transactions]
        self._held = held
        if self.beat.late:
            self._late.add(self.beat.late[-1])
            self._cycles.add(time.monotonic() - self.beat.woke)
        if self._stop and self._inside:
            raise _Leave

    def _transacted(self, transaction: Transaction) -> None:
        self._transactions.append(transaction)
        if transaction.outcome == "ok" and transaction.received:
            self._round_trips.add(transaction.ended - transaction.started)

    # ------------------------------------------------------------ what the door asks

    def _do_act(self, action: Any, number: int, issued: float) -> None:
        self._received = number, self.cell.safety.act(action, time.monotonic(), number, issued)

    def _do_image(self, camera: str, captured: float) -> None:
        self.cell.safety.image(camera, captured)

    def _do_report(self, kind: str, where: str, detail: str, until: float) -> None:
        self.cell.safety.report(kind, where, detail, until)

    def _do_end_episode(self) -> None:
        self.cell.safety.end_episode()

    def _do_begin_episode(self) -> None:
        self.cell.safety.begin_episode(time.monotonic())

    def _do_leave(self) -> None:
        self._stop = True

    def _do_recover(self) -> None:
        self.cell.driver.recover()

    def _do_acknowledge(self, kind: str, where: str) -> None:
        self.cell.safety.acknowledge(kind, where)

    def _do_statistics(self) -> dict[str, Any]:
        return {
            "cycles": self._cycle,
            "late": self._late.summary(),
            "cycle": self._cycles.summary(),
            "round_trip": self._round_trips.summary(),
            "link": dict(self.link.counts),
            "faults": dict(self.cell.safety.faults.counts),
            "unsent": self._unsent,
            "cpu": time.process_time(),
        }

    def _do_bus_before_hold(self) -> list[str]:
        return self._before_hold

    def _do_reset(self, goal: list[float], rotation: float, translation: float) -> None:
        self.cell.reset(np.array(goal), rotation, translation)
        self._rig = self.cell.rig.last

    def _do_go_to(self, target: list[float], speed: float | None) -> None:
        self.cell.driver.go_to(np.array(target), speed)

    def _do_move_rig(self, rotation: float, translation: float) -> None:
        try:
            self.cell.rig.move(rotation, translation)
        finally:
            self._rig = self.cell.rig.last


#: What is done between two ticks, as it comes; everything else takes ticks of its own, one after another.
_AT_ONCE = {
    "act", "image", "report", "begin_episode", "end_episode", "acknowledge", "statistics", "bus_before_hold",
    "leave",
}  # fmt: skip


def _line(done: Transaction, held: float) -> str:
    began, took = 1000.0 * (done.started - held), 1000.0 * (done.ended - done.started)
    return f"{began:8.1f} ms  took {took:5.1f} ms  {done.what}: {done.outcome}"


def real_time(scheduling: Scheduling, thread: int = 0, priority: int = PRIORITY) -> str:
    """Puts a thread, or the calling one, before other programs; what it got: ``first``, or ``normal``.

    Args:
        scheduling: ``niceness``; or ``fifo``, real-time scheduling, for those who know their kernel: on a
            busy computer with Linux 6.18, threads under SCHED_FIFO were seen to stand still for 60 to 210 ms
            while ordinary programs went on.
        thread: its id; 0 is the calling one.
        priority: among real-time threads.
    """
    try:
        if scheduling == "fifo":
            os.sched_setscheduler(thread, os.SCHED_FIFO, os.sched_param(priority))
        else:
            os.setpriority(os.PRIO_PROCESS, thread, -20)
    except OSError:  # the right is missing: LimitRTPRIO or LimitNICE, or CAP_SYS_NICE
        return "normal"
    return "first"


def main(arguments: Sequence[str] | None = None) -> int:
    """``python -m hardware_bridge.process CONFIG SOCKET [CAMERA ...]``, as ``DriverProcess`` calls it."""
    config, descriptor, *cameras = sys.argv[1:] if arguments is None else arguments
    messages = socket.socket(fileno=int(descriptor))
    host: Host | None = None
    stopped = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal stopped
        stopped = True
        if host is not None:
            host.stop(signal.Signals(number).name)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    try:
        host = Host(config, messages, cameras)
    except Exception as error:  # noqa: BLE001 - the door raises it where it is seen
        messages.send(json.dumps({"failed": _error(error)}).encode())
        return NOT_STARTED
    if stopped:
        return NOT_STARTED
    try:
        return host.run()
    except (LinkError, NotReadyError, FaultError, ValueError):
        return NOT_STARTED  # told to the door


# The policy's side ---------------------------------------------------------------------------------


class DriverProcess:
    """The driver, seen from the policy's process. Use it as a context manager, or ``start`` and ``close``.

    Its methods may be called from several threads.

    Args:
        config: the robot's file.
        cameras: names of those of whose images ``image`` must tell while the policy acts, or the arm is held.
        keep: so many of the newest ticks are kept.

    Attributes:
        pid: of the driver's process.
        scheduling: ``first`` if it comes before other programs, else ``normal``.
    """

    def __init__(self, config: str | os.PathLike[str], cameras: Sequence[str] = (), keep: int = 1500) -> None:
        self.config, self.cameras = os.fspath(config), tuple(cameras)
        self.pid, self.scheduling = -1, "normal"
        self._ticks: deque[Tick] = deque(maxlen=keep)
        self._answers: dict[int, Mapping[str, Any]] = {}
        self._news = threading.Condition()
        self._sending = threading.Lock()
        self._gone = ""
        self._numbers, self._actions = itertools.count(1), itertools.count(1)
        self._ready: Mapping[str, Any] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._reader: threading.Thread | None = None

    # ------------------------------------------------------------ life

    def start(self, timeout: float = 60.0) -> DriverProcess:
        """Starts it; when this returns, the arm is held where it stands.

        Raises:
            NotReadyError: servos or fences are not as they must be.
            FaultError, ValueError: the arm stands where it must not.
            DriverGone: anything else, the port for example; or it took too long.
        """
        if self._process is not None:
            raise RuntimeError("the driver's process is already started")
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, "-m", "hardware_bridge.process", self.config, str(theirs.fileno())]
        # A session of its own: Ctrl-C in the terminal is the policy's, whose end the driver then sees.
        self._process = subprocess.Popen(
            [*command, *self.cameras],
            pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, start_new_session=True,
            env=child_environment(),
        )  # fmt: skip
        theirs.close()
        self._socket, self.pid = ours, self._process.pid
        self._reader = threading.Thread(target=self._read, name="driver's messages", daemon=True)
        self._reader.start()
        try:
            with self._news:
                self._news.wait_for(lambda: self._ready is not None or bool(self._gone), timeout)
                ready = self._ready
            if ready is None:
                raise DriverGone(self._gone or f"the driver was not ready within {timeout:.0f} s")
            if "failed" in ready:
                _raise(ready["failed"])
            self.scheduling = ready["ready"]["scheduling"]
            self.wait_for(0, timeout)
        except BaseException:
            self.kill()
            raise
        return self

    def close(self, timeout: float = PARKING) -> int:
        """Lets the driver go to the rest pose and end; its exit code. Calling it twice is harmless.

        Raises:
            DriverGone: it did not end in time; it was not killed, for it may hold a raised arm.
        """
        process = self._process
        if process is None:
            return AT_REST
        if self._socket is not None:
            with contextlib.suppress(DriverGone):  # it has ended already
                self._tell("leave")
            with self._sending:
                self._socket.shutdown(socket.SHUT_WR)
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise DriverGone(
                f"the driver's process {self.pid} has not ended within {timeout:.0f} s; look at the arm first"
            ) from None
        self._forget()
        return code

    def kill(self) -> None:
        """Ends it with SIGKILL: the servos stop by themselves, torque on. For tests and failed starts."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._forget()

    def _forget(self) -> None:
        if self._reader is not None:
            self._reader.join(5.0)
        if self._socket is not None:
            self._socket.close()
        self._socket = self._process = self._reader = None
        self._gone = self._gone or "it is closed"

    def __enter__(self) -> DriverProcess:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ------------------------------------------------------------ messages

    def _read(self) -> None:
        assert self._socket is not None
        while True:
            try:
                data = self._socket.recv(1 << 16)
            except OSError:
                data = b""
            with self._news:
                if not data:
                    self._gone = self._gone or f"the driver's process {self.pid} has ended"
                    self._news.notify_all()
                    return
                message = json.loads(data)
                if "answer" in message:
                    self._answers[message["answer"]] = message
                elif "number" in message:
                    self._ticks.append(Tick.parse(message))
                else:
                    self._ready = message
                self._news.notify_all()

    def _tell(self, name: str, *arguments: Any, ask: int | None = None) -> None:
        message = {"do": name, "arguments": arguments} | ({} if ask is None else {"ask": ask})
        with self._sending:
            if self._socket is None or self._gone:
                raise DriverGone(f"{self._gone or 'it is not started'}; start it again")
            try:
                self._socket.send(json.dumps(message).encode())
            except OSError as error:
                raise DriverGone(f"the driver's process {self.pid} takes no messages ({error})") from error

    def _ask(self, name: str, *arguments: Any, timeout: float = 5.0) -> Any:
        number = next(self._numbers)
        self._tell(name, *arguments, ask=number)
        with self._news:
            self._news.wait_for(lambda: number in self._answers or bool(self._gone), timeout)
            answer = self._answers.pop(number, None)
        if answer is None:
            what = self._gone or f"the driver did not answer {name!r} within {timeout:.0f} s"
            raise DriverGone(f"{what}; look at the arm, then start it again")
        if "error" in answer:
            _raise(answer["error"])
        return answer["result"]

    # ------------------------------------------------------------ what it tells

    @property
    def alive(self) -> bool:
        return self._process is not None and not self._gone and self._process.poll() is None

    @property
    def latest(self) -> Tick:
        """The newest tick.

        Raises:
            DriverGone: there is none, or the driver has ended.
        """
        with self._news:
            if self._gone or not self._ticks:
                raise DriverGone(self._gone or "the driver has not yet told anything")
            return self._ticks[-1]

    def ticks(self, after: float) -> list[Tick]:
        """Ticks that were decided after a time (monotonic, s), oldest first, of those that are kept."""
        with self._news:
            return list(itertools.takewhile(lambda tick: tick.at > after, reversed(self._ticks)))[::-1]

    def wait_for(self, number: int, timeout: float = 1.0) -> Tick:
        """A tick with at least this number.

        Raises:
            DriverGone: it does not come in time.
        """
        with self._news:
            come = self._news.wait_for(
                lambda: bool(self._gone or (self._ticks and self._ticks[-1].number >= number)), timeout
            )
            if not come or self._gone:
                raise DriverGone(self._gone or f"no cycle {number} within {timeout} s")
            return self._ticks[-1]

    # ------------------------------------------------------------ what it does

    def act(self, action: Any, issued: float | None = None) -> int:
        """An action ``(joints,)`` rad/s, which holds until the next one; its number. Whether it counted is in
        the ticks that follow (``Tick.received``): nothing is waited for.

        Args:
            action: whatever the policy gave; what is no action is refused there, and counted.
            issued: when the policy sent it (monotonic, s); now by default.
        """
        number = next(self._actions)
        plain = action.tolist() if isinstance(action, (np.ndarray, np.generic)) else action
        try:
            fits = len(json.dumps(plain)) <= LONGEST // 2
        except (TypeError, ValueError, RecursionError):
            fits = False
        if not fits:
            plain = f"a {type(action).__name__} that is no action"
        self._tell("act", plain, number, time.monotonic() if issued is None else issued)
        return number

    def image(self, camera: str, captured: float) -> None:
        """A camera captured an image (monotonic, s)."""
        self._tell("image", camera, captured)

    def report(self, kind: str, where: str, detail: str, until: float = 0.0) -> None:
        """A fault that was found here (a camera, the recorder, the sensor); as ``Safety.report``."""
        self._tell("report", kind, where, detail, until)

    def reset(self, goal: Sequence[float] | np.ndarray, rotation: float, translation: float) -> None:
        """Out and up, to the servos' goals (rad), the rig to its pose (rad, m); an episode begins.

        Raises:
            FaultError, RigError, NotReadyError, ValueError, RuntimeError: as ``Cell.reset``.
        """
        self._ask("reset", list(map(float, goal)), float(rotation), float(translation), timeout=PATIENCE)

    def go_to(self, target: Sequence[float] | np.ndarray, speed: float | None = None) -> None:
        """Moves to a pose (rad); as ``Driver.go_to``."""
        self._ask("go_to", list(map(float, target)), speed, timeout=PATIENCE)

    def move_rig(self, rotation: float, translation: float) -> None:
        """Moves the rig (rad, m); as ``Rig.move``."""
        self._ask("move_rig", float(rotation), float(translation), timeout=PATIENCE)

    def begin_episode(self) -> None:
        """The policy may act from now on; as ``Safety.begin_episode``."""
        self._ask("begin_episode")

    def end_episode(self) -> None:
        """Brake and hold."""
        self._ask("end_episode")

    def recover(self) -> None:
        """As ``Safety.recover``."""
        self._ask("recover")

    def acknowledge(self, kind: str, where: str) -> None:
        """As ``Faults.acknowledge``."""
        self._ask("acknowledge", kind, where)

    def statistics(self) -> dict[str, Any]:
        """Since its start: cycles, how late they began (s), round trips on the bus (s), counts, CPU time."""
        return dict(self._ask("statistics"))

    def bus_before_hold(self) -> list[str]:
        """What went over the bus in the 0.4 s before the arm was held last; empty if it never was.

        A line each: when it began, before that tick, how long it took, what it was, and how it ended.
        """
        return list(self._ask("bus_before_hold"))


def child_environment() -> dict[str, str]:
    """In which a child finds this package, wherever it is started, and its algebra has no threads of its own.

    Those keep ordinary priority: on a busy computer the child would wait for them.
    """
    path = [str(Path(__file__).resolve().parents[1]), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path)), "OPENBLAS_NUM_THREADS": "1"}


if __name__ == "__main__":
    sys.exit(main())
