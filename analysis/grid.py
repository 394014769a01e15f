"""The grid that two factors make, and the front against epsilon.

What is said of cells is in ``design``, ``best``, ``effects`` and ``importance``, which may be imported from here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from .best import EPSILON_TOLERANCE, Best, best, verdict, verdicts
from .design import KEPT, cells, comparable, factors, leaders, levels, settings, short, words
from .effects import effects
from .importance import importance
from .results import ResultsError

if TYPE_CHECKING:
    from .results import Results

__all__ = [
    "EPSILON_TOLERANCE",
    "Best",
    "Grid",
    "best",
    "cells",
    "effects",
    "factors",
    "grids",
    "importance",
    "pareto",
    "verdict",
    "verdicts",
]


@dataclass(frozen=True)
class Grid:
    """Two factors that cross, the others being fixed."""

    x: str
    y: str
    facet: Mapping[str, Any]
    """The values of the other factors, missing where a setting is not read; {} where there are no others."""
    title: str
    """``facet`` as labels have it, without what is not read; "" for {}."""
    cells: pd.DataFrame = field(repr=False, compare=False)
    """The rows of ``cells(results)`` that are in it."""

    def frame(self, metric: str, value: str = "mean") -> pd.DataFrame:
        """``value`` (mean, sd, n, low, high, epsilon or cell) of every cell: a row a value of y, a column a value of x.

        Both sorted, words in order of appearance. Missing where there is no such cell, or no seed with the metric.
        """
        rows = self._rows[self._rows["metric"] == metric]
        across, down = self._levels
        return rows.pivot(index=self.y, columns=self.x, values=value).reindex(index=down, columns=across)

    @cached_property
    def _rows(self) -> pd.DataFrame:
        rows = self.cells.drop_duplicates(["metric", self.x, self.y])
        return rows.assign(**{name: comparable(rows[name]) for name in (self.x, self.y)})

    @cached_property
    def _levels(self) -> tuple[list[Any], list[Any]]:
        return levels(self.cells[self.x]), levels(self.cells[self.y])


def grids(results: Results, x: str | None = None, y: str | None = None) -> list[Grid]:
    """The grid of two factors for each combination of the others, in the order of the cells.

    Without names: noise_injection x reconstruction where they cross, else the pair of axes with most cells, else a pair with
    the case or method. Two factors cross where, all else equal, two values of one meet the same two values of the other.
    [] where nothing does. Names may be what follows ``axis.``, or its last word. Raises ``ResultsError`` for one that does
    not vary.
    """
    return list(_grids(results, x, y))


@lru_cache(maxsize=KEPT)
def _grids(results: Results, x: str | None, y: str | None) -> tuple[Grid, ...]:
    names = factors(results)
    x, y = (None if name is None else _named(name, names) for name in (x, y))
    table, leader = settings(results, names), leaders(settings(results, names))
    wanted = [name for name in names if leader[name] == name]
    wanted += [name for name in (x, y) if name is not None and name not in wanted]
    pairs = {}
    for a, b in combinations(wanted, 2):
        if {name for name in (x, y) if name is not None} <= {a, b} and leader[a] != leader[b]:
            size = _crossed(table, a, b, _others(leader, a, b))
            if size:
                pairs[a, b] = size

    def rank(pair: tuple[str, str]) -> tuple[bool, bool, int]:
        paper = {short(name) for name in pair} == {"noise_injection", "reconstruction"}
        return paper, all(name.startswith("axis.") for name in pair), pairs[pair]

    if not pairs:
        return ()
    first, second = max(pairs, key=rank)  # the earlier pair where several are alike
    if second == x or first == y or (x is None and y is None and short(second) == "noise_injection"):
        first, second = second, first
    return tuple(_facets(results, table, first, second, _others(leader, first, second)))


def _others(leader: Mapping[str, str], x: str, y: str) -> list[str]:
    return [name for name, first in leader.items() if name == first and name not in (leader[x], leader[y])]


def _named(name: str, names: Sequence[str]) -> str:
    found = [factor for factor in names if name in (factor, factor.removeprefix("axis."))]
    found = found or [factor for factor in names if name == short(factor)]
    if len(found) != 1:
        raise ResultsError(f"`{name}` does not vary over these trials; what does is {', '.join(names) or 'nothing'}")
    return found[0]


def _split(table: pd.DataFrame, names: Sequence[str]) -> list[pd.DataFrame]:
    """Rows that have the same values of these columns, in order of appearance."""
    if not names:
        return [table]
    keys = [comparable(table[name]) for name in names]
    return [rows for _, rows in table.groupby(keys, sort=False)]


def _crossed(table: pd.DataFrame, x: str, y: str, others: Sequence[str]) -> int:
    """Cells in the largest facet in which x and y cross; 0 where they do in none."""
    table = table.dropna(subset=[x, y])
    codes = pd.DataFrame({name: pd.factorize(comparable(table[name]))[0] for name in table})
    facets = codes.groupby(list(others), sort=False)[[x, y]] if others else [(None, codes[[x, y]])]
    most = 0
    for _, facet in facets:
        there = np.zeros(codes[[x, y]].max() + 1, int)
        there[facet[x], facet[y]] = 1
        shared = there @ there.T
        np.fill_diagonal(shared, 0)
        if shared.max(initial=0) >= 2:
            most = max(most, int(there.sum()))
    return most


def _facets(results: Results, table: pd.DataFrame, x: str, y: str, others: Sequence[str]) -> list[Grid]:
    found, everything = [], cells(results)
    for rows in _split(table.dropna(subset=[x, y]), others):
        if len(levels(rows[x])) > 1 and len(levels(rows[y])) > 1:
            facet = {name: rows[name].iloc[0] for name in others}
            title = ", ".join(words(name, value) for name, value in facet.items() if not pd.isna(value))
            found.append(Grid(x, y, facet, title, everything[everything["cell"].isin(rows.index)]))
    return found


def pareto(results: Results, metric: str) -> pd.DataFrame:
    """A row a cell: the columns of ``cells``, and ``on_front``.

    On the front is a cell with a proven epsilon that no other one beats in its mean at the same epsilon or less
    (``EPSILON_TOLERANCE``). Means are compared as they are: a front takes the luckiest cell at every price.
    """
    sign = results.metrics[results.main_metric(metric)].sign
    table = cells(results, [metric]).drop(columns="metric")
    epsilon, mean = table["epsilon"].to_numpy(), sign * table["mean"].to_numpy()
    cheaper = epsilon[None, :] <= (1 + EPSILON_TOLERANCE) * epsilon[:, None]  # NaN compares as False: no proof, no rival
    beaten = (cheaper & (mean[None, :] > mean[:, None])).any(axis=1)
    return table.assign(on_front=~beaten & ~np.isnan(epsilon) & ~np.isnan(mean))
