import math
from types import SimpleNamespace

import pytest
import torch

from trainables.dpdm.method import Config, SamplerConfig, network_plan
from trainables.dpdm.sampler import SAMPLE_BATCH, guided, noise_levels, sample
from trainables.networks.denoiser import Denoiser

SHAPE = (1, 4, 4)


class GaussianData(torch.nn.Module):
    """The exact denoiser of images that are normal around a mean a class: every sampler must bring that law back."""

    def __init__(self, means: list[float], std: float) -> None:
        super().__init__()
        self.means, self.std = torch.nn.Parameter(torch.tensor(means), requires_grad=False), std
        self.plan = SimpleNamespace(shape=SHAPE, classes=len(means))
        self.largest_batch = 0

    def forward(self, noisy, sigma, labels):
        self.largest_batch = max(self.largest_batch, len(noisy))
        mean, level = (labels @ self.means)[:, None, None, None], sigma[:, None, None, None]
        return (self.std**2 * noisy + level**2 * mean) / (self.std**2 + level**2)


SAMPLERS = [
    ({"kind": "ddim", "steps": 200}, 0.02),
    ({"kind": "edm", "steps": 40}, 0.01),
    ({"kind": "edm", "steps": 100, "churn": 30.0}, 0.01),
]


@pytest.mark.parametrize(("settings", "tolerance"), SAMPLERS)
def test_samplers_bring_back_the_law_of_the_data(settings, tolerance):
    network = GaussianData([-0.3, 0.4], std=0.1)
    config = SamplerConfig(sigma_min=0.002, sigma_max=80.0, **settings)
    labels = torch.tensor([0, 1]).repeat(1000)
    images = sample(network, config, labels, torch.Generator().manual_seed(0)) * 2 - 1
    for label, mean in enumerate((-0.3, 0.4)):
        found = images[labels == label]
        assert float(found.mean()) == pytest.approx(mean, abs=tolerance)
        assert float(found.std()) == pytest.approx(0.1, rel=0.1)
    assert network.largest_batch == SAMPLE_BATCH


def test_a_known_image_is_found_in_few_steps():
    """A denoiser that always answers the same image: one first-order step to level 0 lands on it exactly."""
    network = GaussianData([0.25], std=0.0)
    images = sample(network, SamplerConfig(steps=2), torch.zeros(3, dtype=torch.int64), torch.Generator().manual_seed(0))
    torch.testing.assert_close(images, torch.full((3, *SHAPE), 0.625))


def test_noise_levels_are_those_of_the_paper():
    levels = noise_levels(SamplerConfig(steps=18, sigma_min=0.002, sigma_max=80.0))
    expected = [(80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7 for i in range(18)]
    assert levels == pytest.approx([*expected, 0.0])


def tiny_denoiser() -> Denoiser:
    from trainables.base import DataInfo

    info = DataInfo(size=1, channels=1, height=4, width=4, classes=2)
    network = Denoiser(network_plan(Config(network={"channels": 4, "patch": 1}), info), torch.Generator().manual_seed(0))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.2)
    return network


def test_guidance_goes_past_the_conditional_answer():
    network, coins = tiny_denoiser(), torch.Generator().manual_seed(1)
    noisy, labels, sigma = torch.randn(5, *SHAPE, generator=coins), torch.eye(2)[[0, 1, 0, 1, 1]], torch.full((5,), 0.7)
    with torch.no_grad():
        conditional, free = network(noisy, sigma, labels), network(noisy, sigma, torch.zeros(5, 2))
        torch.testing.assert_close(guided(network, noisy, 0.7, labels, 0.0), conditional)
        found = guided(network, noisy, 0.7, labels, 1.5)
    assert not torch.allclose(conditional, free)
    torch.testing.assert_close(found, 2.5 * conditional - 1.5 * free)


@pytest.mark.parametrize("settings", [{}, {"kind": "edm", "steps": 4, "churn": 4.0, "churn_min": 0.0}, {"guidance": 1.0}])
def test_images_depend_on_the_given_generator_alone(settings):
    network, labels = tiny_denoiser(), torch.arange(6) % 2
    images = []
    for global_seed, seed in ((1, 7), (2, 7), (1, 8)):
        torch.manual_seed(global_seed)
        images.append(sample(network, SamplerConfig(**settings), labels, torch.Generator().manual_seed(seed)))
    assert torch.equal(images[0], images[1])
    assert not torch.equal(images[0], images[2])
    assert float(images[0].min()) >= 0
    assert float(images[0].max()) <= 1


def test_churn_draws_fresh_noise_between_its_bounds_only():
    network, labels = tiny_denoiser(), torch.zeros(2, dtype=torch.int64)

    def run(**settings) -> torch.Tensor:
        return sample(network, SamplerConfig(kind="edm", steps=5, **settings), labels, torch.Generator().manual_seed(0))

    assert torch.equal(run(), run(churn=3.0, churn_min=25.0, churn_max=30.0))  # no level lies there
    assert not torch.equal(run(), run(churn=3.0))
    capped = run(churn=1e3)
    assert torch.equal(capped, run(churn=5 * (math.sqrt(2) - 1) + 1))  # gamma is at most sqrt(2) - 1
