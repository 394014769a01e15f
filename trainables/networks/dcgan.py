"""GS-WGAN's DCGAN generator (Chen, Orekondy & Fritz, 2020, an option of their code): transposed convolutions."""

from __future__ import annotations

import torch
from torch import nn

from .conditional import ConditionalGenerator, NoiseKind, ZDistribution, check_shape
from .layers import draw_uniform, pixel_norm
from .resnet import PUBLISHED_EPS


class DCGANGenerator(ConditionalGenerator):
    """z and one-hot label -> dense to ``channels`` x 4x4 -> three transposed convolutions, ReLU and pixel norm between them.

    28x28 images, as published: kernel 5 (8x8, cropped to 7x7), kernel 5 (11x11), kernel 8 at stride 2. There is no
    published form for 32x32: here the 8x8 is not cropped, so that 12x12 follow, and the last kernel is 10, still a
    multiple of its stride. Channels are ``channels``, a half and a quarter of it. No spectral norm, as published.

    Noise is injected before both ReLUs. The last layer makes the image itself; noise there would be noise on its pixels.
    Initial weights have the distributions that torch gives the published layers.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        classes: int,
        *,
        z_dim: int,
        channels: int = 256,
        noise_injection: float,
        z_distribution: ZDistribution = "normal",
        noise_kind: NoiseKind = "fixed",
        rng: torch.Generator | None = None,
    ) -> None:
        """``shape`` is (C, 28, 28) or (C, 32, 32), else ``ValueError``; ``rng`` as in ``Generator``."""
        check_shape("dcgan", shape)
        super().__init__(
            classes,
            z_dim=z_dim,
            noise_injection=noise_injection,
            z_distribution=z_distribution,
            noise_kind=noise_kind,
            maps=2,
        )
        half, quarter = max(channels // 2, 1), max(channels // 4, 1)
        cropped = shape[1] == 28
        self._channels, self._side = channels, 7 if cropped else 8
        self.project = nn.Linear(z_dim + classes, channels * 16)
        self.up1 = nn.ConvTranspose2d(channels, half, 5)
        self.up2 = nn.ConvTranspose2d(half, quarter, 5)
        self.to_image = nn.ConvTranspose2d(quarter, shape[0], 8 if cropped else 10, stride=2)
        if rng is not None:
            self._draw(rng)

    @torch.no_grad()
    def _draw(self, rng: torch.Generator) -> None:
        for layer in (self.project, self.up1, self.up2, self.to_image):
            assert layer.bias is not None
            fan = layer.weight[0].numel()  # torch's "fan in", which for a transposed convolution counts the outputs
            layer.weight.copy_(draw_uniform(layer.weight.shape, fan, rng))
            layer.bias.copy_(draw_uniform(layer.bias.shape, fan, rng))

    def forward(self, z: torch.Tensor, labels: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
        """Images ``[n, C, H, W]`` in [0, 1] for ``z [n, z_dim]`` and int64 ``labels [n]``, with noise from ``rng`` (CPU)."""
        features = _activate(self.project(self.with_labels(z, labels)).reshape(-1, self._channels, 4, 4))
        features = self.up1(features)[..., : self._side, : self._side]
        features = _activate(self.inject(features, rng, 0))
        features = _activate(self.inject(self.up2(features), rng, 1))
        return torch.sigmoid(self.to_image(features))


def _activate(features: torch.Tensor) -> torch.Tensor:
    return pixel_norm(nn.functional.relu(features), PUBLISHED_EPS)
