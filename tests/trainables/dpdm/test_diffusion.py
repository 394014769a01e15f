import numpy as np
import pytest
import torch

from trainables.dpdm.diffusion import batch_loss, record_draws, record_loss, to_model
from trainables.dpdm.method import Config, network_plan
from trainables.networks.denoiser import Denoiser

SHAPE = (1, 8, 8)


def test_a_records_draws_do_not_depend_on_who_else_was_drawn():
    config = Config(noise_multiplicity=3)
    alone = record_draws(config, SHAPE, 0, "diffusion", 5, [7])
    among = record_draws(config, SHAPE, 0, "diffusion", 5, [1, 2, 7, 30])
    for one, many in zip(alone, among, strict=True):
        assert torch.equal(one[0], many[2])
    assert not torch.equal(among[0][0], among[0][2])


def test_draws_change_with_step_seed_and_purpose():
    config = Config(noise_multiplicity=2)
    found = [
        record_draws(config, SHAPE, seed, purpose, step, [7])[0]
        for seed, purpose, step in ((0, "diffusion", 5), (1, "diffusion", 5), (0, "other", 5), (0, "diffusion", 6))
    ]
    assert not any(torch.equal(found[0], other) for other in found[1:])


def test_draws_have_the_declared_distributions():
    config = Config(noise_multiplicity=4, label_dropout=0.3, log_noise_mean=-0.5, log_noise_std=0.7)
    noise, levels, kept = record_draws(config, SHAPE, 0, "diffusion", 0, range(3000))
    assert (noise.shape, levels.shape, kept.shape) == ((3000, 4, *SHAPE), (3000, 4), (3000, 4))
    # Five standard errors and more: false alarms below 1e-6.
    assert float(noise.mean()) == pytest.approx(0, abs=6 / 768000**0.5)
    assert float(noise.var()) == pytest.approx(1, abs=6 * (2 / 768000) ** 0.5)
    assert float(levels.log().mean()) == pytest.approx(-0.5, abs=6 * 0.7 / 12000**0.5)
    assert float(levels.log().std()) == pytest.approx(0.7, abs=6 * 0.7 / 24000**0.5)
    assert float(kept.mean()) == pytest.approx(0.7, abs=6 * (0.21 / 12000) ** 0.5)
    assert set(kept.unique().tolist()) == {0.0, 1.0}


def small_denoiser(data_info) -> Denoiser:
    plan = network_plan(Config(network={"channels": 4}), data_info)
    return Denoiser(plan, torch.Generator().manual_seed(0)).double()


def test_the_loss_is_that_of_the_paper(random_data):
    """Karras et al. (2022), equations 2, 7 and 8 and table 1, for one record and three draws, in float64."""
    data = random_data(1)
    network = small_denoiser(data.info)
    coins = np.random.default_rng(0)
    image = to_model(torch.from_numpy(data.images))[0].double()
    label = torch.tensor([0.0, 1.0], dtype=torch.float64)
    noise = torch.from_numpy(coins.standard_normal((3, *SHAPE)))
    levels, kept = torch.tensor([0.1, 1.0, 9.0], dtype=torch.float64), torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64)
    expected = 0.0
    for draw in range(3):
        level, given = levels[draw], label * kept[draw]
        denoised = network((image + level * noise[draw])[None], level[None], given[None])[0]
        weight = (level**2 + 1 / 3) / (level**2 / 3)
        expected += weight * (denoised - image).square().sum() / 64 / 3
    found = record_loss(network, image, label, noise, levels, kept)
    torch.testing.assert_close(found, expected)


def test_every_noise_level_counts_alike_at_the_start(random_data):
    """What the weight is for: images of the assumed variance, whatever the level, cost an untrained network about 1."""
    network = small_denoiser(random_data(1).info).float()
    coins = torch.Generator().manual_seed(0)
    image = (torch.rand((1, 8, 8), generator=coins) * 2 - 1)[0][None]
    for level in (0.02, 0.5, 20.0):
        noise = torch.randn((200, *SHAPE), generator=coins)
        loss = record_loss(network, image, torch.zeros(2), noise, torch.full((200,), level), torch.ones(200))
        assert float(loss.detach()) == pytest.approx(1, abs=0.25)


def test_the_batch_loss_is_the_mean_of_record_losses(random_data):
    data = random_data(5)
    network, config = small_denoiser(data.info).float(), Config(label_dropout=0.5)
    images = to_model(torch.from_numpy(data.images))
    labels = torch.eye(2)[torch.from_numpy(data.labels)]
    found = batch_loss(config, network, images, labels, torch.Generator().manual_seed(3))
    coins = torch.Generator().manual_seed(3)
    levels = torch.exp(config.log_noise_mean + config.log_noise_std * torch.randn(5, generator=coins))
    kept = (torch.rand(5, generator=coins) >= 0.5).float()
    noise = torch.randn(5, *SHAPE, generator=coins)
    each = [record_loss(network, images[i], labels[i], noise[i : i + 1], levels[i : i + 1], kept[i : i + 1]) for i in range(5)]
    torch.testing.assert_close(found, torch.stack(each).mean())


def test_images_go_to_the_interval_of_the_model():
    assert to_model(torch.tensor([0, 255], dtype=torch.uint8)).tolist() == [-1, 1]
