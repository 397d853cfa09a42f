"""n simulations of one MuJoCo model, stepped together on a thread pool."""

from __future__ import annotations

from collections.abc import Sequence

import mujoco
import numpy as np
from mujoco.batch import Batch

_POSITION, _VELOCITY, _FORCE = (
    mujoco.mjtStage.mjSTAGE_POS,
    mujoco.mjtStage.mjSTAGE_VEL,
    mujoco.mjtStage.mjSTAGE_ACC,
)
#: What MuJoCo must compute for a derived field to be that of a state; positions suffice for the others.
STAGES = {"cvel": _VELOCITY, "qfrc_actuator": _FORCE, "cfrc_ext": _FORCE}
#: Sensors that make MuJoCo compute contact forces by body, which it otherwise leaves at zero.
FEELING = (
    mujoco.mjtSensor.mjSENS_ACCELEROMETER,
    mujoco.mjtSensor.mjSENS_FORCE,
    mujoco.mjtSensor.mjSENS_TORQUE,
)


class World:
    """n simulations of one model; what an environment needs of a physics engine, and no more.

    A narrow door on purpose: a simulation on a GPU can stand in its place.

    Attributes:
        model: the model that all simulations share (fields in ``varied`` excepted).
        num_sims: n.
        qpos: ``(n, nq)`` float64, live: a write is the state of the next step.
        qvel: ``(n, nv)`` float64, live.
        ctrl: ``(n, nu)`` float64, live.
        steps: ``(n,)`` int64, calls of :meth:`step` since the episode's start: a family's ticks.
        memory: what a family must remember between steps, by name, ``(n, ...)`` each.
        fields: the varied model fields by name, ``(n, ...)`` each, live.
    """

    def __init__(
        self,
        model: mujoco.MjModel,
        num_sims: int,
        num_threads: int = 1,
        varied: Sequence[str] = (),
        derived: Sequence[str] = (),
    ) -> None:
        """Builds the simulations.

        Args:
            model: compiled model.
            num_sims: n, the number of simulations.
            num_threads: threads that step them; results do not depend on it.
            varied: names of model fields (as in ``MjModel``) that differ between simulations.
            derived: names of fields (as in ``MjData``) that follow from the state and that a family reads.

        Raises:
            ValueError: contact forces by body (``cfrc_ext``) of a model without a sensor that needs them.
        """
        if "cfrc_ext" in derived and not np.isin(model.sensor_type, FEELING).any():
            raise ValueError(
                "cfrc_ext stays zero in a model without an accelerometer, force or torque sensor: add one"
            )
        self.model = model
        self.num_sims = num_sims
        self._batch = Batch(model, nsim=num_sims, nthread=min(num_threads, num_sims))
        self.fields = {name: self._batch.expand(name) for name in varied}
        self._derived = {name: self._batch.bind(name) for name in derived}
        # what is derived must be that of the state reached, not of the last physics step's beginning
        stages = [STAGES.get(name, _POSITION) for name in derived]
        self._stage = max(stages, default=mujoco.mjtStage.mjSTAGE_NONE, key=int)
        self.qpos = self._batch.bind("qpos")
        self.qvel = self._batch.bind("qvel")
        self.ctrl = self._batch.bind("ctrl")
        self.steps = np.zeros(num_sims, dtype=np.int64)
        self.memory: dict[str, np.ndarray] = {}

    @property
    def warnings(self) -> int:
        """How many warnings MuJoCo has raised in these simulations since they were built."""
        return int(self._batch.warning.sum())

    def derived(self, name: str) -> np.ndarray:
        """A derived field at the states as they are, ``(n, ...)``, read-only and live."""
        return self._derived[name]

    def fields_changed(self) -> None:
        """Recomputes what MuJoCo derives from model fields, after writing masses, places or the like."""
        if self.fields:
            self._batch.set_const()

    def states_changed(self) -> None:
        """Recomputes what is derived from states, after writing positions or velocities."""
        if self._derived:
            self._batch.forward(stage=self._stage)

    def sim_model(self, sim: int, into: mujoco.MjModel) -> None:
        """Writes one simulation's model, its own field values included, into a copy of the model."""
        self._batch.get_model(sim, into)

    def reset(self) -> None:
        """Sets every simulation to the model's initial state, warm starts and time included."""
        self._batch.reset(stage=mujoco.mjtStage.mjSTAGE_NONE)
        self.steps[:] = 0

    def step(self, substeps: int, derive: bool = True) -> None:
        """Advances every simulation by one control step of so many physics steps.

        Args:
            substeps: physics steps.
            derive: whether derived fields shall be those of the state reached; costs about a physics step.

        Raises:
            mujoco.batch.SimulationError: MuJoCo refused a state; the message names the simulations.
        """
        self._batch.step(nstep=substeps, stage=self._stage if derive else mujoco.mjtStage.mjSTAGE_NONE)
        self.steps += 1
