"""Phase 1: multinomial logistic regression on public features by DP-SGD (Abadi et al., 2016)."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from trainables.base import Dataset
from trainables.dp_energy.features import as_images
from trainables.privacy.canary_scores import RecordContributions
from trainables.privacy.sanitizer import Contribution, Sanitizer

from .method import ClassifierConfig, classifier_features
from .oriented import OrientedFeatures

RECORDS_PER_BATCH = 512
"""Records whose features are worked on at once."""

_MOMENTUM = 0.9
_FINAL_RATE = 0.05
_AVERAGED = 0.3  # the last steps whose weights are averaged, as a share of all


class PrivateClassifier:
    """Linear classifier ``weight [classes, features]`` whose every gradient is a release."""

    def __init__(self, config: ClassifierConfig, data: Dataset, sanitizer: Sanitizer, device: torch.device) -> None:
        self._config, self._sanitizer, self._device, self._data = config, sanitizer, device, data
        self._extract = OrientedFeatures(device)
        shape = (data.classes, classifier_features(data.info))
        self._weight, self._velocity, self._total = (torch.zeros(shape, device=device) for _ in range(3))
        self._step = 0
        self._labels = torch.from_numpy(data.labels).to(device)
        self._features: torch.Tensor | None = None

    @property
    def done(self) -> bool:
        """Whether all steps were made."""
        return self._step == self._config.steps

    @property
    def weight(self) -> torch.Tensor:
        """Average of the last weights: a function of releases alone."""
        return self._total / max(self._step - self._first_averaged, 1)

    @property
    def _first_averaged(self) -> int:
        return self._config.steps - max(round(_AVERAGED * self._config.steps), 1)

    def step(self) -> dict[str, float]:
        """One gradient release and one step of descent with momentum."""
        config = self._config
        drawn = torch.from_numpy(self._sanitizer.sample_records()).to(self._device)
        self._sanitizer.explain_records(RecordContributions(self._gradients))
        release = self._sanitizer.release_records(self._contributions(drawn), max_grad_norm=config.max_grad_norm)
        self._velocity = _MOMENTUM * self._velocity + release / (config.sampling_rate * self._data.info.size)
        cosine = (1 + math.cos(math.pi * self._step / config.steps)) / 2
        rate = config.learning_rate * (_FINAL_RATE + (1 - _FINAL_RATE) * cosine)
        self._weight = self._weight - rate * self._velocity
        if self._step >= self._first_averaged:
            self._total = self._total + self._weight
        self._step += 1
        if self.done:
            self._features = None  # a quarter of a gigabyte that phase 2 has no use for
        return {"release_norm": float(release.norm()), "weight_norm": float(self._weight.norm())}

    def cross_entropy(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Cross-entropy ``[n]`` of public ``images`` under the released classifier."""
        return torch.nn.functional.cross_entropy(self._extract(images) @ self.weight.T, labels, reduction="none")

    def _contributions(self, drawn: torch.Tensor) -> Iterator[Contribution]:
        """Gradients (p - y) h^T of the drawn records, in micro-batches."""
        if self._features is None:
            self._features = self._record_features()
        weight = self._weight.double()
        for records in drawn.split(RECORDS_PER_BATCH):
            features = self._features[records].double()
            errors = torch.softmax(features @ weight.T, dim=1)
            errors -= torch.nn.functional.one_hot(self._labels[records], len(weight))
            yield _outer_products(errors, features, records)

    def _gradients(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Gradients ``[n, classes * features]`` at uint8 ``images``, for an audit."""
        usable_images, usable = as_images(images)
        features = (self._extract(usable_images) * usable[:, None]).double()
        errors = torch.softmax(features @ self._weight.double().T, dim=1)
        errors -= torch.nn.functional.one_hot(labels, len(self._weight))
        return (errors[:, :, None] * features[:, None]).flatten(1)

    def _record_features(self) -> torch.Tensor:
        """Features ``[N, features]`` of all records, zero (no contribution) for a record that is no image."""
        images = torch.from_numpy(self._data.images)
        features = torch.empty(len(images), classifier_features(self._data.info), device=self._device)
        with torch.no_grad():
            for batch, part in zip(images.split(RECORDS_PER_BATCH), features.split(RECORDS_PER_BATCH), strict=True):
                usable_images, usable = as_images(batch.to(self._device))
                part.copy_(self._extract(usable_images) * usable[:, None])
        return features

    def state_dict(self) -> dict[str, Any]:
        """Weights, momentum, running average and step; all of it is public."""
        tensors = {"weight": self._weight, "velocity": self._velocity, "total": self._total}
        return copy.deepcopy({"step": self._step, **tensors})

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state_dict`` was taken."""
        self._step = state["step"]
        self._weight, self._velocity, self._total = (
            state[name].clone().to(self._device) for name in ("weight", "velocity", "total")
        )


def _outer_products(errors: torch.Tensor, features: torch.Tensor, records: torch.Tensor) -> Contribution:
    """Contributions errors_r features_r^T of ``records`` r, for errors ``[n, classes]`` and features ``[n, size]``."""
    return Contribution(
        norms=errors.norm(dim=1) * features.norm(dim=1),
        weighted_sum=lambda weights: (weights.double()[:, None] * errors).T @ features,
        records=records,
    )
