"""Which jobs of a launch are started once more, and with what request.

Whatever is started once more goes on from its checkpoint, within its budget: what the attempt before has released, or may
have, stays counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from .attempts import read_trial_attempts
from .folders import Folders
from .jobs import Job
from .lock import Locked, require_held
from .recovery import close_lost

MOST = {"machine": 3, "process": 1, "silence": 1}
"""Starts after a loss, by its cause. The loss of a machine says nothing of the trial; that of its process may."""
MOST_OUT_OF_MEMORY = 1
MOST_WITHOUT_PROGRESS = 3
"""Starts in a row after which a trial that its machines always send away at the same step is left to the next command."""
UNKNOWN_MEMORY = 1500 * 2**20
"""Bytes that a job is taken to have had of which nothing was known when it ran out of memory."""


class Retries:
    """An ``Again`` for the launch whose plan is at ``path``, of the sweep in ``folders``."""

    def __init__(self, folders: Folders, path: Path) -> None:
        self._folders, self._plan = folders, str(path.relative_to(folders.sweep))
        self._starts: Counter[tuple[str, str]] = Counter()
        self._seen: Counter[str] = Counter()
        self._steps: dict[str, int | None] = {}

    def __call__(self, job: Job, outcome: Mapping[str, Any]) -> Job | None:
        """The job to start once more after ``outcome``, or None."""
        if outcome.get("status") not in ("lost", "oom", "interrupted") or not self._held():
            return None
        status, step = self._end(job, outcome)
        if status == "lost":
            cause = str(outcome.get("cause", "process"))
            return job if self._count(job, cause) <= MOST[cause] else None
        if status == "oom":
            return _larger(job) if self._count(job, "oom") <= MOST_OUT_OF_MEMORY else None
        if status == "interrupted":  # and no stop was asked for: its machine has sent it away
            if step != self._steps.get(job.id, -1):
                self._starts[job.id, "interrupted"] = 0
            self._steps[job.id] = step
            return job if self._count(job, "interrupted") <= MOST_WITHOUT_PROGRESS else None
        return None

    def _held(self) -> bool:
        """Whether this command still holds the sweep. Else its jobs are another's, which it would only overtake in turn."""
        try:
            require_held(self._folders.lock)
        except Locked:
            return False
        return True

    def _count(self, job: Job, cause: str) -> int:
        self._starts[job.id, cause] += 1
        return self._starts[job.id, cause]

    def _end(self, job: Job, outcome: Mapping[str, Any]) -> tuple[str, int | None]:
        """(status, step) at which this start of ``job`` has ended.

        What the attempt's own record says counts: a machine may be gone before the word of a trial that ended well on it has
        come. An attempt whose process is gone without a record is closed.
        """
        said = str(outcome["status"]), outcome.get("step")
        records = [] if job.kind == "stage" else read_trial_attempts(self._folders, job.id)
        begun = records and records[-1].number > self._seen[job.id] and records[-1].start["plan"] == self._plan
        if not begun:  # the process ended before it came to that
            return said
        self._seen[job.id] = records[-1].number
        if records[-1].end is None:
            close_lost(self._folders, records, said[0], outcome.get("message"))
            records = read_trial_attempts(self._folders, job.id)
        return records[-1].status, (records[-1].end or {}).get("step")


def _larger(job: Job) -> Job:
    """``job`` with twice the memory, and twice its share of a GPU where it has only a part of one."""
    gpu = min(1.0, 2 * job.gpu) if 0 < job.gpu < 1 else job.gpu
    return replace(job, memory=2 * (job.memory or UNKNOWN_MEMORY), gpu=gpu)
