"""Which machines run the jobs: this process, a Ray of our own on this machine, or a Ray cluster that somebody started.

Ray is imported when jobs are about to run and not before: a dry run has no use for it.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import os
import secrets
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from slurm.allocation import here
from slurm.node import RayNode
from slurm.ports import ANY

from .connection import (
    FOR_JOBS,
    OBJECT_STORE,
    PINNED,
    ClusterError,
    check_where,
    connected,
    environment,
    give_up,
    init,
    last_line,
    ray,
    start_head,
    temp_parent,
)
from .executors.inline import TARGET, InlineExecutor
from .jobs import Executor

WATCH_S = 1.0

HEAD_LOST = (
    "the Ray that ran the trials has ended by itself, or was killed. What they may have released is counted; the same command "
    "goes on from their checkpoints"
)


@dataclass(frozen=True, kw_only=True)
class Load:
    """What the machines of a cluster have to do."""

    waiting: bool
    """Some job waits for a machine, or others will follow."""
    busy: frozenset[str]
    """Ray's ids of the nodes that run a job."""


@dataclass
class Cluster:
    """A Ray that this process is connected to. Closing it ends a Ray of our own and only leaves another's."""

    address: str
    """HOST:PORT, as further machines would join it."""
    head: RayNode | None = None
    """The head, where it is our own."""
    undo: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def machines(self) -> list[Mapping[str, float]]:
        """What each of the machines that are there now offers, in Ray's words; those without processors run no jobs."""
        resources = [node["Resources"] for node in ray().nodes() if node["Alive"]]
        return [offered for offered in resources if offered.get("CPU")]

    def guard_head(self, undo: contextlib.ExitStack) -> None:
        """End this process with a sentence if our own head ends, until ``undo`` is closed.

        In a thread that asks Ray nothing: without its head Ray does not answer, and aborts the process half a minute later.
        """
        over = threading.Event()

        def watch(head: RayNode) -> None:
            while not over.wait(WATCH_S):
                if not head.running() and not over.is_set():
                    give_up(f"{HEAD_LOST}\n{head.tail(3)}", head)

        if self.head is not None:
            undo.callback(over.set)
            threading.Thread(target=watch, args=(self.head,), daemon=True, name="head").start()

    @contextlib.contextmanager
    def watched(self, stop_file: Path, load: Callable[[], Load]) -> Iterator[None]:
        """Look after the machines while jobs run, in a thread.

        A cluster that can lose its machines makes ``stop_file`` when none is left nor comes back. ``load`` says what the
        machines have to do.
        """
        over = threading.Event()

        def watch() -> None:
            while not over.wait(WATCH_S):
                self.look(stop_file, load())

        thread = threading.Thread(target=watch, daemon=True, name="machines")
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def look(self, stop_file: Path, load: Load) -> None:
        """Once a second while jobs run."""

    def close(self) -> None:
        """Disconnect; a second call does nothing."""
        self.undo.close()


def connect(
    on: str,
    *,
    results: Path,
    sweep: str = "sweep",
    max_concurrent: int | None = None,
    target: str = TARGET,
    say: Callable[[str], None] = print,
) -> Executor:
    """The executor for ``on``: ``inline``, ``local``, ``auto``, the ``HOST:PORT`` of a Ray cluster, or ``slurm:PROFILE``.

    ``results`` is the results root, which every machine must see, ``sweep`` the sweep's name, and ``say`` gets sentences on
    machines that come and go. A Ray that this process is connected to already is taken as it is, whatever ``on`` says, and
    left running. Raises ``ClusterError``, and ``InputError`` for a profile.
    """
    check_where(on)
    if on == "inline":
        return InlineExecutor(target=target)
    if on.startswith("slurm:"):
        from .executors.ray_tune import RayTuneExecutor
        from .slurm_cluster import start_slurm

        return RayTuneExecutor(start_slurm(on, results, sweep, say), max_concurrent=max_concurrent, target=target)
    cluster = start_local() if on == "local" and not connected() else join(on, results)
    from .executors.ray_tune import RayTuneExecutor

    return RayTuneExecutor(cluster, max_concurrent=max_concurrent, target=target)


def start_local() -> Cluster:
    """A Ray of our own, over the processors and GPUs that this process may use. Raises ``ClusterError``."""
    share = here()
    # Ray finds the GPUs by itself, within CUDA_VISIBLE_DEVICES; its own count of processors and memory is the machine's.
    options = [f"--num-cpus={share.cpus}", f"--memory={int(share.memory * FOR_JOBS) - OBJECT_STORE}"]
    options += ["--num-gpus=0"] if share.gpus == 0 else []
    options += ["--port=0", *ANY, "--include-dashboard=false"]
    with contextlib.ExitStack() as undo:
        node, address = start_head(options, temp=temp_parent(), undo=undo)
        cluster = Cluster(address, node)
        cluster.guard_head(undo)
        cluster.undo = undo.pop_all()
        return cluster


def join(address: str, results: Path) -> Cluster:
    """A Ray cluster that somebody runs: ``auto`` (``ray start --head`` on this machine) or HOST:PORT.

    Raises ``ClusterError`` where there is none, or where one of its machines cannot do the work.
    """
    with contextlib.ExitStack() as undo:
        if connected():
            address = ray().get_runtime_context().gcs_address
        else:
            found = _find_head() if address == "auto" else address
            # As Ray's own "auto": the user's token goes to the user's own head, and to no address unasked.
            mode = os.environ.get("RAY_AUTH_MODE")
            if address == "auto" and found != os.environ.get("RAY_ADDRESS") and _has_token():
                mode = mode or "token"
            undo.enter_context(environment({**PINNED, "RAY_AUTH_MODE": mode}))
            _check_head(found, address)
            undo.callback(ray().shutdown)
            address = init(address=found).address_info["address"]
        probe(results)
        return Cluster(address, undo=undo.pop_all())


def probe(results: Path) -> None:
    """Check that every machine can run jobs: it imports the same code and reads a file just written to ``results``.

    Raises ``ClusterError`` with one sentence on the first machine that does not.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    results.mkdir(parents=True, exist_ok=True)
    token = results.resolve() / f".probe-{secrets.token_hex(8)}"
    token.write_text(secrets.token_hex(16))
    try:
        looks = []
        for node in ray.nodes():
            if node["Alive"]:
                strategy = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
                task = ray.remote(num_cpus=0, max_retries=0)(look).options(scheduling_strategy=strategy)
                looks.append((node["NodeManagerAddress"], task.remote(str(token))))
        for machine, answer in looks:
            try:
                content, code = ray.get(answer, timeout=120)
            except Exception as error:
                raise ClusterError(
                    f"machine {machine} cannot run jobs ({last_line(error)}); install dpsweep there, in the Python of its Ray"
                ) from error
            if content != token.read_text():
                raise ClusterError(
                    f"machine {machine} does not see {results.resolve()}; results must lie in a folder that all machines "
                    "share: name one with --results"
                )
            if code != code_fingerprint():
                raise ClusterError(f"machine {machine} has other code of dpsweep than this one; bring both to the same version")
    finally:
        token.unlink(missing_ok=True)


def look(token: str) -> tuple[str | None, str]:
    """Runs on a machine of the cluster: what ``token`` holds there (None: nothing to read), and its code's fingerprint."""
    try:
        content = Path(token).read_text()
    except OSError:
        content = None
    return content, code_fingerprint()


@functools.cache
def code_fingerprint() -> str:
    """SHA-256 over the Python sources of ``harness`` and ``trainables`` and the versions that training rests on."""
    digest = hashlib.sha256()
    root = Path(__file__).parents[1]
    for package in ("harness", "trainables"):
        for source in sorted((root / package).rglob("*.py")):
            digest.update(source.relative_to(root).as_posix().encode() + b"\0" + source.read_bytes())
    for distribution in ("torch", "dp-accounting"):
        digest.update(importlib.metadata.version(distribution).encode() + b"\0")
    return digest.hexdigest()


def _has_token() -> bool:
    if "RAY_AUTH_TOKEN" in os.environ or "RAY_AUTH_TOKEN_PATH" in os.environ:
        return True
    return (Path.home() / ".ray" / "auth_token").exists()


def _find_head() -> str:
    """HOST:PORT of the cluster that RAY_ADDRESS names, or that ``ray start --head`` left a note of on this machine."""
    address = os.environ.get("RAY_ADDRESS")
    if address and address != "auto":
        return address
    # Ray's own search would also take any Ray it finds among the processes, such as another sweep's.
    own = os.environ.get("RAY_TMPDIR")
    for folder in [own] if own else [os.environ.get("TMPDIR", "/tmp"), "/tmp"]:
        note = Path(folder) / "ray" / "ray_current_cluster"
        if note.is_file() and (address := note.read_text().strip()):
            return address
    raise ClusterError(
        "--on auto: no Ray cluster runs on this machine; start one with `ray start --head`, or name one with --on HOST:PORT"
    )


def _check_head(address: str, asked: str) -> None:
    """Ask whether a Ray head answers at ``address``; ``ray.init`` would wait there for ever. Raises ``ClusterError``."""
    advice = "start a cluster with `ray start --head`, or name one with --on HOST:PORT"
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, ValueError) as error:
        raise ClusterError(f"--on {asked}: nothing answers at {address} ({error}); {advice}") from error
    status = [sys.executable, "-m", "ray.scripts.scripts", "status", "--address", address]
    try:
        answer = subprocess.run(status, capture_output=True, text=True, timeout=30, check=False)
    except subprocess.TimeoutExpired as error:
        raise ClusterError(f"--on {asked}: what answers at {address} is no Ray head; {advice}") from error
    if "AuthenticationError" in answer.stderr:
        raise ClusterError(
            f"--on {asked}: the cluster at {address} asks for another token; set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH "
            "to the file of its token unless that is ~/.ray/auth_token"
        )
    if answer.returncode:
        raise ClusterError(f"--on {asked}: no Ray head to use at {address} ({last_line(answer.stderr)}); {advice}")
