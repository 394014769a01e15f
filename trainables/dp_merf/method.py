"""dp_merf: one private release of what a class looks like on average, then any number of generators trained on it for free.

Harder, Adamczewski, Park (AISTATS 2021). The mean of random Fourier features of a class (Rahimi & Recht, 2007) is a sum over
records of vectors of norm 1, so one Gaussian release of all classes' means has a known cost, and matching it with the features
of generated images is post-processing. The release is a stage that trials share: a sweep over ``steps``, networks, rates or
seeds of the generator draws it once and pays for it once; another ``features``, ``kernel_width`` or ``release`` is another one.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from trainables.base import DataInfo, Stage
from trainables.privacy.mechanism import Neighbours, NoRelease, Phase, RecordMechanism

NAME = "dp_merf"
VERSION = 1

EMBEDDING = "embedding"
"""Name of the stage that makes the release."""

WIDTH_A_PIXEL = 0.16
"""Kernel width a pixel where none is given: a public constant near what the paper took for 28x28 pixels (105 and 127)."""


class Config(BaseModel):
    """Settings of the release (features, kernel_width, release) and of the generator that is trained on it."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    features: int = Field(default=4000, ge=2, multiple_of=2)
    """Random Fourier features: cosines and sines of half as many random directions."""
    kernel_width: float | None = Field(default=None, gt=0)
    """Squared length scale of the Gaussian kernel: directions are N(0, 1 / kernel_width). Empty: 0.16 times the numbers of an
    image, a constant that no data were looked at for."""
    release: int = Field(default=0, ge=0)
    """Which draw of the release, and of the random directions: another number is another release, with a cost of its own."""
    steps: int = Field(default=1000, ge=1)
    """Generator updates; they are free."""
    batch: int = Field(default=200, ge=1)
    """Images generated a step, the same number of every class."""
    generator: Literal["small", "published"] = "small"
    """published: the paper's, two dense and two convolution layers with batch normalisation. small: ours, without it."""
    z_dim: int = Field(default=10, ge=1)
    """Length of the latent vector."""
    generator_channels: int = Field(default=32, ge=1)
    """Width of the small generator's first feature maps."""
    noise_injection: float = Field(default=0.0, ge=0)
    """sigma_noise: standard deviation of the noise added to every upsampled feature map of the small generator."""
    learning_rate: float = Field(default=3e-3, gt=0)
    """Adam's rate at the first step."""
    rate_schedule: Literal["cosine", "stepped"] = "cosine"
    """cosine: down to 5 % at the last step. stepped: times 0.9 after every N / batch steps."""
    ema: float = Field(default=0.98, ge=0, lt=1)
    """Decay of the averaged generator, the one that is kept; 0 keeps the last one."""


PRESETS: dict[str, dict[str, Any]] = {
    "published": {
        "features": 10_000,
        "kernel_width": 127.0,  # the repository's for Fashion-MNIST; 105 for MNIST
        "steps": 3000,  # five epochs of 600
        "batch": 100,
        "generator": "published",
        "z_dim": 5,
        "learning_rate": 0.01,
        "rate_schedule": "stepped",
        "ema": 0.0,
    },
    "cpu": {},
    "digits": {"features": 1000, "steps": 300, "batch": 100},
}


def mechanism(config: Config, data: DataInfo, neighbours: Neighbours) -> tuple[Phase, ...]:
    """The sum over all records of phi(x) (x) onehot(y), each of norm 1, released once; then steps that cost nothing.

    Raises ``ValueError`` where the settings contradict the declared data.
    """
    check(config, data)
    release = RecordMechanism(
        sampling_rate=1.0,
        records=data.size,
        release_shape=(data.classes, config.features),
        noise_multiplier=1.0,
        neighbours=neighbours,
    )
    return (
        Phase(mechanism=release, steps=1),
        Phase(mechanism=NoRelease(neighbours=neighbours), steps=config.steps),
    )


def stages(config: Config, data: DataInfo) -> tuple[Stage, ...]:
    """The release itself, for all trials that share its settings and its budget."""
    settings = {"features": config.features, "kernel_width": kernel_width(config, data), "release": config.release}
    return (Stage(name=EMBEDDING, config=settings, compute="trainables.dp_merf.embedding:release", release=True),)


def kernel_width(config: Config, data: DataInfo) -> float:
    """Squared length scale of the kernel for images of the declared shape."""
    channels, height, width = data.shape
    return config.kernel_width or WIDTH_A_PIXEL * channels * height * width


def check(config: Config, data: DataInfo) -> None:
    """Raise ``ValueError`` with one sentence if these settings cannot train on data of the declared shape."""
    if config.batch % data.classes:
        raise ValueError(
            f"batch is {config.batch}; expected a multiple of the {data.classes} classes, such as {20 * data.classes}"
        )
    if data.height % 4 or data.width % 4:
        raise ValueError(f"images are {data.height}x{data.width}; the generator needs sides that are divisible by 4")
    if config.generator == "published" and config.noise_injection:
        raise ValueError("noise_injection is for generator: small; the published one has no place for it")
