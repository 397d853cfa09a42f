"""What PEARL depends on: settings, their ranges, and named starting points."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from meld_agents.autoencoding import AutoencoderSettings
from meld_agents.nets.perception import FrameSettings
from meld_agents.sac import SacSettings
from meld_agents.settings import ABOVE_ZERO, FINITE, based_on, check_ranges, from_mapping, part_of


@dataclass(frozen=True)
class PearlSettings:
    """Every number PEARL depends on. The defaults are the published ones (released code, shared defaults).

    Of images nothing was released: the encoder is MELD's (Zhao et al., 2020, Section 5.1 and Appendix A).
    """

    # Belief over tasks
    latent_size: int = 5
    encoder: Literal["product", "recurrent"] = (
        "product"  # ablation: an LSTM over episodes in order (Figure 16)
    )
    encoder_hidden: tuple[int, ...] = (200, 200, 200)
    deterministic: bool = False  # ablation: no bottleneck, z is a point (Figure 18)
    next_observation: bool = False  # part of the context, as where dynamics vary
    # recent, all, batch: as published, and ablations (Figure 17). trial (deviation): k whole episodes of the
    # latest trial that was rewarded, k drawn anew at each update, as the encoder is given them at meta-test.
    context: Literal["recent", "all", "batch", "trial"] = "recent"
    posterior_in_context: bool = False  # whether context comes from posterior episodes too (sparse rewards)
    context_batch: int = 64  # transitions; a recurrent encoder is given whole episodes instead
    kl_weight: float = 0.1  # of the sum over the tasks of an update (released code)
    prior_is_factor: bool = False  # deviation: of the product; published, one transition replaces the prior
    # deviation for sparse rewards: what was not rewarded should not move the belief by itself
    unrewarded_kl_weight: float = 0.0
    exploration_episodes: int = 2  # of a trial, with z from the prior

    # Images
    perception: Literal["joint", "cached"] = "joint"  # cached is a deviation for small machines
    filters: tuple[int, ...] = (32, 64, 128, 256)  # and a last layer of feature_size
    feature_size: int = 256
    nonlinearity: Literal["relu", "leaky_relu", "silu"] = "relu"
    autoencoder_updates: int = 0  # before anything else is trained (this and what follows: cached only)
    autoencoder_batch: int = 96
    autoencoder_learning_rate: float = 1e-3
    autoencoder_refresh_rounds: int = 0  # train it on and encode anew every so many rounds, 0 for never
    autoencoder_refresh_updates: int = 0
    autoencoder_refresh_learning_rate: float = 1e-3
    inverse_weight: float = 0.0  # its features also tell the action between frames

    # Actor-critic
    actor_critic: Literal["value", "temperature"] = "value"  # temperature: learned, and no value network
    hidden: tuple[int, ...] = (300, 300, 300)
    learning_rate: float = 3e-4
    discount: float = 0.99
    target_rate: float = 0.005
    reward_scale: float = 5.0
    initial_temperature: float = 1.0  # of actor_critic: temperature

    # Schedule
    tasks_per_update: int = 16
    batch: int = 256  # transitions of each task
    batch_of: Literal["transitions", "trajectories"] = "transitions"  # ablation: whole episodes (Figure 16)
    warmup_trials_per_task: int = 4
    warmup_action_hold: int = 0  # steps; random actions, each held so long, instead of the untrained policy's
    collect_tasks: int = 5
    updates_per_round: int = 2000

    def __post_init__(self) -> None:
        check_ranges(self, _RANGES)
        if self.encoder == "recurrent" and self.context == "batch" and self.batch_of == "transitions":
            raise ValueError(
                "context: a recurrent encoder cannot read the critic's batch of unordered transitions; "
                "set batch_of: trajectories, or context: recent, all or trial"
            )
        if self.encoder == "recurrent" and (self.unrewarded_kl_weight or self.prior_is_factor):
            raise ValueError(
                "unrewarded_kl_weight, prior_is_factor: a recurrent encoder has no factors; "
                "set encoder: product, or leave them at 0 and false"
            )

    def sac(self) -> SacSettings:
        """The part that concerns the actor-critic."""
        return SacSettings(
            hidden=self.hidden,
            learning_rate=self.learning_rate,
            discount=self.discount,
            target_rate=self.target_rate,
            initial_temperature=self.initial_temperature if self.actor_critic == "temperature" else 1.0,
            reward_scale=self.reward_scale,
        )

    def perceiving(self) -> FrameSettings:
        """The part that concerns images."""
        return FrameSettings(
            filters=self.filters,
            feature_size=self.feature_size,
            nonlinearity=self.nonlinearity,
            hidden=self.hidden[0],
            inverse_weight=self.inverse_weight,
        )

    def autoencoding(self) -> AutoencoderSettings:
        """The part that concerns the frame autoencoder's training."""
        return part_of(self, AutoencoderSettings)


_RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("latent_size", "encoder_hidden", "hidden", "context_batch"), (1, FINITE)),
    **dict.fromkeys(("tasks_per_update", "batch", "warmup_trials_per_task"), (1, FINITE)),
    **dict.fromkeys(("collect_tasks", "exploration_episodes"), (1, FINITE)),
    **dict.fromkeys(
        ("kl_weight", "unrewarded_kl_weight", "updates_per_round", "warmup_action_hold"), (0, FINITE)
    ),
    **dict.fromkeys(("filters", "feature_size", "autoencoder_batch"), (1, FINITE)),
    **dict.fromkeys(("autoencoder_updates", "autoencoder_refresh_rounds"), (0, FINITE)),
    **dict.fromkeys(("autoencoder_refresh_updates", "inverse_weight"), (0, FINITE)),
    **dict.fromkeys(("autoencoder_learning_rate",), (ABOVE_ZERO, FINITE)),
    **dict.fromkeys(("autoencoder_refresh_learning_rate",), (ABOVE_ZERO, FINITE)),
    **dict.fromkeys(("learning_rate", "reward_scale", "initial_temperature"), (ABOVE_ZERO, FINITE)),
    **dict.fromkeys(("discount", "target_rate"), (0, 1)),
}

#: Named starting points; every other setting overrides them. ``paper`` is the defaults, ``sparse_point`` what
#: the authors' configuration for the sparse point robot says, ``small`` fits a CPU.
BASES: dict[str, dict[str, Any]] = {
    "paper": {},
    "sparse_point": {
        "posterior_in_context": True,
        "context_batch": 1024,
        "kl_weight": 1.0,
        "exploration_episodes": 5,
        "discount": 0.9,
        "reward_scale": 100.0,
        "collect_tasks": 10,
        "updates_per_round": 1000,
    },
    "small": {
        "perception": "cached",
        "filters": (8, 16, 32, 64),
        "feature_size": 64,
        "nonlinearity": "leaky_relu",
        "autoencoder_updates": 2000,
        "autoencoder_refresh_rounds": 10,
        "autoencoder_refresh_updates": 100,
        "encoder_hidden": (128, 128),
        "posterior_in_context": True,
        "exploration_episodes": 1,
        "hidden": (128, 128),
        "learning_rate": 1e-3,
        "batch": 32,
        "warmup_trials_per_task": 2,
        "collect_tasks": 20,
        "updates_per_round": 1000,
    },
}


def pearl_settings(agent: str, settings: Mapping[str, Any]) -> PearlSettings:
    """Settings by name, those of their ``base`` completed.

    Args:
        agent: named in errors.
        settings: plain values; ``base`` is a key of :data:`BASES`, ``paper`` if missing.

    Raises:
        ValueError: an unknown key or base (with the nearest match), or a bad value.
    """
    return from_mapping(PearlSettings, based_on(BASES, agent, settings), f"agent {agent!r}")
