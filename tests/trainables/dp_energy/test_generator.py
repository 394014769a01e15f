import pytest
import torch
from torch import nn

from trainables.coins import torch_coins
from trainables.networks.generator import Generator
from trainables.networks.layers import UpsampleConv2d, initialise


def test_sub_pixel_form_is_upsampling_and_convolution():
    layer = UpsampleConv2d(5, 3)
    initialise(layer, torch_coins(0, "weights"))
    layer = layer.double()
    with torch.no_grad():
        layer.bias.copy_(torch.tensor([0.1, -0.2, 0.3]))
    features = torch.randn(2, 5, 6, 7, generator=torch_coins(0, "features"), dtype=torch.float64)
    upsampled = nn.functional.interpolate(features, scale_factor=2, mode="nearest")
    expected = nn.functional.conv2d(upsampled, layer.weight, layer.bias, padding=1)
    torch.testing.assert_close(layer(features), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 12, 20)])
def test_images_have_the_declared_shape_and_range(shape):
    generator = Generator(shape, 3, z_dim=4, channels=5, noise_injection=0.1, rng=torch_coins(0, "generator"))
    images = generator.sample(torch.tensor([0, 1, 2, 0]), torch_coins(0, "sample"))
    assert images.shape == (4, *shape)
    assert 0 <= images.min() < images.max() <= 1


def test_weights_and_samples_depend_on_their_coins_alone():
    def make(global_seed: int) -> torch.Tensor:
        torch.manual_seed(global_seed)
        generator = Generator((1, 8, 8), 2, z_dim=4, channels=4, noise_injection=0.1, rng=torch_coins(0, "generator"))
        return generator.sample(torch.zeros(600, dtype=torch.int64), torch_coins(1, "sample"))

    images = make(1)
    assert torch.equal(images, make(2))
    assert not torch.equal(images[:100], images[500:])  # every batch of samples goes on where the last one stopped


def test_noise_injection_is_what_varies_at_a_fixed_latent():
    z, labels = torch.zeros(2, 4), torch.tensor([0, 0])
    for noise, equal in ((0.0, True), (0.1, False)):
        generator = Generator((1, 8, 8), 2, z_dim=4, channels=4, noise_injection=noise, rng=torch_coins(0, "generator"))
        one, other = generator(z, labels, torch_coins(0, "noise"))
        assert torch.allclose(one, other) is equal
