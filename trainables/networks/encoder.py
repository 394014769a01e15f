"""The encoder of a vanilla variational autoencoder (Kingma & Welling, 2014), one a shard, and its partner in pretraining.

Ma & Zhang (2026) name "the encoder of a vanilla VAE" and give neither sizes nor its loss; here it is what pretraining on a
shard's records by the evidence lower bound gives. No batch norm: its statistics would carry records into each other's codes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from .stacked import StackedConv2d, StackedLinear, from_channels, initialise_stack, to_channels

_LOG_VARIANCE_BOUND = 10.0  # exp() of it is finite and its gradient of use; trained codes stay well inside


class Encoders(nn.Module):
    """``count`` encoders: two 3x3 convolutions of stride 2 to c and 2c channels, ReLU, then mean and log-variance."""

    def __init__(
        self,
        shape: tuple[int, int, int],
        *,
        latent: int,
        channels: int,
        count: int,
        rngs: Sequence[torch.Generator] | None = None,
    ) -> None:
        """``shape`` is (C, H, W); encoder s is drawn from ``rngs[s]`` (None: all will be loaded)."""
        super().__init__()
        colours, height, width = shape
        self.conv1 = StackedConv2d(count, colours, channels, 3, stride=2, padding=1)
        self.conv2 = StackedConv2d(count, channels, 2 * channels, 3, stride=2, padding=1)
        self.head = StackedLinear(count, 2 * channels * -(-height // 4) * -(-width // 4), 2 * latent)
        if rngs is not None:
            initialise_stack(self, rngs)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and log-variance, each ``[S, n, latent]``, for ``images [S, n, C, H, W]``; within +-10 the latter."""
        hidden = nn.functional.relu(self.conv1(to_channels(images)))
        hidden = nn.functional.relu(self.conv2(hidden))
        mean, log_variance = self.head(from_channels(hidden, len(images)).flatten(2)).chunk(2, dim=2)
        return mean, log_variance.clamp(-_LOG_VARIANCE_BOUND, _LOG_VARIANCE_BOUND)


class Decoders(nn.Module):
    """``count`` decoders, the encoders' mirror: dense to 2c channels, then two 3x3 convolutions in sub-pixel form, ReLU.

    Each convolution makes the four pixels of a 2x2 block at once (Shi et al., 2016). Private and used in pretraining only.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        *,
        latent: int,
        channels: int,
        count: int,
        rngs: Sequence[torch.Generator] | None = None,
    ) -> None:
        """``shape`` is (C, H, W); decoder s is drawn from ``rngs[s]`` (None: all will be loaded)."""
        super().__init__()
        colours, height, width = shape
        self._shape, self._grid = shape, (2 * channels, -(-height // 4), -(-width // 4))
        self.project = StackedLinear(count, latent, torch.Size(self._grid).numel())
        self.up1 = StackedConv2d(count, 2 * channels, 4 * channels, 3, stride=1, padding=1)
        self.up2 = StackedConv2d(count, channels, 4 * colours, 3, stride=1, padding=1)
        if rngs is not None:
            initialise_stack(self, rngs)

    def logits(self, codes: torch.Tensor) -> torch.Tensor:
        """``[S, n, C, H, W]`` before the sigmoid, for ``codes [S, n, latent]``."""
        hidden = to_channels(nn.functional.relu(self.project(codes)).unflatten(2, self._grid))
        hidden = nn.functional.relu(nn.functional.pixel_shuffle(self.up1(hidden), 2))
        images = nn.functional.pixel_shuffle(self.up2(hidden), 2)
        return from_channels(images, len(codes))[..., : self._shape[1], : self._shape[2]]

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        """Images ``[S, n, C, H, W]`` in [0, 1]."""
        return torch.sigmoid(self.logits(codes))


def elbo_loss(encoders: Encoders, decoders: Decoders, images: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Negative evidence lower bound of every autoencoder, ``[S]``, in nats an image (Kingma & Welling, 2014, equation 10).

    ``images [S, n, C, H, W]`` in [0, 1] are read as Bernoulli means, as is usual; ``noise [S, n, latent]`` is standard normal.
    Weights of row s take gradients from row s alone, so the rows' sum trains all of them as if each were trained alone.
    """
    mean, log_variance = encoders(images)
    logits = decoders.logits(mean + noise * (log_variance / 2).exp())
    reconstruction = nn.functional.binary_cross_entropy_with_logits(logits, images, reduction="none")
    divergence = (mean.square() + log_variance.exp() - 1 - log_variance) / 2
    return reconstruction.flatten(2).sum(dim=2).mean(dim=1) + divergence.sum(dim=2).mean(dim=1)
