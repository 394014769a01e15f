"""Training of dp_energy_guided: the classifier's phase, then dp_energy with the classifier as its guide."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from trainables.base import DataInfo, Dataset
from trainables.dp_energy.training import Trainer as EnergyTrainer
from trainables.dp_energy.training import load_sampler as load_sampler
from trainables.dp_energy.training import recipe as energy_recipe
from trainables.privacy.sanitizer import Sanitizer
from trainables.standalone.recipe import Recipe

from .classifier import PrivateClassifier
from .method import Config

_HINGE = 0.5  # cross-entropy below which an image is typical enough; lower would make samples too typical


class Trainer:
    """Runs the two phases one after the other; the contract is ``trainables.base.Trainer``."""

    def __init__(
        self,
        config: Config,
        data: Dataset,
        sanitizer: Sanitizer,
        stages: Mapping[str, Path],
        device: torch.device,
        seed: int,
    ) -> None:
        self._config = config
        self._energy = EnergyTrainer(config, data, sanitizer, stages, device, seed)
        self._classifier = PrivateClassifier(config.classifier, data, sanitizer, device)

    def step(self) -> dict[str, float]:
        """A step of the classifier until it is done, then a step of the generator."""
        if not self._classifier.done:
            return self._classifier.step()
        guided = self._energy.steps_done >= self._config.classifier.start * self._config.steps
        return self._energy.step(guide=self._guide if guided else None)

    def _guide(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        excess = (self._classifier.cross_entropy(images, labels) - _HINGE).relu()
        return self._config.classifier.weight * excess.mean()

    def sample(self, labels: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
        """Images ``[n, C, H, W]`` of the averaged generator."""
        return self._energy.sample(labels, rng)

    def released(self) -> dict[str, torch.Tensor]:
        """The averaged generator's weights, and the private classifier's as ``classifier.weight``."""
        return {**self._energy.released(), "classifier.weight": self._classifier.weight.clone()}

    def state_dict(self) -> dict[str, Any]:
        """The state of both phases."""
        return {"classifier": self._classifier.state_dict(), "energy": self._energy.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state_dict`` was taken."""
        self._classifier.load_state_dict(state["classifier"])
        self._energy.load_state_dict(state["energy"])


def recipe(config: Config, info: DataInfo) -> Recipe:
    """The generator that ``config`` describes; the private classifier is kept beside it."""
    return replace(energy_recipe(config, info), beside=("classifier.weight",))
