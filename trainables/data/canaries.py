"""Records planted for a one-run audit: m slots of the training set, each with its canary or what stood there before.

Which positions are slots, and what the canaries are, is public; which of the two a slot holds is a secret coin
(Steinke, Nasr & Jagielski 2023). The size, the shapes and the classes of the data stay as declared.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from trainables.base import Dataset
from trainables.coins import numpy_coins

from .base import DataError

if TYPE_CHECKING:
    import numpy as np

Kind = Literal["held_out", "mislabelled", "noise"]
KINDS: tuple[Kind, ...] = get_args(Kind)

UNUSED, TESTED, DRAWN = "unused training records", "test images, left out of the test set", "uniform noise"
"""Where canaries come from, as rows say it."""

PLANTING_VERSION = 1
"""Raised whenever the same settings and coins would plant other data."""


@dataclass(frozen=True, kw_only=True)
class Planted:
    """A planted data set. Only its owner may hold one: ``present`` says what the coins decided."""

    train: Dataset
    test: Dataset
    """Without the images that became canaries."""
    slots: np.ndarray
    """Positions in ``train``, int64 ``[m]``, ascending."""
    canaries: Dataset
    """The m records of which some are in ``train``."""
    stand_ins: Dataset
    """The m records that stood in the slots."""
    present: np.ndarray
    """Whether the slot holds its canary, bool ``[m]``."""
    origin: str
    """Where the canaries come from."""


def check(count: int, size: int, spare: int, test: int, kind: Kind) -> None:
    """Raise ``DataError`` where ``count`` canaries are more than the training set (``size``) or their source can give.

    ``spare`` are training records that are not used, ``test`` the test images.
    """
    if count > size // 2:
        raise DataError(
            f"audit.canaries is {count}; the training set has {size:,} records, of which at most half may be slots: write at "
            f"most {size // 2}"
        )
    if kind != "noise" and spare < count and count > test // 2:
        raise DataError(
            f"audit.canaries is {count}; there are {spare:,} unused training records, and {test:,} test images, of which half "
            f"may become canaries: write at most {max(spare, test // 2)}, or kind: noise"
        )


def plant(
    train: Dataset, test: Dataset, spare: Dataset, present: np.ndarray, *, kind: Kind, fingerprint: str, classes: int
) -> Planted:
    """Put canaries where ``present`` (bool ``[m]``) says so.

    ``spare`` are training records that are not used, of which the canaries are taken if there are m of them, and else from
    ``test``. ``held_out`` canaries are such records as they are, ``mislabelled`` ones have another class than their own,
    ``noise`` needs none: pixels are uniform. All choices but ``present`` are public coins keyed by ``fingerprint``, that of
    the data before. Raises ``DataError`` as ``check`` does, and for mislabelled records of a single class.
    """
    import numpy as np

    count, key = len(present), int(fingerprint[:16], 16)
    check(count, len(train.labels), len(spare.labels), len(test.labels), kind)
    if kind == "mislabelled" and classes < 2:
        raise DataError("audit.kind is mislabelled and the data have one class; write kind: held_out or kind: noise")
    slots = np.sort(numpy_coins(key, "audit slots").permutation(len(train.labels))[:count])
    coins = numpy_coins(key, f"audit canaries {kind}")
    if kind == "noise":
        origin = DRAWN
        images = coins.integers(0, 256, (count, *train.images.shape[1:]), dtype=np.uint8)
        labels = coins.integers(0, classes, count, dtype=np.int64)
    else:
        enough = len(spare.labels) >= count
        origin, source = (UNUSED, spare) if enough else (TESTED, test)
        chosen = np.sort(coins.permutation(len(source.labels))[:count])
        images, labels = source.images[chosen], source.labels[chosen]
        if not enough:
            test = _part(test, np.delete(np.arange(len(test.labels)), chosen))
        if kind == "mislabelled":
            labels = (labels + 1 + coins.integers(0, classes - 1, count, dtype=np.int64)) % classes
    canaries, stand_ins = Dataset(images=images, labels=labels, classes=classes), _part(train, slots)
    planted_images, planted_labels = train.images.copy(), train.labels.copy()
    planted_images[slots[present]], planted_labels[slots[present]] = images[present], labels[present]
    planted = Dataset(images=planted_images, labels=planted_labels, classes=train.classes)
    return Planted(
        train=planted, test=test, slots=slots, canaries=canaries, stand_ins=stand_ins, present=present, origin=origin
    )


def _part(data: Dataset, rows: np.ndarray) -> Dataset:
    return Dataset(images=data.images[rows], labels=data.labels[rows], classes=data.classes)
