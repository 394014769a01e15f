"""The generator of DP-MERF (Harder, Adamczewski, Park, 2021)."""

from __future__ import annotations

import torch
from torch import nn

from trainables.networks.conditional import ConditionalGenerator
from trainables.networks.layers import initialise

_HIDDEN, _MAPS, _LAST = 200, 16, 8


class PublishedGenerator(ConditionalGenerator):
    """(z, label) -> dense 200 -> 16 maps of a quarter of the sides -> twice (bilinear x2, 5x5 convolution), sigmoid.

    Batch normalisation sees generated images alone, so it is public; samples are drawn with its running statistics, so that
    an image does not depend on those drawn with it (the paper's code samples with those of the batch).
    """

    def __init__(self, shape: tuple[int, int, int], classes: int, *, z_dim: int, rng: torch.Generator | None = None) -> None:
        """``shape`` is (C, H, W) with H and W divisible by 4; weights are drawn from ``rng`` (None: they will be loaded)."""
        super().__init__(classes, z_dim=z_dim, noise_injection=0.0, z_distribution="normal", maps=0)
        colours, height, width = shape
        self._grid = (_MAPS, height // 4, width // 4)
        size = torch.Size(self._grid).numel()
        self.embed, self.project = nn.Linear(z_dim + classes, _HIDDEN), nn.Linear(_HIDDEN, size)
        self.norm1, self.norm2 = nn.BatchNorm1d(_HIDDEN), nn.BatchNorm1d(size)
        self.conv1 = nn.Conv2d(_MAPS, _LAST, 5, padding=2)
        self.to_image = nn.Conv2d(_LAST, colours, 5, padding=2)
        self._double = nn.UpsamplingBilinear2d(scale_factor=2)
        if rng is not None:
            for layer in (self.embed, self.project, self.conv1, self.to_image):
                initialise(layer, rng)

    def forward(self, z: torch.Tensor, labels: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
        """Images ``[n, C, H, W]`` in [0, 1] for ``z [n, z_dim]`` and int64 ``labels [n]``; ``rng`` is not read."""
        hidden = self.norm1(self.embed(self.with_labels(z, labels))).relu()
        maps = self.norm2(self.project(hidden)).reshape(-1, *self._grid)
        return torch.sigmoid(self.to_image(self._double(self.conv1(self._double(maps)).relu())))
