"""Jobs one after the other in this process: for small sweeps, for tests, and for a debugger."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..jobs import Again, Event, Job, Report, never

TARGET = "harness.worker:run_job"
"""``module:function`` that every executor calls as ``function(plan, job_id, report)`` in the process of the job."""

RunJob = Callable[[Path, str, Report], Mapping[str, Any]]


def load(target: str) -> RunJob:
    """The function that ``target``, written ``module:function``, names. Raises what the import raises."""
    module, _, function = target.partition(":")
    found: RunJob = getattr(importlib.import_module(module), function)
    return found


def lost(error: BaseException) -> dict[str, Any]:
    """Data of the ``finished`` event of a job whose process is gone, or let out an exception: one line says why."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return {"status": "lost", "message": f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__}


class InlineExecutor:
    """Runs jobs one after the other in this process and looks at the stop file between them."""

    def __init__(self, *, target: str = TARGET) -> None:
        self._target = target

    def run(
        self, jobs: Sequence[Job], plan: Path, on_event: Callable[[Event], None], stop_file: Path, again: Again = never
    ) -> None:
        """Run ``jobs`` in their order, each once; what a job asks of a machine, and its deadline, are not looked at."""
        run_job = load(self._target)
        for job in jobs:
            if stop_file.exists():
                return
            on_event(Event(job_id=job.id, kind="started"))

            def report(data: Mapping[str, Any], job_id: str = job.id) -> None:
                on_event(Event(job_id=job_id, kind="progress", data=dict(data)))

            try:
                outcome = dict(run_job(plan.resolve(), job.id, report))
            except Exception as error:
                outcome = lost(error)
            on_event(Event(job_id=job.id, kind="finished", data=outcome))

    def close(self) -> None:
        """Nothing was started."""
