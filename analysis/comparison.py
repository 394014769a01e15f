"""What two sweeps share and where they differ: settings, versions, privacy, and every cell that both have.

Seeds are the replicates and are paired: the same seed gives the same public coins (initial weights, z, labels) on both sides.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from .matching import Match, Pair, Side, match, plain
from .results import Metric, ResultsError
from .statistics import ALPHA, holm, paired, seeds_needed
from .table import epsilon_text

_TESTED = ["metric", "n", "mean_a", "mean_b", "difference", "low", "high", "p", "p_holm", "verdict", "seeds_needed"]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Differences are B - A; ``low`` and ``high`` are 95 % bounds (Student, paired by seed).

    ``settings``, ``versions`` and ``privacy`` have columns what, a, b; ``settings`` only what differs.
    ``cells`` has a row a matched cell and metric: n (seeds that both have), means over those seeds, difference and bounds, p
    of the paired t-test, p_holm over the metric's cells, verdict (better, worse, cannot tell, same runs), and where it cannot
    tell the seeds that would be needed for this difference, if more than n. ``overall`` has a row a metric: the same of the
    seeds' means over all matched cells that are not the same runs; Holm over the metrics.
    """

    a: Side
    b: Side
    settings: pd.DataFrame
    versions: pd.DataFrame
    privacy: pd.DataFrame
    metrics: dict[str, Metric]
    cells: pd.DataFrame
    overall: pd.DataFrame
    only_a: list[str]
    only_b: list[str]
    notes: list[str]

    def document(self) -> dict[str, Any]:
        """All of it as JSON says it; what is not known is null."""
        tables = ("settings", "versions", "privacy", "overall", "cells")
        return {
            "a": _about(self.a),
            "b": _about(self.b),
            **{name: _records(getattr(self, name)) for name in tables},
            "only_a": self.only_a,
            "only_b": self.only_b,
            "notes": self.notes,
        }


def compare(a: str | Path, b: str | Path, metric: str | None = None) -> Comparison:
    """Compare two sweeps' folders, on one metric or on all that both have. Raises ``ResultsError`` (one sentence)."""
    if Path(a).resolve() == Path(b).resolve():
        raise ResultsError(f"{a} and {b} are the same folder; name two sweeps, such as results/before and results/after")
    left, right = Side.of(a), Side.of(b)
    metrics = _metrics(left, right, metric)
    found = match(left, right)
    runs = [pair.same() for pair in found.pairs]
    unchanged = [bool(same) and same == set(pair.a["trial_id"]) for pair, (same, _) in zip(found.pairs, runs, strict=True)]
    return Comparison(
        a=left,
        b=right,
        settings=_settings(left, right, found),
        versions=_side_by_side(_versions(left), _versions(right)),
        privacy=_side_by_side(_privacy(left), _privacy(right)),
        metrics=metrics,
        cells=_cells(found.pairs, metrics, unchanged),
        overall=_overall([pair for pair, same in zip(found.pairs, unchanged, strict=True) if not same], metrics),
        only_a=found.only_a,
        only_b=found.only_b,
        notes=_notes(left, right, *(sum(len(ids[place]) for ids in runs) for place in (0, 1))),
    )


def _metrics(a: Side, b: Side, wanted: str | None) -> dict[str, Metric]:
    if wanted is not None:
        for side in (a, b):
            side.shown.main_metric(wanted)  # raises where the sweep has none of that name
        return {wanted: a.shown.metrics[wanted]}
    return {name: metric for name, metric in a.shown.metrics.items() if name in b.shown.metrics}


def _cells(pairs: Sequence[Pair], metrics: Mapping[str, Metric], unchanged: Sequence[bool]) -> pd.DataFrame:
    rows = []
    for name, metric in metrics.items():
        tested = [{"cell": pair.name, **_difference(pair.a[name], pair.b[name], metric)} for pair in pairs]
        for row, same in zip(tested, unchanged, strict=True):
            if same:
                row |= {"p": np.nan, "verdict": "same runs", "seeds_needed": None}
        rows += _corrected(tested, [metric] * len(tested))
    return pd.DataFrame(rows, columns=["cell", *_TESTED])


def _overall(pairs: Sequence[Pair], metrics: Mapping[str, Metric]) -> pd.DataFrame:
    names = list(metrics)
    empty = pd.DataFrame(columns=names, index=pd.Index([], dtype=int), dtype=float)
    a, b = (pd.concat([empty, *frames]) for frames in ([pair.a[names] for pair in pairs], [pair.b[names] for pair in pairs]))
    there = a.notna() & b.notna()
    cell = np.repeat(np.arange(len(pairs)), [len(pair.a) for pair in pairs])
    a, b = (frame.where(there).groupby(level=0).mean() for frame in (a, b))
    rows = [
        {"cells": len(np.unique(cell[there[name]])), **_difference(a[name], b[name], metric)}
        for name, metric in metrics.items()
    ]
    return pd.DataFrame(_corrected(rows, list(metrics.values())), columns=["cells", *_TESTED])


def _difference(a: pd.Series, b: pd.Series, metric: Metric) -> dict[str, Any]:
    """B - A of two series in one order of seeds."""
    both = (a.notna() & b.notna()).to_numpy()
    a, b = a[both], b[both]
    found = paired(b, a)
    return {
        "metric": metric.name,
        "n": len(a),
        "mean_a": float(a.mean()),
        "mean_b": float(b.mean()),
        "difference": found.mean,
        "low": found.low,
        "high": found.high,
        "p": found.p,
        "seeds_needed": seeds_needed(found.mean, found.sd),
    }


def _corrected(rows: Sequence[dict[str, Any]], metrics: Sequence[Metric]) -> list[dict[str, Any]]:
    """The rows with Holm's p over all of them, and the word that it allows."""
    out = []
    for row, p, metric in zip(rows, holm([row["p"] for row in rows]), metrics, strict=True):
        verdict = row.get("verdict") or _verdict(row, p, metric)
        needed = row["seeds_needed"] if verdict == "cannot tell" else None
        if needed is not None and needed <= row["n"]:  # enough for one test: it is Holm's correction that cannot tell
            needed = None
        out.append({**row, "p_holm": float(p), "verdict": verdict, "seeds_needed": needed})
    return out


def _verdict(row: Mapping[str, Any], p: float, metric: Metric) -> str:
    if row["n"] < 2:
        return "cannot tell: 1 seed" if row["n"] else "cannot tell: no seed in both"
    if not p < ALPHA:
        return "cannot tell"
    return "better" if (row["difference"] > 0) == (metric.better == "higher") else "worse"


def _settings(a: Side, b: Side, found: Match) -> pd.DataFrame:
    """Keys of the files that differ, then what differs in matched cells without a file saying so (presets, defaults).

    Where one file leaves a setting to its default, the matched cells say which value that was.
    """
    files = [{**side.settings, "--set": side.record.document.get("set") or None} for side in (a, b)]
    trials = found.trials if found.pairs else (a.trials, b.trials)
    columns = [name for name in trials[0] if name.startswith("config.") and name in trials[1]]
    settings = [
        "train." + name.removeprefix("config.") for name in columns if name.removeprefix("config.") not in found.factors
    ]
    names = [name for name in dict.fromkeys([*files[0], *files[1]]) if name != "name" and not name.endswith(".name")]
    rows = []
    for name in dict.fromkeys([*names, *settings]):
        left, right = (_said(file, frame, name) for file, frame in zip(files, trials, strict=True))
        listed = name in names or (left is not None and right is not None)  # another method has other settings
        if left != right and listed:
            rows.append((name, left, right))
    return pd.DataFrame(rows, columns=["what", "a", "b"], dtype=object)


def _said(file: Mapping[str, Any], trials: pd.DataFrame, setting: str) -> Any:
    """The value of a setting: the file's, else the one that these trials had."""
    if file.get(setting) is not None:
        return file[setting]
    column = "method" if setting == "method" else setting.replace("train.", "config.", 1)
    return _one(_distinct(trials[column])) if column in trials and setting.startswith(("train.", "method")) else None


def _versions(side: Side) -> dict[str, Any]:
    software = pd.DataFrame([json.loads(text) for text in side.trials["versions"].dropna().unique()])
    kept = [name for name in software if name != "platform" or side.results.public]  # of machines the owner alone may know
    found = {name: _distinct(software[name]) for name in kept}
    found["accountant"] = _distinct(side.trials["accountant_version"])
    methods = side.trials[["method", "method_version"]].astype(object).drop_duplicates().itertuples(index=False)
    found["method VERSION"] = sorted(f"{method} {version}" for method, version in methods)
    found["evaluation"] = sorted({json.loads(text)["version"] for text in side.trials["evaluation"].dropna().unique()})
    found["device"] = _distinct(side.trials["device"])
    return {name: _one(values) for name, values in found.items() if values}


def _privacy(side: Side) -> dict[str, Any]:
    epsilon = side.trials["epsilon"].dropna()
    low, high = (epsilon_text(value) for value in (epsilon.min(), epsilon.max()))
    spans = (low if low == high else f"{low} to {high}") if len(epsilon) else None
    composed = [_composed(price) for price in side.record.document.get("totals", {}).get("compose", [])]
    return {
        "epsilon of a trial, proven": spans,
        "trials without a proof": int(side.trials["epsilon"].isna().sum()),
        "epsilon asked for": _one(sorted(_distinct(side.trials["target_epsilon"]))),
        **{name: _one(sorted(_distinct(side.trials[name]))) for name in ("delta", "accountant", "proof", "neighbours")},
        "epsilon of all generators": _one(composed),
    }


def _composed(price: Mapping[str, Any]) -> str:
    epsilon = "unbounded" if price.get("epsilon") is None else epsilon_text(price["epsilon"])
    return f"{epsilon} ({price['trials']} trials, delta {price['delta']:g}, {price['neighbours']}, {price['accountant']})"


def _notes(a: Side, b: Side, same: int, again: int) -> list[str]:
    """What to know of either sweep, and why a difference between metrics may be none between settings."""
    notes = [f"{name}: {note}" for name, side in (("A", a), ("B", b)) for note in side.shown.notes]
    if same:
        notes.append(f"{_trials(same)} the same in both: one run that both folders have.")
    if again:
        differ = "there only privacy noise and secret draws differ"
        notes.append(f"{_trials(again)} the same by settings and seed, and ran in each: {differ}.")
    if set(_distinct(a.trials["data_fingerprint"])) != set(_distinct(b.trials["data_fingerprint"])):
        notes.append("The data differ: a difference between metrics is not one between settings.")
    images = [" and ".join(f"{number:,}" for number in sorted(_distinct(side.trials["evaluation_samples"]))) for side in (a, b)]
    if images[0] != images[1]:
        notes.append(f"Metrics are of {images[0]} images in A and of {images[1]} in B, and move with that number.")
    for name, own, other in (("A", a, b), ("B", b, a)):
        alone = [metric for metric in own.shown.metrics if metric not in other.shown.metrics]
        if alone:
            notes.append(f"Only {name} has {', '.join(alone)}.")
    return notes


def _trials(number: int) -> str:
    return f"{number} trial{'s are' if number != 1 else ' is'}"


def _side_by_side(a: Mapping[str, Any], b: Mapping[str, Any]) -> pd.DataFrame:
    rows = [(name, a.get(name), b.get(name)) for name in dict.fromkeys([*a, *b])]
    return pd.DataFrame(rows, columns=["what", "a", "b"], dtype=object)


def _distinct(values: pd.Series) -> list[Any]:
    return list(dict.fromkeys(plain(values.dropna())))


def _one(values: list[Any]) -> Any:
    """The value where there is one, None where there is none."""
    return values[0] if len(values) == 1 else values or None


def _about(side: Side) -> dict[str, Any]:
    counts = side.trials["status"].value_counts()
    statuses = {str(status): int(count) for status, count in counts.items() if count}
    return {"path": str(side.record.path), "name": side.record.name, "trials": len(side.trials), "statuses": statuses}


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    def finite(value: Any) -> Any:
        return None if isinstance(value, float) and not np.isfinite(value) else value

    return [{str(key): finite(value) for key, value in row.items()} for row in frame.astype(object).to_dict("records")]
