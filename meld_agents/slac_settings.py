"""What SLAC depends on: MELD's settings, and what its actor and its reward decoder look at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from meld_agents.meld_settings import BASES, MeldSettings
from meld_agents.settings import FINITE, based_on, check_ranges, from_mapping


@dataclass(frozen=True)
class SlacSettings(MeldSettings):
    """MELD's settings and SLAC's own; the defaults of the latter are Lee et al.'s (Section 5, Appendix)."""

    acting: Literal["history", "belief"] = "history"  # belief: actor and critic on it, MELD's baseline
    history_frames: int = 8  # that the actor sees, with the actions between them
    reward_from: Literal["transition", "state"] = "transition"  # z_t, a_t, z_t+1; state: z_t+1, as MELD

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ranges(self, {"history_frames": (1, FINITE)})


def slac_settings(agent: str, settings: Mapping[str, Any]) -> SlacSettings:
    """Settings by name, those of their ``base`` completed.

    ``acting: belief`` without a word on ``reward_from`` is the baseline of MELD's paper, whose reward decoder
    sees one state.

    Args:
        agent: named in errors.
        settings: plain values; ``base`` is a key of :data:`meld_agents.meld_settings.BASES`.

    Raises:
        ValueError: an unknown key or base (with the nearest match), or a bad value.
    """
    values = based_on(BASES, agent, settings)
    if values.get("acting") == "belief":
        values.setdefault("reward_from", "state")
    return from_mapping(SlacSettings, values, f"agent {agent!r}")
