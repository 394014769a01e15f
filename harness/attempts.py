"""Attempts of a trial: their records on the disk, and the fence that keeps two from releasing at once.

An attempt is ``attempts/<trial_id>/<n>.start.json`` (taken exclusively: n is the fence) and ``<n>.end.json`` (written once,
last: the commit). What it releases is recorded in an account of its own (``account_files``), which it takes with its number.
"""

from __future__ import annotations

import json
import os
import re
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainables.base import phase_of
from trainables.privacy.mechanism import Phase, to_dict

from . import compacted
from .account_files import LedgerError, append_record, create_account, files_of_trial
from .folders import Folders, create_json, read_small_text

FENCE_INTERVAL_S = 1.0

_START = re.compile(r"\d+\.start\.json")


class Fenced(RuntimeError):
    """A later attempt of the trial has begun, or the driver has closed this one: it must stop without another release."""


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
            spent = [number for number, _ in files_of_trial(folders, trial_id)]
            number = 1 + max(_numbers(directory, ".start.json") + spent, default=0)
            account = accounts / f"{trial_id}.{number}.jsonl" if phases else None
            start["account"] = str(account.relative_to(folders.root)) if account else None
            try:
                if account:  # before the start record: an account without reservations costs nothing, one missing cannot be
                    create_account(account, {"attempt": number, **header})
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
        append_record(self._account, {"reserved": counts, "steps": [start, stop]})
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
            append_record(self._account, said | ({"violated": True} if violated else {}))

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


def read_attempts(folders: Folders) -> dict[str, list[AttemptRecord]]:
    """All attempts of the sweep, a list a trial in order of their numbers. Raises ``LedgerError`` for a file not readable."""
    found = {}
    for trial_id, (_, text) in record_texts(folders).items():
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


def record_texts(folders: Folders) -> dict[str, tuple[compacted.Listing, str]]:
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
        start = read_small_text(f"{path}/{number}.start.json")
        end = read_small_text(f"{path}/{number}.end.json") if f"{number}.end.json" in names else "null"
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
