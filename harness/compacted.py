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

import functools
import gc
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from .folders import Folders

VERSION = b"1"
_VERSION_KEY = b"dpsweep.copy"
_COLUMNS = {
    "records": {"trial_id": "string", "files": "string", "changed": "int64", "records": "string"},
    "accounts": {
        "file": "string",
        "size": "int64",
        "changed": "int64",
        "phases": "string",
        "executed": "string",
        "stopped": "bool",
    },
}

Listing = tuple[str, int]
"""What a trial's folder of records looks like: its file names, and when one of them came or went, in ns."""
Look = tuple[int, int]
"""What an account's file looks like: its size, and when it was last changed, in ns."""
Account = tuple[str, tuple[int, ...], bool]
"""Mechanisms as JSON, steps executed a phase, whether the attempt was stopped."""


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
    said = zip(columns["phases"], map(steps.get, columns["executed"]), columns["stopped"], strict=True)
    return dict(zip(columns["file"], zip(looks, said, strict=True), strict=True))  # type: ignore[arg-type]


def write_accounts(folders: Folders, found: Mapping[str, tuple[Look, Account]]) -> None:
    """Copy accounts that are closed, each with what its file looked like before it was read."""
    columns: dict[str, Sequence[Any]] = {
        "file": list(found),
        "size": [size for (size, _), _ in found.values()],
        "changed": [changed for (_, changed), _ in found.values()],
        "phases": [phases for _, (phases, _, _) in found.values()],
        "executed": [json.dumps(executed) for _, (_, executed, _) in found.values()],
        "stopped": [stopped for _, (_, _, stopped) in found.values()],
    }
    _write(folders, "accounts", columns)


def _read(folders: Folders, name: str) -> dict[str, list[Any]]:
    """The columns of a copy; empty ones where there is none to be read."""
    path = folders.compacted / f"{name}.parquet"
    empty: dict[str, list[Any]] = {column: [] for column in _COLUMNS[name]}
    if not path.exists():
        return empty
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            if (file.schema_arrow.metadata or {}).get(_VERSION_KEY) != VERSION:
                return empty
            table = file.read(use_threads=False)
    except (OSError, pa.ArrowInvalid):
        return empty
    return {column: table[column].to_pylist() for column in empty}


def _write(folders: Folders, name: str, columns: Mapping[str, Sequence[Any]]) -> None:
    """Write a copy by rename, for the owner's eyes as the accounts are."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    fields = [(column, pa.type_for_alias(kind)) for column, kind in _COLUMNS[name].items()]
    table = pa.table(dict(columns), schema=pa.schema(fields, metadata={_VERSION_KEY: VERSION}))
    save = functools.partial(pq.write_table, table, compression="zstd", write_page_checksum=True)
    folders.write(folders.compacted / f"{name}.parquet", save, private=True)
