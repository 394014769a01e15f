"""Images from noise: the samplers of EDM (Karras et al., 2022), first or second order, deterministic or with churn."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from trainables.networks.denoiser import Denoiser
from trainables.networks.unet_plan import plan_unet

SAMPLE_BATCH = 250
"""Images at once when sampling; part of the order in which the generator of noise is read."""

_RHO = 7.0
_LARGEST_GAMMA = math.sqrt(2) - 1


@dataclass(frozen=True, kw_only=True)
class SamplerSettings:
    """How noise becomes images: ``method.SamplerConfig``, which says what they mean, as plain numbers."""

    kind: str
    steps: int
    sigma_min: float
    sigma_max: float
    churn: float
    churn_min: float
    churn_max: float
    guidance: float


class DiffusionGenerator(Denoiser):
    """A denoiser, and how images are drawn with it: all that is left of dpdm once it is trained."""

    def __init__(
        self,
        shape: tuple[int, int, int],
        classes: int,
        *,
        network: Mapping[str, Any],
        sampler: Mapping[str, Any],
    ) -> None:
        """``shape`` is (C, H, W); ``network`` are arguments of ``plan_unet``, ``sampler`` those of ``SamplerSettings``.

        The denoiser's weights are to be loaded.
        """
        super().__init__(plan_unet(shape, classes, **network))
        self._settings = SamplerSettings(**sampler)

    def sample(self, labels: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
        """Images ``[n, C, H, W]`` in [0, 1] for int64 ``labels [n]``; all noise is drawn from ``rng`` on the CPU."""
        return sample(self, self._settings, labels, rng)


def noise_levels(config: SamplerSettings) -> list[float]:
    """``steps`` levels from sigma_max down to sigma_min, then 0 (Karras et al., 2022, equation 5, rho = 7).

    >>> from trainables.dpdm.method import SamplerConfig
    >>> settings = SamplerConfig(steps=3, sigma_min=0.002, sigma_max=80.0).model_dump()
    >>> [round(level, 3) for level in noise_levels(SamplerSettings(**settings))]
    [80.0, 2.515, 0.002, 0.0]
    """
    first, last = config.sigma_max ** (1 / _RHO), config.sigma_min ** (1 / _RHO)
    return [(first + index / (config.steps - 1) * (last - first)) ** _RHO for index in range(config.steps)] + [0.0]


@torch.no_grad()
def sample(network: Denoiser, config: SamplerSettings, labels: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """Images ``[n, C, H, W]`` in [0, 1] for int64 ``labels [n]``; all noise is drawn from ``rng`` on the CPU."""
    device = next(network.parameters()).device
    parts = [_sample(network, config, part.to(device), rng) for part in labels.split(SAMPLE_BATCH)]
    return torch.cat([(part / 2 + 0.5).clamp(0, 1) for part in parts])


def _sample(network: Denoiser, config: SamplerSettings, labels: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
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
