"""A small conditional convolutional generator for square-ish images whose sides are divisible by 4."""

from __future__ import annotations

import torch
from torch import nn

from .layers import UpsampleConv2d, initialise, pixel_norm

_SAMPLE_BATCH = 500  # images at once when sampling; part of the order in which ``rng`` is read


class Generator(nn.Module):
    """(z, label) -> image: two dense layers, then two upsampling convolutions and a last 3x3 convolution.

    Gaussian noise of standard deviation ``noise_injection`` is added to every upsampled feature map before its activation
    (Ma & Zhang, 2026, Algorithm 1), in training and in sampling.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        classes: int,
        *,
        z_dim: int,
        channels: int,
        noise_injection: float,
        rng: torch.Generator | None = None,
    ) -> None:
        """``shape`` is (C, H, W) with H and W divisible by 4; weights are drawn from ``rng`` (None: they will be loaded)."""
        super().__init__()
        colours, height, width = shape
        self.classes, self.z_dim, self.noise_injection = classes, z_dim, noise_injection
        self._grid = (channels, height // 4, width // 4)
        self.embed = nn.Linear(z_dim + classes, 128)
        self.project = nn.Linear(128, channels * (height // 4) * (width // 4))
        self.up1 = UpsampleConv2d(channels, channels)
        self.up2 = UpsampleConv2d(channels, max(channels // 2, 1))
        self.to_image = nn.Conv2d(max(channels // 2, 1), colours, 3, padding=1)
        if rng is not None:
            initialise(self, rng)

    def forward(self, z: torch.Tensor, labels: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
        """Images ``[n, C, H, W]`` in [0, 1] for ``z [n, z_dim]`` and int64 ``labels [n]``.

        Injected noise is drawn from ``rng`` on the CPU, so that it is the same on every device.
        """
        one_hot = nn.functional.one_hot(labels, self.classes).to(z)
        hidden = _activate(self.embed(torch.cat([z, one_hot], dim=1)))
        features = _activate(self.project(hidden).reshape(-1, *self._grid))
        features = _activate(self._inject(self.up1(features), rng))
        features = _activate(self._inject(self.up2(features), rng))
        return torch.sigmoid(self.to_image(features))

    def sample(self, labels: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
        """Images for int64 ``labels [n]`` with fresh z and injected noise from ``rng`` (CPU), without gradients."""
        device = self.to_image.weight.device
        with torch.no_grad():
            parts = [
                self(torch.randn(len(part), self.z_dim, generator=rng).to(device), part.to(device), rng)
                for part in labels.split(_SAMPLE_BATCH)
            ]
        return torch.cat(parts)

    def _inject(self, features: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
        if self.noise_injection == 0:
            return features
        return features + torch.randn(features.shape, generator=rng).to(features.device) * self.noise_injection


def _activate(features: torch.Tensor) -> torch.Tensor:
    return nn.functional.leaky_relu(pixel_norm(features), 0.1)
