"""The generator networks by name."""

from __future__ import annotations

from collections.abc import Callable

import torch

from trainables.base import DataInfo
from trainables.networks.conditional import ConditionalGenerator, ZDistribution
from trainables.networks.dcgan import DCGANGenerator
from trainables.networks.generator import Generator
from trainables.networks.resnet import ResNetGenerator

NETWORKS: dict[str, Callable[..., ConditionalGenerator]] = {
    "resnet": ResNetGenerator,
    "dcgan": DCGANGenerator,
    "small": Generator,
}


def build(
    name: str,
    info: DataInfo,
    *,
    channels: int,
    z_dim: int,
    z_distribution: ZDistribution,
    noise_injection: float,
    rng: torch.Generator | None,
) -> ConditionalGenerator:
    """The generator called ``name``; without ``rng`` its weights are to be loaded."""
    return NETWORKS[name](
        info.shape,
        info.classes,
        z_dim=z_dim,
        channels=channels,
        z_distribution=z_distribution,
        noise_injection=noise_injection,
        rng=rng,
    )
