"""Data sets that differ in one record, made to be as unlike as a record can be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from trainables.base import Dataset
from trainables.coins import numpy_coins

Change = Callable[[np.ndarray, int], np.ndarray]
"""(image, seed) -> what takes its place."""


def _noise(image: np.ndarray, seed: int) -> np.ndarray:
    return numpy_coins(seed, "audit noise").integers(0, 256, image.shape).astype(image.dtype)


KINDS: dict[str, Change] = {
    "zeros": lambda image, seed: np.zeros_like(image),
    "ones": lambda image, seed: np.full_like(image, 255),
    "noise": _noise,
    "another class": lambda image, seed: 255 - image,
    "NaN": lambda image, seed: np.full(image.shape, np.nan, np.float32),
    "1e30": lambda image, seed: np.full(image.shape, 1e30, np.float32),
}
"""What a record may become. All but zeros and ones get another label, too."""

KEEP_LABEL = ("zeros", "ones")

NOT_FINITE = ("NaN", "1e30")
"""Kinds that uint8 cannot hold: all images become float32 of the same values."""


def with_floats(data: Dataset) -> Dataset:
    """The same values as float32: no source makes such images, but a record that is no image must not break the bound."""
    return replace(data, images=data.images.astype(np.float32))


def neighbour(data: Dataset, records: Sequence[int], kind: str, seed: int = 0) -> Dataset:
    """``data`` with ``records`` replaced by what ``kind`` makes of them; float32 images for the kinds of ``NOT_FINITE``."""
    base = with_floats(data) if kind in NOT_FINITE else data
    images, labels = base.images.copy(), base.labels.copy()
    for record in records:
        images[record] = KINDS[kind](data.images[record], seed + record)
        if kind not in KEEP_LABEL:
            labels[record] = (labels[record] + 1 + (seed + record) % max(data.classes - 1, 1)) % data.classes
    return replace(base, images=images, labels=labels)


def other_data(data: Dataset) -> Dataset:
    """As many records of the same shape, none of them alike: other pixels, and labels that leave classes out."""
    images = numpy_coins(1, "audit data").integers(0, 96, data.images.shape).astype(data.images.dtype)
    return replace(data, images=images, labels=np.zeros_like(data.labels))
