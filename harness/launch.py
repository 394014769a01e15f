"""One launch: write the plan for the workers, run stages and trials on an executor, and leave the tables in order."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path

from . import ledger, store
from .documents import job_document, stage_document
from .jobs import Event, Executor, Job, Kind
from .plan import Plan, PlannedTrial
from .planfile import write_plan
from .recovery import close_orphans
from .retries import Retries


def new_launch(plan: Plan, provenance: dict[str, str | None]) -> Path:
    """Write ``launches/<id>/plan.json`` for all that is to do; return its path."""
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%f")
    path = plan.folders.launches / f"{stamp}-{os.getpid()}" / "plan.json"
    stages = ((folder, stage_document(plan, stage, folder, trial)) for folder, (stage, trial) in plan.stages.items())
    trials = ((trial.trial_id, job_document(plan, trial, provenance)) for trial in plan.to_do)
    write_plan(path, chain(stages, trials))
    plan.calibrations.save()
    return path


def stage_jobs(plan: Plan) -> list[Job]:
    """The stages that are missing. Each asks for what the trial declares that it is computed for."""
    jobs = []
    for identifier, (stage, trial) in plan.stages.items():
        cpu, gpu = _resources(trial)
        memory = trial.spec.resources.memory_bytes
        jobs.append(Job(id=identifier, kind="stage", label=f"stage {stage.name}", cpu=cpu, gpu=gpu, memory=memory))
    return jobs


def trial_jobs(plan: Plan, trials: Sequence[PlannedTrial]) -> list[Job]:
    """The trials that are to be trained or evaluated, longest estimate first so that none is left running alone."""
    jobs = []
    for trial in trials:
        cpu, gpu = _resources(trial)
        estimate = plan.estimates.of(trial)
        memory = trial.spec.resources.memory_bytes
        if memory is None and estimate["memory_mb"] is not None:
            memory = int(estimate["memory_mb"] * 1e6)
        kind: Kind = "train" if trial.action == "train" else "evaluate"
        label, deadline = trial.spec.label, trial.spec.resources.deadline_seconds
        job = Job(id=trial.trial_id, kind=kind, label=label, cpu=cpu, gpu=gpu, memory=memory, deadline=deadline)
        jobs.append((estimate["seconds"] or 0.0, job))
    return [job for _, job in sorted(jobs, key=lambda pair: -pair[0])]


def run_launch(plan: Plan, path: Path, executor: Executor, on_event: Callable[[Event], None]) -> None:
    """Run the launch at ``path``; return when nothing of it runs any more. ``retries`` says what is started once more."""
    stop_file = path.parent / "stop"
    again = Retries(plan.folders, path)
    executor.run(stage_jobs(plan), path, on_event, stop_file, again)
    ready = [trial for trial in plan.to_do if not _waits_for(plan, trial)]
    executor.run(trial_jobs(plan, ready), path, on_event, stop_file, again)
    close_orphans(plan.folders)


def finish(plan: Plan) -> None:
    """Move parts that do not count out of the table folders, compact records and tables. The lock holder calls it."""
    close_orphans(plan.folders)
    ledger.compact(plan.folders)
    store.tidy(plan.folders)
    store.compact(plan.folders)
    shutil.rmtree(plan.folders.scratch, ignore_errors=True)  # what killed processes left: nothing of this sweep runs now


def _waits_for(plan: Plan, trial: PlannedTrial) -> list[str]:
    """Stages of the launch that this trial needs and that could not be computed."""
    missing = {identifier for identifier in plan.stages if not (plan.folders.stages / identifier).is_dir()}
    return sorted(missing & set(plan.needs[trial.trial_id]))


def _resources(trial: PlannedTrial) -> tuple[float, float]:
    return trial.spec.resources.cpu, trial.spec.resources.gpu
