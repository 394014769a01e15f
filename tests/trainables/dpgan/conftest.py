from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from trainables.base import Dataset
from trainables.dpgan import method, training
from trainables.privacy.mechanism import scale_noise
from trainables.privacy.sanitizer import Sanitizer

TINY = {
    "steps": 6,
    "batch_size": 10,
    "fake_batch_size": 7,
    "critic_steps": 2,
    "critic_channels": 4,
    "generator_channels": 3,
    "generator_batch": 6,
    "z_dim": 3,
    "critic_learning_rate": 0.01,
    "generator_learning_rate": 0.01,
    "ema": 0.5,
    "max_grad_norm": 1.0,
}


@pytest.fixture
def random_data() -> Callable[..., Dataset]:
    """Data sets of random images: ``random_data(records, shape, classes, seed)``."""

    def make(records: int = 40, shape: tuple[int, int, int] = (1, 8, 8), classes: int = 3, seed: int = 0) -> Dataset:
        rng = np.random.default_rng(seed)
        images = rng.integers(0, 256, (records, *shape), dtype=np.uint8)
        return Dataset(images=images, labels=np.arange(records) % classes, classes=classes)

    return make


class Run:
    """A trainer with injected noise and the sanitizer beside it."""

    def __init__(self, data: Dataset, sanitizer: type[Sanitizer], noise: float, injected_seed: int, settings: dict[str, Any]):
        self.config = method.Config(**{**TINY, **settings})
        phases = scale_noise(method.mechanism(self.config, data.info, "replace_one"), noise)
        self.sanitizer = sanitizer(phases, injected_seed=injected_seed)
        self.trainer = training.Trainer(self.config, data, self.sanitizer, {}, torch.device("cpu"), 0)

    def steps(self, start: int, end: int) -> list[dict[str, float]]:
        found = []
        for step in range(start, end):
            self.sanitizer.open_step(step, 0)
            found.append(self.trainer.step())
            self.sanitizer.close_step()
        return found


@pytest.fixture
def make_run() -> Callable[..., Run]:
    """``make_run(data, sanitizer=Sanitizer, noise=1.0, injected_seed=5, **settings)`` of the tiny settings."""

    def make(data: Dataset, sanitizer=Sanitizer, noise: float = 1.0, injected_seed: int = 5, **settings) -> Run:
        return Run(data, sanitizer, noise, injected_seed, settings)

    return make
