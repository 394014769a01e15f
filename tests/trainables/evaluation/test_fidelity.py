import numpy as np
import pytest
import torch
from scipy import linalg

from trainables.evaluation.fidelity import frechet_distance, inception_score, statistics


def features(seed: int, n: int = 500, d: int = 8) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=rng, dtype=torch.float64) @ torch.randn(d, d, generator=rng, dtype=torch.float64)


def test_the_distance_of_a_set_from_itself_is_zero():
    assert frechet_distance(statistics(features(0)), statistics(features(0))) == pytest.approx(0, abs=1e-8)


def test_the_distance_is_the_closed_form_for_gaussians():
    one, other = statistics(features(0)), statistics(features(1) + 2)
    root = linalg.sqrtm(one["sigma"] @ other["sigma"])
    expected = np.sum((one["mu"] - other["mu"]) ** 2) + np.trace(one["sigma"] + other["sigma"] - 2 * root.real)
    assert frechet_distance(one, other) == pytest.approx(expected, rel=1e-8)
    assert frechet_distance(other, one) == pytest.approx(expected, rel=1e-8)


def test_features_that_are_always_zero_do_no_harm():
    """A ReLU unit may be dead, and then the covariance is singular."""
    dead = features(0)
    dead[:, 3] = 0
    distance = frechet_distance(statistics(dead), statistics(features(0)))
    assert np.isfinite(distance)
    assert distance > 0


def test_a_shift_adds_its_square():
    moved = features(0)
    moved[:, 0] += 3
    assert frechet_distance(statistics(features(0)), statistics(moved)) == pytest.approx(9, rel=1e-6)


@pytest.mark.parametrize(("spread", "score"), [(1, 1.0), (2, 2.0), (10, 10.0)])
def test_the_score_counts_classes_that_are_certain_and_balanced(spread, score):
    logits = 50.0 * torch.nn.functional.one_hot(torch.arange(10000) % spread, 10).float()
    assert inception_score(logits) == pytest.approx(score, rel=0.02)


def test_the_score_of_a_classifier_that_does_not_know_is_one():
    assert inception_score(torch.zeros(100, 10)) == pytest.approx(1)
