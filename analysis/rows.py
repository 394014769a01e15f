"""Which of our cells make the rows of the paper's tables, and which row of ours each may be held against."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd

from .design import value_text, words
from .published import dataset_of
from .results import Metric, Results

PAPER_METHOD = "ef_dpgan"
"""The paper's method: the others are what Tables 1 and 2 hold it against."""

PUBLISHED_BASE = "gs_wgan"
"""The baseline that Tables 1 and 2 take as the base row where it was run."""

REPAIRS = {"noise_injection": ("noise_injection",), "reconstruction": ("reconstruction", "matching")}
"""The settings that Tables 3 and 4 vary, and how the names of the settings that belong to each begin."""


KEPT = [
    "cell",
    "seed",
    "case",
    "method",
    "epsilon",
    "dataset",
    "data_source",
    "data_size",
    "data_shape",
    "delta",
    "evaluation_samples",
]
"""What is kept of a trial beside its metrics."""


@dataclass(frozen=True)
class Row:
    """One row of ours: the trials behind it (seeds of one cell), and the block of rows that it may be compared within."""

    trials: pd.DataFrame
    """Columns ``KEPT`` and the metrics."""
    method: str
    setting: str
    block: str
    base: bool = False
    chosen_among: int = 1
    """Cells of which this one was picked by its mean, after looking."""


@dataclass
class Ours:
    """Rows of one table, and what is to be said about how they were made."""

    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def evaluated(results: Results) -> pd.DataFrame:
    """The trials that have a metric, with ``dataset``, the name that the data set has in ``published.csv``."""
    trials = results.trials
    trials = trials[trials[list(results.metrics)].notna().any(axis=1)]
    names = [dataset_of(source, classes) for source, classes in zip(trials["data_source"], trials["data_classes"], strict=True)]
    return trials.assign(dataset=names)


def chosen(trials: pd.DataFrame, results: Results) -> Ours:
    """A row a case, data set and target epsilon: the cell with the best mean of the main metric."""
    if trials.empty:
        return Ours()
    metric = results.metrics[results.main_metric()]
    keys = ["case", "method", "dataset", "data_shape", "data_size", "target_epsilon"]
    trials = trials[[*dict.fromkeys([*KEPT, *keys, *results.metrics])]]
    shapes, sizes = (trials.groupby("dataset")[name].nunique().max() > 1 for name in ("data_shape", "data_size"))
    found = Ours()
    for values, group in trials.groupby(keys, observed=True, dropna=False, sort=False):
        case, method, _, shape, size, _ = values
        means = group.groupby("cell", observed=True, sort=False)[metric.name].mean() * metric.sign
        cell = means.idxmax() if means.notna().any() else means.index[0]
        name = (
            f"{method}{f' ({case})' if case != method else ''}{f', {shape}' if shapes else ''}{f', {size:,}' if sizes else ''}"
        )
        setting = str(cell).removeprefix(f"{case} ") if len(means) > 1 else ""
        found.rows.append(Row(group[group["cell"] == cell], name, setting, str(values[2:]), chosen_among=len(means)))
    blocks = dict.fromkeys(row.block for row in found.rows)
    found.rows = [row for block in blocks for row in _with_base(found.rows, block, metric)]
    picked = [f"{row.method} among {row.chosen_among}" for row in found.rows if row.chosen_among > 1]
    if picked:
        found.notes.append(
            f"Of several cells the one with the best mean of {metric.heading} is shown, chosen after looking: "
            f"{', '.join(dict.fromkeys(picked))}. Luck makes its mean too good; no test here corrects for the choice."
        )
    return found


def _with_base(rows: Sequence[Row], block: str, metric: Metric) -> list[Row]:
    """The rows of a block, its base marked: GS-WGAN, else the best of the methods that are not the paper's."""
    same = [row for row in rows if row.block == block]
    methods = {id(row): row.trials["method"].iloc[0] for row in same}
    baselines = [row for row in same if is_baseline(row)]
    first = [row for row in baselines if methods[id(row)] == PUBLISHED_BASE] or baselines
    base = max(first, key=lambda row: row.trials[metric.name].mean() * metric.sign, default=None)
    return [replace(row, base=row is base) for row in same]


def is_baseline(row: Row) -> bool:
    """Whether it is of another method than the paper's."""
    return bool(row.trials["method"].iloc[0] != PAPER_METHOD)


def ablation(trials: pd.DataFrame, repair: str, metrics: Sequence[str]) -> Ours:
    """A row a level of ``repair`` (and schedule, start, matching), in a block a setting of all else, the other repair off.

    Settings that only follow from the repair (the size of the encoder that a matching needs) do not count as another
    setting. Where the other repair was never off its lowest level is taken, and a note says so.
    """
    found = Ours()
    column = f"config.{repair}"
    if column not in trials or trials[column].isna().all():
        return found
    trials = trials[trials[column].notna()]
    settings = [name for name in trials if name.startswith("config.")]
    axes = [name for name in trials if name.startswith("axis.")]
    (other,) = (name for name in REPAIRS if name != repair)
    of_it, of_other = ([name for name in settings if _belongs(name, to)] for to in (repair, other))
    codes = _codes(trials, [*settings, *axes, "sweep", "case", *_EQUAL])
    around = _key(codes, ["sweep", "case", *(name for name in axes if not _belongs(name, repair))])
    rest = [name for name in settings if name not in of_it and name not in of_other and name in codes]
    rest = [name for name in rest if not (codes[name].groupby(around).nunique() > 1).any()]
    apart = [name for name in axes if name in codes and not _belongs(name, repair, other) and "privacy." not in name]
    values = trials[[*dict.fromkeys([*KEPT, *metrics, *of_it, *apart])]].assign(
        rest=_key(codes, [*rest, *_EQUAL]),
        level=_key(codes, of_it),
        other=_key(codes, of_other),
        off=trials[f"config.{other}"].map(_number).fillna(0).abs() if f"config.{other}" in trials else 0.0,
    )
    varied = values.groupby(["rest", "other"])["level"].transform("nunique") > 1
    blocks = []
    for _, same in values[varied].groupby("rest", sort=False):
        lowest = same["off"].min()
        if lowest:
            found.notes.append(f"No trial of {same['case'].iloc[0]} has {other} 0: those with {lowest:g} are shown.")
        block = same[same["off"] == lowest]
        blocks.append(block[block["other"] == block["other"].iloc[0]])
    differ = [name for name in apart if len({str(block[name].iloc[0]) for block in blocks}) > 1]
    for block in blocks:
        found.rows += _levels(block, repair, of_it, differ)
    return found


_EQUAL = ["method", "dataset", "data_shape", "data_size", "target_epsilon", "delta", "evaluation_samples"]
"""Columns, beside the settings, that rows of one block have in common."""


def _levels(block: pd.DataFrame, repair: str, of_it: Sequence[str], apart: Sequence[str]) -> Iterator[Row]:
    """Rows of one block, in the order of their level; the first, 0 where it was run, is the base."""
    groups = [rows for _, rows in block.groupby("level", sort=False)]
    groups.sort(key=lambda rows: (_number(rows[f"config.{repair}"].iloc[0]), rows["cell"].cat.codes.min()))
    first = groups[0].iloc[0]
    settings = [words(axis, first[axis]) for axis in apart if pd.notna(first[axis])]
    method = " ".join([_called(first["method"], first["case"]), *settings])
    for number, rows in enumerate(groups):
        row = rows.iloc[0]
        differs = [name for name in of_it if name != f"config.{repair}" and str(row[name]) != str(first[name])]
        side = ", ".join(f"{_bare(name).removeprefix(f'{repair}_')} {value_text(row[name])}" for name in differs)
        setting = f"{row[f'config.{repair}']}{' (base)' if number == 0 else ''}{f' ({side})' if side else ''}"
        yield Row(rows, method, setting, block=str(first["rest"]), base=number == 0)


def _called(method: str, case: str) -> str:
    return str(method) if case == method else f"{method} ({case})"


def _codes(trials: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """A number for every value (missing is one too) of the columns that vary."""
    codes = {}
    for name in columns:
        values = trials[name]
        if values.dtype == object:  # lists cannot be told apart but by their text
            values = values.map(str)
        found = pd.factorize(values, use_na_sentinel=True)[0]
        if len(found) and (found != found[0]).any():
            codes[name] = found
    return pd.DataFrame(codes, index=trials.index)


def _key(codes: pd.DataFrame, columns: Sequence[str]) -> np.ndarray:
    """One number a row, equal where all ``columns`` are; those that do not vary are not in ``codes``."""
    there = [name for name in columns if name in codes]
    return np.unique(codes[there].to_numpy(), axis=0, return_inverse=True)[1].ravel() if there else np.zeros(len(codes), int)


def _belongs(setting: str, *repairs: str) -> bool:
    return _bare(setting).startswith(tuple(prefix for repair in repairs for prefix in REPAIRS[repair]))


def _bare(name: str) -> str:
    return name.removeprefix("config.").removeprefix("axis.").removeprefix("train.")


def _number(value: Any) -> float:
    """For sorting: words come after numbers."""
    return float(value) if isinstance(value, Real) else math.inf
