"""What MELD and SLAC depend on: settings, their ranges, and named starting points."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from meld_agents.autoencoding import AutoencoderSettings
from meld_agents.episodes import Pairing
from meld_agents.nets.perception import PerceptionSettings
from meld_agents.sac import SacSettings
from meld_agents.settings import ABOVE_ZERO, FINITE, based_on, check_ranges, from_mapping, part_of


@dataclass(frozen=True)
class MeldSettings:
    """Every number MELD depends on. The defaults are the paper's (Section 4, Appendix A, Table 1).

    Where the paper is silent the released code's number stands (fact marked *released*).
    """

    # Latent state model
    filters: tuple[int, ...] = (32, 64, 128, 256)  # and a last layer of feature_size
    feature_size: int = 256
    z1_size: int = 32
    z2_size: int = 256
    hidden: int = 256
    nonlinearity: Literal["relu", "leaky_relu", "silu"] = "relu"
    layer_norm: bool = False
    gated_memory: bool = False  # deviation: the memory z2 moves by a learned gate

    # Perception
    perception: Literal["joint", "cached"] = "joint"  # cached is a deviation for small machines
    image_std: float = 0.1**0.5  # released
    feature_std: float = 0.3  # of standardised features and of states
    decoded_frames: int = 0  # frames decoded per update, 0 for all
    autoencoder_updates: int = 0  # before the latent model (cached only)
    autoencoder_batch: int = 96
    autoencoder_learning_rate: float = 1e-3
    autoencoder_refresh_rounds: int = 0  # train it on and encode anew every so many rounds, 0 for never
    autoencoder_refresh_updates: int = 0
    autoencoder_refresh_learning_rate: float = 1e-3
    inverse_weight: float = 0.0  # deviation: its features also tell the action between frames (cached only)
    motion_scale: float = 0.0  # deviation: features are joined by their change, scaled (cached only)

    # Evidence and likelihoods
    reward_input_scale: float = 1.0  # the released code repeats the reward 32 times
    reward_std: float = 0.2  # released
    reward_weight: float = 1.0  # equation 5; released: 10 to 16
    foresight_pairs: int = 0  # deviation: questions per step about rewards at other moments
    foresight_weight: float = 1.0

    # Optimisation of the model
    model_learning_rate: float = 1e-4
    gradient_clip: float | None = None
    trials_per_update: int = 12  # 512 steps of 41- to 51-frame trials
    trial_pairing: Pairing = "lived"  # released: independent

    # Actor-critic
    actor_hidden: tuple[int, ...] = (256, 256)
    actor_learning_rate: float = 3e-4
    discount: float = 0.99
    target_rate: float = 0.005  # released
    initial_temperature: float = 1.0  # released
    reward_scale: float = 1.0
    actor_batch: int = 512
    actor_updates_per_update: int = 1
    #: Whose beliefs the actor-critic's batches are drawn from: the last model update's trials, or (deviation)
    #: all those of a round, which it then follows: more trials, so that chance of one weighs less.
    actor_beliefs: Literal["update", "round"] = "update"
    reward_timing: Literal["next", "arrival"] = "next"  # released: arrival (Q of b_t is paired with r_t)

    credit: Literal["episode", "trial"] = "episode"  # deviation: trial lets values cross an episode's end

    # Sparse rewards (Section 5.2, appendix C, equation 8)
    dense_stage_steps: int = 0  # of a first agent that is shown the dense reward; 0 for none
    rewarded_share: float = 0.0  # deviation: of trials in which there ever was a reward, at least
    earlier_share: float = 0.3  # of the second agent's trials, from the first one's data (released)

    # Schedule
    warmup_trials_per_task: int = 2  # 60 trajectories of 30 tasks
    warmup_action_hold: int = 1
    warmup_updates: int = 1000
    collect_tasks: int = 20
    updates_per_round: int = 640

    def __post_init__(self) -> None:
        check_ranges(self, _RANGES)

    def sac(self) -> SacSettings:
        """The part that concerns the actor-critic."""
        return SacSettings(
            hidden=self.actor_hidden,
            learning_rate=self.actor_learning_rate,
            discount=self.discount,
            target_rate=self.target_rate,
            initial_temperature=self.initial_temperature,
            reward_scale=self.reward_scale,
        )

    def perceiving(self) -> PerceptionSettings:
        """The part that concerns perception."""
        return part_of(self, PerceptionSettings)

    def autoencoding(self) -> AutoencoderSettings:
        """The part that concerns the frame autoencoder's training."""
        return part_of(self, AutoencoderSettings)


_RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("filters", "feature_size", "z1_size", "z2_size", "hidden"), (1, FINITE)),
    **dict.fromkeys(("decoded_frames", "autoencoder_updates"), (0, FINITE)),
    **dict.fromkeys(("autoencoder_refresh_rounds", "autoencoder_refresh_updates"), (0, FINITE)),
    **dict.fromkeys(("image_std", "feature_std", "reward_std"), (ABOVE_ZERO, FINITE)),
    **dict.fromkeys(("autoencoder_learning_rate", "model_learning_rate"), (ABOVE_ZERO, FINITE)),
    **dict.fromkeys(("autoencoder_refresh_learning_rate",), (ABOVE_ZERO, FINITE)),
    **dict.fromkeys(("actor_learning_rate", "initial_temperature"), (ABOVE_ZERO, FINITE)),
    **dict.fromkeys(("reward_scale", "gradient_clip"), (ABOVE_ZERO, FINITE)),
    **dict.fromkeys(("reward_input_scale", "reward_weight", "foresight_weight"), (0, FINITE)),
    **dict.fromkeys(("inverse_weight", "motion_scale"), (0, FINITE)),
    **dict.fromkeys(("foresight_pairs", "warmup_updates", "updates_per_round"), (0, FINITE)),
    "dense_stage_steps": (0, FINITE),
    **dict.fromkeys(("autoencoder_batch", "trials_per_update", "actor_hidden", "actor_batch"), (1, FINITE)),
    **dict.fromkeys(("actor_updates_per_update", "warmup_trials_per_task"), (1, FINITE)),
    **dict.fromkeys(("warmup_action_hold", "collect_tasks"), (1, FINITE)),
    **dict.fromkeys(("discount", "target_rate", "earlier_share", "rewarded_share"), (0, 1)),
}

#: Named starting points; every other setting overrides them. ``paper`` is the defaults, ``released`` what
#: the authors' configuration files used for CheetahVel, ``small`` fits a CPU.
BASES: dict[str, dict[str, Any]] = {
    "paper": {},
    "released": {
        "filters": (64, 128, 256, 512),
        "feature_size": 512,
        "z1_size": 64,
        "z2_size": 32,
        "hidden": 512,
        "nonlinearity": "leaky_relu",
        "reward_input_scale": 32.0,
        "reward_weight": 16.0,
        "trials_per_update": 5,
        "trial_pairing": "independent",
        "actor_batch": 256,
        "reward_timing": "arrival",
        "warmup_trials_per_task": 20,
        "warmup_updates": 6000,
        "collect_tasks": 1,
        "updates_per_round": 40,
    },
    "small": {
        "filters": (8, 16, 32, 64),
        "feature_size": 64,
        "z1_size": 32,
        "z2_size": 64,
        "nonlinearity": "leaky_relu",
        "gated_memory": True,
        "perception": "cached",
        "autoencoder_updates": 2000,
        "autoencoder_refresh_rounds": 10,
        "autoencoder_refresh_updates": 100,
        "reward_input_scale": 5.0,
        "foresight_pairs": 5,
        "foresight_weight": 50.0,
        "model_learning_rate": 1e-3,
        "gradient_clip": 10.0,
        "trials_per_update": 24,
        "actor_learning_rate": 5e-4,
        "actor_batch": 256,
        "actor_updates_per_update": 4,
        "initial_temperature": 0.1,
        "discount": 0.9,
        "warmup_updates": 500,
        "collect_tasks": 30,
        "updates_per_round": 40,
    },
}


def meld_settings(agent: str, settings: Mapping[str, Any]) -> MeldSettings:
    """Settings by name, those of their ``base`` completed.

    Args:
        agent: named in errors.
        settings: plain values; ``base`` is a key of :data:`BASES`, ``paper`` if missing.

    Raises:
        ValueError: an unknown key or base (with the nearest match), or a bad value.
    """
    return from_mapping(MeldSettings, based_on(BASES, agent, settings), f"agent {agent!r}")
