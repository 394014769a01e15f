"""The classifiers of published tables: their shapes, that they learn, that they repeat."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from trainables.base import DataInfo
from trainables.data import sources
from trainables.evaluation import prior_work
from trainables.evaluation.gen2real import KINDS, gen2real
from trainables.evaluation.metrics import GROUPS, SMALLEST_SIDE, check, columns
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
