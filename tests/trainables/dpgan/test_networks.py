"""The networks: shapes, ranges, and that no record of a batch sees another."""

import pytest
import torch
from torch import nn

from trainables.dpgan.networks import DCGAN, Critic

SHAPES = [(1, 28, 28), (3, 28, 28), (1, 32, 32), (3, 32, 32), (1, 8, 8), (1, 13, 13)]


@pytest.mark.parametrize("shape", SHAPES)
def test_images_have_the_datas_shape_and_range(shape):
    generator = DCGAN(shape, 3, z_dim=4, channels=2, rng=torch.Generator().manual_seed(0))
    images = generator(torch.randn(5, 4), torch.arange(5) % 3, torch.Generator())
    assert images.shape == (5, *shape)
    assert 0 <= images.min() < images.max() <= 1
    with torch.no_grad():
        generator.to_image.weight *= 1e6
    saturated = generator(torch.randn(5, 4), torch.arange(5) % 3, torch.Generator())
    assert (saturated.min(), saturated.max()) == (0, 1)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_logit_is_a_function_of_its_own_image_and_label(shape):
    critic = Critic(shape, 3, channels=4, rng=torch.Generator().manual_seed(0)).double()
    images, one_hot = torch.rand(4, *shape).double(), torch.eye(3)[[0, 1, 2, 2]].double()
    logits = critic(images, one_hot)
    assert logits.shape == (4,)
    alone = torch.cat([critic(images[i : i + 1], one_hot[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(logits, alone)
    assert (logits - critic(images, one_hot[[1, 2, 0, 0]])).abs().min() > 1e-5


def test_the_published_critic_for_28x28():
    """The layers as the paper prints them, written out."""
    critic = Critic((1, 28, 28), 10, channels=4, rng=torch.Generator().manual_seed(0)).double()
    images, labels = torch.rand(3, 1, 28, 28).double(), torch.tensor([7, 0, 7])
    planes = torch.zeros(3, 10, 28, 28).double()
    for row, label in enumerate(labels):
        planes[row, label] = 1
    convolve = nn.functional.conv2d
    hidden = [
        convolve(image, layer.weight, layer.bias, stride=2, padding=1)
        for image, layer in ((images * 2 - 1, critic.image), (planes, critic.label))
    ]
    x = nn.functional.leaky_relu(torch.cat(hidden, dim=1), 0.2)
    assert x.shape == (3, 4, 14, 14)
    x = nn.functional.leaky_relu(convolve(x, critic.conv2.weight, critic.conv2.bias, stride=2, padding=1), 0.2)
    assert x.shape == (3, 8, 7, 7)
    x = nn.functional.leaky_relu(convolve(x, critic.conv3.weight, critic.conv3.bias, stride=2, padding=1), 0.2)
    assert x.shape == (3, 16, 4, 4)
    expected = convolve(x, critic.score.weight, critic.score.bias).flatten()
    torch.testing.assert_close(critic(images, torch.eye(10).double()[labels]), expected)
