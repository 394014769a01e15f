"""Images from noise: the samplers of EDM (Karras et al., 2022), first or second order, deterministic or with churn."""

from __future__ import annotations

import itertools
import math

import torch

from trainables.networks.denoiser import Denoiser

from .method import SamplerConfig

SAMPLE_BATCH = 250
"""Images at once when sampling; part of the order in which the generator of noise is read."""

_RHO = 7.0
_LARGEST_GAMMA = math.sqrt(2) - 1


def noise_levels(config: SamplerConfig) -> list[float]:
    """``steps`` levels from sigma_max down to sigma_min, then 0 (Karras et al., 2022, equation 5, rho = 7).

    >>> [round(level, 3) for level in noise_levels(SamplerConfig(steps=3, sigma_min=0.002, sigma_max=80.0))]
    [80.0, 2.515, 0.002, 0.0]
    """
    first, last = config.sigma_max ** (1 / _RHO), config.sigma_min ** (1 / _RHO)
    return [(first + index / (config.steps - 1) * (last - first)) ** _RHO for index in range(config.steps)] + [0.0]


@torch.no_grad()
def sample(network: Denoiser, config: SamplerConfig, labels: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """Images ``[n, C, H, W]`` in [0, 1] for int64 ``labels [n]``; all noise is drawn from ``rng`` on the CPU."""
    device = next(network.parameters()).device
    parts = [_sample(network, config, part.to(device), rng) for part in labels.split(SAMPLE_BATCH)]
    return torch.cat([(part / 2 + 0.5).clamp(0, 1) for part in parts])


def _sample(network: Denoiser, config: SamplerConfig, labels: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    shape, device = (len(labels), *network.plan.shape), labels.device
    one_hot = torch.nn.functional.one_hot(labels, network.plan.classes).float()

    def slope(images: torch.Tensor, level: float) -> torch.Tensor:
        """d image / d sigma of the probability flow at noise level ``level`` (Karras et al., 2022, equation 3)."""
        return (images - guided(network, images, level, one_hot, config.guidance)) / level

    levels = noise_levels(config)
    images = torch.randn(shape, generator=rng).to(device) * levels[0]
    for level, following in itertools.pairwise(levels):
        if config.churn and config.churn_min <= level <= config.churn_max:
            raised = level * (1 + min(config.churn / config.steps, _LARGEST_GAMMA))
            images = images + math.sqrt(raised**2 - level**2) * torch.randn(shape, generator=rng).to(device)
            level = raised
        here = slope(images, level)
        moved = images + (following - level) * here
        if config.kind == "edm" and following > 0:
            moved = images + (following - level) * (here + slope(moved, following)) / 2
        images = moved
    return images


def guided(network: Denoiser, images: torch.Tensor, level: float, labels: torch.Tensor, guidance: float) -> torch.Tensor:
    """The denoiser, moved away from its unconditional answer by ``guidance`` times their difference."""
    sigma = images.new_full((len(images),), level)
    conditional = network(images, sigma, labels)
    if not guidance:
        return conditional
    return conditional + guidance * (conditional - network(images, sigma, torch.zeros_like(labels)))
