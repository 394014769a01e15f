"""What tests share: one Ray a pytest run, and the import path of jobs that only tests have."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import cluster

# One torch thread a test process, as in a trial of one processor: more would wait for each other on a busy machine.
os.environ["OMP_NUM_THREADS"] = "1"

# Before Ray starts: its workers get this process's import path, and jobs such as tests/harness/sample_jobs.py run there.
sys.path.insert(0, str(Path(__file__).parent / "harness"))


@pytest.fixture(scope="session")
def ray_session() -> Iterator[cluster.Cluster]:
    """A Ray of our own for all tests of the run; `connect("local")` finds and uses it as well."""
    session = cluster.start_local()
    yield session
    session.close()
