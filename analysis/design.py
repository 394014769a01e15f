"""What varied over the trials: factors, their levels and base values; the settings and means of every cell."""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from .statistics import student

if TYPE_CHECKING:
    from .results import Results

KEPT = 64
"""Answers about results that are kept: a report asks for the same cells dozens of times."""

UNSET = "unset"
"""Stands for a missing setting where values are compared: nothing reads the axis there, or its value is null."""


def factors(results: Results) -> list[str]:
    """Columns among ``case``, ``method`` and ``axis.*`` that differ between trials, in the order of the table.

    ``method`` is left out where the case says it already. Of joined sweeps, ``data_source`` is one where they had different
    data, and ``sweep`` where nothing else tells two cells apart.
    """
    return list(_factors(results))


@lru_cache(maxsize=KEPT)
def _factors(results: Results) -> tuple[str, ...]:
    trials = results.trials
    candidates = ["case", "method", *(name for name in trials if name.startswith("axis."))]
    keys = {name: comparable(trials[name]) for name in candidates if name in trials}
    names = [name for name, values in keys.items() if _varies(values, keys.get("case"))]
    if {"case", "method"} <= set(names) and _determines(keys["case"], keys["method"]):
        names.remove("method")
    if "data_source" in trials and trials["data_source"].nunique() > 1 and "axis.data.source" not in names:
        names.append("data_source")
        keys["data_source"] = comparable(trials["data_source"])
    if "sweep" in trials and trials["sweep"].nunique() > 1:
        cells = pd.DataFrame({name: keys[name] for name in names}).assign(cell=trials["cell"]).drop_duplicates("cell")
        if not names or cells.duplicated(names).any():
            names.append("sweep")
    return tuple(names)


def settings(results: Results, names: Sequence[str]) -> pd.DataFrame:
    """The given columns, a row a cell, indexed by cell in the order of its categories; lists become JSON text."""
    first = results.trials.drop_duplicates("cell").sort_values("cell").set_index("cell")
    columns = {name: first[name].map(_hashable) if first[name].dtype == object else first[name] for name in names}
    return pd.DataFrame(columns, index=first.index)


def cells(results: Results, metrics: Sequence[str] | None = None) -> pd.DataFrame:
    """A row a cell and metric, in the order of the cells: ``cell``, the factors, ``epsilon``, ``target_epsilon``, ``metric``,
    ``mean``, ``sd``, ``n``, ``low``, ``high`` (95 % Student interval of the mean, within what the metric can be).

    ``n`` counts seeds with a value; a seed that a cell has twice counts once, with its mean. ``epsilon`` is the largest of
    the trials behind the mean, missing where one of them has no proof.
    """
    return _cells(results, tuple(results.metrics if metrics is None else metrics)).copy()


@lru_cache(maxsize=KEPT)
def _cells(results: Results, metrics: tuple[str, ...]) -> pd.DataFrame:
    names = factors(results)
    limits = {metric: results.metrics[results.main_metric(metric)].limits for metric in metrics}
    budget = ["epsilon", "target_epsilon"]
    # An unproven trial makes its cell unproven: infinity survives the maximum, a missing value does not.
    trials = results.trials[["cell", "seed", *budget, *metrics]].fillna(dict.fromkeys(budget, np.inf))
    long = trials.melt(["cell", "seed", *budget], list(metrics), "metric").dropna(subset="value")
    seeds = long.groupby(["cell", "metric", "seed"], observed=True).agg(
        value=("value", "mean"), epsilon=("epsilon", "max"), target_epsilon=("target_epsilon", "max")
    )
    found = seeds.groupby(["cell", "metric"], observed=True).agg(
        epsilon=("epsilon", "max"),
        target_epsilon=("target_epsilon", "max"),
        mean=("value", "mean"),
        sd=("value", "std"),
        n=("value", "count"),
    )
    found = found.replace(dict.fromkeys(budget, np.inf), np.nan)
    described = settings(results, names)
    found = found.reindex(pd.MultiIndex.from_product([described.index, metrics], names=["cell", "metric"]))
    found["n"] = found["n"].fillna(0).astype(int)
    found["low"], found["high"] = student(found["mean"], found["sd"] / np.sqrt(found["n"].clip(1)), found["n"] - 1)
    found = found.reset_index().join(described, on="cell")
    least, most = (found["metric"].map({name: ends[side] for name, ends in limits.items()}).astype(float) for side in (0, 1))
    found["low"], found["high"] = found["low"].clip(least, most), found["high"].clip(least, most)
    found["cell"] = pd.Categorical(found["cell"], categories=list(described.index))
    return found[["cell", *names, *budget, "metric", "mean", "sd", "n", "low", "high"]]


def comparable(values: pd.Series) -> pd.Series:
    """Values as objects that equal themselves: ``UNSET`` where missing, JSON text for lists."""
    return values.astype(object).where(values.notna(), UNSET).map(_hashable)


def levels(values: Iterable[Any]) -> list[Any]:
    """The distinct values that are there: numbers sorted, words in order of appearance.

    >>> levels([1, 0.1, 0, 1]), levels(["paper", "none"]), levels([True, False])
    ([0, 0.1, 1], ['paper', 'none'], [False, True])
    """
    found = list(dict.fromkeys(value for value in map(_hashable, values) if isinstance(value, str) or not pd.isna(value)))
    return found if any(isinstance(value, str) for value in found) else sorted(found)


def base_level(values: Sequence[Any]) -> Any:
    """The value that means off: 0, False, "none" or ``UNSET``; where there is none, the first.

    >>> base_level([0.1, 0.0, 1.0]), base_level(["public", "none"]), base_level([3, 10])
    (0.0, 'none', 3)
    """
    return next((value for value in values if has_off([value])), values[0])


def has_off(values: Iterable[Any]) -> bool:
    """Whether one of the values means off."""
    return any(value == UNSET or value == "none" or (not isinstance(value, str) and value == 0) for value in values)


def leaders(frame: pd.DataFrame) -> dict[str, str]:
    """For every column the first that goes in step with it, often itself: axes that were zipped are one factor."""
    keys = {name: comparable(frame[name]) for name in frame}
    found: dict[str, str] = {}
    for name, values in keys.items():
        same = (other for other in found.values() if _determines(values, keys[other]) and _determines(keys[other], values))
        found[name] = next(same, name)
    return found


def words(name: str, value: Any) -> str:
    """A setting as labels have it.

    >>> words("axis.privacy.epsilon", 3.0), words("case", "shards"), words("axis.noise_injection", float("nan"))
    ('epsilon=3', 'shards', 'noise_injection=unset')
    """
    text = value_text(value)
    return text if name in ("case", "method", "data_source", "sweep") else f"{short(name)}={text}"


def value_text(value: Any) -> str:
    if isinstance(value, str | bool):
        return str(value)
    return UNSET if pd.isna(value) else f"{value:g}"


def short(name: str) -> str:
    """The last word of an axis: labels have no more."""
    return name.rsplit(".", 1)[-1]


def _varies(values: pd.Series, case: pd.Series | None) -> bool:
    """An axis that one case has and another does not read varies only if it has two values, or one beside null in a case."""
    distinct = set(values)
    if UNSET not in distinct or len(distinct) > 2 or case is None:
        return len(distinct) > 1
    return bool((values.groupby(case, observed=True).nunique() > 1).any())


def _determines(a: pd.Series, b: pd.Series) -> bool:
    pairs = len(set(zip(a, b, strict=True)))
    return pairs == a.nunique()


def _hashable(value: Any) -> Hashable:
    return value if isinstance(value, Hashable) else json.dumps(value if not hasattr(value, "tolist") else value.tolist())
