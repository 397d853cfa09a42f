"""The bridge behind the environments: each step goes through safety, arm, link and line to emulated servos.

``Twin`` is one robot with its line, in lockstep; ``Twins`` one per trial of an environment. Frames and
rewards are the family's own, of the state that the twin's engine has reached.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from hardware_bridge.cell import Cell
from hardware_bridge.config import TWIN, Configuration, load
from hardware_bridge.link import Link, Record
from hardware_bridge.safety import Command
from hardware_bridge.twin.arm import PHYSICS_STEP, WidowXWorld
from hardware_bridge.twin.build import emulate
from hardware_bridge.twin.line import Line
from meld_envs.families import widowx_ethernet as scene
from meld_envs.robots import widowx
from meld_envs.world import World

#: The line's electronics in lockstep (s): four physics steps, half of the inner loop's tick.
LINE_TICK = 4.0 * PHYSICS_STEP
#: Wall-clock slack of the link (s): replies always come, however busy the computer is.
PATIENT = 5.0


class Lockstep:
    """A twin's time, which passes while the driver waits for its next tick."""

    def __init__(self, line: Line, link: Link, tick: float) -> None:
        self._line, self._link, self._tick = line, link, tick

    def now(self) -> float:
        return self._line.now

    def left(self, share: float) -> float:
        return math.inf

    def wait(self) -> None:
        self._line.advance(self._tick, after_bytes=self._link.sent, timeout=30.0)


class Twin(Cell):
    """One emulated robot with its whole driver, holding.

    Args:
        configuration: the robot; by default ``configs/widowx_twin.yaml``.
        record: gets every transaction of the link.
        after: gets every cycle's command.

    Attributes:
        world: what the servos move.
        line, link, arm, safety, driver, rig: the parts, bottom up.
    """

    def __init__(
        self,
        configuration: Configuration | None = None,
        *,
        record: Record | None = None,
        after: Callable[[Command], None] | None = None,
    ) -> None:
        self.configuration = load(TWIN) if configuration is None else configuration
        profile = self.configuration.arm_profile()
        self.world = WidowXWorld(profile)
        self.line = Line(emulate(profile, self.world), self.world, clock="lockstep", tick=LINE_TICK).open()
        self._sequence = 0
        self._closed = False
        try:
            self.link = Link(self.line.port, profile.baud, slack=PATIENT, record=record, serve=self.line.pump)
            beat = Lockstep(self.line, self.link, self.configuration.safety.tick)
            super().__init__(self.configuration, self.link, beat, after=after)
            self.start()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Gives the port and the line back; the emulated arm may fall."""
        if self._closed:
            return
        self._closed = True
        if hasattr(self, "link"):
            self.link.close()
        self.line.close()

    def step(self, action: np.ndarray, ticks: int) -> np.ndarray:
        """Ticks of the inner loop with an action ``(5,)`` in [-1, 1]; what was sent of it, on average."""
        driver, sent = self.driver, np.zeros(widowx.NUM_JOINTS)
        self._sequence += 1
        self.safety.act(action * widowx.MAX_SPEED, driver.beat.now(), self._sequence)
        for _ in range(ticks):
            sent += driver.cycle().velocity
            driver.beat.wait()
        return sent / (ticks * widowx.MAX_SPEED)


class Twins:
    """``meld_envs.backend.Backend``: one twin per trial, each on a line of its own, built at the first reset.

    Attributes:
        twins: those there are.
    """

    def __init__(self, world: World) -> None:
        self._num = world.num_sims
        self.twins: list[Twin] = []

    def start_episode(self, world: World) -> None:
        while len(self.twins) < self._num:
            self.twins.append(Twin())
        switch = world.model.body("switch").id
        for sim, twin in enumerate(self.twins):
            w, _, _, z = world.fields["body_quat"][sim, switch]
            place = world.fields["body_pos"][sim, switch, 1]
            twin.reset(world.memory["goal"][sim], 2.0 * np.arctan2(z, w), place)
        self._mirror(world)

    def step(self, world: World, actions: np.ndarray) -> np.ndarray:
        sent = np.array([twin.step(action, scene.TICKS) for twin, action in zip(self.twins, actions)])
        world.steps += scene.TICKS
        self._mirror(world)
        return sent

    def end_episode(self, world: World) -> None:
        """Nothing: no time passes until the next one begins."""

    def frames(self, size: int) -> None:
        """None: the world is drawn as it is."""

    def info(self) -> dict[str, np.ndarray]:
        return {}

    def _mirror(self, world: World) -> None:
        """The state that was reached, the switch's included."""
        switch = world.model.body("switch").id
        for sim, twin in enumerate(self.twins):
            data, model = twin.world.data, twin.world.model
            world.qpos[sim], world.qvel[sim] = data.qpos, data.qvel
            world.fields["body_pos"][sim, switch] = model.body_pos[switch]
            world.fields["body_quat"][sim, switch] = model.body_quat[switch]
            world.memory["goal"][sim] = twin.safety.reference
        world.fields_changed()
        world.states_changed()

    def close(self) -> None:
        while self.twins:
            self.twins.pop().close()
