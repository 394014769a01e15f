"""A sweep that a job of Slurm holds, or this machine: what its commands say, and what ends of its head lead to."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import processes
import pytest
from controller import Controller
from running_sweep import RunningSweep, job_of, shared_stages

from harness import store, sweep
from harness.attempts import read_attempts

pytestmark = pytest.mark.cluster

PROFILE: dict[str, Any] = {
    "workers": 2,
    "worker": {"cpus": 2, "memory": "3GB", "walltime": "10min"},
    "grace": "20s",
}
IN_A_JOB = {"where": "job", "cpus": 1, "memory": "2GB", "walltime": "10min"}


class HeldSweep(RunningSweep):
    """A sweep of two trials, other commands on it, and the processes of its head."""

    def command(self, *arguments: str, on: str | None = None) -> subprocess.CompletedProcess[str]:
        """The command with ``arguments``, to its end; without ``on`` on the profile."""
        where = ["--on", on or f"slurm:{self.root / 'profile.yaml'}"]
        command = [sys.executable, "-m", "harness.sweep", str(self.root / "tiny.yaml"), "--results", str(self.folders.root)]
        path = os.pathsep.join(filter(None, (str(self.root), os.environ.get("PYTHONPATH"))))
        environment = {**os.environ, **self.slurm.environment, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
        done = subprocess.run(
            [*command, *where, *arguments], env=environment, capture_output=True, text=True, timeout=120, check=False
        )
        assert "Traceback" not in done.stderr, done.stderr
        return done

    def head_job(self) -> str | None:
        """The Slurm job that holds the sweep, once there is one."""
        with contextlib.suppress(IndexError):
            job = (self.run.read(self.run.record) or {}).get("job")
            return None if job is None else str(job)
        return None

    def head_processes(self, word: str) -> list[int]:
        """The processes of the head that have ``word`` in their command line."""
        job = self.head_job()
        return [pid for pid in self.processes() if job_of(pid) == job and word in processes.command_line(pid)]

    def kill(self, word: str) -> None:
        """SIGKILL to those."""
        found = self.head_processes(word)
        assert found, f"no process of the head is a {word}"
        for process in found:
            os.kill(process, signal.SIGKILL)

    def begin(self) -> None:
        """Start the command; return once a trial of it releases."""
        before = {(record.trial_id, record.number) for record in self.running()}
        self.start()
        self.wait("a trial that releases", lambda: {(new.trial_id, new.number) for new in self.running()} - before)

    def survives(self, act: Callable[[], object], *statuses: str) -> float:
        """Do something to the head while a trial releases, which ends that as one of these; seconds until the trial goes on."""
        self.wait("a trial that releases", self.running)
        record = self.running()[0]
        act()
        took = self.wait("a trial that goes on", lambda: self.goes_on(record))
        assert self.attempts(record.trial_id)[record.number - 1].status in statuses
        return took

    def statuses(self) -> set[str]:
        """How the last attempt of each trial has ended."""
        return {records[-1].status for records in read_attempts(self.folders).values()}

    def assert_only_the_lock_left(self) -> None:
        """As ``assert_nothing_left``; a process that was killed could not remove its lock, and holds nobody up by that."""
        self.folders.lock.unlink()
        self.assert_nothing_left()


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shared_stages(tmp_path_factory.mktemp("shared"))


@pytest.fixture
def held(tmp_path: Path, slurm: Controller, stages: Path) -> Iterator[HeldSweep]:
    """A job holds the sweep."""
    running = HeldSweep(tmp_path, slurm, {**PROFILE, "head": IN_A_JOB}, stages, trials=2)
    with running:
        yield running


@pytest.fixture
def here(tmp_path: Path, slurm: Controller, stages: Path) -> Iterator[HeldSweep]:
    """The process that is started holds the sweep."""
    running = HeldSweep(tmp_path, slurm, {**PROFILE, "head": {"where": "here"}}, stages, trials=2)
    with running:
        yield running


@pytest.fixture
def another_ray() -> Iterator[Callable[[], bool]]:
    """A Ray that the same user has started by hand; whether it still answers."""
    with tempfile.TemporaryDirectory(prefix="dr-", dir="/tmp") as folder, socket.create_server(("", 0)) as free:
        port = free.getsockname()[1]
        free.close()
        token = Path(folder) / "token"
        token.touch(mode=0o600)
        token.write_text("1" * 64)
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", f"--port={port}", "--num-cpus=1"]
        command += ["--include-dashboard=false", "--object-store-memory=100000000", f"--temp-dir={folder}/ray"]
        command += ["--min-worker-port=0", "--max-worker-port=0", "--disable-usage-stats"]
        environment = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "HOME": folder}
        with (Path(folder) / "log").open("w") as log:
            head = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)

        def answers() -> bool:
            status = [sys.executable, "-m", "ray.scripts.scripts", "status", "--address", f"127.0.0.1:{port}"]
            asked = subprocess.run(status, env=environment, capture_output=True, check=False)
            return head.poll() is None and asked.returncode == 0

        try:
            yield answers
        finally:
            head.terminate()
            try:
                head.wait(40)
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(head.pid, signal.SIGKILL)


def scripts(text: str) -> list[str]:
    """The scripts that a dry run shows."""
    return [part.partition("\n")[2].strip() for part in re.split(r"\n(?=# (?:the job that holds|a worker job))", text)[1:]]


def test_a_job_holds_the_sweep_through_every_end_that_slurm_has(held: HeldSweep) -> None:
    shown = scripts(held.command("--dry-run").stdout)
    assert len(shown) == 2
    for number, text in enumerate(shown):
        (held.root / f"{number}.sh").write_text(text)
        tried = ["sbatch", "--test-only", str(held.root / f"{number}.sh")]
        subprocess.run(tried, env={**os.environ, **held.slurm.environment}, check=True, capture_output=True)
    assert not held.folders.sweep.exists()

    held.start()
    held.wait("a job that holds the sweep", held.head_job)
    job = held.head_job() or ""
    for second in (held.command(), held.command(on="inline")):
        assert second.returncode == sweep.BAD_INPUT
        told = rf"held by Slurm job {job} \(\w+\), submitted at 20\S+ \S+; --status|run by process \d+ on \S+ since 20\S+ \S+"
        assert re.search(told, second.stderr), second.stderr
        assert second.stderr.count("\n") == 1
    (held.root / "tiny.yaml").rename(held.root / "moved.yaml")
    assert "head" in held.run.read(held.run.record)["profile"]  # type: ignore[index]

    # Workers are told to leave as soon as their head is gone; trials may then still write a checkpoint.
    took = {"kill -9 of the driver": held.survives(lambda: held.kill("harness.sweep"), "lost", "interrupted")}
    took["kill -9 of the GCS"] = held.survives(lambda: held.kill("gcs_server"), "lost", "interrupted")
    took["scontrol requeue"] = held.survives(lambda: held.slurm.requeue(job), "interrupted")
    took["SIGUSR2"] = held.survives(lambda: held.slurm.scancel(job, "USR2"), "interrupted")
    print({name: round(seconds, 1) for name, seconds in took.items()})
    assert held.output().count("the Ray that ran the trials has ended by itself, or was killed.") == 1
    held.hurry()
    assert held.end() == sweep.OK

    # Besides what the job's command prints, the following one says that the job waits in the queue again.
    output = re.sub(r"(?m)^Slurm job \d+: PENDING.*\n", "", held.output())
    assert held.run.output.read_text() in output, "a line was lost, doubled or cut"
    assert "Traceback" not in output
    held.assert_done()
    held.assert_nothing_left()
    submitted = {path.read_text().replace(held.run.path.name, "RUN").strip() for path in held.run.jobs.glob("*_submission.sh")}
    assert submitted == set(shown), "the dry run shows what sbatch is given"


def test_a_job_that_waits_is_cancelled_by_ctrl_c(tmp_path: Path, slurm: Controller, stages: Path) -> None:
    later = {**PROFILE, "head": {**IN_A_JOB, "options": {"begin": "now+600"}}}
    with HeldSweep(tmp_path, slurm, later, stages, trials=1) as waiting:
        waiting.start()
        waiting.wait("the job waits", lambda: "PENDING" in waiting.output())
        again = f"python -m harness.sweep {waiting.root / 'tiny.yaml'} --results {waiting.folders.root}"
        assert f"how far it is: {again} --status\n" in waiting.output()
        assert f"held by Slurm job {waiting.head_job()} (pending)" in waiting.command("--detach").stderr
        said = waiting.command("--status").stdout
        assert f"Slurm job {waiting.head_job()} holds the sweep: PENDING" in said
        assert "(None)" not in said + waiting.output()
        assert waiting.driver is not None
        waiting.driver.send_signal(signal.SIGINT)
        assert waiting.end(30) == sweep.INTERRUPTED
        assert "were cancelled. The same command goes on." in waiting.output()
        assert f"Slurm job {waiting.head_job()} was cancelled while it waited" in waiting.command("--status").stdout
        waiting.assert_nothing_left()

        changed = ("--set", "axes.noise_injection=[0, 0.5]")
        detached = waiting.command("--detach", *changed).stdout
        assert f"stop it:       {again} --set 'axes.noise_injection=[0, 0.5]' --stop" in detached
        assert "which waited in the queue, was cancelled" in waiting.command("--stop", *changed).stdout
        waiting.assert_nothing_left()


def test_detached_stopped_interrupted_and_cancelled(held: HeldSweep, another_ray: Callable[[], bool]) -> None:
    assert held.command("--detach").returncode == sweep.OK
    assert held.command("--status").returncode == sweep.OK
    end = time.monotonic() + 120
    while not held.running():
        assert time.monotonic() < end, held.run.output.read_text()
        time.sleep(0.1)
    told = json.loads(held.command("--status", "--json").stdout)["slurm"]
    assert (told["job"], told["state"], told["workers"]) == (held.head_job(), "RUNNING", 2)
    assert f"Slurm job {held.head_job()} holds the sweep: RUNNING" in held.command("--status").stdout
    assert "was asked to stop" in held.command("--stop").stdout
    held.slurm.wait_empty(60)
    assert held.run.ended() == sweep.INTERRUPTED
    assert "interrupted" in held.statuses() <= {"interrupted", "running"}
    held.assert_nothing_left()
    assert "there is nothing to stop" in held.command("--stop").stdout

    held.begin()
    assert held.driver is not None
    held.driver.send_signal(signal.SIGINT)
    held.wait("a word on Ctrl-C", lambda: "stopping: running trials" in held.output())
    held.driver.send_signal(signal.SIGINT)
    assert held.end(60) == sweep.INTERRUPTED
    assert "and its workers were cancelled" in held.output()
    held.assert_nothing_left()

    held.begin()
    held.slurm.scancel(held.head_job() or "")
    assert held.end(90) == sweep.INTERRUPTED
    assert "was cancelled. The same command goes on." in held.output()
    held.assert_nothing_left()

    # The whole job at once, as where its machine fails: nobody is left to cancel its workers.
    held.begin()
    first = held.run
    held.slurm.scancel(held.head_job() or "", "KILL")
    held.slurm.wait_state(held.head_job() or "", ("FAILED", "CANCELLED"))
    assert held.driver is not None
    held.driver.kill()
    held.driver.wait()
    held.hurry()
    held.start()
    held.wait("the same command goes on", lambda: held.run.path != first.path and held.head_job())
    assert not {row["id"] for row in held.slurm.squeue() if row["state"] != "COMPLETING"} & set(first.worker_jobs())
    assert held.end() == sweep.OK
    held.assert_done()
    held.assert_nothing_left()
    assert another_ray(), "none of this is another Ray's business"


def test_this_machine_holds_the_sweep_and_its_driver_is_killed(here: HeldSweep) -> None:
    here.begin()
    second = here.command(on="inline")
    assert re.search(r"is being run by process \d+ on \S+ since 20", second.stderr)
    assert here.driver is not None
    here.driver.kill()
    begin = time.monotonic()
    here.driver.wait()
    here.assert_only_the_lock_left()
    print(f"nothing left {time.monotonic() - begin:.1f} s after kill -9 of the driver")

    here.hurry()
    here.start()
    assert here.end() == sweep.OK
    here.assert_done()
    here.assert_nothing_left()
    assert len(store.read(here.folders.sweep).trials) == 2


def test_a_folder_that_others_may_write_is_refused(held: HeldSweep) -> None:
    held.folders.root.chmod(0o777)
    for profile in (IN_A_JOB, {"where": "here"}):
        (held.root / "profile.yaml").write_text(json.dumps({**PROFILE, "head": profile}))
        refused = held.command()
        assert refused.returncode == sweep.BAD_INPUT
        assert f"`chmod go-w {held.folders.root}`" in refused.stderr
    assert held.slurm.squeue() == []


def test_what_sbatch_refuses_leaves_nothing(held: HeldSweep) -> None:
    (held.root / "profile.yaml").write_text(json.dumps({**PROFILE, "head": IN_A_JOB, "partition": "nowhere"}))
    refused = held.command()
    assert refused.returncode == sweep.BAD_INPUT
    assert "nowhere" in refused.stderr or "invalid partition" in refused.stderr.lower()
    assert list((held.folders.sweep / "clusters").iterdir()) == []
    assert not held.folders.lock.exists()
