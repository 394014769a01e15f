"""One torch thread a test process, as in a trial of one processor: two would wait for each other on a busy machine."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True, scope="session")
def one_torch_thread() -> None:
    import torch

    torch.set_num_threads(1)
