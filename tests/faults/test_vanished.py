"""Results that are moved or deleted while trials run. What vanished must never read as nothing spent."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from faulty import TWO, Trap, assert_account_true, assert_complete, command, folders_of, spent

from harness import sweep

MOMENTS = {
    "reserving": ("open", r"ledger/.*\.jsonl$", 2),
    "a checkpoint": ("open", r"scratch/.*\.tmp$", 3),
    "the generator": ("open", r"scratch/.*\.tmp$", 9),
    "the row": ("open", r"scratch/.*\.tmp$", 13),
    "the end record": ("open", r"attempts/.*\.end\.json\..*\.tmp$", 1),
    "between trials": ("open", r"logs/.*\.1\.log$", 2),
}


@pytest.mark.parametrize(
    ("what", "moment"),
    [
        *(("results", moment) for moment in ("reserving", "the generator", "the end record")),
        *(("results/faults", moment) for moment in ("a checkpoint", "the row", "between trials")),
    ],
)
def test_a_folder_that_is_moved_away_ends_the_command_and_comes_back_whole(
    root: Path, drawn: list[int], what: str, moment: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folders, place, away = folders_of(root), root / what, root / "away"
    trap = Trap(*MOMENTS[moment][:2], lambda: place.rename(away), MOMENTS[moment][2])
    assert command(root, *TWO) == sweep.BAD_INPUT
    told = capsys.readouterr()
    assert trap.sprung
    assert "was moved, deleted or taken over" in told.err
    assert "Traceback" not in told.out + told.err
    assert not place.exists(), "nothing is begun in a folder that is not the one"
    away.rename(place)
    folders.lock.unlink()  # its process is this one, which lives
    assert sum(spent(folders).values()) >= len(drawn)

    assert command(root, *TWO) == sweep.OK
    assert_complete(folders, 2, ("completed", "budget"))
    assert_account_true(folders, len(drawn))


def test_a_sweep_whose_folder_was_deleted_has_still_spent_what_it_spent(
    root: Path, drawn: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    folders = folders_of(root)
    trap = Trap("open", r"ledger/.*\.jsonl$", lambda: shutil.rmtree(folders.sweep), 4)
    assert command(root) == sweep.BAD_INPUT
    assert trap.sprung
    capsys.readouterr()
    paid = sum(spent(folders).values())
    assert paid >= len(drawn) > 0
    assert command(root) == sweep.OK
    assert "have releases on record whose results were deleted" in " ".join(capsys.readouterr().out.split())
    assert_account_true(folders, len(drawn))
    assert sum(spent(folders).values()) > paid


@pytest.mark.parametrize(
    ("harm", "sentence"),
    [
        (lambda ledger: shutil.rmtree(ledger), "is missing; it is the only record"),
        (lambda ledger: (ledger / "digits").rename(ledger.parent / "away"), "is missing; it is the only record"),
        (lambda ledger: cut(ledger, 1), "says that it took [8]: bring the file back"),
        (lambda ledger: cut(ledger, 0), "cannot be read"),
        (lambda ledger: spoil(ledger), "cannot be read"),
    ],
    ids=["deleted", "moved", "cut to its header", "emptied", "a line spoilt"],
)
def test_a_ledger_that_lost_something_is_refused_by_every_command(
    root: Path, harm: Callable[[Path], object], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = folders_of(root)
    assert command(root) == sweep.OK
    before = spent(folders)
    shutil.copytree(folders.ledger, root / "copy")
    harm(folders.ledger)
    for arguments in ((), ("--status",), ("--dry-run",)):
        capsys.readouterr()
        assert command(root, *arguments) == sweep.BAD_INPUT
        told = capsys.readouterr().err
        assert sentence in told
        assert told.count("\n") == 1
    shutil.rmtree(folders.ledger, ignore_errors=True)
    shutil.copytree(root / "copy", folders.ledger)
    assert command(root) == sweep.OK
    assert spent(folders) == before
    assert_account_true(folders)


def cut(ledger: Path, lines: int) -> None:
    """Leave only the first ``lines`` of every account."""
    for path in ledger.rglob("*.jsonl"):
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:lines]))


def spoil(ledger: Path) -> None:
    """Replace a line in the middle of every account, as a disk may."""
    for path in ledger.rglob("*.jsonl"):
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join([lines[0], "\0" * len(lines[1]) + "\n", *lines[2:]]))


def test_a_ledger_deleted_while_a_trial_runs_stops_it(root: Path, drawn: list[int], capsys: pytest.CaptureFixture[str]) -> None:
    folders = folders_of(root)
    trap = Trap("open", r"ledger/.*\.jsonl$", lambda: folders.ledger.rename(root / "away"), 3)
    assert command(root) == sweep.BAD_INPUT
    assert trap.sprung
    assert "is missing; it is the only record" in capsys.readouterr().err
    made = len(drawn)
    assert command(root) == sweep.BAD_INPUT, "and it stays so"
    assert len(drawn) == made, "nothing is released while the account is away"
    shutil.rmtree(folders.ledger, ignore_errors=True)
    (root / "away").rename(folders.ledger)
    assert command(root) == sweep.OK
    assert_complete(folders, statuses=("completed", "budget"))
    assert_account_true(folders, len(drawn))
