"""The memorisation indicator: copies of training images, copies of held-out ones, and images that know neither."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from trainables.base import Dataset
from trainables.data import sources
from trainables.evaluation import evaluate as evaluation
from trainables.evaluation import memorization
from trainables.evaluation import reference as reference_stage
from trainables.evaluation.memorization import clopper_pearson, measure, nearest
from trainables.evaluation.metrics import DETAILS, METRICS, columns
from trainables.evaluation.metrics import reference_stage as declare_reference

CPU = torch.device("cpu")
COLUMNS = columns(["memorization"])


@pytest.fixture(scope="module")
def digits() -> tuple[Dataset, Dataset]:
    return sources.load("digits")


@pytest.fixture(scope="module")
def records(digits, tmp_path_factory) -> dict[str, torch.Tensor]:
    directory = tmp_path_factory.mktemp("records")
    memorization.compute_reference(*digits, directory, samples=100, seed=0, device=CPU)
    return memorization.load_reference(directory)


def test_as_many_training_records_as_held_out_ones_are_compared(digits, records) -> None:
    train, test = digits
    known = {image.tobytes() for image in train.images}, {image.tobytes() for image in test.images}
    for name, whole in zip(("train", "held_out"), known, strict=True):
        assert len(records[name]) == len(test.images)
        assert {image.numpy().tobytes() for image in records[name]} <= whole


def test_copies_of_training_images_are_all_nearer_to_them_and_copies_of_held_out_ones_none(records) -> None:
    assert measure(records["train"], records, CPU)["memorization_pixels"] == 1
    found = measure(records["held_out"], records, CPU)
    assert found["memorization_pixels"] == found["memorization_pixels_low"] == 0 < found["memorization_pixels_high"] < 0.02


def test_images_that_know_neither_are_near_one_half(digits, tmp_path) -> None:
    """By the reference stage: training images that are not compared with."""
    real = memorization.compute_reference(*digits, tmp_path, samples=1000, seed=0, device=CPU)
    assert real["memorization_pixels"] == pytest.approx(0.5, abs=0.08)  # 360 records of each stand for their law
    assert real["memorization_pixels_low"] < real["memorization_pixels"] < real["memorization_pixels_high"]


def test_a_tie_counts_half() -> None:
    image = torch.arange(16, dtype=torch.uint8).reshape(1, 1, 4, 4)
    same = {"train": image, "held_out": image.clone()}
    assert measure(image.repeat(5, 1, 1, 1), same, CPU)["memorization_pixels"] == 0.5


def test_nearest_is_the_least_squared_distance_exactly(monkeypatch) -> None:
    monkeypatch.setattr(memorization, "BLOCK", 7)
    rng = np.random.default_rng(0)
    images, others = rng.integers(0, 256, (2, 40, 3, 8, 8), np.uint8)
    expected = [min(int(((one.astype(int) - other) ** 2).sum()) for other in others.astype(int)) for one in images]
    assert nearest(torch.from_numpy(images), torch.from_numpy(others), CPU).tolist() == expected


def test_the_interval_covers_as_often_as_it_says_at_least() -> None:
    for share in (0.1, 0.5):
        hits = np.random.default_rng(0).binomial(100, share, size=4000)
        ends = {found: clopper_pearson(found, 100) for found in set(hits.tolist())}
        covered = np.mean([ends[found][0] <= share <= ends[found][1] for found in hits.tolist()])
        assert covered > 0.93  # at least .95; a deviation of .02 has 5.8 standard errors


def test_a_whole_evaluation_with_a_training_set_that_is_smaller_than_the_test_set(digits, tmp_path) -> None:
    train, test = digits
    few = Dataset(images=train.images[:60], labels=train.labels[:60], classes=10)
    reference_stage.compute(declare_reference(20, ["memorization"]).config, few, test, tmp_path, CPU)
    assert len(memorization.load_reference(tmp_path)["train"]) == 30
    copies = memorization.load_reference(tmp_path)["train"].float() / 255

    def sampler(labels: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
        return copies[torch.randint(0, 30, (len(labels),), generator=rng)]

    found = evaluation.evaluate(
        sampler, info=few.info, reference=tmp_path, test=test, samples=20, seed=0, device=CPU, metrics=["memorization"]
    )
    assert list(reference_stage.load(tmp_path).summary["real"]) == COLUMNS
    assert {*found} - {*COLUMNS} == {"memorization_pixels_low", "memorization_pixels_high"} <= DETAILS.keys()
    assert found["memorization_pixels"] == 1
    assert all(METRICS[name].private for name in COLUMNS)
