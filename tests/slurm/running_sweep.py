"""A small sweep on worker jobs, its driver in a process of its own here, and what its faults and its end are looked at with."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import processes
from controller import Controller

sys.path.insert(0, str(Path(__file__).parents[1] / "faults"))

from faulty import assert_account_true, spent

from harness import store
from harness import sweep as command
from harness.attempts import AttemptRecord, read_attempts, read_trial_attempts
from harness.folders import Folders
from harness.slurm_cluster import runs
from slurm.run import RunFolder

EVERY = 15
"""Steps between checkpoints."""

FILE = """
name: tiny
method: METHOD
preset: digits
data: {source: digits}
privacy: {epsilon: 10, accountant: pld}
train: {steps: STEPS, slots: 20, generator_channels: 8}
axes: {noise_injection: AXIS}
checkpoint: {every: 15}
evaluate: {samples: 100}
keep_samples: 10
"""


METHOD = """
from trainables.dp_energy.method import *
NAME = "unhurried"
"""

TRAINING = """
import time
from pathlib import Path
from trainables.dp_energy.training import Trainer as Base, load_sampler

class Trainer(Base):
    def step(self):
        if Path({slow!r}).exists():
            time.sleep(0.2)
        return super().step()
"""


def shared_stages(root: Path) -> Path:
    """A results folder that has only what the trials share, computed here."""
    file = root / "tiny.yaml"
    file.write_text(FILE.replace("METHOD", "dp_energy").replace("STEPS", "2").replace("AXIS", "[0]"))
    assert command.main([str(file), "--on", "inline", "--results", str(root / "results")]) == 0
    shutil.rmtree(root / "results" / "tiny")
    shutil.rmtree(root / "results" / "ledger")
    return root / "results"


class RunningSweep:
    """``trials`` trials of ``steps`` steps; ``profile`` is what its file says besides where Ray's folders lie.

    ``stages`` is a results folder with what the trials share. The trials take their time, five steps a second at most, until
    ``hurry`` is called. A context manager: whatever a failed test has left is ended.
    """

    def __init__(
        self, root: Path, slurm: Controller, profile: dict[str, Any], stages: Path, *, trials: int, steps: int = 400
    ) -> None:
        self.root, self.slurm, self.trials, self.steps = root, slurm, trials, steps
        self.folders = Folders(root / "results", "tiny")
        self.temp = Path(tempfile.mkdtemp(prefix="dt-", dir="/tmp"))  # Ray's sockets need a short path
        axis = [round(0.05 * number, 2) for number in range(trials)]
        file = FILE.replace("METHOD", "tests_of_workers.unhurried").replace("STEPS", str(steps)).replace("AXIS", str(axis))
        (root / "tiny.yaml").write_text(file)
        package = root / "tests_of_workers" / "unhurried"
        package.mkdir(parents=True)
        for place in (package, package.parent):
            (place / "__init__.py").touch()
        (package / "method.py").write_text(METHOD)
        (package / "training.py").write_text(TRAINING.format(slow=str(root / "slow")))
        (root / "slow").touch()
        shutil.copytree(stages, root / "results")
        self.write_profile(profile)
        self.driver: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> RunningSweep:
        return self

    def __exit__(self, *_: object) -> None:
        if self.driver is not None and self.driver.poll() is None:
            self.driver.kill()
            self.driver.wait()
        self.slurm.clear()
        for process in self.processes():
            os.kill(process, signal.SIGKILL)
        shutil.rmtree(self.temp, ignore_errors=True)

    def write_profile(self, profile: dict[str, Any]) -> None:
        """Write the profile of the commands that follow."""
        (self.root / "profile.yaml").write_text(json.dumps({"temp": str(self.temp), "head": {"where": "here"}, **profile}))

    # --- the command ------------------------------------------------------------------------------------------------------

    def start(self, **seconds: float) -> None:
        """Start the command; ``seconds`` are lengths of time of ``harness.slurm_cluster`` by name, for a quicker test."""
        code = "import sys; from harness import slurm_cluster, sweep; "
        code += "".join(f"slurm_cluster.{name} = {value}; " for name, value in seconds.items()) + "sys.exit(sweep.main())"
        arguments = [sys.executable, "-c", code, str(self.root / "tiny.yaml"), "--results", str(self.folders.root)]
        arguments += ["--on", f"slurm:{self.root / 'profile.yaml'}"]
        path = os.pathsep.join(filter(None, (str(self.root), os.environ.get("PYTHONPATH"))))
        environment = {**os.environ, **self.slurm.environment, "OMP_NUM_THREADS": "1", "COLUMNS": "300", "PYTHONPATH": path}
        with (self.root / "output").open("ab") as output:
            self.driver = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                # A shell's background job, as the tests may be, has Ctrl-C ignored, and so has all that it starts.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )

    def hurry(self) -> None:
        """Let the trials take their steps as fast as they can."""
        (self.root / "slow").unlink(missing_ok=True)

    def output(self) -> str:
        """What all commands so far have printed."""
        return (self.root / "output").read_text()

    def end(self, seconds: float = 240) -> int:
        """Wait for the command; its exit status."""
        assert self.driver is not None
        return self.driver.wait(seconds)

    def wait(self, what: str, holds: Callable[[], Any], seconds: float = 120) -> float:
        """Wait, as long as the command runs, until something holds; how many seconds it took."""
        begin = time.monotonic()
        assert self.driver is not None
        while not holds():
            assert self.driver.poll() is None, f"the command ended while {what} was waited for:\n{self.output()}"
            assert time.monotonic() - begin < seconds, f"{what}: not within {seconds:g} s\n{self.output()}"
            time.sleep(0.1)
        return time.monotonic() - begin

    # --- trials -----------------------------------------------------------------------------------------------------------

    def running(self) -> list[AttemptRecord]:
        """Open attempts that have written a checkpoint: they have begun a second block of steps."""
        last = [records[-1] for records in read_attempts(self.folders).values()]
        return [record for record in last if record.end is None and self.reservations(record) > 1]

    def reservations(self, record: AttemptRecord) -> int:
        """Blocks of steps that an attempt has begun."""
        return len((self.folders.root / record.start["account"]).read_text().splitlines()) - 1

    def attempts(self, trial_id: str) -> list[AttemptRecord]:
        """The attempts of a trial, in order."""
        return read_trial_attempts(self.folders, trial_id)

    def on(self, job: str) -> list[AttemptRecord]:
        """Those of ``running`` in the worker job ``job``."""
        return [record for record in self.running() if job_of(record.start["pid"]) == job]

    def goes_on(self, record: AttemptRecord) -> bool:
        """Whether a later attempt of the trial releases."""
        last = self.attempts(record.trial_id)[-1]
        return last.number > record.number and self.reservations(last) > 0

    # --- workers ----------------------------------------------------------------------------------------------------------

    @property
    def run(self) -> RunFolder:
        """The folder of the latest run."""
        return runs(self.folders.sweep)[-1]

    def workers(self) -> list[str]:
        """Slurm ids of the worker jobs."""
        return self.run.worker_jobs()

    def joined(self) -> set[str]:
        """Slurm ids of the worker jobs whose nodes are about to join, or are there."""
        return {path.name.partition(".")[0] for path in self.folders.sweep.glob("clusters/*/nodes/*.json")}

    def process_of(self, job: str, word: str) -> int:
        """The process of a worker job whose command line has ``word``."""
        (found,) = [pid for pid in self.processes() if job_of(pid) == job and word in processes.command_line(pid)]
        return found

    # --- the end ----------------------------------------------------------------------------------------------------------

    def processes(self) -> list[int]:
        """Processes that name this sweep's folder in their environment or command line."""
        mark, found = str(self.root).encode(), []
        for process in (int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()):
            about = processes.content(Path(f"/proc/{process}/environ")) + processes.content(Path(f"/proc/{process}/cmdline"))
            if mark in about and process != os.getpid() and processes.alive(process):
                found.append(process)
        return found

    def assert_nothing_left(self) -> None:
        """No job, process, folder of Ray's or lock."""
        self.slurm.wait_empty(60)
        assert self.slurm.leftovers() == []
        assert [processes.command_line(process) for process in self.processes()] == []
        assert list(self.temp.iterdir()) == []
        assert not self.folders.lock.exists()
        assert not self.run.token.exists()
        assert not self.run.head.exists()

    def assert_done(self) -> None:
        """All trials completed, or came to the end of their budget by what was lost on the way; one row each, all paid for."""
        trials = store.read(self.folders.sweep).trials
        assert len(trials) == self.trials
        assert set(trials.status) <= {"completed", "budget"}
        assert_account_true(self.folders)
        paid = spent(self.folders)
        for trial_id, attempts in read_attempts(self.folders).items():
            ends = [record.status for record in attempts]
            assert all(status in ("interrupted", "lost", "oom") for status in ends[:-1]), "what was finished was done again"
            row = trials.set_index("trial_id").loc[trial_id]
            assert row.steps <= paid[trial_id]
            # An interruption costs nothing; a loss, the block that was open.
            assert paid[trial_id] - row.steps <= ends.count("lost") * EVERY
            if "lost" not in ends:
                assert row.steps == self.steps == paid[trial_id]


def job_of(process: int) -> str | None:
    """The Slurm job of a process."""
    for entry in processes.content(Path(f"/proc/{process}/environ")).split(b"\0"):
        name, _, value = entry.partition(b"=")
        if name == b"SLURM_JOB_ID":
            return value.decode()
    return None
