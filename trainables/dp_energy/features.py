"""phi: the public map from images to the vectors whose distances are taken."""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import nn

from trainables.coins import torch_coins

from .method import FILTER_SIZE, FILTER_STRIDE


class FeatureSettings(Protocol):
    """The settings that phi is made of."""

    @property
    def features(self) -> str: ...

    @property
    def filters(self) -> int: ...


class Features:
    """Pixels, or pixels joined with random convolutions and ReLU; a function of the settings and the seed alone."""

    def __init__(self, config: FeatureSettings, channels: int, seed: int, device: torch.device) -> None:
        self._filters: torch.Tensor | None = None
        if config.features == "random_convolutions":
            shape = (config.filters, channels, FILTER_SIZE, FILTER_SIZE)
            # Filters of unit norm on average, so that their responses weigh about as much as the pixels.
            filters = torch.randn(shape, generator=torch_coins(seed, "filters")) / (channels * FILTER_SIZE**2) ** 0.5
            self._filters = filters.to(device)

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """``[n, C, H, W]`` floats in [0, 1] to ``[n, feature_size]``."""
        pixels = images.flatten(1)
        if self._filters is None:
            return pixels
        return torch.cat([pixels, self._responses(images).relu().flatten(1)], dim=1)

    def slope(self, shape: tuple[int, int, int]) -> float:
        """The most that two images of ``shape`` (C, H, W) can be further apart in features than in pixels; public.

        sqrt(1 + s^2) for the convolution's largest singular value s, by power iteration; ReLU brings points no further apart.
        """
        if self._filters is None:
            return 1.0
        images = torch.ones(1, *shape).to(self._filters).requires_grad_()
        for _ in range(50):
            energy = self._responses(images).square().sum() / 2
            (gradient,) = torch.autograd.grad(energy, images)
            images = (gradient / gradient.norm()).requires_grad_()
        return math.sqrt(1 + float(self._responses(images.detach()).square().sum()))

    def _responses(self, images: torch.Tensor) -> torch.Tensor:
        assert self._filters is not None
        return nn.functional.conv2d(images, self._filters, stride=FILTER_STRIDE)


def as_images(records: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """uint8 records ``[n, C, H, W]`` as floats in [0, 1], and which of them are images: bool ``[n]``.

    A record that holds anything but numbers from 0 to 255 (NaN, inf, 1e30) is no image; its values are replaced by zeros.
    """
    images = records.float() / 255
    usable = ((images >= 0) & (images <= 1)).flatten(1).all(dim=1)
    return torch.where(usable[:, None, None, None], images, 0.0), usable
