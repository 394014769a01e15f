"""generator_precision: bfloat16 reaches the generator's products and nothing else."""

import pytest
import torch
from engine_runs import PUBLISHED_NETWORKS, Recorder, compute_stages, equal, random_data, settings, start

from trainables.networks.layers import SNConv2d, UpsampleConv2d
from trainables.sharded_gan.method import Config

HALF = {"generator_precision": "bfloat16"}
SHAPES = {"small": (1, 8, 8), "resnet": (1, 28, 28)}


def run_of(tmp_path, *changes, steps=3):
    config = settings(*changes)
    data = random_data(shape=SHAPES[config["generator"]])
    run = start(config, data, compute_stages("gs_wgan", config, data, tmp_path), sanitizer=Recorder)
    run.advance(0, steps)
    return run


def test_trials_of_float32_keep_their_ids():
    assert "generator_precision" not in Config().model_dump(mode="json")
    assert Config(**HALF).model_dump(mode="json")["generator_precision"] == "bfloat16"
    assert Config.model_validate(Config(**HALF).model_dump()) == Config(**HALF)


@pytest.mark.parametrize("networks", [{}, PUBLISHED_NETWORKS], ids=["small", "resnet"])
def test_it_is_near_float32_and_not_equal(tmp_path, networks):
    """The first answers are to images that differ by the rounding of 8 bits; all that is kept is float32."""
    full, half = run_of(tmp_path / "full", networks), run_of(tmp_path / "half", networks, HALF)
    expected, found = full.sanitizer.answers[0], half.sanitizer.answers[0]
    assert not torch.equal(expected, found)
    assert torch.nn.functional.cosine_similarity(expected.flatten(), found.flatten(), dim=0) > 0.9
    kept = half.trainer.released()
    assert {tensor.dtype for tensor in kept.values()} == {torch.float32}
    assert not equal(kept, full.trainer.released())


def test_shards_clip_and_noise_are_asked_in_float32_outside_of_autocast(tmp_path):
    """The sanitizer refuses draws and releases under autocast, so three steps that end are three outside of it."""
    seen = []

    class Watched(Recorder):
        def release_rows(self, answers, **bounds):
            seen.append((answers.dtype, torch.is_autocast_enabled("cpu")))
            return super().release_rows(answers, **bounds)

    config = settings(PUBLISHED_NETWORKS, HALF)
    data = random_data(shape=(1, 28, 28))
    start(config, data, compute_stages("gs_wgan", config, data, tmp_path), sanitizer=Watched).advance(0, 3)
    assert seen == [(torch.float32, False)] * 3


def test_what_is_kept_samples_in_float32(tmp_path):
    half = run_of(tmp_path, PUBLISHED_NETWORKS, HALF)
    trainer, labels = half.trainer, torch.tensor([0, 1])
    sampled = trainer.sample(labels, torch.Generator().manual_seed(1))
    assert torch.equal(sampled, trainer._network.average.sample(labels, torch.Generator().manual_seed(1)))
    in_half = trainer._generate(labels, "test", (0,))
    assert in_half.dtype == torch.float32
    assert torch.equal(in_half, in_half.to(torch.bfloat16).to(torch.float32))  # what it was rounded to
    assert not torch.equal(sampled, sampled.to(torch.bfloat16).to(torch.float32))


def test_a_resumed_trial_goes_on_to_the_bit(tmp_path):
    config = settings(PUBLISHED_NETWORKS, HALF)
    data = random_data(shape=(1, 28, 28))
    stages = compute_stages("gs_wgan", config, data, tmp_path)
    whole, first, second = (start(config, data, stages) for _ in range(3))
    whole.advance(0, 4)
    first.advance(0, 2)
    second.trainer.load_state_dict(first.trainer.state_dict())
    second.advance(2, 4)
    assert equal(whole.trainer.released(), second.trainer.released())


def test_spectral_norms_move_on_in_the_precision_of_their_weights():
    layer, rng = SNConv2d(3, 4, 3), torch.Generator().manual_seed(0)
    layer.draw([rng])
    before = layer.u.clone()
    with torch.autocast("cpu", torch.bfloat16):
        under = layer.normalised()
    moved = layer.u.clone()
    layer.u.copy_(before)
    assert torch.equal(under, layer.normalised())
    assert torch.equal(moved, layer.u)


def test_taps_of_a_sub_pixel_kernel_are_added_before_they_are_rounded():
    layer = UpsampleConv2d(1, 1)
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.zero_()
        layer.weight[0, 0, 1, 1:] = torch.tensor([1 + 2**-8, 2**-8])  # bfloat16 has 1 and 1 + 2**-7, and nothing between
        with torch.autocast("cpu", torch.bfloat16):
            found = layer(torch.ones(1, 1, 4, 4))
    assert found.dtype == torch.bfloat16
    assert found.max() == 1 + 2**-7
