"""What the jobs of a run on Slurm do: ``Worker`` joins Ray nodes to the head, ``Head`` runs the command that holds the sweep.

submitit calls them, and calls ``checkpoint`` when the job is told to leave (SIGUSR2: its walltime ends, or it is preempted);
what that returns is queued again under the same job id. A cancelled job gets SIGTERM and a while (Slurm's KillWait).
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from submitit.core.utils import DelayedSubmission

from .allocation import here
from .node import RAY_LOST, RayNode, private_folder
from .ports import ANY, Ports
from .run import RunFolder

RUN = "DPSWEEP_RUN"
"""Names, for the command inside the head's job, the folder of its run."""

_STARTS = 3
"""How often a command that has died, or a node that has each time died within ``_WELL_S``, is started in one job."""
_WELL_S = 600.0
_INTERRUPTED = 130
_MEMORY_FOR_JOBS = 0.95
_PATIENCE_S = 5.0
"""Seconds of the time to leave that are kept for the job's own end."""


class Worker:
    """One Ray node, on every Slurm node of its job, that joins the head of the run in ``run``.

    ``check(code)`` raises where this machine's code is not that of the head.
    """

    def __init__(
        self,
        run: Path,
        *,
        check: Callable[[str], None],
        environment: Mapping[str, str],
        object_store: int,
        temp: str,
        grace_s: float,
        ports: tuple[int, int] | None,
    ) -> None:
        self._run, self._check, self._environment = RunFolder(run), check, dict(environment)
        self._object_store, self._temp, self._grace_s, self._ports = object_store, temp, grace_s, ports
        self._node: RayNode | None = None
        self._leaving = False

    def __getstate__(self) -> dict[str, Any]:
        """What submitit keeps for the job's next start: no process."""
        return {**vars(self), "_node": None, "_leaving": False}

    def __call__(self) -> None:
        """Join the head; once more where the node has died; until told to leave, or the head is gone."""
        signal.signal(signal.SIGTERM, self._told)
        if int(os.environ.get("SLURM_PROCID", "0")):
            signal.signal(signal.SIGUSR2, self._told)  # submitit listens on the job's first node alone
        name = f"{os.environ['SLURM_JOB_ID']}.{os.environ.get('SLURM_PROCID', '0')}"
        note, problem = self._run.nodes / f"{name}.json", self._run.nodes / f"{name}.error"
        problem.unlink(missing_ok=True)  # of an earlier start of this job
        died = 0
        try:
            while died < _STARTS:
                head = None if self._leaving else self._run.wait_head()
                if head is None or self._leaving:
                    return
                self._check(head["code"])
                joined = time.monotonic()
                self._join(head, note)
                if self._leaving:
                    return
                died = 1 if time.monotonic() - joined > _WELL_S else died + 1
            raise RuntimeError(f"the Ray node on {socket.gethostname()} has ended {_STARTS} times in a row by itself")
        except Exception as error:
            with contextlib.suppress(OSError):
                problem.write_text(f"{socket.gethostname()}: {error}")
            raise
        finally:
            note.unlink(missing_ok=True)

    def _join(self, head: Mapping[str, Any], note: Path) -> None:
        """Run one Ray node until it ends."""
        share = here()
        options = [
            f"--address={head['address']}",
            f"--num-cpus={share.cpus}",
            f"--num-gpus={share.gpus or 0}",
            f"--memory={max(0, int(share.memory * _MEMORY_FOR_JOBS) - self._object_store)}",
            f"--object-store-memory={self._object_store}",
            f"--labels=dpsweep-job={os.environ['SLURM_JOB_ID']}",
        ]
        options += ANY if self._ports is None else Ports(*self._ports).node()
        token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(self._run.token)}
        drain = max(self._grace_s / 2, self._grace_s - 3 * _PATIENCE_S)  # then Ray has to end, and the job to be queued again
        self._node = RayNode(private_folder(self._temp), options, {**self._environment, **token}, drain_s=drain)
        print(f"joining {head['address']} with {share}", flush=True)
        self._run.write(note, {"host": socket.gethostname(), "since": time.time()})
        while not self._node.wait(1.0):
            pass
        print(f"the Ray node has ended\n{self._node.tail()}", flush=True)
        self._node.stop()

    def _told(self, number: int, frame: FrameType | None) -> None:
        """Leave; the call returns once the trials have written their checkpoints."""
        print(f"told to leave by {signal.Signals(number).name}", flush=True)
        self._leaving = True
        if self._node is not None:
            self._node.leave()

    def checkpoint(self) -> DelayedSubmission | None:
        """Leave, and join again when the job starts again; None where there is no head any more."""
        self._leaving = True
        if self._node is not None:
            self._node.leave()
            self._node.stop()
        return DelayedSubmission(self) if self._run.head.exists() else None


class Head:
    """The command that holds the sweep, as a child of its job. Its exit status goes to ``exit.json``."""

    def __init__(self, run: Path, command: Sequence[str], *, grace_s: float) -> None:
        self._run, self._command, self._grace_s = RunFolder(run), list(command), grace_s
        self._process: subprocess.Popen[bytes] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """What submitit keeps for the job's next start: no process."""
        return {**vars(self), "_process": None}

    def __call__(self) -> int:
        """Run the command to its end; once more where it, or its Ray, was killed."""
        signal.signal(signal.SIGTERM, self._told)
        record = self._run.read(self._run.record)
        if record and not record.get("job"):  # whoever has submitted this job was killed before it could write that down
            self._run.write(self._run.record, {**record, "job": os.environ["SLURM_JOB_ID"]})
        if self._run.stopped_by_slurm():  # at an earlier start of this job
            self._run.stop.unlink()
        self._run.exit.unlink(missing_ok=True)
        status = _INTERRUPTED
        for _ in range(_STARTS):
            if self._run.stop.exists():
                status = _INTERRUPTED
                break
            status = self._command_status()
            if status >= 0 and status != RAY_LOST:
                break
            print(f"the command has ended with status {status}", flush=True)
        return self._end(status if status >= 0 else 1)

    def _end(self, status: int) -> int:
        self._run.write(self._run.exit, {"status": status})
        return status

    def _command_status(self) -> int:
        with self._run.output.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-P", *self._command],  # dpsweep from PYTHONPATH, as this job has it
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, RUN: str(self._run.path)},
                preexec_fn=_ignore_usr2,
            )
        while not self._over(1.0):
            pass
        return self._process.wait()

    def _over(self, seconds: float) -> bool:
        """Whether the command has ended, at most ``seconds`` later.

        ``Popen`` is not asked: what it does while a signal's handler has interrupted its own wait is to wait for itself.
        """
        end = time.monotonic() + seconds
        while self._process is not None and self._process.returncode is None:
            if os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
                return True
            if time.monotonic() > end:
                return False
            time.sleep(0.1)
        return True

    def _told(self, number: int, frame: FrameType | None) -> None:
        """Cancelled or queued again, which looks the same from here. The command may have got the signal, or not."""
        self._run.stop_for_slurm()

    def checkpoint(self) -> DelayedSubmission | None:
        """Have the sweep stop, its trials with checkpoints; it goes on when the job starts again.

        None where somebody has asked it to stop: then it does not go on.
        """
        self._run.stop_for_slurm()
        self._over(max(1.0, self._grace_s - _PATIENCE_S))
        if self._run.stopped_by_slurm():
            return DelayedSubmission(self)
        self._end(_INTERRUPTED)
        return None


def _ignore_usr2() -> None:
    """Slurm sends it to every process of a job; to the command, which knows SIGTERM, it would be the end."""
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
