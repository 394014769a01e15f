"""A small conditional convolutional generator for images whose sides are divisible by 4."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from .conditional import ConditionalGenerator, NoiseKind, ZDistribution
from .layers import UpsampleConv2d, initialise, pixel_norm


class Generator(ConditionalGenerator):
    """(z, label) -> image: two dense layers, then two or three upsampling convolutions and a last 3x3 convolution.

    The upsampling convolutions have ``channels`` channels each but the last one, which has half as many.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        classes: int,
        *,
        z_dim: int,
        channels: int,
        noise_injection: float,
        z_distribution: ZDistribution = "normal",
        noise_kind: NoiseKind = "fixed",
        upsamplings: Literal[2, 3] = 2,
        rng: torch.Generator | None = None,
    ) -> None:
        """``shape`` is (C, H, W) with H and W divisible by 4, by 8 for three ``upsamplings``; weights are drawn from ``rng``
        (None: they will be loaded)."""
        super().__init__(
            classes,
            z_dim=z_dim,
            noise_injection=noise_injection,
            z_distribution=z_distribution,
            noise_kind=noise_kind,
            maps=upsamplings,
        )
        colours, height, width = shape
        if upsamplings == 3:
            self.sample_batch = 125  # the last feature map is four times as large for the same first one
        half = max(channels // 2, 1)
        self._grid = (channels, height // 2**upsamplings, width // 2**upsamplings)
        self.embed = nn.Linear(z_dim + classes, 128)
        self.project = nn.Linear(128, torch.Size(self._grid).numel())
        self.up1 = UpsampleConv2d(channels, channels)
        self.up2 = UpsampleConv2d(channels, channels if upsamplings == 3 else half)
        self.up3 = UpsampleConv2d(channels, half) if upsamplings == 3 else None
        self.to_image = nn.Conv2d(half, colours, 3, padding=1)
        if rng is not None:
            for layer in self.children():  # learnt scales of noise keep their initial value
                initialise(layer, rng)

    def forward(self, z: torch.Tensor, labels: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
        """Images ``[n, C, H, W]`` in [0, 1] for ``z [n, z_dim]`` and int64 ``labels [n]``, with noise from ``rng`` (CPU)."""
        hidden = _activate(self.embed(self.with_labels(z, labels)))
        features = _activate(self.project(hidden).reshape(-1, *self._grid))
        features = _activate(self.inject(self.up1(features), rng, 0))
        features = _activate(self.inject(self.up2(features), rng, 1))
        if self.up3 is not None:
            features = _activate(self.inject(self.up3(features), rng, 2))
        return torch.sigmoid(self.to_image(features))


def _activate(features: torch.Tensor) -> torch.Tensor:
    return nn.functional.leaky_relu(pixel_norm(features), 0.1)
