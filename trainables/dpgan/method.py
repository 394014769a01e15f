"""dpgan: a conditional GAN whose critic is trained by DP-SGD and whose generator follows it for free.

Bie, Kamath & Zhang ("Private GANs, revisited", TMLR 2023) found that the plain method works once the critic takes many noisy
steps for each of the generator's, so that the noise averages out before the generator follows. Only the critic ever sees a
record; the generator reads the critic, which is post-processing.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from trainables.base import DataInfo, Stage
from trainables.privacy.mechanism import Neighbours, Phase, RecordMechanism

NAME = "dpgan"
VERSION = 1

SMALLEST_SIDE = 8


class Config(BaseModel):
    """Settings of the critic's private steps and of the generator between them."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    steps: int = Field(default=1500, ge=1)
    """Critic steps; each makes one release."""
    batch_size: int = Field(default=192, ge=1)
    """Expected number of records in a critic step: each is drawn with probability batch_size / N. All records at most."""
    fake_batch_size: int = Field(default=64, ge=1)
    """Generated images in a critic step, labels in turn."""
    max_grad_norm: float = Field(default=6.0, gt=0)
    """C: bound to which the critic's gradient at a record is clipped; at a generated image as well."""
    critic_steps: Literal["adaptive"] | int = Field(default=1)
    """n_D, critic steps a generator step. adaptive: it climbs 1, 2, 5, 10, 20, 50, ... as the critic falls behind."""
    adaptive_threshold: float = Field(default=0.6, gt=0, lt=1)
    """Unused unless adaptive: n_D climbs once the critic calls no larger share of the generated images fake, on average.
    Published: 0.6 at epsilon 10, 0.7 at epsilon 1."""
    adaptive_wait: int = Field(default=200, ge=1)
    """Unused unless adaptive: generator steps at an n_D before it may climb."""
    critic_channels: int = Field(default=16, ge=2)
    """d of the critic, an even number. Every weight of the critic takes its own noise: more weights, more noise."""
    generator_channels: int = Field(default=24, ge=1)
    """d of the generator."""
    generator_batch: int = Field(default=64, ge=1)
    """Generated images in a generator step, labels in turn."""
    z_dim: int = Field(default=128, ge=1)
    """Length of the latent vector."""
    critic_learning_rate: float = Field(default=1e-3, gt=0)
    """Adam's rate for the critic, with betas 0.5 and 0.999."""
    generator_learning_rate: float = Field(default=1e-3, gt=0)
    """Adam's rate for the generator, with betas 0.5 and 0.999."""
    ema: float = Field(default=0.995, ge=0, lt=1)
    """Decay of the averaged generator, the one that is kept. 0 keeps the last one, as published."""


_PUBLISHED: dict[str, Any] = {
    "critic_steps": "adaptive",
    "max_grad_norm": 1.0,
    "critic_channels": 128,
    "generator_channels": 128,
    "z_dim": 128,
    "critic_learning_rate": 2e-4,
    "generator_learning_rate": 2e-4,
    "ema": 0.0,
}

PRESETS: dict[str, dict[str, Any]] = {
    # MNIST at epsilon 10: noise multiplier 2 under add-or-remove-one neighbours.
    "published": {**_PUBLISHED, "steps": 174_000, "batch_size": 512, "fake_batch_size": 512, "generator_batch": 512},
    # CelebA at epsilon 10 and delta 1e-6: noise multiplier 4; the paper's small networks for 32x32x3.
    "published_celeba": {**_PUBLISHED, "steps": 385_000, "batch_size": 2048, "fake_batch_size": 2048, "generator_batch": 2048},
    # Fashion-MNIST in about 5 minutes on one processor. Norms grow far past a smaller C, and a larger one is mostly noise.
    "cpu": {},
}


def halvings(side: int) -> tuple[tuple[int, int], ...]:
    """Kernel and resulting side of the three convolutions that halve a side, rounded up.

    >>> halvings(28), halvings(32)
    (((4, 14), (4, 7), (3, 4)), ((4, 16), (4, 8), (4, 4)))
    """
    found = []
    for _ in range(3):
        kernel = 3 if side % 2 else 4
        side = -(-side // 2)
        found.append((kernel, side))
    return tuple(found)


def critic_size(channels: int, data: DataInfo) -> int:
    """P: number of the critic's weights, so the length of a release.

    >>> critic_size(128, DataInfo(size=60_000, channels=1, height=28, width=28, classes=10))
    1724289
    """
    (first, _), (second, _), (third, last) = halvings(data.height)
    inputs = (data.channels + data.classes) * first**2 * (channels // 2) + channels
    hidden = channels * second**2 * 2 * channels + 2 * channels + 2 * channels * third**2 * 4 * channels + 4 * channels
    return inputs + hidden + 4 * channels * last**2 + 1


def mechanism(config: Config, data: DataInfo, neighbours: Neighbours) -> tuple[Phase, ...]:
    """One phase: the critic's gradient, summed over Poisson-sampled records and each clipped to C, of shape (P,).

    Raises ``ValueError`` where the settings contradict each other or the declared data.
    """
    check(config, data)
    release = RecordMechanism(
        sampling_rate=sampling_rate(config, data),
        records=data.size,
        release_shape=(critic_size(config.critic_channels, data),),
        noise_multiplier=1.0,
        neighbours=neighbours,
    )
    return (Phase(mechanism=release, steps=config.steps),)


def sampling_rate(config: Config, data: DataInfo) -> float:
    """q, the probability that a record takes part in a critic step."""
    return config.batch_size / data.size


def stages(config: Config, data: DataInfo) -> tuple[Stage, ...]:
    """None: the critic starts from public coins."""
    return ()


def check(config: Config, data: DataInfo) -> None:
    """Raise ``ValueError`` with one sentence if these settings cannot train on data of the declared shape and size."""
    if data.height != data.width or data.height < SMALLEST_SIDE:
        raise ValueError(
            f"images are {data.height}x{data.width}; dpgan's networks are made for square ones of at least "
            f"{SMALLEST_SIDE}x{SMALLEST_SIDE} pixels"
        )
    if config.batch_size > data.size:
        raise ValueError(f"batch_size is {config.batch_size}; expected at most the {data.size} records there are")
    if config.critic_channels % 2:
        raise ValueError(
            f"critic_channels is {config.critic_channels}; expected an even number: half of them see the image, half the label"
        )
    if config.critic_steps != "adaptive" and config.critic_steps < 1:
        raise ValueError(f"critic_steps is {config.critic_steps}; expected at least 1, or adaptive")
