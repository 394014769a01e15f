"""The shared stage of an evaluation: everything that real data alone decides.

It trains the data-set classifier on the private training set without noise, so its folder and every metric that uses it
stay with the data owner.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from trainables.base import Dataset
from trainables.coins import torch_coins
from trainables.networks.classifier import CNN

from . import diversity, efficientnet, inception, memorization, prior_work
from .features import extract
from .fidelity import Statistics, frechet_distance, inception_score, statistics
from .gen2real import KINDS, gen2real
from .metrics import columns
from .utility import accuracy, predict, train_classifier
from .weights import InceptionWeights


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What ``compute`` left, loaded for use."""

    classifier: CNN
    """Trained on the real training set; in evaluation mode."""
    statistics: Statistics
    """Of its features on the real test set."""
    summary: Mapping[str, Any]
    """``reference.json``: ``real`` has the value of every metric that was asked for when the generated set is real."""


def compute(config: Mapping[str, Any], train: Dataset, test: Dataset, directory: Path, device: torch.device) -> None:
    """Write ``classifier.safetensors``, ``statistics.safetensors`` and ``reference.json`` into ``directory``.

    ``config`` is that of ``metrics.reference_stage``, with ``inception_path`` where Inception metrics are asked for; then
    ``inception.safetensors`` is written too. In ``reference.json`` ``real`` holds each metric's value for real images in
    place of generated ones, ``samples`` training images (all, if there are fewer): ceilings of gen2real, the Frechet
    distance's floor, the score's ceiling. The training images are no fair stand-in where they are the reference themselves:
    real2gen is the classifier's accuracy on the test set, and metrics on ImageNet features are those of as many test images,
    or of all. For memorisation they are training images that it does not compare with.
    """
    seed, samples = config["seed"], min(config["samples"], len(train.labels))
    weights = _weights(config)
    network = inception.load_network(weights, device) if weights else None  # first: other weights end the job at once
    images, labels = torch.from_numpy(train.images), torch.from_numpy(train.labels)
    test_images, test_labels = torch.from_numpy(test.images), torch.from_numpy(test.labels)

    classifier = cast(CNN, train_classifier("cnn", images, labels, train.classes, seed=seed, device=device))
    test_features, test_logits = extract(classifier, test_images, device)
    test_statistics = statistics(test_features)
    test_accuracy, _ = accuracy(test_logits.argmax(dim=1), test_labels, test.classes)

    order = torch.randperm(len(labels), generator=torch_coins(seed, "real images"))
    real_images, real_labels = images[order[:samples]], labels[order[:samples]]
    real_features, real_logits = extract(classifier, real_images, device)
    real = {
        "real2gen_cnn": test_accuracy,
        "fd_dataset_classifier": frechet_distance(statistics(real_features), test_statistics),
        "is_dataset_classifier": inception_score(real_logits),
    }
    for kind in itertools.chain.from_iterable(KINDS.get(group, ()) for group in config["metrics"]):
        real[f"gen2real_{kind}"], _ = gen2real(kind, real_images, real_labels, test, seed=seed, device=device)
    if "prior_work" in config["metrics"]:
        prior_work.compute_reference(train, directory, seed=seed, device=device)
        for name, of_real in prior_work.load_reference(directory, train.info.shape, train.classes, device).items():
            real[f"real2gen_{name}"], _ = accuracy(predict(of_real, test_images, device), test_labels, test.classes)
    if "diversity" in config["metrics"]:
        held = {"test": test, "classifier": classifier, "seed": seed}
        real |= diversity.measure(real_images, real_labels, real_features, device=device, **held)
    if "memorization" in config["metrics"]:
        real |= memorization.compute_reference(train, test, directory, samples=samples, seed=seed, device=device)
    chosen = torch.randperm(len(test_labels), generator=torch_coins(seed, "real test images"))[:samples]
    # The last of the order: where real images are measured as a method of their own, they are the first ones.
    others = order.flip(0)
    if "efficientnet" in config["metrics"]:
        of_imagenet = efficientnet.load_network(device)
        efficientnet.compute_reference(of_imagenet, images[others[:samples]], directory, device)
        features = efficientnet.extract(of_imagenet, test_images[chosen], device)
        real |= efficientnet.measure(features, efficientnet.load_reference(directory))
    if network is not None:
        logits = inception.compute_reference(network, images[others], directory, device, scored=samples)
        features, _ = inception.extract(network, test_images[chosen], device)
        real |= inception.distances(features, inception.load_reference(directory))
        real["is_inception"] = inception_score(logits)

    save_file(
        {name: value.cpu().contiguous() for name, value in classifier.state_dict().items()},
        directory / "classifier.safetensors",
    )
    save_file({name: torch.from_numpy(value) for name, value in test_statistics.items()}, directory / "statistics.safetensors")
    summary = {
        "samples": samples,
        "seed": seed,
        "shape": list(train.info.shape),
        "classes": train.classes,
        "test_accuracy": test_accuracy,
        "real": {name: real[name] for name in columns(config["metrics"])},
    }
    (directory / "reference.json").write_text(json.dumps(summary, indent=1))


def _weights(config: Mapping[str, Any]) -> InceptionWeights | None:
    if "inception" not in config["metrics"]:
        return None
    return InceptionWeights(path=config["inception_path"], sha256=config["inception_sha256"])


def load(directory: Path, device: torch.device | str = "cpu") -> Reference:
    """Read what ``compute`` wrote into ``directory``."""
    summary = json.loads((directory / "reference.json").read_text())
    with torch.device("meta"):  # no initial weights: drawing them would advance the global coins
        classifier = CNN(tuple(summary["shape"]), summary["classes"])
    classifier.load_state_dict(load_file(directory / "classifier.safetensors"), assign=True)
    classifier.to(device).to(memory_format=torch.channels_last).eval()
    saved: dict[str, np.ndarray] = {
        name: value.numpy() for name, value in load_file(directory / "statistics.safetensors").items()
    }
    return Reference(classifier=classifier, statistics=saved, summary=summary)
