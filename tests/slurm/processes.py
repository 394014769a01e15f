"""Processes as /proc shows them, and which of them a Slurm job started."""

from __future__ import annotations

import os
from pathlib import Path


def of_jobs(folder: Path) -> list[int]:
    """Ids of living processes that jobs of the controller in `folder` started, and of the slurmstepd that watch them.

    A job's process has the controller's SLURM_CONF and a SLURM_JOB_ID in the environment that it was started with, wherever its
    parent went. slurmstepd overwrites its environment, but keeps its node's log open.
    """
    mark = f"SLURM_CONF={folder}/slurm.conf".encode()
    found = []
    for process in sorted(int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()):
        if process == os.getpid() or not alive(process):
            continue
        environment = content(Path(f"/proc/{process}/environ")).split(b"\0")
        of_job = mark in environment and any(entry.startswith(b"SLURM_JOB_ID=") for entry in environment)
        if of_job or (command_line(process).startswith("slurmstepd") and _has_open(process, folder)):
            found.append(process)
    return found


def state(process: int) -> str | None:
    """The letter of a process's state (R, S, Z for a zombie, ...); None if there is no such process."""
    stat = text(Path(f"/proc/{process}/stat"))
    return stat.rpartition(")")[2].split()[0] if stat else None


def alive(process: int) -> bool:
    """Whether a process is there and no zombie."""
    return state(process) not in (None, "Z", "X")


def command_line(process: int) -> str:
    return text(Path(f"/proc/{process}/cmdline")).replace("\0", " ").strip()


def content(path: Path) -> bytes:
    """A file's content; nothing where the process that it belongs to is gone or another user's."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


def text(path: Path) -> str:
    return content(path).decode(errors="replace")


def _has_open(process: int, folder: Path) -> bool:
    try:
        return any(str(link.readlink()).startswith(f"{folder}/") for link in Path(f"/proc/{process}/fd").iterdir())
    except OSError:
        return False
