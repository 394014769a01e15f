"""dp_feta: dpdm after a warm-up on privately released class means (Li et al., "From Easy to Hard", IEEE S&P 2025).

Three phases. The first releases noisy sums of small images, one slot a class; divided by the declared number of records of a
class they are blurred images of the typical member. The second trains the denoiser on them, enlarged and augmented: that is
post-processing and costs nothing. The third is dpdm.

The sensitivity differs from the published code, where a class's sum is divided by the number of its records that were drawn
while the noise is that of an average class, so that rare classes get too little. Here a record adds its small image, clipped
to C1, to its class's slot of one sum, so it moves the release by C1 at most when it comes or goes and by 2 C1 at most when
it is replaced, whatever its class. The divisor is a declared constant and comes after the noise.

Two more differences: the augmentation is one random affine map and a change of contrast in place of RandAugment, and the
denoiser has self-attention at its lower resolution alone.
"""

from __future__ import annotations

import math
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from trainables.base import DataInfo, Stage
from trainables.dpdm import method as dpdm
from trainables.privacy.mechanism import Neighbours, NoRelease, Phase, RecordMechanism

NAME = "dp_feta"
VERSION = 1


class WarmUpConfig(BaseModel):
    """The released class means, and what the denoiser learns from them."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    releases: int = Field(default=5, ge=1)
    """Noisy mean images a class; each comes from a Poisson sample of its own."""
    sampling_rate: float = Field(default=0.1, gt=0, le=1)
    """Probability that a record takes part in a release."""
    noise_ratio: float = Field(default=4.0, gt=0)
    """The split of the budget: this phase's noise multiplier over that of DP-SGD. Smaller: cleaner means."""
    downsample: int = Field(default=2, ge=1)
    """Squares of so many pixels a side are averaged before anything is released; 1 keeps every pixel."""
    max_brightness: float = Field(default=0.5, gt=0, le=1)
    """Root mean square of a record's pixels in [0, 1] to which it is clipped: C1 is this times the square root of their number.
    1 clips nothing."""
    steps: int = Field(default=800, ge=1)
    """Steps of training on the released means."""
    batch: int = Field(default=64, ge=1)
    """Augmented means a step."""
    learning_rate: float = Field(default=3e-3, gt=0)
    """Adam's rate at the first step of the warm-up; it falls to a tenth on a cosine."""
    rotation: float = Field(default=10.0, ge=0)
    """Largest turn of an augmented mean, in degrees."""
    shift: float = Field(default=0.05, ge=0, le=1)
    """Largest move of it, as a share of a side."""
    scale: float = Field(default=0.15, ge=0, lt=1)
    """Largest change of its width and of its height, and largest shear."""
    contrast: float = Field(default=0.3, ge=0, lt=1)
    """Largest change of its contrast."""


class Config(dpdm.Config):
    """Settings of dpdm and of the warm-up before it."""

    warm_up: WarmUpConfig = Field(default=WarmUpConfig())
    """The two phases before DP-SGD."""


PRESETS: dict[str, dict[str, Any]] = {
    # The published noise multiplier of the means is 5. That of DP-SGD comes out near 3.2 at epsilon 10 (replace_one, pld), so
    # the ratio keeps the means close to the published noise there. 2197 steps are 150 epochs of 60,000 records.
    "published": {
        **dpdm.PUBLISHED,
        "steps": 2197,
        "network": {"channels": 32, "multipliers": (2, 2), "blocks": 2, "patch": 1},
        "warm_up": {"noise_ratio": 1.55, "steps": 2000, "learning_rate": 3e-4},
    },
    "cpu": {},  # the defaults: sized for minutes on one core
}


def small_shape(config: Config, data: DataInfo) -> tuple[int, int, int]:
    """(C, h, w) of a released mean image."""
    factor = config.warm_up.downsample
    return (data.channels, data.height // factor, data.width // factor)


def mean_norm_bound(config: Config, data: DataInfo) -> float:
    """C1, the bound on the L2 norm of one record's small image."""
    return config.warm_up.max_brightness * math.sqrt(math.prod(small_shape(config, data)))


def mechanism(config: Config, data: DataInfo, neighbours: Neighbours) -> tuple[Phase, ...]:
    """Three phases: sums of shape (classes, C, h, w), steps that release nothing, and the gradients of dpdm.

    Raises ``ValueError`` where the settings contradict each other or the declared data.
    """
    check(config, data)
    means = RecordMechanism(
        sampling_rate=config.warm_up.sampling_rate,
        records=data.size,
        release_shape=(data.classes, *small_shape(config, data)),
        noise_multiplier=config.warm_up.noise_ratio,
        neighbours=neighbours,
    )
    return (
        Phase(mechanism=means, steps=config.warm_up.releases),
        Phase(mechanism=NoRelease(neighbours=neighbours), steps=config.warm_up.steps),
        *dpdm.mechanism(config, data, neighbours),
    )


def stages(config: Config, data: DataInfo) -> tuple[Stage, ...]:
    """None: nothing is learnt from private data outside the releases."""
    return ()


def check(config: Config, data: DataInfo) -> None:
    """Raise ``ValueError`` with one sentence if these settings cannot train on data of the declared shape."""
    dpdm.check(config, data)
    factor = config.warm_up.downsample
    if data.height % factor or data.width % factor:
        raise ValueError(
            f"warm_up.downsample is {factor}, which does not divide images of {data.height}x{data.width}; write a divisor of "
            "both sides, such as 2 or 1"
        )
