"""The scripted expert of CheetahVel: a table of gaits, one per speed, with feedback on the speed.

Each motor gets a weighted sum of a constant, two harmonics of the gait's phase, the torso's pitch and the
error of the speed; weights and the gait's frequency are interpolated between the speeds of the table.
The table was found by an evolution strategy (antithetic pairs, ranks, Adam) on the mean error of the
last second's speed over episodes of 50 steps with random starts; ``docs/environments.md`` has its success.
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

CONTROL_HZ = 10.0
ROOT_PITCH = 2  # index in qpos
FEEDBACK_FROM = 3  # steps: before that the speed is noise of the start


def gait_actions(world: World, speeds: np.ndarray) -> np.ndarray:
    """Actions ``(n, 6)`` that lead to these speeds ``(n,)`` in m/s, and keep them."""
    between = _interpolation(speeds)
    features = _features(world, speeds, between @ FREQUENCIES)
    return np.einsum("nk,kaf,nf->na", between, WEIGHTS, features)


def _interpolation(speeds: np.ndarray) -> np.ndarray:
    """How much each row of the table counts, ``(n, K)``: linear between rows."""
    upper = np.clip(np.searchsorted(SPEEDS, speeds, side="right"), 1, len(SPEEDS) - 1)
    share = (speeds - SPEEDS[upper - 1]) / (SPEEDS[upper] - SPEEDS[upper - 1])
    between = np.zeros((len(speeds), len(SPEEDS)))
    rows = np.arange(len(speeds))
    between[rows, upper - 1] = 1.0 - share
    between[rows, upper] = share
    return between


def _features(world: World, speeds: np.ndarray, frequencies: np.ndarray) -> np.ndarray:
    phase = 2.0 * np.pi * frequencies * world.steps / CONTROL_HZ
    error = np.where(world.steps >= FEEDBACK_FROM, speeds - _speed(world), 0.0)
    waves = [np.sin(phase), np.cos(phase), np.sin(2.0 * phase), np.cos(2.0 * phase)]
    return np.stack([np.ones_like(speeds), *waves, world.qpos[:, ROOT_PITCH], error], axis=1)


def _speed(world: World) -> np.ndarray:
    """Mean speed of the last second, or since the episode's start."""
    x = world.memory["x"]
    seconds = np.clip(world.steps, 1, x.shape[1] - 1) / CONTROL_HZ
    return (x[:, -1] - x[:, 0]) / seconds
