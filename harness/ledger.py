"""What was spent: the accounts of a trial's attempts added up, for a trial, a sweep or a data set.

Accounts (``account_files``) lie in ``ROOT/ledger``, outside the sweep's folder, so that deleting results does not delete what
was paid: a trial's account is the sum of all its files there, whether or not their results still exist.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from trainables.privacy.mechanism import Phase

from . import compacted
from .account_files import LedgerError, Spent, files_of_sweep, files_of_trial, is_control, lineages_of, read_account
from .attempts import AttemptRecord, record_texts
from .folders import Folders


@dataclass(frozen=True, kw_only=True)
class TrialAccount:
    """What all attempts of one trial have spent."""

    trial_id: str
    phases: tuple[Phase, ...]
    """The mechanisms as they ran: the trial keeps the noise of its first attempt."""
    executed: tuple[int, ...]
    """Steps a phase whose noise was or may have been drawn."""
    attempts: Mapping[int, tuple[int, ...]]
    """Steps a phase of each attempt that is counted here, by its number."""
    stopped: bool
    """An attempt was stopped by a person or a machine's end, and none has gone on from there: later ones took no step."""
    release: str | None = None
    """The shared release that stands in the place of the first phase, which is paid for in its own account (``releases``)."""
    control: bool = False
    """The control of an audit, without noise: what came of it was seen by nobody, so it is part of no composition."""

    @property
    def charged(self) -> tuple[int, ...]:
        """Steps a phase that are paid for: whoever could look before stopping a trial has its planned budget charged."""
        if not self.stopped:
            return self.executed
        charged = [max(done, phase.steps) for done, phase in zip(self.executed, self.phases, strict=True)]
        return (0, *charged[1:]) if self.release else tuple(charged)


def trial_account(folders: Folders, trial_id: str, *, before: int | None = None) -> TrialAccount | None:
    """What the trial's attempts (those numbered under ``before``) have spent in this sweep; None if there were none."""
    paths = [(number, path) for number, path in files_of_trial(folders, trial_id) if before is None or number < before]
    return _sum_accounts(trial_id, [(number, path, read_account(path)) for number, path in paths]) if paths else None


def check_account(folders: Folders, records: Sequence[AttemptRecord], account: TrialAccount | None) -> None:
    """Compare what the ledger says of a trial with what its attempts say. Raises ``LedgerError`` if the ledger lacks some.

    Two books: an account that vanished, or that lost its last lines, would otherwise read as nothing spent.
    """
    for record in records:
        if record.start["account"] and (account is None or record.number not in account.attempts):
            raise LedgerError(
                f"{folders.root / record.start['account']} is missing; it is the only record of what attempt {record.number} "
                f"of trial {record.trial_id} has released: bring it back from a copy"
            )
        said, paid = (record.end or {}).get("executed", ()), account.attempts.get(record.number, ()) if account else ()
        if record.start["account"] and any(steps > counted for steps, counted in zip(said, paid, strict=False)):
            raise LedgerError(
                f"{folders.root / record.start['account']} counts {list(paid)} steps a phase, and attempt {record.number} of "
                f"trial {record.trial_id} says that it took {list(said)}: bring the file back from a copy"
            )


def violated(folders: Folders, record: AttemptRecord) -> bool:
    """Whether an attempt has settled its account after a violation. Raises ``LedgerError`` for an account not readable."""
    path = record.start["account"]
    return path is not None and read_account(folders.root / path).violated


def sweep_accounts(folders: Folders) -> dict[str, TrialAccount]:
    """What every trial of this sweep has spent, whether or not its results still exist."""
    return _by_trial(_accounts(folders).values())


def lineage_accounts(
    root: Path,
    lineage: str,
    known: Mapping[str, Mapping[str, TrialAccount]] | None = None,
    without: Collection[str] = (),
) -> list[TrialAccount]:
    """What every trial of every sweep under ``root`` has spent on the data set named ``lineage``.

    ``known`` are ``sweep_accounts`` that have been read already, by the names of their sweeps; those ``without`` are left out.
    """
    found: list[TrialAccount] = []
    for sweep in sorted(path.name for path in (root / "ledger" / lineage).glob("*") if path.is_dir()):
        if sweep in without:
            continue
        folders = Folders(root, sweep)
        if known and sweep in known and all(other == lineage for other in lineages_of(folders)):
            found += known[sweep].values()
        else:
            found += _by_trial(_accounts(folders, lineage).values()).values()
    return found


def unfinished_selections(root: Path, lineage: str) -> list[str]:
    """Names in the ledger under which private selections that have not ended have their trials; how many is not to be told."""
    begun = {selection_name(folder.parents[1].name, folder.name) for folder in root.glob("*/sealed/*")}
    return sorted(begun & {path.name for path in (root / "ledger" / lineage).glob("*.selection.*")})


def abandoned_selections(folders: Folders) -> dict[str, TrialAccount]:
    """What trials of private selections of the sweep have spent that were begun and then given up: their folder is gone.

    Whoever gave them up may have looked, so they count like any other trial.
    """
    begun = {folder.name for folder in folders.sealed.glob("*")}
    found: dict[str, TrialAccount] = {}
    for path in folders.ledger.glob(f"*/{selection_name(folders.name, '*')}"):
        if path.name.rpartition(".")[2] not in begun:
            found |= sweep_accounts(Folders(folders.root, path.name))
    return found


def selection_name(sweep: str, trial_id: str) -> str:
    """The name in the ledger of a sweep's private selection, for its trials while it has not ended."""
    return f"{sweep}.selection.{trial_id}"


def compact(folders: Folders) -> None:
    """Copy what can no longer change into files that are quick to read. The holder of the driver's lock calls it."""
    compacted.write_records(folders, record_texts(folders))
    closed = {
        name: (look, (spent.phases_json, spent.executed, spent.stopped, spent.release))
        for name, (look, _, spent) in _accounts(folders).items()
        if spent.closed
    }
    compacted.write_accounts(folders, closed)


def _accounts(folders: Folders, lineage: str | None = None) -> dict[str, tuple[compacted.Look, str, Spent]]:
    """``LINEAGE/FILE`` -> what it looked like, its path and what it says, of the sweep's accounts (of one lineage)."""
    copied = compacted.read_accounts(folders)
    found = {}
    for directory, entry in files_of_sweep(folders, lineage):
        status = entry.stat()
        look, name = (status.st_size, status.st_ctime_ns), f"{directory}/{entry.name}"
        known = copied.get(name)
        if known and known[0] == look:
            phases_json, executed, stopped, release = known[1]
            spent = Spent(phases_json, executed, stopped, closed=True, release=release)
        else:
            spent = read_account(entry.path)
        found[name] = look, entry.path, spent
    return found


def _by_trial(files: Iterable[tuple[compacted.Look, str, Spent]]) -> dict[str, TrialAccount]:
    by_trial: dict[str, list[tuple[int, str, Spent]]] = {}
    for _, path, spent in files:
        trial_id, number, _ = path.rpartition("/")[2].rsplit(".", 2)
        by_trial.setdefault(trial_id, []).append((int(number), path, spent))
    return {trial_id: _sum_accounts(trial_id, sorted(numbered)) for trial_id, numbered in sorted(by_trial.items())}


def _sum_accounts(trial_id: str, files: Sequence[tuple[int, str | Path, Spent]]) -> TrialAccount:
    """Sum of a trial's attempts (number, file, what it says). Raises ``LedgerError`` if they ran with different mechanisms."""
    _, first, begun = files[0]
    phases = begun.phases
    for _, path, spent in files:
        if spent.release != begun.release or (spent.phases_json != begun.phases_json and spent.phases != phases):
            raise LedgerError(f"{path} has other mechanisms than {first}: attempts of one trial cannot be added up")
    executed = tuple(sum(counts) for counts in zip(*(spent.executed for _, _, spent in files), strict=True))
    numbers = {number: spent.executed for number, _, spent in files}
    ends = [spent.stopped for _, _, spent in files if spent.stopped or any(spent.executed)]
    stopped = bool(ends) and ends[-1]
    return TrialAccount(
        trial_id=trial_id,
        phases=phases,
        executed=executed,
        attempts=numbers,
        stopped=stopped,
        release=begun.release,
        control=is_control(first),
    )
