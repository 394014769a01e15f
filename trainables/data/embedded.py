"""``digits``: 1,797 handwritten digits that come with scikit-learn."""

from __future__ import annotations

import importlib.metadata

import numpy as np

from .base import DataError, Facts, Found, Request, Split, order
from .images import array_split

TRAIN = 1437


def find(request: Request) -> Found:
    """scikit-learn's 8x8 digits at 28x28. They have no official split: a fixed permutation gives 1,437 / 360."""
    if request.path is not None:
        raise DataError("data.path is set, but digits come with scikit-learn; leave path out")
    return Found(
        facts=Facts(train=TRAIN, channels=1, height=28, width=28, classes=10),
        stamps=[["scikit-learn", importlib.metadata.version("scikit-learn")]],
        read=_read,
    )


def _read() -> tuple[Split, Split]:
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    # Values 0..16. Weights are whole numbers over 56 in each direction, and float64 is exact for products of this size.
    weights = _bilinear_weights(8, 28)
    total = weights @ (images.reshape(-1, 8, 8) * 255) @ weights.T
    scale = 16 * 56 * 56
    large = ((total.astype(np.int64) + scale // 2) // scale).astype(np.uint8)
    rows = order(len(labels))
    train, test = rows[:TRAIN], rows[TRAIN:]
    return array_split(large[train], labels[train], "digits"), array_split(large[test], labels[test], "digits")


def _bilinear_weights(old: int, new: int) -> np.ndarray:
    """``[new, old]`` whole numbers; divided by 2 x new they interpolate linearly between pixel centres, edges repeated."""
    weights = np.zeros((new, old))
    for row in range(new):
        left, part = divmod((2 * row + 1) * old - new, 2 * new)
        weights[row, max(left, 0)] += 2 * new - part
        weights[row, min(left + 1, old - 1)] += part
    return weights
