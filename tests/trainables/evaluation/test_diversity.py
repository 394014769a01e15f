"""Diversity and sharpness: real images reach the floors, collapse and blur show, plain restatements agree."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from trainables.base import DataInfo, Dataset
from trainables.coins import torch_coins
from trainables.data import sources
from trainables.evaluation import diversity
from trainables.evaluation import evaluate as evaluation
from trainables.evaluation import reference as reference_stage
from trainables.evaluation.metrics import METRICS, SAMPLES_A_CLASS, check, columns
from trainables.evaluation.metrics import reference_stage as declare_reference

CPU = torch.device("cpu")
COLUMNS = columns(["diversity"])
SAMPLES = 1000


@pytest.fixture(scope="module")
def data() -> tuple[Dataset, Dataset]:
    """Six thousand training images of Fashion-MNIST and all test images."""
    try:
        return sources.load("fashion_mnist", size=6000)
    except sources.MissingData as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def reference(data, tmp_path_factory):
    directory = tmp_path_factory.mktemp("reference")
    reference_stage.compute(declare_reference(SAMPLES, ["diversity"]).config, *data, directory, CPU)
    return directory


@pytest.fixture(scope="module")
def score(data, reference):
    def of(sampler) -> dict[str, float]:
        train, test = data
        settings = {"samples": SAMPLES, "seed": 0, "device": CPU, "metrics": ["diversity"]}
        return evaluation.evaluate(sampler, info=train.info, reference=reference, test=test, **settings)

    return of


def real_images(train: Dataset, shown: int = 500, blur: bool = False):
    """A sampler of the first ``shown`` training images of each class, every one of them once before any comes again."""
    images = torch.from_numpy(train.images).float() / 255
    members = [np.flatnonzero(train.labels == k)[:shown] for k in range(10)]
    used = [0] * 10

    def sample(labels: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
        chosen = []
        for label in labels.tolist():
            chosen.append(members[label][used[label] % len(members[label])])
            used[label] += 1
        found = images[chosen]
        return nn.functional.avg_pool2d(found, 3, stride=1, padding=1) if blur else found

    return sample


@pytest.fixture(scope="module")
def real_score(score, data):
    return score(real_images(data[0]))


def test_real_images_are_at_the_values_that_the_descriptions_name(real_score, reference) -> None:
    floors = reference_stage.load(reference).summary["real"]
    assert list(floors) == COLUMNS
    assert set(real_score) == {*COLUMNS, "pairwise_distance_ratio_pixels", "sharpness_ratio_laplacian"}
    for found in (real_score, floors):
        assert 0.95 < found["pairwise_distance_match_pixels"] <= 1
        assert 0.9 < found["sharpness_match_laplacian"] <= 1
        assert found["near_duplicates_pixels"] < 0.04
        assert found["density_dataset_classifier"] == pytest.approx(1, abs=0.15)
        assert found["coverage_dataset_classifier"] > 0.9


def test_mode_collapse_shows_in_all_but_sharpness(score, data, real_score) -> None:
    found = score(real_images(data[0], shown=2))
    assert found["near_duplicates_pixels"] == 1
    assert found["coverage_dataset_classifier"] < 0.2 < real_score["coverage_dataset_classifier"]
    assert found["pairwise_distance_ratio_pixels"] == found["pairwise_distance_match_pixels"] < 0.7
    assert found["sharpness_match_laplacian"] > 0.5


def test_blur_lowers_sharpness_and_noise_raises_it(score, data, real_score) -> None:
    blurred = score(real_images(data[0], blur=True))
    assert blurred["sharpness_ratio_laplacian"] == blurred["sharpness_match_laplacian"] < 0.4
    noise = score(lambda labels, rng: torch.rand(len(labels), 1, 28, 28, generator=rng))
    assert noise["sharpness_ratio_laplacian"] > 3
    assert noise["sharpness_match_laplacian"] < 1 / 3
    assert noise["coverage_dataset_classifier"] < 0.1


def test_the_columns_say_which_of_them_come_from_private_records() -> None:
    private = {name for name in COLUMNS if METRICS[name].private}
    assert private == {name for name in COLUMNS if name.endswith("dataset_classifier")}
    assert all("test set" in METRICS[name].reference for name in COLUMNS), "a private test set makes all of them private"


# --- restated plainly -----------------------------------------------------------------------------------------------------


def test_density_and_coverage_are_their_definitions(monkeypatch) -> None:
    monkeypatch.setattr(diversity, "BLOCK", 7)
    rng = np.random.default_rng(0)
    generated, real, k = rng.normal(size=(30, 3)), rng.normal(0.3, 1, size=(25, 3)), 5
    radius = [sorted(np.linalg.norm(real - one, axis=1))[k] for one in real]
    within = np.array([[np.linalg.norm(one - other) < radius[j] for j, one in enumerate(real)] for other in generated])
    found = diversity.density_and_coverage(torch.from_numpy(generated), torch.from_numpy(real), k)
    assert found == pytest.approx((within.sum() / (k * 30), within.any(axis=0).mean()), rel=1e-12)
    with pytest.raises(ValueError, match="need more than 5 real test images; there are 5"):
        diversity.density_and_coverage(torch.zeros(30, 3), torch.zeros(5, 3))


def test_the_same_law_covers_what_the_paper_says() -> None:
    generated, real = torch.randn(2, 4000, 8, dtype=torch.float64, generator=torch_coins(0, "law"))
    density, coverage = diversity.density_and_coverage(generated, real)
    assert density == pytest.approx(1, abs=0.05)
    assert coverage == pytest.approx(1 - 2**-5, abs=0.02)


def test_distances_within_classes_are_their_definitions() -> None:
    rng = np.random.default_rng(1)
    generated, real = rng.integers(0, 256, (2, 24, 1, 4, 4), np.uint8)
    generated[6] = generated[0]
    labels, real_labels = np.arange(24) % 3, np.arange(24) % 4  # eight of a class, six of a class; class 3 is never generated

    def distances(images, of_class):
        rows = images[of_class][:6].reshape(6, -1).astype(float)
        return np.array([[np.linalg.norm(one - other) for other in rows] for one in rows])

    ratios, duplicates = [], 0
    for k in range(3):
        ours, theirs = distances(generated, labels == k), distances(real, real_labels == k)
        ratios.append(ours.sum() / theirs.sum())
        nearest = [np.sort(matrix, axis=1)[:, 1] for matrix in (ours, theirs)]
        duplicates += (nearest[0] <= np.quantile(nearest[1], 0.01)).sum()
    assert duplicates >= 2
    found = diversity.spread(*map(torch.from_numpy, (generated, labels, real, real_labels)), 4)
    assert found == pytest.approx((np.mean(ratios), duplicates / 18), rel=1e-12)
    with pytest.raises(ValueError, match="no class has two generated images and two test images"):
        diversity.spread(*map(torch.from_numpy, (generated[:2], labels[:2], real, real_labels)), 4)


def test_sharpness_is_the_variance_of_the_laplacian() -> None:
    image = np.random.default_rng(2).integers(0, 256, (3, 6, 5), np.uint8)
    gray = image.mean(axis=0) / 255
    around = gray[:-2, 1:-1] + gray[2:, 1:-1] + gray[1:-1, :-2] + gray[1:-1, 2:] - 4 * gray[1:-1, 1:-1]
    assert diversity.sharpness(torch.from_numpy(image[None])).item() == pytest.approx(around.var(ddof=1), rel=1e-5)


def test_too_few_images_of_a_class_are_refused_in_one_sentence() -> None:
    info = DataInfo(size=100, channels=1, height=28, width=28, classes=10)
    check(["diversity"], info, 10 * SAMPLES_A_CLASS)
    with pytest.raises(ValueError, match=r"at least 10 of each: set evaluate.samples to 100 or more \(it is 99\)"):
        check(["diversity"], info, 99)
