"""What a release moves by when one record changes, measured on the trainer itself with the noise set to zero."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sinkhorn_runs import SMALL, Recorder, advance, make

from trainables.base import Dataset
from trainables.privacy.sanitizer import Sanitizer

CLIP = 0.5


def release_of(data: Dataset, steps: int, **settings) -> Recorder:
    """The recorder after ``steps`` steps in which all records are drawn, without noise."""
    made = make(data, noise=0.0, real_batch=len(data.labels), **settings)
    advance(made, 0, steps)
    return made[1]


def with_record(data: Dataset, image: np.ndarray, label: int) -> Dataset:
    """``data`` with its first record replaced."""
    images = np.concatenate([image[None].astype(data.images.dtype), data.images[1:]])
    return replace(data, images=images, labels=np.concatenate([[label], data.labels[1:]]))


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32)])
def test_a_replaced_record_moves_the_first_release_by_no_more_than_declared(random_data, shape):
    data = random_data(2, shape)  # few records: each has the most to say
    noise = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    candidates = [(np.zeros(shape), 0), (np.full(shape, 255), 0), (noise, 0), (data.images[0], 1), (data.images[0], 99)]
    found = [release_of(with_record(data, image, label), 1) for image, label in candidates]
    assert all(run.handed.norm() > CLIP for run in found)  # so that the clip is at work
    for run in found:
        assert float(run.release.norm()) == pytest.approx(CLIP, rel=1e-5)
    moved = max(float((one.release - other.release).norm()) for one in found for other in found)
    assert 0.2 * CLIP < moved <= 2 * CLIP * (1 + 1e-6)


def test_a_replaced_record_moves_a_later_release_by_no_more_than_declared_given_the_same_past(random_data):
    """The second step, after a first one of the same forced release: what differs is this step's records alone."""

    class Forced(Recorder):
        def release_tensor(self, tensor, *, max_grad_norm):
            release = super().release_tensor(tensor, max_grad_norm=max_grad_norm)
            return torch.ones_like(release) if sum(self.releases) == 1 else release

    data = random_data(2, (1, 8, 8))
    found = []
    for image, label in [(np.zeros((1, 8, 8)), 0), (np.full((1, 8, 8), 255), 0), (data.images[0], 1)]:
        made = make(with_record(data, image, label), sanitizer=Forced, noise=0.0, real_batch=2)
        advance(made, 0, 2)
        found.append(made[1])
    moved = max(float((one.release - other.release).norm()) for one in found for other in found)
    assert 0.2 * CLIP < moved <= 2 * CLIP * (1 + 1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30, -1.0])
def test_a_record_that_is_no_image_is_left_out(random_data, value):
    """Data sets are uint8; a data set of floats could hold anything, and must not raise or silence the others."""
    data = random_data(5)
    floats = replace(data, images=data.images.astype(np.float32))
    broken = floats.images[0].copy()
    broken[0, 3, 3] = value
    found = release_of(with_record(floats, broken, 0), 1)
    without = replace(floats, images=floats.images[1:], labels=floats.labels[1:])
    torch.testing.assert_close(found.release, release_of(without, 1).release, rtol=1e-5, atol=1e-7)
    assert float(found.release.norm()) == pytest.approx(CLIP, rel=1e-5)
    assert not torch.equal(found.release, release_of(floats, 1).release)


def test_records_that_are_no_images_at_all_are_an_empty_draw(random_data):
    data = random_data(5)
    broken = replace(data, images=np.full_like(data.images, np.nan, dtype=np.float32))
    found = release_of(broken, 2).handed

    class Nobody(Recorder):
        def sample_records(self):
            return super().sample_records()[:0]

    empty = make(data, sanitizer=Nobody, noise=0.0, real_batch=5)
    advance(empty, 0, 2)
    assert torch.equal(found, empty[1].handed)
    assert float(found.norm()) > 0  # the public half of the loss still pushes the images apart


def test_the_other_images_are_pushed_by_public_numbers_alone(random_data):
    """With the release forced, different data and draws leave a bit-equal generator."""

    class Forced(Sanitizer):
        def release_tensor(self, tensor, *, max_grad_norm):
            release = super().release_tensor(tensor, max_grad_norm=max_grad_norm)
            coins = torch.Generator().manual_seed(sum(self.releases))
            return torch.randn(release.shape, generator=coins)

    one = make(random_data(60, classes=3), sanitizer=Forced)
    nobody = replace(random_data(60, classes=3, seed=1), labels=np.zeros(60, dtype=np.int64))
    other = make(nobody, sanitizer=Forced, injected_seed=6)
    assert advance(one, 0, 4) == advance(other, 0, 4)
    mine, theirs = one[0].released(), other[0].released()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_the_memory_of_a_draw_is_bounded(random_data, peak_memory):
    data = random_data(12_000, (1, 28, 28), classes=10)
    peaks = {}
    for drawn in (4 * SMALL["real_batch"], 12_000):

        class Drawn(Recorder):
            def sample_records(self, drawn=drawn):
                super().sample_records()
                return np.arange(drawn)

        made = make(data, sanitizer=Drawn)
        advance(made, 0, 1)
        peaks[drawn] = peak_memory(lambda made=made: advance(made, 1, 2))
    assert peaks[12_000] <= peaks[80] + 8 * 12_000 + 4096  # the indices themselves
