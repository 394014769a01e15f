"""What tests of the sources share: small pictures, and a cache of their own in place of the user's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

Pictures = Callable[..., list[Image.Image]]


@pytest.fixture
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder in which the decoded images of this test are kept; nothing that was fetched is found."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("DPSWEEP_DATA", raising=False)
    return tmp_path / "cache" / "dpsweep" / "decoded"


@pytest.fixture
def pictures() -> Pictures:
    """``pictures(count, width=32, height=32, mode="RGB", seed=0)``: random ones, all different."""

    def make(count: int, width: int = 32, height: int = 32, mode: str = "RGB", seed: int = 0) -> list[Image.Image]:
        coins = np.random.default_rng(seed)
        shape = (count, height, width) if mode == "L" else (count, height, width, 3)
        return [Image.fromarray(array) for array in coins.integers(0, 256, shape, dtype=np.uint8)]

    return make
