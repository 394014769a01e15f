"""FID, IS and KID along their whole path, on the published network's shapes with random weights: no quality is asserted."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from torch.utils.data import TensorDataset
from torch_fidelity import calculate_metrics

from trainables.base import Dataset
from trainables.data import sources
from trainables.evaluation import evaluate as evaluation
from trainables.evaluation import inception
from trainables.evaluation import reference as reference_stage
from trainables.evaluation.metrics import columns
from trainables.evaluation.metrics import reference_stage as declare_reference
from trainables.evaluation.weights import InceptionWeights

CPU = torch.device("cpu")


class Images(TensorDataset):
    """What torch-fidelity takes: uint8 images in three channels."""

    def __getitem__(self, index: int) -> torch.Tensor:
        return super().__getitem__(index)[0].expand(3, -1, -1)


@pytest.fixture(scope="module")
def weights(inception_file) -> InceptionWeights:
    return InceptionWeights(path=str(inception_file), sha256=hashlib.sha256(inception_file.read_bytes()).hexdigest())


@pytest.fixture(scope="module")
def network(weights):
    return inception.load_network(weights, CPU)


@pytest.fixture(scope="module")
def few() -> tuple[Dataset, Dataset]:
    """Fourteen training and ten test digits."""
    train, test = sources.load("digits")
    return (
        Dataset(images=train.images[:14], labels=train.labels[:14], classes=10),
        Dataset(images=test.images[:10], labels=test.labels[:10], classes=10),
    )


def test_all_are_what_torch_fidelity_computes_by_itself(weights, network, few, tmp_path, monkeypatch) -> None:
    """By its own door, from the images and the weights file; our reference comes in chunks, which must not show."""
    generated, real = torch.from_numpy(few[1].images), torch.from_numpy(few[0].images[:10])
    monkeypatch.setattr(inception, "CHUNK", 4)
    logits = inception.compute_reference(network, real, tmp_path, CPU, scored=6)
    assert logits.shape == (6, 1008)
    found = inception.measure(network, generated, inception.load_reference(tmp_path), CPU)
    expected = calculate_metrics(
        input1=Images(generated),
        input2=Images(real),
        feature_extractor_weights_path=weights.path,
        isc=True,
        fid=True,
        kid=True,
        kid_subset_size=10,
        prc=True,
        feature_extractor="inception-v3-compat",  # by default precision and recall have another network
        cuda=False,
        save_cpu_ram=True,
        verbose=False,
    )
    assert found["is_inception"] == pytest.approx(expected["inception_score_mean"], rel=1e-5)
    assert found["fid_inception"] == pytest.approx(expected["frechet_inception_distance"], rel=1e-3)
    assert found["kid_inception"] == pytest.approx(expected["kernel_inception_distance_mean"], rel=1e-3)
    assert found["precision_inception"] == pytest.approx(expected["precision"])
    assert found["recall_inception"] == pytest.approx(expected["recall"])


def test_a_whole_evaluation_with_its_reference(weights, few, tmp_path) -> None:
    train, test = few
    stage = declare_reference(12, ["inception"], weights)
    reference_stage.compute({**stage.config, **stage.paths}, train, test, tmp_path, CPU)
    real = reference_stage.load(tmp_path).summary["real"]
    assert list(real) == columns(["inception"])

    def sampler(labels: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
        return torch.rand(len(labels), 1, 28, 28, generator=rng)

    def score(**changed) -> dict[str, float]:
        arguments = {"samples": 12, "seed": 0, "device": CPU, "metrics": ["inception"], "weights": weights, **changed}
        return evaluation.evaluate(sampler, info=train.info, reference=tmp_path, test=test, **arguments)

    found = score()
    assert set(found) == set(columns(["inception"])), "and nothing that was not asked for"
    assert found["fid_inception"] > 2 * real["fid_inception"] > 0, "noise lies farther from digits than digits"
    assert 1 <= found["is_inception"] <= 1008
    with pytest.raises(ValueError, match="needs weights"):
        score(weights=None)


def test_a_file_that_changed_after_the_plan_is_refused(weights, tmp_path: Path) -> None:
    path = tmp_path / "changed.pth"
    path.write_bytes(b"something else")
    changed = InceptionWeights(path=str(path), sha256=weights.sha256)
    with pytest.raises(ValueError, match=r"changed.pth has changed since the plan was made"):
        inception.load_network(changed, CPU)


def test_loading_the_network_leaves_the_global_coins_alone(weights) -> None:
    before = torch.get_rng_state()
    inception.load_network(weights, CPU)
    assert torch.equal(torch.get_rng_state(), before)
