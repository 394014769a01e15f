"""The generator of DP-Sinkhorn (Cao et al., 2021), for sides divisible by 4."""

from __future__ import annotations

import torch
from torch import nn

from trainables.networks.conditional import ConditionalGenerator
from trainables.networks.layers import draw_uniform


class SinkhornGenerator(ConditionalGenerator):
    """z ~ U(0, 1) and an embedded label -> three transposed convolutions and a 3x3 convolution, tanh.

    From 1x1 to a quarter of the image's sides in one step (kernel 7 for 28x28), then twice by 2 (kernel 4); channels are
    ``channels``, a half and a quarter of it; batch norm and leaky ReLU .2 after each. Batches are of generated images alone,
    so batch norm touches no private record. Sampling uses its running statistics, where the published code uses those of the
    batch, so that an image does not depend on what is generated beside it.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        classes: int,
        *,
        z_dim: int,
        label_dim: int,
        channels: int,
        rng: torch.Generator | None = None,
    ) -> None:
        """``shape`` is (C, H, W) with H and W divisible by 4. ``rng`` (CPU) draws the weights, with the distributions that
        torch gives such layers; None: they will be loaded."""
        super().__init__(classes, z_dim=z_dim, noise_injection=0.0, z_distribution="normal", maps=2)
        colours, height, width = shape
        half, quarter = max(channels // 2, 1), max(channels // 4, 1)
        self.embed = nn.Embedding(classes, label_dim)
        self.up1 = nn.ConvTranspose2d(z_dim + label_dim, channels, (height // 4, width // 4))
        self.up2 = nn.ConvTranspose2d(channels, half, 4, stride=2, padding=1)
        self.up3 = nn.ConvTranspose2d(half, quarter, 4, stride=2, padding=1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(maps) for maps in (channels, half, quarter))
        self.to_image = nn.Conv2d(quarter, colours, 3, padding=1)
        if rng is not None:
            self._draw(rng)

    @torch.no_grad()
    def _draw(self, rng: torch.Generator) -> None:
        self.embed.weight.copy_(torch.randn(self.embed.weight.shape, generator=rng))
        for layer in (self.up1, self.up2, self.up3, self.to_image):
            assert layer.bias is not None
            fan = layer.weight[0].numel()
            layer.weight.copy_(draw_uniform(layer.weight.shape, fan, rng))
            layer.bias.copy_(draw_uniform(layer.bias.shape, fan, rng))

    def draw_z(self, count: int, rng: torch.Generator) -> torch.Tensor:
        """``[count, z_dim]`` uniform in [0, 1), as published."""
        return torch.rand(count, self.z_dim, generator=rng).to(self.embed.weight)

    def forward(self, z: torch.Tensor, labels: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
        """Images ``[n, C, H, W]`` in [0, 1] for ``z [n, z_dim]`` and int64 ``labels [n]``; ``rng`` is not read."""
        features = torch.cat([z, self.embed(labels)], dim=1)[:, :, None, None]
        for layer, norm in zip((self.up1, self.up2, self.up3), self.norms, strict=True):
            features = nn.functional.leaky_relu(norm(layer(features)), 0.2)
        return (torch.tanh(self.to_image(features)) + 1) / 2
