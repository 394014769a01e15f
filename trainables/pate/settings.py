"""Settings that the methods of the PATE family share, and what they ask of the declared data."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from trainables.base import DataInfo


class PateConfig(BaseModel):
    """K teachers on disjoint parts of the records, and a generator that sees their noisy votes alone."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    steps: int = Field(default=120, ge=1)
    """Generator updates; each asks all teachers once."""
    teachers: int = Field(default=4000, ge=1)
    """K: the records are cut into K parts of equal size. Every teacher answers every step."""
    batch: int = Field(default=10, ge=1)
    """Generated images a step that the teachers are asked about, and that they are trained against."""
    teacher: Literal["dense", "convolutional"] = "dense"
    """dense: one hidden layer. convolutional: the published DCGAN critic, for GPUs."""
    teacher_width: int = Field(default=8, ge=1)
    """Hidden units of a dense teacher; channels of the second convolution, less one a class, of a convolutional one."""
    teacher_batch: int = Field(default=64, ge=1)
    """Real records in one update of a teacher; a part that has no more is used whole."""
    teacher_updates: int = Field(default=1, ge=1)
    """Updates of every teacher before it answers."""
    teacher_pretraining: int = Field(default=10, ge=0)
    """Updates of every teacher against the untrained generator, before the first step."""
    teacher_learning_rate: float = Field(default=1e-3, gt=0)
    """Adam's rate for the teachers."""
    generator: Literal["small", "dcgan"] = "small"
    """small: upsampling convolutions. dcgan: transposed convolutions, for 28x28 and 32x32 pixels."""
    generator_channels: int = Field(default=32, ge=1)
    """Width of the generator's first feature maps."""
    z_dim: int = Field(default=16, ge=1)
    """Length of the latent vector."""
    learning_rate: float = Field(default=3e-3, gt=0)
    """Adam's rate for the generator."""
    ema: float = Field(default=0.9, ge=0, lt=1)
    """Decay of the averaged generator, the one that is kept; 0 keeps the last one, as published."""
    vote_noise: float = Field(default=100.0, gt=0)
    """Standard deviation of the noise on a count that the notes of a dry run price. Training uses the noise that the budget
    asks for."""


class FeedbackConfig(PateConfig):
    """Teachers that vote on where the generated images should move."""

    image_step: float = Field(default=0.1, gt=0)
    """How far an image's target lies from it, in pixels' units, where a direction has an entry of 1."""


def check_pate(config: PateConfig, data: DataInfo) -> None:
    """Raise ``ValueError`` with one sentence if these settings cannot train on data of the declared size and shape."""
    if config.teachers > data.size:
        raise ValueError(f"teachers is {config.teachers}, but there are {data.size} records; expected 1 to {data.size}")
    size = f"{data.height}x{data.width}"
    if config.generator == "dcgan" and size not in ("28x28", "32x32"):
        raise ValueError(f"images are {size}; the dcgan generator makes 28x28 or 32x32; write generator: small")
    if data.height % 4 or data.width % 4:
        raise ValueError(f"images are {size}; the small generator needs sides that are divisible by 4")
