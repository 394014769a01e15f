"""The partition into shards: disjoint, of equal size, and known before anyone has looked at a record."""

import inspect

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainables.data.shards import partition

sizes = st.integers(1, 300).flatmap(lambda size: st.tuples(st.just(size), st.integers(1, size)))


@given(sizes, st.integers(0, 2**40))
def test_shards_are_disjoint_equal_and_use_all_but_the_remainder(sizes, seed):
    size, shards = sizes
    found = partition(size, shards, seed)
    assert found.shape == (shards, size // shards)
    assert found.dtype == np.int64
    assert len(set(found.flatten().tolist())) == found.size
    assert found.size + size % shards == size
    assert 0 <= found.min() <= found.max() < size


def test_the_partition_is_a_function_of_public_numbers_alone():
    assert list(inspect.signature(partition).parameters) == ["size", "shards", "seed"]
    np.random.seed(1)
    first = partition(60000, 1000, seed=4)
    np.random.seed(2)
    assert np.array_equal(first, partition(60000, 1000, seed=4))
    assert not np.array_equal(first, partition(60000, 1000, seed=5))


def test_records_are_mixed():
    """A shard is no slice of the file: sources come sorted by class more often than not."""
    assert np.std(partition(60000, 1000, seed=0).mean(axis=1)) < 5000  # 2236 for a random shard, 17320 for a slice


@pytest.mark.parametrize("shards", [0, -1, 61])
def test_shards_that_cannot_be_are_refused(shards):
    with pytest.raises(ValueError, match=f"60 records cannot be cut into {shards} shards; write 1 to 60"):
        partition(60, shards, seed=0)
