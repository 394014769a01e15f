"""Ray nodes as child processes that end with their parent.

``main`` runs ``ray start --block`` in a process of its own until its standard input closes. Slurm sends the signals that tell
a job to leave (SIGTERM of a cancellation or preemption, SIGUSR2 before the walltime ends) to every process of the job, or to
its first alone, by the cluster's way to keep track of processes; Ray's own would end at once. Here they, and all that they
start, ignore SIGUSR2 and have SIGTERM blocked, so that trials write a checkpoint first and this module says when Ray ends. An
end of the parent, of whatever kind, closes the pipe. Nothing here stops Ray by name: other clusters of the same user are not
touched.
"""

from __future__ import annotations

import contextlib
import os
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

LEAVE = "DPSWEEP_LEAVE"
"""Names, for all that a Ray node starts, the file whose existence tells trials to write a checkpoint and end."""

RAY_LOST = 70
"""Exit status of a command whose Ray has ended under it."""

_ROOT = Path(__file__).parents[1]
_POLL_S = 0.2
_TAIL = 10_000
"""Bytes of what Ray has printed that are looked at."""
_END_S = 20.0
"""Longest that Ray's processes may take to end once no trial runs."""


class SlurmError(RuntimeError):
    """Slurm cannot be reached, or refuses: one sentence with what it said."""


class RayFailed(RuntimeError):
    """A Ray node did not come up; the message has the telling lines of its output."""


class RayNode:
    """``ray start --block`` as a child of this process. Ends with it.

    ``folder`` is one that ``private_folder`` made, for Ray's sockets and logs; ``options`` are those of ``ray start``;
    ``drain_s`` is how long trials that are told to leave may take, 0 where none is waited for; ``run`` the folder of the run
    whose worker jobs are cancelled should this process die.
    """

    def __init__(
        self,
        folder: Path,
        options: Sequence[str],
        environment: Mapping[str, str],
        *,
        drain_s: float,
        run: Path | None = None,
    ) -> None:
        self.folder = folder
        self.leave_file = self.folder / "leave"
        self._run = run
        self._output = (self.folder / "output").open("a+b")  # kept open: the child removes the folder when it ends
        self._drain_s = drain_s
        code = f"import sys; sys.path.insert(0, {str(_ROOT)!r}); from slurm.node import main; main(sys.argv[1:])"
        command = [sys.executable, "-P", "-c", code, str(folder), str(run or ""), f"--temp-dir={folder / 'ray'}", *options]
        own = {LEAVE: str(self.leave_file), "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": str(round(drain_s))}
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment, **own},
            start_new_session=True,  # Ctrl-C on a terminal is for the command alone
        )

    def wait_address(self, timeout: float) -> str:
        """HOST:PORT of the head that this node runs, once it answers. Raises ``RayFailed``."""
        note = self.folder / "ray" / "ray_current_cluster"
        end = time.monotonic() + timeout
        while time.monotonic() < end and self.running():
            with contextlib.suppress(OSError):
                address = note.read_text().strip()
                host, _, port = address.rpartition(":")
                if address:
                    socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
                    return address
            time.sleep(_POLL_S)
        what = f"did not come up within {timeout:.0f} s" if self.running() else "ended at once"
        output = self.tail()
        self.stop()
        raise RayFailed(f"Ray {what} on {socket.gethostname()}:\n{output}")

    def running(self) -> bool:
        """Whether the node's processes are up."""
        return self._process.poll() is None

    def wait(self, seconds: float) -> bool:
        """Wait until the node has ended, at most so long; return whether it has."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
        return not self.running()

    def leave(self) -> None:
        """Take no new trial, tell those that run to write a checkpoint and end, then end. Does not wait."""
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        if self.running():
            with contextlib.suppress(OSError):
                self.leave_file.touch()

    def stop(self) -> None:
        """End the node: trials get ``drain_s`` for their checkpoints. Its folder is removed."""
        if self._drain_s:
            self.leave()
            self.wait(self._drain_s + _END_S)
        with contextlib.suppress(ProcessLookupError):  # all that Ray has started and left
            os.killpg(self._process.pid, signal.SIGKILL)
        self.wait(_END_S)
        self._output.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def abandon(self) -> None:
        """End what a lost head has left: processes, folder, the worker jobs of its run. Raises ``SlurmError``."""
        jobs = _worker_jobs(self._run)
        self.stop()
        _end_run(self._run, jobs)

    def tail(self, lines: int = 15) -> str:
        """The last lines that Ray has printed; none after ``stop``."""
        if self._output.closed:
            return ""
        said = os.pread(self._output.fileno(), _TAIL, max(0, os.fstat(self._output.fileno()).st_size - _TAIL))
        told = [line for line in said.decode(errors="replace").splitlines() if line.strip()]
        return "\n".join(told[-lines:])


def private_folder(parent: str) -> Path:
    """A new folder of mode 0700 for one Ray, named after the Slurm job; those that dead processes have left are removed."""
    sweep_folders(parent)
    job = os.environ.get("SLURM_JOB_ID")
    folder = Path(tempfile.mkdtemp(prefix=f"dps-{job}-" if job else "dpsweep-", dir=parent))
    (folder / "owner").write_text(f"{socket.gethostname()} {os.getpid()} {_started(os.getpid())}")
    return folder


def sweep_folders(parent: str) -> None:
    """Remove what our own processes of this machine that are gone have left in ``parent``."""
    for folder in (*Path(parent).glob("dpsweep-*"), *Path(parent).glob("dps-*")):
        with contextlib.suppress(OSError, ValueError):
            host, process, started = (folder / "owner").read_text().split()
            gone = host == socket.gethostname() and _started(int(process)) != started
            if gone and folder.stat().st_uid == os.getuid() and not folder.is_symlink():
                shutil.rmtree(folder, ignore_errors=True)


def _started(process: int) -> str:
    """When a process of this machine began, in the kernel's terms; empty if there is none."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""


# --- the child: `ray start --block` until standard input closes -----------------------------------------------------


def main(arguments: Sequence[str]) -> None:
    """Run Ray in the foreground; end it when standard input closes, remove its folder, cancel its run's worker jobs.

    ``arguments``: the folder, the run or nothing, options of ``ray start``.
    """
    folder, run, *options = arguments
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))  # until Ray sets its own, which drains the node
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})  # inherited by all that Ray starts
    parent = _Parent(Path(run) if run else None)
    threading.Thread(target=parent.wait, daemon=True).start()
    sys.argv = ["ray", "start", "--block", "--disable-usage-stats", *options]
    no_client_server()
    try:
        runpy.run_module("ray.scripts.scripts", run_name="__main__", alter_sys=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        _end_run(parent.run, parent.jobs if parent.over else _worker_jobs(parent.run))


def no_client_server() -> None:
    """Keep Ray from serving ray:// addresses on the head, as it does wherever grpc is installed, on one port for all heads."""
    from ray._private import utils

    vars(utils)["get_ray_client_dependency_error"] = lambda: ImportError("dpsweep has no use for it")


class _Parent:
    """The process that has started this one, and what it had in Slurm's queue when it ended."""

    def __init__(self, run: Path | None) -> None:
        self.run, self.over = run, False
        self.jobs: list[str] = []

    def wait(self) -> None:
        """Deliver SIGTERM to this process once its standard input is at its end; only this thread has it unblocked."""
        while os.read(0, 1024):
            pass
        # Now: a command that is started anew in the same run will write down jobs of its own.
        self.jobs, self.over = _worker_jobs(self.run), True
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        os.kill(os.getpid(), signal.SIGTERM)


def _worker_jobs(run: Path | None) -> list[str]:
    from .run import RunFolder

    return RunFolder(run).worker_jobs() if run is not None else []


def _end_run(run: Path | None, jobs: Sequence[str]) -> None:
    """Cancel the worker jobs of a head that is gone; remove its note and its token, unless another has written its own."""
    if run is None:
        return
    from .launch import cancel
    from .run import RunFolder

    folder = RunFolder(run)
    if folder.worker_jobs() == list(jobs):
        folder.head.unlink(missing_ok=True)
        folder.token.unlink(missing_ok=True)
    cancel(jobs)
