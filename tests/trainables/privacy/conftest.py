"""Phases in one line, and the import path of ``broken_twins``."""

import sys
from pathlib import Path

import pytest

from trainables.privacy.mechanism import Phase, RecordMechanism, ShardMechanism

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def records():
    """records(sampling_rate, steps, noise_multiplier, ...) is a phase of Poisson-sampled records."""

    def phase(sampling_rate, steps, noise_multiplier, **fields):
        fields = {"records": 60000, "release_shape": (10, 4), **fields}
        return Phase(
            mechanism=RecordMechanism(sampling_rate=sampling_rate, noise_multiplier=noise_multiplier, **fields), steps=steps
        )

    return phase


@pytest.fixture(scope="session")
def shards():
    """shards(K, steps, noise_multiplier, ...) is a phase of one of K shards a step with a batch of 1, unless told otherwise."""

    def phase(count, steps, noise_multiplier, **fields):
        fields = {"schedule": "sampled", "shards_per_step": 1, "release_shape": (1, 4), **fields}
        return Phase(mechanism=ShardMechanism(shards=count, noise_multiplier=noise_multiplier, **fields), steps=steps)

    return phase
