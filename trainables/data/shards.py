"""The partition of a training set into disjoint shards: public, and by position, never by what a record holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainables.coins import numpy_coins

if TYPE_CHECKING:
    import numpy as np


def partition(size: int, shards: int, seed: int) -> np.ndarray:
    """Record indices of every shard, int64 ``[shards, size // shards]``.

    A public permutation of the positions cut into slices of equal length (GS-WGAN, Chen et al. 2020); the last
    ``size % shards`` records of it belong to no shard. Raises ``ValueError`` where a shard would be empty.

    >>> partition(7, 3, seed=0).shape
    (3, 2)
    """
    if not 1 <= shards <= size:
        raise ValueError(f"{size} records cannot be cut into {shards} shards; write 1 to {size}")
    each = size // shards
    return numpy_coins(seed, "partition").permutation(size)[: shards * each].reshape(shards, each)
