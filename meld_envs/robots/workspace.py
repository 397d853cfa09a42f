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
from functools import cached_property, lru_cache
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

    def from_base(self, places: np.ndarray) -> np.ndarray:
        """How far places ``(3, ...)`` are outside the base (m); negative inside, by how much they are."""
        if self.base is None:
            return np.full(places.shape[1:], np.inf)
        radius, height = self.base
        aside, above = np.hypot(places[0], places[1]) - radius, places[2] - height
        out = np.hypot(np.maximum(aside, 0.0), np.maximum(above, 0.0))
        return out + np.minimum(np.maximum(aside, above), 0.0)

    def points(self, angles: np.ndarray) -> np.ndarray:
        """Centres of the spheres, ``(..., spheres, 3)`` m, at joint angles ``(..., joints)`` rad."""
        return np.moveaxis(self.places(np.asarray(angles, dtype=np.float64)), 0, -1)

    def places(self, angles: np.ndarray) -> np.ndarray:
        """The same, x, y and z apart: ``(3, ..., spheres)`` m.

        In the plane that the first joint turns, each centre is a sum of sines and cosines of the links'
        leans, for their axes are parallel: one product of matrices, however many links there are.
        """
        turns, phases, factors, fixed = self._sums
        waves = np.sin(_product(angles, turns) + phases)
        rolled = waves[..., 4:6, np.newaxis] * waves[..., np.newaxis, 6:8]
        terms = np.concatenate([waves[..., :8], rolled.reshape(*rolled.shape[:-2], 4)], axis=-1)
        found = _product(terms, factors) + fixed
        number = len(self.spheres)
        out, aside, up = found[..., :number], found[..., number : 2 * number], found[..., 2 * number :]
        sine, cosine, places = waves[..., 8:9], waves[..., 9:10], np.empty((3, *out.shape))
        np.subtract(cosine * out, sine * aside, out=places[0])
        np.add(sine * out, cosine * aside, out=places[1])
        places[2] = up
        return places

    @cached_property
    def _sums(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """What makes waves of angles ``(5, 10)``, ``(10,)``, and centres of terms ``(12, 3 n)``, ``(3 n,)``.

        Waves are sine and cosine of the leans of links 1, 2, 3, of the last joint and of the first; terms are
        the first eight of them, and those of link 3 times those of the last joint.
        """
        base, *leaning, last = self.hinges
        aside = [*base.origin[:2], *(hinge.origin[1] for hinge in (*leaning, last)), base.pitch, last.pitch]
        axes = [base.axis, *(hinge.axis for hinge in leaning)]
        if any(aside) or axes != [_Z, _Y, _Y, _Y]:
            raise ValueError("an arm needs joints about z, then y three times in one plane, then its hand's")
        leans = np.tri(3, 5, 1) - np.eye(1, 5)  # of links 1, 2, 3 by joints
        turns = np.repeat(np.concatenate([leans, np.eye(5)[[4, 0]]]), 2, axis=0).T
        phases = np.repeat([*np.cumsum([hinge.pitch for hinge in leaning]), 0.0, 0.0], 2)
        phases[1::2] += math.pi / 2.0
        factors, fixed = np.zeros((12, 3, len(self.spheres))), np.zeros((3, len(self.spheres)))
        for index, sphere in enumerate(self.spheres):
            parts, there = factors[..., index], fixed[:, index]
            there += base.origin
            for link in range(sphere.hinge + 1):
                part = np.array(sphere.centre if link == sphere.hinge else self.hinges[link + 1].origin)
                if link == 0:
                    there += part
                elif link < 4:
                    there[1] += _lean(parts, 2 * link - 2, 2 * link - 1, part)
                else:  # Rodrigues' formula
                    along = (last.axis @ part) * np.array(last.axis)
                    there[1] += _lean(parts, 4, 5, along)
                    parts[6, 1] = _lean(parts, 8, 10, np.cross(last.axis, part))
                    parts[7, 1] = _lean(parts, 9, 11, part - along)
        return turns, phases, factors.reshape(12, -1), fixed.reshape(-1)

    def reach(self) -> np.ndarray:
        """For each joint, how far (m) anything on the body can ever be from its axis' origin."""
        reach = np.zeros(len(self.hinges))
        for sphere in self.spheres:
            farthest = float(np.linalg.norm(sphere.centre))
            for index in range(sphere.hinge, -1, -1):
                reach[index] = max(reach[index], farthest)
                farthest += float(np.linalg.norm(self.hinges[index].origin))
        return reach


def _product(rows: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """``rows @ matrix``, each row's the same to the last bit however many there are: BLAS' are not."""
    return np.einsum("...i,ij->...j", rows, matrix)


def _lean(parts: np.ndarray, sine: int, cosine: int, vector: np.ndarray) -> float:
    """Adds a vector in a link's frame to parts ``(terms, 3)``, by rows of what turns it; returns its y."""
    x, y, z = vector
    parts[sine] += (z, 0.0, -x)
    parts[cosine] += (x, 0.0, z)
    return float(y)


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

    def depth(self, places: np.ndarray) -> np.ndarray:
        """How deep places ``(3, ...)`` are inside (m); negative outside, by the most along one axis."""
        return -np.maximum.reduce(self._beyond(places))

    def distance(self, places: np.ndarray) -> np.ndarray:
        """How far places ``(3, ...)`` are outside (m); negative inside, by how much they are."""
        beyond = self._beyond(places)
        x, y, z = np.maximum(beyond, 0.0)
        return np.sqrt(x * x + y * y + z * z) + np.minimum(np.maximum.reduce(beyond), 0.0)

    def _beyond(self, places: np.ndarray) -> np.ndarray:
        """By how much (m) along each axis, ``(3, ...)``."""
        middle, half = _sides(self, places.ndim)
        return np.abs(places - middle) - half


@lru_cache(maxsize=64)
def _sides(box: Box, ndim: int) -> tuple[np.ndarray, np.ndarray]:
    """The middle and half the lengths of a box (m), for places of so many dimensions."""
    low, high = (np.reshape(ends, (3, *[1] * (ndim - 1))) for ends in (box.low, box.high))
    return (low + high) / 2.0, (high - low) / 2.0


@lru_cache(maxsize=64)
def _parts(pieces: int) -> np.ndarray:
    """Where a way is looked at, ``(pieces + 1, 1)`` from 0 to 1."""
    return np.linspace(0.0, 1.0, pieces + 1)[:, np.newaxis]


class Nearest(NamedTuple):
    """What is nearest to being touched: how far (m; negative: beyond), which part, and of what."""

    clearance: float
    part: str
    of: str

    def __str__(self) -> str:
        return f"{self.part} is {self.clearance * 1000:.0f} mm from {self.of}"


class Outlook(NamedTuple):
    """How clear arms were where they were last looked at: as long as they stay nearby, that will do.

    Attributes:
        places: ``(n, 2, joints)`` rad, of goals and joints then.
        clearance: ``(n,)`` m, the least of both.
    """

    places: np.ndarray
    clearance: np.ndarray

    @classmethod
    def none(cls, num_arms: int, num_joints: int = 5) -> Outlook:
        """Nothing was looked at yet."""
        return cls(np.zeros((num_arms, 2, num_joints)), np.full(num_arms, -np.inf))

    def least(self, workspace: Workspace, places: np.ndarray) -> np.ndarray:
        """A lower bound of the clearance ``(n,)`` m at places ``(n, 2, joints)`` rad, without a look."""
        return self.clearance - workspace.travel(places - self.places).max(axis=1)

    def note(self, arms: np.ndarray | int, places: np.ndarray, clearance: np.ndarray | float) -> None:
        """Keeps what was seen of some of the arms."""
        self.places[arms], self.clearance[arms] = places, clearance


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
    def _enters(self) -> np.ndarray:
        """By sphere: infinite for those that may enter the keep-out box, else 0."""
        return np.array([math.inf if sphere.enters else 0.0 for sphere in self.body.spheres])

    def _clearances(self, angles: np.ndarray) -> tuple[np.ndarray, ...]:
        """Of the spheres' centres, ``(..., spheres)`` m each: from box, table, keep-out box and base."""
        places = self.body.places(angles)
        box, table, base = self.box.depth(places), places[2] - self.table, self.body.from_base(places)
        if self.keep_out is None:
            return box, table, np.full_like(box, np.inf), base
        return box, table, self.keep_out.distance(places) + self._enters, base

    def clearance(self, angles: np.ndarray) -> np.ndarray:
        """The least distance (m), ``(...)``, of the body at ``(..., joints)`` rad; negative: beyond."""
        box, table, keep_out, base = self._clearances(angles)
        least = np.minimum(np.minimum(box, table), np.minimum(keep_out, base))
        return np.minimum.reduce(least - self._radius, axis=-1)

    def nearest(self, angles: np.ndarray) -> Nearest:
        """What is nearest to being touched at ``(joints,)`` rad."""
        distances = np.stack(self._clearances(np.asarray(angles, dtype=np.float64))) - self._radius
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
            way = end - start
            travel = float(self.travel(way))
            pieces = max(1, math.ceil(travel / SPACING))
            samples.append(start + _parts(pieces) * way)
            slack = max(slack, travel / pieces / 2.0)
        clearances = self.clearance(np.concatenate(samples))
        return clearances[: len(places)], float(clearances[len(places) :].min()) - slack

    def travel(self, way: np.ndarray) -> np.ndarray:
        """How far (m), ``(...)``, any point of the body moves at most on ways ``(..., joints)`` rad."""
        return np.einsum("...j,j->...", np.abs(way), self._reach)

    @cached_property
    def _reach(self) -> np.ndarray:
        return self.body.reach()
