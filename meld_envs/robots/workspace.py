"""Where the arm is: chains of joints, spheres on the body, and how far these are from what is around them.

A ``Body`` holds an arm's published chain, its base and spheres that cover the rest; ``Workspace`` holds the
box, the table and the rig's keep-out box. ``Workspace.clearance`` is the least distance of any sphere from
any of them, and ``Workspace.sweep`` answers for *every* configuration on a straight line between two, not
only for samples: no point of the body moves farther than the sum of each joint's turn times its reach, so
between two samples nothing can hide that is larger than half their distance.

Sources: Robotnik's ``widowx_arm`` (Mark II) and Interbotix's ``wx200`` descriptions for the chains; the
spheres cover the bounding boxes of the Mark II's published meshes, those of the WidowX 200 are our estimate.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np

from meld_envs.robots import widowx

#: Distance that any point of the body may move between two samples of a sweep (m).
SPACING = 0.004


class Hinge(NamedTuple):
    """A joint: where its frame sits in its parent's (m; pitch about y, rad), and the axis it turns about."""

    origin: tuple[float, float, float]
    pitch: float
    axis: tuple[float, float, float]


class Sphere(NamedTuple):
    """A ball on the body.

    Attributes:
        name: of the part that it covers, for messages.
        hinge: index of the joint that moves it.
        centre: in that joint's frame (m).
        radius: m.
        enters: whether it may enter the rig's keep-out box: the plug must.
    """

    name: str
    hinge: int
    centre: tuple[float, float, float]
    radius: float
    enters: bool = False


@dataclass(frozen=True)
class Body:
    """An arm's chain, base first, the spheres that cover what moves, and its base.

    Attributes:
        base: radius and height (m) of a cylinder on the mounting plane; None: not known.
    """

    hinges: tuple[Hinge, ...]
    spheres: tuple[Sphere, ...]
    base: tuple[float, float] | None = None

    def at_height(self, height: float) -> Body:
        """The same body, its second joint's axis at a measured height above the mounting plane (m).

        Raises:
            ValueError: a height that no such arm has.
        """
        published = self.hinges[0].origin[2] + self.hinges[1].origin[2]
        if not abs(height - published) < 0.1:
            raise ValueError(f"base height {height} m is not within 0.1 m of the published {published:.3f} m")
        x, y, z = self.hinges[0].origin
        risen = height - published
        first = self.hinges[0]._replace(origin=(x, y, z + risen))
        base = None if self.base is None else (self.base[0], self.base[1] + risen)
        return replace(self, hinges=(first, *self.hinges[1:]), base=base)

    def from_base(self, points: np.ndarray) -> np.ndarray:
        """How far points ``(..., 3)`` are outside the base (m); negative inside, by how much they are."""
        if self.base is None:
            return np.full(points.shape[:-1], np.inf)
        radius, height = self.base
        aside, above = np.hypot(points[..., 0], points[..., 1]) - radius, points[..., 2] - height
        inside = np.minimum(np.maximum(aside, above), 0.0)
        return np.hypot(np.maximum(aside, 0.0), np.maximum(above, 0.0)) + inside

    def points(self, angles: np.ndarray) -> np.ndarray:
        """Centres of the spheres, ``(..., spheres, 3)`` m, at joint angles ``(..., joints)`` rad."""
        angles = np.asarray(angles, dtype=np.float64)
        fixed, sine, rest = self._turns
        turns = (
            fixed + np.sin(angles)[..., None, None] * sine + (1.0 - np.cos(angles))[..., None, None] * rest
        )
        place, turn = np.zeros(3), np.eye(3)
        found = []
        for index, (origin, centres) in enumerate(zip(self._origins, self._centres)):
            place = place + turn @ origin
            turn = turn @ turns[..., index, :, :]
            if len(centres):
                found.append(place[..., None, :] + centres @ np.swapaxes(turn, -1, -2))
        return np.concatenate(found, axis=-2)

    @cached_property
    def _turns(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What Rodrigues' formula needs of each joint, frames' pitches included; ``(joints, 3, 3)`` each."""
        fixed, crosses = [], []
        for hinge in self.hinges:
            sine, cosine = math.sin(hinge.pitch), math.cos(hinge.pitch)
            fixed.append([[cosine, 0.0, sine], [0.0, 1.0, 0.0], [-sine, 0.0, cosine]])
            x, y, z = hinge.axis
            crosses.append([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
        frame, cross = np.array(fixed), np.array(crosses)
        return frame, frame @ cross, frame @ cross @ cross

    @cached_property
    def _origins(self) -> tuple[np.ndarray, ...]:
        return tuple(np.array(hinge.origin) for hinge in self.hinges)

    @cached_property
    def _centres(self) -> tuple[np.ndarray, ...]:
        """The spheres' centres by joint, ``(spheres of it, 3)``."""
        order = [sphere.hinge for sphere in self.spheres]
        assert order == sorted(order), "spheres must stand in their joints' order"
        of = range(len(self.hinges))
        return tuple(np.array([s.centre for s in self.spheres if s.hinge == index]) for index in of)

    def reach(self) -> np.ndarray:
        """For each joint, how far (m) anything on the body can ever be from its axis' origin."""
        reach = np.zeros(len(self.hinges))
        for sphere in self.spheres:
            farthest = float(np.linalg.norm(sphere.centre))
            for index in range(sphere.hinge, -1, -1):
                reach[index] = max(reach[index], farthest)
                farthest += float(np.linalg.norm(self.hinges[index].origin))
        return reach


# The arms ------------------------------------------------------------------------------------------

_RAIL = widowx.RAIL
WIDOWX_MK2 = Body(
    tuple(Hinge(joint.origin, joint.pitch, joint.axis) for joint in widowx.JOINTS),
    (
        Sphere("elbow", 1, (0.030, 0.0, 0.142), 0.043),
        Sphere("forearm", 2, (0.0, 0.0, 0.060), 0.032),
        Sphere("forearm", 2, (0.0, 0.0, 0.110), 0.034),
        Sphere("wrist pitch", 2, (0.0, 0.0, 0.140), 0.034),
        Sphere("wrist roll", 3, (-0.012, 0.0, 0.020), 0.038),
        Sphere("wrist roll", 3, (-0.012, 0.0, 0.055), 0.038),
        Sphere("gripper servo", 4, (-0.012, 0.0, 0.025), 0.036),
        Sphere("gripper, left", 4, (0.0, 0.022, _RAIL + 0.010), 0.024),
        Sphere("gripper, right", 4, (0.0, -0.022, _RAIL + 0.010), 0.024),
        Sphere("fingers", 4, (0.0, 0.0, _RAIL + 0.032), 0.025),
        Sphere("plug", 4, (0.0, 0.0, _RAIL + widowx.TIP_POSITION[2] - 0.007), 0.007, enters=True),
    ),
    base=(0.0954, 0.089),
)
_X, _Y, _Z = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)
_EE = 0.043  # m, from the wrist's roll to the gripper's bar
WX200 = Body(
    (
        Hinge((0.0, 0.0, 0.072), 0.0, _Z),
        Hinge((0.0, 0.0, 0.03865), 0.0, _Y),
        Hinge((0.05, 0.0, 0.2), 0.0, _Y),
        Hinge((0.2, 0.0, 0.0), 0.0, _Y),
        Hinge((0.065, 0.0, 0.0), 0.0, _X),
    ),
    (
        Sphere("elbow", 1, (0.04, 0.0, 0.2), 0.045),
        Sphere("forearm", 2, (0.07, 0.0, 0.0), 0.035),
        Sphere("forearm", 2, (0.14, 0.0, 0.0), 0.035),
        Sphere("wrist pitch", 2, (0.2, 0.0, 0.0), 0.035),
        Sphere("wrist roll", 3, (0.04, 0.0, 0.0), 0.035),
        Sphere("gripper servo", 4, (0.015, 0.0, 0.0), 0.035),
        Sphere("gripper, left", 4, (_EE, 0.03, 0.0), 0.025),
        Sphere("gripper, right", 4, (_EE, -0.03, 0.0), 0.025),
        Sphere("fingers", 4, (_EE + 0.023 + 0.0275, 0.0, 0.0), 0.025),
        Sphere("plug", 4, (_EE + 0.023 + 0.0275 + 0.015, 0.0, 0.0), 0.007, enters=True),
    ),
)
#: By the name of the arm's profile.
BODIES: Mapping[str, Body] = {"widowx_mk2": WIDOWX_MK2, "wx200": WX200}


# What is around them -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Box:
    """A box along the axes, in the frame of the arm's base (m)."""

    low: tuple[float, float, float]
    high: tuple[float, float, float]

    def __post_init__(self) -> None:
        sides = [*zip(self.low, self.high)]
        if len(self.low) != 3 or len(self.high) != 3 or not all(low < high for low, high in sides):
            raise ValueError(
                f"a box needs three numbers low below three numbers high, got {self.low} and {self.high}"
            )

    def depth(self, points: np.ndarray) -> np.ndarray:
        """How deep points ``(..., 3)`` are inside (m); negative outside, by the most along one axis."""
        return np.minimum(points - np.asarray(self.low), np.asarray(self.high) - points).min(axis=-1)

    def distance(self, points: np.ndarray) -> np.ndarray:
        """How far points ``(..., 3)`` are outside (m); negative inside, by how much they are."""
        low, high = np.asarray(self.low), np.asarray(self.high)
        out = np.linalg.norm(np.maximum(np.maximum(low - points, points - high), 0.0), axis=-1)
        return np.where(out > 0.0, out, -self.depth(points))


class Nearest(NamedTuple):
    """What is nearest to being touched: how far (m; negative: beyond), which part, and of what."""

    clearance: float
    part: str
    of: str

    def __str__(self) -> str:
        return f"{self.part} is {self.clearance * 1000:.0f} mm from {self.of}"


@dataclass(frozen=True)
class Workspace:
    """Where a body may be.

    Args:
        body: the arm.
        box: that every sphere of it stays in.
        table: height of the table's plane (m), which no sphere touches.
        keep_out: the rig's housing, which only the plug may enter.
    """

    body: Body
    box: Box
    table: float
    keep_out: Box | None = None

    def __post_init__(self) -> None:
        if not np.isfinite(self.table):
            raise ValueError(f"the table's height must be a number in m, got {self.table}")

    @cached_property
    def _radius(self) -> np.ndarray:
        return np.array([sphere.radius for sphere in self.body.spheres])

    @cached_property
    def _barred(self) -> np.ndarray:
        """Indices of the spheres that may not enter the keep-out box."""
        return np.array([i for i, sphere in enumerate(self.body.spheres) if not sphere.enters])

    def _clearances(self, angles: np.ndarray) -> np.ndarray:
        """``(..., 4, spheres)`` m: from the box, the table, the keep-out box and the arm's base."""
        points = self.body.points(angles)
        found = np.full((*points.shape[:-2], 4, points.shape[-2]), np.inf)
        found[..., 3, :] = self.body.from_base(points)
        found[..., 0, :] = self.box.depth(points)
        found[..., 1, :] = points[..., 2] - self.table
        if self.keep_out is not None:
            found[..., 2, self._barred] = self.keep_out.distance(points[..., self._barred, :])
        return found - self._radius

    def clearance(self, angles: np.ndarray) -> np.ndarray:
        """The least distance (m), ``(...)``, of the body at ``(..., joints)`` rad; negative: beyond."""
        return self._clearances(angles).min(axis=(-1, -2))

    def nearest(self, angles: np.ndarray) -> Nearest:
        """What is nearest to being touched at ``(joints,)`` rad."""
        distances = self._clearances(np.asarray(angles, dtype=np.float64))
        of, part = np.unravel_index(int(distances.argmin()), distances.shape)
        names = ("the edge of the workspace box", "the table", "the rig's keep-out box", "the arm's base")
        return Nearest(float(distances[of, part]), self.body.spheres[part].name, names[of])

    def sweep(self, *waypoints: np.ndarray) -> float:
        """A lower bound (m) of the clearance everywhere on straight lines from one configuration to the next.

        Args:
            waypoints: two or more, ``(joints,)`` rad each.
        """
        return self.look((), waypoints)[1]

    def look(self, places: Sequence[np.ndarray], waypoints: Sequence[np.ndarray]) -> tuple[np.ndarray, float]:
        """``clearance`` of places and ``sweep`` of waypoints at once: one pass of numpy instead of two."""
        samples, slack = [np.reshape(places, (len(places), len(self.body.hinges)))], 0.0
        for start, end in itertools.pairwise(waypoints):
            travel = float(np.abs(end - start) @ self.reach)
            pieces = max(1, math.ceil(travel / SPACING))
            samples.append(start + np.linspace(0.0, 1.0, pieces + 1)[:, None] * (end - start))
            slack = max(slack, travel / pieces / 2.0)
        clearances = self.clearance(np.concatenate(samples))
        return clearances[: len(places)], float(clearances[len(places) :].min()) - slack

    @cached_property
    def reach(self) -> np.ndarray:
        """As of ``Body.reach``."""
        return self.body.reach()
