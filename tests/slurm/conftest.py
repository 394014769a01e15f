"""A real Slurm for the tests of this folder; they skip, saying why, where it cannot run."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from controller import Controller, missing


@pytest.fixture(scope="session")
def slurm() -> Iterator[Controller]:
    """One controller with four nodes for all tests of the run."""
    if (reason := missing()) is not None:
        pytest.skip(f"Slurm cannot run: {reason}")
    with Controller(nodes=4) as controller:
        yield controller


@pytest.fixture
def in_slurm(slurm: Controller, monkeypatch: pytest.MonkeyPatch) -> Iterator[Controller]:
    """This process is a client of `slurm` for one test; jobs that the test leaves are ended."""
    for name, value in slurm.environment.items():
        monkeypatch.setenv(name, value)
    yield slurm
    slurm.clear()
