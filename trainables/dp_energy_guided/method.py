"""dp_energy_guided: a private classifier first, then dp_energy whose generator the classifier guides.

Phase 1 releases a multinomial logistic regression on public oriented features, trained by DP-SGD (Abadi et al., 2016).
Phase 2 is dp_energy; its generator also lowers the cross-entropy of its images under the released classifier, which is
post-processing and costs nothing. It is the classifier term of DPAC (Chen et al., 2023) and of Ma & Zhang (2026) in a form
whose account is exact: there the classifier is private and its gradient is one more release a step.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from trainables.base import DataInfo, Stage
from trainables.dp_energy import method as dp_energy
from trainables.privacy.mechanism import Neighbours, Phase, RecordMechanism

NAME = "dp_energy_guided"
VERSION = 1

ORIENTATIONS = 8
SCALES = (1.0, 2.0)
"""Standard deviations, in pixels, of the oriented filters."""


class ClassifierConfig(BaseModel):
    """Phase 1, and how phase 2 uses what it released."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    steps: int = Field(default=200, ge=1)
    """Steps of DP-SGD, each one release of a gradient."""
    sampling_rate: float = Field(default=0.05, gt=0, le=1)
    """Probability that a record takes part in a step."""
    noise_ratio: float = Field(default=1.15, gt=0)
    """The split of the budget: this phase's noise multiplier over the generator phase's. Smaller: a better classifier."""
    learning_rate: float = Field(default=6.0, gt=0)
    """Rate of gradient descent with momentum 0.9 at the first step; it falls to 5 % on a cosine."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """C1: bound to which every record's gradient is clipped."""
    weight: float = Field(default=0.5, ge=0)
    """Weight of the cross-entropy of generated images beside the energy release."""
    start: float = Field(default=0.2, ge=0, le=1)
    """Share of the generator's steps after which the cross-entropy is switched on."""


class Config(dp_energy.Config):
    """Settings of dp_energy (steps and sampling_rate are those of the generator's phase) and of the classifier before it."""

    classifier: ClassifierConfig = Field(default=ClassifierConfig())
    """The private classifier of phase 1."""


PRESETS: dict[str, dict[str, Any]] = {
    "digits": {
        **dp_energy.PRESETS["digits"],
        "classifier": {"steps": 50, "sampling_rate": 1.0},
    },
}


def classifier_features(data: DataInfo) -> int:
    """Length of the public feature vector that the classifier reads: oriented energies, a thumbnail and a constant."""
    oriented = ORIENTATIONS * len(SCALES) * (data.height // 4) * (data.width // 4)
    thumbnail = data.channels * (data.height // 2) * (data.width // 2)
    return oriented + thumbnail + 1


def mechanism(config: Config, data: DataInfo, neighbours: Neighbours) -> tuple[Phase, ...]:
    """Two phases: the classifier's gradients, of shape (classes, features), then the generator's releases.

    Raises ``ValueError`` where the settings contradict each other or the declared data.
    """
    energy_phases = dp_energy.mechanism(config, data, neighbours)
    gradient = RecordMechanism(
        sampling_rate=config.classifier.sampling_rate,
        records=data.size,
        release_shape=(data.classes, classifier_features(data)),
        noise_multiplier=config.classifier.noise_ratio,
        neighbours=neighbours,
    )
    return (Phase(mechanism=gradient, steps=config.classifier.steps), *energy_phases)


def stages(config: Config, data: DataInfo) -> tuple[Stage, ...]:
    """None: the classifier is a phase of the trial, with its share of the trial's budget."""
    return ()
