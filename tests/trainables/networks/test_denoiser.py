import math

import pytest
import torch

from trainables.networks.denoiser import SIGMA_DATA, Denoiser
from trainables.networks.unet_plan import plan_unet

SMALL = {"channels": 8, "multipliers": (1, 2), "blocks": 1, "patch": 2}


def denoiser(shape=(1, 8, 8), classes=3, seed=0, **settings) -> Denoiser:
    return Denoiser(plan_unet(shape, classes, **{**SMALL, **settings}), torch.Generator().manual_seed(seed))


def lively(network: Denoiser) -> Denoiser:
    """The same network with branches that do not start near zero."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel())))
    return network


@pytest.mark.parametrize(
    ("shape", "classes", "settings"),
    [
        ((1, 28, 28), 10, {"channels": 32, "multipliers": (1, 2, 2), "blocks": 2, "patch": 1}),
        ((1, 28, 28), 10, {"channels": 32, "multipliers": (2, 2), "blocks": 2, "patch": 1}),
        ((3, 32, 32), 2, {"channels": 12, "multipliers": (1, 2, 4), "blocks": 1, "patch": 2}),
        ((1, 8, 8), 10, {"channels": 4, "multipliers": (1,), "blocks": 3, "patch": 4}),
    ],
)
def test_the_plan_counts_the_weights_of_the_network(shape, classes, settings):
    plan = plan_unet(shape, classes, **settings)
    network = Denoiser(plan)
    assert sum(parameter.numel() for parameter in network.parameters()) == plan.parameters
    assert not list(network.buffers())


def test_the_published_size():
    plan = plan_unet((1, 28, 28), 10, channels=32, multipliers=(1, 2, 2), blocks=2, patch=1)
    assert plan.parameters == pytest.approx(1.75e6, rel=0.02)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (1, 8, 8)])
def test_an_image_is_denoised_the_same_alone_and_in_a_batch(shape):
    network = lively(denoiser(shape))
    coins = torch.Generator().manual_seed(1)
    noisy, sigma = torch.randn(4, *shape, generator=coins), torch.rand(4, generator=coins) + 0.1
    labels = torch.eye(3)[[0, 1, 2, 2]]
    with torch.no_grad():
        together = network(noisy, sigma, labels)
        alone = torch.cat([network(noisy[i : i + 1], sigma[i : i + 1], labels[i : i + 1]) for i in range(4)])
    assert together.shape == (4, *shape)
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_without_a_network_the_denoiser_is_the_best_linear_one():
    """For data of variance SIGMA_DATA^2 that is noisy x SIGMA_DATA^2 / (sigma^2 + SIGMA_DATA^2)."""
    network = denoiser()
    with torch.no_grad():
        network.last.weight.zero_()
        noisy, sigma = torch.randn(3, 1, 8, 8), torch.tensor([0.01, 1.0, 30.0])
        found = network(noisy, sigma, torch.eye(3))
    expected = noisy * (SIGMA_DATA**2 / (sigma**2 + SIGMA_DATA**2))[:, None, None, None]
    torch.testing.assert_close(found, expected)


def test_the_preconditioned_network_sees_inputs_and_targets_of_unit_variance():
    """Karras et al. (2022), appendix B.6: the four factors, read off a network whose last layer is a constant."""
    network = denoiser()
    with torch.no_grad():
        network.last.weight.zero_()
        network.last.bias.fill_(1.0)
        sigma = torch.tensor([0.5])
        found = network(torch.zeros(1, 1, 8, 8), sigma, torch.zeros(1, 3))
    expected = 0.5 * SIGMA_DATA / math.sqrt(0.5**2 + SIGMA_DATA**2)
    torch.testing.assert_close(found, torch.full_like(found, expected))
    seen = []
    network.first.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    for level in (0.05, 0.5, 5.0):
        coins = torch.Generator().manual_seed(0)
        clean = torch.randn(64, 1, 8, 8, generator=coins) * SIGMA_DATA
        network(clean + level * torch.randn(clean.shape, generator=coins), torch.full((64,), level), torch.zeros(64, 3))
        assert float(seen[-1].std()) == pytest.approx(1, abs=0.05)


def test_label_noise_level_and_every_pixel_matter():
    network = lively(denoiser())
    noisy, sigma, none = torch.randn(1, 1, 8, 8), torch.tensor([0.5]), torch.zeros(1, 3)
    base = network(noisy, sigma, none)
    assert not torch.allclose(base, network(noisy, sigma, torch.eye(3)[:1]), atol=1e-4)
    raw = network._network(noisy, torch.tensor([0.1]), none)
    assert not torch.allclose(raw, network._network(noisy, torch.tensor([0.9]), none), atol=1e-4)
    jacobian = torch.autograd.functional.jacobian(lambda x: network(x, sigma, none).sum(), noisy)
    assert (jacobian != 0).all()


def test_initial_weights_are_public_coins_alone():
    torch.manual_seed(1)
    one = denoiser(seed=3).state_dict()
    torch.manual_seed(2)
    same, other = denoiser(seed=3).state_dict(), denoiser(seed=4).state_dict()
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["first.weight"], other["first.weight"])


def test_sides_that_cannot_be_halved_are_refused():
    with pytest.raises(ValueError, match=r"30x28; patch 2 and 2 resolutions need sides divisible by 4"):
        plan_unet((1, 30, 28), 10, **SMALL)
