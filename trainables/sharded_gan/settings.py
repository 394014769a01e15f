"""Settings of the sharded engine. What they cost in privacy and which of them fit together: ``method``."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Matching = Literal["pixels", "latent", "random"]
FeedbackKind = Literal["none", "paper", "per_shard", "public"]


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
    """Critics that one job trains, narrow ones side by side. Their rounding depends on it, so trials of another number are
    others."""


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
    repulsion: float = Field(default=1.0, ge=0)
    """Weight of the repulsion among generated images of a class against their expected attraction, for energy. 1 is the energy
    distance; less asks for less variety, which noisy releases overdo. Unused by wgan_gp, as all below."""
    repulsion_schedule: Literal["constant", "rising"] = "constant"
    """rising: from two thirds of the repulsion at the first step to all of it at the last, shapes before variety."""
    features: Literal["pixels", "random_convolutions"] = "pixels"
    """What energy takes distances on: pixels, or pixels joined with public random convolutions."""
    filters: int = Field(default=16, ge=1)
    """Random convolution filters (5x5, stride 2); unused where features are pixels."""


class ClassifierConfig(_Settings):
    """The classifier of DPAC (Chen et al., 2023): made afresh at every step and shown fakes first, then a shard's records.

    Its score of an image is its output for the label minus the mean of its other outputs; both phases raise the score of what
    they are shown, and a shard's answer is the direction that raises the score of the generated images.
    """

    weight: float = Field(default=0.0, ge=0)
    """lambda_c: weight of the classifier's answer; 0 leaves it out."""
    start: int = Field(default=0, ge=0)
    """The step from which it answers."""
    channels: int = Field(default=64, ge=1)
    """Width of its first convolution; the others have two and four times as many."""
    fake_steps: int = Field(default=10, ge=0)
    """Updates on generated images. Public, so one network makes them for all shards of the step."""
    fake_batch: int = Field(default=1000, ge=1)
    """Generated images of these updates, the same ones in all of them, as many of every class as of another."""
    accumulate_fake_gradients: bool = False
    """Add up the gradients of the updates on generated images, as the published code does, in place of starting from zero."""
    real_steps: int = Field(default=10, ge=0)
    """Updates on the shard's records."""
    batch: int = Field(default=32, ge=1)
    """Real images of an update, at most the shard's."""
    learning_rate: float = Field(default=1e-4, gt=0)
    """Adam's rate, betas (0.5, 0.9)."""
    gradient_penalty: float = Field(default=10.0, ge=0)
    """Weight of (||gradient|| - 1)^2 at the images that it is shown."""
    drift: float = Field(default=1e-3, ge=0)
    """Weight of the mean squared score."""


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
    labels: Literal["uniform", "fixed", "balanced"] = "uniform"
    """Labels of the generated images: drawn uniformly a step; or fixed, the classes in turn; or fixed, and the same number of
    every class."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """C1: bound of one image's gradient from one shard."""
    feedback: FeedbackKind = "none"
    """Error feedback, what to do about what the clip cuts off. paper: the cut-off part is kept in one buffer for all shards and
    added, clipped, to later releases (Ma & Zhang, 2026, equations 7 to 11): every step then releases something of every record.
    per_shard: a buffer a shard, with schedule: round_robin. public: shards answer with the difference to a memory of what was
    released (EF21, Richtarik et al., 2021); it costs no epsilon, but the memory takes up the noise of releases as well. A
    buffer belongs to an image of the batch and its label, so all but none need labels: fixed or balanced."""
    feedback_clip: float = Field(default=1.0, gt=0)
    """C2: bound of what a buffer of paper and per_shard adds to an image's gradient."""
    feedback_rate: float = Field(default=0.1, gt=0, le=1)
    """Share of a release that the memory of public takes up."""
    release: Literal["summed", "per_signal"] = "summed"
    """summed: one release of the weighted sum of the signals. per_signal: each is released by itself, with its own noise and
    error buffer, and counted as one more release, as in the published codes (which did not count it)."""
    generator: Literal["resnet", "dcgan", "small"] = "resnet"
    """The generator network: those of GS-WGAN, or a small one for CPUs."""
    generator_channels: int = Field(default=256, ge=1)
    """Width of the generator's first feature maps; 256 is the published one."""
    generator_precision: Literal["float32", "bfloat16"] = Field(default="float32", exclude_if=lambda value: value == "float32")
    """bfloat16: the generator's training and the images that shards are shown take bfloat16 products, for processors and GPUs
    that are faster at them. Weights, spectral norms, shards' answers, clip and noise keep float32, and so do the kept
    generator's samples. It is other mathematics, so another trial; rows of float32 do not mention it."""
    generator_compiled: bool = Field(default=False, exclude_if=lambda value: not value)
    """Compile the generator with torch.compile, half a minute at the start of every attempt; processors need a C++ compiler.
    Draws of injected noise stay outside, which cuts what is compiled at every upsampled map. Images are equal up to rounding,
    so it is another trial; rows that do not compile do not mention it."""
    z_dim: int = Field(default=10, ge=1)
    """Length of the latent vector."""
    z_distribution: Literal["bernoulli", "normal"] = "bernoulli"
    """Entries of the latent vector: 0 or 1 with equal probability, or standard normal."""
    noise_injection: float = Field(default=0.0, ge=0)
    """sigma_noise: standard deviation of the noise added to every upsampled feature map (Ma & Zhang, 2026, Algorithm 1). Under
    learnt the one to start from, under adaptive the share to hold."""
    noise_injection_schedule: Literal["constant", "falling", "learnt", "adaptive"] = "constant"
    """falling: linearly to zero at the last step. learnt: a scale a layer that is trained like a weight (StyleGAN2, Karras et
    al., 2020). adaptive: the scale that keeps noise_injection as the share of the variance among generated images of a class
    that injected noise causes, measured on the generator's own samples."""
    noise_injection_start: int = Field(default=0, ge=0)
    """The step from which noise is injected."""
    reconstruction: float = Field(default=0.0, ge=0)
    """gamma_recon: weight of the pull of every generated image to a real one of its class (Ma & Zhang, 2026, equation 15). The
    pull shares max_grad_norm with the critic's answer: where their sum is longer, gamma decides whose direction it has."""
    reconstruction_schedule: Literal["constant", "falling"] = "constant"
    """falling: gamma_recon falls linearly to zero at the last step."""
    reconstruction_start: int = Field(default=0, ge=0)
    """The step from which the pull is there."""
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
    classifier: ClassifierConfig = ClassifierConfig()
    """What tells the classes apart."""
    encoder: EncoderConfig = EncoderConfig()
    """What tells which images are alike."""

    @model_validator(mode="after")
    def _unread_settings_are_defaults(self) -> Config:
        """Two files that differ in settings which nothing reads ask for one trial, and pay for it once."""
        unread: set[str] = set()
        if self.noise_injection == 0 and self.noise_injection_schedule != "learnt":
            unread |= {"noise_injection_schedule", "noise_injection_start"}
        if self.reconstruction == 0:
            unread |= {"matching", "reconstruction_clip", "reconstruction_schedule", "reconstruction_start"}
        if self.reconstruction == 0 or self.matching != "latent":
            unread |= {"encoder"}
        if self.feedback in ("none", "public"):
            unread |= {"feedback_clip"}
        if self.feedback != "public":
            unread |= {"feedback_rate"}
        if len(signals(self)) < 2:
            unread |= {"release"}
        # Not the subclass: what it changes are starting points, not the value of a setting that nobody reads.
        values = {name: Config.model_fields[name].get_default() for name in unread}
        values |= {"critic": _read_of_critic(self.critic)}
        if self.classifier.weight == 0:
            values |= {"classifier": type(self.classifier)(weight=0)}
        for name, value in values.items():
            object.__setattr__(self, name, value)  # frozen is for everybody else
        return self


_ENERGY = ("repulsion", "repulsion_schedule", "features", "filters")
"""Settings of the critic that the closed form alone reads."""


def _read_of_critic(critic: CriticConfig) -> CriticConfig:
    """``critic`` with what is not read at its defaults."""
    kind = type(critic)  # a method's own, with another weight to start from
    if critic.weight == 0:
        return kind(weight=0)
    if critic.kind == "energy":
        read = {"kind", "weight", *_ENERGY} - ({"filters"} if critic.features == "pixels" else set())
        return kind.model_validate(critic.model_dump(include=read))
    defaults = CriticConfig()
    changes: dict[str, Any] = {name: getattr(defaults, name) for name in _ENERGY}
    if critic.pretraining.generator == "same":
        changes["pretraining"] = critic.pretraining.model_copy(update={"hidden": PretrainingConfig().hidden})
    return critic.model_copy(update=changes)


SIGNALS = ("critic", "classifier", "reconstruction")
"""What a shard may answer with, in the order in which answers are added or released."""


def weights(config: Config, step: int | None = None) -> dict[str, float]:
    """Signal -> weight, of those that answer at ``step``, or at some step. Public: settings and the step alone decide.

    >>> weights(Config(reconstruction=1, reconstruction_start=2, reconstruction_schedule="falling", steps=4), 3)
    {'critic': 1.0, 'reconstruction': 0.5}
    """
    found = {"critic": config.critic.weight, "classifier": config.classifier.weight, "reconstruction": config.reconstruction}
    if step is not None:
        if step < config.classifier.start:
            found["classifier"] = 0.0
        if step < config.reconstruction_start:
            found["reconstruction"] = 0.0
        elif config.reconstruction_schedule == "falling":
            left = (config.steps - step) / (config.steps - config.reconstruction_start)
            found["reconstruction"] *= left
    return {name: weight for name, weight in found.items() if weight > 0}


def repulsion_at(config: Config, step: int) -> float:
    """Weight of the repulsion at ``step`` against the attraction that is expected.

    >>> rising = Config(steps=4, critic={"kind": "energy", "repulsion_schedule": "rising"})
    >>> [round(repulsion_at(rising, step), 3) for step in (0, 2, 4)]
    [0.667, 0.833, 1.0]
    """
    if config.critic.repulsion_schedule == "constant":
        return config.critic.repulsion
    return config.critic.repulsion * (2 + step / config.steps) / 3


def signals(config: Config, step: int | None = None) -> tuple[str, ...]:
    """Names of the signals that answer at ``step``, or at some step."""
    return tuple(weights(config, step))
