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

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from trainables.evaluation.metrics import METRICS

from .folders import Folders, sync_folder
from .ledger import LedgerError, read_attempts

if TYPE_CHECKING:
    import pandas as pd

SCHEMA_VERSION = 2
"""2: columns ``evaluation`` and ``gen2real_mlp_sklearn``; parts of 1 are read with nulls in them."""

_TEXT, _INT, _FLOAT, _TIME = pa.string(), pa.int64(), pa.float64(), pa.timestamp("us", tz="UTC")
_METRIC_COLUMNS = [
    pa.field(
        name,
        _FLOAT,
        metadata={
            "description": metric.description,
            "better": metric.direction,
            "reference": metric.reference,
            "private": str(metric.private).lower(),
        },
    )
    for name, metric in METRICS.items()
]


# For the data owner only: computed from private data without noise, or saying something of them or of the machine.
_PRIVATE = {
    *("data_fingerprint", "trial_id", "cell_id", "evaluation_id", "real", "message", "host", "pid", "started", "ended"),
    *("train_seconds", "evaluate_seconds", "peak_memory_mb"),
}


def _schema(fields: Iterable[tuple[str, pa.DataType, str] | pa.Field]) -> pa.Schema:
    def described(name: str, type: pa.DataType, description: str) -> pa.Field:
        private = str(name in _PRIVATE).lower()
        return pa.field(name, type, metadata={"description": description, "private": private})

    return pa.schema(
        [field if isinstance(field, pa.Field) else described(*field) for field in fields],
        metadata={"dpsweep.schema": str(SCHEMA_VERSION)},
    )


TRIALS = _schema(
    [
        ("trial_id", _TEXT, "hash of method, version, config, data fingerprint, privacy request and seed"),
        ("cell_id", _TEXT, "the same hash without the seed"),
        ("sweep", _TEXT, "name of the sweep"),
        ("case", _TEXT, "name of the case in the sweep file"),
        ("label", _TEXT, "case, axes and seed, as a person reads them"),
        ("method", _TEXT, "name of the method"),
        ("method_version", _INT, "raised whenever the same settings would train another generator"),
        ("seed", _INT, "seed of the public coins; privacy noise and secret draws have none"),
        ("status", _TEXT, "completed, interrupted, budget, failed, oom or lost"),
        ("message", _TEXT, "one line of what went wrong"),
        ("attempt", _INT, "the attempt this row comes from"),
        ("attempts", _INT, "attempts so far"),
        ("config", _TEXT, "JSON: the method's settings, all of them"),
        ("axes", _TEXT, "JSON: the values of the sweep's axes; null where nothing reads the setting"),
        ("data_source", _TEXT, "name of the data source"),
        ("data_fingerprint", _TEXT, "SHA-256 of the decoded arrays (private)"),
        ("data_size", _INT, "declared number of training records"),
        ("data_shape", _TEXT, "channels x height x width"),
        ("data_classes", _INT, "number of classes"),
        ("lineage", _TEXT, "name of the data set in the ledger"),
        ("test_set", _TEXT, "public or private, as declared"),
        ("steps", _INT, "steps in the generator that was kept; null where none was"),
        ("steps_planned", _INT, "steps that were asked for"),
        ("epsilon", _FLOAT, "account of ALL releases of all attempts (planned ones too while interrupted); null: no proof"),
        ("epsilon_surviving", _FLOAT, "account of the kept generator's steps (in turn: of all); for exogenous stops"),
        ("epsilon_published", _FLOAT, "what the published accounting of the shard family claims; never proven"),
        ("epsilon_pld", _FLOAT, "the account by privacy loss distributions"),
        ("epsilon_rdp", _FLOAT, "the account by Renyi moments"),
        ("target_epsilon", _FLOAT, "the budget; null where the noise was given or is the published one"),
        ("delta", _FLOAT, "delta of every epsilon in this row"),
        ("accountant", _TEXT, "pld or rdp: which of the two `epsilon` is, and the noise was calibrated by"),
        ("accountant_version", _TEXT, "library and revision"),
        ("proof", _TEXT, "name of the theorem(s) behind epsilon"),
        ("neighbours", _TEXT, "replace_one or add_remove"),
        ("mechanism", _TEXT, "JSON: the phases, kind and parameters, as calibrated"),
        ("noise_multiplier", _FLOAT, "of the last phase: std / C (records) or std / sensitivity of an image's row (shards)"),
        ("effective_noise_multiplier", _FLOAT, "of the last phase: std / L2 sensitivity of a step's releases"),
        ("releases", _INT, "releases drawn in all attempts"),
        ("evaluation_id", _TEXT, "hash of the evaluation's settings and version"),
        ("evaluation_samples", _INT, "generated images behind the metrics (n)"),
        ("evaluation", _TEXT, "JSON: groups of metrics, version of the evaluation, SHA-256 of the Inception weights"),
        *_METRIC_COLUMNS,
        ("per_class", _TEXT, "JSON: gen2real accuracy a class"),
        ("real", _TEXT, "JSON: the same metrics of n real training images: ceilings and floors (private)"),
        ("train_seconds", _FLOAT, "training, all attempts that lived to say it (owner only)"),
        ("evaluate_seconds", _FLOAT, "evaluation (owner only)"),
        ("peak_memory_mb", _FLOAT, "largest resident size of the process (owner only)"),
        ("device", _TEXT, "cpu, or the name of the GPU"),
        ("host", _TEXT, "machine (owner only)"),
        ("versions", _TEXT, "JSON: dpsweep, git state, Python, torch"),
        ("ended", _TIME, "when the attempt was closed"),
    ]
)

HISTORY = _schema(
    [
        ("trial_id", _TEXT, "the trial"),
        ("attempt", _INT, "the attempt that ran this step"),
        ("step", _INT, "steps done"),
        ("epsilon", _FLOAT, "spent so far, all attempts; null where nothing is proven"),
        ("metrics", _TEXT, "JSON: diagnostics (functions of releases) and, at `evaluate.every`, quick metrics"),
        ("evaluation_samples", _INT, "generated images behind the quick metrics; null without"),
        *[field for field in _METRIC_COLUMNS if field.name in ("gen2real_logreg", "fd_dataset_classifier")],
    ]
)

SAMPLES = _schema(
    [
        ("trial_id", _TEXT, "the trial"),
        ("label", _INT, "class"),
        ("index", _INT, "number within the class"),
        ("image", pa.struct([("bytes", pa.binary()), ("path", _TEXT)]), "PNG"),
    ]
)

ATTEMPTS = _schema(
    [
        ("trial_id", _TEXT, "the trial"),
        ("attempt", _INT, "1, 2, ..."),
        ("kind", _TEXT, "train or evaluate"),
        ("status", _TEXT, "as in trials; running while open"),
        ("message", _TEXT, "one line of what went wrong"),
        ("host", _TEXT, "machine"),
        ("pid", _INT, "process"),
        ("started", _TIME, "opened"),
        ("ended", _TIME, "closed; null while open"),
    ]
)

SCHEMAS = {"trials": TRIALS, "history": HISTORY, "samples": SAMPLES, "attempts": ATTEMPTS}


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


def write_part(folders: Folders, table: str, name: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Write rows as ``<table>/<name>.parquet`` by rename; return its path in the sweep and its hash, for the end record.

    Raises ``ValueError`` for a column that the table does not have: columns are fixed.
    """
    schema = SCHEMAS[table]
    unknown = {key for row in rows for key in row} - set(schema.names)
    if unknown:
        raise ValueError(f"table {table} has no column {', '.join(sorted(unknown))}; its columns are {', '.join(schema.names)}")
    arrays = [pa.array([row.get(field.name) for row in rows], type=field.type) for field in schema]
    temporary = folders.temporary()
    pq.write_table(pa.Table.from_arrays(arrays, schema=schema), temporary, compression="zstd")
    path = folders.table(table) / f"{name}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256(temporary.read_bytes()).hexdigest()
    temporary.replace(path)
    sync_folder(path.parent)
    return {"path": str(path.relative_to(folders.sweep)), "sha256": digest}


def committed_parts(folders: Folders) -> dict[str, list[Path]]:
    """The parts that count, a table: those that the latest closed attempt of every trial lists."""
    parts: dict[str, list[Path]] = {table: [] for table in ("trials", "history", "samples")}
    for records in read_attempts(folders).values():
        for table, path in latest_parts(records).items():
            parts[table].append(folders.sweep / path)
    return parts


def latest_parts(records: Sequence[Any]) -> dict[str, str]:
    """A part a table for one trial: of each table, the one that the latest closed attempt which wrote it lists."""
    latest: dict[str, str] = {}
    for record in records:
        for part in (record.end or {}).get("parts", []):
            latest[part["path"].split("/")[0]] = part["path"]
    return latest


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


def compact_attempts(folders: Folders) -> None:
    """Write ``attempts/attempts.parquet`` from the attempts' records."""
    from datetime import UTC, datetime

    def when(seconds: float | None) -> datetime | None:
        return None if seconds is None else datetime.fromtimestamp(seconds, UTC)

    rows = [
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
        for records in read_attempts(folders).values()
        for record in records
    ]
    write_part(folders, "attempts", "attempts", rows)


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


def read(results: str | Path) -> Results:
    """Read ``ROOT/NAME`` whole. Raises ``FileNotFoundError`` with a sentence where there is no sweep.

    Samples keep their PNG bytes (``samples.image[i]["bytes"]``); DuckDB, Polars and pandas read the same files.
    """
    directory = Path(results).absolute()
    folders = Folders(directory.parent, directory.name)
    if not folders.attempts.is_dir():
        raise FileNotFoundError(f"{directory} holds no sweep; expected a folder made by `python -m harness.sweep FILE`")
    parts = committed_parts(folders)
    attempts = folders.attempts / "attempts.parquet"
    trials = read_table("trials", parts["trials"]).to_pandas()
    import pandas as pd

    real = pd.DataFrame(real_rows(trials.to_dict("records")), columns=[*REAL_KEYS, "n", *METRICS])
    return Results(
        trials=_widen(_widen(trials, "config", "config"), "axes", "axis"),
        real=real.astype(dict.fromkeys(METRICS, float)),
        history=read_table("history", parts["history"]).to_pandas(),
        samples=read_table("samples", parts["samples"]).to_pandas(),
        attempts=read_table("attempts", [attempts] if attempts.exists() else []).to_pandas(),
    )


def read_table(table: str, paths: Sequence[Path]) -> pa.Table:
    """The given parts of a table as one; no parts give an empty table. Refuses parts of a newer schema than this one."""
    schema, pieces = SCHEMAS[table], []
    for path in paths:
        try:
            piece = pq.read_table(path)
        except (OSError, pa.ArrowInvalid) as error:
            raise LedgerError(f"{path} cannot be read ({error}); bring it back from a copy") from error
        version = int((piece.schema.metadata or {}).get(b"dpsweep.schema", b"0"))
        if not 1 <= version <= SCHEMA_VERSION:
            raise LedgerError(f"{path} has schema {version}; this dpsweep reads schemas 1 to {SCHEMA_VERSION}")
        columns = [
            piece[field.name] if field.name in piece.column_names else pa.nulls(len(piece), field.type) for field in schema
        ]
        pieces.append(pa.Table.from_arrays(columns, schema=schema))
    return pa.concat_tables(pieces) if pieces else schema.empty_table()


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
