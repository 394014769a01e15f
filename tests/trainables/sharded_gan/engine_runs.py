"""Small real runs of the sharded engine: data, stages computed by its own code, trainers, and sanitizers that look or force."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trainables import registry
from trainables.base import Dataset, phase_of
from trainables.coins import numpy_coins
from trainables.privacy.mechanism import Phase, ShardMechanism, scale_noise
from trainables.privacy.sanitizer import Sanitizer
from trainables.sharded_gan.training import Trainer

CPU = torch.device("cpu")

TINY: dict[str, Any] = {
    "steps": 8,
    "shards": 6,
    "shards_per_step": 2,
    "generator_batch": 4,
    "generator": "small",
    "generator_channels": 4,
    "z_dim": 3,
    "learning_rate": 1e-2,
    "critic": {
        "channels": 4,
        "steps": 2,
        "batch": 6,
        "learning_rate": 1e-2,
        "pretraining": {
            "steps": 2,
            "critic_steps": 2,
            "generator": "small",
            "hidden": 5,
            "learning_rate": 1e-2,
            "shards_per_job": 4,
        },
    },
    "encoder": {"channels": 2, "latent": 3, "steps": 2, "batch": 6, "shards_per_job": 4},
}
"""Settings for 8x8 images: seconds for a file of tests."""

PUBLISHED_NETWORKS: dict[str, Any] = {"generator": "resnet", "generator_channels": 4}
"""The generator whose spectral norms have a state; for 28x28 images."""

RECONSTRUCTION: dict[str, Any] = {"reconstruction": 1.0, "reconstruction_clip": 0.5}

CLASSIFIER: dict[str, Any] = {
    "weight": 0.5,
    "channels": 4,
    "fake_steps": 2,
    "fake_batch": 6,
    "real_steps": 2,
    "batch": 6,
    "learning_rate": 1e-2,
}

SIGNALS: dict[str, dict[str, Any]] = {
    "critic": {},
    "critic with shared fakes": {"critic": {**TINY["critic"], "fakes": "shared"}},
    "energy": {"critic": {"kind": "energy"}},
    **{
        f"reconstruction by {matching}": {**RECONSTRUCTION, "matching": matching, "critic": {"weight": 0.0}}
        for matching in ("pixels", "latent", "random")
    },
    "critic and reconstruction": {**RECONSTRUCTION, "matching": "latent"},
    "classifier": {"critic": {"weight": 0.0}, "classifier": CLASSIFIER},
    "critic and classifier": {"classifier": CLASSIFIER},
}
"""What a shard may answer, as changes of ``TINY``."""


def settings(*changes: Mapping[str, Any]) -> dict[str, Any]:
    """``TINY`` with changes of its top level, one after the other."""
    return {key: value for change in (TINY, *changes) for key, value in change.items()}


def random_data(
    records: int = 60, shape: tuple[int, int, int] = (1, 8, 8), classes: int = 2, seed: int = 0, ordered: bool = False
) -> Dataset:
    """Random images; labels in turn where ``ordered``, else random."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (records, *shape), dtype=np.uint8)
    labels = np.arange(records) % classes if ordered else rng.integers(0, classes, records)
    return Dataset(images=images, labels=labels, classes=classes)


def with_record(data: Dataset, index: int, image: np.ndarray, label: int) -> Dataset:
    """``data`` with one record replaced."""
    images, labels = data.images.copy(), data.labels.copy()
    images[index], labels[index] = image, label
    return replace(data, images=images, labels=labels)


def compute_stages(method: str, config: Mapping[str, Any], data: Dataset, root: Path) -> dict[str, Path]:
    """Every stage that the trial declares, computed as the harness does; name -> folder."""
    package = registry.method(method)
    folders: dict[str, Path] = {}
    for stage in package.stages(package.Config(**config), data.info):
        folder = root / stage.name
        folder.mkdir(parents=True)
        module, _, function = stage.compute.partition(":")
        getattr(importlib.import_module(module), function)(stage.config, data, data, folder, CPU)
        folders[stage.name] = folder
    return folders


@dataclass
class Run:
    """A trial without the harness around it."""

    trainer: Trainer
    sanitizer: Any
    phase_steps: Sequence[int]

    def advance(self, start: int, end: int) -> list[dict[str, float]]:
        diagnostics = []
        for step in range(start, end):
            self.sanitizer.open_step(step, phase_of(step, self.phase_steps))
            diagnostics.append(self.trainer.step())
            self.sanitizer.close_step()
        return diagnostics


def start(
    config: Mapping[str, Any],
    data: Dataset,
    stages: Mapping[str, Path],
    *,
    method: str = "gs_wgan",
    sanitizer: type[Sanitizer] = Sanitizer,
    noise: float = 1.0,
    injected_seed: int = 5,
    trainer: type[Trainer] = Trainer,
    seed: int = 0,
    **options: Any,
) -> Run:
    """A trial at step 0; ``options`` are the sanitizer's."""
    package = registry.method(method)
    settings = package.Config(**config)
    phases = scale_noise(package.mechanism(settings, data.info, "replace_one"), noise)
    executed = [0] * len(phases) if settings.schedule == "round_robin" else None
    guard = sanitizer(phases, injected_seed=injected_seed, executed=executed, **options)
    return Run(trainer(settings, data, guard, stages, CPU, seed), guard, [phase.steps for phase in phases])


class Recorder(Sanitizer):
    """The sanitizer, keeping what it drew, what it was handed and what it released."""

    def __init__(self, *arguments: Any, draws: Sequence[Sequence[int]] | None = None, **options: Any) -> None:
        """``draws``: the shards of every step, in place of the drawn ones."""
        super().__init__(*arguments, **options)
        self._script = draws
        self.drawn: list[np.ndarray] = []
        self.answers: list[torch.Tensor] = []
        self.released: list[torch.Tensor] = []

    def sample_shards(self) -> np.ndarray:
        shards = super().sample_shards()
        if self._script is not None:
            shards = np.array(self._script[len(self.drawn)])
        self.drawn.append(shards)
        return shards

    def release_rows(self, answers: torch.Tensor, **bounds: Any) -> torch.Tensor:
        self.answers.append(answers.detach().clone())
        self.released.append(self.forced(super().release_rows(answers, **bounds)))
        return self.released[-1]

    def forced(self, release: torch.Tensor) -> torch.Tensor:
        return release


class Forced(Recorder):
    """Runs the answers, then releases tensors that depend on the number of the release alone: every history is equal."""

    def forced(self, release: torch.Tensor) -> torch.Tensor:
        coins = numpy_coins(0, "forced", sum(self.releases))
        return torch.from_numpy(coins.standard_normal(tuple(release.shape))).float()


def shard_phases(steps: int, **fields: Any) -> list[Phase]:
    """One phase of a shard mechanism, noise 0."""
    return [Phase(mechanism=ShardMechanism(noise_multiplier=0.0, **fields), steps=steps)]


def equal(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> bool:
    """Whether all tensors are equal to the bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
