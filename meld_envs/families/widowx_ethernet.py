"""WidowXEthernet: plug a cable into the right port of a switch that is turned and moved by the task."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import ClassVar

import mujoco
import numpy as np

from meld_envs.backend import Backend, load_backend
from meld_envs.camera import Marker, Quality
from meld_envs.families.sawyer import ASSETS
from meld_envs.family import Family, Outcome, Parameter
from meld_envs.meshes import UNSEEN, Block, add_mesh
from meld_envs.robots import widowx
from meld_envs.robots.workspace import WIDOWX_MK2, Box, Outlook, Workspace
from meld_envs.tasks import Task
from meld_envs.world import World

# The switch, m, in its own frame: ports in a row along y, open at the top.
NUM_PORTS = 4
PITCH = 0.018  # from port to port
CLEARANCE = 0.0005  # around the plug, on every side
FACE = 0.045  # height of the face
DEPTH = 0.015  # of a port
HALF_PORT = (widowx.PLUG_SIZE[0] + CLEARANCE, widowx.PLUG_SIZE[1] + CLEARANCE)
RIB = PITCH / 2.0 - HALF_PORT[1]  # half the width of what is left between two ports
HALF_FACE = (HALF_PORT[0] + 2.0 * RIB, (NUM_PORTS * PITCH) / 2.0 + RIB)
PORT_Y = (np.arange(NUM_PORTS) - (NUM_PORTS - 1) / 2.0) * PITCH
PLACE_X = 0.20  # m, of the switch's axis in front of the arm

ROTATION = 8.0  # degrees to either side: a range of 16 degrees (paper, appendix E)
TRANSLATION = 0.01  # m to either side: a range of 2 cm (paper, appendix E)

INSERTED = 0.012  # m, depth of the tip from which the plug is fully in

TICKS = 15  # of the inner loop, 20 ms each, in a step: 3.33 Hz (paper, Section 5.3: 3.3 Hz)
SUBSTEPS = 120  # physics steps of 2.5 ms
START_PLACE, START_TURN = (0.160, 0.0, 0.090), 0.0  # m, of the tip; rad, of the plug

# Where the arm may be, m, in the frame of its base, and how clear it keeps, as a robot's driver does; the
# numbers are those of hardware_bridge/configs/widowx_twin.yaml.
ROOM = Workspace(
    WIDOWX_MK2,
    Box((-0.20, -0.35, -0.02), (0.45, 0.35, 0.60)),
    table=0.0,
    keep_out=Box((0.17, -0.06, 0.0), (0.23, 0.06, 0.016)),  # the turntable under the switch
)
CLEAR_OF_ALL = 0.010
HORIZON = 0.05  # s, over which it must be clear
PARTS = np.linspace(0.0, 1.0, 8)[:, np.newaxis, np.newaxis]  # of a way that may not be, at which it is looked

# The expert's way: heights of the tip over the face, m, and how well it must be aligned before it goes on.
CLEAR = 0.020  # over the ribs, with the plug turned any way
HOVER = 0.006  # just over the ribs
NEAR, NEAR_TURN = 0.004, 0.06  # m and rad at which it goes down to that
ENTRY, ENTRY_TURN = 0.0015, 0.035  # m and rad at which it goes in
DIVE = 0.008  # m a step, on the way in

_SECONDS = TICKS * widowx.TICK

#: Who moves the arm, if not the simulation. Names, for nothing here imports the bridge.
BACKENDS = {"twin": "hardware_bridge.backend:Twins", "robot": "hardware_bridge.robot:Robot"}


class WidowXEthernet(Family):
    """A WidowX, to plug an Ethernet cable into the one right port of four (paper, Section 5.3).

    The task turns and moves the switch, which is seen; which port is right shows nowhere. The arm's five
    joints reach ports of any turn only from above, so the switch lies on its back. The gripper stays closed.

    ## Observation

    `Box(0, 255, (64, 128, 3), uint8)`: a fixed camera in front of the arm and one on the wrist, side by side.
    With `obs_type="state"` `Box(-50, 50, (20,), float32)`: five joint angles (rad), their velocities (rad/s),
    the servos' goals (rad), `x`, `y`, `z` of the plug's tip (m), the switch's rotation (rad) and
    translation (m).

    ## Actions

    `Box(-1, 1, (5,), float32)`, 3.33 per second, out of range clipped: joint velocities, 1 is 0.2 rad/s. An
    inner loop of 50 Hz integrates them to the goals of position servos; a goal leads its joint by at
    most 0.095 rad, and the arm keeps 10 mm clear of table, turntable, its own base and the workspace's edge.

    ## Reward

    With d the distance between the plug's tip and the middle of the right port's bottom in metres, and δ the
    angle between plug and port in radians:

    | reward  | value                                                                    |
    |---------|--------------------------------------------------------------------------|
    | dense   | −(d + δ) (paper, Section 5.3)                                            |
    | sparse  | 1 at success, else 0                                                     |
    | score   | −d                                                                       |
    | success | the tip is at least 12 of the 15 mm deep in the right port               |

    ## Task parameters

    | name          | distribution            | unit | hidden |
    |---------------|-------------------------|------|--------|
    | `port`        | uniform in 0, 1, 2, 3   |      | yes    |
    | `rotation`    | U(−8, 8)                | deg  | no     |
    | `translation` | U(−0.01, 0.01)          | m    | no     |

    ## Start and end

    The arm starts at one pose, at rest, over the switch. An episode has 40 steps (12 s) and never
    terminates; the paper's experiment has two episodes a trial (`episodes_per_trial=2`).

    ## Version history

    * v0: first version. The ranges of rotation and translation, the rate, both rewards and the numbers of
      tasks are the paper's. A port is an RJ45 plug's size and half a millimetre more on every side. How the
      switch lies, the number of ports, their distance, cameras and start are ours: no publication has them.
    """

    name = "WidowXEthernet"
    parameters = (
        Parameter("port", 0, NUM_PORTS - 1, "", whole=True),
        Parameter("rotation", -ROTATION, ROTATION, "deg", hidden=False),
        Parameter("translation", -TRANSLATION, TRANSLATION, "m", hidden=False),
    )
    num_train_tasks = 20  # paper, Section 5.3
    num_test_tasks = 10
    episode_steps = 40
    control_hz = 1.0 / _SECONDS
    ticks = TICKS
    substeps = SUBSTEPS
    action_size = widowx.NUM_JOINTS
    state_names = (*widowx.STATE_NAMES, "rotation", "translation")
    state_bound = 50.0
    cameras = ("scene", "wrist")
    quality = Quality(stacks=2, quads=1)  # boxes need no pieces; with one stack cylinders lose their caps
    varied_fields = ("body_pos", "body_quat")
    derived_fields = ("site_xpos", "site_xmat")
    options: ClassVar[dict[str, tuple[str, ...]]] = {"backend": ("sim", "twin", "robot"), "config": ()}

    def __init__(self, **chosen: str) -> None:
        """Takes the family's own keywords: ``backend``, who moves the arm, and a robot's ``config``.

        ``"sim"``: the simulation's own servos; ``"twin"``: the hardware bridge, whose driver talks to
        emulated servos on a serial line, in simulated time; ``"robot"``: the same driver, in real time, over
        the devices that the file ``config`` names, of a robot or of ``python -m hardware_bridge twin``.

        Raises:
            ValueError: an unknown backend; a robot without its file, or a file without a robot.
        """
        super().__init__(**chosen)
        if (self.chosen["backend"] == "robot") != bool(self.chosen["config"]):
            raise ValueError(
                f"{self.name}: backend='robot' and config='my_arm.yaml' belong together, got "
                f"backend={self.chosen['backend']!r} and config={self.chosen['config']!r}; "
                "`python -m hardware_bridge twin` starts an emulated robot and names its file"
            )

    # Tasks ------------------------------------------------------------------------------------

    def draw_task(self, rng: np.random.Generator) -> Task:
        """A port, and a pose of the switch."""
        return self.task(
            port=float(rng.integers(NUM_PORTS)),
            rotation=rng.uniform(-ROTATION, ROTATION),
            translation=rng.uniform(-TRANSLATION, TRANSLATION),
        )

    def apply_task(self, world: World, sim: int, task: Task) -> None:
        """Turns and moves the switch."""
        switch = world.model.body("switch").id
        half = np.radians(task.parameters["rotation"]) / 2.0
        world.fields["body_pos"][sim, switch, 1] = task.parameters["translation"]
        world.fields["body_quat"][sim, switch] = (np.cos(half), 0.0, 0.0, np.sin(half))

    # Simulation -------------------------------------------------------------------------------

    def build_model(self) -> mujoco.MjModel:
        """The table with arm and switch."""
        return build_spec().compile()

    def backend(self, world: World) -> Backend | None:
        """The hardware bridge, imported where it is asked for."""
        name, config = self.chosen["backend"], self.chosen["config"]
        settings = {"config": config} if config else {}
        return load_backend(BACKENDS[name], name, world, **settings) if name in BACKENDS else None

    def start_episode(self, world: World, rngs: Sequence[np.random.Generator]) -> None:
        """The arm at its start pose, at rest, held by its servos: no noise."""
        angles, goal = _start()
        world.qpos[:] = angles
        world.ctrl[:] = goal
        world.memory["goal"] = np.tile(goal, (world.num_sims, 1))
        world.memory.update(Outlook.none(world.num_sims)._asdict())

    def control(self, world: World, actions: np.ndarray) -> None:
        """One tick of the inner loop."""
        goal, outlook = world.memory["goal"], Outlook(*(world.memory[name] for name in Outlook._fields))
        following = next_goal(goal, world.qpos, widowx.MAX_SPEED * actions, outlook)
        world.ctrl[:] = widowx.ramp(goal, following)
        world.memory["goal"] = following

    def outcome(self, world: World, parameters: np.ndarray, actions: np.ndarray) -> Outcome:
        """How far the plug is from the right port, in place and in angle, and whether it is in."""
        sims, ports = np.arange(world.num_sims), parameters[:, 0].astype(int)
        turns, bottoms = _switch(world)
        distance = np.linalg.norm(widowx.site(world, widowx.TIP) - bottoms[sims, ports], axis=1)
        success = self.tried(world)[sims, ports]
        dense = -(distance + _misalignment(world, turns))
        return Outcome(dense, success.astype(np.float64), 0.0 - distance, success)

    def tried(self, world: World) -> np.ndarray:
        """Which ports the plug is in: by its place, or by its contacts where there are any to feel."""
        if "contacts" in world.memory:
            return world.memory["contacts"]
        turns, bottoms = _switch(world)
        offset = widowx.site(world, widowx.TIP)[:, np.newaxis] - bottoms
        across, along = _turned(offset[..., 0], offset[..., 1], -turns[:, np.newaxis])
        inside = (np.abs(across) < HALF_PORT[0]) & (np.abs(along) < HALF_PORT[1])
        return inside & (offset[..., 2] <= DEPTH - INSERTED)

    def state(self, world: World) -> np.ndarray:
        """Joint angles, velocities, goals, the tip's position, the switch's pose."""
        turns, _ = _switch(world)
        return np.concatenate(
            [
                world.qpos,
                world.qvel,
                world.memory["goal"],
                widowx.site(world, widowx.TIP),
                np.stack([turns, _places(world)[:, 1]], axis=1),
            ],
            axis=1,
        )

    # Help -------------------------------------------------------------------------------------

    def expert(self, world: World, parameters: np.ndarray) -> np.ndarray:
        """Over the right port, turned as it is, and straight down; out of a wrong one first."""
        sims, ports = np.arange(world.num_sims), parameters[:, 0].astype(int)
        turns, bottoms = _switch(world)
        tips, goals = widowx.site(world, widowx.TIP), bottoms[sims, ports]
        error = np.linalg.norm(tips[:, :2] - goals[:, :2], axis=1)
        askew = _misalignment(world, turns)
        height = tips[:, 2] - FACE

        places = goals.copy()
        is_in = height < 0.0
        elsewhere = is_in & (error > HALF_PORT[1] + RIB)  # in a wrong port
        places[elsewhere, :2] = tips[elsewhere, :2]
        over = (error < NEAR) & (askew < NEAR_TURN)
        aligned = (error < ENTRY) & (askew < ENTRY_TURN)
        dive = np.maximum(height - DIVE, -DEPTH)
        down = (is_in | (aligned & (height < CLEAR))) & ~elsewhere
        places[:, 2] = FACE + np.where(down, dive, np.where(over & ~elsewhere, HOVER, CLEAR))
        return widowx.actions_towards(world.qpos, widowx.angles_at(places, turns), _SECONDS)

    def markers(self, world: World, sim: int, task: Task) -> tuple[Marker, ...]:
        """A green ball before the right port."""
        turns, bottoms = _switch(world)
        x, y, _ = bottoms[sim, int(task.parameters["port"])]
        dx, dy = _turned(HALF_FACE[0], 0.0, turns[sim])
        place = (float(x + dx), float(y + dy), FACE + 0.004)
        return (Marker(mujoco.mjtGeom.mjGEOM_SPHERE, (0.004,) * 3, place, (0.1, 0.75, 0.2, 1.0)),)


def nearest_port(world: World) -> int:
    """The port of the first switch that is nearest to the plug's tip."""
    _, bottoms = _switch(world)
    return int(np.linalg.norm(bottoms[0] - widowx.site(world, widowx.TIP)[0], axis=1).argmin())


# Control --------------------------------------------------------------------------------------------


def next_goal(
    goal: np.ndarray, angles: np.ndarray, velocities: np.ndarray, outlook: Outlook | None = None
) -> np.ndarray:
    """``widowx.next_goal``, and as much of the change as keeps the arm clear of what is around it.

    Whose change does not, loses one joint's, that nearest the hand first, then half of all, then all of it:
    what a robot's driver does (``hardware_bridge/limiter.py``). Arguments ``(n, 5)``; an outlook spares time,
    and is brought up to date.
    """
    following = widowx.next_goal(goal, angles, velocities)
    outlook = Outlook.none(len(goal)) if outlook is None else outlook
    places, needed = np.stack([goal, angles], axis=1), _needed(goal, following)
    near = np.flatnonzero(~(outlook.least(ROOM, places) >= needed))  # NaN is not clear
    if len(near):
        outlook.note(near, places[near], ROOM.clearance(places[near]).min(axis=1))
        near = near[~(outlook.clearance[near] >= needed[near])]
    if len(near):
        near = near[~_keeps_clear(goal[near], angles[near], following[near])]
    if not len(near):
        return following
    before, wanted = goal[near], following[near]
    one_less = np.where(np.eye(widowx.NUM_JOINTS, dtype=bool)[::-1, np.newaxis], before, wanted)
    tried = np.concatenate([one_less, (before + wanted)[np.newaxis] / 2.0, before[np.newaxis]])
    passes = outlook.clearance[near] >= _needed(before, tried)
    closer = np.nonzero(~passes)
    passes[closer] = _keeps_clear(before[closer[1]], angles[near[closer[1]]], tried[closer])
    passes[-1] = True
    following[near] = tried[passes.argmax(axis=0), np.arange(len(near))]
    return following


def _needed(goal: np.ndarray, following: np.ndarray) -> np.ndarray:
    """Clearance (m) with which nothing can come too near on the way, ``(...)``."""
    return CLEAR_OF_ALL + ROOM.travel(following - goal) * (1.0 + HORIZON / widowx.TICK)


def _keeps_clear(goal: np.ndarray, angles: np.ndarray, following: np.ndarray) -> np.ndarray:
    """Whether arms ``(n, 5)`` keep clear on the way to where their goals would be a horizon later.

    The same change from where they are measured is looked at as well. Less clearance than is wanted may grow.
    """
    change = following - goal
    way = change * (1.0 + HORIZON / widowx.TICK)
    places = np.concatenate([goal + PARTS * way, angles[np.newaxis], (angles + change)[np.newaxis]])
    clearances = ROOM.clearance(places)
    here, there, at, to = clearances[0], clearances[-3], clearances[-2], clearances[-1]
    least = clearances[:-2].min(axis=0) - ROOM.travel(way) / (len(PARTS) - 1) / 2.0
    leaves = (here < CLEAR_OF_ALL) & (least > 0.0) & (there >= here - 1e-9)
    return (to >= np.minimum(CLEAR_OF_ALL, at) - 1e-6) & ((least >= CLEAR_OF_ALL) | leaves)


# Geometry -------------------------------------------------------------------------------------------


def _turned(
    x: np.ndarray | float, y: np.ndarray | float, angle: np.ndarray | float
) -> tuple[np.ndarray, np.ndarray]:
    """A vector in the plane, turned by an angle in rad."""
    return x * np.cos(angle) - y * np.sin(angle), x * np.sin(angle) + y * np.cos(angle)


def _places(world: World) -> np.ndarray:
    """Where the switches are, ``(n, 3)`` in metres."""
    return world.fields["body_pos"][:, world.model.body("switch").id]


def _switch(world: World) -> tuple[np.ndarray, np.ndarray]:
    """Turns of the switches ``(n,)`` in rad, and where their ports' bottoms are, ``(n, ports, 3)`` in m."""
    quaternion = world.fields["body_quat"][:, world.model.body("switch").id]
    turns = 2.0 * np.arctan2(quaternion[:, 3], quaternion[:, 0])
    dx, dy = _turned(0.0, PORT_Y, turns[:, np.newaxis])
    offsets = np.stack([dx, dy, np.full_like(dx, FACE - DEPTH)], axis=-1)
    return turns, _places(world)[:, np.newaxis] + offsets


def _misalignment(world: World, turns: np.ndarray) -> np.ndarray:
    """The angle between the plug as it is and as its port is turned: ``(n,)`` in rad."""
    axes = world.derived("site_xmat")[:, world.model.site(widowx.TIP).id].reshape(-1, 3, 3)
    cos, sin = np.cos(turns), np.sin(turns)
    # trace of the product with [[-cos, -sin, 0], [-sin, cos, 0], [0, 0, -1]], the axes of a plug in its port
    trace = cos * (axes[:, 1, 1] - axes[:, 0, 0]) - sin * (axes[:, 0, 1] + axes[:, 1, 0]) - axes[:, 2, 2]
    return np.arccos(np.clip((trace - 1.0) / 2.0, -1.0, 1.0))


@lru_cache(maxsize=1)
def _start() -> tuple[np.ndarray, np.ndarray]:
    """The start pose ``(5,)`` in rad, and the goals ``(5,)`` that hold it."""
    angles = widowx.angles_at(np.array(START_PLACE), np.array(START_TURN))
    return angles, widowx.holding_goal(build_spec().compile(), angles)


# The scene ------------------------------------------------------------------------------------------


def build_spec() -> mujoco.MjSpec:
    """The table with arm and switch, before compilation; also what emulated servos move."""
    spec = mujoco.MjSpec.from_file(str(ASSETS / "widowx_ethernet.xml"))
    widowx.add_arm(spec)
    _add_switch(spec, spec.worldbody.add_body(name="switch", pos=(PLACE_X, 0.0, 0.0)))
    _add_room(spec.worldbody.add_body(name="room"))
    return spec


def _add_switch(spec: mujoco.MjSpec, body: mujoco.MjsBody) -> None:
    """Housing, ribs between the ports, and walls along them; every edge of a port has a lead-in.

    Ribs and walls are touched as boxes and drawn as one mesh: a renderer in software takes its time by geoms.
    """
    box, cylinder = mujoco.mjtGeom.mjGEOM_BOX, mujoco.mjtGeom.mjGEOM_CYLINDER
    floor, middle = FACE - DEPTH, FACE - DEPTH / 2.0
    body.add_geom(
        name="turntable",
        type=cylinder,
        size=(0.03, 0.004, 0.0),
        pos=(0.0, 0.0, 0.012),
        material="rig",
        **widowx.SURROUNDINGS,
    )
    height = (floor - 0.016) / 2.0
    body.add_geom(
        name="housing",
        type=box,
        size=(HALF_FACE[0], HALF_FACE[1], height),
        pos=(0.0, 0.0, floor - height),
        material="housing",
        **widowx.SURROUNDINGS,
    )
    below = ("+x", "-x", "+y", "-y", "-z")
    holes = [Block((0.0, y, floor + 0.0001), (*HALF_PORT, 0.0005), hidden=below) for y in PORT_Y]
    add_mesh(spec, body, "ports", holes, material="hole")
    half_length = HALF_PORT[1] + (NUM_PORTS - 1) * PITCH / 2.0
    walls: dict[str, Block] = {}
    for name, x in (("near", -HALF_PORT[0] - RIB), ("far", HALF_PORT[0] + RIB)):
        walls |= _wall(name, (x, 0.0, middle), (RIB, half_length + 2.0 * RIB))
    for rib in range(NUM_PORTS + 1):
        y = (rib - NUM_PORTS / 2.0) * PITCH
        walls |= _wall(f"rib_{rib}", (0.0, y, middle), (HALF_PORT[0], RIB))
    for name, block in walls.items():
        look = {"name": name, "group": UNSEEN, "material": "face"}
        body.add_geom(
            type=box, pos=block.place, size=block.half, quat=block.quat, **look, **widowx.SURROUNDINGS
        )
    add_mesh(spec, body, "face", walls.values(), material="face")


def _add_room(body: mujoco.MjsBody) -> None:
    """A table with a rail, and the floor: last, for to draw what something else hides costs less."""
    box, plane = mujoco.mjtGeom.mjGEOM_BOX, mujoco.mjtGeom.mjGEOM_PLANE
    for name, half, place, material in (
        ("slide_rail", (0.008, 0.09, 0.004), (PLACE_X, 0.0, 0.004), "rig"),
        ("table", (0.3, 0.35, 0.02), (0.15, 0.0, -0.02), "wood"),
    ):
        body.add_geom(name=name, type=box, size=half, pos=place, material=material, **widowx.SURROUNDINGS)
    look = {"name": "floor", "material": "floor", "group": 2, **widowx.UNTOUCHED}
    body.add_geom(type=plane, size=(4.0, 4.0, 2.0), pos=(0.0, 0.0, -0.75), **look)


def _wall(name: str, place: tuple[float, float, float], half: tuple[float, float]) -> dict[str, Block]:
    """A wall with a roof of two slopes, which leads a plug into the port on either side."""
    along_x = half[0] > half[1]
    slope, cos, sin = RIB / np.sqrt(2.0), np.cos(np.pi / 8.0), np.sin(np.pi / 8.0)
    top = (place[0], place[1], FACE)
    if along_x:  # a rib, whose ends are in the walls
        wall = Block(place, (*half, DEPTH / 2.0), hidden=("+x", "-x", "+z", "-z"))
        roof = Block(top, (half[0], slope, slope), (cos, sin, 0.0, 0.0), ("+x", "-x", "-y", "-z"))
    else:
        wall = Block(place, (*half, DEPTH / 2.0), hidden=("+z", "-z"))
        roof = Block(top, (slope, half[1], slope), (cos, 0.0, sin, 0.0), ("+x", "-z"))
    return {name: wall, f"{name}_roof": roof}
