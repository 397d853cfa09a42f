"""Boxes drawn in one piece: a small picture drawn in software takes its time by geoms and corners."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import mujoco
import numpy as np

#: MuJoCo draws groups 0, 1 and 2; what is only touched is in this one.
UNSEEN = 3
#: Of a box, in its own frame.
FACES = ("+x", "-x", "+y", "-y", "+z", "-z")


class Block(NamedTuple):
    """A box: its middle, half its sides (m), how it is turned (unit quaternion), faces that nobody sees."""

    place: tuple[float, float, float]
    half: tuple[float, float, float]
    quat: tuple[float, float, float, float] = (1.0, 0.0, 0.0, 0.0)
    hidden: tuple[str, ...] = ()


def add_mesh(
    spec: mujoco.MjSpec, body: mujoco.MjsBody, name: str, blocks: Iterable[Block], **look: Any
) -> None:
    """Adds boxes to a body, to be seen and not touched, as one mesh and one geom of that name.

    Args:
        spec: that the body belongs to.
        body: in whose frame the boxes are.
        name: of both.
        blocks: the boxes; they may overlap.
        look: of the geom: its material, say.
    """
    corners = np.concatenate([_corners(block) for block in blocks])
    first = np.arange(0, len(corners), 4)[:, np.newaxis, np.newaxis]
    faces = first + np.array([[0, 1, 2], [0, 2, 3]])
    mesh = spec.add_mesh(name=name, uservert=corners.ravel(), userface=faces.ravel())
    mesh.inertia = mujoco.mjtMeshInertia.mjMESH_INERTIA_SHELL  # they overlap: there is no volume
    body.add_geom(
        name=name, type=mujoco.mjtGeom.mjGEOM_MESH, meshname=name, contype=0, conaffinity=0, mass=0.0, **look
    )


def _corners(block: Block) -> np.ndarray:
    """Those of each face in turn, ``(4 faces, 3)`` m, against the clock as seen from outside.

    No two faces share one, so that edges are sharp.
    """
    turned = np.zeros(9)
    mujoco.mju_quat2Mat(turned, np.array(block.quat))
    corners = []
    for face in FACES:
        if face in block.hidden:
            continue
        axis, way = "xyz".index(face[1]), 1 if face[0] == "+" else -1
        for across, along in ((-1, -1), (way, -way), (1, 1), (-way, way)):
            corner = np.zeros(3)
            corner[[axis, (axis + 1) % 3, (axis + 2) % 3]] = way, across, along
            corners.append(corner)
    return np.array(corners) * block.half @ turned.reshape(3, 3).T + block.place
