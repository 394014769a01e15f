"""The folder of one run on Slurm, by which head, workers and commands find each other on the shared file system.

It is of mode 0700: submitit's pickles are in it, and whoever may write there runs code as its owner. ``token`` is what joins
the Ray; ``head.json`` has the head's address, and its time of change is the head's heartbeat.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BEAT_S = 4.0
DEAD_S = 90.0
"""Seconds without a heartbeat after which a head is gone; network file systems may show a change half a minute late."""

_BY_SLURM = "slurm"


@dataclass(frozen=True)
class RunFolder:
    """Paths and small files of a run. What is written appears whole, by rename."""

    path: Path

    def make(self) -> None:
        """Make the folders, closed to everybody but their owner."""
        for folder in (self.path, self.jobs, self.nodes):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    @property
    def jobs(self) -> Path:
        """submitit's pickles and the logs of the jobs."""
        return self.path / "jobs"

    @property
    def nodes(self) -> Path:
        """A file a Ray node that has joined or has failed to, by its Slurm job and rank."""
        return self.path / "nodes"

    @property
    def code(self) -> Path:
        """A copy of dpsweep's packages, which the jobs import."""
        return self.path / "code"

    @property
    def token(self) -> Path:
        return self.path / "token"

    @property
    def head(self) -> Path:
        """``{"address": HOST:PORT, "code": fingerprint}``, while there is a head."""
        return self.path / "head.json"

    @property
    def workers(self) -> Path:
        """``{"jobs": [ids]}`` of the worker jobs that were submitted."""
        return self.path / "workers.json"

    @property
    def record(self) -> Path:
        """``cluster.json``: the profile, the head's job, the command."""
        return self.path / "cluster.json"

    @property
    def stop(self) -> Path:
        """Exists once the sweep was asked to stop, by ``ask_to_stop`` or ``stop_for_slurm``."""
        return self.path / "stop"

    @property
    def exit(self) -> Path:
        """``{"status": exit status}`` once the command in the head's job has ended for good."""
        return self.path / "exit.json"

    @property
    def output(self) -> Path:
        """What the command in the head's job has printed."""
        return self.path / "output.log"

    @property
    def queue(self) -> Path:
        """``{"jobs": [ids], "found": {id: ...}}``: what the last look at the queue was for and what it has shown."""
        return self.path / "queue.json"

    def write(self, path: Path, value: Mapping[str, Any]) -> None:
        """Write a small JSON file, whole or not at all, even where the machine goes down at once."""
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")  # a process id may be another machine's too
        try:
            with temporary.open("w") as file:
                json.dump(value, file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    def read(self, path: Path) -> dict[str, Any] | None:
        """What ``write`` has written; None where there is no such file, or not a whole one."""
        with contextlib.suppress(OSError, ValueError):
            found = json.loads(path.read_text())
            return found if isinstance(found, dict) else None
        return None

    def head_job(self) -> str | None:
        """Id of the job that holds the sweep; None where none does."""
        job = (self.read(self.record) or {}).get("job")
        return None if job is None else str(job)

    def worker_jobs(self) -> list[str]:
        """Ids of the worker jobs that were submitted."""
        return list((self.read(self.workers) or {}).get("jobs", []))

    def ask_to_stop(self) -> None:
        """Somebody wants the sweep to stop, for good."""
        self.stop.write_text("")

    def stop_for_slurm(self) -> None:
        """Slurm ends the job that holds the sweep; where it queues it again the sweep goes on, unless somebody asks to stop."""
        with contextlib.suppress(FileExistsError), self.stop.open("x") as file:
            file.write(_BY_SLURM)

    def stopped_by_slurm(self) -> bool:
        """Whether it was Slurm, and nobody else, that has stopped the sweep."""
        with contextlib.suppress(OSError):
            return self.stop.read_text() == _BY_SLURM
        return False

    def ended(self) -> int | None:
        """The exit status of the command in the head's job; None while it may yet run, or run again."""
        found = self.read(self.exit)
        return None if found is None or self.stopped_by_slurm() else int(found["status"])

    def beat(self) -> None:
        """The head lives."""
        with contextlib.suppress(OSError):
            os.utime(self.head)

    def wait_head(self, seconds: float = DEAD_S) -> dict[str, Any] | None:
        """The head's address and code, once its heart is seen to beat; None where none beats for so long.

        Clocks of machines differ, so what is looked for is a change.
        """
        first, end = self._beaten(), time.monotonic() + seconds
        while time.monotonic() < end:
            if self._beaten() not in (first, None):
                return self.read(self.head)
            time.sleep(1)
        return None

    def _beaten(self) -> int | None:
        try:
            with self.head.open() as file:  # opening asks the server; a bare stat may be answered from a client's memory
                return os.fstat(file.fileno()).st_mtime_ns
        except OSError:
            return None
