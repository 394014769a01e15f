"""What ran and what it spent: attempts, reservations, and the account of a data set.

An attempt is ``attempts/<trial_id>/<n>.start.json`` (taken exclusively: n is the fence) and ``<n>.end.json`` (written once,
last: the commit). What it releases is recorded in ``ROOT/ledger/<lineage>/<sweep>/<trial_id>.<n>.jsonl``, outside the sweep's
folder, so that deleting results does not delete what was paid: a header with the mechanisms, then one durable line a
reservation BEFORE any noise of it is drawn, then the true count if the attempt lived to say it. After a crash the whole open
reservation counts. A trial's account is the sum of all its files there, whether or not their results still exist.
"""

from __future__ import annotations

import functools
import io
import json
import os
import re
import socket
import time
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from trainables.base import phase_of
from trainables.privacy.mechanism import Phase, from_dict, to_dict

from . import compacted
from .folders import Folders, create_json, sync_folder

FENCE_INTERVAL_S = 1.0

_START = re.compile(r"\d+\.start\.json")

_CONTROLS = "+controls"
"""What the folder of an audit's controls has behind the data set's name; no name of a data set has a plus."""


def controls_of(lineage: str) -> str:
    """Where the controls of audits have their accounts: beside those of the data set, and in none of its sums."""
    return lineage + _CONTROLS


class Fenced(RuntimeError):
    """A later attempt of the trial has begun, or the driver has closed this one: it must stop without another release."""


class LedgerError(RuntimeError):
    """A record of what was run or spent cannot be read; the message names the file and what to do."""


@dataclass(frozen=True, kw_only=True)
class AttemptRecord:
    """One attempt as found on disk; ``end`` is None while it is open."""

    trial_id: str
    number: int
    start: Mapping[str, Any]
    end: Mapping[str, Any] | None

    @property
    def status(self) -> str:
        """``running`` while open, else what the end record says."""
        return "running" if self.end is None else self.end["status"]

    @property
    def proven(self) -> bool:
        """False where a test injected the noise."""
        return not self.start.get("injected", False)

    @property
    def dropped_steps(self) -> bool:
        """Whether it lost steps by a failure or a stop, which what these had released may have brought about."""
        if self.start["kind"] != "train" or self.end is None or self.status not in ("failed", "interrupted"):
            return False
        return bool(self.end.get("unsaved", self.status == "failed"))  # records of older versions do not say


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


class Attempt:
    """An attempt that this process has opened."""

    def __init__(self, folders: Folders, trial_id: str, number: int, account: Path | None, phase_steps: Sequence[int]) -> None:
        self.folders, self.trial_id, self.number = folders, trial_id, number
        self._account = account
        self._phase_steps = tuple(phase_steps)
        self._checked = 0.0

    @classmethod
    def open(
        cls,
        folders: Folders,
        trial_id: str,
        *,
        kind: str,
        lineage: str,
        phases: Sequence[Phase],
        plan: Path,
        injected: bool = False,
        release: str | None = None,
    ) -> Attempt:
        """Take the next attempt number of the trial. ``phases`` are what it may release (none for an evaluation).

        ``release`` is the shared release in the place of the first phase, where there is one: the attempt itself makes no step
        of that phase.

        ``injected``: a test injects the noise, so that nothing that comes of the trial may be given an epsilon.
        """
        directory = folders.attempts / trial_id
        accounts = folders.ledger / lineage / folders.name
        start: dict[str, Any] = {"trial_id": trial_id, "kind": kind, "plan": str(plan.relative_to(folders.sweep))}
        start |= {"host": socket.gethostname(), "pid": os.getpid(), "started": time.time()}
        if injected:
            start["injected"] = True
        header: dict[str, Any] = {"trial_id": trial_id, "phases": [to_dict(phase) for phase in phases]}
        if release:
            header["release"] = release
        while True:
            spent = [number for number, _ in _account_files(folders, trial_id)]
            number = 1 + max(_numbers(directory, ".start.json") + spent, default=0)
            account = accounts / f"{trial_id}.{number}.jsonl" if phases else None
            start["account"] = str(account.relative_to(folders.root)) if account else None
            try:
                if account:  # before the start record: an account without reservations costs nothing, one missing cannot be
                    _create_account(account, {"attempt": number, **header})
                create_json(directory / f"{number}.start.json", {"attempt": number, **start})
                break
            except FileExistsError:
                continue  # another process took this number between the look and the creation
        return cls(folders, trial_id, number, account, [phase.steps for phase in phases])

    def reserve(self, start: int, stop: int) -> None:
        """Record durably that steps ``start`` to ``stop`` (global, exclusive) will release; raise ``Fenced`` if overtaken.

        The fence is looked at after the record is durable: an attempt opened later either reads this line or stops us.
        Raises ``OSError`` where the record cannot be written whole.
        """
        assert self._account is not None
        counts = [0] * len(self._phase_steps)
        for step in range(start, stop):
            counts[phase_of(step, self._phase_steps)] += 1
        _append(self._account, {"reserved": counts, "steps": [start, stop]})
        self.check_fence(force=True)

    def check_fence(self, *, force: bool = False) -> None:
        """Raise ``Fenced`` if a later attempt exists or this one was closed from outside; looks at most once a second.

        Raises ``LedgerError`` where the attempt's own record is gone, before anything is written into a folder that is not it.
        """
        if not force and time.monotonic() - self._checked < FENCE_INTERVAL_S:
            return
        self._checked = time.monotonic()
        directory = self.folders.attempts / self.trial_id
        numbers = _numbers(directory, ".start.json")
        if self.number not in numbers:
            raise LedgerError(
                f"{directory / f'{self.number}.start.json'} is gone: the results folder was moved or deleted meanwhile"
            )
        later = max(numbers) > self.number
        if later or any((directory / f"{self.number}.{name}.json").exists() for name in ("fence", "end")):
            raise Fenced(f"attempt {self.number} of trial {self.trial_id} was overtaken or closed by the driver")

    def settle(self, executed: Sequence[int], *, stopped: bool, violated: bool = False) -> None:
        """Replace the reservations by the true number of steps begun a phase. Only the attempt itself can know it.

        ``violated``: the code did what its mechanism does not declare. Said here too, where it outlives a process that is
        killed before its end record.
        """
        if self._account is not None:
            said: dict[str, Any] = {"executed": list(executed), "stopped": stopped}
            _append(self._account, said | ({"violated": True} if violated else {}))

    def close(self, status: str, **fields: Any) -> None:
        """Write the end record, the commit of everything it lists. Raises ``Fenced`` if the attempt was closed before."""
        record = {"trial_id": self.trial_id, "attempt": self.number, "status": status, "ended": time.time(), **fields}
        try:
            create_json(self.folders.attempts / self.trial_id / f"{self.number}.end.json", record)
        except FileExistsError:
            raise Fenced(f"attempt {self.number} of trial {self.trial_id} was closed by the driver") from None


def fence_off(folders: Folders, record: AttemptRecord) -> None:
    """Keep an attempt from releasing more, should its process be alive after all; its account can be read after this."""
    with suppress(FileExistsError):
        create_json(folders.attempts / record.trial_id / f"{record.number}.fence.json", {"fenced": time.time()})


def close_from_outside(folders: Folders, record: AttemptRecord, status: str, **fields: Any) -> bool:
    """Close an attempt whose process is gone; False if it closed itself in the meantime."""
    try:
        Attempt(folders, record.trial_id, record.number, None, ()).close(status, **fields)
    except Fenced:
        return False
    return True


def violated(folders: Folders, record: AttemptRecord) -> bool:
    """Whether an attempt has settled its account after a violation. Raises ``LedgerError`` for an account not readable."""
    path = record.start["account"]
    return path is not None and _read_account(folders.root / path).violated


def read_attempts(folders: Folders) -> dict[str, list[AttemptRecord]]:
    """All attempts of the sweep, a list a trial in order of their numbers. Raises ``LedgerError`` for a file not readable."""
    found = {}
    for trial_id, (_, text) in _records(folders).items():
        try:
            records = json.loads(text)
        except ValueError:
            found[trial_id] = read_trial_attempts(folders, trial_id)  # says which of the files it is
        else:
            found[trial_id] = [AttemptRecord(trial_id=trial_id, number=n, start=start, end=end) for n, start, end in records]
    return {trial_id: records for trial_id, records in found.items() if records}


def read_trial_attempts(folders: Folders, trial_id: str) -> list[AttemptRecord]:
    """The attempts of one trial, in order."""
    return list(_read_trial(folders, trial_id))


def trial_account(folders: Folders, trial_id: str, *, before: int | None = None) -> TrialAccount | None:
    """What the trial's attempts (those numbered under ``before``) have spent in this sweep; None if there were none."""
    paths = [(number, path) for number, path in _account_files(folders, trial_id) if before is None or number < before]
    return _sum_accounts(trial_id, [(number, path, _read_account(path)) for number, path in paths]) if paths else None


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
        if known and sweep in known and all(other == lineage for other in _lineages(folders)):
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


def _lineages(folders: Folders) -> list[str]:
    """Names of the data sets that the sweep has spent on."""
    with suppress(FileNotFoundError), os.scandir(folders.ledger) as entries:  # a glob would pass over what it may not read
        return [entry.name for entry in entries if entry.is_dir() and (Path(entry.path) / folders.name).exists()]
    return []


def read_account(path: Path) -> tuple[tuple[Phase, ...], tuple[int, ...], bool]:
    """(mechanisms, steps executed a phase, stopped) of one attempt's file; a last line cut off by a crash is no record.

    Raises ``LedgerError`` for a file that is not what an attempt writes.
    """
    spent = _read_account(path)
    return _phases(spent.phases), spent.executed, spent.stopped


def compact(folders: Folders) -> None:
    """Copy what can no longer change into files that are quick to read. The holder of the driver's lock calls it."""
    compacted.write_records(folders, _records(folders))
    closed = {
        name: (look, (spent.phases, spent.executed, spent.stopped, spent.release))
        for name, (look, _, spent) in _accounts(folders).items()
        if spent.closed
    }
    compacted.write_accounts(folders, closed)


class _Spent(NamedTuple):
    """What an account's file says."""

    phases: str
    """As JSON: few are distinct among a sweep's many accounts."""
    executed: tuple[int, ...]
    stopped: bool
    closed: bool
    """The attempt has said what it drew, so it writes nothing more."""
    release: str | None = None
    """The shared release that it started from."""
    violated: bool = False
    """It ended by a violation; copies do not say."""


def _text(path: str | Path) -> str:
    """The text of a small file, in half the time that ``Path.read_text`` takes: there may be 300,000 of them."""
    with io.FileIO(path) as file:
        return file.readall().decode()


def _read_account(path: str | Path) -> _Spent:
    try:
        header, *lines = _text(path).split("\n")
        said_first = json.loads(header)
        phases = json.dumps(said_first["phases"])
        records = json.loads(f"[{','.join(lines[:-1])}]")  # every whole record ends with a newline: the last line is none
        said = next((record for record in reversed(records) if "executed" in record), None)
        executed, stopped = [0] * len(_phases(phases)), False
        if said is not None:
            executed, stopped = said["executed"], said["stopped"]
        else:
            for record in records:
                executed = [a + b for a, b in zip(executed, record["reserved"], strict=True)]
    except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
        raise LedgerError(
            f"{path} cannot be read ({type(error).__name__}: {error}); it is the only record of what an attempt has released: "
            "bring it back from a copy"
        ) from error
    violated = said is not None and said.get("violated", False)
    release = said_first.get("release")
    return _Spent(phases, tuple(executed), stopped, closed=said is not None, release=release, violated=violated)


@functools.cache
def _phases(text: str) -> tuple[Phase, ...]:
    return tuple(from_dict(document) for document in json.loads(text))


def _account_files(folders: Folders, trial_id: str) -> list[tuple[int, Path]]:
    """(attempt, file) in order, under whatever name the data set had at the time."""
    paths = [Path(entry.path) for _, entry in _listed(folders) if entry.name.startswith(f"{trial_id}.")]
    return sorted((int(path.stem.rpartition(".")[2]), path) for path in paths)


def _listed(folders: Folders, lineage: str | None = None) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """(lineage, file) of the sweep's accounts, under one lineage or under all."""
    for name in _lineages(folders) if lineage is None else [lineage]:
        with suppress(FileNotFoundError, NotADirectoryError), os.scandir(folders.ledger / name / folders.name) as entries:
            for entry in entries:
                if entry.name.endswith(".jsonl"):
                    yield name, entry


def _accounts(folders: Folders, lineage: str | None = None) -> dict[str, tuple[compacted.Look, str, _Spent]]:
    """``LINEAGE/FILE`` -> what it looked like, its path and what it says, of the sweep's accounts (of one lineage)."""
    copied = compacted.read_accounts(folders)
    found = {}
    for directory, entry in _listed(folders, lineage):
        status = entry.stat()
        look, name = (status.st_size, status.st_ctime_ns), f"{directory}/{entry.name}"
        known = copied.get(name)
        if known and known[0] == look:
            phases, executed, stopped, release = known[1]
            spent = _Spent(phases, executed, stopped, closed=True, release=release)
        else:
            spent = _read_account(entry.path)
        found[name] = look, entry.path, spent
    return found


def _by_trial(files: Iterable[tuple[compacted.Look, str, _Spent]]) -> dict[str, TrialAccount]:
    by_trial: dict[str, list[tuple[int, str, _Spent]]] = {}
    for _, path, spent in files:
        trial_id, number, _ = path.rpartition("/")[2].rsplit(".", 2)
        by_trial.setdefault(trial_id, []).append((int(number), path, spent))
    return {trial_id: _sum_accounts(trial_id, sorted(numbered)) for trial_id, numbered in sorted(by_trial.items())}


def _sum_accounts(trial_id: str, files: Sequence[tuple[int, str | Path, _Spent]]) -> TrialAccount:
    """Sum of a trial's attempts (number, file, what it says). Raises ``LedgerError`` if they ran with different mechanisms."""
    _, first, begun = files[0]
    phases = _phases(begun.phases)
    for _, path, spent in files:
        if spent.release != begun.release or (spent.phases != begun.phases and _phases(spent.phases) != phases):
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
        control=str(first).rsplit("/", 3)[-3].endswith(_CONTROLS),
    )


def _records(folders: Folders) -> dict[str, tuple[compacted.Listing, str]]:
    """Trial id -> what its folder of records looked like, and [number, start, end] of its attempts as JSON."""
    if not folders.attempts.is_dir():
        return {}
    copied = compacted.read_records(folders)
    found = {}
    with os.scandir(folders.attempts) as entries:
        trials = sorted((entry for entry in entries if entry.is_dir()), key=lambda entry: entry.name)
    for entry in trials:
        names, listing = compacted.listing(entry)
        known = copied.get(entry.name)
        if known and known[0] == listing:
            found[entry.name] = known
        else:
            try:
                found[entry.name] = listing, _records_text(entry.path, names)
            except UnicodeDecodeError:
                found[entry.name] = listing, ""  # no JSON: whoever reads it looks at the files one by one
    return found


def _records_text(path: str, names: Sequence[str]) -> str:
    """[number, start, end] of the attempts in a folder as JSON, each record as its file has it."""
    texts = []
    for number in sorted(int(name.partition(".")[0]) for name in names if _START.fullmatch(name)):
        start = _text(f"{path}/{number}.start.json")
        end = _text(f"{path}/{number}.end.json") if f"{number}.end.json" in names else "null"
        texts.append(f"[{number},{start},{end}]")
    return f"[{','.join(texts)}]"


def _read_trial(folders: Folders, trial_id: str) -> Iterator[AttemptRecord]:
    directory = folders.attempts / trial_id
    for number in sorted(_numbers(directory, ".start.json")):
        end = directory / f"{number}.end.json"
        yield AttemptRecord(
            trial_id=trial_id,
            number=number,
            start=_read_json(directory / f"{number}.start.json"),
            end=_read_json(end) if end.exists() else None,
        )


def _read_json(path: Path) -> Mapping[str, Any]:
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise LedgerError(
            f"{path} is not the record that an attempt writes ({error}); bring it back from a copy{_without(path)}"
        ) from error


def _without(path: Path) -> str:
    """What to do about a spoilt record of which there is no copy."""
    if not path.name.endswith(".end.json"):
        return ""
    return ", or delete it: the attempt is then closed once more as lost, and what it has spent stays counted"


def _numbers(directory: Path, suffix: str) -> list[int]:
    """Attempt numbers of the files ``<n><suffix>`` in a folder that may not exist."""
    if not directory.is_dir():
        return []
    found = (entry.name[: -len(suffix)] for entry in directory.iterdir() if entry.name.endswith(suffix))
    return [int(text) for text in found if text.isdigit()]


def _create_account(path: Path, header: Mapping[str, Any]) -> None:
    """Make an account with its header, whole and durable. Raises ``FileExistsError`` if the name is taken."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    temporary.touch(mode=0o600)
    try:
        _append(temporary, header)
        os.link(temporary, path)
    finally:
        temporary.unlink()
    sync_folder(path.parent)


def _append(path: Path, record: Mapping[str, Any]) -> None:
    """Append one line to an account that exists and wait until it is on the disk. Raises ``OSError`` if it is not whole."""
    line = (json.dumps(record) + "\n").encode()
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
    try:
        size = os.fstat(descriptor).st_size
        written = os.write(descriptor, line)
        if written < len(line):
            os.ftruncate(descriptor, size)  # half a line would make one with whatever is written next
            raise OSError(f"only {written} of {len(line)} bytes could be written to {path}; is the disk full?")
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
