"""One function a picture; each returns a matplotlib ``Figure`` for ``plotting.save`` and ``plotting.inline``.

Pictures of whole results take ``Results`` and the name of a metric, pictures of a frame of ``grid`` take the frame and the
``Metric``. All raise ``ResultsError`` with a sentence where there is nothing to draw.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from . import plotting
from .best import rivals
from .design import levels, short, value_text, words
from .drawing import Places, distinct_accounts, heat, outline, thinned
from .grid import EPSILON_TOLERANCE, cells, factors, grids
from .plotting import INK, MUTED, PAPER, RULE, WIDTH, look, shortened, styled, wrapped
from .results import ResultsError
from .statistics import ALPHA
from .table import mean_and_spread

if TYPE_CHECKING:
    from .grid import Grid
    from .results import Metric, Results

MAX_SERIES = 12
"""Most lines, or cells, in one picture; the caption says how many are left out."""
MAX_ROWS = 36
"""Most rows of a list of intervals."""
MAX_PANELS = 6
MAX_NUMBERS = 100
"""Most cells of all heatmaps in one picture, beside the first panel's."""


@styled
def heatmaps(results: Results, metric: str) -> Figure:
    """``metric`` over the two axes that cross: a panel a combination of the others, mean ± standard deviation a cell.

    Outlined is the best cell of each panel; a dot marks the others that no test tells from it (``grid.best``).
    """
    described = results.metrics[metric]
    found = [grid for grid in grids(results) if grid.frame(metric).notna().any(axis=None)]
    if not found:
        raise ResultsError(f"no two axes cross in the trials that have {metric}; a grid needs two values of each of two axes")
    shown = _best_panels(found, described)
    means = [grid.frame(metric).astype(float) for grid in shown]
    among = np.concatenate([mean.to_numpy().ravel() for mean in means])
    across, down = max(mean.shape[1] for mean in means), max(mean.shape[0] for mean in means)
    whole = max(WIDTH, 0.58 * across + 1.2)
    columns = min(len(shown), max(1, int((whole - 0.3) / (0.58 * across + 0.6))))
    cell = min(0.95, (whole / columns - 0.5) / across)  # inches wide, and 0.42 high
    titles = [wrapped(grid.title if len(found) > 1 else "", whole / columns - 0.5) for grid in shown]
    lines = max(len(title.splitlines()) for title in titles)
    figure, panels = plotting.panels(len(shown), columns, 0.42 * down + 0.65 + lines * plotting.LINE, whole)
    for axes, grid, mean, title in zip(panels, shown, means, titles, strict=True):
        inks = heat(axes, mean.to_numpy(), _numbers(grid, described), among[~np.isnan(among)], described.better)
        (answer, others), names = rivals(results, metric, within=grid), grid.frame(metric, "cell")
        alike = set(others["cell"][others["p"].notna() & ~others["better"]])
        for row, column in np.ndindex(mean.shape):
            if names.iat[row, column] == answer:
                outline(axes, row, column)
            elif names.iat[row, column] in alike:
                axes.plot(column + 0.91, row + 0.18, "o", color=inks[row][column], markersize=3)
        axes.set_xticklabels([value_text(x) for x in mean.columns])
        axes.set_yticklabels([value_text(y) for y in mean.index])
        axes.set_xlabel(short(grid.x))
        axes.set_ylabel(wrapped(short(grid.y), max(0.42 * mean.shape[0], 0.6)))
        axes.set_title(title)
        axes.set_box_aspect(min(1.0, 0.42 * mean.shape[0] / (cell * mean.shape[1])))
        axes.set_anchor("W")
    counts = np.concatenate([grid.frame(metric, "n").to_numpy(float).ravel() for grid in shown])
    tested = bool(counts[counts > 0].max() > 1)
    plotting.caption(
        figure,
        f"{_heading(described)}: mean{' ± standard deviation' * tested} over {_seeds(counts)};",
        "lighter is better. Outlined: best mean of the panel.",
        f"Panels with the best means; {len(found) - len(shown)} others are left out." if len(found) > len(shown) else "",
        "Dot: no test tells it from the best (5 %, paired within seeds, Holm over the panel)." if tested else "",
    )
    return figure


@styled
def response_curves(results: Results, metric: str) -> Figure:
    """``metric`` along one axis, a line a value of the other, a panel a combination of the rest.

    Where no two axes cross, one panel has a line a combination of everything but the axis with most values. Where no axis is
    a number, or most of these lines are single points (settings were varied one at a time), the cells stand under each other.
    """
    frame, described, crossing = cells(results, [metric]), results.metrics[metric], grids(results)
    if crossing:
        x, lines = crossing[0].x, crossing[0].y
        parts = [(grid.title if len(crossing) > 1 else "", grid.cells[grid.cells["metric"] == metric]) for grid in crossing]
        every = levels(value for _, part in parts for value in part[lines])
    else:
        names = factors(results)
        numeric = [name for name in names if len(levels(frame[name])) > 1 and _are_numbers(levels(frame[name]))]
        if not numeric:
            return _list_of_cells(frame, described)
        x, lines = max(numeric, key=lambda name: len(levels(frame[name]))), "line"
        rest = [name for name in names if name != x]
        named = [" ".join(words(name, row[name]) for name in rest if not pd.isna(row[name])) for _, row in frame.iterrows()]
        parts = [("", frame.assign(line=named).dropna(subset=[x]))]
        every = list(dict.fromkeys(parts[0][1]["line"]))
        points = parts[0][1].dropna(subset=["mean"]).groupby("line")[x].nunique()
        if 2 * (points > 1).sum() < len(every):
            return _list_of_cells(frame, described)
    kept = [every[round(number)] for number in np.linspace(0, len(every) - 1, min(len(every), MAX_SERIES))]
    shown, place = parts[:MAX_PANELS], Places(levels(value for _, part in parts for value in part[x]))
    columns = {1: 1, 2: 2, 4: 2}.get(len(shown), 3)
    height = 3.0 if columns == 1 else 2.2
    figure, panels = plotting.panels(len(shown), columns, height, sharey=True)
    for axes, (title, part) in zip(panels, shown, strict=True):
        for number, level in enumerate(kept):
            line = part[(part[lines] == level) & part["mean"].notna()].sort_values(x, key=lambda column: column.map(place.of))
            at = [place.of(value, number - (len(kept) - 1) / 2) for value in line[x]]
            axes.vlines(at, line["low"], line["high"], color=look(number)["color"], linewidth=1)
            axes.plot(at, line["mean"], **look(number))
        place.label(axes, 5.6 / columns)
        axes.set_title(wrapped(title, 5.6 / columns))
        axes.set_xlabel(wrapped(short(x), 5.6 / columns))
    for axes in panels[::columns]:
        axes.set_ylabel(wrapped(_heading(described), height - 0.8))
    if len(kept) > 1:
        labels = [value_text(level) for level in kept] if crossing else shortened(kept)
        plotting.legend(figure, _handles(len(kept)), labels, short(lines) if crossing else None)
    plotting.caption(
        figure,
        _means_of(frame["n"], "bars"),
        "Lines are shifted a little sideways so that their bars can be told apart." if len(kept) > 1 else "",
        _left_out(len(every) - len(kept), "lines"),
        _left_out(len(parts) - len(shown), "panels"),
    )
    return figure


def _list_of_cells(frame: pd.DataFrame, metric: Metric) -> Figure:
    """A row a cell, best first."""
    ranked = frame.dropna(subset=["mean"]).sort_values("mean", ascending=metric.better == "lower", kind="stable")
    if ranked.empty:
        raise ResultsError(f"no trial has {metric.name}, so there is nothing to draw of it")
    shown = ranked.head(MAX_ROWS)
    labels = [wrapped(name or "the only cell", 2.6) for name in shortened([str(cell) for cell in shown["cell"]])]
    figure, axes = _rows(labels)
    rows = np.arange(len(shown))
    axes.hlines(rows, shown["low"], shown["high"], color=plotting.COLOURS[0])
    axes.plot(shown["mean"], rows, "o", color=plotting.COLOURS[0])
    axes.set_xlabel(_heading(metric))
    plotting.caption(figure, _means_of(frame["n"], "lines"), _left_out(len(ranked) - len(shown), "cells"))
    return figure


KINDS = {
    "average": "average: the others averaged",
    "alone": "alone: the others off",
    "together": "together: the others at their best",
    "interaction": "interaction: together minus alone",
}
"""The contrasts of ``effects`` as the legend explains them."""


@styled
def effects_plot(effects: pd.DataFrame, metric: Metric) -> Figure:
    """The differences of ``effects.effects`` with their intervals: a row a level and its base, a mark a kind of contrast."""
    known = effects.dropna(subset=["difference"])
    if known.empty:
        raise ResultsError("nothing that varies has two values that can be compared, so there are no effects to draw")
    groups = list(known.groupby(["factor", "level", "base"], sort=False, dropna=False))
    shown, kinds = groups[: MAX_ROWS // 2], [kind for kind in KINDS if (known["kind"] == kind).any()]
    labels = [wrapped(f"{words(factor, level)} against {value_text(base)}", 2.4) for (factor, level, base), _ in shown]
    slots = [max(len(rows), label.count("\n") + 1) + 0.5 for label, (_, rows) in zip(labels, shown, strict=True)]
    edges = np.cumsum([0.0, *slots])
    figure, (axes,) = plotting.panels(1, 1, 0.16 * edges[-1] + 0.5)
    for middle, (_, contrasts) in zip((edges[:-1] + edges[1:]) / 2, shown, strict=True):
        for place, effect in enumerate(contrasts.itertuples()):
            at, style = middle + place - (len(contrasts) - 1) / 2, look(list(KINDS).index(effect.kind)) | {"linestyle": "none"}
            axes.hlines(at, effect.low, effect.high, color=style["color"])
            face = style["color"] if effect.p_holm < ALPHA else PAPER
            axes.plot(effect.difference, at, **style, markerfacecolor=face)
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.grid(visible=False, axis="y")
    axes.hlines(edges[1:-1], 0, 1, color=RULE, linewidth=0.6, transform=axes.get_yaxis_transform())
    axes.set_yticks((edges[:-1] + edges[1:]) / 2, labels)
    axes.set_ylim(edges[-1], 0)
    axes.set_xlabel(f"difference in {_heading(metric)}")
    if len(kinds) > 1:
        handles = [Line2D([], [], **look(list(KINDS).index(kind)) | {"linestyle": "-"}) for kind in kinds]
        plotting.legend(figure, handles, [KINDS[kind] for kind in kinds])
    tested = known["p_holm"].notna().any()
    plotting.caption(
        figure,
        "Lines: 95 % intervals, pooled over cells." if tested else "These seeds give no spread, so no intervals and no tests.",
        "Filled: p < 0.05 after Holm's correction over the contrasts of a kind." if tested else "",
        _left_out(len(groups) - len(shown), "rows"),
    )
    return figure


@styled
def importance_plot(importance: pd.DataFrame) -> Figure:
    """Shares of the variance between trials (``effects.importance``) with their intervals: a row a term."""
    known = importance.dropna(subset=["share"])
    if known.empty:
        raise ResultsError("nothing varies over enough trials to say what matters, so there is nothing to draw")
    figure, axes = _rows([wrapped(" x ".join(map(short, term.split(" x "))), 2.4) for term in known["term"]], 0.24)
    rows = np.arange(len(known))
    axes.barh(rows, 100 * known["share"], 0.6, color=plotting.COLOURS[0], alpha=0.25)
    axes.hlines(rows, 100 * known["low"], 100 * known["high"], color=plotting.COLOURS[0])
    axes.plot(100 * known["share"], rows, "o", color=plotting.COLOURS[0], clip_on=False)
    axes.set_xlim(0, 100)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("share of the variance between trials (%)")
    plotting.caption(
        figure,
        "Bars: sums of squares of type II of the fitted model, less what chance takes.",
        "Lines: 95 % intervals, residual bootstrap." if known["low"].notna().any() else "",
    )
    return figure


@styled
def pareto_plot(pareto: pd.DataFrame, metric: Metric) -> Figure:
    """Utility against epsilon (``grid.pareto``): a point a cell, the front a step line, its cells numbered and named."""
    known = pareto.dropna(subset=["epsilon", "mean"])
    if known.empty:
        raise ResultsError(f"no cell has both a proven epsilon and {metric.name}, so there is no front to draw")
    front = known[known["on_front"]].sort_values("epsilon")
    cases = levels(known["case"].astype(str)) if "case" in known else []
    several = 2 <= len(cases) <= len(plotting.COLOURS)
    groups = [(case, known[known["case"] == case]) for case in cases] if several else [("cell", known)]
    figure, (axes,) = plotting.panels(1, 1, 3.2)
    for number, (_, group) in enumerate(groups):
        style = look(number) | {"linestyle": "none"}
        axes.vlines(group["epsilon"], group["low"], group["high"], color=style["color"], alpha=0.45, linewidth=1)
        axes.plot(group["epsilon"], group["mean"], **style, markerfacecolor=PAPER)
        axes.plot("epsilon", "mean", data=group[group["on_front"]], **style)
    low, high = known["epsilon"].min(), known["epsilon"].max()
    reach = pd.concat([front, front.tail(1).assign(epsilon=1.35 * high)])
    line = axes.plot("epsilon", "mean", data=reach, color=INK, linewidth=1, drawstyle="steps-post", zorder=1)
    axes.set_xlim(low / 1.35, 1.35 * high)
    plotting.logarithmic(axes, "x")
    corners = front[(metric.sign * front["mean"]).cummax().diff().fillna(1) > 0]  # of cells that are alike, the cheapest
    named = corners.tail(MAX_SERIES // 2)
    for number, row in enumerate(named.itertuples(), 1):
        axes.annotate(str(number), (row.epsilon, row.mean), (5, 3), textcoords="offset points", weight="bold")
    axes.set_xlabel("proven epsilon of a trial of the cell (lower is more private)")
    axes.set_ylabel(_heading(metric))
    handles = [Line2D([], [], **look(number) | {"linestyle": "none"}) for number in range(len(groups))]
    plotting.legend(figure, [*handles, *line], [*(name for name, _ in groups), "front"])
    names = [name or "the only cell" for name in shortened([str(cell) for cell in named["cell"]])]
    plotting.caption(
        figure,
        "Filled: no other cell has a better mean at this epsilon or less.",
        _means_of(known["n"], "lines"),
        "; ".join(f"{number}: {name}" for number, name in enumerate(names, 1)) + ".",
        _left_out(len(corners) - len(named), "front steps", "not named"),
        "All cells have the same budget, so the front is one step." if high <= (1 + EPSILON_TOLERANCE) * low else "",
    )
    return figure


@styled
def per_class_plot(results: Results) -> Figure:
    """Accuracy on each class of a classifier trained on the generated images: a row a cell, a column a class."""
    texts = results.trials.get("per_class", pd.Series(dtype=object)).dropna()
    documents = {index: json.loads(text) for index, text in texts.items()}
    names = list(dict.fromkeys(name for document in documents.values() for name in document))
    if not names:
        raise ResultsError("no trial has accuracies a class, so there is nothing to draw of them")
    prefix = names[0].rsplit("_class_", 1)[0]
    wide = pd.DataFrame.from_dict(documents, orient="index")[[name for name in names if name.startswith(f"{prefix}_class_")]]
    mean = wide.groupby(results.trials["cell"].astype(str)).mean()
    ranked = mean.loc[mean.mean(axis=1).sort_values(ascending=False).index]
    shown = ranked.head(MAX_SERIES)
    labels = [wrapped(name or "the only cell", 2.4) for name in shortened(list(shown.index))]
    lines = max(label.count("\n") + 1 for label in labels)
    height = len(shown) * max(0.26, lines * plotting.LINE + 0.05)
    figure, (axes,) = plotting.panels(1, 1, height + 0.5, max(WIDTH, 0.37 * shown.shape[1] + 2.8))
    heat(axes, shown.to_numpy(), shown.map("{:.2f}".format).to_numpy().tolist(), [0, 1], "higher")
    axes.set_xticklabels([name.rsplit("_", 1)[1] for name in shown])
    axes.set_yticklabels(labels)
    axes.set_xlabel("class")
    heading = results.metrics[prefix].heading if prefix in results.metrics else prefix
    plotting.caption(
        figure,
        f"{heading}: accuracy on the real test images of each class, mean over seeds; higher is better, and lighter.",
        "Rows: cells, the best mean over classes first." if len(ranked) > 1 else "",
        _left_out(len(ranked) - len(shown), "cells"),
    )
    return figure


@styled
def epsilon_against_step(results: Results) -> Figure:
    """Epsilon spent after each step: a line a distinct account, the targets dashed. Trials of one account share a line."""
    curves = distinct_accounts(results.history, results.trials, EPSILON_TOLERANCE)
    if not curves:
        raise ResultsError("no step of any trial has a proven epsilon, so there is no account to draw")
    figure, (axes,) = plotting.panels(1, 1, 2.7)
    handles = []
    for number, (_, curve) in enumerate(curves[:MAX_SERIES]):
        curve = thinned(curve)
        handles += axes.plot(curve["step"], curve["epsilon"], **look(number) | {"marker": None})
    ends = [curve["epsilon"].iloc[-1] for _, curve in curves]
    targets = sorted(results.trials["target_epsilon"].dropna().unique())
    for target in targets:
        axes.axhline(target, color=MUTED, linestyle=(0, (2, 2)), linewidth=1)
    if max(ends) > 10 * min(ends):  # on a linear axis the small ones would lie on each other
        plotting.logarithmic(axes, "y")
    else:
        axes.set_ylim(bottom=0)
    axes.set_xlim(left=0)
    deltas = results.trials["delta"].dropna().unique()
    axes.set_xlabel("steps (generator updates)")
    axes.set_ylabel(f"epsilon (delta = {deltas[0]:g})" if len(deltas) == 1 else "epsilon")
    names = [name for name, _ in curves[:MAX_SERIES]]
    if targets:
        handles.append(Line2D([], [], color=MUTED, linestyle=(0, (2, 2)), linewidth=1))
        names.append("target" if len(targets) == 1 else "targets")
    plotting.legend(figure, handles, names)
    plotting.caption(
        figure,
        f"Epsilon of all releases up to a step. Trials whose accounts agree within {100 * EPSILON_TOLERANCE:g} % share a line.",
        _left_out(len(curves) - MAX_SERIES, "accounts"),
    )
    return figure


@styled
def training_curves(results: Results) -> Figure:
    """What training showed at its checkpoints, over the steps: a panel a quantity, a line a cell (mean over its seeds)."""
    history = results.history
    quantities = {name: _heading(metric) for name, metric in results.metrics.items() if name in history}
    quantities |= {name: name.removeprefix("metric.").replace("_", " ") for name in history if name.startswith("metric.")}
    quantities = {name: text for name, text in quantities.items() if history[name].notna().any()}
    if not quantities:
        raise ResultsError("the history of these trials holds no quantity beside epsilon, so there are no curves to draw")
    ranked = list(dict.fromkeys(results.trials["cell"]))
    if results.metrics:
        metric = results.metrics[results.main_metric()]
        ranked = _best_first(results.trials.groupby("cell", observed=True)[metric.name].mean(), metric)
    present = set(history["cell"])
    with_history = [cell for cell in ranked if cell in present]
    shown = with_history[:MAX_SERIES]
    columns = min(2, len(quantities))
    figure, panels = plotting.panels(len(quantities), columns, 2.7 if columns == 1 else 2.3)
    for axes, (name, text) in zip(panels, quantities.items(), strict=True):
        means = history.groupby(["cell", "step"], observed=True)[name].mean().dropna()
        for number, cell in enumerate(shown):
            if cell in means.index.get_level_values("cell"):
                curve = thinned(means[cell].reset_index())
                axes.plot(curve["step"], curve[name], **look(number), markevery=max(1, len(curve) // 6))
        if plotting.needs_logarithm(means):
            plotting.logarithmic(axes, "y")
        axes.set_xlabel("steps (generator updates)")
        axes.set_ylabel(wrapped(text, 2))
    if len(shown) > 1:
        plotting.legend(figure, _handles(len(shown)), shortened([str(cell) for cell in shown]))
    plotting.caption(
        figure,
        "Means over seeds.",
        f"Cells in the order of {metric.heading}, best first." if len(shown) > 1 and results.metrics else "",
        _left_out(len(with_history) - len(shown), "cells"),
    )
    return figure


def _best_panels(found: Sequence[Grid], metric: Metric) -> list[Grid]:
    """As many grids as a picture holds, those with the best means, in their order."""
    means = [metric.sign * grid.frame(metric.name).to_numpy(float) for grid in found]
    count = max(1, min(MAX_PANELS, MAX_NUMBERS // max(mean.size for mean in means)))
    kept = sorted(range(len(found)), key=lambda number: -np.nanmax(means[number]))[:count]
    return [found[number] for number in sorted(kept)]


def _rows(labels: Sequence[str], height: float = 0.2) -> tuple[Figure, Axes]:
    """A figure with a labelled row an item, of at least ``height`` inches each, the first on top."""
    lines = max(label.count("\n") + 1 for label in labels)
    figure, (axes,) = plotting.panels(1, 1, max(2, len(labels)) * max(height, lines * plotting.LINE + 0.06) + 0.5)
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    return figure, axes


def _numbers(grid: Grid, metric: Metric) -> list[list[str]]:
    """Means and their standard deviations as tables show them, in two lines; a dash where there is no mean."""
    mean, sd, n = (grid.frame(metric.name, value).to_numpy(float) for value in ("mean", "sd", "n"))
    texts = [["\N{EN DASH}"] * mean.shape[1] for _ in mean]
    for row, column in np.argwhere(~np.isnan(mean)):
        text = mean_and_spread(metric.text(mean[row, column]), sd[row, column], n[row, column])
        texts[row][column] = text.replace(" \N{PLUS-MINUS SIGN} ", "\n\N{PLUS-MINUS SIGN}")
    return texts


def _best_first(means: pd.Series, metric: Metric) -> list[Any]:
    """The index of the means, those without one last."""
    return list(means.sort_values(ascending=metric.better == "lower", na_position="last", kind="stable").index)


def _handles(count: int) -> list[Line2D]:
    return [Line2D([], [], **look(number)) for number in range(count)]


def _are_numbers(values: Sequence[Any]) -> bool:
    return all(isinstance(value, int | float | np.number) and not isinstance(value, bool) for value in values)


def _heading(metric: Metric) -> str:
    return f"{metric.heading} ({metric.better} is better)"


def _seeds(counts: Iterable[float]) -> str:
    """How many seeds are behind the means, of which 0 are none."""
    there = [int(count) for count in counts if count > 0]
    low, high = min(there, default=0), max(there, default=0)
    return f"{low} to {high} seeds" if low < high else "one seed" if high == 1 else f"{high} seeds"


def _means_of(counts: pd.Series, marks: str) -> str:
    """What points and ``marks`` are."""
    if counts.max() > 1:
        return f"Points: means over {_seeds(counts)}; {marks}: 95 % Student intervals of the mean."
    return "Points: one seed each, so there are no intervals."


def _left_out(count: int, things: str, how: str = "left out") -> str:
    if count == 1:
        return f"1 further {things.removesuffix('s')} is {how}."
    return f"{count} further {things} are {how}." if count > 1 else ""
