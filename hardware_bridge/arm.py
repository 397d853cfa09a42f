"""The arm on the bus: finds and checks its servos, reads all joints, sends what safety lets through.

What to send is decided elsewhere (``safety``), when is decided elsewhere (``driver``). Here stands how a
profile's axes are spoken to: chained reads where the servos know them, single ones for the rest and after a
broken chain; one sync write of goals; error bits, torque and torque limits turned into conditions.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

import numpy as np

from hardware_bridge.errors import BadReply, LinkError, NoReply, PortError, Reply, ReplyError
from hardware_bridge.faults import KINDS, Condition
from hardware_bridge.fences import Tables, differences, fences
from hardware_bridge.link import Late, Link
from hardware_bridge.protocol import ALERT, Error1
from hardware_bridge.servos import ArmProfile, JointSpec, ServoRef, model_by_number
from hardware_bridge.watchdogs import Reading

#: What a health bit is called in the book of faults: error byte (Protocol 1), register 70 (Protocol 2).
HEALTH_1 = {
    int(Error1.VOLTAGE): "undervoltage",
    int(Error1.ANGLE_LIMIT): "angle limit",
    int(Error1.OVERHEATING): "overheated",
    int(Error1.OVERLOAD): "overload",
}
#: Rates at which a silent servo is looked for: the factory's, and those in use.
RATES = (57_600, 1_000_000, 115_200, 2_000_000)
#: After so long without any packet servos of Protocol 2 stop by themselves (s): later than whatever holds the
#: arm anyway, or one would stand still and nobody knew why.
BITE = 0.12
HEALTH_2 = {0x01: "undervoltage", 0x04: "overheated", 0x10: "overload", 0x20: "overload"}


class NotReadyError(Exception):
    """The arm may not be switched on: ``conditions`` say what is wrong where, the message also what to do."""

    def __init__(self, conditions: Sequence[Condition]) -> None:
        self.conditions = tuple(conditions)
        lines = [f"{c.kind}, {c.where}: {c.detail}. {KINDS[c.kind].remedy}" for c in conditions]
        super().__init__("the arm is not ready: " + "; ".join(lines))


class ServoArm:
    """A profile's axes behind a link. Not for several threads.

    Args:
        link: the bus.
        profile: which arm, with this robot's ids and limits.
        clock: what time readings are stamped with (s); of a lockstep twin its own.

    Attributes:
        powered: names of the axes whose torque was switched on here.
        found_on: names of those whose torque was on already when they were checked.
        conditions: what was found wrong since they were taken away by ``drain``.
    """

    def __init__(
        self, link: Link, profile: ArmProfile, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.link = link
        self.profile = profile
        self.powered: set[str] = set()
        self.found_on: set[str] = set()
        self.conditions: list[Condition] = []
        self._clock = clock
        self._chains, self._rig_chains = _chains(profile.joints), _chains(profile.rig)
        self._axes = tuple(profile)
        self._torque_on = np.ones(len(profile.joints), dtype=bool)
        self._inspected = 0
        self._sent: dict[str, int] = {}  # goals, as ticks, by name of axis
        self._silent: set[int] = set()  # ids that did not answer the last single read
        self._refused = ""  # the axis whose goal register did not hold what was sent
        #: When each joint was asked (s), and what it said.
        self._samples: dict[str, tuple[float, tuple[float, ...]]] = {}
        self._read_at = math.inf  # when the joints were read last (s)

    # ------------------------------------------------------------ start

    def check(self) -> None:
        """Everybody is there, is what the profile says, and has its fences; nothing is written.

        Raises:
            NotReadyError: all that is missing, doubled, of another model or fenced in otherwise.
            PortError: the bus itself is gone.
        """
        found = [self._presence(axis, servo) for axis in self._axes for servo in axis.ids]
        problems = [problem for problem in found if problem is not None]
        problems += [] if problems else self._fences()
        if problems:
            raise NotReadyError(problems)

    def _presence(self, axis: JointSpec, servo: int) -> Condition | None:
        """What is wrong with a servo at first sight; all of it is read, so that two with one id differ."""
        ref = ServoRef(servo, axis.model)
        try:
            self.link.ping(axis.protocol, servo)
            values = self.link.read_registers(ref, "model_number", axis.model.state_registers[1])[0]
        except BadReply as error:
            return Condition("duplicate id", axis.name, f"id {servo} gave a damaged answer ({error.reason})")
        except NoReply:
            return self._elsewhere(axis, servo)
        number = values["model_number"]
        if number == axis.model.number:
            if not values["torque_enable"]:
                self.found_on.discard(axis.name)
            elif axis.name not in self.powered:
                self.found_on.add(axis.name)
            return _shut_down(axis, servo, values)
        try:
            other = model_by_number(number).name
        except KeyError:
            other = f"of model number {number}"
        return Condition("id conflict", axis.name, f"id {servo} is {other}, expected {axis.model.name}")

    def _elsewhere(self, axis: JointSpec, servo: int) -> Condition:
        """A silent servo is looked for at other rates; nothing is written to it."""
        here = self.link.baud
        for rate in RATES:
            if rate == here:
                continue
            with self.link.tuned(rate), contextlib.suppress(ReplyError):
                self.link.ping(axis.protocol, servo, retries=0)
                detail = f"id {servo} answers at {rate} baud, not at {here}"
                return Condition("baud mismatch", axis.name, detail)
        return Condition("servo missing", axis.name, f"id {servo} does not answer at {here} baud")

    def _fences(self) -> list[Condition]:
        wanted = fences(self.profile, self.profile.max_torque)
        names = self.profile.names
        return [
            Condition("fence differs", names[found.servo], str(found))
            for found in differences(wanted, self._registers(wanted))
        ]

    def _registers(self, wanted: Tables) -> dict[int, dict[str, int]]:
        models = {servo: axis.model for axis in self._axes for servo in axis.ids}
        found: dict[int, dict[str, int]] = {}
        for servo, registers in wanted.items():
            ref = ServoRef(servo, models[servo])
            for name in registers:
                found.setdefault(servo, {}).update(self.link.read_registers(ref, name)[0])
        return found

    # ------------------------------------------------------------ reading

    def read(self) -> Reading:
        """All joints now.

        Raises:
            LinkError: a joint that does not answer, after its retries; ``newest`` has what came before.
        """
        at = self._clock()
        if at - self._read_at > BITE:
            self._let_go()
            at = self._clock()
        self._read_at = at
        for joint, asked, values in self._states(self.profile.joints, self._chains):
            self._samples[joint.name] = (asked, _told(joint, values))
        return self.newest()

    def newest(self) -> Reading:
        """What each joint said last. The time is that before the oldest question: no sample is older than it.

        Raises:
            KeyError: a joint has not said anything yet.
        """
        samples = [self._samples[joint.name] for joint in self.profile.joints]
        position, velocity, load, voltage, temperature = np.array([told for _, told in samples]).T
        torque_on = self._torque_on.copy() if self.powered else None
        at = min(asked for asked, _ in samples)
        return Reading(at, position, velocity, load, voltage, temperature, torque_on)

    def position(self, axis: JointSpec) -> float:
        """Of one axis, now (rad or m)."""
        [(_, _, values)] = self._states((axis,), ())
        return axis.to_position(values["present_position"])

    def rig(self) -> list[tuple[float, float]]:
        """Position (rad or m) and load (signed fraction of stall) of each axis of the rig, now."""
        values = {axis.name: v for axis, _, v in self._states(self.profile.rig, self._rig_chains)}
        told = [(axis, values[axis.name]) for axis in self.profile.rig]
        return [(axis.to_position(v["present_position"]), _load(axis, v)) for axis, v in told]

    def _states(
        self, axes: Sequence[JointSpec], chains: Iterable[Sequence[JointSpec]]
    ) -> Iterator[tuple[JointSpec, float, dict[str, int]]]:
        """Of each axis, as they come: when it was asked (s), and the registers of its state.

        Whoever is in no chain, or was left out of it, is asked alone.
        """
        left = list(axes)
        for chain in chains:
            asked = self._clock()
            replies = self._chained(chain, self._late(asked))
            for axis in chain:
                if axis.id in replies:
                    left.remove(axis)
                    yield axis, asked, self._state(axis, replies[axis.id])
        for axis in left:
            asked = self._clock()
            yield axis, asked, self._state(axis, self._single(axis, self._late(asked)))

    def _state(self, axis: JointSpec, reply: Reply) -> dict[str, int]:
        self._look_at(axis, reply)
        return _registers(axis, reply)

    def _late(self, asked: float) -> Late:
        """Takes a joint's answer that comes after all: it is of the time at which it was asked (s)."""

        def take(reply: Reply) -> None:
            for joint in self.profile.joints:
                if joint.id == reply.id and asked > self._samples.get(joint.name, (-math.inf,))[0]:
                    self._samples[joint.name] = (asked, _told(joint, _registers(joint, reply)))

        return take

    def _chained(self, chain: Sequence[JointSpec], late: Late) -> Mapping[int, Reply]:
        """Several joints in one go; after a broken chain what came of it, the rest is asked one by one.

        Raises:
            NoReply: nobody answered.
        """
        address, length = chain[0].model.state_block
        protocol = chain[0].protocol
        for joint in chain:
            if joint.id in self._silent and not self.link.owes(protocol, joint.id):
                self._silent.discard(joint.id)  # it was only late
        chain = [joint for joint in chain if joint.id not in self._silent]
        if len(chain) < 2:
            return {}
        try:
            if protocol == 2:
                return self.link.sync_read(address, length, [joint.id for joint in chain], late)
            return self.link.bulk_read(1, [(joint.id, address, length) for joint in chain], late)
        except NoReply as error:
            silent = next(joint for joint in chain if joint.id == error.ids[0])
            self._silent.add(silent.id)  # it has been asked once, then
            if not error.partial:  # maybe nobody is there: to ask them one by one would take the tick's time
                raise
            detail = f"id {silent.id} broke the chain: {error.what}"
            self.conditions.append(Condition("packet lost", silent.name, detail))
            return error.partial
        except BadReply as error:
            self.conditions.append(Condition("packet lost", "arm", error.what))
            return {}

    def _single(self, axis: JointSpec, late: Late) -> Reply:
        """One axis; who was silent lately is asked once only, or it would cost the others their tick."""
        retries = 0 if axis.id in self._silent else None
        try:
            block = axis.model.state_block
            reply = self.link.read(axis.protocol, axis.id, *block, retries=retries, late=late)
        except NoReply:
            self._silent.add(axis.id)
            raise
        self._silent.discard(axis.id)
        return reply

    def lost(self, servo: int) -> bool:
        """Whether a servo is silent although another one answers.

        That one is asked before and after, for a line may fall silent, or a computer stand still, in between:
        then the servo's answer comes late, but before that of the one that was asked after it.
        """
        others = [axis for axis in self._axes if servo not in axis.ids]
        others.sort(key=lambda axis: axis.id in self._silent)
        accused = next(axis for axis in self._axes if servo in axis.ids)
        other = others[0]
        return (
            self._answers(other.protocol, other.id)
            and not self._answers(accused.protocol, servo)
            and self._answers(other.protocol, other.id)
            and self.link.owes(accused.protocol, servo)
        )

    def _answers(self, protocol: int, servo: int) -> bool:
        """Whether anything comes from there."""
        try:
            self.link.ping(protocol, servo, retries=0)
        except (NoReply, PortError):
            return False
        except LinkError:
            return True  # damaged, or refused
        return True

    def _look_at(self, axis: JointSpec, reply: Reply) -> None:
        """Ill health that the servo itself reports."""
        if not reply.error:
            return
        error, table = reply.error, HEALTH_1
        if axis.protocol == 2:
            if not reply.error & ALERT:
                return
            values = self.link.read_registers(axis.servo, "hardware_error_status")[0]
            error, table = values["hardware_error_status"], HEALTH_2
        for bit, kind in table.items():
            if error & bit:
                self.conditions.append(Condition(kind, axis.name, f"its servo says so (0x{error:02x})"))

    def inspect(self) -> JointSpec:
        """Looks after one more of the axes: is its torque on, has its servo shut itself down?

        A servo that restarted, or gave up, goes on acknowledging; only its registers tell. Of one that has no
        torque, as the gripper's, it is only asked whether it is there.

        Returns:
            Whom it was about.

        Raises:
            LinkError: it does not answer.
        """
        axis = self._axes[self._inspected % len(self._axes)]
        self._inspected += 1
        if axis.name not in self.powered:
            if axis not in self.profile.joints:  # those are read in every cycle
                self.link.ping(axis.protocol, axis.id)
            return axis
        values = self._looked_after(axis)
        if self._rearmed(axis):
            return axis  # it took no goal meanwhile
        if axis.protocol == 1:
            self._restarted(axis, values["torque_limit"])
        self._goal_taken(axis, values["goal_position"])
        return axis

    def _looked_after(self, axis: JointSpec) -> dict[str, int]:
        """The registers of torque and goal; whether torque is on is noted."""
        last = "torque_limit" if axis.protocol == 1 else "goal_position"
        values, reply = self.link.read_registers(axis.servo, "torque_enable", last)
        self._look_at(axis, reply)
        if axis in self.profile.joints:
            self._torque_on[self.profile.joints.index(axis)] = bool(values["torque_enable"])
        elif not values["torque_enable"]:
            self.conditions.append(Condition("servo rebooted", axis.name, "its torque is off"))
        return values

    def _restarted(self, axis: JointSpec, limit: int) -> None:
        """Protocol 1: torque may be on again after a restart, for a goal switches it on; the limit tells.

        It was set one below the fence when torque was switched on; at a restart a servo loads the fence.
        """
        if limit == 0:
            self.conditions.append(Condition("overload", axis.name, "its torque limit is 0: it shut down"))
        elif limit != self._torque_limit:
            detail = f"its torque limit is {limit} again, {self._torque_limit} was written: it restarted"
            self.conditions.append(Condition("servo rebooted", axis.name, detail))

    def _goal_taken(self, axis: JointSpec, found: int) -> None:
        """A servo refuses a goal outside its own limits; a sync write is not answered, its register tells."""
        sent = self._sent.get(axis.name, found)
        if found == sent:
            self._refused = ""
        elif self._refused != axis.name:  # the packet may have been lost: it is looked at again next
            self._refused, self._inspected = axis.name, self._inspected - 1
        else:
            detail = f"goal {sent} was sent, {found} stands in its register: it refused it"
            self.conditions.append(Condition("angle limit", axis.name, detail))

    @property
    def _torque_limit(self) -> int:
        return math.floor(1023 * self.profile.max_torque) - 1

    def drain(self) -> list[Condition]:
        """The conditions since the last time."""
        found, self.conditions = self.conditions, []
        return found

    # ------------------------------------------------------------ writing

    def send(self, goals: Mapping[str, tuple[float, float]]) -> None:
        """Goals (rad or m) and speeds (rad/s or m/s, above 0) by name of axis, in one sync write.

        Nothing is checked here against limits: only what a limiter returned may come here.

        Raises:
            ValueError: a goal that the servo cannot hold, a speed beyond the axis'.
            PortError: the bus is gone.
        """
        wanted = [(axis, _goal(axis, *goals[axis.name])) for axis in self._axes if axis.name in goals]
        self._sent.update({axis.name: registers["goal_position"] for axis, registers in wanted})
        self.link.sync_write_registers({axis.servo: registers for axis, registers in wanted})

    def power(self, goals: Mapping[str, tuple[float, float]]) -> None:
        """Switches torque on, each axis with its goal, which must be where it stands, written before.

        Raises:
            LinkError: a servo does not acknowledge; those before it are on.
        """
        for axis in self._axes:
            if axis.name in goals:
                self._guard(axis, 0.0)  # that of a driver that died may have bitten: no goal would be taken
                self._seed(axis, *goals[axis.name])
                self.link.write_registers(axis.servo, torque_enable=1)
                self.powered.add(axis.name)
                self._guard(axis, BITE)
        self._torque_on[:] = True

    # Servos of Protocol 2 have a watchdog over the bus of their own. Goals, a horizon ahead, stop a servo of
    # either protocol; this stops one whatever its goal is.

    def _guard(self, axis: JointSpec, time: float) -> None:
        """Sets it for all servos of an axis, each by its own id, to a time (s; 0: off, and let go)."""
        if axis.protocol == 2:
            ticks = axis.model.to_ticks("bus_watchdog", time)
            for servo in axis.ids:
                self.link.write_registers(ServoRef(servo, axis.model), bus_watchdog=ticks)

    def _rearmed(self, axis: JointSpec) -> bool:
        """Whether an axis' watchdog had bitten, or was off: it is as it should be now, and that is told."""
        if axis.protocol == 1 or axis.name not in self.powered:
            return False
        armed, differs = axis.model.to_ticks("bus_watchdog", BITE), False
        for servo in axis.ids:
            ref = ServoRef(servo, axis.model)
            found = self.link.read_registers(ref, "bus_watchdog")[0]["bus_watchdog"]
            if found == armed:
                continue
            differs = True
            what = f"id {servo} stopped by itself" if found < 0 else f"that of id {servo} was {found}"
            self.conditions.append(Condition("servo waited", axis.name, what))
            self.link.write_registers(ref, bus_watchdog=0)
            self.link.write_registers(ref, bus_watchdog=armed)
        return differs

    def _let_go(self) -> None:
        """After a pause of the driver's: servos that stopped by themselves take goals again."""
        for axis in self._axes:
            self._rearmed(axis)

    def disarm(self) -> None:
        """Nobody will feed the servos' watchdogs any more, and whoever holds, holds by its goal."""
        for axis in self._axes:
            with contextlib.suppress(LinkError):  # of one that bites later nothing is lost
                self._guard(axis, 0.0)

    def _seed(self, axis: JointSpec, position: float, speed: float) -> None:
        """Where it stands as its goal, and only then a torque limit, one below the fence."""
        registers = _goal(axis, position, speed)
        self.link.write_registers(axis.servo, **registers)
        self._sent[axis.name] = registers["goal_position"]
        if axis.protocol == 1:
            self.link.write_registers(axis.servo, torque_limit=self._torque_limit)

    def revive(self, axis: JointSpec) -> None:
        """Gives an axis that shut itself down its torque back, with where it stands now as its goal.

        Servos of Protocol 2 are left as they are: only a restart revives them, and that a person orders.

        Raises:
            LinkError: it does not answer, or refuses, as it does while what made it shut down lasts.
        """
        if axis.protocol == 1 and axis.name in self.powered:
            slow = axis.model.register(axis.model.speed_register).unit / axis.ratio
            self._seed(axis, self.position(axis), slow)

    def release(self, spare: Collection[str] = ()) -> None:
        """Switches torque off everywhere, whoever fails, but for the axes that are to be spared.

        Raises:
            LinkError: the last failure; all others were tried nevertheless.
        """
        failure: LinkError | None = None
        for axis in self._axes:
            if axis.name in self.powered and axis.name not in spare:
                try:
                    self.link.write_registers(axis.servo, torque_enable=0)
                    self.powered.discard(axis.name)
                except PortError:
                    raise
                except LinkError as error:
                    failure = error
        self.disarm()
        if failure is not None:
            raise failure


def _chains(joints: Sequence[JointSpec]) -> tuple[tuple[JointSpec, ...], ...]:
    """Joints that can be read in one go: by protocol, those whose model takes part, two at least."""
    by_block: dict[tuple[int, int, int], list[JointSpec]] = {}
    for joint in joints:
        if joint.model.bulk_read:
            by_block.setdefault((joint.protocol, *joint.model.state_block), []).append(joint)
    return tuple(tuple(chain) for chain in by_block.values() if len(chain) > 1)


def _shut_down(axis: JointSpec, servo: int, values: Mapping[str, int]) -> Condition | None:
    """A servo that gave up before anybody started: to give it torque back would be to overlook why."""
    if axis.protocol == 1 and values["torque_limit"] == 0:
        return Condition("servo limp", axis.name, f"id {servo} shut itself down: its torque limit is 0")
    if values.get("hardware_error_status"):
        detail = f"id {servo} shut itself down (hardware error {values['hardware_error_status']:#04x})"
        return Condition("servo limp", axis.name, detail)
    return None


def _goal(axis: JointSpec, position: float, speed: float) -> dict[str, int]:
    return {
        "goal_position": axis.to_tick(position),
        axis.model.speed_register: axis.to_speed_ticks(speed),
    }


def _registers(axis: JointSpec, reply: Reply) -> dict[str, int]:
    """Of an axis' state, by the answer to a question for it."""
    return axis.model.unpack(axis.model.state_block[0], reply.data)


def _told(axis: JointSpec, values: Mapping[str, int]) -> tuple[float, ...]:
    """Of an axis, by what was read: position (rad), velocity (rad/s), load, voltage (V), temperature (°C)."""
    return (
        axis.to_position(values["present_position"]),
        axis.to_speed(values["present_speed" if axis.protocol == 1 else "present_velocity"]),
        _load(axis, values),
        values[axis.model.voltage_register] / 10.0,
        float(values["present_temperature"]),
    )


def _load(axis: JointSpec, values: Mapping[str, int]) -> float:
    """Signed fraction of stall torque; X servos that measure a current tell it by that."""
    if axis.protocol == 1:
        return axis.sign * values["present_load"] / 1023.0
    value = axis.model.to_unit("present_current", values["present_current"])
    amperes = axis.model.register("present_current").unit_name == "A"
    return axis.sign * value / (axis.model.motor.stall_current if amperes else 1.0)
