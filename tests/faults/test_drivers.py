"""Two commands on one sweep, locks whose holder is gone, and trainings that diverge."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from faulty import STEPS, Trap, assert_account_true, assert_complete, command, folders_of

from harness import store, sweep

HOLDER = """
import pathlib, sys, time
from harness.lock import DriverLock
with DriverLock(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_second_command_is_told_who_holds_the_sweep_and_since_when(
    root: Path, drawn: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    folders = folders_of(root)
    folders.make_private()
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(folders.lock)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert command(root) == sweep.BAD_INPUT
        told = capsys.readouterr().err
        assert re.search(rf"is being run by process {holder.pid} on \S+ since 20\d\d-\d\d-\d\d \d\d:\d\d:\d\d UTC", told)
        assert told.count("\n") == 1
    finally:
        holder.kill()
        holder.wait()
    assert command(root) == sweep.OK, "the lock of a process that is gone holds nobody up"
    assert_complete(folders)
    assert_account_true(folders, len(drawn))


def test_a_second_command_while_the_first_trains_is_refused_and_spends_nothing(
    root: Path, drawn: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    folders = folders_of(root)
    said: list[subprocess.CompletedProcess[str]] = []
    other = [sys.executable, "-m", "harness.sweep", str(root / "faults.yaml"), "--on", "inline", "--results", str(folders.root)]

    def start_another() -> None:
        said.append(subprocess.run(other, capture_output=True, text=True, check=False, timeout=100))

    Trap("os.rename", r"checkpoints/.*\.pt$", start_another)
    assert command(root) == sweep.OK
    (second,) = said
    assert second.returncode == sweep.BAD_INPUT
    assert f"is being run by process {os.getpid()} on" in second.stderr
    assert len(drawn) == STEPS
    assert_complete(folders)
    assert_account_true(folders, len(drawn))


def test_a_command_that_was_overtaken_ends_and_its_trial_releases_nothing_more(
    root: Path, drawn: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    """Somebody deletes the lock of a command that lives, and starts another one."""
    folders = folders_of(root)

    def take_over() -> None:
        folders.lock.unlink()
        assert command(root) == sweep.OK

    Trap("open", r"ledger/.*\.jsonl$", take_over, 2)
    assert command(root) == sweep.BAD_INPUT
    assert "was moved, deleted or taken over while this command ran" in capsys.readouterr().err
    assert_complete(folders, statuses=("completed", "budget"))
    assert_account_true(folders, len(drawn))
    assert command(root) == sweep.OK


@pytest.mark.parametrize("content", ["", "[]", '{"host": "x"}'])
def test_a_lock_that_was_cut_off_is_one_sentence(root: Path, content: str, capsys: pytest.CaptureFixture[str]) -> None:
    folders = folders_of(root)
    folders.make_private()
    folders.lock.write_text(content)
    assert command(root) == sweep.BAD_INPUT
    told = capsys.readouterr().err
    assert "is not what a command writes; if no command runs this sweep, delete it" in told
    assert told.count("\n") == 1
    assert command(root, "--status") == sweep.OK


def test_the_lock_of_another_host_holds_for_two_minutes_after_its_last_beat(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = folders_of(root)
    folders.make_private()
    since = time.time() - 3600
    folders.lock.write_text(json.dumps({"host": "elsewhere", "pid": 1, "started": "1", "since": since}))
    assert command(root) == sweep.BAD_INPUT
    assert "is being run by process 1 on elsewhere since" in capsys.readouterr().err
    os.utime(folders.lock, (since, since))
    assert command(root) == sweep.OK
    assert_complete(folders)


@pytest.mark.parametrize("every", [2, 8], ids=["seen at a checkpoint", "seen in between"])
def test_a_training_that_diverges_fails_with_a_sentence_and_has_spent_what_it_spent(
    root: Path, drawn: list[int], every: int, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = folders_of(root)
    diverging = ("--set", "train.learning_rate=3.2e37", "--set", f"checkpoint.every={every}")
    assert command(root, *diverging) == sweep.FAILED
    told = capsys.readouterr()
    assert "Traceback" not in told.out + told.err
    (row,) = store.read(folders.sweep).trials.to_dict("records")
    assert row["status"] == "failed"
    assert "the training has diverged: at step" in row["message"]
    assert row["memorization_pixels"] is None or math.isnan(row["memorization_pixels"])
    assert 0 < row["epsilon"] < 10
    assert len(drawn) <= row["releases"] < STEPS, "no more is spent than it took to see it"
    assert_account_true(folders, len(drawn))

    assert command(root, *diverging, "--retry-failed") == sweep.FAILED
    assert_account_true(folders, len(drawn))
    assert command(root) == sweep.OK, "another learning rate is another trial"
    assert_account_true(folders, len(drawn))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_the_commands_own_process_leaves_a_checkpoint(
    root: Path, drawn: list[int], number: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = folders_of(root)
    before = signal.getsignal(number)
    Trap("os.rename", r"checkpoints/.*\.pt$", lambda: os.kill(os.getpid(), number), 4)
    assert command(root) == sweep.INTERRUPTED
    assert signal.getsignal(number) is before
    assert "The same command goes on" in capsys.readouterr().out
    (launch,) = folders.launches.iterdir()
    (launch / "stop").unlink()
    assert command(root) == sweep.OK
    assert len(drawn) == STEPS, "nothing was done twice"
    assert_complete(folders)
    assert_account_true(folders, len(drawn))
