"""Gaits for the scripted experts of PEARL's robots, from a small table.

Each motor, or the angle that each joint is driven to, gets a weighted sum of a constant, two harmonics of
the gait's phase, and some of the robot's state. The table (``assets/gaits.json``) was found by an evolution
strategy as CheetahVel's was: antithetic pairs of weights, ranks as fitness, Adam, random starts.

| gait               | pairs  | episodes of each | updates | fitness                                |
|--------------------|--------|------------------|---------|----------------------------------------|
| cheetah, backwards | 24     | 2                | 100     | speed up to 3 m/s, less the final tilt |
| ant                | 24     | 2, opposite ways | 20      | way up to 8 m, less half the way aside |
| walker             | 16, 12 | 4, then 8 bodies | 80, 60  | time upright, final speed, way         |

``docs/environments.md`` says how well they do.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

_TABLE = json.loads((Path(__file__).parent.parent / "assets" / "gaits.json").read_text(encoding="utf-8"))

# The ant's legs: at 45, 135, 225 and 315 degrees, alike but for that; neighbours half a period apart.
LEG_ANGLES = np.pi * np.array([0.25, 0.75, 1.25, 1.75])  # rad, from the torso's x axis
LEG_PHASES = np.pi * np.arange(4)
ANKLE_SIGNS = np.array([1.0, -1.0, -1.0, 1.0])  # two ankles turn the other way round (model file)
ANKLE_REST = 0.87  # rad, the middle of an ankle's range
ANT_MOTORS = (6, 7, 0, 1, 2, 3, 4, 5)  # the joint that each motor moves, in the order of qpos


def cheetah_backwards(seconds: np.ndarray, pitch: np.ndarray) -> np.ndarray:
    """Actions ``(n, 6)`` of a half-cheetah that runs backwards.

    Args:
        seconds: since the episode's start, ``(n,)``.
        pitch: of the torso, ``(n,)`` in rad.
    """
    gait = _TABLE["half_cheetah_backwards"]
    features = [*_waves(2.0 * np.pi * gait["frequency"] * seconds), pitch]
    return np.einsum("af,fn->na", np.array(gait["weights"]), np.stack(features))


def ant_towards(seconds: np.ndarray, qpos: np.ndarray, qvel: np.ndarray, way: np.ndarray) -> np.ndarray:
    """Actions ``(n, 8)`` of an ant that walks a way, whichever way it faces.

    The gait knows each leg's angle to the way; joints are driven to the gait's angles as by a spring.

    Args:
        seconds: since the episode's start, ``(n,)``.
        qpos: the model's positions ``(n, 15)``.
        qvel: the model's velocities ``(n, 14)``.
        way: ``(n, 2)`` in the world; its length, at most 1, is the share of the stride.
    """
    gait = _TABLE["ant"]
    phases = 2.0 * np.pi * gait["frequency"] * seconds[:, np.newaxis] + LEG_PHASES  # (n, 4)
    angles = (np.arctan2(way[:, 1], way[:, 0]) - _yaw(qpos))[:, np.newaxis] - LEG_ANGLES
    stride = np.linalg.norm(way, axis=1)[:, np.newaxis]
    directions = np.stack([np.ones_like(angles), stride * np.cos(angles), stride * np.sin(angles)])
    wanted = np.einsum("jfd,fnl,dnl->nlj", np.array(gait["weights"]), np.stack(_waves(phases)), directions)
    wanted[..., 1] = (wanted[..., 1] + ANKLE_REST) * ANKLE_SIGNS
    errors = wanted.reshape(-1, 8) - qpos[:, 7:]
    return (gait["stiffness"] * errors - gait["damping"] * qvel[:, 6:])[:, ANT_MOTORS]


def walker(seconds: np.ndarray, qpos: np.ndarray, qvel: np.ndarray) -> np.ndarray:
    """Actions ``(n, 6)`` of a walker that runs forwards: both legs alike, half a period apart.

    Joints are driven to the gait's angles as by a spring; tilt, height and speed change the angles.

    Args:
        seconds: since the episode's start, ``(n,)``.
        qpos: the model's positions ``(n, 9)``.
        qvel: the model's velocities ``(n, 9)``.
    """
    gait = _TABLE["walker"]
    height, tilt = qpos[:, 1], qpos[:, 2]
    body = [2.0 * tilt, 0.3 * qvel[:, 2], 2.0 * (height - 1.2), 0.5 * (qvel[:, 0] - 1.0), 0.5 * qvel[:, 1]]
    phase = 2.0 * np.pi * gait["frequency"] * seconds
    wanted = [
        np.array(gait["rest"])
        + np.einsum("af,fn->na", np.array(gait["weights"]), np.stack([*_waves(phase + lag), *body]))
        for lag in (0.0, np.pi)
    ]
    return gait["stiffness"] * (np.concatenate(wanted, axis=1) - qpos[:, 3:]) - gait["damping"] * qvel[:, 3:]


def _waves(phase: np.ndarray) -> list[np.ndarray]:
    return [np.ones_like(phase), np.sin(phase), np.cos(phase), np.sin(2.0 * phase), np.cos(2.0 * phase)]


def _yaw(qpos: np.ndarray) -> np.ndarray:
    """Where the torso's x axis points on the ground, ``(n,)`` in rad."""
    w, x, y, z = qpos[:, 3:7].T
    return np.arctan2(2.0 * (w * z + x * y), 1.0 - 2.0 * (y * y + z * z))
