"""Wide critics and classifiers are trained one after the other on a processor: the same networks, the same answers."""

import pytest
import torch
from engine_runs import SIGNALS, Recorder, compute_stages, random_data, settings, start

from trainables.sharded_gan import signals
from trainables.sharded_gan.states import ShardStates

SHARDS = range(6)


def answers_and_critics(signal, folder):
    """What three shards answered in two steps, and all pretrained critics; networks of 4 channels throughout."""
    config, data = settings(SIGNALS[signal], {"shards_per_step": 3}), random_data()
    stages = compute_stages("gs_wgan", config, data, folder)
    run = start(config, data, stages, sanitizer=Recorder, draws=[[0, 2, 4], [1, 2, 5]])
    run.advance(0, 2)
    return run.sanitizer.answers, ShardStates(stages, "critics").read(SHARDS)


@pytest.mark.parametrize("signal", ["critic", "critic with shared fakes", "critic and classifier"])
def test_one_after_the_other_is_side_by_side(float64, tmp_path, monkeypatch, signal):
    together = answers_and_critics(signal, tmp_path / "together")
    monkeypatch.setattr(signals, "WIDE", 4)
    alone = answers_and_critics(signal, tmp_path / "alone")
    torch.testing.assert_close(alone, together, rtol=0, atol=1e-10)


def test_only_wide_ones_and_only_on_a_processor():
    assert signals.is_wide(64, torch.device("cpu"))
    assert not signals.is_wide(32, torch.device("cpu"))
    assert not signals.is_wide(64, torch.device("cuda"))
