import pytest
import torch
from torch import nn

from trainables.coins import torch_coins
from trainables.networks.conditional import ConditionalGenerator
from trainables.networks.diversity import noise_share
from trainables.networks.resnet import ResNetGenerator


class Linear(ConditionalGenerator):
    """Images ``mean[label] + A z + b * noise`` of 3 x 2 x 2 pixels: all variances are known."""

    def __init__(self, z_weight, noise_injection, z_distribution="normal"):
        super().__init__(2, z_dim=5, noise_injection=noise_injection, z_distribution=z_distribution, maps=1)
        self.mean = nn.Parameter(torch.tensor([[-3.0], [8.0]]).expand(2, 12).clone())
        self.matrix = nn.Parameter(z_weight * torch.randn(5, 12, generator=torch_coins(0, "matrix")))
        self.gains = nn.Parameter(torch.linspace(0, 2, 12).reshape(1, 3, 2, 2))

    def forward(self, z, labels, rng):
        noise = self.inject(torch.zeros(len(z), 3, 2, 2), rng, 0) * self.gains
        return (self.mean[labels] + z @ self.matrix).reshape(-1, 3, 2, 2) + noise

    def share(self):
        """By hand: Var(A z) = sum of A's squares times the variance of a coordinate of z; Var(b noise) likewise."""
        of_z = (0.25 if self.z_distribution == "bernoulli" else 1.0) * self.matrix.detach().square().sum()
        of_noise = self.noise_injection**2 * self.gains.detach().square().sum()
        return float(of_noise / (of_noise + of_z))


def measured(generator, draws=16, classes=(0, 1), coins=0):
    return noise_share(generator, torch.tensor(classes), torch_coins(coins, "share"), draws=draws)


@pytest.mark.parametrize("z_distribution", ["normal", "bernoulli"])
@pytest.mark.parametrize("noise_injection", [0.3, 1.0, 3.0])
def test_the_share_of_a_linear_generator_is_known(noise_injection, z_distribution):
    """2 x 5000 pairs of at least a few independent coordinates: a standard error of at most 0.01; 0.05 is five of them."""
    generator = Linear(0.5, noise_injection, z_distribution)
    assert 0.02 < generator.share() < 0.99
    assert measured(generator, draws=5000) == pytest.approx(generator.share(), abs=0.05)


def test_a_few_draws_have_little_bias():
    """The mean over 200 measurements of 2 classes x 8 draws; each has a standard deviation below 0.1."""
    generator = Linear(0.5, 1.0)
    mean = sum(measured(generator, draws=8, coins=coins) for coins in range(200)) / 200
    assert mean == pytest.approx(generator.share(), abs=0.04)


def test_without_noise_the_share_is_0_and_without_z_1():
    assert measured(Linear(1.0, 0.0)) == 0
    assert measured(Linear(0.0, 0.5), draws=5000) == pytest.approx(1, abs=0.05)
    assert measured(Linear(0.0, 0.5), draws=2) <= 1


def test_images_that_do_not_vary_owe_nothing_to_noise():
    assert measured(Linear(0.0, 0.0)) == 0


def test_classes_far_apart_are_no_variance():
    """Only what varies within a class counts, so more classes change the share by no more than chance."""
    generator = Linear(0.5, 1.0)
    alone = measured(generator, draws=5000, classes=(1,))
    assert measured(generator, draws=5000) == pytest.approx(alone, abs=0.05)


@pytest.mark.parametrize("kind", ["kept", "fixed"])
def test_the_share_of_a_network_grows_with_the_noise(kind):
    def share(noise_injection):
        settings = {"z_dim": 6, "channels": 8, "noise_kind": kind, "rng": torch_coins(0, "weights")}
        return measured(ResNetGenerator((1, 28, 28), 2, noise_injection=noise_injection, **settings), draws=8)

    found = [share(noise) for noise in (0.0, 0.05, 0.2, 1.0)]
    assert found[0] == 0
    assert found == sorted(found)
    assert len(set(found)) == 4
    assert found[-1] > 0.5


def test_measuring_leaves_the_generator_and_gradients_alone():
    generator = ResNetGenerator((1, 28, 28), 2, z_dim=6, channels=4, noise_injection=0.2, rng=torch_coins(0, "weights"))
    before = {name: tensor.clone() for name, tensor in generator.state_dict().items()}
    assert measured(generator) == measured(generator)
    assert generator.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in generator.state_dict().items())
    assert all(parameter.grad is None for parameter in generator.parameters())


def test_batches_of_any_size_are_one_measurement():
    whole, parts = Linear(0.5, 0.0), Linear(0.5, 0.0)
    parts.sample_batch = 3
    assert measured(whole) == measured(parts) == 0
    noisy = Linear(0.5, 1.0)
    noisy.sample_batch = 7
    assert measured(noisy, draws=5000) == pytest.approx(noisy.share(), abs=0.05)


def test_nan_is_not_taken_for_a_share():
    generator = Linear(0.5, 1.0)
    with torch.no_grad():
        generator.gains[0, 0, 0, 0] = float("nan")
    assert measured(generator) != measured(generator)


@pytest.mark.parametrize(("classes", "draws"), [((), 16), ((0, 1), 1)])
def test_what_has_no_variance_is_refused(classes, draws):
    message = f"{len(classes)} classes and {draws} draws; variance within classes needs a class and 2 draws at least"
    with pytest.raises(ValueError, match=message):
        noise_share(Linear(1.0, 1.0), torch.tensor(classes, dtype=torch.int64), torch_coins(0, "share"), draws=draws)
