"""Real Ray, real processes, real kills: every trial ends with one row, and no release is uncounted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from harness import store, sweep
from harness.folders import Folders
from harness.ledger import AttemptRecord, lineage_accounts, read_attempts

FILE = """
name: faults
method: dp_energy
preset: digits
data: {source: digits}
privacy: {epsilon: 10, accountant: pld}
train: {steps: 300, slots: 20, generator_channels: 8}
axes: {noise_injection: [0.0, 0.1, 0.2]}
checkpoint: {every: 15}
evaluate: {samples: 100}
keep_samples: 10
"""


def start(root: Path) -> subprocess.Popen[str]:
    """The command in a process of its own, on a Ray of its own."""
    command = [sys.executable, "-m", "harness.sweep", str(root / "faults.yaml"), "--results", str(root / "results")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment)


def wait_for(what: Callable[[], bool], process: subprocess.Popen[str], seconds: float = 240) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert process.poll() is None, f"the command ended early:\n{process.stdout.read() if process.stdout else ''}"
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.1)


def running(folders: Folders) -> list[AttemptRecord]:
    """Open attempts whose trial has passed its first checkpoint in this attempt."""
    records = [records[-1] for records in read_attempts(folders).values()]
    return [
        record
        for record in records
        if record.end is None and len((folders.root / record.start["account"]).read_text().splitlines()) > 3
    ]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks at processes through /proc")
def test_kill_a_trial_then_the_driver_then_run_again(tmp_path: Path) -> None:
    (tmp_path / "faults.yaml").write_text(FILE)
    folders = Folders(tmp_path / "results", "faults")

    driver = start(tmp_path)
    wait_for(lambda: bool(running(folders)), driver)
    victim = running(folders)[0]
    os.kill(victim.start["pid"], signal.SIGKILL)
    wait_for(lambda: any(r.trial_id != victim.trial_id for r in running(folders)), driver)
    workers = [record.start["pid"] for records in read_attempts(folders).values() for record in records]
    driver.kill()
    driver.wait()
    end = time.monotonic() + 60
    while any(alive(pid) for pid in workers) and time.monotonic() < end:
        time.sleep(0.2)

    assert sweep.main([str(tmp_path / "faults.yaml"), "--on", "inline", "--results", str(tmp_path / "results")]) == sweep.OK

    results = store.read(folders.sweep)
    assert len(results.trials) == 3
    assert results.trials.trial_id.is_unique
    assert set(results.trials.status) <= {"completed", "budget"}
    assert (results.trials.epsilon <= 10).all()
    ends = results.attempts.groupby("trial_id").status.apply(list)
    assert "lost" in ends[victim.trial_id]
    assert (results.attempts.status != "running").all()

    # The account of the data set, the rows and the reservations agree; every step of a kept generator is among them.
    counted = sum(sum(account.executed) for account in lineage_accounts(folders.root, "digits"))
    assert counted == results.trials.releases.sum()
    assert (results.trials.releases >= results.trials.steps).all()
    lost = results.trials[results.trials.trial_id.isin(ends[ends.apply(lambda statuses: "lost" in statuses)].index)]
    assert (lost.releases > lost.steps).any(), "the steps that a kill has cost are counted"
    rows = sum(len(store.read_table("trials", [path])) for path in folders.table("trials").glob("*.parquet"))
    assert rows == 3, "the table folder holds what counts and nothing else"


def test_ctrl_c_checkpoints_and_the_same_command_goes_on(tmp_path: Path) -> None:
    (tmp_path / "faults.yaml").write_text(FILE)
    folders = Folders(tmp_path / "results", "faults")
    driver = start(tmp_path)
    wait_for(lambda: bool(running(folders)), driver)
    driver.send_signal(signal.SIGINT)
    output, _ = driver.communicate(timeout=120)
    assert driver.returncode == sweep.INTERRUPTED, output
    assert "Interrupted. The same command goes on" in output
    assert "Traceback" not in output
    statuses = {records[-1].status for records in read_attempts(folders).values()}
    assert statuses <= {"interrupted", "completed"}
    assert "interrupted" in statuses
    assert not folders.lock.exists()

    assert sweep.main([str(tmp_path / "faults.yaml"), "--on", "inline", "--results", str(tmp_path / "results")]) == sweep.OK
    results = store.read(folders.sweep)
    assert list(results.trials.status) == ["completed"] * 3
    assert (results.trials.releases == 300).all(), "nothing was done twice"
    assert json.loads((folders.sweep / "sweep.json").read_text())["totals"]["trials"] == 3
