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
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import ray
from ray import tune
from ray.air.execution._internal import actor_manager
from ray.exceptions import OutOfMemoryError, RayActorError
from ray.tune.execution import tune_controller
from ray.tune.experiment import Trial
from threadpoolctl import threadpool_limits

from ..cluster import Cluster, Load
from ..connection import ClusterError, NoGPU, environment
from ..jobs import Again, Event, Job, never
from .feed import DropWaiting, Events, PlannedJobs, Queue, Silence, job_id_of
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
        queue = Queue(self._target, plan, {job.id: (job, self._request(job, nodes)) for job in jobs}, stop_file)

        def settle(job: Job, outcome: Mapping[str, Any]) -> bool:
            """Whether a job that has ended runs once more."""
            following = None if stop_file.exists() else again(job, outcome)
            if following is not None:
                queue.put_back(following, self._request_again(following))
            return following is not None

        events = Events(on_event, queue, settle)
        # Inside the launch's folder, which all machines see; nothing but Tune reads it.
        scratch = plan.parent / f"tune-{uuid4().hex[:8]}"
        pending = min(len(jobs), int(sum(node.get("CPU", 0) for node in nodes)) + 2)
        silence = Silence(events)
        others_follow = any(job.kind == "stage" for job in jobs)

        def load() -> Load:
            running = list(events.running.values())
            waiting = bool(queue) or others_follow or len(queue.out) > len(running)  # the last are those that Tune has placed
            return Load(waiting=waiting, busy=frozenset(job.process[0] for job in running if job.process))

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
                        search_alg=PlannedJobs(queue, self._max_concurrent),
                        scheduler=DropWaiting(stop_file),
                        num_samples=_NO_LIMIT,
                        reuse_actors=False,
                        trial_name_creator=job_id_of,
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


def _folder_name(trial: Trial) -> str:
    return f"{trial.config['job']}-{trial.config['start']}"


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
