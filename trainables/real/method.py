"""real: training images in the place of generated ones, the row that every other one is compared with.

It has no privacy and no epsilon: what it keeps is private data, to be measured where it lies and never released.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from trainables.base import DataInfo, Stage
from trainables.privacy.mechanism import Neighbours, NoRelease, Phase

NAME = "real"
VERSION = 1


class Config(BaseModel):
    """How many real images are kept."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    samples_a_class: int = Field(default=1100, ge=1)
    """Training images of a class that are kept, or all of them if there are fewer. An evaluation needs evaluate.samples over
    the number of classes, and the pictures keep_samples over it on top."""


PRESETS: dict[str, dict[str, Any]] = {"published": {}, "cpu": {}}


def mechanism(config: Config, data: DataInfo, neighbours: Neighbours) -> tuple[Phase, ...]:
    """One step that releases nothing and keeps real images."""
    return (Phase(mechanism=NoRelease(purpose="reference", neighbours=neighbours), steps=1),)


def stages(config: Config, data: DataInfo) -> tuple[Stage, ...]:
    """None: there is nothing to learn."""
    return ()


def check(config: Config, data: DataInfo) -> None:
    """All declared data will do."""
