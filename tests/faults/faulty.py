"""What tests of faults share: a tiny sweep, a fault at an exact moment, a disk that can be filled, and the books checked.

The account is added up here from the ledger's files by other code than the harness's own, and held against the noise that
was really drawn.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import pytest
from safetensors import safe_open

from harness import store, sweep
from harness.attempts import read_attempts
from harness.folders import Folders

FILE = """
name: faults
method: dp_energy
preset: digits
data: {source: digits}
privacy: {epsilon: 10, accountant: pld}
train: {steps: 8, slots: 20, generator_channels: 4}
checkpoint: {every: 2}
evaluate: {samples: 20, metrics: [memorization]}
keep_samples: 10
"""
STEPS = 8
TWO = ("--set", "axes.noise_injection=[0.0, 0.1]")
"""Arguments that make two trials of the one."""


def command(root: Path, *arguments: str) -> int:
    """The command on ``root/faults.yaml`` in this process, trials and all."""
    return sweep.main([str(root / "faults.yaml"), "--on", "inline", "--results", str(root / "results"), *arguments])


def folders_of(root: Path) -> Folders:
    return Folders(root / "results", "faults")


# --- a fault at an exact moment -----------------------------------------------------------------------------------------


class Trap:
    """Runs ``action`` when this process is about to ``event`` a file whose path matches ``pattern``, the ``nth`` time.

    ``event`` is one of Python's audit events: ``open`` (for writing), ``os.rename`` or ``os.link`` (the new name).
    """

    armed: ClassVar[list[Trap]] = []

    def __init__(self, event: str, pattern: str, action: Callable[[], object], nth: int = 1) -> None:
        self.event, self.pattern, self.action, self.left = event, re.compile(pattern), action, nth
        self.sprung = False
        Trap.armed.append(self)

    @staticmethod
    def look(event: str, arguments: tuple[object, ...]) -> None:
        if not Trap.armed or event not in ("open", "os.rename", "os.link"):
            return
        if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)):
            return
        path = str(arguments[0 if event == "open" else 1])
        for trap in list(Trap.armed):
            if trap.event == event and trap.pattern.search(path):
                trap.left -= 1
                if not trap.left:
                    Trap.armed.remove(trap)
                    trap.sprung = True
                    trap.action()


sys.addaudithook(Trap.look)


# --- disks --------------------------------------------------------------------------------------------------------------


def mount(*arguments: str) -> None:
    """Run ``mount``; skip the test where it is not allowed."""
    try:
        subprocess.run(["mount", *arguments], check=True, capture_output=True, text=True)
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no file system can be mounted here: {getattr(error, 'stderr', None) or error}")


def fill(disk: Path) -> None:
    """Leave no byte free on ``disk``."""
    with (disk / "ballast").open("ab", buffering=0) as ballast:
        for size in (2**20, 2**12, 1):
            try:
                while ballast.write(b"\0" * size) == size:
                    pass
            except OSError:
                continue


# --- the books ----------------------------------------------------------------------------------------------------------


def spent(folders: Folders) -> Counter[str]:
    """Releases by trial, from the bare files of the ledger: what each attempt says that it executed, else all it reserved."""
    total: Counter[str] = Counter()
    for path in folders.ledger.glob(f"*/{folders.name}/*.jsonl"):
        records = [json.loads(line) for line in path.read_text().split("\n")[1:-1]]
        said = [sum(record["executed"]) for record in records if "executed" in record]
        total[path.stem.split(".")[0]] += said[-1] if said else sum(sum(record["reserved"]) for record in records)
    return total


def assert_account_true(folders: Folders, drawn: int | None = None) -> None:
    """One row a trial; every release of every kept generator, and every one that was ``drawn``, is paid for in it."""
    paid = spent(folders)
    trials = store.read(folders.sweep).trials
    assert trials.trial_id.is_unique
    assert set(trials.trial_id) == set(read_attempts(folders)), "every trial that was begun has its row"
    for row in trials.to_dict("records"):
        assert row["releases"] == paid[row["trial_id"]], "the row is computed from what the ledger says"
        assert 0 < row["epsilon"] <= row["target_epsilon"] or not row["releases"]
    for path in folders.generators.glob("*.safetensors"):
        with safe_open(path, framework="np") as file:
            assert int(file.metadata()["steps"]) <= paid[path.stem]
    if drawn is not None:
        assert sum(paid.values()) >= drawn, "noise was drawn that nobody pays for"


def assert_complete(
    folders: Folders, trials_expected: int = 1, statuses: tuple[str, ...] = ("completed",), *, history: bool = True
) -> None:
    """All trials are done and evaluated, nothing uncommitted lies in the tables, nothing of a writer is left."""
    trials = store.read(folders.sweep).trials
    assert len(trials) == trials_expected
    assert set(trials.status) <= set(statuses)
    assert trials.memorization_pixels.notna().all()
    for table in ("trials", "history", "samples") if history else ("trials", "samples"):
        assert len(list(folders.table(table).glob("*.parquet"))) == trials_expected
    assert not list(folders.root.rglob("*.tmp"))
    assert not folders.lock.exists()
