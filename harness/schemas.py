"""The columns of a sweep's Parquet tables, with what each says of itself: description, unit, whether it is private.

A metric's column is made from its entry in ``trainables.evaluation.metrics``: a metric added there has its column, and what
reads results finds its name, direction and kind in the metadata.
"""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa

from trainables.evaluation.metrics import DETAILS, METRICS

SCHEMA_VERSION = 3
"""Parts of an older one are read with nulls in the columns that they lack. 2: columns ``evaluation`` and
``gen2real_mlp_sklearn``. 3: the metrics of the groups ``diversity`` and ``memorization``, and more of the others;
``selection``; ``control`` and the columns of audits."""

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
            "unit": "",
        },
    )
    for name, metric in METRICS.items()
]


# For the data owner only: computed from private data without noise, or saying something of them or of the machine.
_PRIVATE = {
    *("data_fingerprint", "trial_id", "cell_id", "evaluation_id", "real", "message", "host", "pid", "started", "ended"),
    *("train_seconds", "evaluate_seconds", "peak_memory_mb"),
    *DETAILS,  # held against training records, or against a test set that may be private
    *("control", "audit", "audit_epsilon_black_box", "audit_epsilon_grey_box"),
}

_UNITS = {
    **dict.fromkeys(("train_seconds", "evaluate_seconds"), "s"),
    "peak_memory_mb": "MB",
    **dict.fromkeys(("steps", "steps_planned", "step"), "steps"),
    **dict.fromkeys(("data_size", "evaluation_samples"), "images"),
}


def _schema(fields: Iterable[tuple[str, pa.DataType, str] | pa.Field]) -> pa.Schema:
    def described(name: str, type: pa.DataType, description: str) -> pa.Field:
        private, unit = str(name in _PRIVATE).lower(), _UNITS.get(name, "")
        return pa.field(name, type, metadata={"description": description, "private": private, "unit": unit})

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
        ("epsilon_surviving", _FLOAT, "account of the kept generator's steps; of all if in turn, or if lost by no accident"),
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
        ("selection", _TEXT, "JSON: of the best of a private selection, how it was chosen; null for a trial of its own"),
        ("evaluation_id", _TEXT, "hash of the evaluation's settings and version"),
        ("evaluation_samples", _INT, "generated images behind the metrics (n)"),
        ("evaluation", _TEXT, "JSON: groups of metrics, version of the evaluation, SHA-256 of the Inception weights"),
        *_METRIC_COLUMNS,
        *((name, _FLOAT, description) for name, description in DETAILS.items()),
        ("per_class", _TEXT, "JSON: accuracy on each class of every gen2real classifier"),
        ("real", _TEXT, "JSON: the same metrics of n real training images: ceilings and floors (private)"),
        ("control", pa.bool_(), "control of an audit: trained without noise, kept from everyone (private)"),
        ("audit", _TEXT, "JSON: canaries, guesses and, a score, right guesses and the bound on epsilon (private)"),
        ("audit_epsilon_black_box", _FLOAT, "lower bound on epsilon that samples show at the audit's confidence (private)"),
        ("audit_epsilon_grey_box", _FLOAT, "lower bound that the releases show; null: the method has no such score (private)"),
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

SCHEMAS = {"trials": TRIALS, "history": HISTORY, "samples": SAMPLES, "real_samples": SAMPLES, "attempts": ATTEMPTS}
