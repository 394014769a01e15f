"""What --status says of a run on Slurm that has ended: no queue is asked for these."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from small_sweep import FILE, command

from harness.slurm_cluster import new_run
from harness.slurm_status import status_document, status_sentence
from harness.sweep import BAD_INPUT, FAILED, INTERRUPTED, OK
from slurm.run import RunFolder

REFUSED = "sbatch refused the job dpsweep-small: Invalid partition name specified"


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A run that Slurm job 7 was to hold."""
    made = new_run(tmp_path / "small")
    made.write(made.record, {"job": "7"})
    return made


def said(run: RunFolder) -> str | None:
    document = status_document(run.path.parents[1])
    return None if document is None else status_sentence(document)


def test_a_run_that_could_not_begin_says_why(run: RunFolder) -> None:
    run.output.write_text(f"3 trials\n{REFUSED}\n\n")
    run.write(run.exit, {"status": BAD_INPUT})
    assert said(run) == f"Slurm job 7 has ended with status 2: {REFUSED}\n  its output: {run.output}"


def test_a_job_that_never_began(run: RunFolder) -> None:
    run.write(run.exit, {"status": INTERRUPTED})
    assert said(run) == "Slurm job 7 was cancelled while it waited in the queue."


def test_a_job_that_is_gone_without_a_word_has_a_log(run: RunFolder) -> None:
    run.write(run.queue, {"jobs": ["7"], "found": {}})
    log = run.jobs / "7_0_log.out"
    log.write_text("line 16: module: command not found\n/usr/bin/python3: No module named submitit\nsrun: error: n1: task 0\n")
    wrong = "/usr/bin/python3: No module named submitit"
    assert said(run) == f"Slurm job 7 has ended before its command could: {wrong}\n  its log: {log}"


@pytest.mark.parametrize("status", [OK, FAILED])
def test_nothing_where_the_rows_say_it_all(run: RunFolder, status: int) -> None:
    run.output.write_text("3 jobs: 3 completed\n")
    run.write(run.exit, {"status": status})
    assert said(run) is None


def test_nothing_where_a_later_command_has_gone_on(run: RunFolder) -> None:
    run.output.write_text(f"{REFUSED}\n")
    run.write(run.exit, {"status": BAD_INPUT})
    launch = run.path.parents[1] / "launches" / "later"
    launch.mkdir(parents=True)
    os.utime(launch, (run.exit.stat().st_mtime + 60,) * 2)
    assert said(run) is None


def test_a_command_that_has_to_stay_cannot_detach(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "small.yaml").write_text(FILE)
    (tmp_path / "here.yaml").write_text("worker: {cpus: 1, walltime: 1h}\nhead: {where: here}\n")
    assert command(tmp_path, "--on", f"slurm:{tmp_path / 'here.yaml'}", "--detach") == BAD_INPUT
    assert "so this command has to stay" in capsys.readouterr().err
