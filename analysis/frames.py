"""Frames as the store has them made tidy: in order, with types, cells that have names of their own, and filled axes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow as pa

from harness import store

if TYPE_CHECKING:
    from .results import SweepRecord

_WORDS = (
    *("sweep", "case", "method", "status", "data_source", "lineage", "test_set"),
    *("accountant", "proof", "neighbours", "device"),
)
_COUNTS = ("steps", "evaluation_samples", "releases")
_FROM_COLUMNS = {
    "privacy.epsilon": "target_epsilon",
    "privacy.delta": "delta",
    "privacy.accountant": "accountant",
    "privacy.neighbours": "neighbours",
    "data.size": "data_size",
    "data.source": "data_source",
}
"""Axes that are no setting of the method, and the column that says what they were in a sweep that did not vary them."""


def in_order(trials: pd.DataFrame, sweeps: Sequence[SweepRecord]) -> pd.DataFrame:
    """Sort trials as their sweep files list them: folders, cases, values of the axes, seeds."""
    order: dict[str, dict[str, list[Any]]] = {}
    for sweep in sweeps:
        file = sweep.document.get("sweep", {})
        listed = {"case": [case.get("name") for case in file.get("cases") or []]}
        for axes in (file.get("axes") or {}, *(file.get("zip") or [])):
            listed |= {name: [json.dumps(value) for value in values] for name, values in axes.items()}
        order[sweep.name] = listed
    names = list(order)

    def place(values: Sequence[Any], value: Any) -> int:
        return values.index(value) if value in values else len(values)

    def key(row: Any) -> tuple[Any, ...]:
        listed = order.get(row.sweep, {})
        axes = json.loads(row.axes) if isinstance(row.axes, str) else {}
        ranks = [place(values, json.dumps(axes.get(name))) for name, values in listed.items() if name != "case"]
        return place(names, row.sweep), place(listed.get("case", []), row.case), ranks, row.label, row.seed

    keys = {row.Index: key(row) for row in trials[["sweep", "case", "axes", "label", "seed"]].itertuples()}
    return trials.loc[sorted(keys, key=keys.__getitem__)]


def filled(trials: pd.DataFrame) -> pd.DataFrame:
    """Give trials whose sweep did not vary an axis the value that they had; where a sweep did, unread ones stay missing."""
    axes = [name for name in trials if name.startswith("axis.")]
    declared = [set(json.loads(text)) if isinstance(text, str) else set() for text in trials["axes"]]
    for axis in axes:
        bare = axis.removeprefix("axis.")
        source = _FROM_COLUMNS.get(bare, f"config.{bare.removeprefix('train.')}")
        absent = [bare not in names for names in declared]
        if any(absent) and source in trials:
            trials[axis] = trials[axis].astype(object).where([not missing for missing in absent], trials[source])
            trials[axis] = trials[axis].infer_objects()
    return trials


def typed(trials: pd.DataFrame) -> pd.DataFrame:
    """Words as categories, counts that may be missing as ``Int64``, and ``cell``: the label without the seed."""
    cells = _told_apart(trials, trials["label"].str.replace(r" ?seed=\S+$", "", regex=True))
    trials = trials.assign(cell=pd.Categorical(cells, categories=list(dict.fromkeys(cells))))
    types: dict[str, Any] = dict.fromkeys(_WORDS, "category")
    types |= dict.fromkeys(_COUNTS, "Int64")
    return trials.astype(types).reset_index(drop=True)


def _told_apart(trials: pd.DataFrame, labels: pd.Series) -> pd.Series:
    """Labels with what tells cells apart that they call the same: the sweep, settings that differ, else a number.

    A label has the axes alone. Joined sweeps, or a folder whose file has changed, may hold the same axes with other settings.
    """
    if trials["sweep"].nunique() > 1:
        several = trials.groupby(labels)["cell_id"].transform("nunique") > 1
        labels = labels.where(~several, trials["sweep"] + ": " + labels)
    settings = [*_FROM_COLUMNS.values(), *(name for name in trials if name.startswith("config.")), "method_version"]
    for label, rows in trials.groupby(labels, sort=False):
        if rows["cell_id"].nunique() == 1:
            continue
        texts = rows[settings].astype(object).map(lambda value: f"{value:g}" if isinstance(value, float) else str(value))
        differing = [name for name in settings if texts[name].nunique() > 1]
        for number, (_, cell) in enumerate(rows.groupby("cell_id", sort=False), start=1):
            words = [f"{name.removeprefix('config.')}={texts.loc[cell.index[0], name]}" for name in differing]
            labels.loc[cell.index] = f"{label} ({' '.join(words) or number})".strip()
    return labels


def tidied(trials: pd.DataFrame) -> pd.DataFrame:
    """Forget categories that no row has any more."""
    words = list(trials.select_dtypes("category"))
    return trials.assign(**{name: trials[name].cat.remove_unused_categories() for name in words}).reset_index(drop=True)


def history(history: pd.DataFrame, trials: pd.DataFrame) -> pd.DataFrame:
    """The history of the trials that are there, with their cell, case and seed, and every named diagnostic a column."""
    wide = pd.DataFrame([json.loads(text) if isinstance(text, str) else {} for text in history["metrics"]], index=history.index)
    history = pd.concat([history.drop(columns="metrics"), wide.add_prefix("metric.")], axis=1)
    keys = trials[["trial_id", "cell", "case", "seed"]]
    return history.merge(keys, on="trial_id", how="inner").sort_values(["trial_id", "step"], ignore_index=True)


def images(parts: Sequence[pd.DataFrame], classes: Iterable[int] | None, per_class: int | None) -> pd.DataFrame:
    """Samples of several sweeps as one frame in order; ``image`` is the PNG's bytes."""
    if not parts:
        return store.SAMPLES.empty_table().to_pandas()
    images = pd.concat(parts, ignore_index=True).drop_duplicates(["trial_id", "label", "index"])
    if classes is not None:
        images = images[images["label"].isin(set(classes))]
    if per_class is not None:
        images = images[images["index"] < per_class]
    images = images.sort_values(["trial_id", "label", "index"], ignore_index=True)
    return images.assign(image=[image["bytes"] for image in images["image"]])


def described(schema: pa.Schema) -> pd.DataFrame:
    """What the columns of a table say of themselves."""
    rows = {}
    for field in schema:
        said = {key.decode(): value.decode() for key, value in (field.metadata or {}).items()}
        rows[field.name] = {
            "description": said["description"],
            "unit": said["unit"],
            "private": said["private"] == "true",
            "better": said.get("better", ""),
            "reference": said.get("reference", ""),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("name")
