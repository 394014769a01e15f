"""What Ray Tune asks and tells: the queue of jobs that feeds it, and events from what it says of them."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from ray.tune.experiment import Trial
from ray.tune.progress_reporter import TrialProgressCallback
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ..jobs import Event, Job
from ..quantities import spoken


def job_id_of(trial: Trial) -> str:
    job_id: str = trial.config["job"]
    return job_id


class Queue:
    """The jobs that wait, in their order, and those that were given out and have not ended for good."""

    def __init__(self, target: str, plan: Path, jobs: Mapping[str, tuple[Job, Mapping[str, float]]], stop_file: Path) -> None:
        self._target, self._plan, self._stop_file = target, plan, stop_file
        self._waiting = deque(jobs.values())
        self.out: dict[str, Job] = {}
        self._starts: Counter[str] = Counter()

    def __bool__(self) -> bool:
        """Whether any job waits."""
        return bool(self._waiting) and not self.stopped

    @property
    def stopped(self) -> bool:
        """Whether the stop file exists, or the results folder is gone, where nothing could run any more."""
        return self._stop_file.exists() or not self._plan.exists()

    def next(self) -> dict[str, Any]:
        """Give out the first job, as what Tune hands to ``_run``."""
        job, request = self._waiting.popleft()
        self.out[job.id] = job
        self._starts[job.id] += 1
        return {
            "target": self._target,
            "plan": str(self._plan),
            "job": job.id,
            "start": self._starts[job.id],
            "request": dict(request),
        }

    def put_back(self, job: Job, request: Mapping[str, float]) -> None:
        """``job`` waits again, before all others."""
        self._waiting.appendleft((job, request))


class PlannedJobs(Searcher):
    """Gives out the jobs of ``queue``, at most ``slots`` at once, until none waits and none that is out can come back."""

    def __init__(self, queue: Queue, slots: int | None) -> None:
        super().__init__()
        self._queue, self._slots = queue, slots

    def suggest(self, trial_id: str) -> Any:
        if self._queue.stopped:
            return Searcher.FINISHED
        if not self._queue:
            return None if self._queue.out else Searcher.FINISHED
        if self._slots is not None and len(self._queue.out) >= self._slots:
            return None
        return self._queue.next()

    def on_trial_complete(self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False) -> None:
        """Nothing: the events tell the queue."""

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Nothing: a sweep goes on from its own records."""


class DropWaiting(FIFOScheduler):
    """First come, first served; once the stop file exists, trials still waiting for a machine are taken back.

    Without it a stop would last as long as somebody else's jobs hold a shared cluster.
    """

    def __init__(self, stop_file: Path) -> None:
        super().__init__()
        self._stop_file = stop_file

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        if not self._stop_file.exists():
            return super().choose_trial_to_run(tune_controller)
        for trial in tune_controller.get_trials():
            if trial.status == Trial.PENDING:
                tune_controller.stop_trial(trial)
        return None


class Events(TrialProgressCallback):
    """Turns what Tune tells into events: started, any number of progress, finished, for every job that got a process.

    It stands in for Tune's own printer of progress, which no setting silences.
    """

    def __init__(
        self, on_event: Callable[[Event], None], queue: Queue, settle: Callable[[Job, Mapping[str, Any]], bool]
    ) -> None:
        self._on_event, self._queue, self._settle = on_event, queue, settle
        self.running: dict[str, Running] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles its callbacks for ``Tuner.restore``, and ``on_event`` may hold a terminal."""
        return {}

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        job_id = job_id_of(trial)
        self.running[job_id] = Running(self._queue.out[job_id])
        self._on_event(Event(job_id=job_id, kind="started"))

    def on_trial_result(self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any) -> None:
        running = self.running[job_id_of(trial)]
        running.heard = time.monotonic()
        if "outcome" in result:
            running.outcome = result["outcome"]
        elif "process" in result:
            running.process = result["process"]
        else:
            self._on_event(Event(job_id=job_id_of(trial), kind="progress", data=result["progress"]))

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        if job_id_of(trial) in self.running:
            self._finish(job_id_of(trial), {"status": "lost", "message": "the process ended without an outcome"})
        else:  # a trial taken back before it started is none of the driver's events
            self._queue.out.pop(job_id_of(trial), None)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        error = Path(trial.error_file).read_text() if trial.error_file else ""
        if job_id_of(trial) in self.running:
            self._finish(job_id_of(trial), _why(error))
        elif (job := self._queue.out.pop(job_id_of(trial), None)) is not None:  # lost before Tune called it started
            self._on_event(Event(job_id=job.id, kind="started"))
            self._tell_end(job, _why(error))

    def close(self) -> None:
        """Report the jobs that were running when ``fit`` was left by an exception."""
        for job_id in list(self.running):
            self._finish(job_id, {"status": "lost", "message": "the driver stopped before the job ended"})

    def _finish(self, job_id: str, otherwise: dict[str, Any]) -> None:
        running, job = self.running.pop(job_id), self._queue.out.pop(job_id)
        if running.outcome is None and running.silent:
            message = f"nothing was heard of it for {spoken(job.deadline or 0)}: its process was ended as hung"
            otherwise = {"status": "lost", "cause": "silence", "message": message}
        self._tell_end(job, otherwise if running.outcome is None else running.outcome)

    def _tell_end(self, job: Job, outcome: Mapping[str, Any]) -> None:
        self._on_event(Event(job_id=job.id, kind="finished", data=outcome))
        if self._settle(job, outcome):
            self._on_event(Event(job_id=job.id, kind="again"))


@dataclass
class Running:
    """A job in a process."""

    job: Job
    heard: float = field(default_factory=time.monotonic)
    """When the last word of it came."""
    process: tuple[str, int] | None = None
    """(Ray's node id, process id)."""
    outcome: dict[str, Any] | None = None
    """What it has told at its end; None until then."""
    silent: bool = False
    """Its process was ended because nothing was heard of it."""


class Silence:
    """Ends the processes of jobs that have passed their deadline without a word. A context manager, with a thread of its own.

    Only SIGKILL from the process's own machine ends one that is stuck in the kernel's or a driver's code, or stopped.
    """

    INTERVAL_S = 1.0

    def __init__(self, events: Events) -> None:
        self._events = events
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="silence")

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *error: object) -> None:
        self._over.set()

    def _watch(self) -> None:
        while not self._over.wait(self.INTERVAL_S):
            for running in list(self._events.running.values()):
                late = running.job.deadline is not None and time.monotonic() - running.heard > running.job.deadline
                if late and not running.silent and running.process is not None:
                    running.silent = True
                    node, process = running.process
                    # Resources: none, so that it is placed on a machine that is full.
                    end = ray.remote(num_cpus=0, max_retries=0)(_kill)
                    end.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(process)


def _kill(process: int) -> None:
    os.kill(process, signal.SIGKILL)


def _why(error: str) -> dict[str, Any]:
    """Status and one line on a process that Ray lost, from the many lines that it says about it."""
    if "running low on memory" in error:
        return {"status": "oom", "message": "Ray ended the process: its machine ran low on memory"}
    if "its node has died" in error or "is temporarily unavailable" in error or "node was terminated" in error:
        return {"status": "lost", "cause": "machine", "message": "the machine of the process is gone, or cannot be reached"}
    if "worker process has died" in error:
        return {"status": "lost", "cause": "process", "message": "the process died: killed, out of memory, or crashed"}
    lines = [line.strip() for line in error.splitlines() if line.strip()]
    return {"status": "lost", "message": lines[-1] if lines else "the process is gone"}
