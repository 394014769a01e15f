"""One function a picture; each returns a matplotlib ``Figure`` for ``plotting.save`` and ``plotting.inline``.

Pictures of whole results take ``Results`` and the name of a metric, pictures of a frame of ``grid`` take the frame and the
``Metric``. All raise ``ResultsError`` with a sentence where there is nothing to draw.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from . import plotting
from .drawing import Places, distinct_accounts, heat, ordered, outline, thinned
from .grid import Grid, best, cells, factors, grids
from .plotting import INK, MUTED, PAPER, look, plain, shortened, styled
from .results import ResultsError

if TYPE_CHECKING:
    from .results import Metric, Results

MAX_SERIES = 12
"""Most lines, or cells, in one picture; the caption says how many are left out."""
MAX_PANELS = 9


@styled
def heatmaps(results: Results, metric: str) -> Figure:
    """``metric`` over the two axes that cross: a panel a combination of the others, a number with its interval a cell.

    Outlined is the best cell of each panel; a dot marks its neighbours that no test tells from it (``grid.best``).
    """
    described, found = results.metrics[metric], grids(results)
    if not found:
        raise ResultsError("no two axes cross in these results, so there is no grid to draw; give two axes two values each")
    shown, frame = found[:MAX_PANELS], cells(results, [metric])
    means = [grid.frame(metric) for grid in shown]
    width, height = 0.6 * max(len(mean.columns) for mean in means), 0.42 * max(len(mean.index) for mean in means)
    whole = max(plotting.WIDTH, width + 1.2)
    figure, panels = plotting.panels(len(shown), int((whole - 0.3) / (width + 0.55)), height + 0.6, whole)
    for axes, grid, mean in zip(panels, shown, means, strict=True):
        part = _within(frame, grid).set_index([grid.y, grid.x])
        answer = best(results, metric, within=grid)
        alike = set(answer.neighbours.loc[~answer.neighbours["better"].astype(bool), "neighbour"])
        texts = [[_number(part, (y, x), described) for x in mean.columns] for y in mean.index]
        inks = heat(axes, mean.to_numpy(float), texts, frame["mean"], described.better)
        for row, y in enumerate(mean.index):
            for column, x in enumerate(mean.columns):
                cell = part["cell"].get((y, x))
                if cell == answer.cell:
                    outline(axes, row, column)
                elif cell in alike:
                    axes.plot(column + 0.9, row + 0.16, "o", color=inks[row][column], markersize=3)
        axes.set_xticks(np.arange(mean.shape[1]) + 0.5, [plain(x) for x in mean.columns])
        axes.set_yticks(np.arange(mean.shape[0]) + 0.5, [plain(y) for y in mean.index])
        axes.set_xlabel(_setting(grid.x))
        axes.set_ylabel(_setting(grid.y))
        axes.set_title(plotting.wrapped(grid.title, width + 0.5) if len(found) > 1 else "")
    plotting.caption(
        figure,
        f"{_heading(described)}: mean and half-width of its 95 % Student interval over {_seeds(frame['n'])}.",
        "Lighter is better. Outlined: best of the panel.",
        "Dot: a neighbour that no paired test tells from it (5 %, Holm over the neighbours).",
        _left_out(len(found) - len(shown), "panels"),
    )
    return figure


@styled
def response_curves(results: Results, metric: str) -> Figure:
    """``metric`` along one axis, a line a value of the other, a panel a combination of the rest.

    Where no two axes cross, one panel has a line a combination of everything but the axis with most values; where no axis
    is a number, the cells stand under each other.
    """
    frame, described, crossing = cells(results, [metric]), results.metrics[metric], grids(results)
    if crossing:
        x, lines = crossing[0].x, crossing[0].y
        parts = [(grid.title if len(crossing) > 1 else "", _within(frame, grid)) for grid in crossing]
    else:
        names = factors(results)
        numeric = [name for name in names if pd.api.types.is_numeric_dtype(frame[name]) and frame[name].nunique() > 1]
        if not numeric:
            return _cells_plot(frame, described)
        x = max(numeric, key=lambda name: frame[name].nunique())
        lines, rest = "line", [name for name in names if name != x]
        words = [", ".join(_value(name, value) for name, value in zip(rest, row, strict=True)) for row in frame[rest].values]
        parts = [("", frame.assign(line=words))]
    parts, left_out = parts[:MAX_PANELS], len(parts) - MAX_PANELS
    levels = list(dict.fromkeys(level for _, part in parts for level in part[lines]))
    levels = ordered(levels) if crossing else levels
    kept = [levels[round(place)] for place in np.linspace(0, len(levels) - 1, min(len(levels), MAX_SERIES))]
    place = Places(ordered(frame[x].dropna().unique()))
    columns = {1: 1, 2: 2, 4: 2}.get(len(parts), 3)
    figure, panels = plotting.panels(len(parts), columns, 3.2 if columns == 1 else 2.3, sharey=True)
    for axes, (title, part) in zip(panels, parts, strict=True):
        for number, level in enumerate(kept):
            line = part[part[lines] == level]
            line = line.iloc[np.argsort([place.of(value) for value in line[x]])]
            at = [place.of(value, number - (len(kept) - 1) / 2) for value in line[x]]
            _with_bars(axes, at, line, **look(number))
        place.label(axes, 6 / columns)
        axes.set_title(plotting.wrapped(title, 6 / columns))
        axes.set_xlabel(_setting(x))
    for axes in panels[::columns]:
        axes.set_ylabel(plotting.wrapped(_heading(described), 3.2 if columns == 1 else 2))
    if len(kept) > 1:
        handles = [Line2D([], [], **look(number)) for number in range(len(kept))]
        names = [plain(level) for level in kept] if crossing else shortened([str(level) for level in kept])
        plotting.legend(figure, handles, names, _setting(lines) if crossing else None)
    plotting.caption(
        figure,
        f"Mean and 95 % Student interval over {_seeds(frame['n'])}.",
        "Lines are shifted a little sideways so that their bars can be told apart." if len(kept) > 1 else "",
        _left_out(len(levels) - len(kept), "lines"),
        _left_out(left_out, "panels"),
    )
    return figure


def _cells_plot(frame: pd.DataFrame, metric: Metric) -> Figure:
    """A row a cell, the best 3 x MAX_SERIES of them."""
    ranked = frame.dropna(subset=["mean"]).sort_values("mean", ascending=metric.better == "lower")
    if ranked.empty:
        raise ResultsError(f"no trial has {metric.name}, so there is nothing to draw of it")
    shown = ranked.head(3 * MAX_SERIES)
    figure, (axes,) = plotting.panels(1, 1, 0.22 * len(shown) + 0.5)
    rows = np.arange(len(shown))
    axes.hlines(rows, shown["low"], shown["high"], color=plotting.COLOURS[0])
    axes.plot(shown["mean"], rows, "o", color=plotting.COLOURS[0])
    axes.set_yticks(rows, [plotting.wrapped(name, 2.6) for name in shortened([str(cell) for cell in shown["cell"]])])
    axes.set_ylim(len(shown) - 0.5, -0.5)
    axes.set_xlabel(_heading(metric))
    plotting.caption(
        figure,
        f"Mean and 95 % Student interval over {_seeds(frame['n'])}, best first.",
        _left_out(len(ranked) - len(shown), "cells"),
    )
    return figure


KINDS = {"average": "averaged over the others", "alone": "alone", "together": "together", "interaction": "interaction"}
"""How ``grid.effects`` calls a contrast, and how the legend does."""


@styled
def effects_plot(effects: pd.DataFrame, metric: Metric) -> Figure:
    """The differences of ``grid.effects`` with their intervals: a row a contrast."""
    known = effects.dropna(subset=["difference"])
    if known.empty:
        raise ResultsError("nothing that varies has two values that can be compared, so there are no effects to draw")
    shown = known.head(3 * MAX_SERIES)
    labels = [plotting.wrapped(f"{_value(row.factor, row.level)} against {plain(row.base)}", 2.6) for row in shown.itertuples()]
    figure, (axes,) = plotting.panels(1, 1, 0.2 * sum(label.count("\n") + 1 for label in labels) + 0.5)
    axes.axvline(0, color=INK, linewidth=0.8)
    kinds = list(dict.fromkeys(shown["kind"]))
    for row, effect in enumerate(shown.itertuples()):
        style = look(list(KINDS).index(effect.kind) if effect.kind in KINDS else len(KINDS))
        axes.hlines(row, effect.low, effect.high, color=style["color"])
        face = style["color"] if effect.p_holm < 0.05 else PAPER
        axes.plot(effect.difference, row, style["marker"], color=style["color"], markerfacecolor=face)
    axes.set_yticks(range(len(shown)), labels)
    axes.set_ylim(len(shown) - 0.5, -0.5)
    axes.set_xlabel(f"difference in {_heading(metric)}")
    if len(kinds) > 1:
        styles = [look(list(KINDS).index(kind) if kind in KINDS else len(KINDS)) for kind in kinds]
        handles = [Line2D([], [], color=style["color"], marker=style["marker"], linestyle="-") for style in styles]
        plotting.legend(figure, handles, [KINDS.get(kind, kind) for kind in kinds])
    plotting.caption(
        figure,
        "Bars: 95 % intervals. Filled: p < 0.05 after Holm's correction.",
        _left_out(len(known) - len(shown), "contrasts"),
    )
    return figure


@styled
def importance_plot(importance: pd.DataFrame) -> Figure:
    """Shares of the variance between trials (``grid.importance``) with their intervals: a row a term."""
    known = importance.dropna(subset=["share"])
    if known.empty:
        raise ResultsError("nothing varies over enough trials to say what matters, so there is nothing to draw")
    labels = [plotting.wrapped(_setting(term), 2.4) for term in known["term"]]
    figure, (axes,) = plotting.panels(1, 1, 0.24 * sum(label.count("\n") + 1 for label in labels) + 0.5)
    rows = np.arange(len(known))
    axes.barh(rows, 100 * known["share"], 0.6, color=plotting.COLOURS[5])
    axes.hlines(rows, 100 * known["low"], 100 * known["high"], color=INK)
    axes.set_yticks(rows, labels)
    axes.set_ylim(len(known) - 0.5, -0.5)
    axes.set_xlim(0, 100)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("share of the variance between trials (%)")
    plotting.caption(figure, "Bars: sums of squares of the fitted model. Lines: 95 % intervals from the residual bootstrap.")
    return figure


@styled
def pareto_plot(pareto: pd.DataFrame, metric: Metric) -> Figure:
    """Utility against epsilon: a point a cell, the front a step line, its cells numbered and named."""
    known = pareto.dropna(subset=["epsilon", "mean"])
    if known.empty:
        raise ResultsError(f"no cell has both a proven epsilon and {metric.name}, so there is no front to draw")
    front = known[known["on_front"].astype(bool)].sort_values("epsilon")
    figure, (axes,) = plotting.panels(1, 1, 3.2)
    cases = (
        list(dict.fromkeys(known["case"])) if "case" in known and 2 <= known["case"].nunique() <= len(plotting.COLOURS) else []
    )
    groups = [(str(case), known[known["case"] == case]) for case in cases] or [("cell", known)]
    handles = []
    for number, (_, group) in enumerate(groups):
        style = look(number) | {"linestyle": "none"}
        axes.vlines(group["epsilon"], group["low"], group["high"], color=style["color"], alpha=0.45, linewidth=1)
        axes.plot(group["epsilon"], group["mean"], **style, markerfacecolor=PAPER)
        on_front = group[group["on_front"].astype(bool)]
        axes.plot(on_front["epsilon"], on_front["mean"], **style)
        handles.append(Line2D([], [], **style))
    left, right = known["epsilon"].min() / 1.35, known["epsilon"].max() * 1.35
    reach = pd.concat([front, front.tail(1).assign(epsilon=right)])
    handles.append(axes.plot(reach["epsilon"], reach["mean"], color=INK, linewidth=1, drawstyle="steps-post", zorder=1)[0])
    axes.set_xlim(left, right)
    plotting.logarithmic(axes, "x")
    named = front.tail(MAX_SERIES // 2)
    for number, row in enumerate(named.itertuples(), 1):
        axes.annotate(str(number), (row.epsilon, row.mean), (5, 3), textcoords="offset points", weight="bold")
    axes.set_xlabel("epsilon proven for a trial of the cell (lower is more private)")
    axes.set_ylabel(_heading(metric))
    plotting.legend(figure, handles, [*(name for name, _ in groups), "front"])
    words = shortened([str(cell) for cell in named["cell"]])
    plotting.caption(
        figure,
        "Filled: on the front, no other cell has a better mean at this epsilon or less.",
        f"Vertical bars: 95 % Student intervals over {_seeds(known['n'])}.",
        " ".join(f"{number}: {text}{'.' if number == len(words) else ';'}" for number, text in enumerate(words, 1)),
        _left_out(len(front) - len(named), "cells of the front", "not named"),
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
    width = max(plotting.WIDTH, 0.4 * shown.shape[1] + 2.6)
    labels = [plotting.wrapped(name, 2) for name in shortened(list(shown.index))]
    lines = max(label.count("\n") + 1 for label in labels)
    figure, (axes,) = plotting.panels(1, 1, len(shown) * max(0.26, 0.05 + lines * plotting.line_height()) + 0.5, width)
    heat(axes, shown.to_numpy(), [[f"{value:.2f}" for value in row] for row in shown.to_numpy()], [0, 1], "higher")
    axes.set_xticks(np.arange(shown.shape[1]) + 0.5, [name.rsplit("_", 1)[1] for name in shown])
    axes.set_yticks(np.arange(len(shown)) + 0.5, labels)
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
    curves = distinct_accounts(results.history, results.trials)
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
    if max(ends) > 10 * min(ends):
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
        "Epsilon of all releases up to a step; trials with the same account share a line.",
        _left_out(len(curves) - MAX_SERIES, "accounts"),
    )
    return figure


@styled
def training_curves(results: Results) -> Figure:
    """What training showed at its checkpoints, over the steps: a panel a quantity, a line a cell (mean over its seeds)."""
    history, metric = results.history, results.main_metric()
    quantities = {name: name.removeprefix("metric.").replace("_", " ") for name in history if name.startswith("metric.")}
    quantities = {name: _heading(results.metrics[name]) for name in results.metrics if name in history} | quantities
    quantities = {name: text for name, text in quantities.items() if history[name].notna().any()}
    if not quantities:
        raise ResultsError("the history of these trials holds no quantity beside epsilon, so there are no curves to draw")
    ranks = results.trials.groupby("cell", observed=True)[metric].mean()
    ranked = list(ranks.sort_values(ascending=results.metrics[metric].better == "lower", na_position="last").index)
    with_history = [cell for cell in ranked if cell in set(history["cell"])]
    shown = with_history[:MAX_SERIES]
    columns = min(2, len(quantities))
    figure, panels = plotting.panels(len(quantities), columns, 2.7 if columns == 1 else 2.3)
    for axes, (name, text) in zip(panels, quantities.items(), strict=True):
        means = history.groupby(["cell", "step"], observed=True)[name].mean().dropna()
        for number, cell in enumerate(shown):
            if cell in means.index.get_level_values("cell"):
                curve = thinned(means[cell].reset_index())
                axes.plot(curve["step"], curve[name], **look(number), markevery=max(1, len(curve) // 6))
        if plotting.spread_over_decades(means):
            plotting.logarithmic(axes, "y")
        axes.set_xlabel("steps (generator updates)")
        axes.set_ylabel(plotting.wrapped(text, 2))
    if len(shown) > 1:
        handles = [Line2D([], [], **look(number)) for number in range(len(shown))]
        plotting.legend(figure, handles, shortened([str(cell) for cell in shown]))
    plotting.caption(
        figure,
        "Means over seeds.",
        f"Cells in the order of {results.metrics[metric].heading}, best first." if len(shown) > 1 else "",
        _left_out(len(with_history) - len(shown), "cells"),
    )
    return figure


def _number(part: pd.DataFrame, key: Hashable, metric: Metric) -> str:
    """The mean as tables show it, and half of its interval's width to the same digits."""
    if key not in part.index or np.isnan(part.loc[key, "mean"]):
        return "\N{EN DASH}"
    cell = part.loc[key]
    mean = metric.text(cell["mean"])
    half = (cell["high"] - cell["low"]) / 2
    return mean if np.isnan(half) else f"{mean}\n±{half:.{len(mean.partition('.')[2])}f}"


def _with_bars(axes: Axes, at: Sequence[float], line: pd.DataFrame, **style: Any) -> None:
    axes.vlines(at, line["low"], line["high"], color=style["color"], linewidth=1)
    axes.plot(at, line["mean"], **style)


def _within(frame: pd.DataFrame, grid: Grid) -> pd.DataFrame:
    """The cells of one panel."""
    for name, value in grid.facet.items():
        frame = frame[frame[name].isna() if pd.isna(value) else frame[name] == value]
    return frame


def _heading(metric: Metric) -> str:
    return f"{metric.heading} ({metric.better} is better)"


def _setting(name: str) -> str:
    return name.removeprefix("axis.")


def _value(name: str, value: Any) -> str:
    return str(value) if name in ("case", "method") else f"{_setting(name)} = {plain(value)}"


def _seeds(counts: Sequence[float]) -> str:
    low, high = int(min(counts, default=0)), int(max(counts, default=0))
    return f"{high} seed{'s' * (high != 1)}" if low == high else f"{low} to {high} seeds"


def _left_out(count: int, things: str, how: str = "left out") -> str:
    return f"{count} further {things} are {how}." if count > 0 else ""
