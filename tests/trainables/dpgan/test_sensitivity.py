"""What a release moves by when one record changes, measured on the trainer itself with the noise set to zero."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from trainables.base import Dataset
from trainables.privacy.sanitizer import Sanitizer

BOUND = 0.25


class Last(Sanitizer):
    """Keeps the last release and the bound it was given."""

    def release_records(self, contributions, *, max_grad_norm):
        self.bound = max_grad_norm
        self.release = super().release_records(contributions, max_grad_norm=max_grad_norm)
        return self.release


def with_record(data: Dataset, image: np.ndarray, label: int) -> Dataset:
    """``data`` with its first record replaced."""
    images = np.concatenate([image[None].astype(data.images.dtype), data.images[1:]])
    return replace(data, images=images, labels=np.concatenate([[label], data.labels[1:]]))


@pytest.fixture
def release(make_run):
    """``release(data, step)``: the un-noised release of ``step``, after the same history for all data."""

    def run(data: Dataset, step: int) -> torch.Tensor:
        class History(Last):
            """Forces what was released before ``step``, so that neighbours are compared after one history."""

            def release_records(self, contributions, *, max_grad_norm):
                found = super().release_records(contributions, max_grad_norm=max_grad_norm)
                last = sum(self.releases) == step + 1
                return found if last else torch.randn(found.shape, generator=torch.Generator().manual_seed(sum(self.releases)))

        made = make_run(data, History, noise=0.0, batch_size=len(data.images), max_grad_norm=BOUND)
        made.steps(0, step + 1)
        assert made.sanitizer.bound == BOUND
        return made.sanitizer.release

    return run


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32)])
@pytest.mark.parametrize("step", [0, 3])
def test_a_record_moves_the_release_by_no_more_than_declared(random_data, release, shape, step):
    data = random_data(6, shape)
    rng = np.random.default_rng(9)
    candidates = [
        (np.zeros(shape, np.uint8), 0),
        (np.full(shape, 255, np.uint8), 0),
        (np.full(shape, 255, np.uint8), 2),
        (rng.integers(0, 256, shape, dtype=np.uint8), 1),
        (data.images[0], 1),
    ]
    found = [release(with_record(data, *candidate), step) for candidate in candidates]
    moved = [float((one - other).norm()) for one in found for other in found]
    assert max(moved) <= 2 * BOUND
    assert max(moved) > 0.2 * BOUND


@pytest.mark.parametrize("step", [0, 3])
def test_a_record_that_comes_moves_the_release_by_the_bound(random_data, release, step):
    data = random_data(6)
    floats = replace(data, images=data.images.astype(np.float32))
    absent = release(with_record(floats, np.full((1, 8, 8), np.nan), 0), step)
    present = release(floats, step)
    assert float((present - absent).norm()) == pytest.approx(BOUND, rel=1e-4)  # it is clipped: the bound is attained


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
def test_a_broken_record_neither_raises_nor_poisons(random_data, release, value):
    data = random_data(6)
    floats = replace(data, images=data.images.astype(np.float32))
    broken = floats.images[0].copy()
    broken[0, 3, 3] = value
    absent = release(with_record(floats, np.full((1, 8, 8), np.nan), 0), 1)
    found = release(with_record(floats, broken, 0), 1)
    assert torch.isfinite(found).all()
    assert float((found - absent).norm()) <= BOUND
