"""Tiny runs of the three methods, and the import path of ``pate_runs``."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from trainables.base import Dataset
from trainables.pate.training import PateTrainer
from trainables.privacy.mechanism import Phase, scale_noise
from trainables.privacy.sanitizer import Sanitizer

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def random_data() -> Callable[..., Dataset]:
    """``random_data(records, shape, classes, seed)``."""

    def make(records: int = 26, shape: tuple[int, int, int] = (1, 8, 8), classes: int = 2, seed: int = 0) -> Dataset:
        rng = np.random.default_rng(seed)
        images = rng.integers(0, 256, (records, *shape), dtype=np.uint8)
        return Dataset(images=images, labels=np.arange(records) % classes, classes=classes)

    return make


@pytest.fixture
def build() -> Callable[..., tuple[PateTrainer, Sanitizer]]:
    """``build(method, data, factor=..., sanitizer=..., injected_seed=..., **settings)``: a trainer and its sanitizer."""
    from pate_runs import SETTINGS

    from trainables import registry

    def make(
        method: str,
        data: Dataset,
        *,
        factor: float = 0.01,
        sanitizer: type[Sanitizer] = Sanitizer,
        injected_seed: int | None = 5,
        **settings: Any,
    ) -> tuple[PateTrainer, Sanitizer]:
        package = registry.method(method)
        config = package.Config(**{**SETTINGS[method], **settings})
        phases: tuple[Phase, ...] = scale_noise(package.mechanism(config, data.info, "replace_one"), factor)
        made = sanitizer(phases, injected_seed=injected_seed)
        return registry.training(method).Trainer(config, data, made, {}, torch.device("cpu"), 0), made

    return make


@pytest.fixture
def run() -> Callable[..., list[dict[str, float]]]:
    """``run(trainer, sanitizer, first, last)`` makes the steps from ``first`` up to ``last``; returns their diagnostics."""

    def steps(trainer: PateTrainer, sanitizer: Sanitizer, first: int = 0, last: int = 4) -> list[dict[str, float]]:
        found = []
        for step in range(first, last):
            sanitizer.open_step(step, 0)
            found.append(trainer.step())
            sanitizer.close_step()
        return found

    return steps
