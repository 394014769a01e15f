"""Public oriented features: what the private classifier reads, differentiable in the image."""

from __future__ import annotations

import math

import torch
from torch import nn

from .method import ORIENTATIONS, SCALES

_SIZE = 9
_ORIENTED_NORM, _THUMBNAIL_NORM, _CONSTANT = 3.0, 1.5, 0.5  # weights of the three parts; public constants


def oriented_filters() -> torch.Tensor:
    """Derivatives of Gaussians ``[orientations * scales, 1, 9, 9]`` of unit norm (Freeman & Adelson, 1991)."""
    line = torch.arange(_SIZE, dtype=torch.float32) - _SIZE // 2
    y, x = torch.meshgrid(line, line, indexing="ij")
    filters = []
    for scale in SCALES:
        for turn in range(ORIENTATIONS):
            angle = 2 * math.pi * turn / ORIENTATIONS
            kernel = (x * math.cos(angle) + y * math.sin(angle)) * torch.exp(-(x**2 + y**2) / (2 * scale**2))
            filters.append(kernel / kernel.norm())
    return torch.stack(filters)[:, None]


class OrientedFeatures:
    """Images ``[n, C, H, W]`` in [0, 1] to ``[n, classifier_features]`` of norm sqrt(3^2 + 1.5^2 + 0.5^2) at most."""

    def __init__(self, device: torch.device) -> None:
        self._filters = oriented_filters().to(device)

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        grey = images.mean(dim=1, keepdim=True)
        edges = nn.functional.conv2d(grey, self._filters, padding=_SIZE // 2).relu()
        # The square root tames strong edges; the constant inside keeps its slope finite where there are none.
        oriented = (nn.functional.avg_pool2d(edges, 4).flatten(1) + 1e-4).sqrt()
        thumbnail = nn.functional.avg_pool2d(images, 2).flatten(1)
        constant = images.new_full((len(images), 1), _CONSTANT)
        return torch.cat([_ORIENTED_NORM * _unit(oriented), _THUMBNAIL_NORM * _unit(thumbnail), constant], dim=1)


def _unit(rows: torch.Tensor) -> torch.Tensor:
    return rows / rows.norm(dim=1, keepdim=True).clamp_min(1e-3)
