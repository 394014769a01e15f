"""The conditional DCGAN of Bie, Kamath & Zhang (2023), without batch normalisation, for square images of any size from 8 on."""

from __future__ import annotations

import torch
from torch import nn

from trainables.networks.conditional import ConditionalGenerator
from trainables.networks.layers import draw_uniform

from .method import halvings

_SLOPE = 0.2


class Critic(nn.Module):
    """Logits of (image, label): image and label planes go through a convolution each, then both through three more.

    With ``channels`` d (even): to d/2 and d/2, side by side; to 2d; to 4d; to one number. The first three halve the sides, so
    28x28 becomes 14, 7, 4. A kernel is 4 where the side is even and 3 where it is odd, and the last one takes all that is
    left. A label is a plane of ones among planes of zeros. No batch normalisation: it would mix the records of a batch. With
    d = 128 there are 1,724,289 weights for 28x28 gray images of 10 classes (``method.critic_size``).
    """

    def __init__(self, shape: tuple[int, int, int], classes: int, *, channels: int, rng: torch.Generator | None = None) -> None:
        """``shape`` is (C, S, S); weights are drawn from ``rng`` (None: they will be loaded)."""
        super().__init__()
        colours, side = shape[0], shape[1]
        (first, _), (second, _), (third, last) = halvings(side)
        self.image = nn.Conv2d(colours, channels // 2, first, stride=2, padding=1)
        self.label = nn.Conv2d(classes, channels // 2, first, stride=2, padding=1)
        self.conv2 = nn.Conv2d(channels, 2 * channels, second, stride=2, padding=1)
        self.conv3 = nn.Conv2d(2 * channels, 4 * channels, third, stride=2, padding=1)
        self.score = nn.Conv2d(4 * channels, 1, last)
        if rng is not None:
            _draw(self, rng)

    def forward(self, images: torch.Tensor, one_hot: torch.Tensor) -> torch.Tensor:
        """Logits ``[n]``, positive for real, of ``images [n, C, S, S]`` in [0, 1] and float ``one_hot [n, classes]``."""
        planes = one_hot[:, :, None, None].expand(-1, -1, *images.shape[2:])
        features = torch.cat([self.image(2 * images - 1), self.label(planes)], dim=1)
        for layer in (self.conv2, self.conv3, self.score):
            features = layer(nn.functional.leaky_relu(features, _SLOPE))
        return features.flatten()


class DCGAN(ConditionalGenerator):
    """z and one-hot label -> transposed convolutions: the critic's mirror image.

    z and label to 2d maps each, side by side; 4d to 2d; to d; to the image, (tanh + 1) / 2. Leaky ReLU of slope 0.2 in
    between.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        classes: int,
        *,
        z_dim: int,
        channels: int,
        rng: torch.Generator | None = None,
    ) -> None:
        """``shape`` is (C, S, S); weights are drawn from ``rng`` (None: they will be loaded)."""
        super().__init__(classes, z_dim=z_dim, noise_injection=0.0, z_distribution="normal", maps=3)
        (first, _), (second, _), (third, last) = halvings(shape[1])
        self.latent = nn.ConvTranspose2d(z_dim, 2 * channels, last)
        self.label = nn.ConvTranspose2d(classes, 2 * channels, last)
        self.up1 = nn.ConvTranspose2d(4 * channels, 2 * channels, third, stride=2, padding=1)
        self.up2 = nn.ConvTranspose2d(2 * channels, channels, second, stride=2, padding=1)
        self.to_image = nn.ConvTranspose2d(channels, shape[0], first, stride=2, padding=1)
        if rng is not None:
            _draw(self, rng)

    def forward(self, z: torch.Tensor, labels: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
        """Images ``[n, C, S, S]`` in [0, 1] for ``z [n, z_dim]`` and int64 ``labels [n]``; ``rng`` is not read."""
        one_hot = nn.functional.one_hot(labels, self.classes).to(z)
        features = torch.cat([self.latent(z[:, :, None, None]), self.label(one_hot[:, :, None, None])], dim=1)
        for layer in (self.up1, self.up2, self.to_image):
            features = layer(nn.functional.leaky_relu(features, _SLOPE))
        return (torch.tanh(features) + 1) / 2


@torch.no_grad()
def _draw(network: nn.Module, rng: torch.Generator) -> None:
    """Initial weights with the distributions that torch gives these layers; the paper names no others."""
    for layer in network.children():
        assert isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d))
        assert layer.bias is not None
        fan = layer.weight[0].numel()  # torch's "fan in", which for a transposed convolution counts the outputs
        layer.weight.copy_(draw_uniform(layer.weight.shape, fan, rng))
        layer.bias.copy_(draw_uniform(layer.bias.shape, fan, rng))
