"""What ran and what it spent: attempts, reservations, and the account of a data set.

An attempt is ``attempts/<trial_id>/<n>.start.json`` (taken exclusively: n is the fence) and ``<n>.end.json`` (written once,
last: the commit). What it releases is recorded in ``ROOT/ledger/<lineage>/<sweep>/<trial_id>.<n>.jsonl``, outside the sweep's
folder, so that deleting results does not delete what the data set has paid: a header with the mechanisms, then one durable
line a reservation BEFORE any noise of it is drawn, then the true count if the attempt lived to say it. After a crash the
whole open reservation counts.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainables.base import phase_of
from trainables.privacy.mechanism import Phase, from_dict, to_dict

from .folders import Folders, create_json, sync_folder

FENCE_INTERVAL_S = 1.0


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


class Attempt:
    """An attempt that this process has opened."""

    def __init__(self, folders: Folders, trial_id: str, number: int, account: Path | None, phase_steps: Sequence[int]) -> None:
        self.folders, self.trial_id, self.number = folders, trial_id, number
        self._account = account
        self._phase_steps = tuple(phase_steps)
        self._checked = 0.0

    @classmethod
    def open(
        cls, folders: Folders, trial_id: str, *, kind: str, lineage: str, phases: Sequence[Phase], plan: Path
    ) -> Attempt:
        """Take the next attempt number of the trial. ``phases`` are what it may release (none for an evaluation)."""
        directory = folders.attempts / trial_id
        account_directory = folders.ledger / lineage / folders.name
        start: dict[str, Any] = {"trial_id": trial_id, "kind": kind, "plan": str(plan.relative_to(folders.sweep))}
        start |= {"host": socket.gethostname(), "pid": os.getpid(), "started": time.time()}
        while True:
            number = 1 + max(_numbers(directory, ".start.json") + _numbers(account_directory, ".jsonl", trial_id), default=0)
            account = account_directory / f"{trial_id}.{number}.jsonl" if phases else None
            start["account"] = str(account.relative_to(folders.root)) if account else None
            try:
                create_json(directory / f"{number}.start.json", {"attempt": number, **start})
                break
            except FileExistsError:
                continue  # another process took this number between the look and the creation
        if account:
            account.parent.mkdir(parents=True, exist_ok=True)
            _append(account, {"trial_id": trial_id, "attempt": number, "phases": [to_dict(phase) for phase in phases]})
            sync_folder(account.parent)
        return cls(folders, trial_id, number, account, [phase.steps for phase in phases])

    def reserve(self, start: int, stop: int) -> None:
        """Record durably that steps ``start`` to ``stop`` (global, exclusive) will release; raise ``Fenced`` if overtaken.

        The fence is looked at after the record is durable: an attempt opened later either reads this line or stops us.
        """
        assert self._account is not None
        counts = [0] * len(self._phase_steps)
        for step in range(start, stop):
            counts[phase_of(step, self._phase_steps)] += 1
        _append(self._account, {"reserved": counts, "steps": [start, stop]})
        self.check_fence(force=True)

    def check_fence(self, *, force: bool = False) -> None:
        """Raise ``Fenced`` if a later attempt exists or this one was closed from outside; looks at most once a second."""
        if not force and time.monotonic() - self._checked < FENCE_INTERVAL_S:
            return
        self._checked = time.monotonic()
        directory = self.folders.attempts / self.trial_id
        for name in (f"{self.number + 1}.start.json", f"{self.number}.fence.json", f"{self.number}.end.json"):
            if (directory / name).exists():
                raise Fenced(f"attempt {self.number} of trial {self.trial_id} was overtaken ({name} exists)")

    def settle(self, executed: Sequence[int]) -> None:
        """Replace the reservations by the true number of steps begun a phase. Only the attempt itself can know it."""
        if self._account is not None:
            _append(self._account, {"executed": list(executed)})

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
    """All attempts of the sweep, a list a trial in order of their numbers."""
    if not folders.attempts.is_dir():
        return {}
    with os.scandir(folders.attempts) as entries:
        names = sorted(entry.name for entry in entries if entry.is_dir())
    return {name: records for name in names if (records := list(_read_trial(folders, name)))}


def read_trial_attempts(folders: Folders, trial_id: str) -> list[AttemptRecord]:
    """The attempts of one trial, in order."""
    return list(_read_trial(folders, trial_id))


def executed_steps(folders: Folders, records: Sequence[AttemptRecord], phases: int) -> list[int]:
    """Steps whose noise was or may have been drawn, a phase, over all the given attempts: reservations count whole."""
    total = [0] * phases
    for record in records:
        account = record.start.get("account")
        if account:
            counts = read_account(folders.root / account)[1]
            total = [a + b for a, b in zip(total, counts, strict=True)]
    return total


def read_account(path: Path) -> tuple[list[Phase], list[int]]:
    """(mechanisms, steps executed a phase) of one attempt's ledger file. A last line cut off by a crash is not a record."""
    lines = path.read_text().split("\n")
    header = json.loads(lines[0])
    phases = [from_dict(document) for document in header["phases"]]
    reserved, executed = [0] * len(phases), None
    for line in lines[1:-1]:  # every whole record ends with a newline, so what follows the last one is torn or empty
        record = json.loads(line)
        if "executed" in record:
            executed = record["executed"]
        else:
            reserved = [a + b for a, b in zip(reserved, record["reserved"], strict=True)]
    return phases, executed if executed is not None else reserved


def lineage_accounts(root: Path, lineage: str) -> list[tuple[list[Phase], list[int]]]:
    """What every attempt of every sweep under ``root`` has spent on the data set named ``lineage``."""
    return [read_account(path) for path in sorted((root / "ledger" / lineage).glob("*/*.jsonl"))]


def _read_trial(folders: Folders, trial_id: str) -> Iterator[AttemptRecord]:
    directory = folders.attempts / trial_id
    for number in sorted(_numbers(directory, ".start.json")):
        end = directory / f"{number}.end.json"
        yield AttemptRecord(
            trial_id=trial_id,
            number=number,
            start=json.loads((directory / f"{number}.start.json").read_text()),
            end=json.loads(end.read_text()) if end.exists() else None,
        )


def _numbers(directory: Path, suffix: str, prefix: str = "") -> list[int]:
    """Attempt numbers of the files ``[<prefix>.]<n><suffix>`` in a folder that may not exist."""
    if not directory.is_dir():
        return []
    prefix = f"{prefix}." if prefix else ""
    names = (entry.name for entry in directory.iterdir())
    found = (name[len(prefix) : -len(suffix)] for name in names if name.startswith(prefix) and name.endswith(suffix))
    return [int(text) for text in found if text.isdigit()]


def _append(path: Path, record: Mapping[str, Any]) -> None:
    """Append one line and wait until it is on the disk."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(descriptor, (json.dumps(record) + "\n").encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
