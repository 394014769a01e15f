"""Planting: what stays, what moves, and what is public about it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from trainables.base import Dataset
from trainables.data import sources
from trainables.data.base import DataError
from trainables.data.canaries import DRAWN, KINDS, TESTED, UNUSED, Kind, Planted, plant

FINGERPRINT = "0123456789abcdef" * 4


def part(data: Dataset, rows: slice) -> Dataset:
    return replace(data, images=data.images[rows], labels=data.labels[rows])


@pytest.fixture(scope="module")
def digits() -> tuple[Dataset, Dataset]:
    return sources.load("digits", **sources.settings_of(dict.fromkeys(sources.SETTINGS) | {"enlarge": False}))


def planted(digits: tuple[Dataset, Dataset], present: np.ndarray, kind: Kind = "held_out", size: int = 1000) -> Planted:
    train, test = digits
    spare = part(train, slice(size, None))
    return plant(part(train, slice(size)), test, spare, present, kind=kind, fingerprint=FINGERPRINT, classes=10)


@pytest.mark.parametrize("kind", KINDS)
def test_every_slot_holds_its_canary_or_what_stood_there(digits: tuple[Dataset, Dataset], kind: Kind) -> None:
    present = np.random.default_rng(0).integers(0, 2, 60).astype(bool)
    found = planted(digits, present, kind)
    before = part(digits[0], slice(1000))
    assert found.train.info == before.info
    for index, (slot, inside) in enumerate(zip(found.slots, present, strict=True)):
        expected, row = (found.canaries, index) if inside else (before, slot)
        assert (found.train.images[slot] == expected.images[row]).all()
        assert found.train.labels[slot] == expected.labels[row]
        assert (found.stand_ins.images[index] == before.images[slot]).all()
    others = np.delete(np.arange(1000), found.slots)
    assert (found.train.images[others] == before.images[others]).all()
    assert (found.train.labels[others] == before.labels[others]).all()
    assert len(set(found.slots)) == 60


def test_slots_and_canaries_do_not_depend_on_coins_or_contents(digits: tuple[Dataset, Dataset]) -> None:
    none, all_ = planted(digits, np.zeros(60, bool)), planted(digits, np.ones(60, bool))
    assert (none.slots == all_.slots).all()
    assert (none.canaries.images == all_.canaries.images).all()
    assert (none.train.images == digits[0].images[:1000]).all()
    train, test = digits
    other = replace(train, images=255 - train.images, labels=train.labels[::-1].copy())
    assert (planted((other, test), np.zeros(60, bool)).slots == none.slots).all()


def test_canaries_are_unused_training_records_or_leave_the_test_set(digits: tuple[Dataset, Dataset]) -> None:
    train, test = digits
    unused = planted(digits, np.ones(60, bool))
    assert unused.origin == UNUSED
    assert len(unused.test.labels) == len(test.labels)
    spare = {image.tobytes() for image in train.images[1000:]}
    assert all(image.tobytes() in spare for image in unused.canaries.images)

    tested = planted(digits, np.ones(60, bool), size=len(train.labels))
    assert tested.origin == TESTED
    assert len(tested.test.labels) == len(test.labels) - 60
    both = np.concatenate([tested.test.images, tested.canaries.images])
    assert sorted(image.tobytes() for image in both) == sorted(image.tobytes() for image in test.images)


def test_mislabelled_canaries_are_real_images_of_another_class(digits: tuple[Dataset, Dataset]) -> None:
    right = planted(digits, np.ones(200, bool), "held_out")
    wrong = planted(digits, np.ones(200, bool), "mislabelled")
    own = {image.tobytes(): label for image, label in zip(digits[0].images, digits[0].labels, strict=True)}
    assert all(own[image.tobytes()] == label for image, label in zip(right.canaries.images, right.canaries.labels, strict=True))
    assert all(own[image.tobytes()] != label for image, label in zip(wrong.canaries.images, wrong.canaries.labels, strict=True))
    assert set(wrong.canaries.labels) == set(range(10))


def test_noise_needs_no_records(digits: tuple[Dataset, Dataset]) -> None:
    found = planted(digits, np.ones(200, bool), "noise", size=len(digits[0].labels))
    assert found.origin == DRAWN
    assert len(found.test.labels) == len(digits[1].labels)
    assert abs(found.canaries.images.mean() - 127.5) < 5 * 74 / np.sqrt(found.canaries.images.size)


def test_too_many_canaries_are_refused_with_how_many_there_may_be(digits: tuple[Dataset, Dataset]) -> None:
    with pytest.raises(DataError, match=r"audit.canaries is 600; .* 1,000 records, .* write at most 500"):
        planted(digits, np.ones(600, bool))
    with pytest.raises(
        DataError, match=r"37 unused training records, and 360 test images, .* write at most 180, or kind: noise"
    ):
        planted(digits, np.ones(200, bool), size=1400)
    one_class = replace(digits[0], labels=np.zeros_like(digits[0].labels))
    with pytest.raises(DataError, match="one class; write kind: held_out"):
        plant(one_class, digits[1], one_class, np.ones(4, bool), kind="mislabelled", fingerprint=FINGERPRINT, classes=1)
