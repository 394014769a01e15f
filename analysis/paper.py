"""Tables 1 to 4 of Ma & Zhang (2026): the printed rows, and ours under them.

Numbers of different kinds never stand in one column. A row of ours is better or worse than another row of ours where a test
within seeds says so; nothing can be said so against printed numbers, which have no spread.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from .published import DATASETS, METRICS, claims, mark, published
from .results import Metric, Results
from .rows import PUBLISHED_BASE, Ours, Row, ablation, chosen, evaluated, is_baseline
from .statistics import ALPHA, BlockModel, Difference, holm
from .table import BETTER, CLAIM, FOREIGN, WORSE, Table, epsilon_text, mean_and_spread

_PRINTED = {1: ("Table 1", "IS and FID"), 2: ("Table 2", "gen2real accuracy")}
_PRINTED |= {3: ("Table 3", "noise injection"), 4: ("Table 4", "reconstruction")}


_REPAIR = {3: "noise_injection", 4: "reconstruction"}


@dataclass(frozen=True)
class Kind:
    """A column of numbers that may stand together: one data set, one way of measuring."""

    dataset: str
    metric: str | None
    """As in ``published.METRICS``; None where nothing of this kind is printed."""
    column: str | None
    """Of our trials table; None where we have nothing of this kind."""
    name: str
    better: str

    @property
    def heading(self) -> str:
        return f"{self.name} {'↑' if self.better == 'higher' else '↓'}"


def paper_tables(results: Results) -> list[Table]:
    """Tables 1 (IS, FID), 2 (gen2real), 3 (noise injection) and 4 (reconstruction).

    Of Tables 1 and 2 a row of ours is a case and target epsilon, at its best cell by the main metric (the notes say of how
    many); of 3 and 4 a level of the repair, all other settings equal and the other repair off. Where no trial is on a data
    set of the paper, or none varies the repair, the printed rows stand alone and a note says so.
    """
    trials = evaluated(results)
    there = trials[trials["dataset"].isin(set(published(protocol="paper2026")["dataset"]))]
    compared = chosen(there, results)
    repairs = {
        n: ablation(there, repair, list(results.metrics)) for n, repair in ((3, "noise_injection"), (4, "reconstruction"))
    }
    ours = {1: compared, 2: compared, **repairs}
    elsewhere = sorted(set(trials["data_source"]) - set(there["data_source"]))
    if elsewhere:
        for n in ours:
            note = f"Trials on {', '.join(elsewhere)} are left out: nothing is printed on that data."
            ours[n] = Ours(ours[n].rows, [*ours[n].notes, note])
    return [_table(n, found, results, set(there["dataset"])) for n, found in ours.items()]


def _table(n: int, ours: Ours, results: Results, datasets: set[str]) -> Table:
    number, subject = _PRINTED[n]
    printed = published(protocol="paper2026")
    printed = printed[printed["source"].str.endswith(number)]
    if datasets:
        printed = printed[printed["dataset"].isin(datasets)]
    family = _family(n, results)
    kinds = [kind for dataset in DATASETS for kind in _kinds(dataset, printed, family, ours.rows)]
    several = len({kind.dataset for kind in kinds}) > 1
    numbers = [*_printed(printed), *_real(results, ours.rows, kinds), *_measured(ours.rows, kinds, results.metrics)]
    data = pd.DataFrame(numbers, columns=_COLUMNS)
    shown = _shown(data, kinds, several, "setting" if n < 3 else subject)
    tests = int(data["p_holm"].notna().sum())
    where = ", ".join(dict.fromkeys(DATASETS[kind.dataset] for kind in kinds))
    title = f"{number} of Ma & Zhang (2026): {subject}, on {where}"
    return Table(f"table{n}", title, data, shown, tuple(_notes(n, ours, printed, kinds, tests, results)))


def said_once(tables: Sequence[Table]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """The notes that two tables or more share, for a page that shows them all, and what is left to say under each table.

    One note on the claimed epsilons of all of the tables replaces theirs. A note that is not under every table begins with
    the tables that it is about.
    """
    notes = [[note for note in table.notes if not note.startswith(CLAIM)] for table in tables]
    where: dict[str, list[str]] = {}
    for table, found in zip(tables, notes, strict=True):
        for note in found:
            where.setdefault(note, []).append(table.name.removeprefix("table"))
    datasets = pd.concat([table.data for table in tables])["dataset"].unique()
    shared = [note for note in claims(published(datasets, "paper2026")) if note.startswith(CLAIM)]
    for note, there in where.items():
        if len(there) == len(tables):
            shared.append(note)
        elif len(there) > 1:
            shared.append(f"Tables {', '.join(there[:-1])} and {there[-1]}: {note}")
    return tuple(shared), [tuple(note for note in found if len(where[note]) == 1) for found in notes]


_COLUMNS = (
    *("source", "row", "method", "setting", "dataset", "metric", "column", "epsilon", "epsilon_printed", "epsilon_proven"),
    *("accounting_sound", "value", "sd", "n", "base", "difference", "low", "high", "p_holm", "verdict", "text"),
)
"""A row a number; ``source``: printed, ours or real (images). ``epsilon`` is proven, ``epsilon_printed`` what others printed;
``n`` seeds (of real images: images).
``difference`` from the base row, its 95 % bounds, its p after Holm over the table; ``verdict`` better, worse or empty."""


def _family(n: int, results: Results) -> list[Metric]:
    """The metrics of ours that belong under a table: accuracies under Table 2, all others (and the main one) elsewhere."""
    accuracies = {name for name in results.metrics if name.startswith(("gen2real", "real2gen"))}
    main = {results.main_metric()} if results.metrics and n > 2 else set()
    wanted = accuracies if n == 2 else set(results.metrics) - accuracies | main
    return [metric for name, metric in results.metrics.items() if name in wanted]


def _kinds(dataset: str, printed: pd.DataFrame, family: Sequence[Metric], rows: Sequence[Row]) -> Iterator[Kind]:
    """Columns of a data set: what is printed, each with our column of the same kind, then what only we have."""
    here = printed[printed["dataset"] == dataset]
    frames = [row.trials for row in rows if row.trials["dataset"].iloc[0] == dataset]
    ours = {metric.name for metric in family if any(frame[metric.name].notna().any() for frame in frames)}
    for metric, same in here.groupby("metric", sort=False):
        column = next((name for name in same["column"] if name), None)
        name, better = METRICS[metric]
        name = f"gen2real {name} (prior work's)" if metric.startswith("g2r") else name
        yield Kind(dataset, metric, column, name, better)
        ours.discard(column)
    for metric in family:
        if metric.name in ours:
            yield Kind(dataset, None, metric.name, metric.heading, metric.better)


def _printed(printed: pd.DataFrame) -> Iterator[dict[str, Any]]:
    for row in printed.itertuples():
        name, _, setting = row.method.rstrip("]").partition(" [")
        sound = row.accounting_sound == "yes" and math.isfinite(row.epsilon)
        yield {
            **{"source": "printed", "row": f"printed {row.method}", "method": name, "setting": setting.partition("=")[2]},
            **{"dataset": row.dataset, "metric": row.metric, "column": row.column, "value": row.value},
            **{"epsilon": row.epsilon if sound else math.nan, "epsilon_printed": row.epsilon},
            **{"epsilon_proven": row.epsilon_proven, "accounting_sound": row.accounting_sound, "base": "(base)" in setting},
            "text": row.printed + mark(row.accounting_sound) + (FOREIGN if _is_foreign(row) else ""),
        }


def _is_foreign(row: Any) -> bool:
    """Accuracies that stand in the paper's columns and were measured with other classifiers than the rest of them."""
    return row.metric.startswith("g2r") and not row.column


def _real(results: Results, rows: Sequence[Row], kinds: Sequence[Kind]) -> Iterator[dict[str, Any]]:
    """Metrics of real images in place of generated ones, of the data and number of images that the rows have."""
    keys = ["data_source", "data_size", "data_shape", "evaluation_samples"]  # the last is a float where a trial has none
    shown = pd.concat([row.trials[[*keys, "dataset"]] for row in rows]).drop_duplicates() if rows else pd.DataFrame()
    used = {tuple(found[:-1]): found[-1] for found in shown.to_numpy().tolist()}
    ceilings = [(real, used.get(tuple(real[key] for key in keys))) for real in results.real.to_dict("records")]
    several = sum(dataset is not None for _, dataset in ceilings) > 1
    for number, (real, dataset) in enumerate(ceilings):
        for kind in kinds:
            if kind.dataset == dataset and kind.column and kind.column in results.metrics and pd.notna(real[kind.column]):
                yield {
                    **{"source": "real", "row": f"real {number}", "setting": ""},
                    "method": f"Real images{f', {real[keys[2]]}' if several else ''}",
                    **{"dataset": dataset, "metric": kind.metric, "column": kind.column, "value": real[kind.column]},
                    **{"epsilon": math.inf, "n": real["n"], "base": False},
                    "text": results.metrics[kind.column].text(real[kind.column]),
                }


def _measured(rows: Sequence[Row], kinds: Sequence[Kind], metrics: Mapping[str, Metric]) -> list[dict[str, Any]]:
    """Mean and spread of every row of ours in every column, and its difference from the base row of its block."""
    columns = list(dict.fromkeys(kind.column for kind in kinds if kind.column and kind.column in metrics))
    if not rows or not columns:
        return []
    trials = pd.concat([row.trials[["seed", "epsilon", *columns]].assign(cell=number) for number, row in enumerate(rows)])
    values = trials.groupby(["cell", "seed"])[columns].mean().groupby("cell").agg(["mean", "std", "count"])
    epsilon = trials["epsilon"].fillna(math.inf).groupby(trials["cell"]).max().replace(math.inf, math.nan)
    found: list[dict[str, Any]] = []
    for number, row in enumerate(rows):
        for kind in kinds:
            if kind.column in metrics and kind.dataset == row.trials["dataset"].iloc[0]:
                mean, sd, n = (values.at[number, (kind.column, value)] for value in ("mean", "std", "count"))
                if n:
                    found.append(
                        {
                            **{"source": "ours", "row": number, "method": row.method, "setting": row.setting, "n": int(n)},
                            **{"dataset": kind.dataset, "metric": kind.metric, "column": kind.column, "value": mean, "sd": sd},
                            **{"epsilon": epsilon[number], "base": row.base, "verdict": ""},
                        }
                    )
    differences = _differences(rows, trials, columns)
    compared = [(entry, differences[key]) for entry in found if (key := (entry["row"], entry["column"])) in differences]
    for (entry, difference), p in zip(compared, holm([difference.p for _, difference in compared]), strict=True):
        better = difference.mean * metrics[entry["column"]].sign > 0
        entry |= {"difference": difference.mean, "low": difference.low, "high": difference.high, "p_holm": p}
        entry["verdict"] = ("better" if better else "worse") if p < ALPHA else ""
    seeds = {number: int(count) for number, count in values.xs("count", axis=1, level=1).max(axis=1).items()}
    for entry in found:
        text = mean_and_spread(metrics[entry["column"]].text(entry["value"]), entry["sd"], entry["n"])
        text += f" (n {entry['n']})" if entry["n"] < seeds[entry["row"]] else ""
        entry["text"] = text + {"better": f" {BETTER}", "worse": f" {WORSE}"}.get(entry["verdict"], "")
        entry["row"] = f"ours {entry['row']}"
    return found


def _differences(rows: Sequence[Row], trials: pd.DataFrame, columns: Sequence[str]) -> dict[tuple[int, str], Difference]:
    """By row and column: the row minus the base of its block, within seeds, the spread pooled over the block."""
    found: dict[tuple[int, str], Difference] = {}
    for block in dict.fromkeys(row.block for row in rows):
        same = [number for number, row in enumerate(rows) if row.block == block]
        others = [number for number in same if not rows[number].base]
        base = next((number for number in same if rows[number].base), None)
        if base is not None and others:
            frame = trials[trials["cell"].isin(same)]
            for column in columns:
                contrasts = BlockModel(frame, column).contrasts([{number: 1, base: -1} for number in others])
                found |= {(number, column): contrast for number, contrast in zip(others, contrasts, strict=True)}
    return found


def _shown(data: pd.DataFrame, kinds: Sequence[Kind], several: bool, setting: str) -> pd.DataFrame:
    texts = {(row.row, row.dataset, key): row.text for row in data.itertuples() for key in (row.metric, row.column) if key}
    seeds = data.groupby("row")["n"].max()
    lines = []
    for first in data.drop_duplicates("row").to_dict("records"):
        measured = first["source"] == "ours"
        marked = setting == "setting" and measured and first["base"]  # the levels of a repair say so themselves
        line = {
            "source": "printed" if first["source"] == "printed" else "ours",
            "method": f"{first['method']}{' (base)' if marked else ''}",
            setting: first["setting"],
        }
        line |= {"ε": _epsilon(first), "seeds": f"{seeds[first['row']]:g}" if measured else ""}
        for kind in kinds:
            name = f"{DATASETS[kind.dataset]} {kind.heading}" if several else kind.heading
            line[name] = texts.get((first["row"], kind.dataset, kind.metric or kind.column), "")
        lines.append(line)
    shown = pd.DataFrame(lines)
    return shown.drop(columns=[name for name in ("setting", "seeds") if name in shown and shown[name].eq("").all()])


def _epsilon(row: Mapping[str, Any]) -> str:
    if row["source"] == "printed":
        return "" if math.isinf(row["epsilon_printed"]) else f"{row['epsilon_printed']:g}{mark(row['accounting_sound'])}"
    return "" if row["source"] == "real" else epsilon_text(row["epsilon"])


def _base_was_chosen(rows: Sequence[Row]) -> Iterator[str]:
    """What follows from a base row that is the luckiest of several."""
    for row in rows:
        baselines = sum(other.block == row.block and is_baseline(other) for other in rows)
        if row.base and baselines > 1 and row.trials["method"].iloc[0] != PUBLISHED_BASE:
            yield (
                f"The base row {row.method} is the best of {baselines} baselines, chosen after looking: another of them is "
                "found worse than it too easily."
            )


def _notes(n: int, ours: Ours, printed: pd.DataFrame, kinds: Sequence[Kind], tests: int, results: Results) -> Iterator[str]:
    yield from claims(printed)
    if any(_is_foreign(row) for row in printed.itertuples()):
        yield (
            f"{FOREIGN} Measured by the authors of DP-Sinkhorn with their own classifiers; the row mixes two models and two "
            "versions of their paper."
        )
    if not ours.rows:
        missing = "is on a data set of the paper" if n < 3 else f"varies {_PRINTED[n][1]} on a data set of the paper"
        yield f"No trial here {missing}: the printed rows stand alone."
    else:
        first = pd.concat([row.trials for row in ours.rows])
        deltas = ", ".join(f"{delta:g}".replace("e-0", "e-") for delta in first["delta"].unique())
        samples = ", ".join(f"{int(count):,}" for count in first["evaluation_samples"].dropna().unique())
        sizes = ", ".join(f"{int(size):,}" for size in first["data_size"].unique())
        yield (
            f"Ours: mean ± standard deviation over seeds; ε is proven at delta {deltas} and rounded up; {sizes} training "
            f"records of {', '.join(first['data_shape'].unique())}; {samples} generated images are measured."
        )
        if tests:
            yield (
                f"{BETTER} better, {WORSE} worse than the base row of ours: within seeds, the spread pooled over the rows of a "
                "block, Holm over the comparisons of a table, 5 %. No mark: cannot be told apart. Printed numbers have no "
                "spread, so nothing is marked against them."
            )
            yield f"Comparisons in this table: {tests}."
            yield from _base_was_chosen(ours.rows if n < 3 else [])
        else:
            needs = (
                "two seeds or more" if any(row.base for row in ours.rows) else "a baseline to hold the paper's method against"
            )
            yield f"No difference is marked: a test needs {needs}. Printed numbers have no spread."
        if first["data_shape"].nunique() > 1:
            yield "Distances and scores of images of different sizes cannot be held against each other."
        if any(kind.metric and kind.column in results.metrics for kind in kinds):
            yield (
                "Printed and ours in one column are of one kind and not measured alike (number of images, reference set, the "
                "classifier's training): hold each against its own row of real images."
            )
    yield from ours.notes
