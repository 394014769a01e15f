"""One file of numpy arrays in the layouts that such files come in."""

from __future__ import annotations

import numpy as np
import pytest

from trainables.data.npz import KEYS
from trainables.data.sources import DataError, MissingData, describe, load


def arrays(shape: tuple[int, ...] = (32, 32, 3), train: int = 6, test: int = 4) -> list[np.ndarray]:
    coins = np.random.default_rng(0)
    return [
        coins.integers(0, 256, (train, *shape), dtype=np.uint8),
        np.arange(train) % 3,
        coins.integers(0, 256, (test, *shape), dtype=np.uint8),
        np.arange(test) % 3,
    ]


@pytest.fixture
def saved(tmp_path):
    """Saves arrays under the given keys; returns the path."""

    def save(values: list[np.ndarray], keys: tuple[str, ...] = KEYS[0], compressed: bool = True) -> str:
        path = tmp_path / "set.npz"
        (np.savez_compressed if compressed else np.savez)(path, **dict(zip(keys, values, strict=True)))
        return str(path)

    return save


@pytest.mark.parametrize("keys", KEYS)
@pytest.mark.parametrize("compressed", [True, False])
def test_both_sets_of_names_are_read(saved, keys, compressed):
    values = arrays()
    path = saved(values, keys, compressed)
    train, test = load("npz", path=path)
    assert describe("npz", path=path) == train.info
    assert (train.info.size, train.info.shape, train.info.classes) == (6, (3, 32, 32), 3)
    assert np.array_equal(test.images, values[2].transpose(0, 3, 1, 2))
    assert list(test.labels) == [0, 1, 2, 0]
    assert sorted(train.labels) == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize(
    ("shape", "axes", "expected"),
    [
        ((28, 28), (0, 1, 2), (1, 28, 28)),
        ((28, 28, 1), (0, 3, 1, 2), (1, 28, 28)),
        ((1, 28, 28), (0, 1, 2, 3), (1, 28, 28)),
        ((3, 32, 32), (0, 1, 2, 3), (3, 32, 32)),
    ],
)
def test_every_order_of_the_axes_gives_the_same_images(saved, shape, axes, expected):
    values = arrays(shape)
    train, test = load("npz", path=saved(values))
    assert train.info.shape == expected
    assert np.array_equal(test.images.reshape(4, *expected), values[2].transpose(axes).reshape(4, *expected))


def test_labels_of_two_dimensions_and_of_one_are_the_same(saved):
    values = arrays()
    flat = load("npz", path=saved(values))
    tall = load("npz", path=saved([values[0], values[1][:, None], values[2], values[3][:, None].astype(np.uint8)]))
    assert all(np.array_equal(a.labels, b.labels) for a, b in zip(flat, tall, strict=True))


def test_resolution_and_channels(saved):
    gray, colour = load("npz", path=saved(arrays((28, 28))), resolution=32, channels=3)[0], saved(arrays((64, 48, 3)))
    assert gray.info.shape == (3, 32, 32)
    assert not gray.images[:, :, 0].any()
    crop = load("npz", path=colour, resolution=32, channels=1)[0]
    squeeze = load("npz", path=colour, resolution=32, channels=1, preparation="squeeze")[0]
    assert crop.info.shape == (1, 32, 32)
    assert (crop.images != squeeze.images).any()


def changed(place: int, value: np.ndarray) -> list[np.ndarray]:
    values = arrays()
    values[place] = value
    return values


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (changed(0, arrays()[0].astype(np.float32)), "train_images is an array of float32; expected uint8, 0 to 255"),
        (changed(0, np.array([None] * 6)), "train_images is an array of Python objects, which are not read"),
        (changed(1, np.array([None] * 6)), "train_labels is an array of Python objects, which are not read"),
        (changed(1, np.zeros(6)), "train_labels is an array of float64; expected whole numbers from 0"),
        (changed(1, np.zeros(5, int)), r"train_labels has shape \[5\]; expected \[6\]"),
        (changed(1, np.arange(6) + 1), "training labels run from 1 to 6; expected classes counted from 0"),
        (changed(1, np.array([0, 1, 2, 0, 1, 90])), "training labels run from 0 to 90"),
        (changed(3, np.array([0, 1, 3, 0])), "test_labels: row 2 of the test set has label 3; the training set has 0 to 2"),
        (changed(0, np.zeros((6, 32, 32, 5), np.uint8)), r"train_images has shape \[6, 32, 32, 5\]"),
        (changed(2, np.zeros((0, 32, 32, 3), np.uint8)), "test_images holds no images"),
        (changed(2, np.zeros((4, 40, 40, 3), np.uint8)), "test_images, row 0 is 40x40 pixels and the set's first image 32x32"),
    ],
)
def test_what_cannot_be_used_is_named(saved, values, message):
    with pytest.raises(DataError, match=message):
        load("npz", path=saved(values))


def test_other_names_are_listed(saved):
    with pytest.raises(DataError, match=r"expects a \.npz file with the arrays train_images, .* holds a, b, c, d"):
        describe("npz", path=saved(arrays(), ("a", "b", "c", "d")))


def test_what_is_not_there_or_no_archive(tmp_path, saved):
    with pytest.raises(MissingData, match=r"train_images.*none\.npz does not exist"):
        describe("npz", path=str(tmp_path / "none.npz"))
    file = tmp_path / "bad.npz"
    file.write_bytes(b"not a zip archive")
    with pytest.raises(DataError, match=r"bad\.npz cannot be read as \.npz"):
        describe("npz", path=str(file))


def test_a_label_has_no_column_here(saved):
    with pytest.raises(DataError, match=r"data.label is set, but npz does not take it .only celeba or parquet.; leave it out"):
        describe("npz", path=saved(arrays()), label="sex")
