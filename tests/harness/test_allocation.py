"""What a process may use, asked in processes that really have less: another mask, another limit, another cgroup or job."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from slurm import allocation

ROOT = Path(__file__).parents[2]
MB = 2**20
HERE = """
import dataclasses, json
from slurm.allocation import here
print(json.dumps(dataclasses.asdict(here())))
"""
JOB = {"SLURM_JOB_ID": "7", "SLURMD_NODENAME": "n1"}


def run_python(script: str, **environment: str) -> str:
    """What ``script`` prints, in a process with no variable of Slurm, Ray or CUDA but those given."""
    ours = ("SLURM", "RAY_", "CUDA_")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**clean, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def here(before: str = "", **environment: str) -> dict[str, Any]:
    """``here()`` of a process that has first run ``before``."""
    found: dict[str, Any] = json.loads(run_python(before + HERE, **environment))
    return found


def test_nothing_said_is_the_whole_machine() -> None:
    found = here()
    assert 1 <= found["cpus"] <= (os.cpu_count() or 1)
    assert 0 < found["memory"] <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert found["gpus"] is None


def test_the_affinity_mask_holds_whatever_slurm_says() -> None:
    pin = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})"
    assert here(pin)["cpus"] == 1
    assert here(pin, **JOB, SLURM_CPUS_ON_NODE="64")["cpus"] == 1


def test_ulimit_bounds_memory() -> None:
    limit = "import resource; resource.setrlimit(resource.RLIMIT_AS, (700 * 2**20, resource.RLIM_INFINITY))"
    assert here(limit)["memory"] == 700 * MB


@pytest.mark.parametrize(
    ("variables", "megabytes"),
    [
        ({"SLURM_MEM_PER_NODE": "512"}, 512),
        ({"SLURM_MEM_PER_CPU": "100", "SLURM_CPUS_ON_NODE": "3"}, 300),
        ({"SLURM_MEM_PER_GPU": "150", "SLURM_GPUS_ON_NODE": "2"}, 300),
    ],
)
def test_memory_of_a_job(variables: dict[str, str], megabytes: int) -> None:
    assert here(**JOB, **variables)["memory"] == megabytes * MB


def test_no_memory_asked_for_is_no_limit() -> None:
    assert here(**JOB, SLURM_MEM_PER_NODE="0")["memory"] == here()["memory"]  # --mem=0: the node's


def test_processors_of_a_job_where_the_mask_is_the_whole_node() -> None:
    everything = {*range(os.cpu_count() or 1)}
    if len(os.sched_getaffinity(0)) < 2 or here()["cpus"] < 2:
        pytest.skip(f"one processor of {len(everything)} may be used here")
    assert here(**JOB, SLURM_CPUS_ON_NODE="1")["cpus"] == 1
    assert here(**JOB, SLURM_CPUS_ON_NODE="2", SLURM_CPUS_PER_TASK="1", SLURM_STEP_ID="0")["cpus"] == 1  # a task of a step
    assert here(**JOB, SLURM_CPUS_ON_NODE="2", SLURM_CPUS_PER_TASK="1")["cpus"] == 2  # the batch script has all of them


def test_the_shell_of_salloc_is_on_the_login_node() -> None:
    variables = {"SLURM_JOB_ID": "7", "SLURM_CPUS_ON_NODE": "1", "SLURM_MEM_PER_NODE": "64", "SLURM_GPUS_ON_NODE": "1"}
    assert here(**variables) == here()


@pytest.mark.parametrize(
    ("variables", "gpus"),
    [
        ({"CUDA_VISIBLE_DEVICES": "0,3"}, 2),
        ({"CUDA_VISIBLE_DEVICES": "GPU-8a4b2c1d, GPU-5ebe9f00"}, 2),
        ({"CUDA_VISIBLE_DEVICES": "MIG-GPU-8932f937-d72c/1/0"}, 1),
        ({"CUDA_VISIBLE_DEVICES": "1,-1,0"}, 1),
        ({"CUDA_VISIBLE_DEVICES": ""}, 0),
        ({"CUDA_VISIBLE_DEVICES": "-1"}, 0),
        ({"CUDA_VISIBLE_DEVICES": "NoDevFiles"}, 0),
        ({**JOB, "SLURM_GPUS_ON_NODE": "3"}, 3),
        ({**JOB, "SLURM_GPUS_ON_NODE": "3", "CUDA_VISIBLE_DEVICES": "1"}, 1),
        (JOB, 0),
    ],
)
def test_gpus(variables: dict[str, str], gpus: int) -> None:
    assert here(**variables)["gpus"] == gpus


# --- control groups ---------------------------------------------------------------------------------------------------


def write(root: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content + "\n")


def test_limits_of_cgroups_version_1(tmp_path: Path) -> None:
    """As in a job of Slurm with task/cgroup: the limits stand on groups above the process's own."""
    job = "slurm_n1/uid_1000/job_7"
    write(
        tmp_path,
        {
            "proc/mountinfo": "\n".join(
                [
                    "22 27 0:21 / /proc rw,relatime - proc proc rw",
                    f"32 31 0:29 / {tmp_path}/cpu,cpuacct rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct",
                    f"35 31 0:32 / {tmp_path}/mem\\040ory rw,nosuid shared:12 - cgroup cgroup rw,memory",
                    f"41 31 0:38 / {tmp_path}/unified rw,nosuid shared:5 - cgroup2 cgroup2 rw,nsdelegate",
                ]
            ),
            "proc/cgroup": f"5:memory:/{job}/step_0/task_0\n4:cpu,cpuacct:/system.slice\n1:name=systemd:/system.slice\n0::/x",
            "cpu,cpuacct/system.slice/cpu.cfs_quota_us": "250000",
            "cpu,cpuacct/system.slice/cpu.cfs_period_us": "100000",
            "cpu,cpuacct/cpu.cfs_quota_us": "-1",
            "cpu,cpuacct/cpu.cfs_period_us": "100000",
            f"mem ory/{job}/step_0/task_0/memory.limit_in_bytes": "9223372036854771712",
            f"mem ory/{job}/memory.limit_in_bytes": str(800 * MB),
            "mem ory/memory.limit_in_bytes": "9223372036854771712",
        },
    )
    assert allocation.cpu_quotas(tmp_path / "proc") == [2.5]
    assert min(allocation.memory_limits(tmp_path / "proc")) == 800 * MB


def test_limits_of_cgroups_version_2(tmp_path: Path) -> None:
    step = "system.slice/slurmstepd.scope/job_7/step_0"
    write(
        tmp_path,
        {
            "proc/mountinfo": f"24 23 0:22 / {tmp_path}/fs rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate",
            "proc/cgroup": f"0::/{step}/user/task_0",
            f"fs/{step}/user/task_0/cpu.max": "max 100000",
            f"fs/{step}/cpu.max": "300000 100000",
            "fs/system.slice/cpu.max": "1200000 100000",
            f"fs/{step}/memory.max": "max",
            f"fs/{step}/memory.high": str(900 * MB),
            "fs/system.slice/slurmstepd.scope/job_7/memory.max": str(1000 * MB),
        },
    )
    assert allocation.cpu_quotas(tmp_path / "proc") == [3.0, 12.0]
    assert allocation.memory_limits(tmp_path / "proc") == [900 * MB, 1000 * MB]


@pytest.mark.parametrize(
    ("root", "path"),
    [
        ("/docker/4f0c", "/docker/4f0c"),  # Docker without a namespace of its own: the mount begins at the container's group
        ("/docker/4f0c", "/"),
        ("/", "/"),
        ("/", "/../other"),
    ],
)
def test_in_a_container_the_mount_is_the_containers_group(tmp_path: Path, root: str, path: str) -> None:
    mountinfo = f"24 23 0:22 {root} {tmp_path}/fs ro,nosuid - cgroup2 cgroup rw"
    write(tmp_path, {"proc/mountinfo": mountinfo, "proc/cgroup": f"0::{path}", "fs/memory.max": str(600 * MB)})
    assert allocation.memory_limits(tmp_path / "proc") == [600 * MB]


def test_without_cgroups_there_is_no_limit(tmp_path: Path) -> None:
    assert allocation.cpu_quotas(tmp_path) == allocation.memory_limits(tmp_path) == []


@pytest.fixture
def half_processor() -> Iterator[Path]:
    """A new cgroup inside one that has half a processor, both below this process's own; skips where none can be made."""
    groups = list(allocation._groups(Path("/proc/self"), "cpu"))
    if not groups:
        pytest.skip("no cgroup for processors is mounted here")
    version, own = groups[0]
    outer = own / f"dpsweep-test-{os.getpid()}"
    inner = outer / "inner"
    try:
        try:
            inner.mkdir(parents=True)
            if version == 2:
                (outer / "cpu.max").write_text("50000 100000")
            else:
                (outer / "cpu.cfs_period_us").write_text("100000")
                (outer / "cpu.cfs_quota_us").write_text("50000")
        except OSError as error:
            pytest.skip(f"no cgroup with a limit can be made here: {error}")
        yield inner
    finally:
        for folder in (inner, outer):
            if folder.exists():
                folder.rmdir()


def test_the_quota_of_a_real_cgroup_above_is_found(half_processor: Path) -> None:
    joined = f"""
import os
from pathlib import Path
Path({str(half_processor / "cgroup.procs")!r}).write_text(str(os.getpid()))
from slurm.allocation import cpu_quotas
assert 0.5 in cpu_quotas(), cpu_quotas()
"""
    assert here(joined)["cpus"] == 1
    assert 0.5 not in allocation.cpu_quotas()


# --- what Ray is told -------------------------------------------------------------------------------------------------


def test_our_own_ray_has_what_the_job_has() -> None:
    script = """
import json
from harness import cluster
session = cluster.start_local()
import ray
print(json.dumps(ray.cluster_resources()))
session.close()
"""
    variables = {**JOB, "SLURM_CPUS_ON_NODE": "1", "SLURM_MEM_PER_NODE": "2000"}
    resources = json.loads(run_python(script, **variables).splitlines()[-1])
    assert resources["CPU"] == 1
    assert "GPU" not in resources
    assert 1700 * MB < resources["memory"] < 1900 * MB  # for jobs; the rest is the object store's and Ray's own
