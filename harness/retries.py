"""Which jobs of a launch are started once more, and with what request.

Whatever is started once more goes on from its checkpoint, within its budget: what the attempt before has released, or may
have, stays counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from .folders import Folders
from .jobs import Job
from .ledger import read_trial_attempts
from .recovery import close_lost

MOST = {"machine": 3, "process": 1, "silence": 1}
"""Starts after a loss, by its cause. The loss of a machine says nothing of the trial; that of its process may."""
MOST_OUT_OF_MEMORY = 1
MOST_WITHOUT_PROGRESS = 3
"""Starts in a row after which a trial that its machines always send away at the same step is left to the next command."""
UNKNOWN_MEMORY = 1500 * 2**20
"""Bytes that a job is taken to have had of which nothing was known when it ran out of memory."""


class Retries:
    """An ``Again`` for one launch of the sweep in ``folders``."""

    def __init__(self, folders: Folders) -> None:
        self._folders = folders
        self._starts: Counter[tuple[str, str]] = Counter()
        self._steps: dict[str, int | None] = {}

    def __call__(self, job: Job, outcome: Mapping[str, Any]) -> Job | None:
        """The job to start once more after ``outcome``, or None."""
        status = outcome.get("status")
        if status == "lost":
            if not self._close(job, outcome):
                return None
            cause = str(outcome.get("cause", "process"))
            return job if self._count(job, cause) <= MOST[cause] else None
        if status == "oom":
            ended = self._close(job, outcome)
            return _larger(job) if ended and self._count(job, "oom") <= MOST_OUT_OF_MEMORY else None
        if status == "interrupted":  # and no stop was asked for: its machine has sent it away
            step = outcome.get("step")
            if step is None or step != self._steps.get(job.id):
                self._starts[job.id, "interrupted"] = 0
            self._steps[job.id] = step
            return job if self._count(job, "interrupted") <= MOST_WITHOUT_PROGRESS else None
        return None

    def _count(self, job: Job, cause: str) -> int:
        self._starts[job.id, cause] += 1
        return self._starts[job.id, cause]

    def _close(self, job: Job, outcome: Mapping[str, Any]) -> bool:
        """Close the attempt of a trial whose process is gone; False where the attempt has come to its end after all."""
        records = [] if job.kind == "stage" else read_trial_attempts(self._folders, job.id)
        if records and records[-1].end is None:
            close_lost(self._folders, records, str(outcome["status"]), outcome.get("message"))
        ended = read_trial_attempts(self._folders, job.id)[-1].status if records else "lost"
        return ended in ("lost", "oom")


def _larger(job: Job) -> Job:
    """``job`` with twice the memory, and twice its share of a GPU where it has only a part of one."""
    gpu = min(1.0, 2 * job.gpu) if 0 < job.gpu < 1 else job.gpu
    return replace(job, memory=2 * (job.memory or UNKNOWN_MEMORY), gpu=gpu)
