"""The best cell of a sweep, and what tests say of one cell against others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import stats

from .design import cells, comparable, factors, leaders, levels, settings, short, value_text
from .results import ResultsError
from .statistics import ALPHA, BlockModel, Difference, Interval, holm
from .table import epsilon_text

if TYPE_CHECKING:
    from .grid import Grid
    from .results import Results

EPSILON_TOLERANCE = 0.01
"""Epsilons closer than this share are one budget: calibrated noise is rounded up, so a budget of 10 ends as 9.70 or 9.73."""

_TEST = "paired within seeds, pooled spread, Holm"


@dataclass(frozen=True)
class Best:
    """The cell with the best mean, and what tests say of its rivals. It was chosen after seeing the data."""

    metric: str
    cell: str
    interval: Interval
    """Of the cell's mean as it stands: the winner's mean is optimistic, for luck helped to choose it."""
    trial_ids: tuple[str, ...]
    epsilon: float
    """The largest of these trials; NaN where one has no proof."""
    neighbours: pd.DataFrame
    """Cells one step away along one factor, all others equal: ``neighbour``, ``factor``, ``step``, ``difference`` (best minus
    neighbour), ``p`` of the pair alone, and ``low``, ``high``, ``p_tukey``, ``better``, in which the choice of the best among
    all cells is paid for."""
    others: pd.DataFrame
    """All other cells with a value, best first: ``cell``, then as ``neighbours`` with ``p_holm``, over all of them."""
    sentence: str


def best(results: Results, metric: str, within: Grid | None = None) -> Best:
    """The cell with the best mean of ``metric``, among all or those of a grid, and which cells can be told from it.

    Differences are contrasts of the block model of these cells. One step is the next value of a number, up or down, and any
    other value of a word; axes that were zipped step together.

    Choosing the best of K cells makes two things optimistic. Its mean is: run it again with new seeds for an honest one. And
    so are tests against it that ignore the choice; with Holm over the K - 1 others, "can be told from the best" has the
    guarantee of subset selection (Gupta 1965; Hsu 1981: a Bonferroni bound in place of Dunnett's constant), at its first
    step: the truly best cell is among those that cannot be told from the chosen one with at least the stated confidence.
    It is no more than that: of 12 cells that are all alike, one is told from the best in three runs of twenty. That the best
    *beats* a neighbour is therefore said by Tukey's test (Kramer 1956), which holds for every pair of the K cells at once
    and so for a pair that was chosen after looking; so do the intervals of these differences.

    Raises ``ResultsError`` where no trial has the metric.
    """
    table, trials = _ranked(results, metric, within)
    winner, sign = table.iloc[0], results.metrics[metric].sign
    model = BlockModel(trials, metric)
    others = _others(table, model, sign)
    steps = _steps(settings(results, factors(results)).loc[list(table["cell"])], winner["cell"])
    pairs = model.contrasts([{winner["cell"]: 1, cell: -1} for cell in steps["neighbour"]])
    p_tukey = [_tukey(pair, len(table)) for pair in pairs]
    tested = _compared([_kramer(pair, len(table)) for pair in pairs], sign, p_tukey=p_tukey)
    neighbours = pd.concat([steps, tested], axis=1)
    mine = trials[(trials["cell"] == winner["cell"]) & trials[metric].notna()]
    mean, low, high, sd = (float(winner[name]) for name in ("mean", "low", "high", "sd"))
    found = Interval(mean, low, high, sd, int(winner["n"]))
    return Best(
        metric=metric,
        cell=winner["cell"],
        interval=found,
        trial_ids=tuple(mine["trial_id"]),
        epsilon=float(winner["epsilon"]),
        neighbours=neighbours,
        others=others,
        sentence=_sentence(results, metric, winner, found, others, neighbours, _budgets(table)),
    )


def rivals(results: Results, metric: str, within: Grid | None = None) -> tuple[str, pd.DataFrame]:
    """``Best.cell`` and ``Best.others`` alone, for pictures of many grids."""
    table, trials = _ranked(results, metric, within)
    return table["cell"].iloc[0], _others(table, BlockModel(trials, metric), results.metrics[metric].sign)


def _ranked(results: Results, metric: str, within: Grid | None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows of ``cells`` with a value, best first, and their trials. Raises ``ResultsError`` where there is none."""
    described = results.metrics[results.main_metric(metric)]
    table = cells(results, [metric])
    if within is not None:
        table = table[table["cell"].isin(within.cells["cell"])]
    table = table[table["mean"].notna()]
    if table.empty:
        raise ResultsError(f"no trial{' of this grid' if within else ''} has the metric `{metric}`")
    table = table.iloc[np.argsort(-described.sign * table["mean"].to_numpy(), kind="stable")]
    return table, results.trials[results.trials["cell"].isin(table["cell"])]


def _others(table: pd.DataFrame, model: BlockModel, sign: int) -> pd.DataFrame:
    winner, *found = table["cell"]
    differences = model.contrasts([{winner: 1, cell: -1} for cell in found])
    return pd.concat([pd.DataFrame({"cell": found}), _compared(differences, sign)], axis=1)


def _budgets(table: pd.DataFrame) -> bool:
    """Whether the cells were bought at different prices."""
    epsilon = table["epsilon"]
    return bool(epsilon.isna().any() or epsilon.max() > (1 + EPSILON_TOLERANCE) * epsilon.min())


def _compared(differences: Sequence[Difference], sign: int, **corrected: Sequence[float] | np.ndarray) -> pd.DataFrame:
    """A row a difference: difference, low, high, p, p_holm (or the p ``corrected`` in another way, under its name), n, better
    (corrected p below 5 %, in the metric's direction)."""
    columns = {name: [getattr(found, name) for found in differences] for name in ("mean", "low", "high", "p")}
    frame = pd.DataFrame(columns, dtype=float).rename(columns={"mean": "difference"})
    ((name, values),) = (corrected or {"p_holm": holm(frame["p"])}).items()
    frame[name] = np.asarray(values, float)
    frame["n"] = [found.n for found in differences]
    frame["better"] = (frame[name] < ALPHA) & (sign * frame["difference"] > 0)
    return frame.astype({"n": int, "better": bool})


def _tukey(pair: Difference, cells: int) -> float:
    """p of a pair that was picked among ``cells`` cells after looking; of two cells, that of the pair itself."""
    if not pair.se > 0:
        return pair.p
    return max(pair.p, float(stats.studentized_range.sf(math.sqrt(2) * abs(pair.mean) / pair.se, cells, pair.dof)))


def _kramer(pair: Difference, cells: int) -> Difference:
    """``pair`` with the bounds that hold for all pairs of ``cells`` cells at once; of two cells, those of the pair itself."""
    if cells < 3 or not pair.se > 0:
        return pair
    half = _range(cells, pair.dof) * pair.se / math.sqrt(2)
    return replace(pair, low=pair.mean - half, high=pair.mean + half)


@cache
def _range(cells: int, dof: float) -> float:
    """The range of ``cells`` means, in standard errors, that chance exceeds in 5 % of all experiments: slow, so kept."""
    return float(stats.studentized_range.ppf(1 - ALPHA, cells, dof))


def _steps(table: pd.DataFrame, cell: str) -> pd.DataFrame:
    """Cells one step from a cell along one factor: neighbour, factor, step ("reconstruction 1 to 0.5")."""
    leader = leaders(table)
    names = [name for name, first in leader.items() if name == first]
    keys = pd.DataFrame({name: comparable(table[name]) for name in names}, index=table.index)
    rows = []
    for name in names:
        rest = [other for other in names if other != name]
        line = keys[(keys[rest] == keys.loc[cell, rest]).all(axis=1)]
        here, found = keys.loc[cell, name], levels(line[name])
        if not any(isinstance(value, str) for value in found):  # numbers: the next ones
            place = found.index(here)
            found = found[max(place - 1, 0) : place + 2]
        zipped = "".join(f" and {short(other)}" for other, first in leader.items() if first == name and other != name)
        for value in found:
            if value != here:
                step = f"{short(name)}{zipped} {value_text(here)} to {value_text(value)}"
                rows.append((line.index[line[name] == value][0], name, step))
    return pd.DataFrame(rows, columns=["neighbour", "factor", "step"])


def _sentence(
    results: Results,
    metric: str,
    winner: pd.Series,
    found: Interval,
    others: pd.DataFrame,
    neighbours: pd.DataFrame,
    budgets: bool,
) -> str:
    text, heading = results.metrics[metric].text, results.metrics[metric].heading
    seeds = "one seed" if found.n == 1 else f"{found.n} seeds"
    spread = f"95 % interval {text(found.low)} to {text(found.high)}, {seeds}" if found.n > 1 else f"{seeds}, so no interval"
    price = f", epsilon {epsilon_text(winner['epsilon'])}" if budgets else ""
    brackets = f"({text(found.mean)}, {spread}{price})"
    name = winner["cell"] or "the only cell"
    if others.empty:
        return f"{name} is the only cell with {heading} {brackets}."
    have = f"{name} has the best mean {heading} {brackets}"
    cells_, tested = _count(len(others), "other cell"), others["p"].notna().sum()
    if not tested:
        return f"{have}; no test can tell it from the {cells_}, for that takes two seeds that cells share."
    alike = len(others) - int(others["better"].sum())
    if len(others) == 1:
        told = f"the other cell {'cannot' if alike else 'can'} be told from it (paired within seeds)"
    elif alike == len(others):
        told = f"none of the {cells_} can be told from it ({_TEST})"
    else:
        told = f"{alike} of the {cells_} cannot be told from it" if alike else f"all {cells_} can be told from it"
        told += f" ({_TEST})"
    if neighbours.empty:
        return f"{have}; {told}."
    beaten, of = int(neighbours["better"].sum()), _count(len(neighbours), "neighbour")
    if len(neighbours) == 1:
        return f"{have}; {told}. It {'beats' if beaten else 'does not beat'} its one neighbour one step away."
    which = f"all {of}" if beaten == len(neighbours) else f"{beaten or 'none'} of its {of}"
    return f"{have}; {told}. It beats {which} one step away (Tukey over the {len(others) + 1} cells)."


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


def verdict(results: Results, metric: str, cell: str, base: str, among: Sequence[str] | None = None) -> Difference:
    """``cell`` minus ``base`` within seeds, its spread pooled over ``among`` (default: all cells); p is not corrected."""
    return _model(results, metric, among).contrast({cell: 1, base: -1})


def verdicts(results: Results, metric: str, base: str, among: Sequence[str] | None = None) -> pd.DataFrame:
    """Every other cell (of ``among``) minus ``base``: cell, difference, low, high, p, p_holm, n, better, worse.

    ``better`` and ``worse`` are those of the metric's direction, where p after Holm over these cells is below 5 %.
    """
    model = _model(results, metric, among)
    found = [cell for cell in model.cells if cell != base]
    sign = results.metrics[metric].sign
    frame = _compared(model.contrasts([{cell: 1, base: -1} for cell in found]), sign)
    frame["worse"] = (frame["p_holm"] < ALPHA) & (sign * frame["difference"] < 0)
    return pd.concat([pd.DataFrame({"cell": found}), frame], axis=1)


def _model(results: Results, metric: str, among: Sequence[str] | None) -> BlockModel:
    trials = results.trials
    return BlockModel(trials if among is None else trials[trials["cell"].isin(among)], results.main_metric(metric))
