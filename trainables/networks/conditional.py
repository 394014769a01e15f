"""What all generators share: the latent's distribution, injected noise, and sampling in batches."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import nn

ZDistribution = Literal["normal", "bernoulli"]
"""Distribution of each coordinate of z: N(0, 1), or 0 and 1 with equal probability (GS-WGAN's default)."""

NoiseKind = Literal["fixed", "kept", "learnt"]
"""Where the standard deviation of the injected noise lives.

fixed: a constant of the network, no part of its state. kept: in the buffer ``noise_scales``, set from outside, so that it
travels with the kept weights. learnt: in the parameter ``noise_scales``, one scalar an upsampled map, trained as all weights
are (StyleGAN2, Karras et al., 2020).
"""


class ConditionalGenerator(nn.Module):
    """A network (z, label) -> image; a subclass writes ``forward(z [n, z_dim], labels [n], rng) -> [n, C, H, W]`` in [0, 1].

    Gaussian noise is added to every upsampled feature map before its activation (Ma & Zhang, 2026, Algorithm 1), in training
    and in sampling. It is drawn from ``rng`` on the CPU, so that it is the same on every device. Its standard deviation is
    ``noise_injection`` at first, and for good unless ``noise_kind`` says otherwise.
    """

    noise_scales: torch.Tensor
    """``[maps]``: the standard deviation at every upsampled map. Absent where ``noise_kind`` is fixed; a learnt one may turn
    negative, which is the same noise."""

    sample_batch = 500
    """Images at once when sampling; part of the order in which ``rng`` is read."""

    def __init__(
        self,
        classes: int,
        *,
        z_dim: int,
        noise_injection: float,
        z_distribution: ZDistribution,
        noise_kind: NoiseKind = "fixed",
        maps: int,
    ) -> None:
        """``maps``: how many feature maps the network upsamples, so hands to ``inject``."""
        super().__init__()
        self.classes, self.z_dim = classes, z_dim
        self.noise_injection, self.z_distribution, self.noise_kind = noise_injection, z_distribution, noise_kind
        scales = torch.full((maps,), float(noise_injection))
        if noise_kind == "kept":
            self.register_buffer("noise_scales", scales)
        elif noise_kind == "learnt":
            self.noise_scales = nn.Parameter(scales)

    def draw_z(self, count: int, rng: torch.Generator) -> torch.Tensor:
        """``[count, z_dim]`` from ``rng`` (CPU), on the generator's device and in its precision."""
        shape = (count, self.z_dim)
        if self.z_distribution == "bernoulli":
            return torch.randint(2, shape, generator=rng).to(next(self.parameters()))
        return torch.randn(shape, generator=rng).to(next(self.parameters()))

    def sample(self, labels: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
        """Images for int64 ``labels [n]`` with fresh z and injected noise from ``rng`` (CPU), as ``generate`` makes them."""
        return torch.cat([self.generate(self.draw_z(len(part), rng), part, rng) for part in labels.split(self.sample_batch)])

    def generate(self, z: torch.Tensor, labels: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
        """Images for ``z [n, z_dim]`` and int64 ``labels [n]`` with injected noise from ``rng`` (CPU), without gradients.

        Runs in evaluation mode: it leaves nothing behind, not even in a spectral norm.
        """
        device, training = next(self.parameters()).device, self.training
        self.eval()
        try:
            with torch.no_grad():
                return self(z.to(device), labels.to(device), rng)
        finally:
            self.train(training)

    def with_labels(self, z: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """z and the one-hot labels side by side, ``[n, z_dim + classes]``."""
        return torch.cat([z, nn.functional.one_hot(labels, self.classes).to(z)], dim=1)

    def inject(self, features: torch.Tensor, rng: torch.Generator, layer: int) -> torch.Tensor:
        """``features`` of upsampled map number ``layer`` (from 0) plus the injected noise.

        Where the scale is a fixed zero, nothing is drawn. A scale of the state does not decide what is drawn, so it can be
        zero, change and be trained without moving what comes after it in ``rng``.
        """
        if self.noise_kind == "fixed" and self.noise_injection == 0:
            return features
        scale = self.noise_injection if self.noise_kind == "fixed" else self.noise_scales[layer]
        return features + torch.randn(features.shape, generator=rng).to(features) * scale

    def set_noise_injection(self, value: float) -> None:
        """Make ``value`` the standard deviation of the noise at every map.

        Raises ``ValueError`` where the noise is not of the kept kind, and for a value that is no standard deviation.
        """
        if self.noise_kind != "kept":
            raise ValueError(f"the injected noise of this generator is {self.noise_kind}; only a kept one can be set")
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(f"noise injection is to be {value}; expected a standard deviation, a finite number of at least 0")
        self.noise_scales.fill_(value)


_LARGEST = {"dcgan": 32, "resnet": 64}


def check_shape(name: str, shape: tuple[int, int, int]) -> None:
    """Raise ``ValueError`` where the generator ``name``, dcgan or resnet, has no form for images of ``shape`` (C, H, W)."""
    height, width = shape[1:]
    if height == width and height in (28, 32, 64) and height <= _LARGEST[name]:
        return
    if name == "dcgan":
        sizes, others = "28x28 or 32x32", "the resnet generator makes 64x64 as well, and the small one takes"
    else:
        sizes, others = "28x28, 32x32 or 64x64", "the small generator takes"
    raise ValueError(
        f"the {name} generator makes images of {sizes} pixels, not {height}x{width}; {others} any sides that are divisible by 4"
    )
