"""A small conditional convolutional generator for square-ish images whose sides are divisible by 4."""

from __future__ import annotations

import torch
from torch import nn

from .conditional import ConditionalGenerator, ZDistribution
from .layers import UpsampleConv2d, initialise, pixel_norm


class Generator(ConditionalGenerator):
    """(z, label) -> image: two dense layers, then two upsampling convolutions and a last 3x3 convolution."""

    def __init__(
        self,
        shape: tuple[int, int, int],
        classes: int,
        *,
        z_dim: int,
        channels: int,
        noise_injection: float,
        z_distribution: ZDistribution = "normal",
        rng: torch.Generator | None = None,
    ) -> None:
        """``shape`` is (C, H, W) with H and W divisible by 4; weights are drawn from ``rng`` (None: they will be loaded)."""
        super().__init__(classes, z_dim=z_dim, noise_injection=noise_injection, z_distribution=z_distribution)
        colours, height, width = shape
        self._grid = (channels, height // 4, width // 4)
        self.embed = nn.Linear(z_dim + classes, 128)
        self.project = nn.Linear(128, channels * (height // 4) * (width // 4))
        self.up1 = UpsampleConv2d(channels, channels)
        self.up2 = UpsampleConv2d(channels, max(channels // 2, 1))
        self.to_image = nn.Conv2d(max(channels // 2, 1), colours, 3, padding=1)
        if rng is not None:
            initialise(self, rng)

    def forward(self, z: torch.Tensor, labels: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
        """Images ``[n, C, H, W]`` in [0, 1] for ``z [n, z_dim]`` and int64 ``labels [n]``, with noise from ``rng`` (CPU)."""
        hidden = _activate(self.embed(self.with_labels(z, labels)))
        features = _activate(self.project(hidden).reshape(-1, *self._grid))
        features = _activate(self.inject(self.up1(features), rng))
        features = _activate(self.inject(self.up2(features), rng))
        return torch.sigmoid(self.to_image(features))


def _activate(features: torch.Tensor) -> torch.Tensor:
    return nn.functional.leaky_relu(pixel_norm(features), 0.1)
