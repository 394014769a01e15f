"""Disks that are full or read-only: real file systems, filled or closed at the moment named."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from faulty import Trap, assert_account_true, assert_complete, command, fill, folders_of, mount, spent

from harness import sweep
from harness.attempts import Attempt
from harness.expand import expand
from harness.plan import make_plan
from harness.spec import load_sweep

# What is being written -> the file that is opened for it, and the how manieth of its kind. All but the end record are written
# in scratch (opened once to be made, once to be filled) and renamed: four checkpoints, the generator, then the parts.
MOMENTS = {
    "a checkpoint": (r"scratch/.*\.tmp$", 4),
    "the generator": (r"scratch/.*\.tmp$", 10),
    "the samples": (r"scratch/.*\.tmp$", 12),
    "the row": (r"scratch/.*\.tmp$", 14),
    "the end record": (r"attempts/.*\.end\.json\..*\.tmp$", 1),
    "the tables": (r"scratch/.*\.tmp$", 18),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_disk_that_fills_up_loses_nothing_and_the_same_command_goes_on(
    disk: Path, root: Path, drawn: list[int], moment: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = folders_of(root)
    pattern, nth = MOMENTS[moment]
    trap = Trap("open", pattern, lambda: fill(disk), nth)
    status = command(root)
    told = capsys.readouterr()
    assert trap.sprung
    assert status == sweep.BAD_INPUT
    assert "No space left on device" in told.out + told.err
    assert "Traceback" not in told.out + told.err
    assert sum(spent(folders).values()) >= len(drawn)
    (disk / "ballast").unlink()

    assert command(root) == sweep.OK
    assert_complete(folders, statuses=("completed", "budget"))
    assert_account_true(folders, len(drawn))


def test_a_reservation_that_a_full_disk_does_not_take_is_no_permission(disk: Path, root: Path) -> None:
    folders = folders_of(root)
    (trial,) = make_plan(folders, expand(load_sweep(root / "faults.yaml"))).trials
    assert trial.account is not None
    plan = folders.launches / "a" / "plan.json"
    attempt = Attempt.open(folders, trial.trial_id, kind="train", lineage="digits", phases=trial.account.phases, plan=plan)
    fill(disk)
    steps = 0

    def reserve_all() -> None:
        nonlocal steps
        while steps < 10_000:  # the last page of the file takes some lines more
            attempt.reserve(0, 1)
            steps += 1

    with pytest.raises(OSError, match=r"No space left|could be written"):
        reserve_all()
    assert spent(folders) == {trial.trial_id: steps}
    (disk / "ballast").unlink()
    attempt.reserve(0, 1)
    assert spent(folders) == {trial.trial_id: steps + 1}


def close(place: Path) -> None:
    """Make a folder read-only for everybody who opens something in it from now on, root too."""
    mount("--bind", str(place), str(place))
    mount("-o", "remount,ro,bind", str(place))


@pytest.mark.parametrize("moment", ["a checkpoint", "the row"])
def test_results_that_become_read_only_end_the_command_with_a_sentence(
    disk: Path, root: Path, drawn: list[int], moment: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = folders_of(root)
    pattern, nth = MOMENTS[moment]
    trap = Trap("open", pattern, lambda: close(disk), nth)
    assert command(root) == sweep.BAD_INPUT
    told = capsys.readouterr()
    assert trap.sprung
    assert "Read-only file system" in told.err
    assert "Traceback" not in told.out + told.err
    assert command(root) == sweep.BAD_INPUT, "and so does the next one"
    told = capsys.readouterr()
    assert told.err.count("\n") == 1
    assert command(root, "--status") == sweep.OK, "looking is still allowed"
    subprocess.run(["umount", str(disk)], check=True)
    folders.lock.unlink()  # the command that could not was this process, which lives

    assert command(root) == sweep.OK
    assert_complete(folders, statuses=("completed", "budget"))
    assert_account_true(folders, len(drawn))
