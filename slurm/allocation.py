"""What this process may use of the machine it runs on: never what the machine has.

A job shares its node with others. What is its own is said in several places, each of which may be silent: the affinity mask,
the control groups (cgroups, version 1 or 2) that the process is in, limits of the process (``ulimit``), and in a job of Slurm
its SLURM_* variables. The smallest of the numbers found is the one that holds.
"""

from __future__ import annotations

import os
import re
import resource
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

_MB = 2**20
"""Bytes in what Slurm calls a megabyte."""


@dataclass(frozen=True, kw_only=True)
class Allocation:
    """A share of one machine."""

    cpus: int
    """Processors, at least 1."""
    memory: int
    """Bytes."""
    gpus: int | None
    """GPUs; None where nothing restricts them: all that the machine has."""


def here() -> Allocation:
    """What this process may use; inside a step of Slurm that step's share of this node."""
    return Allocation(cpus=usable_cpus(), memory=usable_memory(), gpus=usable_gpus())


def usable_cpus() -> int:
    """Processors that this process may use, at least 1: its affinity mask (Slurm, taskset), within cgroup quotas.

    Where a cluster binds no tasks the mask is the whole node; then what Slurm says was allocated here counts.
    """
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    cpus = min([cpus, *(int(quota) for quota in cpu_quotas())])
    return max(1, min([cpus, *_slurm_cpus(os.environ)]))


def usable_memory() -> int:
    """Bytes of memory that this process and its children may use together, though ``ulimit -v`` is for each by itself."""
    limits = [_host_memory(), *memory_limits(), *_slurm_memory(os.environ)]
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    limits += [soft] if soft != resource.RLIM_INFINITY else []
    return min(limits)


def usable_gpus() -> int | None:
    """GPUs that this process may use: the entries of CUDA_VISIBLE_DEVICES, or those of the Slurm job it runs in.

    None where neither is there to say: ask the driver.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return _visible_devices(visible)
    return _number(os.environ, "SLURM_GPUS_ON_NODE") or 0 if _in_job(os.environ) else None


# --- control groups -------------------------------------------------------------------------------------------------


def cpu_quotas(proc: Path = Path("/proc/self")) -> list[float]:
    """Processors that each cgroup from this process's own up to the root allows; only those that set a limit.

    ``proc`` is the process's folder in /proc, which says where its groups are.
    """
    quotas = []
    for version, group in _groups(proc, "cpu"):
        if version == 2:
            words = (_read(group / "cpu.max") or "").split()
        else:
            words = [_read(group / name) or "" for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us")]
        if len(words) == 2 and all(word.isdecimal() and int(word) for word in words):  # not "max", not -1
            quotas.append(int(words[0]) / int(words[1]))
    return quotas


def memory_limits(proc: Path = Path("/proc/self")) -> list[int]:
    """Bytes that each cgroup from this process's own up to the root allows; ``proc`` as for ``cpu_quotas``.

    Version 1 writes "no limit" as a number larger than any machine.
    """
    found = []
    for version, group in _groups(proc, "memory"):
        for name in ("memory.max", "memory.high") if version == 2 else ("memory.limit_in_bytes",):
            limit = _read(group / name) or ""
            if limit.isdecimal():
                found.append(int(limit))
    return found


def _groups(proc: Path, controller: str) -> Iterator[tuple[int, Path]]:
    """(version, folder) of the process's cgroup for ``controller`` and of every one above it that can be seen from here.

    Both versions may be mounted at once; a controller then lives in one of them, and the other has no file for it.
    """
    mounts = list(_mounts(proc))
    for line in (_read(proc / "cgroup") or "").splitlines():
        _, controllers, path = line.split(":", 2)
        version = 1 if controllers else 2
        if version == 1 and controller not in controllers.split(","):
            continue
        for mounted_version, options, root, mount in mounts:
            if mounted_version != version or (version == 1 and controller not in options):
                continue
            # A container may see only its part of the tree: then the mount begins at `root`, or the path is not below it.
            inside = os.path.relpath(path, root)
            folder = mount if inside.startswith("..") else mount / inside
            while True:
                yield version, folder
                if folder == mount:
                    break
                folder = folder.parent
            break


def _mounts(proc: Path) -> Iterator[tuple[int, list[str], str, Path]]:
    """(version, mount options, root within its file system, folder) of every mounted cgroup file system: see proc(5)."""
    for line in (_read(proc / "mountinfo") or "").splitlines():
        before, _, after = line.partition(" - ")
        kind, *_, options = after.split(" ")
        if kind in ("cgroup", "cgroup2"):
            root, mount = (re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), word) for word in before.split(" ")[3:5])
            yield 2 if kind == "cgroup2" else 1, options.split(","), root, Path(mount)


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None


# --- Slurm and CUDA ---------------------------------------------------------------------------------------------------


def _in_job(environment: Mapping[str, str]) -> bool:
    """Whether a Slurm node started this process; the shell of ``salloc`` has a job too, but runs on the login node."""
    return "SLURM_JOB_ID" in environment and "SLURMD_NODENAME" in environment


def _slurm_cpus(environment: Mapping[str, str]) -> list[int]:
    """Processors allocated on this node, and in a step those of a task."""
    if not _in_job(environment):
        return []
    names = ["SLURM_CPUS_ON_NODE", *(["SLURM_CPUS_PER_TASK"] if "SLURM_STEP_ID" in environment else [])]
    return [cpus for name in names if (cpus := _number(environment, name))]


def _slurm_memory(environment: Mapping[str, str]) -> list[int]:
    """Bytes allocated on this node; a job asks by node, by processor or by GPU, and 0 stands for the whole node.

    These are the variables of ``sbatch`` and ``salloc``, which steps inherit; a step's own ``--mem`` only its cgroup tells.
    """
    if not _in_job(environment):
        return []
    found = [_number(environment, "SLURM_MEM_PER_NODE")]
    for per, count in (("SLURM_MEM_PER_CPU", "SLURM_CPUS_ON_NODE"), ("SLURM_MEM_PER_GPU", "SLURM_GPUS_ON_NODE")):
        found.append((_number(environment, per) or 0) * (_number(environment, count) or 0))
    return [megabytes * _MB for megabytes in found if megabytes]


def _number(environment: Mapping[str, str], name: str) -> int | None:
    """A variable's value where it is a whole number."""
    value = environment.get(name, "")
    return int(value) if value.isdecimal() else None


def _visible_devices(visible: str) -> int:
    """Entries of CUDA_VISIBLE_DEVICES; as CUDA does, what follows an entry that names no device is not counted.

    >>> _visible_devices("0,GPU-5ebe"), _visible_devices("MIG-GPU-8932/1/0"), _visible_devices("0,-1,1")
    (2, 1, 1)
    >>> _visible_devices(""), _visible_devices("NoDevFiles")
    (0, 0)
    """
    count = 0
    for entry in visible.split(","):
        if not re.fullmatch(r"\d+|(GPU|MIG)-\S+", entry.strip()):
            break
        count += 1
    return count


def _host_memory() -> int:
    """Bytes of the machine, or of the container that shows its own /proc/meminfo."""
    found = re.search(r"^MemTotal:\s+(\d+) kB", _read(Path("/proc/meminfo")) or "", re.MULTILINE)
    return int(found[1]) * 1024 if found else os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
