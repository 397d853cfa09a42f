"""Probes: how well a linear map reads task parameters and physical state from an agent's belief.

A ridge regression is fitted on trials of training tasks and judged on trials of held-out tasks. Where the
state can be read and the task cannot, inference is missing; where neither can, the image model is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv

from benchmarks.evaluate import face
from meld_agents.interface import Evidence, Policy

PROBE_COLUMNS = ("env_steps", "target", "rmse", "r2", "chance_rmse")

#: Candidates for the penalty, relative to the number of samples of standardised features.
PENALTIES = 10.0 ** np.arange(-6, 2)
FOLDS = 4
#: Frames used to fit; more make it slower, not better.
MOST_SAMPLES = 2000


class BeliefRecorder:
    """Watches trials and keeps beliefs (of policies that have one) and physical states, frame by frame."""

    def __init__(self) -> None:
        self._beliefs: list[np.ndarray] = []
        self._states: list[np.ndarray] = []

    def __call__(self, t: int, evidence: Evidence, policy: Policy, env: VectorEnv) -> None:
        if not hasattr(policy, "belief"):
            return
        self._beliefs.append(np.array(policy.belief(), np.float64))
        self._states.append(np.array(face(env).state(), np.float64))

    @property
    def anything(self) -> bool:
        """Whether there was a belief to record."""
        return bool(self._beliefs)

    @property
    def beliefs(self) -> np.ndarray:
        """``(n, frames, D)``"""
        return np.stack(self._beliefs, axis=1)

    @property
    def states(self) -> np.ndarray:
        """``(n, frames, S)``"""
        return np.stack(self._states, axis=1)


def probe_rows(
    env_steps: int,
    train: BeliefRecorder,
    train_tasks: Sequence[Any],
    test: BeliefRecorder,
    test_tasks: Sequence[Any],
    names: tuple[Sequence[str], Sequence[str]],
) -> Iterator[dict[str, Any]]:
    """The rows of ``probes.csv``: each task parameter, each state, and the means of both kinds.

    Task parameters are fitted on the second half of the trials, when there has been something to infer,
    and judged at the last frame; the state is fitted and judged on all frames.

    Args:
        env_steps: of meta-training so far.
        train: what was recorded on training tasks.
        train_tasks: the tasks of those trials.
        test: what was recorded on held-out tasks.
        test_tasks: the tasks of those trials.
        names: of the task parameters and of the physical state.
    """
    half = train.beliefs.shape[1] // 2
    known = np.stack([task.vector() for task in train_tasks])  # (n, P)
    wanted = np.stack([task.vector() for task in test_tasks])
    late = train.beliefs[:, half:]
    repeated = np.repeat(known[:, None], late.shape[1], axis=1)
    guess = _fit(late, repeated)(test.beliefs[:, -1])
    yield from _judge(env_steps, "task", names[0], guess, wanted, known)
    guess = _fit(train.beliefs, train.states)(test.beliefs)
    flat = [array.reshape(-1, array.shape[-1]) for array in (guess, test.states, train.states)]
    yield from _judge(env_steps, "state", names[1], *flat)


def _judge(
    env_steps: int,
    kind: str,
    names: Sequence[str],
    guess: np.ndarray,
    truth: np.ndarray,
    training: np.ndarray,
) -> Iterator[dict[str, Any]]:
    """Root-mean-square errors beside those of always saying the training mean, and R² on held-out tasks."""
    error = np.sqrt(((guess - truth) ** 2).mean(axis=0))
    chance = np.sqrt(((truth - training.mean(axis=0)) ** 2).mean(axis=0))
    spread, usual = truth.std(axis=0), training.std(axis=0)
    varies = (spread > 1e-9) & (usual > 1e-9)
    r2 = np.where(varies, 1 - (error / np.where(varies, spread, 1)) ** 2, np.nan)
    # Over all of a kind: errors in units of the training spread, so that metres and radians may be summed.
    lost, there = (((values[varies] / usual[varies]) ** 2).sum() for values in (error, spread))
    whole = (
        np.sqrt((error**2).mean()),
        1 - lost / there if varies.any() else np.nan,
        np.sqrt((chance**2).mean()),
    )
    for name, values in [
        (kind, whole),
        *((f"{kind}/{n}", row) for n, row in zip(names, zip(error, r2, chance))),
    ]:
        numbers = dict(zip(("rmse", "r2", "chance_rmse"), map(float, values)))
        yield {"env_steps": env_steps, "target": name, **numbers}


class _Ridge:
    """``x ↦ (x − mean) / std · W + b``."""

    def __init__(self, mean: np.ndarray, std: np.ndarray, weights: np.ndarray, offset: np.ndarray) -> None:
        self._mean, self._std, self._weights, self._offset = mean, std, weights, offset

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return (x - self._mean) / self._std @ self._weights + self._offset


def _fit(features: np.ndarray, targets: np.ndarray) -> _Ridge:
    """Ridge regression in closed form, its penalty chosen by cross-validation over trials.

    Args:
        features: ``(n, frames, D)``. Whole trials are left out together: frames of one resemble each other.
        targets: ``(n, frames, P)``.
    """
    stride = -(-features.shape[0] * features.shape[1] // MOST_SAMPLES)
    features, targets = features[:, ::stride], targets[:, ::stride]
    if not np.isfinite(features).all():
        raise ValueError("the belief holds values that are not finite")
    fold = np.arange(len(features)) % min(FOLDS, len(features))
    errors = np.zeros(len(PENALTIES))
    for left_out in np.unique(fold) if len(features) > 1 else ():
        fits = _ridges(features[fold != left_out], targets[fold != left_out], PENALTIES)
        truth = targets[fold == left_out]
        scale = targets.std(axis=(0, 1)) + 1e-12
        errors += [(((fit(features[fold == left_out]) - truth) / scale) ** 2).sum() for fit in fits]
    return _ridges(features, targets, PENALTIES[[int(errors.argmin())]])[0]


def _ridges(features: np.ndarray, targets: np.ndarray, penalties: np.ndarray) -> list[_Ridge]:
    """One fit for each penalty from one singular value decomposition."""
    x, y = features.reshape(-1, features.shape[-1]), targets.reshape(-1, targets.shape[-1])
    mean, std = x.mean(axis=0), x.std(axis=0)
    std = np.where(std > 1e-8, std, 1e8)  # a constant feature says nothing
    offset = y.mean(axis=0)
    u, s, vt = np.linalg.svd((x - mean) / std, full_matrices=False)
    rotated = u.T @ (y - offset)
    weights = [vt.T @ ((s / (s**2 + penalty * len(x)))[:, None] * rotated) for penalty in penalties]
    return [_Ridge(mean, std, w, offset) for w in weights]
