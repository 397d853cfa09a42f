"""The scripted expert of CheetahVel and HalfCheetahVel: a table of gaits by speed, and feedback on the speed.

Each motor gets a weighted sum of a constant, two harmonics of the gait's phase and the torso's pitch; the
weights are interpolated between the speeds of the table, at the speed asked for plus a share of what the
last second's mean speed was short of it. The gait's frequency follows from the speed asked for.

The table (``assets/cheetah_gaits.json``) was found by an evolution strategy: 320 updates of 32 antithetic
pairs, each on ten speeds in [0, 3] with random starts; ranks of the mean error of the last second's speed
as fitness, Adam as the optimiser; about a quarter of an hour on one core. ``docs/environments.md`` says how
well it does.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from meld_envs.world import World

_TABLE = json.loads(
    (Path(__file__).parent.parent / "assets" / "cheetah_gaits.json").read_text(encoding="utf-8")
)

SPEEDS = np.array(_TABLE["speeds"])  # m/s, (K,)
FREQUENCIES = np.array(_TABLE["frequencies"])  # Hz, (K,)
WEIGHTS = np.array(_TABLE["weights"])  # (K, motors, features), for the features of `_features`
FEEDBACK = float(_TABLE["feedback"])  # m/s asked in addition per m/s of error

CONTROL_HZ = 10.0
ROOT_PITCH = 2  # index in qpos
FEEDBACK_FROM = 0.5  # s: before that the speed is mostly noise of the start
STILL = 0.1  # m/s, below which the feedback fades, so that standing is standing


def gait_actions(world: World, speeds: np.ndarray) -> np.ndarray:
    """Actions ``(n, 6)`` of CheetahVel that lead to these speeds ``(n,)`` in m/s, and keep them."""
    return gait(world.steps / CONTROL_HZ, world.qpos[:, ROOT_PITCH], _speed(world), speeds)


def gait(seconds: np.ndarray, pitch: np.ndarray, mean_speeds: np.ndarray, speeds: np.ndarray) -> np.ndarray:
    """What each motor should do to lead to a speed, and to keep it.

    Args:
        seconds: since the episode's start, ``(n,)``.
        pitch: of the torso, ``(n,)`` in rad.
        mean_speeds: over the last second, or since the episode's start, ``(n,)`` in m/s.
        speeds: asked for, ``(n,)`` in m/s, at least 0.

    Returns:
        ``(n, 6)``, in shares of 0.8 of the motors' ranges, not clipped.
    """
    error = np.where(seconds >= FEEDBACK_FROM, speeds - mean_speeds, 0.0)
    asked = np.clip(speeds + FEEDBACK * error, 0.0, SPEEDS[-1]) * np.minimum(speeds / STILL, 1.0)
    features = _features(2.0 * np.pi * (_interpolation(speeds) @ FREQUENCIES) * seconds, pitch)
    return np.einsum("nk,kaf,nf->na", _interpolation(asked), WEIGHTS, features)


def _interpolation(speeds: np.ndarray) -> np.ndarray:
    """How much each row of the table counts, ``(n, K)``: linear between rows."""
    upper = np.clip(np.searchsorted(SPEEDS, speeds, side="right"), 1, len(SPEEDS) - 1)
    share = (speeds - SPEEDS[upper - 1]) / (SPEEDS[upper] - SPEEDS[upper - 1])
    between = np.zeros((len(speeds), len(SPEEDS)))
    rows = np.arange(len(speeds))
    between[rows, upper - 1] = 1.0 - share
    between[rows, upper] = share
    return between


def _features(phase: np.ndarray, pitch: np.ndarray) -> np.ndarray:
    """``(n, 6)``, in the order of the table's ``features``."""
    waves = [np.sin(phase), np.cos(phase), np.sin(2.0 * phase), np.cos(2.0 * phase)]
    return np.stack([np.ones_like(phase), *waves, pitch], axis=1)


def _speed(world: World) -> np.ndarray:
    """Mean speed of the last second, or since the episode's start."""
    x = world.memory["x"]
    seconds = np.clip(world.steps, 1, x.shape[1] - 1) / CONTROL_HZ
    return (x[:, -1] - x[:, 0]) / seconds
