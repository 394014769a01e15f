"""The Parquet tables of a sweep: their columns, how a part is written, how they are read back.

=========  =================  ==========================================================================================
table      a row              columns
=========  =================  ==========================================================================================
trials     a trial            settings, privacy account, metrics, cost (``TRIALS``)
history    a trial, a step    what training showed at its checkpoints: functions of releases, and metrics (``HISTORY``)
samples    an image           PNG in the Hugging Face image layout (``SAMPLES``)
attempts   an attempt         who ran when and how it ended (``ATTEMPTS``); compacted at the end of a command
=========  =================  ==========================================================================================

Columns are fixed; ``config``, ``axes`` and ``mechanism`` are JSON strings, and ``read`` widens the first two. A part counts
once an attempt's end record lists it. Metadata: ``dpsweep.schema`` on the table; ``private`` and ``description`` on a field.
"""

from __future__ import annotations

import functools
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from trainables.evaluation.metrics import METRICS

from .account_files import LedgerError
from .attempts import AttemptRecord, read_attempts, read_trial_attempts
from .audit_rows import AuditRow, audit_rows
from .folders import Folders, file_hash
from .lock import holder
from .schemas import ATTEMPTS, HISTORY, SAMPLES, SCHEMA_VERSION, SCHEMAS, TRIALS

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

__all__ = ["ATTEMPTS", "HISTORY", "SAMPLES", "SCHEMAS", "SCHEMA_VERSION", "TRIALS", "AuditRow", "LedgerError", "audit_rows"]

Skip = Callable[[str], None]
"""Is told, in a sentence, of a part that cannot be read and is left out."""


@dataclass(frozen=True)
class Results:
    """A sweep's tables as pandas frames. ``trials`` has a column ``config.<name>`` a setting and ``axis.<name>`` an axis.

    ``real`` is what the trials' metrics are of real images in place of generated ones, a row a data set and evaluation:
    ``REAL_KEYS`` as in ``trials``, ``n`` and the metric columns. All of it is private.
    """

    trials: pd.DataFrame
    real: pd.DataFrame
    history: pd.DataFrame
    samples: pd.DataFrame
    attempts: pd.DataFrame
    record: Mapping[str, Any]
    """``sweep.json``: the file as resolved, totals with the price of composition, proofs, provenance; {} without one."""
    running: str | None
    """Process and host of the command that is running the sweep now."""
    schemas: tuple[int, ...]
    """Versions of the schema that parts of the trials table were written in."""


def write_part(folders: Folders, table: str, name: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Write rows as ``<table>/<name>.parquet`` by rename; return its path in the sweep and its hash, for the end record.

    Raises ``ValueError`` for a column that the table does not have: columns are fixed.
    """
    schema = SCHEMAS[table]
    unknown = {key for row in rows for key in row} - set(schema.names)
    if unknown:
        raise ValueError(f"table {table} has no column {', '.join(sorted(unknown))}; its columns are {', '.join(schema.names)}")
    arrays = [pa.array([row.get(field.name) for row in rows], type=field.type) for field in schema]
    path = folders.table(table) / f"{name}.parquet"
    digest = folders.write(path, functools.partial(_write, pa.Table.from_arrays(arrays, schema=schema)))
    return {"path": str(path.relative_to(folders.sweep)), "sha256": digest}


def _write(table: pa.Table, file: IO[bytes]) -> None:
    """Parquet with a checksum a page, so that a reader who asks is told of bits that have changed."""
    pq.write_table(table, file, compression="zstd", write_page_checksum=True)


def committed_parts(folders: Folders) -> dict[str, list[Path]]:
    """The parts that count, a table: those that the latest closed attempt of every trial lists."""
    return _committed(folders, read_attempts(folders))


def _committed(folders: Folders, attempts: Mapping[str, Sequence[AttemptRecord]]) -> dict[str, list[Path]]:
    parts: dict[str, list[Path]] = {table: [] for table in ("trials", "history", "samples")}
    for records in attempts.values():
        for table, path in latest_parts(records).items():
            parts[table].append(folders.sweep / path)
    return parts


def latest_parts(records: Sequence[Any]) -> dict[str, str]:
    """A part a table for one trial: of each table, the one that the latest closed attempt which wrote it lists."""
    return {table: part["path"] for table, part in _latest(records).items()}


def damaged_parts(folders: Folders, records: Sequence[AttemptRecord]) -> dict[str, str]:
    """The parts of ``latest_parts`` that are missing, or are not what was written: their hash is another."""
    return {table: part["path"] for table, part in _latest(records).items() if not _intact(folders.sweep / part["path"], part)}


def _latest(records: Sequence[Any]) -> dict[str, Mapping[str, str]]:
    return {part["path"].split("/")[0]: part for record in records for part in (record.end or {}).get("parts", [])}


def _intact(path: Path, part: Mapping[str, str]) -> bool:
    try:
        return file_hash(path) == part["sha256"]
    except FileNotFoundError:
        return False


def tidy(folders: Folders) -> int:
    """Move parts that no end record counts any more out of the table folders; return how many. The lock holder calls it."""
    counted = {path for paths in committed_parts(folders).values() for path in paths}
    moved = 0
    for table in ("trials", "history", "samples"):
        for path in folders.table(table).glob("*.parquet"):
            if path not in counted:
                target = folders.set_aside / table / path.name
                target.parent.mkdir(parents=True, exist_ok=True)
                path.replace(target)
                moved += 1
    return moved


COMPACTED = ("trials", "history")
"""Tables that are copied into one file at the end of a command: a thousand small ones take seconds to read."""


def compact(folders: Folders) -> None:
    """Write the attempts as a table, and the parts of ``COMPACTED`` that count as one file each. The lock holder calls it.

    The copy says which parts it is made of: readers take those from it and the others from their own files.
    """
    attempts = read_attempts(folders)
    write_part(folders, "attempts", "attempts", _attempt_rows(attempts))
    parts = _committed(folders, attempts)
    for table in COMPACTED:
        known = copies(table, folders)
        if known and list(known) == [path.name for path in parts[table]]:
            continue
        pieces = {path.name: known[path.name] if path.name in known else _piece(path) for path in parts[table]}
        current = {name: piece for name, piece in pieces.items() if _version(piece) == SCHEMA_VERSION}
        names = json.dumps([[name, len(piece)] for name, piece in current.items()])
        whole = _joined(table, list(current.values()))
        whole = whole.replace_schema_metadata({**whole.schema.metadata, _PARTS: names.encode()})
        folders.write(folders.compacted / f"{table}.parquet", functools.partial(_write, whole))


_PARTS = b"dpsweep.parts"


class Copies(Mapping[str, pa.Table]):
    """Parts by their file names, out of a table's compacted copy."""

    def __init__(self, whole: pa.Table, rows: Iterable[tuple[str, int]]) -> None:
        self._whole, self._places, start = whole, dict[str, tuple[int, int]](), 0
        for name, count in rows:
            self._places[name] = start, start + count
            start += count

    def __getitem__(self, name: str) -> pa.Table:
        start, stop = self._places[name]
        return self._whole.slice(start, stop - start)

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def together(self, names: Iterable[str]) -> list[pa.Table]:
        """The parts ``names`` in their order, those that follow each other in the copy as one table."""
        runs: list[list[int]] = []
        for start, stop in (self._places[name] for name in names):
            if runs and runs[-1][1] == start:
                runs[-1][1] = stop
            else:
                runs.append([start, stop])
        return [self._whole.slice(start, stop - start) for start, stop in runs]


def copies(table: str, folders: Folders) -> Copies:
    """A table's compacted copy; an empty one where there is none of this schema to be read."""
    path, none = folders.compacted / f"{table}.parquet", Copies(SCHEMAS[table].empty_table(), ())
    if not path.exists():
        return none
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            whole = file.read(use_threads=False)
    except (OSError, pa.ArrowInvalid):
        return none  # the parts themselves are there
    if _version(whole) != SCHEMA_VERSION:
        return none
    return Copies(whole, json.loads(whole.schema.metadata[_PARTS]))


def _attempt_rows(attempts: Mapping[str, Sequence[AttemptRecord]]) -> list[dict[str, Any]]:
    def when(seconds: float | None) -> datetime | None:
        return None if seconds is None else datetime.fromtimestamp(seconds, UTC)

    return [
        {
            "trial_id": record.trial_id,
            "attempt": record.number,
            "kind": record.start["kind"],
            "status": record.status,
            "message": (record.end or {}).get("message"),
            "host": record.start["host"],
            "pid": record.start["pid"],
            "started": when(record.start["started"]),
            "ended": when((record.end or {}).get("ended")),
        }
        for records in attempts.values()
        for record in records
    ]


REAL_KEYS = ("data_source", "data_fingerprint", "data_size", "data_shape", "evaluation_id", "evaluation_samples")


def real_rows(trials: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row a data set and evaluation, of rows of the trials table: ``REAL_KEYS``, ``n`` real images, metrics or None."""
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    for trial in trials:
        if isinstance(trial["real"], str):  # of a trial that was evaluated
            found = json.loads(trial["real"])
            row = {**{key: trial[key] for key in REAL_KEYS}, "n": found["samples"]}
            rows[row["data_fingerprint"], row["evaluation_id"]] = row | {name: found.get(name) for name in METRICS}
    return list(rows.values())


def read(results: str | Path, *, samples: bool = True, skip: Skip | None = None) -> Results:
    """Read ``ROOT/NAME`` whole, or without ``samples`` (an empty frame then; ``read_samples`` reads some trials' later).

    Raises ``FileNotFoundError`` with a sentence where there is no sweep, and ``LedgerError`` for a part, or a ``sweep.json``,
    that cannot be read; with ``skip`` such a file is left out and ``skip`` told of it. Samples keep their PNG bytes
    (``samples.image[i]["bytes"]``); DuckDB, Polars and pandas read the same files.
    """
    folders = folders_of(results)
    attempts = read_attempts(folders)
    parts = _committed(folders, attempts)
    pieces = _pieces("trials", parts["trials"], skip, folders)
    trials = _joined("trials", pieces).to_pandas()
    import pandas as pd

    real = pd.DataFrame(real_rows(trials.to_dict("records")), columns=[*REAL_KEYS, "n", *METRICS])
    held = holder(folders.lock)
    return Results(
        trials=_widen(_widen(trials, "config", "config"), "axes", "axis"),
        real=real.astype(dict.fromkeys(METRICS, float)),
        history=_joined("history", _pieces("history", parts["history"], skip, folders)).to_pandas(),
        samples=_joined("samples", _pieces("samples", parts["samples"] if samples else [], skip)).to_pandas(),
        attempts=pa.Table.from_pylist(_attempt_rows(attempts), schema=ATTEMPTS).to_pandas(),
        record=_record(folders.sweep / "sweep.json", skip),
        running=f"process {held['pid']} on {held['host']}" if held else None,
        schemas=tuple(sorted({_version(piece) for piece in pieces})),
    )


def read_samples(results: str | Path, trial_ids: Iterable[str] | None = None, *, skip: Skip | None = None) -> pd.DataFrame:
    """The samples of some trials, or of all; raises as ``read`` does."""
    folders = folders_of(results)
    if trial_ids is None:
        attempts: Mapping[str, Sequence[AttemptRecord]] = read_attempts(folders)
    else:  # the records of all trials take longer to read than the images of a few
        attempts = {trial_id: read_trial_attempts(folders, trial_id) for trial_id in sorted(set(trial_ids))}
    return _joined("samples", _pieces("samples", _committed(folders, attempts)["samples"], skip)).to_pandas()


def read_real_samples(results: str | Path) -> pd.DataFrame:
    """Real test images in the layout of samples, where data are declared public; ``trial_id`` is their fingerprint."""
    folders = folders_of(results)
    return read_table("samples", sorted(folders.real_samples.glob("*.parquet"))).to_pandas()


def write_real_samples(folders: Folders, images: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Keep real images of public data beside the samples, as rows by the data's fingerprint; others that were kept go."""
    kept = set()
    for fingerprint, rows in images.items():
        name = fingerprint[:12]
        kept.add(f"{name}.parquet")
        write_part(folders, "real_samples", name, [{**row, "trial_id": fingerprint} for row in rows])
    for path in folders.real_samples.glob("*.parquet"):
        if path.name not in kept:
            path.unlink()


def png(pixels: np.ndarray) -> bytes:
    """PNG of one uint8 image [C, H, W] with C of 1 or 3, as the samples keep it."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels[0] if pixels.shape[0] == 1 else pixels.transpose(1, 2, 0)).save(buffer, "png")
    return buffer.getvalue()


def folders_of(results: str | Path) -> Folders:
    """``ROOT/NAME`` as folders. Raises ``FileNotFoundError`` with a sentence where there is no sweep."""
    directory = Path(results).absolute()
    folders = Folders(directory.parent, directory.name)
    if not folders.attempts.is_dir():
        raise FileNotFoundError(f"{directory} holds no sweep; expected a folder made by `python -m harness.sweep FILE`")
    return folders


def read_committed(folders: Folders, table: str, attempts: Mapping[str, Sequence[AttemptRecord]] | None = None) -> pa.Table:
    """The parts of a table that count, of the trials of ``attempts`` or of all; raises as ``read_table`` does."""
    parts = _committed(folders, read_attempts(folders) if attempts is None else attempts)
    return _joined(table, _pieces(table, parts[table], None, folders))


def read_table(table: str, paths: Sequence[Path]) -> pa.Table:
    """The given parts of a table as one; no parts give an empty table. Refuses parts of a newer schema than this one."""
    return _joined(table, _pieces(table, paths, None))


def _pieces(table: str, paths: Sequence[Path], skip: Skip | None, folders: Folders | None = None) -> list[pa.Table]:
    """The parts at ``paths``; with ``folders`` from its compacted copy as far as that has them."""
    known = copies(table, folders) if folders else Copies(SCHEMAS[table].empty_table(), ())
    pieces: list[pa.Table] = []
    for copied, group in groupby(paths, lambda path: path.name in known):
        if copied:
            pieces += known.together(path.name for path in group)
            continue
        for path in group:
            try:
                pieces.append(_piece(path))
            except LedgerError as error:
                if skip is None:
                    raise
                skip(f"{table}: {error}; it is left out.")
    return pieces


def _record(path: Path, skip: Skip | None) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        if not isinstance(record, dict):
            raise ValueError("it holds no JSON object")
    except (OSError, ValueError) as error:
        found = LedgerError(f"{path} cannot be read ({error}); the same `python -m harness.sweep FILE` writes it again")
        if skip is None:
            raise found from error
        skip(f"{found}.")
        return {}
    return record


_AGAIN = "bring it back from a copy, or run the sweep's command again: it makes the part again without training"


def _piece(path: Path) -> pa.Table:
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            piece = file.read(use_threads=False)  # one small group of rows: threads would only wait for each other
    except FileNotFoundError as error:
        raise LedgerError(f"{path} is missing; {_AGAIN}") from error
    except (OSError, pa.ArrowInvalid) as error:
        raise LedgerError(f"{path} cannot be read ({error}); {_AGAIN}") from error
    if not _version(piece):
        raise LedgerError(f"{path} is no part of this table; {_AGAIN}")
    if not 1 <= _version(piece) <= SCHEMA_VERSION:
        raise LedgerError(f"{path} has schema {_version(piece)}; this dpsweep reads schemas 1 to {SCHEMA_VERSION}")
    return piece


def _version(piece: pa.Table) -> int:
    return int((piece.schema.metadata or {}).get(b"dpsweep.schema", b"0"))


def _joined(table: str, pieces: Sequence[pa.Table]) -> pa.Table:
    """The pieces as one table of the schema; a column that an older piece lacks is null there."""
    schema = SCHEMAS[table]
    whole = []
    for piece in pieces:
        if piece.schema.names != schema.names:
            arrays = [
                piece[field.name] if field.name in piece.column_names else pa.nulls(len(piece), field.type) for field in schema
            ]
            piece = pa.Table.from_arrays(arrays, schema=schema)
        whole.append(piece.replace_schema_metadata(schema.metadata))
    return pa.concat_tables(whole).combine_chunks().cast(schema) if whole else schema.empty_table()


def _widen(frame: pd.DataFrame, column: str, prefix: str) -> pd.DataFrame:
    """Add a column a (nested) key of the JSON documents in ``column``; a key that a row lacks is missing there."""
    import pandas as pd

    documents = [_flatten(json.loads(text)) if isinstance(text, str) else {} for text in frame[column]]
    wide = pd.DataFrame(documents, index=frame.index).add_prefix(f"{prefix}.")
    return pd.concat([frame, wide], axis=1)


def _flatten(document: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in document.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
