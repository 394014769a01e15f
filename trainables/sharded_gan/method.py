"""sharded_gan: one engine for GANs whose critics live on shards (GS-WGAN, and the method of Ma & Zhang built on it).

The training set is cut into K disjoint shards. Every step m of them answer: each sees the generated images and returns, for
every image, the gradient of a loss of its own. The answers are clipped image by image and summed under one Gaussian noise;
the generator's update is post-processing. What a shard's loss is made of are switches: a critic (trained by WGAN-GP, or the
closed form of the energy distance), a classifier, a reconstruction term; so is what happens to what the clip cuts off. The
methods ``gs_wgan``, ``dpac`` and ``ef_dpgan`` are this engine with other defaults.

How the published codes account for it, and why their epsilon is not true: ``trainables.privacy.published``.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from trainables.base import DataInfo, Stage
from trainables.privacy.mechanism import Neighbours, Phase, ShardMechanism

from .bounds import carried_share
from .settings import Config as Config
from .settings import signals

VERSION = 2
"""Of the engine; the methods on it count from here."""

CPU: dict[str, Any] = {
    "steps": 300,
    "generator_batch": 20,
    "labels": "balanced",
    "generator": "small",
    "generator_channels": 32,
    "z_dim": 16,
    "z_distribution": "normal",
    "learning_rate": 3e-3,
    "learning_rate_schedule": "cosine",
    "ema": 0.98,
    "encoder": {"channels": 8, "steps": 100},
}
"""What the methods' presets for processors have in common: a small generator and few steps."""

# One seed on Fashion-MNIST, chosen on held-out training images. Without pretraining a clone's gradients are noise for its first
# ten updates. Pretrained for 30 rounds they agree between shards and, on a fresh generator, with the energy distance; on
# saturated images they push on towards black and white until the clone has been updated, and two updates at 1e-3 are too few.
# Norms are near 1, the bound.
CPU_CRITIC: dict[str, Any] = {
    "kind": "wgan_gp",
    "channels": 8,
    "steps": 5,
    "batch": 16,
    "learning_rate": 3e-3,
    "fakes": "shared",
    "pretraining": {"steps": 30, "critic_steps": 3, "generator": "small", "learning_rate": 1e-3},
}
"""Critics that processors can train, 32 a step."""

CPU_CLASSIFIER: dict[str, Any] = {
    "channels": 8,
    "fake_steps": 5,
    "fake_batch": 100,
    "real_steps": 5,
    "batch": 16,
    "learning_rate": 3e-3,
}
"""Classifiers that processors can train afresh at every step."""


def mechanism(config: Config, data: DataInfo, neighbours: Neighbours) -> tuple[Phase, ...]:
    """m of K shards answer with a row of ``C x H x W`` numbers for each of the B generated images.

    One phase; under ``release: per_signal`` a new one begins where a signal does, since every signal that answers is a release.
    Raises ``ValueError`` where the settings contradict each other or the declared data.
    """
    check(config, data)
    starts = {0}
    if config.release == "per_signal":
        begins = (config.classifier.start, config.reconstruction_start)
        starts |= {step for step in begins if signals(config, step) != signals(config, step - 1)}
    return tuple(
        Phase(
            mechanism=ShardMechanism(
                schedule=config.schedule,
                shards=config.shards,
                shards_per_step=config.shards_per_step,
                release_shape=(config.generator_batch, *data.shape),
                noise_multiplier=1.0,
                releases_per_step=len(signals(config, start)) if config.release == "per_signal" else 1,
                neighbours=neighbours,
                carried=carried_share(config.feedback, config.max_grad_norm, config.feedback_clip),
            ),
            steps=end - start,
        )
        for start, end in pairwise([*sorted(starts), config.steps])
    )


def stages(config: Config, data: DataInfo) -> tuple[Stage, ...]:
    """Pretrained critics and encoders, a stage for every ``shards_per_job`` shards, so that each is a job of its own.

    Their settings name all that they depend on beside the data, and nothing that they do not: trials that differ in privacy,
    noise injection, reconstruction or seed share them.
    """
    found: list[Stage] = []
    partition = {"shards": config.shards, "seed": config.partition_seed, "version": VERSION}
    if "critic" in signals(config) and config.critic.kind == "wgan_gp":
        critic = config.critic.model_dump(include={"channels", "batch", "gradient_penalty", "drift"})
        pretraining = config.critic.pretraining.model_dump(exclude={"shards_per_job"})
        if config.critic.pretraining.generator == "same":
            del pretraining["hidden"]
            pretraining["network"] = config.model_dump(include={"generator", "generator_channels"})
            pretraining["z_distribution"] = config.z_distribution
        pretraining["z_dim"] = config.z_dim
        settings = {"partition": partition, "critic": critic, "pretraining": pretraining}
        found += _chunks("critics", settings, config.shards, config.critic.pretraining.shards_per_job)
    if config.reconstruction > 0 and config.matching == "latent":
        settings = {"partition": partition, "encoder": config.encoder.model_dump(exclude={"shards_per_job"})}
        found += _chunks("encoders", settings, config.shards, config.encoder.shards_per_job)
    return tuple(found)


def _chunks(name: str, settings: dict[str, Any], shards: int, at_once: int) -> list[Stage]:
    compute = f"trainables.sharded_gan.pretraining:{name}"
    firsts = range(0, shards, at_once)
    return [
        Stage(
            name=f"{name}-{first:06d}",
            config={**settings, "first": first, "count": min(at_once, shards - first)},
            compute=compute,
        )
        for first in firsts
    ]


def class_presence(config: Config, data: DataInfo) -> float:
    """Share of shards that hold a record of a given class, were all classes as frequent: from declared facts, not from counts.

    >>> round(class_presence(Config(shards=10000), DataInfo(size=60000, channels=1, height=28, width=28, classes=10)), 3)
    0.469
    """
    return 1 - (1 - 1 / data.classes) ** (data.size // config.shards)


def check(config: Config, data: DataInfo) -> None:
    """Raise ``ValueError`` with one sentence if these settings cannot train on data of the declared size and shape."""
    if config.shards > data.size:
        raise ValueError(f"shards is {config.shards}, but there are {data.size} training records; write at most {data.size}")
    if not signals(config):
        raise ValueError(
            "critic.weight, classifier.weight and reconstruction are all 0, so nothing would be learnt; give one a weight"
        )
    _check_starts(config)
    _check_feedback(config)
    if config.classifier.weight > 0 and data.classes < 2:
        raise ValueError("the data have one class, which a classifier tells from nothing; write classifier: {weight: 0}")
    if config.labels == "balanced" and config.generator_batch % data.classes:
        fitting = max(config.generator_batch // data.classes, 1) * data.classes
        raise ValueError(
            f"generator_batch is {config.generator_batch}; balanced labels need a multiple of the {data.classes} classes, "
            f"such as {fitting}"
        )
    keeps = (config.critic.kind == "wgan_gp" and config.critic.weight > 0) or config.feedback == "paper"
    if config.schedule == "persistent" and not keeps:
        raise ValueError("schedule is persistent, but no model here keeps anything from draw to draw; write schedule: sampled")
    if config.generator == "small" and (data.height % 4 or data.width % 4):
        raise ValueError(f"images are {data.height}x{data.width}; the small generator needs sides that are divisible by 4")
    sides = {"dcgan": (28, 32), "resnet": (28, 32, 64)}.get(config.generator)
    if sides and (data.height != data.width or data.height not in sides):
        *others, last = (f"{side}x{side}" for side in sides)
        raise ValueError(
            f"images are {data.height}x{data.width}; the {config.generator} generator makes {', '.join(others)} and {last}: "
            "set data.resolution, or write generator: small"
        )


def _check_starts(config: Config) -> None:
    starts = {
        "noise_injection_start": config.noise_injection_start,
        "reconstruction_start": config.reconstruction_start,
        "classifier.start": config.classifier.start,
    }
    for name, start in starts.items():
        if start >= config.steps:
            raise ValueError(f"{name} is {start}, but there are {config.steps} steps; write at most {config.steps - 1}")
    if not signals(config, 0):
        answering = " and ".join(signals(config))
        raise ValueError(f"only {answering} would answer, and not from the first step on; set the start to 0")
    if config.noise_injection_schedule == "adaptive" and config.noise_injection >= 1:
        raise ValueError(
            f"noise_injection is {config.noise_injection}, which under noise_injection_schedule: adaptive is a share of the "
            "variance among images; expected less than 1, such as 0.1"
        )
    if config.noise_injection_start and config.noise_injection_schedule == "learnt":
        raise ValueError("noise_injection_start is for noise of a given scale, a learnt one is there from the start: write 0")


def _check_feedback(config: Config) -> None:
    kind, schedule, count = config.feedback, config.schedule, config.shards_per_step
    if kind == "none":
        return
    if config.labels == "uniform":
        raise ValueError(
            f"feedback is {kind}, whose buffers belong to images of a fixed label, but labels are drawn anew at every step; "
            "write labels: fixed"
        )
    if kind == "paper" and schedule == "round_robin":
        raise ValueError(
            "feedback is paper, whose one buffer would carry every shard into every step of the round-robin schedule; "
            "write feedback: per_shard"
        )
    if kind == "per_shard" and schedule != "round_robin":
        raise ValueError(
            f"feedback is per_shard, whose buffers remember when a shard was drawn, but schedule is {schedule}; "
            "write schedule: round_robin"
        )
    if kind == "per_shard" and count * config.steps <= config.shards:
        raise ValueError(
            f"feedback is per_shard, but {config.steps} steps of {count} shards visit each of {config.shards} only once, so no "
            "buffer is ever paid back; use more steps or fewer shards"
        )
    if kind == "public" and schedule == "round_robin" and config.shards % count:
        raise ValueError(
            f"feedback is public with a memory for every {count} shards that answer together, but {config.shards} shards "
            f"cannot be grouped so; write shards: {config.shards - config.shards % count}"
        )
