"""g_pate: Long, Wang, Yang, Kailkhura, Sun, Zhai, Gunter, Song and Li (NeurIPS 2021), teachers that vote on image gradients.

K critics on disjoint parts of the records. In every step each of them says where every generated image should move; the
direction is projected to a few random dimensions, each coordinate is put into a bin, and the noisy argmax of the teachers'
votes, where enough of them agree (confident GNMax), is what the generator follows.

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

NAME = "g_pate"
VERSION = 1


class Config(FeedbackConfig):
    """Settings of the votes on projected gradients."""

    projections: int = Field(default=10, ge=1)
    """Random dimensions that an image's direction is projected to, drawn afresh for every image; each is a vote."""
    bins: int = Field(default=10, ge=2)
    """Intervals between -clip and clip that a teacher chooses from."""
    clip: float = Field(default=1e-4, gt=0)
    """Largest projected coordinate; larger ones are clipped. Directions are usually far longer, so that votes are signs."""
    threshold: float | None = Field(default=None, ge=0, le=1)
    """Share of the teachers that must agree on a coordinate, checked on a noisy count; null: no check and no noise for it."""
    threshold_noise: float = Field(default=600.0, gt=0)
    """Noise of the check as ``vote_noise`` is that of the counts: only their ratio matters to training."""


_PUBLISHED: dict[str, Any] = {
    "teacher": "convolutional",
    "teacher_width": 32,
    "teacher_pretraining": 0,
    "generator": "dcgan",
    "generator_channels": 256,
    "learning_rate": 1e-3,
    "image_step": 1e-4,
    "ema": 0.0,
    "threshold": 0.5,
}

PRESETS: dict[str, dict[str, Any]] = {
    # Steps are all that the published noise buys at delta 1e-5 by an account that does not depend on the votes: 65 at epsilon
    # 10. The published batch of 64 became the size of a part, 30 records.
    "published": {**_PUBLISHED, "steps": 65, "teachers": 2000, "batch": 30, "z_dim": 100},
    # The published settings for epsilon 1, where the noise buys 226 steps.
    "published_epsilon_1": {
        **_PUBLISHED,
        "steps": 226,
        "teachers": 4000,
        "batch": 15,
        "z_dim": 50,
        "vote_noise": 1000.0,
        "threshold_noise": 3000.0,
    },
    # Dense teachers for one processor. At epsilon 10 on Fashion-MNIST they teach gray clouds with a trace of their class: a CNN
    # trained on 10,000 of them reads .43 of the test set right (one run).
    "cpu": {},
}


def mechanism(config: Config, data: DataInfo, neighbours: Neighbours) -> tuple[Phase, ...]:
    """One phase: a vote for one of ``bins`` in each of batch x projections rows, behind a threshold where there is one.

    Raises ``ValueError`` where the settings contradict the declared data.
    """
    check(config, data)
    votes = TeacherMechanism(
        answer="one_of_n",
        teachers=config.teachers,
        release_shape=(config.batch * config.projections, config.bins),
        noise_multiplier=config.vote_noise / math.sqrt(2),
        threshold_noise_multiplier=None if config.threshold is None else config.threshold_noise,
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
    if config.projections > pixels:
        raise ValueError(f"projections is {config.projections}; expected at most the {pixels} numbers of an image")


def remarks(config: Config, data: DataInfo, *, target_epsilon: float, delta: float) -> tuple[str, ...]:
    """What the settings' own noise buys."""
    (phase,) = mechanism(config, data, "replace_one")
    noise = f"g_pate: noise of std {config.vote_noise:g} on the votes"
    if config.threshold is not None:
        noise += f" and {config.threshold_noise:g} on the threshold"
    noise += f", {config.batch} images and {config.projections} projections a step,"
    return (remark(phase, noise, target_epsilon=target_epsilon, delta=delta),)
