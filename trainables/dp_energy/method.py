"""dp_energy: a generator trained on noisy sums of energy-distance gradients, one contribution a private record.

This method is ours and not the paper's. Ma & Zhang (2026), like GS-WGAN and DPAC, train critics on shards and release the
gradient of one shard a step, which at a proven epsilon leaves next to nothing to learn from: a shard's answer has the
sensitivity of a whole answer. A loss that is linear in the records needs no shards and no critics. Here every drawn record
pulls the generated images of its class towards itself by a vector of bounded norm, thousands of such vectors are summed
under one noise, and the two ideas of the paper that survive an honest account are kept: the reconstruction term (a record
also pulls its nearest image) and the noise injection.

The loss is the energy distance (Szekely & Rizzo, 2013) between real and generated images of a class, on pixels or on pixels
joined with public random convolutions.
"""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from trainables.base import DataInfo, Stage
from trainables.privacy.mechanism import Neighbours, Phase, RecordMechanism

NAME = "dp_energy"
VERSION = 1

FILTER_SIZE = 5
FILTER_STRIDE = 2


class Config(BaseModel):
    """Settings of the energy release and of its generator."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    steps: int = Field(default=600, ge=1)
    """Generator updates; each makes one release."""
    sampling_rate: float = Field(default=0.05, gt=0, le=1)
    """Probability q that a record takes part in a step; 1 uses all records in every step."""
    slots: int = Field(default=200, ge=1)
    """Images generated a step, the same number of every class; the release has a row for each."""
    features: Literal["pixels", "random_convolutions"] = "random_convolutions"
    """What distances are taken on: pixels, or pixels joined with public random convolutions."""
    filters: int = Field(default=16, ge=1)
    """Random convolution filters (5x5, stride 2); unused where features are pixels."""
    energy: bool = True
    """Pull every generated image of a record's class; without it only the reconstruction term is left."""
    reconstruction: float = Field(default=1.0, ge=0)
    """gamma: weight of the pull on the generated image nearest to a record. More accuracy, less variety."""
    reconstruction_schedule: Literal["constant", "falling"] = "falling"
    """falling: gamma falls linearly to zero over the steps, and the noise falls with it."""
    reconstruction_clip: float = Field(default=7.0, ge=0.01)
    """Distance up to which the reconstruction pull grows; beyond it the pull is constant. Under about 1e-5 the norm of a pull
    would be lost in the rounding of the distances that it is computed from."""
    noise_injection: float = Field(default=0.1, ge=0)
    """sigma_noise: standard deviation of the noise added to every upsampled feature map of the generator."""
    generator_channels: int = Field(default=32, ge=1)
    """Width of the generator's first feature maps."""
    z_dim: int = Field(default=16, ge=1)
    """Length of the latent vector."""
    learning_rate: float = Field(default=3e-3, gt=0)
    """Adam's rate at the first step; it falls to 5 % on a cosine."""
    ema: float = Field(default=0.98, ge=0, lt=1)
    """Decay of the averaged generator, the one that is kept."""


PRESETS: dict[str, dict[str, Any]] = {
    # Few records: use them all in every step, take distances on pixels, and ask for little variety.
    "digits": {
        "steps": 200,
        "sampling_rate": 1.0,
        "slots": 50,
        "features": "pixels",
        "reconstruction_clip": 5.0,
        "reconstruction_schedule": "constant",
        "z_dim": 4,
    },
}


def feature_size(config: Config, data: DataInfo) -> int:
    """Length of phi(image): the pixels, and behind them the responses of the random filters."""
    pixels = data.channels * data.height * data.width
    if config.features == "pixels":
        return pixels
    rows, columns = ((side - FILTER_SIZE) // FILTER_STRIDE + 1 for side in (data.height, data.width))
    return pixels + config.filters * rows * columns


def reconstruction_at(config: Config, step: int) -> float:
    """gamma_t, a function of the step alone.

    >>> reconstruction_at(Config(steps=4, reconstruction=1.0), 1)
    0.75
    """
    if config.reconstruction_schedule == "constant":
        return config.reconstruction
    return config.reconstruction * (1 - step / config.steps)


def norm_bound(config: Config, classes: int, step: int) -> float:
    """C_t: the largest L2 norm that one record's contribution to the release of ``step`` can have.

    The energy part is a vector of norm 1 / sqrt(n) at each of the n = slots / classes images of the record's class; the
    reconstruction part has norm gamma_t at one of them, in the same direction: sqrt(1 + gamma_t^2 + 2 gamma_t / sqrt(n)).

    >>> round(norm_bound(Config(slots=200), 10, 0), 3)
    1.564
    """
    gamma = reconstruction_at(config, step)
    if not config.energy:
        return gamma
    return math.sqrt(1 + gamma**2 + 2 * gamma / math.sqrt(config.slots / classes))


def mechanism(config: Config, data: DataInfo, neighbours: Neighbours) -> tuple[Phase, ...]:
    """One phase: a sum over Poisson-sampled records, each clipped to ``norm_bound``, of shape (slots, feature_size).

    Raises ``ValueError`` where the settings contradict each other or the declared data.
    """
    check(config, data)
    release = RecordMechanism(
        sampling_rate=config.sampling_rate,
        records=data.size,
        release_shape=(config.slots, feature_size(config, data)),
        noise_multiplier=1.0,
        neighbours=neighbours,
    )
    return (Phase(mechanism=release, steps=config.steps),)


def stages(config: Config, data: DataInfo) -> tuple[Stage, ...]:
    """None: nothing is learnt from private data outside the release."""
    return ()


def check(config: Config, data: DataInfo) -> None:
    """Raise ``ValueError`` with one sentence if these settings cannot train on data of the declared shape."""
    if not config.energy and config.reconstruction == 0:
        raise ValueError("energy is off and reconstruction is 0, so nothing would be learnt; switch one of them on")
    if config.slots % data.classes:
        raise ValueError(
            f"slots is {config.slots}; expected a multiple of the {data.classes} classes, such as {20 * data.classes}"
        )
    if config.energy and config.slots < 2 * data.classes:
        raise ValueError(f"slots is {config.slots}; the energy distance needs 2 images a class, so at least {2 * data.classes}")
    if data.height % 4 or data.width % 4:
        raise ValueError(f"images are {data.height}x{data.width}; the generator needs sides that are divisible by 4")
    if config.features == "random_convolutions" and min(data.height, data.width) < FILTER_SIZE:
        raise ValueError(
            f"images are {data.height}x{data.width}, smaller than the {FILTER_SIZE}x{FILTER_SIZE} random filters; "
            "write features: pixels"
        )
