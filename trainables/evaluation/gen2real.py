"""gen2real: a classifier is trained on generated images, and its accuracy on real test images is the generator's score."""

from __future__ import annotations

from typing import Literal

import torch

from trainables.base import Dataset

from . import prior_work
from .metrics import Group
from .utility import Kind as StandardKind
from .utility import accuracy, predict, train_classifier

Kind = StandardKind | Literal["lenet", "mlp_sklearn"]
KINDS: dict[Group, tuple[Kind, ...]] = {
    "standard": ("cnn", "mlp", "logreg"),
    "prior_work": ("lenet", "mlp_sklearn"),
}
"""Classifiers of the groups of metrics that have any; the column is ``gen2real_<kind>``."""


def gen2real(
    kind: Kind, images: torch.Tensor, labels: torch.Tensor, test: Dataset, *, seed: int, device: torch.device
) -> tuple[float, list[float]]:
    """(accuracy, accuracies a class) on ``test`` of classifier ``kind`` trained on uint8 ``images [N, C, H, W]``."""
    test_images, test_labels = torch.from_numpy(test.images), torch.from_numpy(test.labels)
    if kind == "mlp_sklearn":
        mlp = prior_work.train_mlp(images, labels, seed=seed)
        predicted = torch.from_numpy(mlp.predict(prior_work.as_rows(test_images)))
    elif kind == "lenet":
        network = prior_work.train_lenet(images, labels, test.classes, seed=seed, device=device)
        predicted = predict(network, test_images, device)
    else:
        network = train_classifier(kind, images, labels, test.classes, seed=seed, device=device)
        predicted = predict(network, test_images, device)
    return accuracy(predicted, test_labels, test.classes)
