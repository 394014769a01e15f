"""The trials of a private selection: drawn, run and deleted behind a folder that nobody else can read (``selection``).

``ROOT/NAME/sealed/<id>`` is a results folder of their own, with the stages and the ledger that all sweeps share. What was drawn
is written down there before the first trial begins, so that the same command goes on with the same trials.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from .account_files import LedgerError
from .expand import TrialSpec
from .folders import Folders, create_json, sync_folder
from .lock import DriverLock
from .plan import make_plan
from .selection import Selection

if TYPE_CHECKING:
    from rich.console import Console

    from .jobs import Executor

_SEED_BITS = 48
_INTERRUPTED = "it was interrupted"


def run_sealed(chosen: Selection, on: str, *, max_concurrent: int | None, console: Console) -> str | None:
    """Run the trials of the selection as far as the machines let it; return why it has not ended, or None where it has.

    The holder of the sweep's lock calls it. Nothing is said of how many trials there are or how far they have come. Stages of
    every setting are computed before anything is drawn: those that are there would tell what was.
    """
    from .cluster import connect

    inner, folders = chosen.sealed, chosen.folders
    connected = closing(
        connect(on, results=folders.root, sweep=folders.name, max_concurrent=max_concurrent, say=lambda sentence: None)
    )
    with connected as executor:
        if why := _run_stages(chosen, executor, console):
            return why
        specs = drawn_trials(chosen)
        console.print("The selection runs. How many trials it has, and how far they are, is kept secret until it has ended.")
        if not specs:
            return None
        with DriverLock(inner.lock):
            return _run_trials(inner, specs, executor, console)


def _run_stages(chosen: Selection, executor: Executor, console: Console) -> str | None:
    """Compute what is missing of the stages that any setting needs; return why that was not possible, or None."""
    from .launch import new_launch, stage_jobs
    from .progress import Progress, stop_on_signals
    from .screen import failed_stages
    from .snapshot import provenance
    from .stages import set_aside_damaged

    plan = make_plan(chosen.folders, chosen.settings)
    for note in set_aside_damaged(chosen.folders, [name for needed in plan.needs.values() for name in needed]):
        console.print(note)
        plan = make_plan(chosen.folders, chosen.settings)
    jobs = stage_jobs(plan)
    if not jobs:
        return None
    path = new_launch(plan, provenance())
    with Progress(jobs, console) as progress, stop_on_signals(path.parent / "stop", progress.say):
        executor.run(jobs, path, progress.update, path.parent / "stop")
    failed = failed_stages(plan)
    if failed:
        return f"stage {failed[0]['stage']} failed: {failed[0]['message']} (log: {failed[0]['log']})"
    return _INTERRUPTED if (path.parent / "stop").exists() else None


def _run_trials(inner: Folders, specs: Sequence[TrialSpec], executor: Executor, console: Console) -> str | None:
    from .launch import new_launch, run_launch
    from .progress import stop_on_signals
    from .recovery import recover
    from .snapshot import provenance

    recover(inner)
    plan = make_plan(inner, specs)
    if not plan.to_do:
        return None
    path = new_launch(plan, provenance())
    with stop_on_signals(path.parent / "stop", console.print):
        run_launch(plan, path, executor, lambda event: None)
    if not make_plan(inner, specs).to_do:
        return None
    return _INTERRUPTED if (path.parent / "stop").exists() else "a machine or a process of it was lost"


def drawn_trials(chosen: Selection) -> list[TrialSpec]:
    """The trials of the selection, drawn now if it has not begun. Raises ``LedgerError`` where what was drawn is lost."""
    inner, record = chosen.sealed, chosen.sealed.root / "draws.json"
    if not record.exists():
        if chosen.trial.spent and any(chosen.trial.spent.executed):
            raise LedgerError(
                f"this selection has ended and is paid for ({chosen.folders.ledger}), and {chosen.folders.sweep} does not have "
                "it any more: bring it back from a copy. Drawing it again would cost as much again: another `seeds: [N]` is "
                "another selection, on top of this one"
            )
        if _spent_on(chosen):
            raise LedgerError(
                f"{record} is gone, and trials of this selection are in the ledger: what was drawn was deleted before the "
                "selection had ended. They stay charged one by one, whatever comes after; another `seeds: [N]` is another "
                "selection, on top of them"
            )
        _seal(chosen.folders, inner)
        count = chosen.repetitions.draw()
        draws = [{"setting": secrets.randbelow(len(chosen.settings)), "seed": seed} for seed in _seeds(count)]
        create_json(record, {"draws": draws})
    drawn = json.loads(record.read_text())["draws"]
    return [replace(chosen.settings[draw["setting"]], seed=draw["seed"]) for draw in drawn]


def _seeds(count: int) -> list[int]:
    """Distinct public seeds that say nothing of how many there are."""
    found: dict[int, None] = {}
    while len(found) < count:
        found[secrets.randbits(_SEED_BITS)] = None
    return list(found)


def _spent_on(chosen: Selection) -> list[Path]:
    """Accounts of the selection's trials, under whatever name the data have."""
    return sorted(chosen.folders.ledger.glob(f"*/{chosen.sealed.name}"))


def _seal(folders: Folders, inner: Folders) -> None:
    """Make the folder that nobody else can read, with the stages and the ledger that all sweeps share."""
    inner.root.mkdir(mode=0o700, parents=True, exist_ok=True)
    for folder in (folders.sealed, inner.root):
        folder.chmod(0o700)
    for name in ("stages", "ledger", "releases"):
        (folders.root / name).mkdir(mode=0o700, exist_ok=True)
        link = inner.root / name
        if not link.is_symlink():
            link.symlink_to(os.path.relpath(folders.root / name, inner.root))
    for path in (folders.calibrations, folders.fingerprints):
        if path.exists():
            shutil.copyfile(path, inner.root / path.name)


def clear(chosen: Selection) -> None:
    """Delete what the selection has left behind once it has ended: its trials, and then their accounts.

    In this order: as long as anything of a trial is there, so is what it has spent. Raises ``OSError`` where the disk does not
    let go of it; the same command tries again.
    """
    if chosen.sealed.root.is_dir():
        shutil.rmtree(chosen.sealed.root)
        sync_folder(chosen.folders.sealed)
    for path in _spent_on(chosen):
        shutil.rmtree(path)
        sync_folder(path.parent)
    with_others = chosen.folders.sealed
    if with_others.is_dir() and not any(with_others.iterdir()):
        with_others.rmdir()
