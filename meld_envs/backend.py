"""Who moves the robot, where the simulation does not: the narrow door for the hardware bridge.

A backend does a step's motion by its own means and writes the state that was reached into the ``World``. So
observations, rewards and tasks come from the same code, whoever moves.
"""

from __future__ import annotations

import importlib
from typing import Protocol, cast

import numpy as np

from meld_envs.world import World


class Backend(Protocol):
    """What the environments need of it."""

    def start_episode(self, world: World) -> None:
        """Brings every robot into the state that the family has put into the world; writes where it is."""

    def step(self, world: World, actions: np.ndarray) -> np.ndarray:
        """Takes a control step ``(n, A)``; returns the actions that were really sent, ``(n, A)``."""

    def end_episode(self, world: World) -> None:
        """An episode's last step has been taken; what it earned is judged after this."""

    def frames(self, size: int) -> np.ndarray | None:
        """What its cameras saw after the last step, ``(n, size, W, 3)`` uint8; None: draw the world."""

    def info(self) -> dict[str, np.ndarray]:
        """More about the last step, ``(n, ...)`` each; the same names after each."""

    def close(self) -> None:
        """Gives everything back; calling it twice is harmless."""


def load_backend(where: str, name: str, world: World, **settings: str) -> Backend:
    """The backend that ``"package.module:Class"`` names, for a world, with its own settings.

    Raises:
        ImportError: the package, or something that it needs, is not installed.
    """
    module, _, kind = where.partition(":")
    try:
        found = getattr(importlib.import_module(module), kind)
    except ImportError as error:
        raise ImportError(
            f"backend={name!r} needs the hardware bridge: pip install 'meld-suite[hardware]' ({error})"
        ) from error
    return cast(Backend, found(world, **settings))
