"""SLAC: the same latent state model without meta-learning (Lee et al., 2020; paper, Section 5.1).

It infers the state from frames and actions, but rewards are no evidence and nothing is carried from one
episode to the next, so it can only learn the motion that is best on average.
"""

from __future__ import annotations

from meld_agents.meld import MELD


class SLAC(MELD):
    """MELD's model, losses and actor-critic, without reward evidence and trial memory."""

    name = "slac"
    meta = False
