"""Sheets of generated images: methods by class (as the paper's Figures 3 to 5), and the grid of two axes."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from PIL import Image

from harness.contact_sheet import MAX_COLUMNS, sheet

from .design import levels, short, value_text
from .results import ResultsError
from .table import epsilon_text

if TYPE_CHECKING:
    from .grid import Grid
    from .results import Results

PER_CLASS = 4
"""Images of a class in a column of ``sample_sheet``: the first ones that were kept, not chosen."""


def sample_sheet(
    results: Results, trial_ids: Sequence[str] | None = None, class_labels: Sequence[int] | None = None
) -> Image.Image:
    """A row a class, a column a trial; real test images first where the data are public.

    Without ``trial_ids``: a column a method (a case, where the sweep has cases), of the cell with the best mean of the main
    metric and of its lowest seed, whatever that seed's images look like. ``class_labels`` limits the classes. Raises
    ``ResultsError`` where no image was kept.
    """
    rows = _best_of_each_method(results) if trial_ids is None else _rows(results, trial_ids)
    rows = rows.head(MAX_COLUMNS)
    images = results.samples(trial_ids=rows["trial_id"], classes=class_labels, per_class=PER_CLASS)
    if images.empty:
        raise ResultsError("none of these trials has kept images; `keep_samples: 100` in the sweep's file keeps some")
    real = results.real_samples(classes=class_labels, per_class=PER_CLASS)
    classes = sorted({*images["label"], *real["label"]})
    columns = [
        (_heading(row, trial_ids is None), _by_class(images[images["trial_id"] == row.trial_id], classes))
        for row in rows.itertuples()
        if (images["trial_id"] == row.trial_id).any()
    ]
    first = real[real["trial_id"] == real["trial_id"].iloc[0]] if len(real) else real
    return sheet(
        columns,
        "Generated images, a row a class",
        ("real (test set)", _by_class(first, classes)) if len(real) else None,
        [str(label) for label in classes],
    )


def grid_sheet(results: Results, grid: Grid, class_labels: Sequence[int] | None = None) -> Image.Image:
    """A column a value of ``grid.x``, a row a value of ``grid.y``; in each cell the first image of every class.

    They are of the cell's lowest seed. ``class_labels`` limits the classes. Raises ``ResultsError`` where no image was kept.
    """
    trials = results.trials[results.trials["cell"].isin(grid.cells["cell"])].sort_values("seed", kind="stable")
    trials = trials[trials["steps"].notna()].drop_duplicates("cell")  # without a generator there are no images
    images = results.samples(trial_ids=trials["trial_id"], classes=class_labels, per_class=1)
    trials = trials[trials["trial_id"].isin(images["trial_id"])]
    if trials.empty:
        raise ResultsError("no trial of this grid has kept images; `keep_samples: 100` in the sweep's file keeps some")
    across, down = levels(grid.cells[grid.x])[:MAX_COLUMNS], levels(grid.cells[grid.y])
    columns = []
    for x in across:
        cells = []
        for y in down:
            here = trials.loc[(trials[grid.x] == x) & (trials[grid.y] == y), "trial_id"]
            cells.append(_images(images[images["trial_id"].isin(here.head(1))]))
        columns.append((f"{short(grid.x)} {value_text(x)}", cells))
    title = ", ".join(word for word in ("One image a class", grid.title, f"seed {_spoken(trials['seed'])}") if word)
    return sheet(columns, title, class_names=[f"{short(grid.y)} {value_text(y)}" for y in down])


def _best_of_each_method(results: Results) -> pd.DataFrame:
    """The trials whose images stand for their methods."""
    metric = results.main_metric()
    trials = results.trials[results.trials[metric].notna()]
    means = trials.groupby(["method", "case", "cell"], observed=True)[metric].mean() * results.metrics[metric].sign
    best = means.groupby(["method", "case"], observed=True, sort=False).idxmax()
    cells = trials[trials["cell"].isin([cell for _, _, cell in best])].sort_values("seed", kind="stable")
    return cells.drop_duplicates("cell").sort_index()


def _rows(results: Results, trial_ids: Sequence[str]) -> pd.DataFrame:
    unknown = [trial for trial in trial_ids if trial not in set(results.trials["trial_id"])]
    if unknown:
        raise ResultsError(f"these results have no trial {', '.join(unknown)}")
    return results.trials.set_index("trial_id").loc[list(trial_ids)].reset_index()


def _heading(row: Any, chosen: bool) -> str:
    """What a column shows: method, setting, seed and epsilon of a row of the trials table."""
    seed = f"seed {row.seed}{', not chosen among seeds' if chosen else ''}"
    epsilon = f"epsilon {epsilon_text(row.epsilon)}"
    method = "" if row.method in str(row.cell).split() else str(row.method)
    return "\n".join(word for word in (method, str(row.cell), seed, epsilon) if word)


def _by_class(images: pd.DataFrame, classes: Iterable[int]) -> list[list[np.ndarray]]:
    return [_images(images[images["label"] == label]) for label in classes]


def _images(images: pd.DataFrame) -> list[np.ndarray]:
    """uint8 [H, W] or [H, W, 3] of each PNG, in the order of classes and of their index."""
    ordered = images.sort_values(["label", "index"])
    return [np.asarray(Image.open(io.BytesIO(png))) for png in ordered["image"]]


def _spoken(seeds: pd.Series) -> str:
    found = sorted(seeds.unique())
    return str(found[0]) if len(found) == 1 else f"{found[0]} to {found[-1]}, the lowest of each cell"
