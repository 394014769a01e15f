"""The generator networks by name."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from typing import Any

import torch

from trainables.base import DataInfo
from trainables.networks.conditional import ConditionalGenerator, NoiseKind, ZDistribution
from trainables.networks.dcgan import DCGANGenerator
from trainables.networks.generator import Generator
from trainables.networks.resnet import ResNetGenerator
from trainables.standalone.recipe import Recipe

NETWORKS: dict[str, type[ConditionalGenerator]] = {
    "resnet": ResNetGenerator,
    "dcgan": DCGANGenerator,
    "small": Generator,
}


def generator_recipe(
    name: str,
    info: DataInfo,
    *,
    channels: int,
    z_dim: int,
    z_distribution: ZDistribution,
    noise_injection: float,
    noise_kind: NoiseKind = "fixed",
) -> Recipe:
    """The generator called ``name``."""
    arguments: dict[str, Any] = {
        "shape": info.shape,
        "classes": info.classes,
        "z_dim": z_dim,
        "channels": channels,
        "noise_injection": noise_injection,
        "z_distribution": z_distribution,
        "noise_kind": noise_kind,
    }
    if name == "small":
        # Sides over 32 are reached from an eighth of them, where they can be: 64x64 from 8x8, as 32x32 is.
        deep = max(info.height, info.width) > 32 and info.height % 8 == info.width % 8 == 0
        arguments["upsamplings"] = 3 if deep else 2
    return Recipe(network=NETWORKS[name], arguments=arguments)


def check_compiler(device: torch.device) -> None:
    """Raise ``ValueError`` where torch.compile would look for a C++ compiler on this machine and find none."""
    if device.type != "cpu":
        return
    compiler = os.environ.get("CXX", "").strip() or ("clang++" if sys.platform == "darwin" else "g++")
    if shutil.which(shlex.split(compiler)[0]) is None:
        raise ValueError(
            f"generator_compiled is true, but this machine has no C++ compiler {compiler!r}: install g++ (apt-get "
            "install g++), have CXX name one, or write generator_compiled: false"
        )
