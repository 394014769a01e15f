"""Memory that really runs out: a trial in a process that may not have more ends `oom` and goes on where it may."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from harness.process import out_of_memory

ROOT = Path(__file__).parents[2]

HOARD = """
import torch

def small_pieces():  # until Python has none left for a message either; the variable lives as long as the error's traceback
    pieces = []
    for _ in range(1_600_000):
        pieces.append(bytes(1000))

def tensors():
    pieces = []
    for _ in range(100):
        pieces.append(torch.empty(2**24, dtype=torch.uint8))

attempts = iter([small_pieces, tensors, tensors])
"""

TRIAL = """
import json, resource, sys
from pathlib import Path

import torch

from harness import store
from harness.attempts import read_trial_attempts
from harness.expand import expand
from harness.job_data import load_data
from harness.plan import make_plan
from harness.spec import load_sweep
from harness.stages import compute_stage
from test_trial import executed, planted, prepare, run

root = Path(sys.argv[1])
sys.path.insert(0, str(root))
sweep = planted(root, "hoard", "import hoard; next(hoard.attempts)()").replace("epsilon: 10,", "epsilon: 10, reserve: 2,")
folders, job, _ = prepared = prepare(root, sweep)
train, test = load_data(job["data"], folders)
for identifier, (stage, _) in make_plan(folders, expand(load_sweep(root / "one.yaml"))).stages.items():
    compute_stage(folders, identifier, stage, train, test, torch.device("cpu"))
outcomes, counts = [], []
for limited in (True, True, False):
    has = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limit = has + 600 * 2**20 if limited else resource.RLIM_INFINITY
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
    outcomes.append(run(prepared))
    counts.append(executed(folders, job))
(row,) = store.read(folders.sweep).trials.to_dict("records")
print(json.dumps({
    "outcomes": outcomes,
    "resumable": [record.end["resumable"] for record in read_trial_attempts(folders, job["trial_id"])],
    "executed": counts,
    "row": {name: row[name] for name in ("status", "releases", "epsilon", "epsilon_surviving")},
}))
"""


def test_a_trial_without_memory_is_counted_and_goes_on_with_more(tmp_path: Path) -> None:
    """Its third step asks for 1.6 GB, piece by piece, where 0.6 GB are left; at the third attempt it may have them."""
    (tmp_path / "hoard.py").write_text(HOARD)
    done = subprocess.run(
        [sys.executable, "-c", TRIAL, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(Path(__file__).parent)])},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert [outcome["status"] for outcome in found["outcomes"]] == ["oom", "oom", "completed"]
    assert "MemoryError" in found["outcomes"][0]["message"]
    assert "DefaultCPUAllocator" in found["outcomes"][1]["message"]
    assert found["resumable"] == [True, True, True]
    assert found["executed"] == [[3], [4], [8]]  # two steps are kept, the third may have released each time
    assert found["row"]["status"] == "completed"
    assert found["row"]["releases"] == 8
    assert found["row"]["epsilon"] > found["row"]["epsilon_surviving"]  # of the six that are left in the generator


class Elsewhere(Exception):
    """Says what only torch's own errors mean."""


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("std::bad_alloc"), True),
        (RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (OSError(12, "Cannot allocate memory"), True),
        (OSError(28, "No space left on device"), False),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (RuntimeError("CUDA error: device-side assert triggered"), False),
        (RuntimeError("shape mismatch: out of memory banks"), False),
        (Elsewhere("std::bad_alloc"), False),
        (KeyboardInterrupt(), False),
    ],
)
def test_what_says_that_memory_ran_out(error: BaseException, expected: bool) -> None:
    assert out_of_memory(error) is expected
