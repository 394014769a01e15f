"""The preconditioned UNet denoiser of EDM (Karras et al., 2022), as small as DPDM (Dockhorn et al., 2023) has it.

No layer mixes the images of a batch, so that gradients a record are well defined and the network runs under ``vmap``.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from .unet_plan import GROUP, KERNEL, Block, UNetPlan

SIGMA_DATA = 1 / math.sqrt(3)
"""Standard deviation that the preconditioning assumes of images in [-1, 1]: that of the uniform distribution; public."""

_RESCALE = 1 / math.sqrt(2)
_LAST_SCALE = 1e-3  # of the last weights of a block and of the network, so that both start close to doing nothing


class Denoiser(nn.Module):
    """D(x; sigma, class): the expected clean image given a noisy one, after ``plan``."""

    def __init__(self, plan: UNetPlan, rng: torch.Generator | None = None) -> None:
        """Initial weights come from ``rng``, a CPU generator; without it they are to be loaded."""
        super().__init__()
        self.plan = plan
        embedding = plan.embedding
        self.noise_level = nn.Sequential(nn.Linear(plan.channels, embedding), nn.SiLU(), nn.Linear(embedding, embedding))
        self.label = nn.Linear(plan.classes, embedding, bias=False)
        self.first = _convolution(plan.folded_channels, plan.channels)
        self.down = nn.ModuleList(ResidualBlock(block, embedding) for block in plan.down)
        self.middle = nn.ModuleList(ResidualBlock(block, embedding) for block in plan.middle)
        self.up = nn.ModuleList(ResidualBlock(block, embedding) for block in plan.up)
        self.last_norm = _group_norm(plan.up[-1].out_channels)
        self.last = _convolution(plan.up[-1].out_channels, plan.folded_channels)
        if rng is not None:
            self._draw(rng)

    def forward(self, noisy: torch.Tensor, sigma: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Denoised images ``[n, C, H, W]`` in about [-1, 1].

        ``noisy [n, C, H, W]`` is image + sigma x normal noise for ``sigma [n]``. ``labels [n, classes]`` are one-hot rows; a
        row of zeros stands for no label.
        """
        level = sigma[:, None, None, None]
        variance = level**2 + SIGMA_DATA**2
        raw = self._network(noisy / variance.sqrt(), sigma.log() / 4, labels)
        return noisy * (SIGMA_DATA**2 / variance) + raw * (level * SIGMA_DATA / variance.sqrt())

    def _network(self, inputs: torch.Tensor, level: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        plan = self.plan
        embedding = self.noise_level(_positions(level, plan.channels)) + self.label(labels)
        embedding = nn.functional.silu(embedding)
        features = self.first(nn.functional.pixel_unshuffle(inputs, plan.patch))
        skips = [features]
        for block in self.down:
            features = block(features, embedding)
            skips.append(features)
        for block in self.middle:
            features = block(features, embedding)
        for spec, block in zip(plan.up, self.up, strict=True):
            if spec.resample != "up":
                features = torch.cat([features, skips.pop()], dim=1)
            features = block(features, embedding)
        features = self.last(nn.functional.silu(self.last_norm(features)))
        return nn.functional.pixel_shuffle(features, plan.patch)

    @torch.no_grad()
    def _draw(self, rng: torch.Generator) -> None:
        """Matrices and kernels normal with variance 1 / fan in, smaller where a branch ends; vectors as torch has them."""
        ends = {self.last.weight}
        for module in self.modules():
            if isinstance(module, ResidualBlock):
                ends.add(module.second.weight)
            elif isinstance(module, SelfAttention):
                ends.add(module.out.weight)
        for parameter in self.parameters():
            if parameter.ndim > 1:
                std = parameter[0].numel() ** -0.5 * (_LAST_SCALE if parameter in ends else 1)
                parameter.copy_(torch.randn(parameter.shape, generator=rng) * std)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
                module.bias.zero_()


class ResidualBlock(nn.Module):
    """norm, SiLU, resample, convolution, plus the embedding, norm, SiLU, convolution; both sums are rescaled by 1/sqrt(2)."""

    def __init__(self, block: Block, embedding: int) -> None:
        super().__init__()
        self.resample = block.resample
        self.first_norm = _group_norm(block.in_channels)
        self.first = _convolution(block.in_channels, block.out_channels)
        self.embed = nn.Linear(embedding, block.out_channels)
        self.second_norm = _group_norm(block.out_channels)
        self.second = _convolution(block.out_channels, block.out_channels)
        same = block.in_channels == block.out_channels
        self.shortcut = None if same else _convolution(block.in_channels, block.out_channels, 1)
        self.attention = SelfAttention(block.out_channels) if block.attention else None

    def forward(self, features: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        inside = nn.functional.silu(self.first_norm(features))
        inside, features = self._resampled(inside), self._resampled(features)
        inside = self.first(inside) + self.embed(embedding)[:, :, None, None]
        inside = self.second(nn.functional.silu(self.second_norm(inside)))
        features = features if self.shortcut is None else self.shortcut(features)
        features = (features + inside) * _RESCALE
        return features if self.attention is None else self.attention(features)

    def _resampled(self, features: torch.Tensor) -> torch.Tensor:
        if self.resample == "down":
            return nn.functional.avg_pool2d(features, 2)
        if self.resample == "up":
            return features.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
        return features


class SelfAttention(nn.Module):
    """Single-head attention among the pixels of ``[n, C, h, w]``, in a rescaled residual branch."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = _group_norm(channels)
        self.in_ = _convolution(channels, 3 * channels, 1)
        self.out = _convolution(channels, channels, 1)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        query, key, value = self.in_(self.norm(features)).flatten(2).chunk(3, dim=1)  # [n, C, pixels]
        weights = torch.softmax(query.mT @ key * query.shape[1] ** -0.5, dim=-1)  # [n, pixels, pixels]
        mixed = (value @ weights.mT).reshape(features.shape)
        return (features + self.out(mixed)) * _RESCALE


def _positions(level: torch.Tensor, size: int) -> torch.Tensor:
    """Cosines and sines ``[n, size]`` of ``level [n]`` at frequencies from 1 down to 1e-4 (Vaswani et al., 2017)."""
    half = size // 2
    frequencies = 1e-4 ** (torch.arange(half, device=level.device, dtype=level.dtype) / (half - 1))
    angles = level[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def _convolution(inside: int, out: int, kernel: int = KERNEL) -> nn.Conv2d:
    return nn.Conv2d(inside, out, kernel, padding=kernel // 2)


def _group_norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(channels // GROUP, channels, eps=1e-6)
