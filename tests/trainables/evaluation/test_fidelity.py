import numpy as np
import pytest
import torch
from scipy import linalg
from torch.utils.data import TensorDataset
from torch_fidelity import FeatureExtractorBase, calculate_metrics, register_feature_extractor

from trainables.evaluation import fidelity
from trainables.evaluation.features import extract
from trainables.evaluation.fidelity import frechet_distance, inception_score, statistics
from trainables.evaluation.utility import as_float
from trainables.networks.classifier import CNN


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


def test_precision_and_recall_are_their_definitions(monkeypatch):
    """Restated plainly; only as many real images as generated ones count."""
    monkeypatch.setattr(fidelity, "BLOCK", 7)
    generated, real = features(0, n=30, d=3), features(1, n=40, d=3)

    def inside(points, centres, k=3):
        radius = [sorted(np.linalg.norm(centres - one, axis=1))[k] for one in centres]
        return np.mean([any(np.linalg.norm(point - one) <= radius[i] for i, one in enumerate(centres)) for point in points])

    ours, theirs = generated.numpy(), real.numpy()[:30]
    expected = inside(ours, theirs), inside(theirs, ours)
    assert 0 < expected[0] < 1
    assert 0 < expected[1] < 1
    assert fidelity.precision_and_recall(generated, real) == pytest.approx(expected, rel=1e-6)


def test_a_collapsed_set_is_precise_and_recalls_little():
    real = features(0)
    precision, recall = fidelity.precision_and_recall(real[:25].repeat(20, 1) + 1e-3 * features(1), real)
    assert precision > 0.9
    assert recall < 0.2


def test_the_kernel_distance_does_not_fall_with_the_number_of_images():
    """It is unbiased: about zero for one law at any number, and negative values occur."""
    same = [fidelity.kernel_distance(*features(0, n=2 * n, d=4).split(n)) for n in (100, 300)]
    other = fidelity.kernel_distance(features(0, n=200, d=4), features(1, n=200, d=4) + 2)
    assert max(map(abs, same)) < 0.1 * other


class Images(TensorDataset):
    """What torch-fidelity takes: uint8 images in three channels."""

    def __getitem__(self, index):
        return super().__getitem__(index)[0].expand(3, -1, -1)


class Classifier(FeatureExtractorBase):
    """A data-set classifier as torch-fidelity wants to be given one: gray images come to it in three channels."""

    network: CNN

    def __init__(self, name, features_list, **settings):
        super().__init__(name, features_list)

    @staticmethod
    def get_provided_features_list():
        return ("features", "logits")

    @staticmethod
    def get_default_feature_layer_for_metric(metric):
        return {"isc": "logits", "fid": "features"}[metric]

    @staticmethod
    def can_be_compiled():
        return False

    def forward(self, images):
        features = self.network.features(as_float(images[:, :1]))
        found = {"features": features, "logits": self.network.head(features)}
        return tuple(found[name] for name in self.features_list)


def test_both_are_what_torch_fidelity_computes_through_a_registered_extractor():
    rng = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        Classifier.network = CNN((1, 28, 28), 10).eval()
        with torch.no_grad():
            Classifier.network.head.weight *= 30  # a classifier that is sure of something
    one, other = (torch.randint(0, 256, (300, 1, 28, 28), generator=rng, dtype=torch.uint8) for _ in range(2))
    other[:, :, :14] = 0
    register_feature_extractor("data-set classifier", Classifier)
    with torch.no_grad():
        expected = calculate_metrics(
            input1=Images(one),
            input2=Images(other),
            feature_extractor="data-set classifier",
            isc=True,
            fid=True,
            cuda=False,
            save_cpu_ram=True,
            verbose=False,
        )
    features, logits = extract(Classifier.network, one, torch.device("cpu"))
    others, _ = extract(Classifier.network, other, torch.device("cpu"))
    assert inception_score(logits) == pytest.approx(expected["inception_score_mean"], rel=1e-5)
    assert inception_score(logits) > 1.1
    distance = frechet_distance(statistics(features), statistics(others))
    assert distance == pytest.approx(expected["frechet_inception_distance"], rel=1e-3)
