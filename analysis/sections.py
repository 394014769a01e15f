"""What the report says of settings and scores: the grid, the paper's tables, all cells, samples, training, trials."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import pandas as pd
from matplotlib.figure import Figure
from PIL.Image import Image

from . import figures, grid, sheets, tables
from .files import Files
from .page import (
    Block,
    Heading,
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
from .results import Metric, Results, ResultsError
from .table import epsilon_text

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


def why_no_real_images(results: Results, there: bool) -> Iterator[Text]:
    if not there:
        why = "none were kept beside these results" if results.public else "the data are not declared public"
        yield Text(f"No real images are shown: {why}.", "quiet")


def the_grid(subject: Subject) -> Section:
    """What the settings do: heatmaps, neighbours of the best cell, effects, importance, the front, epsilon over the steps."""
    return Section("grid", "The grid", tuple(_grid(subject)))


def _grid(subject: Subject) -> Iterator[Block]:
    results, metric, best, files = subject.results, subject.metric, subject.best, subject.files
    if metric is None or best is None:
        yield Text("No trial has a metric yet, so there is nothing to lay out.")
    else:
        name = metric.name
        yield drawn(files, partial(figures.heatmaps, results, name), f"heatmap_{name}", f"{metric.heading} over the grid")
        yield drawn(
            files, partial(figures.response_curves, results, name), f"response_{name}", f"Response curves of {metric.heading}"
        )
        others = [other for other in results.metrics if other != name]
        if others:
            yield More("The same of every other metric", tuple(_other_metrics(subject, others)))
        if len(best.neighbours):
            yield files.table(tables.neighbours_table(results, best))
        else:
            yield Text("The best cell has no neighbour one step away along a single axis.")
        yield from _what_matters(subject, metric)
    yield Heading("What it costs")
    if metric is not None:
        front = tables.pareto_table(results, metric.name)
        yield drawn(
            files,
            partial(figures.pareto_plot, front.data, metric),
            f"pareto_{metric.name}",
            f"{metric.heading} against epsilon",
        )
        yield More("Every cell against epsilon, as a table", (files.table(front),))
    yield drawn(files, partial(figures.epsilon_against_step, results), "epsilon_against_step", "Epsilon against steps")


def _other_metrics(subject: Subject, others: list[str]) -> Iterator[Block]:
    results, files = subject.results, subject.files
    crossed = bool(grid.grids(results))
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


def paper(subject: Subject) -> Section:
    """The paper's tables with ours under the printed rows, and everything that is published beside ours."""
    files = subject.files
    return Section(
        "paper",
        "Beside printed numbers",
        (
            Text(
                "Ours stand under the printed rows. A printed epsilon is what its authors claim; the notes say what is proven."
            ),
            *(files.table(table) for table in tables.paper_tables(subject.results)),
            More(
                "Everything published on the same data at the same epsilon", (files.table(tables.baselines(subject.results)),)
            ),
        ),
    )


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
    made = results.samples(trial_ids=first["trial_id"], per_class=1)
    if made.empty:
        yield Text("No trial has kept images (keep_samples: 100 in the sweep's file keeps some).")
        return
    first = first[first["trial_id"].isin(made["trial_id"])].set_index("cell")
    rows = [
        (cell, made[made["trial_id"] == first.loc[cell, "trial_id"]]) for cell in order[:MOST_STRIPS] if cell in first.index
    ]
    real = results.real_samples(per_class=1)
    strips = [*(("real test images", of_one) for _, of_one in real.groupby("trial_id", sort=False)), *rows]
    left_out = len(order) - MOST_STRIPS
    yield Strips(
        title="One image a class",
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
    yield More(
        "The methods side by side, a row a class", (_sheet(subject, "samples", "Methods by class", sheets.sample_sheet),)
    )
    for number, found in enumerate(grid.grids(results)[:MOST_SHEETS]):
        title = f"Images over the grid{f', {found.title}' if found.title else ''}"
        name = f"samples_grid{f'_{number + 1}' if number else ''}"
        yield More(title, (_sheet(subject, name, title, partial(sheets.grid_sheet, grid=found)),))


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
    return Section(
        "training",
        "Training curves",
        (
            drawn(
                subject.files, partial(figures.training_curves, subject.results), "training_curves", "Training over the steps"
            ),
        ),
    )


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
