from collections.abc import Callable

import numpy as np
import pytest

from trainables.base import Dataset


@pytest.fixture
def random_data() -> Callable[..., Dataset]:
    """Data sets of random images: ``random_data(records, shape, classes, seed)``."""

    def make(records: int = 40, shape: tuple[int, int, int] = (1, 8, 8), classes: int = 2, seed: int = 0) -> Dataset:
        rng = np.random.default_rng(seed)
        images = rng.integers(0, 256, (records, *shape), dtype=np.uint8)
        return Dataset(images=images, labels=np.arange(records) % classes, classes=classes)

    return make
