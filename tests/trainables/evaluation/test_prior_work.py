"""The classifiers of published tables: their shapes, that they learn, that they repeat."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from trainables.base import DataInfo, Dataset
from trainables.data import sources
from trainables.evaluation import evaluate, prior_work, reference
from trainables.evaluation.gen2real import KINDS, gen2real
from trainables.evaluation.metrics import GROUPS, METRICS, SMALLEST_SIDE, check, columns, reference_stage
from trainables.evaluation.utility import accuracy, predict
from trainables.networks.classifier import CelebaCNN, LeNet

CPU = torch.device("cpu")


def pixels(height: int, width: int) -> DataInfo:
    return DataInfo(size=100, channels=1, height=height, width=width, classes=10)


def parameters(network: nn.Module) -> int:
    return sum(weight.numel() for weight in network.parameters())


def test_the_networks_are_the_published_ones() -> None:
    lenet = 6 * 26 + 16 * 151 + 120 * 401 + 84 * 121 + 10 * 85
    assert parameters(LeNet((1, 28, 28), 10)) == lenet == 61706
    celeba = 32 * 28 + 64 * 289 + 128 * 577 + 128 * 2049 + 2 * 129
    assert parameters(CelebaCNN((3, 32, 32), 2)) == celeba


@pytest.mark.parametrize("network", [LeNet, CelebaCNN])
@pytest.mark.parametrize("side", [SMALLEST_SIDE, 28, 32, 64])
def test_any_size_that_is_let_in_fits(network, side: int) -> None:
    channels = 1 if network is LeNet else 3
    assert network((channels, side, side), 7)(torch.rand(2, channels, side, side)).shape == (2, 7)


def test_smaller_images_are_refused_for_these_networks_alone() -> None:
    check(["standard"], pixels(8, 8), 10)
    check(["prior_work"], pixels(SMALLEST_SIDE, SMALLEST_SIDE), 10)
    with pytest.raises(ValueError, match=r"^metrics has `prior_work`.* at least 18 pixels a side; these have 8 x 32"):
        check(GROUPS, pixels(8, 32), 10)


def test_every_classifier_has_its_column() -> None:
    for group in GROUPS:
        assert {f"gen2real_{kind}" for kind in KINDS.get(group, ())} == {
            n for n in columns([group]) if n.startswith("gen2real")
        }


def test_both_learn_digits_that_they_have_not_seen() -> None:
    train, test = sources.load("digits")
    images, labels = torch.from_numpy(train.images), torch.from_numpy(train.labels)
    for kind in KINDS["prior_work"]:
        overall, by_class = gen2real(kind, images, labels, test, seed=0, device=CPU)
        assert overall > 0.93
        assert min(by_class) > 0.8


def test_colour_images_are_told_apart_by_the_celeba_network_without_its_dropout() -> None:
    rng = torch.Generator().manual_seed(0)
    labels = torch.arange(256) % 2
    images = torch.randint(0, 128, (256, 3, 32, 32), generator=rng, dtype=torch.uint8)
    images[labels == 1, 0] += 100  # the second class is redder
    network = prior_work.train_lenet(images, labels, 2, seed=0, device=CPU, epochs=5)
    assert isinstance(network, CelebaCNN)
    logits = network(prior_work.as_float(images))
    assert (logits.argmax(dim=1) == labels).float().mean() > 0.95
    assert torch.equal(logits, network(prior_work.as_float(images)))


def test_training_repeats_and_leaves_the_global_coins_alone() -> None:
    rng = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (150, 3, 32, 32), generator=rng, dtype=torch.uint8)
    labels = torch.arange(150) % 2
    before = torch.get_rng_state()
    once, again, other = (
        prior_work.train_lenet(images, labels, 2, seed=seed, device=CPU, epochs=2).state_dict() for seed in (3, 3, 4)
    )
    assert all(torch.equal(once[name], again[name]) for name in once)
    assert not torch.equal(once["layers.0.weight"], other["layers.0.weight"])
    assert torch.equal(torch.get_rng_state(), before)


def test_real_classifiers_are_trained_once_and_their_ceilings_stated(tmp_path) -> None:
    train, test = sources.load("digits")
    few = Dataset(images=train.images[:300], labels=train.labels[:300], classes=10)
    reference.compute(reference_stage(100, ["prior_work"]).config, few, test, tmp_path, CPU)
    real = reference.load(tmp_path).summary["real"]
    assert list(real) == columns(["prior_work"])
    images, labels = map(torch.from_numpy, (test.images, test.labels))
    rows = prior_work.as_rows(images)
    networks = prior_work.load_reference(tmp_path, few.info.shape, 10, CPU)
    mlp = prior_work.train_mlp(torch.from_numpy(few.images), torch.from_numpy(few.labels), seed=0)
    assert (predict(networks["mlp_sklearn"], images, CPU).numpy() == mlp.predict(rows)).mean() > 0.995  # but for rounding
    for kind, network in networks.items():
        assert real[f"real2gen_{kind}"] == accuracy(predict(network, images, CPU), labels, 10)[0] > 0.7

    found = evaluate.evaluate(
        lambda labels, rng: torch.from_numpy(few.images[[np.flatnonzero(few.labels == k)[0] for k in labels]]).float() / 255,
        info=few.info,
        reference=tmp_path,
        test=test,
        samples=20,
        seed=0,
        device=CPU,
        metrics=["prior_work"],
    )
    assert {name for name in found if name in METRICS} == set(columns(["prior_work"]))
    assert found["real2gen_lenet"] == found["real2gen_mlp_sklearn"] == 1, "images that they were trained on"
    assert all(METRICS[name].private for name in METRICS if name.startswith("real2gen"))


@pytest.mark.parametrize("shown", [[0, 1], [1, 2], [0, 2, 3]])
def test_scikit_learns_mlp_is_the_same_function_as_a_network(shown) -> None:
    """With two classes it has one output; a class that it was never shown is never said."""
    rng = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (90, 1, 4, 4), generator=rng, dtype=torch.uint8)
    labels = torch.tensor(shown)[torch.arange(90) % len(shown)]
    mlp = prior_work.train_mlp(images, labels, seed=0)
    network = prior_work.as_network(mlp, (1, 4, 4), 4)
    assert predict(network, images, CPU).tolist() == mlp.predict(prior_work.as_rows(images)).tolist()


def test_a_new_column_changes_the_identity_of_its_group_alone() -> None:
    assert "group_versions" not in reference_stage(100).config
    assert reference_stage(100, ["standard", "prior_work"]).config["group_versions"] == {"prior_work": 2}
