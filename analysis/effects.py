"""What each setting adds: alone, together with the others, averaged over them, and how the settings interact."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from .design import UNSET, base_level, comparable, factors, has_off, leaders, levels, settings, short, words
from .statistics import ALPHA, BlockModel, holm, seeds_needed

if TYPE_CHECKING:
    from .grid import Grid
    from .results import Results

Cells = Mapping[tuple[Any, ...], str]
"""The cell with these values of the factors, in the order of the factors."""

KINDS = ("average", "alone", "together", "interaction")


def effects(results: Results, metric: str, within: Grid | None = None) -> pd.DataFrame:
    """Every level of every factor against its base, a row a contrast of the block model.

    The base is the value that means off (0, "none", null), else the first. An axis with such a value is a switch. Kinds:

    - ``average``: level minus base, averaged over the combinations of all other factors in which both were run;
    - ``alone``: with all other switches off;
    - ``together``: with all other switches on, at that combination of their values which has the best mean over the levels
      of this factor. It was chosen after seeing the data, so the differences in it lean to what luck did there;
    - ``interaction``: together minus alone: 0 where the settings add up.

    The last three average over the factors that are no switches (cases, budgets), where both cells were run; a kind that
    says the same as one above it is left out. Columns: ``factor``, ``level``, ``base``, ``kind``, ``difference``, ``low``,
    ``high``, ``p``, ``p_holm`` (over all contrasts of the kind), ``n`` (fewest seeds of a cell), ``seeds_needed`` (for a paired
    test at 5 % with power .8, were the difference and the spread as found), ``better`` and ``worse`` (in the metric's
    direction, p_holm below 5 %), ``others`` (where the other switches are), ``combinations`` (how many were averaged),
    ``zipped_with`` (axes that went in step with this one). ``within`` keeps to the cells of a grid.
    """
    sign, names = results.metrics[results.main_metric(metric)].sign, factors(results)
    trials = results.trials[results.trials[metric].notna()]
    if within is not None:
        trials = trials[trials["cell"].isin(within.cells["cell"])]
    table = settings(results, names)
    table = table[table.index.isin(trials["cell"])]
    leader = leaders(table)
    names = [name for name, first in leader.items() if first == name and len(set(comparable(table[name]))) > 1]
    keys = pd.DataFrame({name: comparable(table[name]) for name in names}, index=table.index)
    cells: dict[tuple[Any, ...], str] = {}
    for cell, values in zip(keys.index, keys.itertuples(index=False, name=None), strict=True):
        cells.setdefault(values, cell)
    rows: list[dict[str, Any]] = []
    contrasts: list[dict[str, float]] = []
    design = _Design(names, cells, trials.groupby("cell", observed=True)[metric].mean(), sign)
    for name in names:
        zipped = ", ".join(short(other) for other, first in leader.items() if first == name and other != name)
        base = design.base[name]
        for level in design.levels[name]:
            if level == base:
                continue
            seen: list[dict[str, float]] = []
            for kind, weights, others, combinations in design.contrasts(name, level):
                if weights and weights not in seen:
                    seen.append(weights)
                    contrasts.append(weights)
                    row = {"factor": name, "level": level, "base": base, "kind": kind, "others": others}
                    rows.append(row | {"combinations": combinations, "zipped_with": zipped})
    found = BlockModel(trials, metric).contrasts(contrasts)
    frame = pd.DataFrame(rows, columns=["factor", "level", "base", "kind", "others", "combinations", "zipped_with"])
    for column, value in (("difference", "mean"), ("low", "low"), ("high", "high"), ("p", "p")):
        frame[column] = pd.Series([getattr(difference, value) for difference in found], dtype=float)
    # The interaction of two switches stands in the rows of both: one test.
    tests = frame.assign(cells=[frozenset(weights.items()) for weights in contrasts])[["kind", "cells", "p"]]
    once = tests.drop_duplicates(["kind", "cells"])
    once = once.assign(p_holm=once.groupby("kind")["p"].transform(holm)).drop(columns="p")
    frame["p_holm"] = tests.merge(once, on=["kind", "cells"], how="left")["p_holm"].astype(float)
    frame["n"] = pd.Series([difference.n for difference in found], dtype=int)
    frame["seeds_needed"] = pd.array([seeds_needed(difference.mean, difference.sd) for difference in found], dtype="Int64")
    frame["better"] = (frame["p_holm"] < ALPHA) & (sign * frame["difference"] > 0)
    frame["worse"] = (frame["p_holm"] < ALPHA) & (sign * frame["difference"] < 0)
    order = ["factor", "level", "base", "kind", "difference", "low", "high", "p", "p_holm", "n", "seeds_needed"]
    return frame[[*order, "better", "worse", "others", "combinations", "zipped_with"]]


class _Design:
    """Which contrasts the cells that were run allow."""

    def __init__(self, names: Sequence[str], cells: Cells, means: pd.Series, sign: int) -> None:
        self.names, self.cells, self.means, self.sign = list(names), cells, means, sign
        self.levels = {name: self._levels(place) for place, name in enumerate(self.names)}
        self.base = {name: base_level(found) for name, found in self.levels.items()}
        self.switches = {name for name, found in self.levels.items() if name.startswith("axis.") and has_off(found)}

    def _levels(self, place: int) -> list[Any]:
        """Values of a factor; "unset" is one only where it was run beside another, all else equal (a null in the file)."""
        found = levels(values[place] for values in self.cells)
        if UNSET in found:
            rest = [values[:place] + values[place + 1 :] for values in self.cells if values[place] == UNSET]
            beside = any(values[:place] + values[place + 1 :] in rest for values in self.cells if values[place] != UNSET)
            found = [UNSET] * beside + levels(value for value in found if value != UNSET)
        return found

    def contrasts(self, name: str, level: Any) -> Iterable[tuple[str, dict[str, float], str, int]]:
        """Kind, weights of the cells, where the other switches are, number of combinations averaged."""
        place = self.names.index(name)
        others = [other for other in self.names if other != name and other in self.switches]
        both = self._both(place, level)
        yield "average", _weights(both.values()), "averaged", len(both)
        if name not in self.switches or not others:
            return
        off = {other: self.base[other] for other in others}
        alone = {rest: pair for rest, pair in both.items() if self._at(rest, off)}
        yield "alone", _weights(alone.values()), _text(off), len(alone)
        on = self._best_on(place, both, others)
        if on is None:
            return
        together = {rest: pair for rest, pair in both.items() if self._at(rest, on)}
        yield "together", _weights(together.values()), _text(on), len(together)
        # Both differences in the same combinations of what is no switch.
        fixed = [index for index, other in enumerate(self.names) if other not in others and index != place]
        off_pairs = {tuple(rest[index] for index in fixed): pair for rest, pair in alone.items()}
        on_pairs = {tuple(rest[index] for index in fixed): pair for rest, pair in together.items()}
        shared = [key for key in on_pairs if key in off_pairs]
        crossed = _weights([on_pairs[key] for key in shared] + [off_pairs[key][::-1] for key in shared], len(shared))
        yield "interaction", crossed, f"{_text(on)} against {_text(off)}", len(shared)

    def _both(self, place: int, level: Any) -> dict[tuple[Any, ...], tuple[str, str]]:
        """The cells with this level and with the base, by the values of all factors (with this one's left out as None)."""
        base, found = self.base[self.names[place]], {}
        for values, cell in self.cells.items():
            if values[place] == level:
                other = self.cells.get((*values[:place], base, *values[place + 1 :]))
                if other is not None:
                    found[*values[:place], None, *values[place + 1 :]] = (cell, other)
        return found

    def _at(self, rest: tuple[Any, ...], wanted: Mapping[str, Any]) -> bool:
        return all(rest[self.names.index(name)] == value for name, value in wanted.items())

    def _best_on(self, place: int, both: Iterable[tuple[Any, ...]], others: Sequence[str]) -> dict[str, Any] | None:
        """The values of the other switches, none off, with the best mean over all cells that have them."""
        places = [self.names.index(other) for other in others]
        candidates = {tuple(rest[index] for index in places) for rest in both}
        means: dict[tuple[Any, ...], list[float]] = {}
        for values, cell in self.cells.items():
            key = tuple(values[index] for index in places)
            on = all(value not in (self.base[other], UNSET) for value, other in zip(key, others, strict=True))
            if on and key in candidates:
                means.setdefault(key, []).append(self.sign * self.means[cell])
        if not means:
            return None
        chosen = max(means, key=lambda key: sum(means[key]) / len(means[key]))
        return dict(zip(others, chosen, strict=True))


def _weights(pairs: Iterable[tuple[str, str]], number: int | None = None) -> dict[str, float]:
    """Weights of the mean of the pairs' differences (the first minus the second)."""
    pairs = list(pairs)
    weights: dict[str, float] = {}
    for plus, minus in pairs:
        weights[plus] = weights.get(plus, 0) + 1 / (number or len(pairs))
        weights[minus] = weights.get(minus, 0) - 1 / (number or len(pairs))
    return weights


def _text(values: Mapping[str, Any]) -> str:
    return " ".join(words(name, value) for name, value in values.items())
