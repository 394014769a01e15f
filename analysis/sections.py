"""What the report says of settings and scores: the grid, the paper's tables, all cells, samples, training, trials."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL.Image import Image

from . import figures, grid, sheets, tables
from .files import Files
from .page import (
    Block,
    Heading,
    Items,
    More,
    Pictures,
    Section,
    Strips,
    Text,
    Trials,
    columns_of,
    counted,
    montage,
    picture,
    strings,
)
from .paper import said_once
from .results import Metric, Results, ResultsError
from .table import epsilon_text, spread

SHOWN_CLASSES = range(10)
"""Labels of the classes whose images are shown."""
MOST_STRIPS = 24
"""Cells whose samples are shown one under the other, best first."""
MOST_SHEETS = 4
"""Sheets of grids in the page, of the first combinations of the other settings."""


@dataclass(frozen=True)
class Subject:
    """What a report is about. ``metric`` is None, and so is ``best``, where no trial has a metric."""

    results: Results
    metric: Metric | None
    best: grid.Best | None
    files: Files


def between(metric: Metric, low: float, high: float) -> str:
    return f"{metric.text(low)} to {metric.text(high)}"


def of_classes(results: Results) -> str:
    """Which classes' images are shown, where there are more: to stand behind "a row a class"."""
    classes = results.trials["data_classes"].max()
    few = pd.isna(classes) or classes <= len(SHOWN_CLASSES)
    return "" if few else f" (the first {len(SHOWN_CLASSES)} of {int(classes)} classes)"


def why_no_real_images(results: Results, there: bool) -> Iterator[Text]:
    if not there:
        why = "none were kept beside these results"
        if not results.public:
            why = "the data are not declared public"
        elif any(sweep.running for sweep in results.sweeps):
            why += " yet; the command that runs the sweep keeps them when it ends"
        yield Text(f"No real images are shown: {why}.", "quiet")


def the_grid(subject: Subject) -> Section:
    """What the settings do: heatmaps, neighbours of the best cell, effects, importance, the front, epsilon over the steps."""
    crossed = bool(grid.grids(subject.results))
    return Section("grid", "The grid" if crossed else "What the settings do", tuple(_grid(subject, crossed)))


def _grid(subject: Subject, crossed: bool) -> Iterator[Block]:
    results, metric, best, files = subject.results, subject.metric, subject.best, subject.files
    if metric is None or best is None:
        yield Text("No trial has a metric yet, so there is nothing to lay out.")
    else:
        name = metric.name
        if crossed:
            yield drawn(files, partial(figures.heatmaps, results, name), f"heatmap_{name}", f"{metric.heading} over the grid")
        else:
            yield Text("No two settings cross here, so there is no grid to draw.", "quiet")
        yield drawn(
            files, partial(figures.response_curves, results, name), f"response_{name}", f"Response curves of {metric.heading}"
        )
        others = [other for other in results.metrics if other != name]
        if others:
            yield More("The same of every other metric", tuple(_other_metrics(subject, others, crossed)))
        if len(best.neighbours):
            yield files.table(tables.neighbours_table(results, best))
        else:
            yield Text("The best cell has no neighbour one step away along a single axis.")
        yield from _what_matters(subject, metric)
    yield Heading("What it costs")
    if metric is not None:
        front = tables.pareto_table(results, metric.name)
        if one_budget(front.data["epsilon"]):
            cells = "All cells were" if len(front.data) > 1 else "The only cell was"
            yield Text(f"{cells} bought at epsilon {spread(front.data['epsilon'])}, so there is no trade to draw.")
        else:
            yield drawn(
                files,
                partial(figures.pareto_plot, front.data, metric),
                f"pareto_{metric.name}",
                f"{metric.heading} against epsilon",
            )
            yield More("Every cell against epsilon, as a table", (files.table(front),))
    yield drawn(files, partial(figures.epsilon_against_step, results), "epsilon_against_step", "Epsilon against steps")


def _other_metrics(subject: Subject, others: list[str], crossed: bool) -> Iterator[Block]:
    results, files = subject.results, subject.files
    for name in others:
        heading = results.metrics[name].heading
        if crossed:
            yield drawn(files, partial(figures.heatmaps, results, name), f"heatmap_{name}", f"{heading} over the grid")
        else:
            yield drawn(
                files,
                partial(figures.response_curves, results, name),
                f"response_{name}",
                f"Response curves of {heading}",
            )


def _what_matters(subject: Subject, metric: Metric) -> Iterator[Block]:
    results, files = subject.results, subject.files
    effects = tables.effects_table(results, metric.name)
    yield drawn(
        files,
        partial(figures.effects_plot, effects.data, metric),
        f"effects_{metric.name}",
        f"What each setting adds to {metric.heading}",
    )
    if len(effects.data):
        yield More("These effects as a table, with the seeds that each claim would need", (files.table(effects),))
    importance = tables.importance_table(results, metric.name)
    yield drawn(
        files,
        partial(figures.importance_plot, importance.data),
        f"importance_{metric.name}",
        f"Which settings matter for {metric.heading}",
    )
    if len(importance.data):
        yield More("These shares as a table", (files.table(importance),))


def drawn(files: Files, draw: Callable[[], Figure], name: str, title: str) -> Block:
    """The drawing, or the sentence that says why there is none."""
    try:
        figure = draw()
    except ResultsError as error:
        return Text(sentence(f"{title} is left out: {error}"), "quiet")
    return files.drawing(figure, name, title)


def sentence(text: str) -> str:
    """
    >>> sentence("no trial has a metric yet")
    'No trial has a metric yet.'
    """
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")


def one_budget(epsilons: pd.Series) -> bool:
    """Whether all are proven and as good as the same: one target, met by each method as closely as its steps allow."""
    return bool(len(epsilons)) and bool(np.isfinite(epsilons).all()) and epsilons.max() <= 1.02 * epsilons.min()


def paper(subject: Subject) -> Section:
    """The paper's tables with ours under the printed rows, and everything that is published beside ours."""
    return Section("paper", "Beside printed numbers", tuple(_paper(subject)))


def _paper(subject: Subject) -> Iterator[Block]:
    files, found = subject.files, tables.paper_tables(subject.results)
    shared, own = said_once(found)
    printed = [replace(files.table(table), notes=notes) for table, notes in zip(found, own, strict=True)]
    claims = "A printed epsilon is what its authors claim; the notes under the tables say what is proven."
    if any((table.data["source"] == "ours").any() for table in found):
        yield Text(f"Ours stand under the printed rows. {claims}")
        yield from printed
        yield Items(shared, "footnotes")
    else:
        why = "none of these results is on their data" if subject.metric else "no trial has a metric to stand beside them yet"
        yield More(f"The paper's tables; {why}", (Text(claims), *printed, Items(shared, "footnotes")))
    yield More("Everything published on the same data at the same epsilon", (files.table(tables.baselines(subject.results)),))


def cells(subject: Subject) -> Section:
    """Every cell with every metric, and the accuracy a class."""
    blocks = [
        subject.files.table(tables.cells_table(subject.results)),
        drawn(subject.files, partial(figures.per_class_plot, subject.results), "per_class", "Accuracy on each class"),
    ]
    return Section("cells", "All cells", tuple(blocks))


def samples(subject: Subject) -> Section:
    """Generated images beside real ones: a strip a cell, best first, and the sheets of methods and of the grid."""
    return Section("samples", "Samples", tuple(_samples(subject)))


def _samples(subject: Subject) -> Iterator[Block]:
    results, metric = subject.results, subject.metric
    trials = results.trials.sort_values("seed", kind="stable")
    order = list(trials["cell"].cat.categories)
    if metric is not None:
        means = metric.sign * trials.groupby("cell", observed=True)[metric.name].mean()
        order = list(means.sort_values(ascending=False, kind="stable").index)
    first = trials[trials["cell"].isin(order[:MOST_STRIPS]) & trials["steps"].notna()].drop_duplicates("cell")
    made = results.samples(trial_ids=first["trial_id"], classes=SHOWN_CLASSES, per_class=1)
    if made.empty:
        yield Text("No trial has kept images (keep_samples: 100 in the sweep's file keeps some).")
        return
    first = first[first["trial_id"].isin(made["trial_id"])].set_index("cell")
    rows = [
        (cell, made[made["trial_id"] == first.loc[cell, "trial_id"]]) for cell in order[:MOST_STRIPS] if cell in first.index
    ]
    real = results.real_samples(classes=SHOWN_CLASSES, per_class=1)
    strips = [*(("real test images", of_one) for _, of_one in real.groupby("trial_id", sort=False)), *rows]
    left_out = len(order) - MOST_STRIPS
    yield Strips(
        title=f"One image a class{of_classes(results)}",
        caption="The first that was kept, not chosen, of the lowest seed"
        + (f"; cells in the order of {metric.heading}, best first" if metric else "")
        + (f"; {counted(left_out, 'cell')} left out." if left_out > 0 else "."),
        pictures=tuple(
            montage(
                [list(images["image"])], str(cell) or "the only cell", f"{cell}: {counted(len(images), 'image')}, one a class"
            )
            for cell, images in strips
        ),
    )
    yield from why_no_real_images(results, len(real) > 0)
    methods = _sheet(subject, "samples", "Methods by class", partial(sheets.sample_sheet, class_labels=SHOWN_CLASSES))
    yield More(f"The methods side by side, a row a class{of_classes(results)}", (methods,))
    for number, found in enumerate(grid.grids(results)[:MOST_SHEETS]):
        title = f"Images over the grid{f', {found.title}' if found.title else ''}"
        name = f"samples_grid{f'_{number + 1}' if number else ''}"
        sheet = _sheet(subject, name, title, partial(sheets.grid_sheet, grid=found, class_labels=SHOWN_CLASSES))
        yield More(f"{title}{of_classes(results)}", (sheet,))


def _sheet(subject: Subject, name: str, title: str, make: Callable[[Results], Image]) -> Block:
    try:
        sheet = make(subject.results)
    except ResultsError as error:
        return Text(sentence(str(error)), "quiet")
    file = io.BytesIO()
    sheet.save(file, format="PNG")
    subject.files.picture(file.getvalue(), name)
    return Pictures(
        (picture(file.getvalue(), title, f"{title}: a sheet of generated images", sheet.width // 2, sheet.height // 2),)
    )


def training(subject: Subject) -> Section:
    """What training showed at its checkpoints."""
    history = subject.results.history
    drawing = drawn(
        subject.files, partial(figures.training_curves, subject.results), "training_curves", "Training over the steps"
    )
    blocks: list[Block] = [drawing]
    if "metric.release_norm" in history and history["metric.release_norm"].notna().any():
        blocks.append(
            Text(
                "Release norm: the norm of what a step releases, noise included. It says little of how well training goes.",
                "quiet",
            )
        )
    return Section("training", "Training curves", tuple(blocks))


def trials(subject: Subject) -> Section:
    """The table of all trials."""
    table = tables.trials_table(subject.results)
    links = subject.files.frame(table, "trials")
    shown = strings(table)
    for name, metric in subject.results.metrics.items():
        if name in table:
            shown[name] = [metric.text(value) for value in table[name]]
    shown["epsilon"] = (
        ["" if pd.isna(value) else epsilon_text(value) for value in table["epsilon"]] if "epsilon" in table else ""
    )
    titles = dict(subject.results.columns["description"])
    columns = columns_of(shown, titles, {name: metric.heading for name, metric in subject.results.metrics.items()})
    statuses = table["status"].astype(str)
    rows = tuple(zip(statuses, shown.itertuples(index=False, name=None), strict=True))
    return Section("trials", "All trials", (Trials(columns, rows, tuple(sorted(set(statuses))), links),))
