"""GS-WGAN's ResNet generator (Chen, Orekondy & Fritz, 2020), which DPAC and Ma & Zhang (2026) use as well."""

from __future__ import annotations

import torch
from torch import nn

from .conditional import ConditionalGenerator, NoiseKind, ZDistribution, check_shape
from .layers import SNConv2d, SNLinear, SNUpsampleConv2d, SpectralNorm, pixel_norm

PUBLISHED_EPS = 1e-10
"""What the published pixel norm adds to the mean square."""


class ResNetGenerator(ConditionalGenerator):
    """z and one-hot label -> dense to ``channels`` x 4x4 -> three upsampling residual blocks (32x32) -> 3x3 convolution.

    Every layer is spectrally normalised. 28x28 images: the last convolution is not padded (30x30), and the last two rows and
    columns are dropped. 32x32 images (DPAC): padded by 1, nothing is dropped. With ``channels`` 256 and z of 10: 3,826,177
    weights for 28x28 gray images of 10 classes, 3,798,019 for 32x32 RGB images of 2. 64x64 images (there is no published
    form; Ma & Zhang leave it open): as 32x32 with a fourth block, 5,043,971 weights for RGB images of 2 classes.

    Deviations from the published code: those of ``SpectralNorm``; upsampling and convolution in sub-pixel form, and the
    1x1 shortcut before the upsampling in place of after it (both are the same function); injected noise. Initial weights have
    the distributions that torch gives the published layers.
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
        """``shape`` is (C, 28, 28), (C, 32, 32) or (C, 64, 64), else ``ValueError``; ``rng`` as in ``Generator``."""
        check_shape("resnet", shape)
        super().__init__(
            classes,
            z_dim=z_dim,
            noise_injection=noise_injection,
            z_distribution=z_distribution,
            noise_kind=noise_kind,
            maps=4 if shape[1] == 64 else 3,
        )
        self._channels, self._side = channels, shape[1]
        # A feature map of 256 channels is 1 MB an image at 32x32 and 4 MB at 64x64.
        self.sample_batch = 25 if self._side == 64 else 100
        self.project = SNLinear(z_dim + classes, channels * 16)
        self.block1 = _Block(channels)
        self.block2 = _Block(channels)
        self.block3 = _Block(channels)
        self.block4 = _Block(channels) if self._side == 64 else None
        self.to_image = SNConv2d(channels, shape[0], 3, padding=0 if self._side == 28 else 1)
        if rng is not None:
            for layer in self.modules():
                if isinstance(layer, SpectralNorm):
                    layer.draw([rng])

    def forward(self, z: torch.Tensor, labels: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
        """Images ``[n, C, H, W]`` in [0, 1] for ``z [n, z_dim]`` and int64 ``labels [n]``, with noise from ``rng`` (CPU)."""
        features = self.project(self.with_labels(z, labels)).reshape(-1, self._channels, 4, 4)
        features = pixel_norm(nn.functional.relu(features), PUBLISHED_EPS)
        for layer, block in enumerate((self.block1, self.block2, self.block3, self.block4)):
            if block is not None:
                upsampled = self.inject(block.upsampled(features), rng, layer)
                features = block.merge(upsampled, features)
        images = torch.sigmoid(self.to_image(features))
        return images[..., : self._side, : self._side]


class _Block(nn.Module):
    """Residual block ``[n, c, h, w] -> [n, c, 2h, 2w]``, in two halves: the noise is injected between them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.up = SNUpsampleConv2d(channels, channels)
        self.conv = SNConv2d(channels, channels, 3, padding=1)
        self.shortcut = SNConv2d(channels, channels, 1)

    def upsampled(self, features: torch.Tensor) -> torch.Tensor:
        """Pixel norm, upsampling, first convolution. As published there is no activation before it."""
        return self.up(pixel_norm(features, PUBLISHED_EPS))

    def merge(self, upsampled: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        """The rest of the block on ``upsampled``, and the shortcut of the block's input ``features``."""
        hidden = self.conv(nn.functional.relu(pixel_norm(upsampled, PUBLISHED_EPS)))
        # A 1x1 convolution commutes with nearest-neighbour upsampling and takes a quarter of the products before it.
        return hidden + nn.functional.interpolate(self.shortcut(features), scale_factor=2.0, mode="nearest")
