"""Inverse kinematics for scripted experts, by dm_control (the extra ``experts``)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import mujoco
import numpy as np

TOLERANCE = 1e-4  # of the error's norm: m, and rad by weight
ROTATION_WEIGHT = 0.3  # m per rad, when position and orientation are asked for
MAX_STEPS = 300


class InverseKinematics:
    """Joint angles that bring a site of a model to a pose."""

    def __init__(self, spec: mujoco.MjSpec, site: str, joints: Sequence[str]) -> None:
        """Compiles a copy of the model for dm_control.

        Args:
            spec: the scene.
            site: whose pose is asked for.
            joints: the hinge joints that may move, the first of the model.

        Raises:
            ImportError: dm_control is not installed; the message says how to get it.
        """
        self._physics: Any = _dm_mujoco().Physics.from_xml_string(spec.to_xml())
        self._site = site
        self._joints = tuple(joints)

    def solve(
        self, start: np.ndarray, position: Sequence[float], quaternion: Sequence[float] | None = None
    ) -> np.ndarray:
        """Angles near ``start`` at which the site is at a place, and turned as asked.

        Args:
            start: ``(number of joints,)`` rad, where the search begins.
            position: in the world, metres.
            quaternion: w x y z in the world; any by default.

        Returns:
            ``(number of joints,)`` rad: the nearest that was found, at the place or not.
        """
        from dm_control.utils.inverse_kinematics import qpos_from_site_pose

        count = len(self._joints)
        with self._physics.reset_context():
            self._physics.data.qpos[:count] = start
        result = qpos_from_site_pose(
            self._physics,
            self._site,
            np.asarray(position, dtype=np.float64),
            None if quaternion is None else np.asarray(quaternion, dtype=np.float64),
            joint_names=self._joints,
            tol=TOLERANCE,
            rot_weight=ROTATION_WEIGHT,
            max_steps=MAX_STEPS,
        )
        return np.array(result.qpos[:count])


def _dm_mujoco() -> ModuleType:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it looks for a window system, and says that there is none
            from dm_control import mujoco as dm_mujoco
    except ImportError as error:
        raise ImportError(
            "scripted experts of arms need dm_control's inverse kinematics: "
            "pip install 'meld-suite[experts]' "
            "(Python 3.12 or older)"
        ) from error
    return dm_mujoco
