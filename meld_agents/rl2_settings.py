"""What RL² depends on: settings, their ranges, and named starting points."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from meld_agents.settings import ABOVE_ZERO, FINITE, based_on, check_ranges, from_mapping

#: Whether an action earns what comes after it in the trial, or in its own episode only.
Credit = Literal["trial", "episode"]


@dataclass(frozen=True)
class RL2Settings:
    """Every number RL² depends on.

    The defaults are those of the implementation that PEARL and MELD compare with (ProMP's code), save
    where it has no counterpart: a learned value function instead of a linear one fitted anew to each
    task, and credit that flows through the trial, as in RL²'s paper (Duan et al., 2016, Section 2.2).
    """

    # Data
    trials: int = 100  # lived side by side; together they are what one round learns from
    credit: Credit = "trial"  # ProMP's code: episode

    # Networks
    lstm_size: int = 64  # of the actor's memory, and of the critic's
    heads: tuple[int, ...] = ()  # hidden layers between memory and action, and memory and value
    filters: tuple[int, ...] = (32, 64, 128, 256)  # of images, and a last layer of feature_size
    feature_size: int = 256
    nonlinearity: Literal["relu", "leaky_relu", "silu"] = "relu"  # of the image encoder
    reward_input_scale: float = 1.0
    initial_std: float = 1.0  # of actions, each in [-1, 1]
    least_std: float = 1e-6  # in whose reach small steps of the weights are large steps of the policy

    # Proximal policy optimisation
    learning_rate: float = 1e-3
    epochs: int = 5  # over a round's trials
    trials_per_update: int | None = None  # None for all
    backprop_steps: int | None = 32  # through which gradients flow back; None for the whole trial
    discount: float = 0.99
    gae_lambda: float = 1.0
    clip: float = 0.2
    target_kl: float | None = None  # a round's updates end where the policy has moved 1.5 times as far
    entropy_weight: float = 0.0
    value_weight: float = 0.5
    gradient_clip: float = 0.5
    normalise_rewards: bool = True  # by the running deviation of discounted returns, as VariBAD's code does

    def __post_init__(self) -> None:
        check_ranges(self, _RANGES)
        if self.heads:
            check_ranges(self, {"heads": (1, FINITE)})
        if self.initial_std < self.least_std:
            raise ValueError(
                f"initial_std: must be at least least_std, {self.least_std:g}, got {self.initial_std:g}"
            )


_RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("trials", "lstm_size", "filters", "feature_size", "epochs"), (1, FINITE)),
    **dict.fromkeys(("trials_per_update", "backprop_steps"), (1, FINITE)),
    **dict.fromkeys(("reward_input_scale", "entropy_weight", "value_weight"), (0, FINITE)),
    **dict.fromkeys(("initial_std", "least_std", "learning_rate", "clip"), (ABOVE_ZERO, FINITE)),
    **dict.fromkeys(("target_kl", "gradient_clip"), (ABOVE_ZERO, FINITE)),
    **dict.fromkeys(("discount", "gae_lambda"), (0, 1)),
}

#: Named starting points; every other setting overrides them. ``paper`` is the defaults, ``small`` fits a CPU.
BASES: dict[str, dict[str, Any]] = {
    "paper": {},
    "small": {
        "trials": 60,
        "heads": (64,),
        "filters": (8, 16, 32, 64),
        "feature_size": 64,
        "nonlinearity": "leaky_relu",
        "initial_std": 0.5,
        "learning_rate": 1e-3,
        "trials_per_update": 15,
        "backprop_steps": None,
        "reward_input_scale": 3.0,
        "target_kl": 0.03,
        "least_std": 0.1,
        "gae_lambda": 0.95,
    },
}


def rl2_settings(agent: str, settings: Mapping[str, Any]) -> RL2Settings:
    """Settings by name, those of their ``base`` completed.

    Args:
        agent: named in errors.
        settings: plain values; ``base`` is a key of :data:`BASES`, ``paper`` if missing.

    Raises:
        ValueError: an unknown key or base (with the nearest match), or a bad value.
    """
    return from_mapping(RL2Settings, based_on(BASES, agent, settings), f"agent {agent!r}")
