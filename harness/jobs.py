"""Jobs: what an executor places on a machine, and how it hears of them.

An executor knows nothing but this module: it starts ``run_job(plan, job_id, report)`` in some process for every job and
passes on what comes back as events. Everything a job needs is in the launch's ``plan.json``; everything it leaves is in the
results folder. An exception never leaves ``run_job``; an executor that sees one has lost a process, not a trial.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

Kind = Literal["stage", "train", "evaluate"]
Report = Callable[[Mapping[str, Any]], None]


@dataclass(frozen=True, kw_only=True)
class Job:
    """One unit of placement. ``id`` is unique in a launch: a trial id, or a stage's folder name."""

    id: str
    kind: Kind
    label: str
    """What a person reads: ``eps=10 noise_injection=0.1 seed=0``."""
    cpu: float = 1.0
    gpu: float = 0.0
    memory: int | None = None
    """Bytes, as the sweep file declares or as measured on earlier trials; None where nothing is known."""
    deadline: float | None = None
    """Seconds without any news after which the job is taken for hung and its process ended; None: never."""


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something that happened to a job. ``progress`` events carry step, steps, epsilon, target_epsilon, status and metrics.

    ``again`` follows ``finished``: the job waits to be started once more.
    """

    job_id: str
    kind: Literal["started", "progress", "finished", "again"]
    data: Mapping[str, Any] = field(default_factory=dict)
    """``finished``: status (completed, interrupted, budget, failed, oom, lost) and, when it failed, message and log; for what
    was lost also its cause: machine, process or silence."""


Again = Callable[[Job, Mapping[str, Any]], Job | None]
"""Asked with a job and how it ended: the job to run once more, with another request perhaps, or None."""


def never(job: Job, outcome: Mapping[str, Any]) -> Job | None:
    """No job is run once more."""
    return None


class Executor(Protocol):
    """Runs jobs on some machines, as many at once as they hold, and returns when none is running."""

    def run(
        self, jobs: Sequence[Job], plan: Path, on_event: Callable[[Event], None], stop_file: Path, again: Again = never
    ) -> None:
        """Run ``jobs``; start no new one once ``stop_file`` exists (running ones see it themselves and checkpoint).

        ``again`` is asked about every job that has ended. An executor of one process does not ask: what ended a job there
        would end it again.
        """
        ...

    def close(self) -> None:
        """Give back what was started here."""
        ...
