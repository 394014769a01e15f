"""The released class means: their sensitivity, and what becomes of them."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from trainables.base import Dataset
from trainables.dp_feta.means import augment, in_slots, release_means
from trainables.dp_feta.method import Config, WarmUpConfig, mean_norm_bound, mechanism
from trainables.privacy.mechanism import scale_noise
from trainables.privacy.sanitizer import Sanitizer

CPU = torch.device("cpu")


class Recorder(Sanitizer):
    """The sanitizer, keeping what it released and the bound it was given."""

    def release_records(self, contributions, *, max_grad_norm):
        self.bound = max_grad_norm
        self.release = super().release_records(contributions, max_grad_norm=max_grad_norm)
        return self.release


def release(data: Dataset, **settings) -> tuple[Recorder, torch.Tensor]:
    """One release without noise, and the means made of it."""
    config = Config(warm_up={"sampling_rate": 1.0, **settings})
    phases = scale_noise(mechanism(config, data.info, "replace_one"), 0.0)
    sanitizer = Recorder(phases, injected_seed=0)
    sanitizer.open_step(0, 0)
    means = release_means(config, data, sanitizer, CPU)
    sanitizer.close_step()
    return sanitizer, means


def with_last(data: Dataset, image: np.ndarray, label: int) -> Dataset:
    return replace(
        data, images=np.concatenate([data.images[:-1], image[None]]), labels=np.concatenate([data.labels[:-1], [label]])
    )


@pytest.mark.parametrize("brightness", [0.3, 1.0])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 12)])
def test_a_record_moves_the_means_by_no_more_than_declared(random_data, shape, brightness):
    """Also where the class is rare: the other class has 20 records and this one none."""
    data = replace(random_data(21, shape), labels=np.zeros(21, dtype=np.int64))
    black, white = np.zeros(shape, dtype=np.uint8), np.full(shape, 255, dtype=np.uint8)
    candidates = [(black, 0), (white, 0), (white, 1), (data.images[-1], 1)]
    found = [release(with_last(data, image, label), max_brightness=brightness)[0] for image, label in candidates]
    absent = release(replace(data, images=data.images[:-1], labels=data.labels[:-1]), max_brightness=brightness)[0]
    bound = mean_norm_bound(Config(warm_up={"max_brightness": brightness}), data.info)
    assert {run.bound for run in found} == {bound}
    moved = [float((run.release - absent.release).norm()) for run in found]
    assert max(moved) <= bound * (1 + 1e-5)
    assert moved[0] == pytest.approx(0, abs=1e-4)  # a black image adds nothing
    assert moved[1:3] == pytest.approx([bound, bound], rel=1e-5)  # a white one attains the bound, in any class
    replaced = float((found[1].release - found[2].release).norm())
    assert replaced == pytest.approx(bound * 2**0.5, rel=1e-5)  # a change of class: two slots


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_a_record_that_is_no_image_contributes_nothing(random_data, value):
    data = random_data(5)
    floats = replace(data, images=data.images.astype(np.float64))
    broken = floats.images[-1].copy()
    broken[0, 3, 3] = value
    found, _ = release(with_last(floats, broken, 0))
    expected, _ = release(replace(data, images=data.images[:-1], labels=data.labels[:-1]))
    assert torch.isfinite(found.release).all()
    if np.isfinite(value):  # its direction counts, at the length of the clip
        assert float((found.release - expected.release).norm()) <= expected.bound
    else:
        torch.testing.assert_close(found.release, expected.release)


def test_contributions_are_clipped_images_in_their_class():
    """Restated in numpy: norms, and the weighted sum of images in slots."""
    coins = np.random.default_rng(0)
    images, labels, weights = coins.random((6, 3, 2, 4)), np.array([2, 0, 2, 1, 1, 2]), coins.random(6)
    found = in_slots(torch.from_numpy(images), torch.from_numpy(labels), 4)
    assert found.norms.tolist() == pytest.approx([np.sqrt((image**2).sum()) for image in images])
    expected = np.zeros((4, 3, 2, 4))
    for image, label, weight in zip(images, labels, weights, strict=True):
        expected[label] += weight * image
    np.testing.assert_allclose(found.weighted_sum(torch.from_numpy(weights)).numpy(), expected)


def test_means_are_divided_by_the_declared_number_of_records(random_data):
    """40 records of 2 classes: 20 a class are declared. All are of class 0, so its mean is twice too bright, class 1 black."""
    data = random_data(40)
    data = replace(data, images=np.full_like(data.images, 51), labels=np.zeros(40, dtype=np.int64))  # 0.2 of white
    _, means = release(data)
    assert means.shape == (2, 1, 8, 8)
    torch.testing.assert_close(means[0], torch.full((1, 8, 8), 2 * 0.4 - 1), atol=1e-4, rtol=0)
    torch.testing.assert_close(means[1], torch.full((1, 8, 8), -1.0))


def test_without_noise_the_means_are_those_of_the_classes(random_data):
    data = random_data(40, (3, 8, 8))
    _, means = release(data, downsample=1, max_brightness=1.0)
    for label in (0, 1):
        expected = data.images[data.labels == label].mean(axis=0) / 127.5 - 1
        np.testing.assert_allclose(means[label].numpy(), expected, atol=1e-4)


def test_the_augmentation_that_does_nothing_does_nothing():
    still = WarmUpConfig(rotation=0, shift=0, scale=0, contrast=0)
    images = torch.rand(5, 3, 8, 8) * 2 - 1
    torch.testing.assert_close(augment(images, still, torch.Generator().manual_seed(0)), images, atol=1e-5, rtol=0)


@pytest.mark.parametrize("setting", ["rotation", "shift", "scale", "contrast"])
def test_every_augmentation_changes_images_and_comes_from_its_generator(setting):
    still = {"rotation": 0, "shift": 0, "scale": 0, "contrast": 0}
    config = WarmUpConfig(**{**still, setting: 0.3 if setting != "rotation" else 20})
    images = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(1)) * 1.8 - 0.9
    torch.manual_seed(1)
    one = augment(images, config, torch.Generator().manual_seed(0))
    torch.manual_seed(2)
    same = augment(images, config, torch.Generator().manual_seed(0))
    assert torch.equal(one, same)
    assert not torch.allclose(one, images, atol=1e-2)
    assert float(one.abs().max()) <= 1
