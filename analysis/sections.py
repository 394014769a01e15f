"""What the report says of settings and scores: the answer, the grid, the paper's tables, all cells, samples, training."""

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
    Items,
    More,
    Number,
    Numbers,
    Picture,
    Pictures,
    Section,
    Strips,
    TableBlock,
    Text,
    Trials,
    columns_of,
    counted,
    listed,
    montage,
    picture,
    strings,
)
from .results import Metric, Results, ResultsError
from .table import Table, epsilon_text

ANSWER_SAMPLES = 8
"""Images a class beside the answer."""
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


def answer(subject: Subject) -> Section:
    """The best setting, how well it does and what it and the choice of it cost."""
    return Section("answer", "The answer", tuple(_answer(subject)))


def _answer(subject: Subject) -> Iterator[Block]:
    results, metric, best = subject.results, subject.metric, subject.best
    if metric is None or best is None:
        yield Text("No trial has a metric yet, so there is no best setting to name.")
        return
    chosen = results.trials[results.trials["cell"] == best.cell]
    found = best.interval
    numbers = [
        Number(
            f"{metric.heading}, {metric.better} is better",
            metric.text(found.mean),
            f"95 % interval {between(metric, found.low, found.high)}, {counted(found.n, 'seed')}"
            if found.n > 1
            else "one seed: no interval",
        ),
        Number("proven epsilon of one such generator", spread(chosen["epsilon"]), account(chosen)),
        *price(results),
    ]
    yield Numbers(setting=best.cell or "the only cell", numbers=tuple(numbers))
    yield Items(tuple(_remarks(results, metric, best)))
    for name, text in proofs(results, chosen):
        yield Text(f"Proof {name}: {text}", "quiet")
    yield _metrics_of_best(subject, chosen)
    yield from _samples_of_best(subject, chosen)


def _remarks(results: Results, metric: Metric, best: grid.Best) -> Iterator[str]:
    yield best.sentence
    if len(best.others):
        yield "The best mean is chosen after looking, so it leans to the lucky side."
    yield choice(results, metric)
    if len(results.sweeps) > 1:
        yield (
            "Prices are those of each sweep. Whoever has seen several sweeps on the same data is promised at most the sum of "
            "their epsilons, at the sum of their deltas."
        )


def spread(values: pd.Series) -> str:
    """An epsilon, or the range of several; rounded up."""
    known = values.dropna()
    if known.empty:
        return "not proven"
    low, high = epsilon_text(known.min()), epsilon_text(known.max())
    return low if low == high else f"{low} to {high}"


def between(metric: Metric, low: float, high: float) -> str:
    return f"{metric.text(low)} to {metric.text(high)}"


def account(rows: pd.DataFrame) -> str:
    """Delta, neighbours, accountant and proof of these trials in a few words."""
    words = [f"delta {value:g}" for value in rows["delta"].dropna().unique()]
    words += [f"neighbours: {str(value).replace('_', ' ')}" for value in rows["neighbours"].dropna().unique()]
    words += [f"accountant: {str(value).upper()}" for value in rows["accountant"].dropna().unique()]
    words += [f"proof: {value}" for value in rows["proof"].dropna().unique()]
    return ", ".join(words)


def price(results: Results) -> Iterator[Number]:
    """Everything that the sweeps say of the price of choosing; entries are not known here, only their names and numbers."""
    for sweep in results.sweeps:
        totals = sweep.document.get("totals", {})
        for key in ("compose", "price"):
            for entry in _entries(totals.get(key)):
                yield _priced(sweep.name if len(results.sweeps) > 1 else "", key, entry)


def _entries(found: object) -> list[dict]:
    if isinstance(found, dict) and all(isinstance(value, dict) for value in found.values()) and found:
        return [{"name": name, **entry} for name, entry in found.items()]
    if isinstance(found, dict):
        return [found]  # the schema before one entry a neighbouring relation
    return [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []


def _priced(sweep: str, key: str, entry: dict) -> Number:
    entry = dict(entry)
    name = entry.pop("name", None)
    value, count = entry.pop("epsilon", None), entry.pop("trials", None)
    if key == "compose":
        term = f"epsilon of having seen all {counted(count, 'generator') if isinstance(count, int) else 'generators'}"
    else:
        term = f"price of choosing{f', {count} trials' if count else ''}"
    term = ", ".join(word for word in (f"{term}: {name}" if name else term, sweep) if word)
    details = [f"{word.replace('_', ' ')} {_plain(detail)}" for word, detail in entry.items() if detail is not None]
    return Number(term, epsilon_text(value) if isinstance(value, int | float) else "not proven", ", ".join(details))


def _plain(detail: object) -> str:
    if isinstance(detail, float):
        return f"{detail:g}"
    return detail.replace("_", " ") if isinstance(detail, str) else str(detail)


def choice(results: Results, metric: Metric) -> str:
    """What the choice itself costs beside the generators: nothing, or something that no account has."""
    private_test = bool((results.trials["test_set"] == "private").any()) and "test set" in metric.reference
    if private_test or metric.private:
        why = "the test set is declared private" if private_test else "it is computed from the private training set"
        return (
            f"The choice was made by {metric.heading}, a score on private data ({why}). Choosing by such a score is covered by "
            "no epsilon: neither by that of one generator nor by that of all of them."
        )
    return (
        f"The choice was made by {metric.heading}, which touches private data through the generators alone. Whoever has seen "
        "all of them, failed and superseded ones too, is promised the epsilon of all, not that of one. Choosing by a score on "
        "private data would be covered by no epsilon."
    )


def proofs(results: Results, rows: pd.DataFrame) -> Iterator[tuple[str, str]]:
    """Name and theorem of every proof behind the epsilon of these trials."""
    texts = {name: text for sweep in results.sweeps for name, text in sweep.document.get("proofs", {}).items()}
    names = dict.fromkeys(name for proof in rows["proof"].dropna().unique() for name in str(proof).split("+"))
    for name in names:
        yield (
            name,
            texts.get(name, "its theorem is not recorded beside these results; the version of dpsweep that ran names it."),
        )


def _metrics_of_best(subject: Subject, chosen: pd.DataFrame) -> TableBlock:
    results = subject.results
    cells = grid.cells(results)
    found = cells[cells["cell"] == subject.best.cell].set_index("metric") if subject.best else cells.iloc[:0]
    rows = []
    for name, metric in results.metrics.items():
        if name not in found.index or pd.isna(found.loc[name, "mean"]):
            continue
        row = found.loc[name]
        real = results.real[name].dropna() if name in results.real else pd.Series(dtype=float)
        rows.append(
            {
                "metric": metric.heading,
                "better": metric.better,
                "mean": metric.text(row["mean"]),
                "95 % interval": between(metric, row["low"], row["high"]) if pd.notna(row["low"]) else "",
                "sd": metric.text(row["sd"]) if pd.notna(row["sd"]) else "",
                "seeds": str(int(row["n"])),
                "real images": metric.text(real.mean()) if len(real) else "",
            }
        )
    data = found.reset_index()
    shown = pd.DataFrame(rows, dtype=object)
    images = chosen["evaluation_samples"].dropna().unique()
    notes = [f"Of {listed(counted(int(count), 'generated image') for count in images)}."] if len(images) else []
    if "real images" in shown and (shown["real images"] != "").any():
        notes.append("Real images: the same metric of as many real training images in place of generated ones.")
    return subject.files.table(Table("best_cell", "Every metric of the best setting", data, shown, tuple(notes)))


def _samples_of_best(subject: Subject, chosen: pd.DataFrame) -> Iterator[Block]:
    results = subject.results
    first = chosen.sort_values("seed").iloc[0]
    made = results.samples(trial_ids=[first["trial_id"]], per_class=ANSWER_SAMPLES)
    if made.empty:
        yield Text("This setting has no kept images, so none are shown.", "quiet")
        return
    pictures = [_by_class(made, f"Generated, seed {first['seed']}")]
    real = results.real_samples(per_class=ANSWER_SAMPLES)
    if len(real):
        pictures.append(_by_class(real[real["trial_id"] == first["data_fingerprint"]], "Real test images"))
    yield Text(f"Not chosen: the first {ANSWER_SAMPLES} images a class, a row a class.", "quiet")
    yield Pictures(tuple(pictures))
    yield from _why_no_real_images(results, len(real) > 0)


def _why_no_real_images(results: Results, there: bool) -> Iterator[Text]:
    if not there:
        why = "none were kept beside these results" if results.public else "the data are not declared public"
        yield Text(f"No real images are shown: {why}.", "quiet")


def _by_class(samples: pd.DataFrame, caption: str) -> Picture:
    rows = [list(of_class["image"]) for _, of_class in samples.groupby("label", sort=True)]
    return montage(
        rows, caption, f"{caption}: {counted(len(rows), 'row')}, one a class, of {max(map(len, rows))} images", scale=1.5
    )


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
    yield from _why_no_real_images(results, len(real) > 0)
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
