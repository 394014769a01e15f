"""Jobs on a Ray cluster, placed by Ray Tune.

Tune places processes and tells when one dies; it is never the record. It is fed by a searcher that gives out the planned
jobs, its own storage is thrown away, its retries, loggers, checkpoints and ``Tuner.restore`` are not used. A job is one
fresh process (no CUDA context, random state or hook of another trial is left in it), and an error that Tune reports means
that this process is gone: ``run_job`` lets no exception out.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import ray
from ray import tune
from ray.air.execution._internal import actor_manager
from ray.exceptions import OutOfMemoryError, RayActorError
from ray.tune.execution import tune_controller
from ray.tune.experiment import Trial
from ray.tune.progress_reporter import TrialProgressCallback
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from threadpoolctl import threadpool_limits

from ..cluster import Cluster, Load
from ..connection import ClusterError, NoGPU, environment
from ..jobs import Again, Event, Job, never
from ..quantities import spoken
from .inline import TARGET
from .inline import load as load_target

DEFAULT_MEMORY = 1500 * 2**20
"""Bytes reserved for a job of which nothing was measured: three times what torch, Ray and a small generator take."""

_TUNE = {
    "RAY_AIR_NEW_OUTPUT": "0",  # the old output is the one that verbose=0 silences
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C is the driver's: it makes the stop file
    "TUNE_FORCE_TRIAL_CLEANUP_S": "60",
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",  # its snapshots are for Tuner.restore
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
}


_NO_LIMIT = 10**9
"""Trials that Tune may ask for; the queue of jobs says when there are no more."""


class ImpossibleRequest(ClusterError):
    """A job asks for more than any machine of the cluster has; Ray would wait for ever without a word."""


class RayTuneExecutor:
    """Runs jobs on ``cluster``, as many at once as its machines hold.

    Every job takes its cpu, gpu and measured memory (``DEFAULT_MEMORY`` where nothing was measured) from one machine.
    ``max_concurrent`` is the user's own word on how many may run at once: memory is then not counted.
    """

    def __init__(self, cluster: Cluster, *, max_concurrent: int | None = None, target: str = TARGET) -> None:
        self._cluster, self._max_concurrent, self._target = cluster, max_concurrent, target

    def run(
        self, jobs: Sequence[Job], plan: Path, on_event: Callable[[Event], None], stop_file: Path, again: Again = never
    ) -> None:
        """Run ``jobs``; the first ones start first. A job that ``again`` gives back goes to the front of those that wait.

        Raises ``ImpossibleRequest`` or ``NoGPU`` before any job has started. Jobs that run when this is left by an
        exception, such as a second Ctrl-C, are reported as lost.
        """
        if not jobs or stop_file.exists():
            return
        plan = plan.resolve()
        nodes = self._cluster.machines()
        queue = _Queue(self._target, plan, {job.id: (job, self._request(job, nodes)) for job in jobs}, stop_file)

        def settle(job: Job, outcome: Mapping[str, Any]) -> bool:
            """Whether a job that has ended runs once more."""
            following = None if stop_file.exists() else again(job, outcome)
            if following is not None:
                queue.put_back(following, self._request_again(following))
            return following is not None

        events = _Events(on_event, queue, settle)
        # Inside the launch's folder, which all machines see; nothing but Tune reads it.
        scratch = plan.parent / f"tune-{uuid4().hex[:8]}"
        pending = min(len(jobs), int(sum(node.get("CPU", 0) for node in nodes)) + 2)
        silence = _Silence(events)
        others_follow = any(job.kind == "stage" for job in jobs)

        def load() -> Load:
            processes = [running.process for running in list(events.running.values())]
            return Load(waiting=bool(queue) or others_follow, busy=frozenset(process[0] for process in processes if process))

        try:
            with (
                environment({**_TUNE, "TUNE_MAX_PENDING_TRIALS_PG": str(pending)}),
                _quiet(),
                _kept_usr1(),
                _memory_kills(),
                self._cluster.watched(stop_file, load),
                silence,
            ):
                tune.Tuner(
                    tune.with_resources(_run, _placement),
                    tune_config=tune.TuneConfig(
                        search_alg=_PlannedJobs(queue, self._max_concurrent),
                        scheduler=_DropWaiting(stop_file),
                        num_samples=_NO_LIMIT,
                        reuse_actors=False,
                        trial_name_creator=_job_id,
                        trial_dirname_creator=_folder_name,
                    ),
                    run_config=tune.RunConfig(
                        name="jobs",
                        storage_path=str(scratch),
                        failure_config=tune.FailureConfig(max_failures=0),
                        callbacks=[events],
                        verbose=0,
                    ),
                ).fit()
        finally:
            events.close()
            shutil.rmtree(scratch, ignore_errors=True)

    def close(self) -> None:
        """End the Ray that was started here, or leave the one that was joined."""
        self._cluster.close()

    def _request(self, job: Job, nodes: Sequence[Mapping[str, float]]) -> dict[str, float]:
        """What ``job`` takes from one machine, in Ray's words. Raises ``ImpossibleRequest`` or ``NoGPU``."""
        request = {"CPU": job.cpu}
        if job.gpu:
            request["GPU"] = job.gpu
        if self._max_concurrent is None:
            # An assumption must not rule a job out: where no machine has that much, it gets a whole one.
            largest = max(node.get("memory", 0.0) for node in nodes)
            request["memory"] = job.memory if job.memory is not None else min(DEFAULT_MEMORY, largest)
        if not _fits(request, nodes):
            if _fits({**request, "GPU": 0.0}, nodes) and not any(node.get("GPU") for node in nodes):
                raise NoGPU(
                    f"the sweep asks for {job.gpu:g} GPU a trial and there is none here: join a Ray cluster that has some "
                    "(--on auto, --on HOST:PORT), or set resources.gpu to 0"
                )
            there = " and ".join(sorted({_words(node) for node in nodes}))
            advice = "lower resources: in the sweep file, or bring a larger machine"
            if "memory" in request and all(node.get("memory", 0.0) < request["memory"] for node in nodes):
                advice = "that memory was measured on earlier runs; --max-concurrent 1 runs one at a time without counting it"
            raise ImpossibleRequest(f"{job.label} asks for {_words(request)} on one machine; there is {there}: {advice}")
        return request

    def _request_again(self, job: Job) -> dict[str, float]:
        """As ``_request``, on whatever machines there are now: more than the largest one has is brought down to that."""
        nodes = self._cluster.machines()
        largest = max((node.get("memory", 0.0) for node in nodes), default=0.0)
        if job.memory is not None and largest:
            job = replace(job, memory=min(job.memory, int(largest)))
        try:
            return self._request(job, nodes)
        except ClusterError:  # a machine that has it may come back
            request = {"CPU": job.cpu, **({"GPU": job.gpu} if job.gpu else {})}
            return request if self._max_concurrent is not None else {**request, "memory": float(job.memory or DEFAULT_MEMORY)}


def _fits(request: Mapping[str, float], nodes: Sequence[Mapping[str, float]]) -> bool:
    """Whether one machine has all of ``request``."""
    return any(all(node.get(name, 0.0) >= amount for name, amount in request.items()) for node in nodes)


def _words(resources: Mapping[str, float]) -> str:
    """``cpu 2, gpu 0, memory 1.5 GB``; memory only where it is counted."""
    words = [f"cpu {resources.get('CPU', 0):g}", f"gpu {resources.get('GPU', 0):g}"]
    if "memory" in resources:
        words.append(f"memory {resources['memory'] / 1e9:.1f} GB")
    return ", ".join(words)


# --- in the process of the job --------------------------------------------------------------------------------------


def _run(config: Mapping[str, Any]) -> None:
    """Tune's trainable. It runs in a thread of the job's process, where no signal handler can be installed."""
    limit_process(config["request"]["CPU"], config["request"].get("GPU", 0.0))
    tune.report({"process": (ray.get_runtime_context().get_node_id(), os.getpid())})
    run_job = load_target(config["target"])
    outcome = run_job(Path(config["plan"]), config["job"], lambda data: tune.report({"progress": dict(data)}))
    tune.report({"outcome": dict(outcome)})


def limit_process(cpu: float, gpu: float) -> None:
    """Keep this process within its share: ``cpu`` threads and, of a part of a GPU, that part of its memory.

    The variables are read when a library is loaded, and numpy's BLAS has come with Ray, with the number that the driver's
    environment had. Ray only counts fractions of a GPU: every process on it sees all of its memory.
    """
    threads = max(1, int(cpu))
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(threads)
    threadpool_limits(threads)  # of what is loaded already, for good
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)
    if 0 < gpu < 1:
        import torch

        if torch.cuda.is_available():
            torch.cuda.set_per_process_memory_fraction(gpu)


# --- in the driver --------------------------------------------------------------------------------------------------


def _placement(config: Mapping[str, Any]) -> tune.PlacementGroupFactory:
    return tune.PlacementGroupFactory([dict(config["request"])])


def _job_id(trial: Trial) -> str:
    job_id: str = trial.config["job"]
    return job_id


def _folder_name(trial: Trial) -> str:
    return f"{trial.config['job']}-{trial.config['start']}"


class _Queue:
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
        """Whether the stop file exists."""
        return self._stop_file.exists()

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


class _PlannedJobs(Searcher):
    """Gives out the jobs of ``queue``, at most ``slots`` at once, until none waits and none that is out can come back."""

    def __init__(self, queue: _Queue, slots: int | None) -> None:
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


class _DropWaiting(FIFOScheduler):
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


class _Events(TrialProgressCallback):
    """Turns what Tune tells into events: started, any number of progress, finished, for every job that got a process.

    It stands in for Tune's own printer of progress, which no setting silences.
    """

    def __init__(
        self, on_event: Callable[[Event], None], queue: _Queue, settle: Callable[[Job, Mapping[str, Any]], bool]
    ) -> None:
        self._on_event, self._queue, self._settle = on_event, queue, settle
        self.running: dict[str, _Running] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles its callbacks for ``Tuner.restore``, and ``on_event`` may hold a terminal."""
        return {}

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        job_id = _job_id(trial)
        self.running[job_id] = _Running(self._queue.out[job_id])
        self._on_event(Event(job_id=job_id, kind="started"))

    def on_trial_result(self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any) -> None:
        running = self.running[_job_id(trial)]
        running.heard = time.monotonic()
        if "outcome" in result:
            running.outcome = result["outcome"]
        elif "process" in result:
            running.process = result["process"]
        else:
            self._on_event(Event(job_id=_job_id(trial), kind="progress", data=result["progress"]))

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        if _job_id(trial) in self.running:
            self._finish(_job_id(trial), {"status": "lost", "message": "the process ended without an outcome"})
        else:  # a trial taken back before it started is none of the driver's events
            self._queue.out.pop(_job_id(trial), None)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        error = Path(trial.error_file).read_text() if trial.error_file else ""
        if _job_id(trial) in self.running:
            self._finish(_job_id(trial), _why(error))
        elif (job := self._queue.out.pop(_job_id(trial), None)) is not None:  # lost before Tune called it started
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
class _Running:
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


class _Silence:
    """Ends the processes of jobs that have passed their deadline without a word. A context manager, with a thread of its own.

    Only SIGKILL from the process's own machine ends one that is stuck in the kernel's or a driver's code, or stopped.
    """

    INTERVAL_S = 1.0

    def __init__(self, events: _Events) -> None:
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


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Tune's own messages off the screen: each of them is an event of ours, or about its own storage."""
    logger = logging.getLogger("ray.tune")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextlib.contextmanager
def _memory_kills() -> Iterator[None]:
    """Make Tune take a process that Ray's memory monitor ended for a process that died.

    Tune 2.60 expects nothing but ``RayActorError`` there: ``OutOfMemoryError`` is none, so it would end all other trials and
    raise. Both modules only ask ``isinstance``.
    """
    modules = [module for module in (actor_manager, tune_controller) if hasattr(module, "RayActorError")]
    for module in modules:
        vars(module)["RayActorError"] = (RayActorError, OutOfMemoryError)
    try:
        yield
    finally:
        for module in modules:
            vars(module)["RayActorError"] = RayActorError


@contextlib.contextmanager
def _kept_usr1() -> Iterator[None]:
    """``Tuner.fit`` takes SIGUSR1 for itself and does not give it back."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.getsignal(signal.SIGUSR1)
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR1, handler)
