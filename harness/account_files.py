"""The file of one attempt's account, ``ROOT/ledger/<lineage>/<sweep>/<trial_id>.<n>.jsonl``: written durably, read back.

A header with the mechanisms, then one durable line a reservation BEFORE any noise of it is drawn, then the true count if the
attempt lived to say it. After a crash the whole open reservation counts.
"""

from __future__ import annotations

import functools
import json
import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from trainables.privacy.mechanism import Phase, from_dict

from .folders import Folders, read_small_text, sync_folder

_CONTROLS = "+controls"
"""What the folder of an audit's controls has behind the data set's name; no name of a data set has a plus."""


def controls_of(lineage: str) -> str:
    """Where the controls of audits have their accounts: beside those of the data set, and in none of its sums."""
    return lineage + _CONTROLS


def is_control(path: str | Path) -> bool:
    """Whether an account is that of a control."""
    return str(path).rsplit("/", 3)[-3].endswith(_CONTROLS)


class LedgerError(RuntimeError):
    """A record of what was run or spent cannot be read; the message names the file and what to do."""


class Spent(NamedTuple):
    """What an account's file says."""

    phases_json: str
    """``phases`` as JSON: few are distinct among a sweep's many accounts."""
    executed: tuple[int, ...]
    stopped: bool
    closed: bool
    """The attempt has said what it drew, so it writes nothing more."""
    release: str | None = None
    """The shared release that it started from."""
    violated: bool = False
    """It ended by a violation; copies do not say."""

    @property
    def phases(self) -> tuple[Phase, ...]:
        """The mechanisms as they ran."""
        return _phases(self.phases_json)


def read_account(path: str | Path) -> Spent:
    """What one attempt has spent; a last line cut off by a crash is no record.

    Raises ``LedgerError`` for a file that is not what an attempt writes.
    """
    try:
        header, *lines = read_small_text(path).split("\n")
        said_first = json.loads(header)
        phases_json = json.dumps(said_first["phases"])
        records = json.loads(f"[{','.join(lines[:-1])}]")  # every whole record ends with a newline: the last line is none
        said = next((record for record in reversed(records) if "executed" in record), None)
        executed, stopped = [0] * len(_phases(phases_json)), False
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
    return Spent(phases_json, tuple(executed), stopped, closed=said is not None, release=release, violated=violated)


@functools.cache
def _phases(text: str) -> tuple[Phase, ...]:
    return tuple(from_dict(document) for document in json.loads(text))


def create_account(path: Path, header: Mapping[str, Any]) -> None:
    """Make an account with its header, whole and durable. Raises ``FileExistsError`` if the name is taken."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    temporary.touch(mode=0o600)
    try:
        append_record(temporary, header)
        os.link(temporary, path)
    finally:
        temporary.unlink()
    sync_folder(path.parent)


def append_record(path: Path, record: Mapping[str, Any]) -> None:
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


def files_of_trial(folders: Folders, trial_id: str) -> list[tuple[int, Path]]:
    """(attempt, file) in order, under whatever name the data set had at the time."""
    paths = [Path(entry.path) for _, entry in files_of_sweep(folders) if entry.name.startswith(f"{trial_id}.")]
    return sorted((int(path.stem.rpartition(".")[2]), path) for path in paths)


def files_of_sweep(folders: Folders, lineage: str | None = None) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """(lineage, file) of the sweep's accounts, under one lineage or under all."""
    for name in lineages_of(folders) if lineage is None else [lineage]:
        with suppress(FileNotFoundError, NotADirectoryError), os.scandir(folders.ledger / name / folders.name) as entries:
            for entry in entries:
                if entry.name.endswith(".jsonl"):
                    yield name, entry


def lineages_of(folders: Folders) -> list[str]:
    """Names of the data sets that the sweep has spent on."""
    with suppress(FileNotFoundError), os.scandir(folders.ledger) as entries:  # a glob would pass over what it may not read
        return [entry.name for entry in entries if entry.is_dir() and (Path(entry.path) / folders.name).exists()]
    return []
