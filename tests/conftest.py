"""What tests share: one Ray a pytest run, the import path of jobs that only tests have, weights for the Inception network."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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


@pytest.fixture(scope="session")
def inception_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights for the Inception network, in the published file's form: the path without the 91 MB download."""
    import torch
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    class AsDrawn(FeatureExtractorInceptionV3):
        def load_state_dict(self, *arguments: Any, **named: Any) -> Any:
            """Keep the weights that were drawn, whatever the file says."""

    path = tmp_path_factory.mktemp("inception") / "random.pth"
    torch.save({}, path)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = AsDrawn("random", ["2048"], feature_extractor_weights_path=str(path))
        for name, value in network.named_parameters():
            if name.endswith("conv.weight"):  # as the layers draw them features fade to 1e-8, below the batch norm's epsilon
                torch.nn.init.kaiming_normal_(value)
    torch.save(network.state_dict(), path)
    return path
