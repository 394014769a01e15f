"""The one release of dp_merf: the sum of all records' random Fourier features, a row a class."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from trainables.base import Dataset
from trainables.coins import torch_coins
from trainables.dp_energy.features import as_images
from trainables.privacy.canary_scores import RecordContributions
from trainables.privacy.sanitizer import Contribution, Sanitizer

RECORDS_PER_BATCH = 512
"""Records whose features are held at once."""

_FILE = "embedding.safetensors"


class FourierFeatures:
    """phi(x) = [cos(W x), sin(W x)] sqrt(2 / features) of norm 1, W ~ N(0, 1 / kernel_width) (Rahimi & Recht, 2007).

    W is public: a function of ``settings`` (features, kernel_width, release) and of the shape of an image.
    """

    def __init__(self, settings: Mapping[str, Any], shape: tuple[int, int, int], device: torch.device) -> None:
        half, pixels = settings["features"] // 2, torch.Size(shape).numel()
        directions = torch.randn(pixels, half, generator=torch_coins(settings["release"], "fourier directions"))
        self._directions = (directions / settings["kernel_width"] ** 0.5).to(device)

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """``[n, C, H, W]`` in [0, 1] to ``[n, features]``."""
        angles = images.flatten(1) @ self._directions
        return torch.cat([angles.cos(), angles.sin()], dim=1) / self._directions.shape[1] ** 0.5


def release(settings: Mapping[str, Any], train: Dataset, sanitizer: Sanitizer, directory: Path, device: torch.device) -> None:
    """Release the noisy sum ``[classes, features]`` of all records' features and write it into ``directory``."""
    records = torch.from_numpy(sanitizer.sample_records())
    contributions = feature_contributions(settings, train, records, device)
    features = FourierFeatures(settings, train.info.shape, device)

    def of_records(images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        usable_images, usable = as_images(images)
        return features(usable_images) * usable[:, None]

    sanitizer.explain_records(RecordContributions(of_records, blocks=train.classes))
    total = sanitizer.release_records(contributions, max_grad_norm=1.0)
    save_file({"total": total.cpu()}, directory / _FILE)


def feature_contributions(
    settings: Mapping[str, Any], train: Dataset, records: torch.Tensor, device: torch.device
) -> Iterator[Contribution]:
    """phi(x) in the row of its class, of each of ``records``; zero for a record that is no image or has no class."""
    features = FourierFeatures(settings, train.info.shape, device)
    images, labels = torch.from_numpy(train.images), torch.from_numpy(train.labels)
    for part in records.split(RECORDS_PER_BATCH):
        usable_images, usable = as_images(images[part].to(device))
        classes = labels[part].to(device)
        usable &= (classes >= 0) & (classes < train.classes)
        rows = features(usable_images) * usable[:, None]
        yield _rows(rows, classes.clamp(0, train.classes - 1), train.classes, part.to(device))


def _rows(features: torch.Tensor, labels: torch.Tensor, classes: int, records: torch.Tensor) -> Contribution:
    def weighted_sum(weights: torch.Tensor) -> torch.Tensor:
        total = features.new_zeros(classes, features.shape[1], dtype=torch.float64)
        return total.index_add_(0, labels, features.double() * weights.double()[:, None])

    return Contribution(norms=features.double().norm(dim=1), weighted_sum=weighted_sum, records=records)


def load(directory: Path, device: torch.device) -> torch.Tensor:
    """The released sum ``[classes, features]``."""
    return load_file(directory / _FILE)["total"].to(device)
