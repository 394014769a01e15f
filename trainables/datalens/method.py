"""datalens: Wang, Wu, Long, Rimanic, Zhang and Li (CCS 2021), teachers that vote with the signs of their largest gradients.

K critics on disjoint parts of the records. In every step each of them keeps the k largest entries of where every generated
image should move, as stochastic signs; votes are summed with noise, entries on which enough teachers agree become signs, and
the generator follows (TopAgg).

Deviations from the published code. The account is data-independent and its number of steps is planned: the published one
depends on the private votes, is printed without noise and decides when to stop. The generator is one of this project's; the
teachers have no batch norm. No test accuracy chooses among epochs.
"""

from __future__ import annotations

import math
from typing import Any

from pydantic import Field

from trainables.base import DataInfo, Stage
from trainables.pate.prices import remark
from trainables.pate.settings import FeedbackConfig, check_pate
from trainables.privacy.mechanism import Neighbours, Phase, TeacherMechanism

NAME = "datalens"
VERSION = 1


class Config(FeedbackConfig):
    """Settings of the signed votes."""

    top: int = Field(default=200, ge=1)
    """k: entries of a direction that a teacher votes on, those that are largest in magnitude."""
    threshold: float = Field(default=0.0, ge=0)
    """Share of the teachers by which the noisy sum of an entry's signs must differ from 0 for the image to move there."""
    vote_noise: float = Field(default=800.0, gt=0)
    """Standard deviation of the noise on a sum that the notes of a dry run price. Training uses the noise that the budget
    asks for."""


_PUBLISHED: dict[str, Any] = {
    "teachers": 4000,
    "batch": 15,
    "teacher": "convolutional",
    "teacher_width": 32,
    "teacher_updates": 2,
    "teacher_pretraining": 10,
    "generator": "dcgan",
    "generator_channels": 256,
    "learning_rate": 1e-3,
    "image_step": 1e-3,
    "ema": 0.0,
    "z_dim": 50,
}
_EPSILON_1 = {**_PUBLISHED, "steps": 149, "top": 200, "vote_noise": 5000.0}

PRESETS: dict[str, dict[str, Any]] = {
    # Steps are all that the published noise buys at delta 1e-5 by an account that does not depend on the votes. The batch is
    # the size of a part. First the settings for MNIST and Fashion-MNIST at epsilon 10 (142 and 190 steps).
    "published": {**_PUBLISHED, "steps": 142, "top": 300, "threshold": 0.2, "vote_noise": 800.0},
    "published_fashion_mnist": {
        **_PUBLISHED,
        "steps": 190,
        "top": 350,
        "threshold": 0.27,
        "z_dim": 64,
        "vote_noise": 1000.0,
    },
    # CelebA by gender; published at 64x64 pixels.
    "published_celeba": {
        **_PUBLISHED,
        "steps": 36,
        "teachers": 6000,
        "batch": 27,
        "top": 500,
        "threshold": 0.12,
        "z_dim": 100,
        "teacher_pretraining": 30,
        "vote_noise": 700.0,
    },
    # The same at epsilon 1.
    "published_epsilon_1": {**_EPSILON_1, "threshold": 0.7},
    "published_fashion_mnist_epsilon_1": {**_EPSILON_1, "threshold": 0.9},
    "published_celeba_epsilon_1": {
        **_PUBLISHED,
        "steps": 76,
        "teachers": 6000,
        "batch": 27,
        "top": 700,
        "threshold": 0.85,
        "z_dim": 100,
        "teacher_pretraining": 30,
        "vote_noise": 9000.0,
    },
    # Dense teachers for one processor. At epsilon 10 on Fashion-MNIST they teach dim silhouettes: a CNN trained on 10,000 of
    # them reads .59 of the test set right (one run).
    "cpu": {},
}


def mechanism(config: Config, data: DataInfo, neighbours: Neighbours) -> tuple[Phase, ...]:
    """One phase: ``top`` signs in each of ``batch`` rows, one an image.

    Raises ``ValueError`` where the settings contradict the declared data.
    """
    check(config, data)
    votes = TeacherMechanism(
        answer="signs",
        teachers=config.teachers,
        release_shape=(config.batch, data.channels * data.height * data.width),
        signs=config.top,
        noise_multiplier=config.vote_noise / (2 * math.sqrt(config.top)),
        neighbours=neighbours,
    )
    return (Phase(mechanism=votes, steps=config.steps),)


def stages(config: Config, data: DataInfo) -> tuple[Stage, ...]:
    """None: teachers are trained in the trial."""
    return ()


def check(config: Config, data: DataInfo) -> None:
    """Raise ``ValueError`` with one sentence if these settings cannot train on data of the declared shape."""
    check_pate(config, data)
    pixels = data.channels * data.height * data.width
    if config.top > pixels:
        raise ValueError(f"top is {config.top}; expected at most the {pixels} numbers of an image")


def remarks(config: Config, data: DataInfo, *, target_epsilon: float, delta: float) -> tuple[str, ...]:
    """What the settings' own noise buys."""
    (phase,) = mechanism(config, data, "replace_one")
    noise = f"datalens: noise of std {config.vote_noise:g} on the votes, {config.batch} images of {config.top} signs a step,"
    return (remark(phase, noise, target_epsilon=target_epsilon, delta=delta),)
