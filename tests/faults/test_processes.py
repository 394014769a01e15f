"""Real Ray, real processes, real kills: every trial ends with one row, and no release is uncounted.

Whatever of a command is killed, the command ends with a sentence, nothing that it started stays behind, and the same command
goes on.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from faulty import assert_account_true, assert_complete, command, folders_of

from harness import store, sweep
from harness.attempts import AttemptRecord, read_attempts
from harness.folders import Folders
from harness.ledger import lineage_accounts
from slurm.node import RAY_LOST

pytestmark = pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks at processes through /proc")

FILE = """
name: faults
method: dp_energy
preset: digits
data: {source: digits}
privacy: {epsilon: 10, accountant: pld}
train: {steps: 300, slots: 20, generator_channels: 8}
axes: {noise_injection: [0.0, 0.1]}
checkpoint: {every: 15}
evaluate: {samples: 20, metrics: [memorization]}
keep_samples: 10
"""
TRIALS, STEPS = 2, 300


class Command:
    """The command on a Ray of its own, in processes of its own, with a folder of its own for temporary files."""

    def __init__(self, root: Path, temp: Path) -> None:
        self.temp, self.seen = temp, set[int]()
        arguments = [sys.executable, "-m", "harness.sweep", str(root / "faults.yaml"), "--results", str(root / "results")]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(temp)}
        self.process = subprocess.Popen(
            arguments, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )

    def wait_for(self, what: Callable[[], object], seconds: float = 200) -> None:
        end = time.monotonic() + seconds
        while not what():
            if self.process.poll() is not None:
                pytest.fail(f"the command ended early:\n{self.process.stdout.read() if self.process.stdout else ''}")
            assert time.monotonic() < end, "nothing happened"
            time.sleep(0.1)

    def processes(self) -> dict[int, str]:
        """Process id -> name, of everything that the command has started and that runs."""
        parents, names = {}, {}
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                name, _, rest = stat.read_text().partition("(")[2].rpartition(")")
            except (FileNotFoundError, ProcessLookupError):
                continue
            state, parent = rest.split()[:2]
            if state != "Z":
                parents[int(stat.parent.name)], names[int(stat.parent.name)] = int(parent), name
        ours = {self.process.pid}
        while more := {process for process, parent in parents.items() if parent in ours} - ours:
            ours |= more
        found = {process: names[process] for process in ours if process in names}
        self.seen |= set(found)
        return found

    def kill(self, name: str) -> None:
        """Kill the process of that name that the command has started."""
        (process,) = (process for process, found in self.processes().items() if found == name)
        os.kill(process, signal.SIGKILL)

    def end(self, timeout: float = 100) -> str:
        """Wait for the end of the command; return what it printed."""
        output, _ = self.process.communicate(timeout=timeout)
        return output

    def assert_nothing_is_left(self, seconds: float = 40) -> None:
        """Neither a process nor a folder of Ray's. Those of other commands on this machine are none of ours."""
        end = time.monotonic() + seconds
        while (left := [process for process in self.seen if alive(process)]) and time.monotonic() < end:
            time.sleep(0.1)
        assert not left, [Path(f"/proc/{process}/cmdline").read_text().replace("\0", " ") for process in left]
        while (folders := list(self.temp.glob("dps*"))) and time.monotonic() < end:
            time.sleep(0.1)
        assert not folders


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.fixture
def temp() -> Iterator[Path]:
    """A folder whose path is short enough for Ray's sockets."""
    folder = Path(tempfile.mkdtemp(prefix="f", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def driver(root: Path, temp: Path) -> Iterator[Command]:
    (root / "faults.yaml").write_text(FILE)
    started = Command(root, temp)
    yield started
    for process in started.seen:
        if alive(process) and process != os.getpid():
            os.kill(process, signal.SIGKILL)
    started.process.kill()
    started.process.wait()


def running(folders: Folders) -> list[AttemptRecord]:
    """Open attempts whose trial has passed its first checkpoint in this attempt."""
    records = [records[-1] for records in read_attempts(folders).values()]
    return [
        record
        for record in records
        if record.end is None and len((folders.root / record.start["account"]).read_text().splitlines()) > 3
    ]


def test_kill_a_trial_then_the_driver_then_run_again(root: Path, driver: Command) -> None:
    folders = folders_of(root)
    driver.wait_for(lambda: running(folders))
    victim = running(folders)[0]
    os.kill(victim.start["pid"], signal.SIGKILL)
    driver.wait_for(lambda: any((r.trial_id, r.number) != (victim.trial_id, victim.number) for r in running(folders)))
    driver.processes()
    driver.process.kill()
    driver.process.wait()
    driver.assert_nothing_is_left()

    assert command(root) == sweep.OK
    assert_complete(folders, TRIALS, ("completed", "budget"))
    assert_account_true(folders)
    results = store.read(folders.sweep)
    ends = results.attempts.groupby("trial_id").status.apply(list)
    assert "lost" in ends[victim.trial_id]
    assert (results.attempts.status != "running").all()

    # The account of the data set and the rows agree; the steps that a kill has cost are among them.
    counted = sum(sum(account.executed) for account in lineage_accounts(folders.root, "digits"))
    assert counted == results.trials.releases.sum()
    lost = results.trials[results.trials.trial_id.isin(ends[ends.apply(lambda statuses: "lost" in statuses)].index)]
    assert (lost.releases > lost.steps).any()


# One of each kind runs in `make test`; their likes, which start a Ray as well, in `make test-cluster`.
@pytest.mark.parametrize("name", ["raylet", pytest.param("gcs_server", marks=pytest.mark.cluster)])
def test_a_ray_that_is_killed_ends_the_command_and_the_same_command_goes_on(root: Path, driver: Command, name: str) -> None:
    folders = folders_of(root)
    driver.wait_for(lambda: running(folders))
    driver.kill(name)
    output = driver.end()
    assert driver.process.returncode == RAY_LOST, output
    assert "the Ray that ran the trials has ended by itself, or was killed" in output
    assert "Traceback" not in output
    driver.assert_nothing_is_left()

    assert command(root) == sweep.OK
    assert_complete(folders, TRIALS, ("completed", "budget"))
    assert_account_true(folders)


@pytest.mark.parametrize(
    "signals",
    [
        pytest.param([signal.SIGINT], id="Ctrl-C"),
        pytest.param([signal.SIGTERM], id="SIGTERM", marks=pytest.mark.cluster),
        pytest.param([signal.SIGINT, signal.SIGINT], id="Ctrl-C twice", marks=pytest.mark.cluster),
    ],
)
def test_who_stops_a_command_can_go_on(root: Path, driver: Command, signals: list[signal.Signals]) -> None:
    folders = folders_of(root)
    driver.wait_for(lambda: running(folders))
    driver.processes()
    for number in signals:
        driver.process.send_signal(number)
        time.sleep(0.3)  # less than a trial takes to see the stop file and end
    output = driver.end()
    assert driver.process.returncode == sweep.INTERRUPTED, output
    assert "Traceback" not in output
    driver.assert_nothing_is_left()
    assert not folders.lock.exists()
    if len(signals) == 1:
        assert "Interrupted. The same command goes on" in output
        statuses = {records[-1].status for records in read_attempts(folders).values()}
        assert statuses <= {"interrupted", "completed"}

    assert command(root) == sweep.OK
    assert_complete(folders, TRIALS, ("completed",) if len(signals) == 1 else ("completed", "budget"))
    assert_account_true(folders)
    if len(signals) == 1:
        assert (store.read(folders.sweep).trials.releases == STEPS).all(), "nothing was done twice"


@pytest.mark.cluster
def test_results_that_are_moved_while_processes_write_there(root: Path, driver: Command) -> None:
    folders = folders_of(root)
    driver.wait_for(lambda: running(folders))
    driver.processes()
    folders.root.rename(root / "away")
    output = driver.end()
    assert driver.process.returncode == sweep.BAD_INPUT, output
    assert re.search(r"was moved, deleted or taken over\s+while this command ran", output)
    assert "Traceback" not in output
    driver.assert_nothing_is_left()
    assert not [path for path in folders.root.rglob("*") if path.is_file()], "nothing was begun anew"
    shutil.rmtree(folders.root, ignore_errors=True)
    (root / "away").rename(folders.root)

    assert command(root) == sweep.OK
    assert_complete(folders, TRIALS, ("completed", "budget"))
    assert_account_true(folders)
