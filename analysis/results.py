"""The tables of one or several sweeps as tidy frames, with what every column and metric is.

    results = load("results/grid_recon")
    results.trials.groupby("cell", observed=True)["gen2real_cnn"].mean()

Nothing is left out but what cannot be read; ``only_proven`` and ``for_publication`` leave rows and columns out and say which.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from harness import store

from .frames import described, filled, history, images, in_order, tidied, typed
from .metric import Metric

ENDED_WELL = ("completed", "budget")
"""Statuses of trials that have the generator they were to have: all steps, or those that the budget allowed."""


class ResultsError(ValueError):
    """There is nothing to read, or something was asked for that is not there; the message is one sentence."""


@dataclass(frozen=True)
class SweepRecord:
    """One sweep's folder."""

    path: Path
    document: Mapping[str, Any]
    """``sweep.json``: the file as resolved, ``totals`` with the price of composition, proofs, provenance; {} without one."""
    running: str | None
    """Process and host of the command that runs it now."""

    undeclared: tuple[str, ...] = ()
    """Data sets, by their names in the ledger, of trials in the folder that the file is not about: it was another one then."""

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def public(self) -> bool:
        """Whether the sweep's file declares its data public, and all its trials are on these data."""
        return bool(self.document.get("sweep", {}).get("data", {}).get("public", False)) and not self.undeclared


@dataclass(frozen=True, eq=False)
class Results:
    """Tidy frames of one or several sweeps, and what is to be known about them.

    Equal to itself alone, so that what is computed from it can be kept: change a copy of a frame, not the frame.
    """

    trials: pd.DataFrame
    """A row a trial: the store's columns, ``config.*``, ``axis.*``, and ``cell``, the label without the seed, in the order in
    which cells were first seen. Words are categories, counts that may be missing ``Int64``. An axis is missing where the
    trial's method does not read it; where another of the joined sweeps varied it, its value is that of the setting."""
    history: pd.DataFrame
    """A row a checkpoint, with ``cell``, ``case``, ``seed``; the metrics document widened as ``metric.<name>``."""
    attempts: pd.DataFrame
    real: pd.DataFrame
    """The metrics of real images in place of generated ones, a row a data set and evaluation."""
    sweeps: tuple[SweepRecord, ...]
    metrics: Mapping[str, Metric]
    """Metrics that some trial has, in the order of the table."""
    columns: pd.DataFrame
    """By column: ``description``, ``unit``, ``private``, ``better``."""
    notes: tuple[str, ...]
    """A sentence each: what is unfinished, old, unreadable, left out."""
    audits: tuple[store.AuditRow, ...] = ()
    """What one-run audits say of the cells; for the owner of the data."""

    @property
    def public(self) -> bool:
        """Whether every sweep's data are declared public."""
        return all(sweep.public for sweep in self.sweeps)

    def samples(
        self, trial_ids: Iterable[str] | None = None, classes: Iterable[int] | None = None, per_class: int | None = None
    ) -> pd.DataFrame:
        """Kept images of these trials (default: all): ``trial_id``, ``label``, ``index``, ``image`` (PNG bytes).

        ``classes`` and ``per_class`` limit them. A part that cannot be read leaves its trial without images, with a warning.
        Read on demand: a thousand trials keep a hundred thousand images.
        """
        wanted = set(self.trials["trial_id"]) if trial_ids is None else set(trial_ids) & set(self.trials["trial_id"])
        parts = [store.read_samples(sweep.path, wanted, skip=_warn) for sweep in self.sweeps]
        return images(parts, classes, per_class)

    def real_samples(self, classes: Iterable[int] | None = None, per_class: int | None = None) -> pd.DataFrame:
        """Real test images in the same layout, ``trial_id`` being the data's fingerprint; none unless all data are public."""
        parts = [store.read_real_samples(sweep.path) for sweep in self.sweeps] if self.public else []
        return images(parts, classes, per_class)

    def only_proven(self) -> Results:
        """Without the rows of trials that did not end as planned, or whose epsilon is not proven; a note counts them.

        Raises ``ResultsError`` where no trial is left; so does ``for_publication``.
        """
        well = self.trials["status"].isin(ENDED_WELL)
        proven = self._proven()
        words = [
            f"{count} {what}"
            for count, what in (
                (int((~well).sum()), "not finished or failed"),
                (int((well & ~proven).sum()), "without a proven epsilon"),
            )
            if count
        ]
        if not words:
            return self
        left_out = f"Left out of {len(self.trials)} trials, as asked: {' and '.join(words)}."
        return self._only(well & proven, left_out)

    def for_publication(self) -> Results:
        """Without what only the owner of the data may see, unless all data are declared public.

        Gone are trials without a proven, finite epsilon, for their generators may say anything; metrics and columns computed
        from private data without noise, or speaking of them or of the machines that worked on them; accuracies on a test set
        that is not declared public; and the real images.
        """
        if self.public:
            return self
        proven = self._proven()
        if not proven.all():
            left_out = f"{(~proven).sum()} of {len(self.trials)} trials are left out, with their images"
            why = f"{left_out}: their epsilon is not proven, and the data are not declared public."
            return self._only(proven, why).for_publication()
        test_is_private = (self.trials["test_set"] != "public").any()
        private = [
            metric for metric in self.metrics.values() if metric.private or (test_is_private and "test set" in metric.reference)
        ]
        secret = set(self.columns.index[self.columns["private"]]) | {metric.name for metric in private} | {"per_class"}
        secret -= {"trial_id", "cell_id"}  # needed to tell rows apart; what is made of them must not print them
        from_private = [name for name in self.history if name.removeprefix("metric.") in secret]
        names = ", ".join(metric.heading for metric in private)
        note = (
            "The data are not declared public (`data: {public: true}`): real images, the metrics of real images"
            + (f", the metrics {names}" if names else "")
            + " and what tells of machines and times are left out, for no epsilon covers them."
        )
        machines = [sweep.running for sweep in self.sweeps if sweep.running]
        return replace(
            self,
            trials=self.trials.drop(columns=[name for name in secret if name in self.trials]),
            history=self.history.drop(columns=from_private),
            attempts=self.attempts.drop(columns=described(store.ATTEMPTS).query("private").index),
            real=self.real.iloc[:0],
            audits=(),
            metrics={name: metric for name, metric in self.metrics.items() if metric not in private},
            notes=(*(_without(text, machines) for text in self.notes), note),
        )

    def _proven(self) -> pd.Series:
        """By trial; infinite is what training without noise has."""
        return self.trials["epsilon"].notna() & (self.trials["epsilon"] < math.inf)

    def _only(self, rows: pd.Series, why: str) -> Results:
        """These rows, and a note of why they alone; ``ResultsError`` where there are none."""
        kept = tidied(self.trials[rows])
        if kept.empty:
            raise ResultsError(f"{why} Nothing is left to show.")
        return replace(
            self,
            trials=kept,
            history=self.history[self.history["trial_id"].isin(set(kept["trial_id"]))],
            metrics={name: metric for name, metric in self.metrics.items() if kept[name].notna().any()},
            notes=(*self.notes, why),
        )

    def main_metric(self, wanted: str | None = None) -> str:
        """The metric that settings are compared by: the one wanted, else gen2real_cnn, else the first one that is free.

        Raises ``ResultsError`` where no trial has the one wanted, or any.
        """
        if not self.metrics:
            raise ResultsError("no trial has a metric yet; wait for one to be evaluated")
        if wanted is not None:
            if wanted not in self.metrics:
                raise ResultsError(f"no trial has the metric `{wanted}`; there are {', '.join(self.metrics)}")
            return wanted
        free = [name for name, metric in self.metrics.items() if not metric.private]
        return "gen2real_cnn" if "gen2real_cnn" in free else (free or list(self.metrics))[0]


def load(results: str | Path | Sequence[str | Path]) -> Results:
    """Read one sweep's folder, or several as one.

    Trials that several folders hold count once, as the first of these has them. Parts that cannot be read are left out, with
    a note. Raises ``ResultsError`` where there is no sweep, or one without a trial that has ended.
    """
    paths = [Path(results)] if isinstance(results, str | Path) else [Path(path) for path in results]
    notes: list[str] = []
    sweeps, read = [], []
    for path in dict.fromkeys(path.absolute() for path in paths):
        unread: list[str] = []
        try:
            found = store.read(path, samples=False, skip=unread.append)
        except FileNotFoundError as error:
            raise ResultsError(f"{error}{_one_within(path)}") from error
        except store.LedgerError as error:
            raise ResultsError(str(error)) from error
        notes.extend(_counted_by_table(unread))
        undeclared = tuple(sorted(set(found.trials["lineage"].dropna()) - _lineages(found.record)))
        sweeps.append(SweepRecord(path=path, document=found.record, running=found.running, undeclared=undeclared))
        read.append(found)
        notes.extend(_state(sweeps[-1], found))
    trials = pd.concat([found.trials for found in read], ignore_index=True)
    if trials.empty:
        running = next((sweep.running for sweep in sweeps if sweep.running), None)
        until = f"{running} is running it: wait for a trial to end" if running else "run the sweep again"
        raise ResultsError(f"{', '.join(map(str, paths))} has no trial that has ended; {until}")
    again = trials["trial_id"].duplicated()
    if again.any():
        notes.append(f"{again.sum()} trials are in several of these folders; each counts once, as the first folder has it.")
        trials = trials[~again]
    audited = trials[trials["audit"].notna()].astype(object)
    audits = store.audit_rows(audited.where(audited.notna(), None).to_dict("records"))
    trials = typed(filled(in_order(_generators(trials, notes), sweeps)))
    columns = described(store.TRIALS)
    metrics = {
        name: Metric(name, row.better, bool(row.private), row.reference, row.description)
        for name, row in columns[columns["better"] != ""].iterrows()
        if trials[name].notna().any()
    }
    if len(trials) > 1 and trials["seed"].nunique() == 1:
        notes.append("Every cell has one seed: no spread, no interval and no test can be given; `seeds: 3` or more gives them.")
    return Results(
        trials=trials,
        history=history(pd.concat([found.history for found in read], ignore_index=True), trials),
        attempts=pd.concat([found.attempts for found in read], ignore_index=True),
        real=pd.concat([found.real for found in read], ignore_index=True).drop_duplicates(
            ["data_fingerprint", "evaluation_id"], ignore_index=True
        ),
        sweeps=tuple(sweeps),
        metrics=metrics,
        columns=columns.drop(columns="reference"),
        notes=tuple(notes),
        audits=tuple(audits),
    )


def _generators(trials: pd.DataFrame, notes: list[str]) -> pd.DataFrame:
    """The trials that made a generator. Those of real images, and controls of audits, are what others are held against, and no
    candidates.

    Raises ``ResultsError`` where there are none.
    """
    control = trials["control"].eq(True)
    if control.any() and not control.all():
        count = f"{control.sum()} trials are controls" if control.sum() > 1 else "1 trial is the control"
        notes.append(f"{count} of audits, without noise: no candidates, and in no table but that of the audit.")
        trials = trials[~control]
    reference = trials["mechanism"].fillna("").str.contains('"kind": "reference"', regex=False)
    if reference.all():
        raise ResultsError("all trials that have ended are of real images (method `real`): there is no generator to report on")
    if reference.any():
        count = f"{reference.sum()} trials are" if reference.sum() > 1 else "1 trial is"
        notes.append(f"{count} of real images in place of generated ones: see the rows of real images, and the table `trials`.")
    return trials[~reference]


def _one_within(path: Path) -> str:
    """What to type where the folder of all results was named in place of a sweep's."""
    inside = sorted(child for child in path.iterdir() if (child / "attempts").is_dir()) if path.is_dir() else []
    return f", such as {inside[0]}" if inside else ""


def _counted_by_table(unread: Iterable[str]) -> list[str]:
    """A sentence a table, however many of its parts cannot be read."""
    tables: dict[str, list[str]] = {}
    for sentence in unread:
        tables.setdefault(sentence.split(":")[0], []).append(sentence)
    return [
        f"{found[0]}{f' So are {len(found) - 1} more of its parts.' if len(found) > 1 else ''}" for found in tables.values()
    ]


def _without(note: str, words: Iterable[str]) -> str:
    """The note without these words and without ids, which are hashes of the data; files of trials are named by them."""
    for word in words:
        note = note.replace(f" ({word})", "")
    return re.sub(r"\b[0-9a-f]{12,64}\b", "...", note)


def _state(sweep: SweepRecord, found: store.Results) -> list[str]:
    """What is to be said of a sweep that is running, unfinished or old."""
    notes = []
    planned, ended = sweep.document.get("totals", {}).get("trials"), len(found.trials)
    of = f"{ended} of {planned} trials" if planned else f"{ended} trials"
    if sweep.running:
        notes.append(f"{sweep.name} is still running ({sweep.running}); {of} have ended, and this shows them alone.")
    elif planned and ended < planned:
        notes.append(f"{sweep.name} is not complete: {of} have a row; the command that made it does what is left.")
    old = [version for version in found.schemas if version < store.SCHEMA_VERSION]
    if old:
        versions = " and ".join(map(str, old))
        notes.append(
            f"{sweep.name} has rows of the older schema {versions} (now {store.SCHEMA_VERSION}); columns they lack are empty."
        )
    if sweep.document and sweep.undeclared:
        others = " and ".join(sweep.undeclared)
        notes.append(f"{sweep.name} has trials on {others}, of an earlier file: they are not taken for public.")
    if not sweep.document:
        unknown = "its settings and the price of choosing are not known, nor is it public."
        notes.append(f"{sweep.name} has no sweep.json that can be read: {unknown}")
    return notes


def _lineages(document: Mapping[str, Any]) -> set[str]:
    """The data sets that a sweep's file is about, by their names in the ledger."""
    file = document.get("sweep", {})
    data, varied = file.get("data", {}), [file.get("axes") or {}, *(file.get("zip") or [])]
    named, sources = (
        [data.get(key), *(value for axes in varied for value in axes.get(f"data.{key}", []))] for key in ("lineage", "source")
    )
    return {name for name in (named if any(named) else sources) if name}


def _warn(sentence: str) -> None:
    warnings.warn(sentence, stacklevel=4)
