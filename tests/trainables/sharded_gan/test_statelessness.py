"""What an answer may depend on: (shard, step, released history, public coins), whatever was drawn before or beside it."""

import pytest
import torch
from engine_runs import PUBLISHED_NETWORKS, SIGNALS, Forced, compute_stages, random_data, settings, start

from trainables.sharded_gan import signals

# The last draw is what is compared. Both histories draw as many shards, since that number is public.
FIRST = [[0, 1], [2, 3], [2, 4]]
OTHER = [[3, 4], [1, 4], [2, 4]]
BESIDE = [[0, 1], [2, 3], [4, 5]]


def answers_at_last(config, data, stages, draws):
    """What the shards of the last draw answered, by shard."""
    run = start(config, data, stages, sanitizer=Forced, draws=draws)
    run.advance(0, len(draws))
    return dict(zip(draws[-1], run.sanitizer.answers[-1], strict=True))


def close(one, other):
    """Equal but for rounding, which another place in a stack may change on some processors and Adam then magnifies."""
    return float((one - other).norm()) < 1e-3 * float(other.norm())


@pytest.mark.parametrize("networks", [{}, PUBLISHED_NETWORKS], ids=["small", "resnet"])
@pytest.mark.parametrize("signal", SIGNALS)
def test_an_answer_does_not_depend_on_what_was_drawn_before_or_beside_it(tmp_path, signal, networks):
    config = settings(SIGNALS[signal], networks)
    data = random_data(shape=(1, 28, 28) if networks else (1, 8, 8))
    stages = compute_stages("gs_wgan", config, data, tmp_path)
    first, other, beside = (answers_at_last(config, data, stages, draws) for draws in (FIRST, OTHER, BESIDE))
    assert torch.equal(first[2], other[2])
    assert torch.equal(first[4], other[4])
    assert close(first[4], beside[4]), "shard 4 answers second in one step and first in the other"
    assert not torch.equal(first[2], first[4])


@pytest.mark.parametrize("signal", SIGNALS)
def test_nor_on_the_group_that_a_shard_is_computed_in(tmp_path, monkeypatch, signal):
    """Two at a time: shard 4 is asked in the first group beside one shard, and in the last beside none."""
    monkeypatch.setattr(signals, "SHARDS_AT_ONCE", 2)
    config, data = settings(SIGNALS[signal], {"shards_per_step": 3}), random_data()
    stages = compute_stages("gs_wgan", config, data, tmp_path)
    last, first = (answers_at_last(config, data, stages, draws) for draws in ([[0, 2, 4]], [[3, 4, 5]]))
    assert close(last[4], first[4])


@pytest.mark.parametrize("schedule", ["persistent", "round_robin"])
def test_the_same_comparison_sees_models_that_keep_what_they_learnt(tmp_path, schedule):
    config = settings({"schedule": schedule})
    data = random_data()
    stages = compute_stages("gs_wgan", config, data, tmp_path)
    first, other = (answers_at_last(config, data, stages, draws) for draws in (FIRST, OTHER))
    assert not torch.equal(first[2], other[2])  # drawn in step 1 of the one history alone
    assert not torch.equal(first[4], other[4])
