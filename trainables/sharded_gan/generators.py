"""The generator networks by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from trainables.base import DataInfo
from trainables.networks.conditional import ConditionalGenerator, NoiseKind, ZDistribution
from trainables.networks.dcgan import DCGANGenerator
from trainables.networks.generator import Generator
from trainables.networks.resnet import ResNetGenerator


def _small(shape: tuple[int, int, int], classes: int, **settings: Any) -> Generator:
    """Sides over 32 are reached from an eighth of them, where they can be: 64x64 from 8x8, as 32x32 is."""
    height, width = shape[1:]
    deep = max(height, width) > 32 and height % 8 == width % 8 == 0
    return Generator(shape, classes, upsamplings=3 if deep else 2, **settings)


NETWORKS: dict[str, Callable[..., ConditionalGenerator]] = {
    "resnet": ResNetGenerator,
    "dcgan": DCGANGenerator,
    "small": _small,
}


def build(
    name: str,
    info: DataInfo,
    *,
    channels: int,
    z_dim: int,
    z_distribution: ZDistribution,
    noise_injection: float,
    noise_kind: NoiseKind = "fixed",
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
        noise_kind=noise_kind,
        rng=rng,
    )
