"""The scale of injected noise over the steps: on its schedule, learnt, or adapted to the generator's own images."""

import pytest
import torch
from engine_runs import SIGNALS, random_data, settings, start

from trainables.coins import torch_coins
from trainables.networks.diversity import noise_share
from trainables.networks.generator import Generator
from trainables.sharded_gan import injected_noise
from trainables.sharded_gan.settings import Config
from trainables.sharded_gan.training import load_sampler

NOISY = {"noise_injection": 0.4, "reconstruction": 0.0}


def run_of(**changes):
    config = settings(SIGNALS["energy"], NOISY, changes)
    return start(config, random_data(), {}, method="ef_dpgan")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"noise_injection_start": 3}, [0, 0, 0, 0.4, 0.4, 0.4, 0.4, 0.4]),
        ({"noise_injection_schedule": "falling"}, [0.4, 0.35, 0.3, 0.25, 0.2, 0.15, 0.1, 0.05]),
        ({"noise_injection_schedule": "falling", "noise_injection_start": 4}, [0, 0, 0, 0, 0.4, 0.3, 0.2, 0.1]),
        ({"noise_injection_schedule": "adaptive", "noise_injection_start": 6}, [0, 0, 0, 0, 0, 0, 0.1, 0.1]),
    ],
)
def test_the_scale_follows_its_schedule_and_the_kept_generator_samples_at_the_last(changes, expected):
    run = run_of(**changes)
    found = []
    for step in range(8):
        run.advance(step, step + 1)
        found.append(run.trainer.released()["generator.noise_scales"])
    for scales, scale in zip(found, expected, strict=True):
        torch.testing.assert_close(scales, torch.full((2,), float(scale)))
    labels = torch.arange(6) % 2
    config = run.trainer._config
    sampler = load_sampler(config, random_data().info, run.trainer.released(), torch.device("cpu"))
    assert torch.equal(sampler(labels, torch_coins(0, "t")), run.trainer.sample(labels, torch_coins(0, "t")))


def test_a_learnt_scale_is_trained_like_a_weight():
    run = run_of(noise_injection_schedule="learnt")
    run.advance(0, 4)
    scales = run.trainer.released()["generator.noise_scales"]
    assert scales.shape == (2,)
    assert (scales - 0.4).abs().min() > 1e-3
    assert scales[0] != scales[1], "each layer has its own"


def test_noise_from_a_step_on_is_no_noise_before_it():
    late, never = run_of(noise_injection_start=2), run_of(noise_injection=0.0)
    for run in (late, never):
        run.advance(0, 2)
    weights = late.trainer.released()
    assert all(torch.equal(weights[name], tensor) for name, tensor in never.trainer.released().items())
    late.advance(2, 3)
    never.advance(2, 3)
    weights = late.trainer.released()
    assert not all(torch.equal(weights[name], tensor) for name, tensor in never.trainer.released().items())


@pytest.mark.parametrize("wanted", [0.02, 0.3])
def test_adaptive_noise_holds_its_share_of_the_variance(wanted):
    """On a generator that does not change, whatever its weights make of a scale."""
    config = Config(steps=1000, generator="small", noise_injection=wanted, noise_injection_schedule="adaptive")
    generator = Generator((1, 8, 8), 3, z_dim=4, channels=6, noise_injection=wanted, noise_kind="kept", rng=torch_coins(0, "w"))
    shares = []
    for step in range(0, 1000, injected_noise.ADAPT_EVERY):
        injected_noise.set_noise(generator, config, step, seed=0)
        shares.append(noise_share(generator, torch.arange(3), torch_coins(1, "look", step), draws=40))
    late = sum(shares[25:]) / len(shares[25:])
    assert late == pytest.approx(wanted, rel=0.25)
    assert abs(shares[0] - wanted) > abs(late - wanted)


def test_a_scale_moves_by_a_factor_of_two_at_most_and_stays_in_bounds():
    for scale in (1e-3, 0.1, 10.0):
        for share in (0.0, 1e-9, 0.1, 1.0):
            found = injected_noise.adapted(scale, share, target=0.1)
            assert injected_noise.SMALLEST_SCALE <= found <= injected_noise.LARGEST_SCALE
            assert 0.5 <= found / scale <= 2
