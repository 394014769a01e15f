"""The black-box score and the audit made of both: a memoriser is caught, a generator that knows nothing is not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from trainables.base import Dataset, Sampler
from trainables.data import sources
from trainables.data.canaries import Kind, Planted, plant
from trainables.evaluation import leakage
from trainables.evaluation.leakage import NO_GREY_BOX, audit, nearest, right_guesses
from trainables.real.training import RealImages

FINGERPRINT = "fedcba9876543210" * 4
SETTINGS = {"samples": 1000, "seed": 0, "guesses": 60, "confidence": 0.95, "delta": 1e-5, "neighbours": "replace_one"}


def planted(kind: Kind, seed: int = 0) -> Planted:
    train, test = sources.load("digits")
    rows = {"spare": slice(1200, None), "train": slice(1200)}
    parts = {name: replace(train, images=train.images[own], labels=train.labels[own]) for name, own in rows.items()}
    present = np.random.default_rng(seed).integers(0, 2, 120).astype(bool)
    return plant(parts["train"], test, parts["spare"], present, kind=kind, fingerprint=FINGERPRINT, classes=10)


def memoriser(data: Dataset) -> Sampler:
    """Hands out the records of ``data``, every one of the class that is asked for."""
    return RealImages(torch.from_numpy(data.images), torch.from_numpy(data.labels), torch.device("cpu"))


@pytest.mark.parametrize("kind", ["mislabelled", "held_out", "noise"])
def test_a_memoriser_is_caught_by_its_samples(kind: Kind) -> None:
    found = planted(kind)
    result = audit(found, memoriser(found.train), None, info=found.train.info, epsilon=1.0, **SETTINGS)
    assert result["black_box"]["right"] >= 58
    assert 1.0 < result["black_box"]["bound"] <= result["highest_bound"]
    assert result["black_box"]["p_at_epsilon"] < 0.05
    assert result["grey_box"] == {"definition": NO_GREY_BOX}
    assert (result["canaries"], result["origin"]) == (120, found.origin)


def test_a_generator_that_saw_no_canary_is_not_accused() -> None:
    """Test images in place of generated ones: 600 guesses at ten sets of coins miss 300 by under 5 standard deviations."""
    right = 0
    for seed in range(10):
        found = planted("mislabelled", seed)
        result = audit(found, memoriser(found.test), None, info=found.train.info, epsilon=None, **{**SETTINGS, "samples": 200})
        right += result["black_box"]["right"]
    assert abs(right - 300) < 5 * np.sqrt(600) / 2


def test_grey_box_scores_are_bounded_beside() -> None:
    found = planted("held_out")
    scores = torch.from_numpy(np.where(found.present, 1.0, -1.0))
    result = audit(found, memoriser(found.test), scores, info=found.train.info, epsilon=2.0, **{**SETTINGS, "samples": 200})
    assert result["grey_box"]["right"] == 60
    assert result["grey_box"]["bound"] == result["highest_bound"]


def test_guesses_are_the_ends_of_the_scores_and_ties_keep_their_order() -> None:
    present = np.array([True, True, False, False])
    assert right_guesses(np.array([3.0, 2.0, 1.0, 0.0]), present, 4) == 4
    assert right_guesses(np.array([3.0, 0.0, 1.0, 2.0]), present, 2) == 1
    assert right_guesses(np.zeros(4), present, 4) == 0  # the first half is guessed out, the second in
    assert right_guesses(np.array([np.nan, -1.0, -2.0, -3.0]), present, 2) == 2


def test_distances_are_to_the_class_alone() -> None:
    images = np.array([[[[0]]], [[[255]]], [[[51]]]], dtype=np.uint8)
    records = Dataset(images=images[2:].repeat(3, axis=0), labels=np.array([0, 1, 2]), classes=3)
    among = Dataset(images=images[:2], labels=np.array([0, 1]), classes=3)
    assert nearest(records, among) == pytest.approx([0.2, 0.8, 0.0], abs=1e-6)


def test_samples_are_no_metrics_samples() -> None:
    """The coins are the audit's own, so that a metric says nothing of what the audit will see."""
    seen: list[int] = []

    def sampler(labels: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
        seen.append(rng.initial_seed())
        return torch.zeros(len(labels), 1, 28, 28)

    from trainables.evaluation.evaluate import generate

    info = sources.describe("digits")
    leakage.fresh_samples(sampler, samples=600, seed=0, info=info)
    generate(sampler, info=info, samples=600, seed=0)
    assert len(set(seen)) == len(seen) == 4
