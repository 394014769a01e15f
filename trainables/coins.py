"""Public coins: everything random that is not privacy noise or a secret draw.

Each use has its own generator, keyed by (seed, purpose, indices), so no code can advance the stream of another one: what a
private model does never moves the generator of z, labels or injected noise. Privacy noise and secret draws come from
``trainables.privacy.sanitizer`` alone.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import torch


def _key(seed: int, purpose: str, indices: tuple[int, ...]) -> bytes:
    return hashlib.sha256(repr((seed, purpose, indices)).encode()).digest()


def numpy_coins(seed: int, purpose: str, *indices: int) -> np.random.Generator:
    """A numpy generator keyed by (seed, purpose, indices).

    >>> bool(numpy_coins(0, "labels", 3).integers(10) == numpy_coins(0, "labels", 3).integers(10))
    True
    """
    import numpy as np

    return np.random.Generator(np.random.PCG64DXSM(int.from_bytes(_key(seed, purpose, indices), "big")))


def torch_coins(seed: int, purpose: str, *indices: int) -> torch.Generator:
    """A CPU torch generator keyed by (seed, purpose, indices). Draw on the CPU, then move: the stream is one on all devices."""
    import torch

    # The CPU generator uses 32 bits of its seed; that is enough for coins that are public anyway.
    return torch.Generator().manual_seed(int.from_bytes(_key(seed, purpose, indices)[:8], "big") >> 1)
