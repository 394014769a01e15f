"""dpdm: a small diffusion model trained by DP-SGD (Dockhorn, Cao, Vahdat, Kreis, TMLR 2023).

A denoiser in the form of EDM (Karras et al., 2022) learns from gradients that are clipped a record. Every record's loss is
averaged over several noise draws before its gradient is clipped (noise multiplicity): more is learnt at the same cost in
privacy. Sampling turns noise and a label into an image and is post-processing.

The preset ``published`` has the published settings; its UNet is of the published shape, with 1.77 million weights against
1.75 million there.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from trainables.base import DataInfo, Stage
from trainables.networks.unet_plan import GROUP, UNetPlan, plan_unet
from trainables.privacy.mechanism import Neighbours, Phase, RecordMechanism

NAME = "dpdm"
VERSION = 1


class NetworkConfig(BaseModel):
    """The UNet denoiser."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    channels: int = Field(default=16, ge=GROUP, multiple_of=GROUP)
    """Feature maps at the highest resolution."""
    multipliers: tuple[int, ...] = Field(default=(1, 1), min_length=1)
    """Feature maps of each resolution, as multiples of channels; every further one halves the sides."""
    blocks: int = Field(default=1, ge=1)
    """Residual blocks a resolution on the way down; one more on the way up."""
    patch: int = Field(default=2, ge=1)
    """Side of the squares of pixels that are folded into channels before the first layer; 1 folds nothing."""


class SamplerConfig(BaseModel):
    """How noise becomes images; no setting here costs privacy."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    kind: Literal["ddim", "edm"] = "ddim"
    """ddim: first-order deterministic steps (Song et al., 2021). edm: Heun's second-order steps, stochastic where churn is
    over 0 (Karras et al., 2022, Algorithm 2); it runs the denoiser twice a step."""
    steps: int = Field(default=16, ge=2)
    """Noise levels that are gone through."""
    sigma_min: float = Field(default=0.02, gt=0)
    """The lowest noise level before 0."""
    sigma_max: float = Field(default=20.0, gt=0)
    """The highest noise level, where sampling starts."""
    churn: float = Field(default=0.0, ge=0)
    """S_churn: fresh noise added on the way; 0 is deterministic. Of kind edm only."""
    churn_min: float = Field(default=0.05, ge=0)
    """S_min: noise level under which nothing is added."""
    churn_max: float = Field(default=50.0, ge=0)
    """S_max: noise level over which nothing is added."""
    guidance: float = Field(default=0.0, ge=0)
    """Classifier-free guidance (Ho & Salimans, 2022): how far to go past the conditional denoiser, away from the unconditional
    one. Over 0 it doubles the time of sampling."""


class Config(BaseModel):
    """Settings of the denoiser, of its DP-SGD and of its sampler."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    steps: int = Field(default=450, ge=1)
    """Steps of DP-SGD; each releases one gradient."""
    sampling_rate: float = Field(default=0.005, gt=0, le=1)
    """Probability q that a record takes part in a step."""
    noise_multiplicity: int = Field(default=1, ge=1)
    """K: noise draws that a record's loss is averaged over before its gradient is clipped."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """C: bound to which every record's gradient is clipped."""
    learning_rate: float = Field(default=3e-3, gt=0)
    """Adam's rate at the first step."""
    final_learning_rate: float = Field(default=0.1, gt=0, le=1)
    """Share of learning_rate that is left at the last step, on a cosine; 1 keeps it constant."""
    ema: float = Field(default=0.98, ge=0, lt=1)
    """Decay of the averaged denoiser, the one that is kept."""
    label_dropout: float = Field(default=0.1, ge=0, lt=1)
    """Probability that a noise draw is learnt without its label, which is what guidance needs."""
    log_noise_mean: float = -0.4
    """P_mean: mean of the logarithm of a training noise level. EDM has -1.2; short runs learn shapes sooner from more noise."""
    log_noise_std: float = Field(default=1.2, gt=0)
    """P_std: its standard deviation."""
    network: NetworkConfig = Field(default=NetworkConfig())
    """The denoiser."""
    sampler: SamplerConfig = Field(default=SamplerConfig())
    """The sampler."""


PUBLISHED: dict[str, Any] = {
    # 4096 of 60,000 records a step for 300 epochs. On a data set of N records: sampling_rate 4096 / N, steps 300 N / 4096.
    "steps": 4394,
    "sampling_rate": 4096 / 60000,
    "noise_multiplicity": 32,
    "max_grad_norm": 1.0,
    "learning_rate": 3e-4,
    "final_learning_rate": 1.0,
    "ema": 0.999,
    "log_noise_mean": -1.2,
    "network": {"channels": 32, "multipliers": (1, 2, 2), "blocks": 2, "patch": 1},
    "sampler": {"kind": "ddim", "steps": 50, "sigma_min": 0.002, "sigma_max": 80.0},
}

PRESETS: dict[str, dict[str, Any]] = {
    "published": PUBLISHED,
    "cpu": {},  # the defaults: sized for minutes on one core
}


def network_plan(config: Config, data: DataInfo) -> UNetPlan:
    """The denoiser's blocks. Raises ``ValueError`` where images of these sides do not fit it."""
    network = config.network
    return plan_unet(
        data.shape,
        data.classes,
        channels=network.channels,
        multipliers=network.multipliers,
        blocks=network.blocks,
        patch=network.patch,
    )


def mechanism(config: Config, data: DataInfo, neighbours: Neighbours) -> tuple[Phase, ...]:
    """One phase of DP-SGD: a sum over Poisson-sampled records of gradients of shape (P,), P the denoiser's weights.

    Raises ``ValueError`` where the settings contradict each other or the declared data, and for add_remove.
    """
    check(config, data)
    if neighbours != "replace_one":
        raise ValueError(
            "neighbours: add_remove is not available: a record's noise is keyed by its place, which a record fewer would move; "
            "write neighbours: replace_one"
        )
    gradient = RecordMechanism(
        sampling_rate=config.sampling_rate,
        records=data.size,
        release_shape=(network_plan(config, data).parameters,),
        noise_multiplier=1.0,
        neighbours=neighbours,
    )
    return (Phase(mechanism=gradient, steps=config.steps),)


def stages(config: Config, data: DataInfo) -> tuple[Stage, ...]:
    """None: nothing is learnt from private data outside the release."""
    return ()


def check(config: Config, data: DataInfo) -> None:
    """Raise ``ValueError`` with one sentence if these settings cannot train on data of the declared shape."""
    network_plan(config, data)
    sampler = config.sampler
    if sampler.sigma_min >= sampler.sigma_max:
        raise ValueError(f"sampler.sigma_min is {sampler.sigma_min}; expected less than sigma_max = {sampler.sigma_max}")
    if sampler.churn and sampler.kind == "ddim":
        raise ValueError(f"sampler.churn is {sampler.churn}, but ddim adds no noise; write sampler.kind: edm, or churn: 0")
    if sampler.guidance and not config.label_dropout:
        raise ValueError(
            f"sampler.guidance is {sampler.guidance}, but label_dropout is 0, so nothing is learnt without labels; write "
            "label_dropout: 0.1, or guidance: 0"
        )
