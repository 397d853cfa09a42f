"""Seeds of everything that the runner draws: from the run's seed and the purpose, from nothing else."""

from __future__ import annotations

import zlib

import numpy as np


def seed_for(run_seed: int, purpose: str, step: int = 0) -> int:
    """A seed below 2^31, the same on every machine and after every resume.

    Args:
        run_seed: the seed of the job.
        purpose: what is drawn, e.g. ``"evaluation test"``.
        step: tells repeated draws apart, e.g. the environment steps of an evaluation.
    """
    sequence = np.random.SeedSequence([run_seed, zlib.crc32(purpose.encode()), step])
    return int(sequence.generate_state(1)[0] >> 1)
