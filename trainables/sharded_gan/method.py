"""sharded_gan: one engine for GANs whose critics live on shards (GS-WGAN, and the method of Ma & Zhang built on it).

The training set is cut into K disjoint shards. Every step m of them answer: each sees the generated images and returns, for
every image, the gradient of a loss of its own. The answers are clipped image by image and summed under one Gaussian noise;
the generator's update is post-processing. What a shard's loss is made of are switches: a critic (trained by WGAN-GP, or the
closed form of the energy distance) and a reconstruction term. The methods ``gs_wgan`` and ``ef_dpgan`` are this engine with
other defaults.

How the published codes account for it, and why their epsilon is not true: ``trainables.privacy.published``.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from trainables.base import DataInfo, Stage
from trainables.privacy.mechanism import Neighbours, Phase, ShardMechanism

VERSION = 1
"""Of the engine; the methods on it count from here."""

Matching = Literal["pixels", "latent", "random"]


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class PretrainingConfig(_Settings):
    """Training of every shard's critic on its shard alone, against a generator that only it sees; done once for a sweep."""

    steps: int = Field(default=2000, ge=0)
    """Updates of the shard's own generator; 0 leaves the critics at their initial weights."""
    critic_steps: int = Field(default=5, ge=1)
    """Updates of the critic for each of them."""
    generator: Literal["same", "small"] = "same"
    """The shard's own generator: the network of the trial, or three dense layers, which cost next to nothing."""
    hidden: int = Field(default=64, ge=1)
    """Width of the dense layers of the small generator."""
    learning_rate: float = Field(default=1e-4, gt=0)
    """Adam's rate for both."""
    shards_per_job: int = Field(default=50, ge=1)
    """Critics that one job trains, side by side. Their rounding depends on it, so trials of another number are others."""


class CriticConfig(_Settings):
    """What tells a generated image from a shard's real ones."""

    kind: Literal["wgan_gp", "energy"] = "wgan_gp"
    """wgan_gp: a projection critic with spectral norm, cloned from its pretrained state at every draw, trained on the shard
    and discarded. energy: the gradient of the energy distance to the shard's images of the class, in closed form."""
    weight: float = Field(default=1.0, ge=0)
    """Weight of the critic's answer; 0 leaves the reconstruction term alone."""
    channels: int = Field(default=64, ge=1)
    """Width of the critic's first convolution; the others have two and four times as many. Unused by energy."""
    steps: int = Field(default=5, ge=0)
    """WGAN-GP updates after every draw; 0 asks the pretrained critic as it is. Unused by energy, as all below."""
    batch: int = Field(default=32, ge=1)
    """Real images of a critic's update, at most the shard's."""
    learning_rate: float = Field(default=1e-4, gt=0)
    """Adam's rate for the critic, betas (0.5, 0.9)."""
    gradient_penalty: float = Field(default=10.0, ge=0)
    """Weight of (||gradient|| - 1)^2 between real and generated images (Gulrajani et al., 2017)."""
    drift: float = Field(default=1e-3, ge=0)
    """Weight of the mean squared score of real images."""
    fakes: Literal["own", "shared"] = "own"
    """own: every critic's update has generated images of its own, as published. shared: the critics of a step choose theirs,
    by label, from one public pool as large as what one critic sees."""
    pretraining: PretrainingConfig = PretrainingConfig()
    """Where the critics come from."""


class EncoderConfig(_Settings):
    """A small convolutional VAE on every shard, whose encoder says which images are alike; used by ``matching: latent``."""

    channels: int = Field(default=16, ge=1)
    """Width of the first convolution; the second has twice as many."""
    latent: int = Field(default=16, ge=1)
    """Length of the latent vector."""
    steps: int = Field(default=300, ge=0)
    """Updates on the shard; 0 leaves random networks."""
    batch: int = Field(default=32, ge=1)
    """Images of an update, at most the shard's."""
    learning_rate: float = Field(default=2e-3, gt=0)
    """Adam's rate."""
    shards_per_job: int = Field(default=100, ge=1)
    """Encoders that one job trains, side by side; as for critics."""


class Config(_Settings):
    """Settings of the engine. The defaults are those of GS-WGAN (Chen et al., 2020) with its private state made stateless."""

    steps: int = Field(default=20000, ge=1)
    """Generator updates."""
    shards: int = Field(default=1000, ge=1)
    """K: disjoint parts of the training set, of equal size; which record goes where is public."""
    shards_per_step: int = Field(default=1, ge=1)
    """m: shards that answer a step; their answers are summed under one noise."""
    schedule: Literal["sampled", "round_robin", "persistent"] = "sampled"
    """sampled: a secret fresh draw, and private models are clones that are discarded. round_robin: a public order, in which
    private models may keep what they learnt. persistent: a secret draw with models that keep what they learnt, as published;
    only the account that reveals the draws is proven for it."""
    generator_batch: int = Field(default=32, ge=1)
    """B: generated images a step, each a row of the release. A record may change all of them: more rows need more noise."""
    labels: Literal["uniform", "balanced"] = "uniform"
    """Labels of the generated images: drawn uniformly a step, or the same number of every class."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """C1: bound of one image's gradient from one shard."""
    release: Literal["summed", "per_signal"] = "summed"
    """summed: one release of the weighted sum of the signals. per_signal: each is released by itself with its own noise and
    counted as one more release, as in the published codes (which did not count it)."""
    generator: Literal["resnet", "dcgan", "small"] = "resnet"
    """The generator network: those of GS-WGAN, or a small one for CPUs."""
    generator_channels: int = Field(default=256, ge=1)
    """Width of the generator's first feature maps; 256 is the published one."""
    z_dim: int = Field(default=10, ge=1)
    """Length of the latent vector."""
    z_distribution: Literal["bernoulli", "normal"] = "bernoulli"
    """Entries of the latent vector: 0 or 1 with equal probability, or standard normal."""
    noise_injection: float = Field(default=0.0, ge=0)
    """sigma_noise: standard deviation of the noise added to every upsampled feature map (Ma & Zhang, 2026, Algorithm 1)."""
    reconstruction: float = Field(default=0.0, ge=0)
    """gamma_recon: weight of the pull of every generated image to a real one of its class (Ma & Zhang, 2026, equation 15). The
    pull shares max_grad_norm with the critic's answer: where their sum is longer, gamma decides whose direction it has."""
    reconstruction_clip: float = Field(default=7.0, gt=0)
    """Distance up to which that pull grows, as the squared distance's gradient does; beyond it its norm is gamma_recon."""
    matching: Matching = "pixels"
    """Which real image of the class: the nearest one by pixels or by the shard's encoder, or a random one (the paper's literal
    equation 14, whose sign is repaired)."""
    learning_rate: float = Field(default=1e-4, gt=0)
    """Adam's rate for the generator, betas (0.5, 0.9)."""
    learning_rate_schedule: Literal["constant", "cosine"] = "constant"
    """cosine: falls to 5 % over the steps."""
    ema: float = Field(default=0.999, ge=0, lt=1)
    """Decay of the averaged generator, the one that is kept."""
    partition_seed: int = Field(default=0, ge=0)
    """Public coins of the partition and of the pretraining: the same for all seeds of a sweep, which so share them."""
    critic: CriticConfig = CriticConfig()
    """What tells generated images from real ones."""
    encoder: EncoderConfig = EncoderConfig()
    """What tells which images are alike."""

    @model_validator(mode="after")
    def _unread_settings_are_defaults(self) -> Config:
        """Two files that differ in settings which nothing reads ask for one trial, and pay for it once."""
        unread: dict[str, Any] = {}
        if self.reconstruction == 0:
            unread |= {name: type(self).model_fields[name].default for name in ("matching", "reconstruction_clip")}
        if self.reconstruction == 0 or self.matching != "latent":
            unread["encoder"] = EncoderConfig()
        if self.critic.weight == 0:
            unread["critic"] = CriticConfig(weight=0)
        elif self.critic.kind == "energy":
            unread["critic"] = CriticConfig(kind="energy", weight=self.critic.weight)
        elif self.critic.pretraining.generator == "same":
            pretraining = self.critic.pretraining.model_copy(update={"hidden": PretrainingConfig().hidden})
            unread["critic"] = self.critic.model_copy(update={"pretraining": pretraining})
        if len(signals(self)) < 2:
            unread["release"] = "summed"
        for name, value in unread.items():
            object.__setattr__(self, name, value)  # frozen is for everybody else
        return self


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


def signals(config: Config) -> tuple[str, ...]:
    """Names of the signals that answer: critic, reconstruction."""
    weights = {"critic": config.critic.weight, "reconstruction": config.reconstruction}
    return tuple(name for name, weight in weights.items() if weight > 0)


def mechanism(config: Config, data: DataInfo, neighbours: Neighbours) -> tuple[Phase, ...]:
    """One phase: m of K shards answer with a row of ``C x H x W`` numbers for each of the B generated images.

    Raises ``ValueError`` where the settings contradict each other or the declared data.
    """
    check(config, data)
    release = ShardMechanism(
        schedule=config.schedule,
        shards=config.shards,
        shards_per_step=config.shards_per_step,
        release_shape=(config.generator_batch, *data.shape),
        noise_multiplier=1.0,
        releases_per_step=len(signals(config)) if config.release == "per_signal" else 1,
        neighbours=neighbours,
    )
    return (Phase(mechanism=release, steps=config.steps),)


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


def check(config: Config, data: DataInfo) -> None:
    """Raise ``ValueError`` with one sentence if these settings cannot train on data of the declared size and shape."""
    if config.shards > data.size:
        raise ValueError(f"shards is {config.shards}, but there are {data.size} training records; write at most {data.size}")
    if not signals(config):
        raise ValueError("critic.weight and reconstruction are both 0, so nothing would be learnt; give one of them a weight")
    if config.labels == "balanced" and config.generator_batch % data.classes:
        fitting = max(config.generator_batch // data.classes, 1) * data.classes
        raise ValueError(
            f"generator_batch is {config.generator_batch}; balanced labels need a multiple of the {data.classes} classes, "
            f"such as {fitting}"
        )
    if config.schedule == "persistent" and (config.critic.kind == "energy" or config.critic.weight == 0):
        raise ValueError("schedule is persistent, but no model here keeps anything from draw to draw; write schedule: sampled")
    if config.generator == "small" and (data.height % 4 or data.width % 4):
        raise ValueError(f"images are {data.height}x{data.width}; the small generator needs sides that are divisible by 4")
    if config.generator != "small" and (data.height, data.width) not in ((28, 28), (32, 32)):
        raise ValueError(
            f"images are {data.height}x{data.width}; the {config.generator} generator makes 28x28 and 32x32: "
            "set data.resolution, or write generator: small"
        )
