"""What the evaluation's numbers are called and mean; importable without torch, for schemas and plans."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from trainables.base import Stage

EVALUATION_VERSION = 2
"""Raised whenever the same samples would get other numbers."""

MIN_SAMPLES = 10
"""Fewest images that can be evaluated: the inception score splits them in ten."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One column of results. A name never changes meaning."""

    direction: Literal["higher", "lower"]
    """Which way is better."""
    private: bool
    """Computed from the private training set without noise (through its classifier): for the data owner only. The others
    touch private data through the generator alone and are free where the test set is public."""
    reference: str
    """What the generated images are held against."""
    description: str


def _gen2real(classifier: str) -> Metric:
    return Metric(
        direction="higher",
        private=False,
        reference="real test set",
        description=f"accuracy on real test images of {classifier} trained on the generated images (last step)",
    )


METRICS: dict[str, Metric] = {
    "gen2real_cnn": _gen2real("a small CNN"),
    "gen2real_mlp": _gen2real("an MLP with 100 hidden units"),
    "gen2real_logreg": _gen2real("multinomial logistic regression"),
    "real2gen_cnn": Metric(
        direction="higher",
        private=True,
        reference="CNN trained on the real training set",
        description="share of generated images that the CNN takes for the class they were asked for",
    ),
    "fd_dataset_classifier": Metric(
        direction="lower",
        private=True,
        reference="real test set, features of the CNN trained on the real training set",
        description="Frechet distance on the CNN's 64 features; not an FID; falls with the number of images",
    ),
    "is_dataset_classifier": Metric(
        direction="higher",
        private=True,
        reference="CNN trained on the real training set",
        description="inception score from the CNN's predictions, 10 splits; at most the number of classes",
    ),
}


def reference_stage(samples: int, seed: int = 0) -> Stage:
    """The stage that ``evaluate`` needs: real-data classifier, statistics, ceilings and floors at ``samples`` images."""
    return Stage(
        name="reference",
        config={"samples": samples, "seed": seed, "version": EVALUATION_VERSION},
        compute="trainables.evaluation.reference:compute",
    )
