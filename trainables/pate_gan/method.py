"""pate_gan: Jordon, Yoon and van der Schaar (ICLR 2019), a student critic that learns from noisy votes on generated images.

K critics on disjoint parts of the records vote, for every generated image of a step, whether it is real. The student sees
generated images with these noisy labels alone, and the generator is trained against the student.

Deviations from the published code, which is tabular. The parts are disjoint (there every teacher gets the last one's), the
teachers are critics that go on learning (there logistic regressions, fitted again in every round), the noise is Gaussian, the
number of labels is planned, and neither runs nor rounds are chosen by their score on private data. The student is trained by
cross-entropy as in the paper. What Ganev, Annamalai and De Cristofaro (2025) found in six implementations is ruled out here:
votes are counted by the sanitizer, and the account does not depend on them.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from trainables.base import DataInfo, Stage
from trainables.pate.prices import remark
from trainables.pate.settings import PateConfig, check_pate
from trainables.privacy.mechanism import Neighbours, Phase, TeacherMechanism

NAME = "pate_gan"
VERSION = 1


class Config(PateConfig):
    """Settings of the votes and of the student."""

    steps: int = Field(default=200, ge=1)
    """Generator updates; each asks all teachers once."""
    teachers: int = Field(default=2000, ge=1)
    """K: the records are cut into K parts of equal size. Every teacher votes on every image."""
    batch: int = Field(default=32, ge=1)
    """Generated images a step that get a label."""
    label: Literal["majority", "share"] = "share"
    """What the student learns of an image: whether more than half of the noisy votes say real, as published, or their share."""
    teacher_pretraining: int = Field(default=0, ge=0)
    """Updates of every teacher before the first step; teachers that have learnt much call every generated image unreal."""
    teacher_learning_rate: float = Field(default=1e-4, gt=0)
    """Adam's rate for the teachers."""
    student_width: int = Field(default=64, ge=1)
    """Width of the student, a critic of the teachers' kind."""
    student_learning_rate: float = Field(default=3e-3, gt=0)
    """Adam's rate for the student."""


PRESETS: dict[str, dict[str, Any]] = {
    # Ten teachers and batches of 64 as in the published code; noise of std 100 on the votes buys 625 steps at epsilon 10 and
    # delta 1e-5. With ten votes in noise of 100 the labels say nothing.
    "published": {
        "steps": 625,
        "teachers": 10,
        "batch": 64,
        "teacher": "convolutional",
        "teacher_width": 32,
        "teacher_pretraining": 0,
        "teacher_learning_rate": 1e-4,
        "label": "majority",
        "student_width": 32,
        "student_learning_rate": 1e-4,
        "generator": "dcgan",
        "generator_channels": 256,
        "z_dim": 100,
        "learning_rate": 1e-4,
        "ema": 0.0,
    },
    # Many dense teachers that learn slowly, and shares for labels. At epsilon 10 on Fashion-MNIST it learns nothing (it makes
    # black images, and a logistic regression reads chance, .10; 1000 teachers did no better): the teachers soon call all
    # generated images unreal.
    "cpu": {},
}


def mechanism(config: Config, data: DataInfo, neighbours: Neighbours) -> tuple[Phase, ...]:
    """One phase: a count of yes votes in each of ``batch`` rows, one an image.

    Raises ``ValueError`` where the settings contradict the declared data.
    """
    check(config, data)
    votes = TeacherMechanism(
        answer="yes_no",
        teachers=config.teachers,
        release_shape=(config.batch,),
        noise_multiplier=config.vote_noise,
        neighbours=neighbours,
    )
    return (Phase(mechanism=votes, steps=config.steps),)


def stages(config: Config, data: DataInfo) -> tuple[Stage, ...]:
    """None: teachers are trained in the trial."""
    return ()


def check(config: Config, data: DataInfo) -> None:
    """Raise ``ValueError`` with one sentence if these settings cannot train on data of the declared shape."""
    check_pate(config, data)


def remarks(config: Config, data: DataInfo, *, target_epsilon: float, delta: float) -> tuple[str, ...]:
    """What the settings' own noise buys."""
    (phase,) = mechanism(config, data, "replace_one")
    noise = f"pate_gan: noise of std {config.vote_noise:g} on {config.teachers} teachers' votes, {config.batch} labels a step,"
    return (remark(phase, noise, target_epsilon=target_epsilon, delta=delta),)
