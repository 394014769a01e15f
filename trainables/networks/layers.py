"""Building blocks of the generators: initial weights from public coins, pixel norm, upsampling by sub-pixel convolution."""

from __future__ import annotations

import torch
from torch import nn


def initialise(module: nn.Module, rng: torch.Generator) -> None:
    """Fill every parameter from ``rng`` (a CPU generator): matrices and kernels He normal, vectors zero (He et al., 2015)."""
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim == 1:
                parameter.zero_()
                continue
            std = (2 / parameter[0].numel()) ** 0.5
            parameter.copy_(torch.randn(parameter.shape, generator=rng) * std)


def pixel_norm(features: torch.Tensor) -> torch.Tensor:
    """Scale the channel vector of every pixel of ``[n, C, ...]`` to unit mean square (Karras et al., 2018)."""
    return features * torch.rsqrt(features.square().mean(dim=1, keepdim=True) + 1e-8)


class UpsampleConv2d(nn.Module):
    """Nearest-neighbour upsampling by 2 followed by a 3x3 convolution with zero padding, ``[n, in, h, w] -> [n, out, 2h, 2w]``.

    Computed in its sub-pixel form (Shi et al., 2016): under a 3x3 window of the upsampled image lie only 2x2 different
    pixels, so each of the four output phases is a 2x2 convolution of the small image. It takes 16/36 of the products.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, 3, 3))
        self.bias = nn.Parameter(torch.empty(out_channels))
        # taps[phase, position, tap]: which of the 3 taps fall on which of the 2 source pixels, for odd and even outputs.
        taps = torch.tensor([[[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]], [[1.0, 0.0, 0.0], [0.0, 1.0, 1.0]]])
        self.register_buffer("_taps", taps, persistent=False)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        out_channels, in_channels = self.weight.shape[:2]
        kernel = torch.einsum("api,bqj,ocij->oabcpq", self._taps, self._taps, self.weight)
        kernel = kernel.reshape(4 * out_channels, in_channels, 2, 2)
        phases = nn.functional.conv2d(features, kernel, self.bias.repeat_interleave(4), padding=1)
        # With the odd phase first, interleaving shifts the image by one pixel: the border that the padding made is cut off.
        return nn.functional.pixel_shuffle(phases, 2)[..., 1:-1, 1:-1]
