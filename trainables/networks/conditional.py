"""What all generators share: the latent's distribution, injected noise, and sampling in batches."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

ZDistribution = Literal["normal", "bernoulli"]
"""Distribution of each coordinate of z: N(0, 1), or 0 and 1 with equal probability (GS-WGAN's default)."""


class ConditionalGenerator(nn.Module):
    """A network (z, label) -> image; a subclass writes ``forward(z [n, z_dim], labels [n], rng) -> [n, C, H, W]`` in [0, 1].

    Gaussian noise of standard deviation ``noise_injection`` is added to every upsampled feature map before its activation
    (Ma & Zhang, 2026, Algorithm 1), in training and in sampling. It is drawn from ``rng`` on the CPU, so that it is the
    same on every device.
    """

    SAMPLE_BATCH = 500
    """Images at once when sampling; part of the order in which ``rng`` is read."""

    def __init__(self, classes: int, *, z_dim: int, noise_injection: float, z_distribution: ZDistribution) -> None:
        super().__init__()
        self.classes, self.z_dim = classes, z_dim
        self.noise_injection, self.z_distribution = noise_injection, z_distribution

    def draw_z(self, count: int, rng: torch.Generator) -> torch.Tensor:
        """``[count, z_dim]`` from ``rng`` (CPU), on the generator's device and in its precision."""
        shape = (count, self.z_dim)
        if self.z_distribution == "bernoulli":
            return torch.randint(2, shape, generator=rng).to(next(self.parameters()))
        return torch.randn(shape, generator=rng).to(next(self.parameters()))

    def sample(self, labels: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
        """Images for int64 ``labels [n]`` with fresh z and injected noise from ``rng`` (CPU), without gradients.

        Runs in evaluation mode: sampling leaves nothing behind, not even in a spectral norm.
        """
        device, training = next(self.parameters()).device, self.training
        self.eval()
        try:
            with torch.no_grad():
                parts = [self(self.draw_z(len(part), rng), part.to(device), rng) for part in labels.split(self.SAMPLE_BATCH)]
        finally:
            self.train(training)
        return torch.cat(parts)

    def with_labels(self, z: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """z and the one-hot labels side by side, ``[n, z_dim + classes]``."""
        return torch.cat([z, nn.functional.one_hot(labels, self.classes).to(z)], dim=1)

    def inject(self, features: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
        """``features`` plus the injected noise."""
        if self.noise_injection == 0:
            return features
        return features + torch.randn(features.shape, generator=rng).to(features) * self.noise_injection


def check_shape(name: str, shape: tuple[int, int, int]) -> None:
    """Raise ``ValueError`` where the published generator ``name`` has no form for images of ``shape`` (C, H, W)."""
    if shape[1:] not in ((28, 28), (32, 32)):
        raise ValueError(
            f"the {name} generator makes images of 28x28 or 32x32 pixels, not {shape[1]}x{shape[2]}; "
            "the small generator takes any sides that are divisible by 4"
        )
