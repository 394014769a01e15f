"""Which machines run the jobs: this process, a Ray of our own on this machine, or a Ray cluster that somebody started.

Ray is imported when jobs are about to run and not before: a dry run has no use for it.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import logging
import os
import re
import secrets
import shutil
import signal
import site
import socket
import subprocess
import sys
import sysconfig
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from slurm.allocation import here

from .executors.inline import TARGET, InlineExecutor
from .jobs import Executor

MAX_TEMP = 43
"""Characters a Ray temp folder may have: a socket's path ends at 107, and Ray adds up to 64 of its own."""

_OBJECT_STORE = 100 * 2**20
"""Bytes: only paths and progress travel through Ray, and its default is a third of the machine."""

_FOR_JOBS = 0.95
"""Part of the usable memory that jobs may ask for, the object store's included; the rest is for Ray itself."""

# Both sides of every connection. The thread counts keep Ray within `ulimit -u` of many-core machines; a job that asks for
# no GPU sees none.
_PINNED = {
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
    "RAY_worker_num_grpc_internal_threads": "1",
    "RAY_num_server_call_thread": "1",
}
# Our own Ray: no processes ahead of need, nothing sent to anybody; where memory runs out, one trial is ended, the youngest.
_PINNED_LOCAL = {
    "RAY_worker_killing_policy_by_group": "true",
    "RAY_enable_worker_prestart": "0",
    "RAY_prestart_worker_first_driver": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}

_SAID_BY_US = ("A worker died or was killed", "killed due to the node running low", "Raylet is terminated", "marked dead")


class ClusterError(RuntimeError):
    """The machines cannot be had, or cannot do this sweep: one sentence with what to do."""


class NoGPU(ClusterError):
    """The sweep asks for GPUs and no machine has one."""


@dataclass
class Cluster:
    """A Ray that this process is connected to. Closing it ends a Ray of our own and only leaves another's."""

    address: str
    """HOST:PORT, as further machines would join it."""
    undo: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def machines(self) -> list[Mapping[str, float]]:
        """What each of the machines that are there now offers, in Ray's words; those without processors run no jobs."""
        resources = [node["Resources"] for node in _ray().nodes() if node["Alive"]]
        return [offered for offered in resources if offered.get("CPU")]

    @contextlib.contextmanager
    def watched(self, stop_file: Path, waiting: Callable[[], bool]) -> Iterator[None]:
        """While jobs run: a cluster that can lose its machines makes ``stop_file`` when none is left nor comes back.

        ``waiting`` says whether any job still waits for a machine.
        """
        yield

    def close(self) -> None:
        """Disconnect; a second call does nothing."""
        self.undo.close()


def connect(on: str, *, results: Path, max_concurrent: int | None = None, target: str = TARGET) -> Executor:
    """The executor for ``on``: ``inline``, ``local``, ``auto`` or the ``HOST:PORT`` of a Ray cluster.

    ``results`` is the results root, which every machine must see. A Ray that this process is connected to already is taken
    as it is, whatever ``on`` says, and left running. Raises ``ClusterError``.
    """
    if on == "inline":
        return InlineExecutor(target=target)
    if on not in ("local", "auto") and not re.fullmatch(r"[^\s/:]+:\d+|\[[0-9a-fA-F:]+\]:\d+", on):
        raise ClusterError(
            f"--on {on}: expected inline, local, auto or the HOST:PORT of a Ray cluster"
            + (", as `ray start --head` prints it (ray:// addresses lead to another service)" if "://" in on else "")
        )
    cluster = start_local() if on == "local" and not _connected() else join(on, results)
    from .executors.ray_tune import RayTuneExecutor

    return RayTuneExecutor(cluster, max_concurrent=max_concurrent, target=target)


def start_local() -> Cluster:
    """A Ray of our own, over the processors and GPUs that this process may use. Raises ``ClusterError``."""
    folder = _temp_folder()
    with contextlib.ExitStack() as undo:
        undo.callback(shutil.rmtree, folder, ignore_errors=True)
        token = folder / "token"
        token.touch(mode=0o600)
        token.write_text(_token())
        # Only the path: Ray itself turns authentication on. RAY_AUTH_MODE set after `import ray` would not be heard.
        own = {"RAY_AUTH_TOKEN_PATH": str(token), "RAY_AUTH_TOKEN": None, "RAY_AUTH_MODE": os.environ.get("RAY_AUTH_MODE")}
        undo.enter_context(environment({**_PINNED, **_PINNED_LOCAL, **own}))
        undo.callback(_ray().shutdown)
        # Ray finds the GPUs by itself, within CUDA_VISIBLE_DEVICES; its own count of processors and memory is the machine's.
        share = here()
        context = _init(
            address="local",
            num_cpus=share.cpus,
            num_gpus=0 if share.gpus == 0 else None,
            _memory=int(share.memory * _FOR_JOBS) - _OBJECT_STORE,
            include_dashboard=False,
            object_store_memory=_OBJECT_STORE,
            _temp_dir=str(folder / "ray"),  # Ray opens it to everybody (0777); the folder around it stays ours
        )
        return Cluster(context.address_info["address"], undo.pop_all())


def join(address: str, results: Path) -> Cluster:
    """A Ray cluster that somebody runs: ``auto`` (``ray start --head`` on this machine) or HOST:PORT.

    Raises ``ClusterError`` where there is none, or where one of its machines cannot do the work.
    """
    with contextlib.ExitStack() as undo:
        if _connected():
            address = _ray().get_runtime_context().gcs_address
        else:
            found = _find_head() if address == "auto" else address
            # As Ray's own "auto": the user's token goes to the user's own head, and to no address unasked.
            mode = os.environ.get("RAY_AUTH_MODE")
            if address == "auto" and found != os.environ.get("RAY_ADDRESS") and _has_token():
                mode = mode or "token"
            undo.enter_context(environment({**_PINNED, "RAY_AUTH_MODE": mode}))
            _check_head(found, address)
            undo.callback(_ray().shutdown)
            address = _init(address=found).address_info["address"]
        probe(results)
        return Cluster(address, undo.pop_all())


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
                    f"machine {machine} cannot run jobs ({_last_line(error)}); install dpsweep there, in the Python of its Ray"
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


def import_path() -> str:
    """This process's import path as PYTHONPATH for the workers, without what belongs to the Python installation."""
    installed = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    installed += [*site.getsitepackages(), site.getusersitepackages()]
    entries = [Path(entry).absolute() for entry in sys.path]
    kept = [str(path) for path in entries if path.exists() and not any(path.is_relative_to(place) for place in installed)]
    return os.pathsep.join(dict.fromkeys(kept))


@contextlib.contextmanager
def environment(values: Mapping[str, str | None]) -> Iterator[None]:
    """Environment variables for the time of a block (None: not set), then as they were."""
    before = {name: os.environ.get(name) for name in values}

    def put(names: Mapping[str, str | None]) -> None:
        for name, value in names.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value

    put(values)
    try:
        yield
    finally:
        put(before)


def _ray() -> Any:
    """The package, imported so that its own paragraphs on every lost process stay off the screen: we print a line."""
    with environment({"RAY_DEDUP_LOGS_SKIP_REGEX": "|".join(_SAID_BY_US)}):
        import ray
    return ray


def _connected() -> bool:
    """Whether this process has a Ray already; asking does not import it."""
    return "ray" in sys.modules and bool(sys.modules["ray"].is_initialized())


def _has_token() -> bool:
    if "RAY_AUTH_TOKEN" in os.environ or "RAY_AUTH_TOKEN_PATH" in os.environ:
        return True
    return (Path.home() / ".ray" / "auth_token").exists()


def _init(**arguments: Any) -> Any:
    """``ray.init`` with what all our connections share. Raises ``ClusterError``."""
    workers = {**_PINNED, "PYTHONPATH": import_path()}
    try:
        with _kept_handlers():
            return _ray().init(runtime_env={"env_vars": workers}, log_to_driver=False, logging_level=logging.ERROR, **arguments)
    except Exception as error:
        raise ClusterError(f"Ray ({arguments['address']}) cannot be used: {_last_line(error)}") from error


@contextlib.contextmanager
def _kept_handlers() -> Iterator[None]:
    """``ray.init`` makes SIGTERM exit at once; the driver's own handler lets trials checkpoint."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@functools.cache
def _token() -> str:
    """The secret of this process's own Ray; one a process, for Ray reads it once and keeps it."""
    return secrets.token_hex(32)


def _temp_folder() -> Path:
    """A new folder of mode 0700 whose path with ``/ray`` is short enough for Ray. Raises ``ClusterError``."""
    room = MAX_TEMP - len("/dpsweep-xxxxxxxx/ray")
    for parent in (tempfile.gettempdir(), "/tmp"):
        if len(parent) <= room and os.access(parent, os.W_OK):
            return Path(tempfile.mkdtemp(prefix="dpsweep-", dir=parent))
    raise ClusterError(
        f"Ray needs a temporary folder whose path has at most {room} characters; "
        f"{tempfile.gettempdir()} has {len(tempfile.gettempdir())} and /tmp cannot be written: set TMPDIR to a shorter one"
    )


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
        raise ClusterError(f"--on {asked}: no Ray head to use at {address} ({_last_line(answer.stderr)}); {advice}")


def _last_line(error: BaseException | str) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
