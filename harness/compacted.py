"""Copies of the attempts' records and of their accounts, a file each: quick to read, and never the record.

A sweep of 100,000 attempts has 300,000 small files. The holder of the driver's lock copies at the end of a command what can
no longer change: records of attempts, which are written once under a name that nobody had, and accounts whose attempt has
said what it drew, after which it writes nothing more. Readers of all attempts take from a copy what still looks as it did
when it was copied, and read everything else from its own file; what a trial reads of itself, before it spends or writes its
row, never comes from a copy. A copy that is missing, cut off, of another version or not readable is as good as none.

What cannot be seen is a file edited by hand so that its size and its time of change (which no ordinary tool sets) stay as
they were, or a record edited in place. Delete ``ROOT/NAME/compacted`` after such repairs.
"""

from __future__ import annotations

import gc
import hashlib
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from .folders import Folders

VERSION = 2
_COLUMNS = {
    "records": {"trial_id": "string", "files": "string", "changed": "int64", "records": "string"},
    "accounts": {
        "file": "string",
        "size": "int64",
        "changed": "int64",
        "phases": "string",
        "executed": "string",
        "stopped": "bool",
        "release": "string",
    },
}

Listing = tuple[str, int]
"""What a trial's folder of records looks like: its file names, and when one of them came or went, in ns."""
Look = tuple[int, int]
"""What an account's file looks like: its size, and when it was last changed, in ns."""
Account = tuple[str, tuple[int, ...], bool, str | None]
"""Mechanisms as JSON, steps executed a phase, whether the attempt was stopped, the shared release that it started from."""


@contextmanager
def uncollected() -> Iterator[None]:
    """Python's search for cycles off: it would look through all records again whenever a quarter more of them is there."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def listing(directory: os.DirEntry[str]) -> tuple[list[str], Listing]:
    """File names in a trial's folder of records, and what the folder looks like.

    The names are listed first: a network file system asks its server for the folder when it is opened, and may otherwise
    answer from what it remembers. Raises ``OSError`` where there is no such folder.
    """
    with os.scandir(directory.path) as entries:
        names = sorted(entry.name for entry in entries)
    return names, ("/".join(names), directory.stat().st_ctime_ns)


def read_records(folders: Folders) -> dict[str, tuple[Listing, str]]:
    """Trial id -> (what its folder looked like, [number, start record, end record] of its attempts as JSON)."""
    columns = _read(folders, "records")
    listings = zip(columns["files"], columns["changed"], strict=True)
    return dict(zip(columns["trial_id"], zip(listings, columns["records"], strict=True), strict=True))


def write_records(folders: Folders, found: Mapping[str, tuple[Listing, str]]) -> None:
    """Copy the records of all trials, each with what its folder looked like before they were read."""
    columns: dict[str, Sequence[Any]] = {
        "trial_id": list(found),
        "files": [files for (files, _), _ in found.values()],
        "changed": [changed for (_, changed), _ in found.values()],
        "records": [text for _, text in found.values()],
    }
    _write(folders, "records", columns)


def read_accounts(folders: Folders) -> dict[str, tuple[Look, Account]]:
    """``LINEAGE/FILE`` -> (what the file looked like, what it says), of accounts that are closed."""
    columns = _read(folders, "accounts")
    steps = {text: tuple(json.loads(text)) for text in set(columns["executed"])}
    looks = zip(columns["size"], columns["changed"], strict=True)
    said = zip(columns["phases"], map(steps.get, columns["executed"]), columns["stopped"], columns["release"], strict=True)
    return dict(zip(columns["file"], zip(looks, said, strict=True), strict=True))  # type: ignore[arg-type]


def write_accounts(folders: Folders, found: Mapping[str, tuple[Look, Account]]) -> None:
    """Copy accounts that are closed, each with what its file looked like before it was read."""
    columns: dict[str, Sequence[Any]] = {
        "file": list(found),
        "size": [size for (size, _), _ in found.values()],
        "changed": [changed for (_, changed), _ in found.values()],
        "phases": [phases for _, (phases, _, _, _) in found.values()],
        "executed": [json.dumps(executed) for _, (_, executed, _, _) in found.values()],
        "stopped": [stopped for _, (_, _, stopped, _) in found.values()],
        "release": [release for _, (_, _, _, release) in found.values()],
    }
    _write(folders, "accounts", columns)


def _read(folders: Folders, name: str) -> dict[str, list[Any]]:
    """The columns of a copy; empty ones where there is none that is whole and of this version."""
    try:
        stamp, _, table = (folders.compacted / f"{name}.copy").read_bytes().partition(b"\n")
    except OSError:
        table = stamp = b""
    if not table or stamp != _stamp(table):
        return {column: [] for column in _COLUMNS[name]}
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pq.ParquetFile(pa.BufferReader(table)) as file:
        columns = file.read(use_threads=False)
    return {column: columns[column].to_pylist() for column in _COLUMNS[name]}


def _write(folders: Folders, name: str, columns: Mapping[str, Sequence[Any]]) -> None:
    """Write a copy by rename, for the owner's eyes as the accounts are: a line that vouches for the rest, then Parquet."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = io.BytesIO()
    schema = pa.schema([(column, pa.type_for_alias(kind)) for column, kind in _COLUMNS[name].items()])
    pq.write_table(pa.table(dict(columns), schema=schema), table, compression="zstd")
    content = table.getvalue()
    folders.write(folders.compacted / f"{name}.copy", lambda file: file.write(_stamp(content) + b"\n" + content), private=True)


def _stamp(table: bytes) -> bytes:
    """Bits that have changed must not change an account: checksums within Parquet leave out parts of the file."""
    return f"dpsweep copy {VERSION} {hashlib.sha256(table).hexdigest()}".encode()
