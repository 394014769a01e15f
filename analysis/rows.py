"""Which of our cells make the rows of the paper's tables, and which row of ours each may be held against."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

import pandas as pd

from .published import dataset_of
from .results import Metric, Results

PAPER_METHOD = "ef_dpgan"
"""The paper's method: the others are what Tables 1 and 2 hold it against."""

PUBLISHED_BASE = "gs_wgan"
"""The baseline that Tables 1 and 2 take as the base row where it was run."""

REPAIRS = {"noise_injection": ("noise_injection",), "reconstruction": ("reconstruction", "matching")}
"""The settings that Tables 3 and 4 vary, and how the names of the settings that belong to each begin."""


@dataclass(frozen=True)
class Row:
    """One row of ours: the trials behind it (seeds of one cell), and the block of rows that it may be compared within."""

    trials: pd.DataFrame
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
    found = Ours()
    for values, group in trials.groupby(keys, observed=True, dropna=False, sort=False):
        means = group.groupby("cell", observed=True, sort=False)[metric.name].mean() * metric.sign
        cell = means.idxmax() if means.notna().any() else means.index[0]
        rows = group[group["cell"] == cell]
        case, method = str(values[0]), str(values[1])
        name = method if case == method else f"{method} ({case})"
        block = f"{values[2:]}"
        setting = str(cell).removeprefix(f"{case} ") if len(means) > 1 else ""
        found.rows.append(Row(rows, name, setting, block, chosen_among=len(means)))
    found.rows = [
        row for block in dict.fromkeys(row.block for row in found.rows) for row in _with_base(found.rows, block, metric)
    ]
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
    baselines = [row for row in same if not row.method.startswith(PAPER_METHOD)]
    first = [row for row in baselines if row.method.startswith(PUBLISHED_BASE)] or baselines
    base = max(first, key=lambda row: row.trials[metric.name].mean() * metric.sign, default=None)
    return [Row(row.trials, row.method, row.setting, block, row is base, row.chosen_among) for row in same]


def ablation(trials: pd.DataFrame, repair: str) -> Ours:
    """A row a level of ``repair`` (and schedule, start, matching), other settings equal, in a block a case."""
    found = Ours()
    column = f"config.{repair}"
    if column not in trials or trials[column].notna().sum() == 0:
        return found
    trials = trials[trials[column].notna()]
    settings = [name for name in trials if name.startswith("config.")]
    of_it = [name for name in settings if name.removeprefix("config.").startswith(REPAIRS[repair])]
    (other,) = (f"config.{name}" for name in REPAIRS if name != repair)
    of_other = [name for name in settings if name.removeprefix("config.").startswith(REPAIRS[other.removeprefix("config.")])]
    equal = [*settings, "method", "dataset", "data_shape", "data_size", "target_epsilon", "delta", "evaluation_samples"]
    follow = _following(trials, [name for name in settings if name not in {*of_it, *of_other}], repair)
    keys = {
        "rest": _key(trials, [name for name in equal if name not in {*of_it, *of_other, *follow}]),
        "other": _key(trials, of_other),
        "level": _key(trials, of_it),
    }
    trials = trials.assign(**keys)
    varied = trials.groupby(["rest", "other"], sort=False)["level"].transform("nunique") > 1
    for _, same in trials[varied].groupby("rest", sort=False):
        levels = same[other].map(_number) if other in same else pd.Series(0.0, index=same.index)
        base = levels.fillna(0).abs().min()
        if base:
            found.notes.append(
                f"No trial of {same['case'].iloc[0]} has {other.removeprefix('config.')} 0: these have {base:g}."
            )
        at_base = same[levels.fillna(0).abs() == base]
        block = at_base[at_base["other"] == at_base["other"].iloc[0]]
        found.rows += _levels(block, repair, of_it, trials)
    return found


def _levels(block: pd.DataFrame, repair: str, of_it: Sequence[str], trials: pd.DataFrame) -> Iterator[Row]:
    """Rows of one block, in the order of their level; the first, 0 where it was run, is the base."""
    groups = [rows for _, rows in block.groupby("level", sort=False)]
    groups.sort(key=lambda rows: (_number(rows[f"config.{repair}"].iloc[0]), rows["cell"].cat.codes.min()))
    first = groups[0].iloc[0]
    axes = {_bare(name): name for name in trials if name.startswith("axis.")}
    known = ("privacy.", *(prefix for prefixes in REPAIRS.values() for prefix in prefixes))  # epsilon has a column of its own
    apart = {bare: name for bare, name in axes.items() if not bare.startswith(known) and trials[name].astype(str).nunique() > 1}
    words = [str(first["case"]), *(f"{bare}={first[name]}" for bare, name in apart.items() if pd.notna(first[name]))]
    for number, rows in enumerate(groups):
        row = rows.iloc[0]
        differs = [name for name in of_it if name != f"config.{repair}" and str(row[name]) != str(first[name])]
        side = ", ".join(f"{name.removeprefix('config.').removeprefix(f'{repair}_')} {row[name]}" for name in differs)
        setting = f"{row[f'config.{repair}']}{' (base)' if number == 0 else ''}{f' ({side})' if side else ''}"
        yield Row(rows, " ".join(words), setting, block=str(first["rest"]), base=number == 0)


def _following(trials: pd.DataFrame, settings: Sequence[str], repair: str) -> list[str]:
    """Settings that no axis has and that differ between levels of the repair: they follow from it (an encoder's size)."""
    axes = [name for name in trials if name.startswith("axis.") and not _bare(name).startswith(REPAIRS[repair])]
    same = _key(trials, ["sweep", "case", *axes])
    return [name for name in settings if (trials[name].astype(str).groupby(same).nunique() > 1).any()]


def _key(trials: pd.DataFrame, columns: Sequence[str]) -> pd.Series:
    """One string a row that is equal where all ``columns`` are; only those that vary are read."""
    texts = [trials[name].astype(str) for name in columns]
    texts = [text for text in texts if text.nunique() > 1]
    return texts[0].str.cat(texts[1:], sep="|") if texts else pd.Series("", index=trials.index)


def _bare(axis: str) -> str:
    return axis.removeprefix("axis.").removeprefix("train.")


def _number(value: Any) -> float:
    """For sorting: words come after numbers."""
    return float(value) if isinstance(value, Real) else math.inf
