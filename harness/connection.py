"""This process's connection to Ray, and a Ray head of our own.

Ray is imported when jobs are about to run and not before: a dry run has no use for it.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import logging
import os
import re
import secrets
import shutil
import signal
import site
import sys
import sysconfig
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from slurm.node import RAY_LOST, RayFailed, RayNode, SlurmError, private_folder

MAX_TEMP = 43
"""Characters a Ray temp folder may have: a socket's path ends at 107, and Ray adds up to 64 of its own."""

OBJECT_STORE = 100 * 2**20
"""Bytes: only paths and progress travel through Ray, and its default is a third of the machine."""

START_S = 120.0
"""Longest that a Ray head may take to answer: its import from a busy network file system is slow."""

FOR_JOBS = 0.95
"""Part of the usable memory that jobs may ask for, the object store's included; the rest is for Ray itself."""

# Both sides of every connection. The thread counts keep Ray within `ulimit -u` of many-core machines; a job that asks for
# no GPU sees none.
PINNED = {
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
    "RAY_worker_num_grpc_internal_threads": "1",
    "RAY_num_server_call_thread": "1",
}
# Our own Ray: no processes ahead of need, nothing sent to anybody; where memory runs out, one trial is ended, the youngest.
PINNED_OWN = {
    "RAY_worker_killing_policy_by_group": "true",
    "RAY_enable_worker_prestart": "0",
    "RAY_prestart_worker_first_driver": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}

_SAID_BY_RAY = ("A worker died or was killed", "killed due to the node running low", "Raylet is terminated", "marked dead")


class ClusterError(RuntimeError):
    """The machines cannot be had, or cannot do this sweep: one sentence with what to do."""


class NoGPU(ClusterError):
    """The sweep asks for GPUs and no machine has one."""


def check_where(on: str) -> None:
    """Raise ``ClusterError`` where ``--on`` names no kind of machines."""
    if on in ("inline", "local", "auto") or on.startswith("slurm:"):
        return
    if not re.fullmatch(r"[^\s/:]+:\d+|\[[0-9a-fA-F:]+\]:\d+", on):
        raise ClusterError(
            f"--on {on}: expected inline, local, auto, slurm:PROFILE or the HOST:PORT of a Ray cluster"
            + (", as `ray start --head` prints it (ray:// addresses lead to another service)" if "://" in on else "")
        )


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


def import_path() -> str:
    """This process's import path as PYTHONPATH for the workers, without what belongs to the Python installation."""
    installed = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    installed += [*site.getsitepackages(), site.getusersitepackages()]
    entries = [Path(entry).absolute() for entry in sys.path]
    kept = [str(path) for path in entries if path.exists() and not any(path.is_relative_to(place) for place in installed)]
    return os.pathsep.join(dict.fromkeys(kept))


def ray() -> Any:
    """The package, imported so that its own paragraphs on every lost process stay off the screen: we print a line."""
    with environment({"RAY_DEDUP_LOGS_SKIP_REGEX": "|".join(_SAID_BY_RAY)}):
        import ray
    return ray


def connected() -> bool:
    """Whether this process has a Ray already; asking does not import it."""
    return "ray" in sys.modules and bool(sys.modules["ray"].is_initialized())


def init(code: Path | None = None, **arguments: Any) -> Any:
    """``ray.init`` with what all our connections share; jobs import dpsweep from ``code``, if it is given.

    Raises ``ClusterError``.
    """
    path = import_path() if code is None else os.pathsep.join([str(code), import_path()])
    workers = {**PINNED, "PYTHONPATH": path}
    try:
        with _kept_handlers():
            return ray().init(runtime_env={"env_vars": workers}, log_to_driver=False, logging_level=logging.ERROR, **arguments)
    except Exception as error:
        raise ClusterError(f"Ray ({arguments['address']}) cannot be used: {last_line(error)}") from error


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
def own_token() -> str:
    """The secret of this process's own Ray; one a process, for Ray reads it once and keeps it."""
    return secrets.token_hex(32)


def hear_environment() -> None:
    """Have Ray read RAY_AUTH_MODE once more: it does so when it is imported, and a notebook may have done that before."""
    ray()._raylet.Config.initialize("")


def give_up(sentence: str, head: RayNode) -> NoReturn:
    """End this process with ``sentence``: the Ray that it is connected to is gone, and Ray's own way out is to abort.

    The lock of a process that is gone is taken over; what trials may have released is counted by the next command.
    """
    with contextlib.suppress(SlurmError):  # its workers then leave by themselves, once nobody answers them
        head.abandon()
    if os.isatty(1):
        os.write(1, b"\x1b[?25h")  # the live table hides the cursor
    os.write(2, f"\n{sentence}\n".encode())
    os._exit(RAY_LOST)


def temp_parent() -> str:
    """A folder for temporary ones whose path is short enough for Ray. Raises ``ClusterError``."""
    room = MAX_TEMP - len("/dps-12345678-abcdefgh/ray")
    for parent in (tempfile.gettempdir(), "/tmp"):
        if len(parent) <= room and os.access(parent, os.W_OK):
            return parent
    raise ClusterError(
        f"Ray needs a temporary folder whose path has at most {room} characters; "
        f"{tempfile.gettempdir()} has {len(tempfile.gettempdir())} and /tmp cannot be written: set TMPDIR to a shorter one"
    )


def start_head(
    options: Sequence[str], *, temp: str, run: Path | None = None, undo: contextlib.ExitStack
) -> tuple[RayNode, str]:
    """Start a Ray head with ``options`` of ``ray start``, and connect to it; return it and its HOST:PORT.

    The token is written to ``run``, the folder of a run on Slurm, or beside Ray's own files; whoever cannot read it can
    neither join nor submit. What is to be undone at the end goes to ``undo``. Raises ``ClusterError``.
    """
    if "--include-dashboard=true" in options:
        check_dashboard()
    folder = private_folder(temp)
    undo.callback(shutil.rmtree, folder, ignore_errors=True)
    token = (run or folder) / "token"
    token.touch(mode=0o600)
    token.write_text(own_token())
    undo.callback(token.unlink, missing_ok=True)
    own = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "RAY_AUTH_TOKEN": None}
    undo.enter_context(environment({**PINNED, **PINNED_OWN, **own}))
    node = RayNode(folder, ["--head", f"--object-store-memory={OBJECT_STORE}", *options], {}, drain_s=0, run=run)
    undo.callback(node.stop)
    try:
        address = node.wait_address(START_S)
    except RayFailed as error:
        raise ClusterError(str(error)) from error
    undo.callback(ray().shutdown)
    hear_environment()
    init(address=address, code=run / "code" if run is not None else None)
    return node, address


def check_dashboard() -> None:
    """Raise ``ClusterError`` where the Ray of this Python has no dashboard."""
    try:
        importlib.import_module("ray.dashboard.optional_deps")
    except ImportError as error:
        raise ClusterError(
            f"dashboard: true, but the Ray of {sys.executable} has no dashboard ({error}): type `pip install 'ray[default]'` "
            "or remove that line of the profile"
        ) from error


def last_line(error: BaseException | str) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
