"""Which cells of two sweeps are alike: the same case and the same values of all that either sweep varies."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from .results import Results, SweepRecord, load

Key = tuple[Any, ...]

_SECTIONS = ("data", "privacy", "evaluate", "checkpoint", "resources")
_COLUMN_OF_LEAF = {
    "epsilon": "target_epsilon",
    "noise_multiplier": "noise_multiplier",
    "delta": "delta",
    "accountant": "accountant",
    "neighbours": "neighbours",
    "size": "data_size",
    "samples": "evaluation_samples",
}
"""Where a trial of a sweep that does not vary a setting outside ``train`` says what it had, by the setting's last word."""
_APART = ("case", "method", "method_version", "data_source", "data_size", "data_shape", *_COLUMN_OF_LEAF.values())


@dataclass(frozen=True)
class Side:
    """One of two sweeps: its trials (of private data the proven ones), and what of them may be shown."""

    results: Results
    shown: Results
    record: SweepRecord

    @classmethod
    def of(cls, path: str | Path) -> Side:
        """The sweep in a folder. Raises ``ResultsError`` where no trial has ended."""
        results = load(path)
        shown = results.for_publication()
        kept = results.trials[results.trials["trial_id"].isin(shown.trials["trial_id"])].reset_index(drop=True)
        return cls(replace(results, trials=kept), shown, results.sweeps[0])

    @property
    def trials(self) -> pd.DataFrame:
        return self.results.trials

    @property
    def settings(self) -> dict[str, Any]:
        """The resolved sweep file by dotted keys; empty where ``sweep.json`` is missing."""
        return _flatten(self.record.document.get("sweep", {}))

    def axes(self) -> list[str]:
        """The settings that the sweep varies, each by one name: files may say `train.critic.kind`, `critic.kind` or `kind`."""
        axes = self.trials.filter(regex=r"^axis\.").dropna(axis="columns", how="all")
        return list(dict.fromkeys(self._setting(name.removeprefix("axis.")) for name in axes))

    def _setting(self, axis: str) -> str:
        name = axis.removeprefix("train.")
        if f"config.{name}" in self.trials or "." in name:
            return name
        inner = [column.removeprefix("config.") for column in self.trials.filter(regex=rf"^config\..*\.{re.escape(name)}$")]
        file = self.record.document.get("sweep", {})
        outer = [f"{section}.{name}" for section in _SECTIONS if name in file.get(section, {})]
        return inner[0] if len(inner) == 1 else next(iter(outer), name)

    def values(self, setting: str) -> list[Any]:
        """What every trial has for a setting, None where nothing says it.

        A method's ``Config`` resets what nothing reads, so that for settings under ``train`` its columns, and not the axes,
        say which cells are alike.
        """
        for column in (f"config.{setting}", setting):
            if column in self.trials:
                return plain(self.trials[column])
        missing = [None] * len(self.trials)
        leaf = setting.rpartition(".")[2]
        axis = next((name for name in (f"axis.{setting}", f"axis.{leaf}") if name in self.trials), None)
        own = plain(self.trials[axis]) if axis else missing
        spent = _COLUMN_OF_LEAF.get(leaf)
        whole = plain(self.trials[spent]) if spent else [_hashable(self.settings.get(setting))] * len(own)
        return [other if value is None else value for value, other in zip(own, whole, strict=True)]


@dataclass(frozen=True)
class Pair:
    """A cell that both sweeps have: ``trial_id``, ``epsilon``, ``ended`` and metrics on either side, for the seeds of both."""

    name: str
    a: pd.DataFrame
    b: pd.DataFrame
    """Both indexed by seed, in one order."""

    @classmethod
    def of(cls, name: str, a: pd.DataFrame, b: pd.DataFrame) -> Pair:
        seeds = a.index.intersection(b.index)
        return cls(name, a.loc[seeds], b.loc[seeds])

    def same(self) -> tuple[set[str], set[str]]:
        """Ids of trials that are one run found in both folders (all that is kept of them agrees), and of those run for each."""
        again = set(self.a["trial_id"]) & set(self.b["trial_id"])
        if not again:
            return set(), set()
        equal = (self.a.eq(self.b) | (self.a.isna() & self.b.isna())).all(axis=1)
        one = set(self.a.loc[equal, "trial_id"])
        return one, again - one


@dataclass(frozen=True)
class Match:
    pairs: list[Pair]
    trials: tuple[pd.DataFrame, pd.DataFrame]
    """All trials of the pairs, on either side."""
    only_a: list[str]
    only_b: list[str]
    factors: list[str]
    """The settings that a cell was found by."""


def match(a: Side, b: Side) -> Match:
    """The cells of two sweeps, side by side. What changed for a whole sweep does not keep its cells from finding each other."""
    factors = _factors(a, b)
    of_a, of_b = _cells(a, factors), _cells(b, factors)
    both = [key for key in of_a if key in of_b]
    varies = [len({key[place] for key in (*of_a, *of_b)}) > 1 for place in range(len(factors))]
    labels_a, labels_b = _labels(a), _labels(b)

    def name(key: Key) -> str:
        """Its label where both call it the same, else all that varies in either."""
        own = labels_a[of_a[key][0]]
        words = [_spelled(*word) for word, shown in zip(zip(factors, key, strict=True), varies, strict=True) if shown]
        return own if own == labels_b[of_b[key][0]] else " ".join(words) or own

    metrics = [metric for metric in a.results.metrics if metric in b.results.metrics]
    kept_a, kept_b = (side.trials[["trial_id", "seed", "epsilon", "ended", *metrics]].set_index("seed") for side in (a, b))
    return Match(
        pairs=[Pair.of(name(key), kept_a.iloc[of_a[key]], kept_b.iloc[of_b[key]]) for key in both],
        trials=(
            a.trials.iloc[[row for key in both for row in of_a[key]]],
            b.trials.iloc[[row for key in both for row in of_b[key]]],
        ),
        only_a=[labels_a[rows[0]] for key, rows in of_a.items() if key not in of_b],
        only_b=[labels_b[rows[0]] for key, rows in of_b.items() if key not in of_a],
        factors=factors,
    )


def _factors(a: Side, b: Side) -> list[str]:
    factors = list(dict.fromkeys([*a.axes(), *b.axes()]))
    if a.trials["case"].nunique() > 1 or b.trials["case"].nunique() > 1:
        factors.insert(0, "case")
    for side in (a, b):  # a folder may hold cells of several versions of its file
        factors += _untold(side, factors)
    return [*factors, "cell_id"] if any(_mixed(side, factors) for side in (a, b)) else factors


def _cells(side: Side, factors: Sequence[str]) -> dict[Key, list[int]]:
    """The rows of each cell, in the order of the table."""
    columns = [side.values(name) for name in factors]
    rows: dict[Key, list[int]] = {}
    for row in range(len(side.trials)):
        rows.setdefault(tuple(column[row] for column in columns), []).append(row)
    return rows


def _mixed(side: Side, factors: Sequence[str]) -> list[list[int]]:
    """The rows of what ``factors`` take for one cell and is several."""
    cell_ids = list(side.trials["cell_id"])
    return [rows for rows in _cells(side, factors).values() if len({cell_ids[row] for row in rows}) > 1]


def _untold(side: Side, factors: Sequence[str]) -> list[str]:
    """Settings beyond ``factors`` that tell such cells apart."""
    mixed = [side.trials.iloc[rows] for rows in _mixed(side, factors)]
    columns = [*_APART, *(column for column in side.trials if column.startswith("config."))] if mixed else []
    differ = [column.removeprefix("config.") for column in columns if any(len(set(plain(cell[column]))) > 1 for cell in mixed)]
    return [name for name in differ if name not in factors]


def _labels(side: Side) -> list[str]:
    """What each trial's cell is called in its own sweep: its label without the seed, else its case."""
    pairs = zip(side.trials["label"], side.trials["case"], strict=True)
    return [re.sub(r" ?seed=\S+$", "", label) or str(case) for label, case in pairs]


def _spelled(name: str, value: Any) -> str:
    return word(value) if name == "case" else f"{name}={word(value)}"


def _flatten(document: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted keys, cases by their names, axes that go in step by theirs; what has no value is left out."""
    flat: dict[str, Any] = {}
    for key, value in document.items():
        if key == "cases" and isinstance(value, list):
            value = {case.get("name") or case.get("method"): case for case in value}
        elif key == "zip":
            value = {name: values for group in value for name, values in group.items()}
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{key}.")
        elif value is not None and value != []:
            flat[f"{prefix}{key}"] = value
    return flat


def _hashable(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, list | dict) else value


def plain(values: pd.Series) -> list[Any]:
    """Python values that hash and compare; None for what is missing."""
    found = (value.tolist() if isinstance(value, np.ndarray | np.generic) else value for value in values.astype(object))
    return [None if not isinstance(value, list) and pd.isna(value) else _hashable(value) for value in found]


def word(value: Any) -> str:
    """A value as a table shows it."""
    if value is None:
        return "-"
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {word(one)}" for name, one in value.items())
    if isinstance(value, list | tuple):
        return f"[{', '.join(word(one) for one in value)}]"
    return f"{value:g}" if isinstance(value, float) else str(value)
