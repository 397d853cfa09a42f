"""Families of tasks for meta-reinforcement learning from images; importing this registers them."""

from __future__ import annotations

import gymnasium as gym

from meld_envs.gl import GLError
from meld_envs.tasks import Task, TaskSet
from meld_envs.wrappers import TrialObservation

__all__ = ["FAMILIES", "GLError", "Task", "TaskSet", "TrialObservation"]

#: Gymnasium id -> the family's class. A new family is one file and one line here.
FAMILIES: dict[str, str] = {
    "meld/PointNav-v0": "meld_envs.families.point_nav:PointNav",
    "meld/CheetahVel-v0": "meld_envs.families.cheetah_vel:CheetahVel",
    "meld/Reacher-v0": "meld_envs.families.reacher:Reacher",
    "meld/PegInsert-v0": "meld_envs.families.peg_insert:PegInsert",
    "meld/ShelfPlace-v0": "meld_envs.families.shelf_place:ShelfPlace",
    "meld/ButtonPress-v0": "meld_envs.families.button_press:ButtonPress",
    "meld/WidowXEthernet-v0": "meld_envs.families.widowx_ethernet:WidowXEthernet",
    "meld/SparsePoint-v0": "meld_envs.families.sparse_point:SparsePoint",
    "meld/HalfCheetahFwdBack-v0": "meld_envs.families.half_cheetah:HalfCheetahFwdBack",
    "meld/HalfCheetahVel-v0": "meld_envs.families.half_cheetah:HalfCheetahVel",
    "meld/AntFwdBack-v0": "meld_envs.families.ant:AntFwdBack",
    "meld/AntGoal-v0": "meld_envs.families.ant:AntGoal",
    "meld/HumanoidDirec-v0": "meld_envs.families.humanoid_direc:HumanoidDirec",
    "meld/WalkerParams-v0": "meld_envs.families.walker_params:WalkerParams",
}

for _id, _family in FAMILIES.items():
    if _id not in gym.registry:
        gym.register(
            id=_id,
            entry_point="meld_envs.env:TaskEnv",
            vector_entry_point="meld_envs.env:TaskVectorEnv",
            kwargs={"family": _family},
            # Gymnasium's watch (1.4) stumbles after a first reset that failed, as that of a robot may; its
            # full check, which all ids pass, is in the tests.
            disable_env_checker=True,
        )
