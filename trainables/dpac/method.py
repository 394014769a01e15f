"""dpac: Chen, Liu, Ma, Nepal and Xu (CVPR 2023), GS-WGAN with a dual-purpose auxiliary classifier on every shard.

The sharded engine with two signals, a WGAN-GP critic and the sequential classifier, weighted .8 and .2. As published each is
released by itself; here both releases are counted, the generator's batch keeps its size when the classifier comes in, and the
deviations of ``gs_wgan`` hold. ``release: summed`` asks for one release of both.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from trainables.sharded_gan import method as engine
from trainables.sharded_gan.method import mechanism as mechanism
from trainables.sharded_gan.method import stages as stages
from trainables.sharded_gan.settings import ClassifierConfig, CriticConfig

NAME = "dpac"
VERSION = engine.VERSION

START = 6000
"""The published iteration at which the classifier comes in, of 20,000."""


class Critic(CriticConfig):
    """The engine's critic at the published weight."""

    weight: float = Field(default=0.8, ge=0)
    """Weight of the critic's answer; 0 leaves it out."""


class Classifier(ClassifierConfig):
    """The engine's classifier at the published weight."""

    weight: float = Field(default=0.2, ge=0)
    """lambda_c: weight of the classifier's answer; 0 leaves it out."""


class Config(engine.Config):
    """Settings of the engine; critic and classifier weigh and are released as published."""

    release: Literal["summed", "per_signal"] = "per_signal"
    """per_signal: critic and classifier are released by themselves, each with its own noise and counted. summed: one release of
    the weighted sum of the signals."""
    critic: Critic = Critic()
    """What tells generated images from real ones."""
    classifier: Classifier = Classifier()
    """What tells the classes apart."""


PRESETS: dict[str, dict[str, Any]] = {
    # The published commands for MNIST and Fashion-MNIST; what they leave out are the engine's defaults.
    "published": {"classifier": {"start": START, "accumulate_fake_gradients": True}},
    # The published commands for CelebA at 32x32 pixels: 64 records a shard.
    "published_celeba": {
        "shards": 2543,
        "critic": {"steps": 10, "pretraining": {"steps": 12000}},
        "classifier": {"start": 1000, "accumulate_fake_gradients": True},
    },
    "cpu": {
        **engine.CPU,
        "shards_per_step": 32,
        "release": "summed",
        "critic": engine.CPU_CRITIC,
        "classifier": engine.CPU_CLASSIFIER,
    },
}
