"""Every table of the report but the paper's own: cells, effects, neighbours, what matters, the front, the trials.

``paper_tables``, ``baselines``, ``published`` and ``Table`` may be imported from here too.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pandas as pd

from . import grid
from .baselines import baselines as baselines
from .paper import paper_tables as paper_tables
from .published import published as published
from .statistics import ALPHA
from .table import BEST, BETTER, WORSE, Table, epsilon_text, mean_and_spread

if TYPE_CHECKING:
    from .grid import Best
    from .results import Metric, Results

_COMPARABLE = ["data_source", "data_shape", "data_size", "target_epsilon"]
"""Cells that differ in one of these do not compete for the best mean."""


MANY_SEEDS = 1000
"""More than this many seeds nobody runs."""


def cells_table(results: Results) -> Table:
    """Every cell: seeds, epsilon, mean ± standard deviation of metrics, the best mean of each marked, what the epsilon rests
    on and what the cell took; real images last.

    ``data`` has a row a cell: ``cell``, the factors, ``epsilon``, ``target_epsilon``, ``n``, and ``m``, ``m_sd``, ``m_n`` of
    every metric ``m``; ``accountant``, ``proof``, ``seconds`` (training and evaluation, mean of the trials), ``peak_memory_mb``
    (the largest). The best is that of its data set and target epsilon.
    """
    metrics = list(results.metrics.values())
    long = grid.cells(results)
    values = long.pivot(index="cell", columns="metric", values=["mean", "sd", "n"])
    head = long.drop(columns=["metric", "mean", "sd", "n", "low", "high"]).groupby("cell", observed=True, sort=False).first()
    first = results.trials.drop_duplicates("cell").set_index("cell")
    head["epsilon"] = results.trials["epsilon"].fillna(math.inf).groupby(results.trials["cell"], observed=True).max()
    head = head.replace({"epsilon": {math.inf: math.nan}})
    head = head.assign(n=values["n"].max(axis=1).astype(int)) if metrics else head.assign(n=0)
    data = pd.DataFrame(index=head.index)
    for metric in metrics:
        for suffix, value in (("", "mean"), ("_sd", "sd"), ("_n", "n")):
            data[f"{metric.name}{suffix}"] = (
                values[value, metric.name].reindex(head.index).astype("Int64" if value == "n" else float)
            )
    group = first.loc[head.index, _COMPARABLE].astype(str).agg("|".join, axis=1)
    shown = pd.DataFrame({"cell": _names(results, head.index), "ε": [epsilon_text(value) for value in head["epsilon"]]})
    shown["seeds"] = head["n"].astype(str).to_numpy()
    for metric in metrics:
        ranked = metric.sign * data[metric.name]
        best = (ranked == ranked.groupby(group).transform("max")) & (group.map(group.value_counts()) > 1)
        rows = zip(data[metric.name], data[f"{metric.name}_sd"], data[f"{metric.name}_n"], head["n"], best, strict=True)
        shown[heading(metric)] = [_cell(metric, *row) for row in rows]
    costs = _costs(results).reindex(head.index)
    shown["accountant"], shown["proof"] = costs["accountant"].to_numpy(), costs["proof"].to_numpy()
    shown["seconds"], shown["MB"] = (
        ["" if pd.isna(value) else f"{value:.0f}" for value in costs[name]] for name in ("seconds", "peak_memory_mb")
    )
    data = pd.concat([data, costs], axis=1)
    ceiling = _ceiling(results)
    notes = [
        "Mean ± standard deviation over seeds; ε is the largest of the cell's trials, proven, rounded up.",
        f"{BEST} the best mean of its column (for its data set and target epsilon), found by looking and not by a test.",
        "Seconds: training and evaluation of a trial, mean; MB: the most memory that one of them held. The theorem behind each "
        "proof is in the privacy statement.",
    ]
    without = int(results.trials[list(results.metrics)].isna().all(axis=1).sum())
    if without:
        notes.append(
            f"{without} of {len(results.trials)} trials have no metrics (failed or unfinished) and do not count as seeds."
        )
    if len(ceiling):
        notes.append("Real images: the same metrics of as many real training images in place of generated ones.")
    full = pd.concat([head, data], axis=1).reset_index()
    return Table("cells", "Every cell", full, pd.concat([shown, ceiling], ignore_index=True).fillna(""), tuple(notes))


def _costs(results: Results) -> pd.DataFrame:
    """By cell: what its epsilon rests on, and what its trials took."""
    trials = results.trials
    columns = [name for name in ("train_seconds", "evaluate_seconds") if name in trials]
    seconds = trials[columns].apply(pd.to_numeric).sum(axis=1, min_count=1)
    memory = pd.to_numeric(trials["peak_memory_mb"]) if "peak_memory_mb" in trials else seconds * math.nan
    table = trials[["cell", "accountant", "proof"]].assign(seconds=seconds, peak_memory_mb=memory)
    words = {name: lambda values: ", ".join(sorted(set(values.dropna().astype(str)))) for name in ("accountant", "proof")}
    return table.groupby("cell", observed=True).agg({**words, "seconds": "mean", "peak_memory_mb": "max"})


def heading(metric: Metric) -> str:
    """A metric's name with the way that is better."""
    return f"{metric.heading} {'↑' if metric.better == 'higher' else '↓'}"


def _cell(metric: Metric, mean: float, sd: float, n: int, seeds: int, best: bool) -> str:
    if pd.isna(mean):
        return ""
    text = mean_and_spread(metric.text(mean), sd, n)
    return f"{text}{f' (n {n})' if n != seeds else ''}{f' {BEST}' if best else ''}"


def _names(results: Results, cells: pd.Index) -> list[str]:
    """Labels of cells; a sweep of one cell has an empty one, and is called by its case."""
    case = str(results.trials["case"].iloc[0])
    return [str(cell) or case for cell in cells]


def _ceiling(results: Results) -> pd.DataFrame:
    """A row a data set and evaluation: what real images get in place of generated ones."""
    several = len(results.real) > 1
    rows = []
    for real in results.real.to_dict("records"):
        where = f" of {real['data_source']} {real['data_shape']}, {real['n']:,}" if several else ""
        found = {heading(metric): metric.text(real[name]) for name, metric in results.metrics.items()}
        if any(found.values()):
            rows.append({"cell": f"real images{where}"} | found)
    return pd.DataFrame(rows)


def effects_table(results: Results, metric: str) -> Table:
    """What each level of a factor adds over its base: alone, together with the others, on average, and the interaction."""
    described = results.metrics[metric]
    data = grid.effects(results, metric)
    shown = pd.DataFrame(
        {
            "setting": data["factor"].astype(str).str.removeprefix("axis."),
            "level": [_plain(value) for value in data["level"]],
            "base": [_plain(value) for value in data["base"]],
            "effect": data["kind"].astype(str),
            **_difference(described, data),
            "seeds": data["n"].astype(str),
            "seeds needed": [_seeds(value) for value in data["seeds_needed"]],
        }
    )
    notes = [
        *_how(described, "Holm over all rows of an effect's kind"),
        "Seeds needed: to find a true effect of this size and spread with probability 80 % in one test at 5 %, uncorrected.",
    ]
    return Table(f"effects_{metric}", f"What each setting adds: {described.heading}", data, shown, tuple(notes))


def neighbours_table(results: Results, best: Best) -> Table:
    """The best cell against every cell one step away."""
    described = results.metrics[best.metric]
    data = best.neighbours
    shown = pd.DataFrame({"neighbour": data["neighbour"].astype(str), "step": data["step"].astype(str)})
    shown = shown.assign(**_difference(described, data, "Tukey"))
    number = len(best.others) + 1
    correction = f"Tukey over the {number} cells, for the best was chosen after looking"
    intervals = f"Intervals are Tukey and Kramer's: they hold for all pairs of the {number} cells at once."
    notes = ["Differences are the best cell minus its neighbour.", *_how(described, correction, intervals)]
    title = f"The best cell against its neighbours: {described.heading}"
    return Table(f"neighbours_{best.metric}", title, data, shown, tuple(notes))


def importance_table(results: Results, metric: str) -> Table:
    """Which settings matter: the share of the variance between trials that each explains."""
    described = results.metrics[metric]
    data = grid.importance(results, metric)
    shown = pd.DataFrame(
        {
            "setting": data["term"].astype(str).str.replace("axis.", "", regex=False),
            "share": [_percent(value) for value in data["share"]],
            "95 % interval": [
                "" if math.isnan(low) else f"{_percent(low)} to {_percent(high)}"
                for low, high in zip(data["low"], data["high"], strict=True)
            ],
        }
    )
    note = "Share of the variance between trials (sums of squares of the fitted model), intervals by residual bootstrap."
    return Table(f"importance_{metric}", f"Which settings matter: {described.heading}", data, shown, (note,))


def pareto_table(results: Results, metric: str) -> Table:
    """Utility against epsilon: every cell, cheapest first, those on the front marked."""
    described = results.metrics[metric]
    data = grid.pareto(results, metric).sort_values("epsilon", kind="stable", ignore_index=True)
    data = data[data["mean"].notna()].reset_index(drop=True)
    shown = pd.DataFrame(
        {
            "cell": _names(results, pd.Index(data["cell"])),
            "ε": [epsilon_text(value) for value in data["epsilon"]],
            "seeds": data["n"].astype(str),
            heading(described): [described.text(value) for value in data["mean"]],
            "95 % interval": [
                "" if math.isnan(low) else f"{described.text(low)} to {described.text(high)}"
                for low, high in zip(data["low"], data["high"], strict=True)
            ],
            "on the front": [BEST if value else "" for value in data["on_front"]],
        }
    )
    note = (
        f"{BEST} no other cell has a better mean at the same proven epsilon or less; means are compared as they are, untested."
    )
    return Table(f"pareto_{metric}", f"Utility against epsilon: {described.heading}", data, shown, (note,))


def trials_table(results: Results) -> pd.DataFrame:
    """A row a trial for reading: its cell, seed, status, epsilon, steps, metrics, cost and message.

    Numbers stay numbers. Trials are in the order of their cells, then seeds. Columns that are empty or not there are left out.
    """
    trials = results.trials.sort_values(["cell", "seed"], kind="stable")
    names = ["cell", "seed", "status", "epsilon", "target_epsilon", "steps", *results.metrics]
    names += ["train_seconds", "evaluate_seconds", "peak_memory_mb", "attempts", "message"]
    found = trials[[name for name in names if name in trials and trials[name].notna().any()]].reset_index(drop=True)
    return found.assign(cell=_names(results, pd.Index(found["cell"])))


def _difference(metric: Metric, data: pd.DataFrame, correction: str = "Holm") -> dict[str, list[str]]:
    """Columns of a difference: signed, with its interval, the corrected p, and the verdict that follows from both."""
    verdicts, corrected = [], data[f"p_{correction.lower()}"]
    for difference, p in zip(data["difference"], corrected, strict=True):
        told = not math.isnan(p) and p < ALPHA
        verdicts.append(f"{BETTER if metric.sign * difference > 0 else WORSE}" if told else "")
    return {
        "difference": [f"{_signed(metric, d)} {v}".strip() for d, v in zip(data["difference"], verdicts, strict=True)],
        "95 % interval": [
            "" if math.isnan(low) else f"{_signed(metric, low)} to {_signed(metric, high)}"
            for low, high in zip(data["low"], data["high"], strict=True)
        ],
        f"p ({correction})": ["" if math.isnan(p) else f"{p:.3f}" if p >= 0.001 else "< 0.001" for p in corrected],
    }


def _how(metric: Metric, correction: str, intervals: str = "Intervals are not corrected.") -> list[str]:
    direction = "a positive difference is better" if metric.better == "higher" else "a negative difference is better"
    return [
        f"{metric.heading}: {direction}. {BETTER} better, {WORSE} worse by a test within seeds, spread pooled, "
        f"{correction}, 5 %; no mark: cannot be told apart. {intervals}"
    ]


def _signed(metric: Metric, value: float) -> str:
    text = metric.text(abs(value))
    if not text.strip("0."):  # rounds to nothing, which has no sign
        return text
    return "" if math.isnan(value) else f"{'-' if value < 0 else '+'}{text}"


def _seeds(count: float) -> str:
    return "" if pd.isna(count) else f"{count:.0f}" if count <= MANY_SEEDS else f"> {MANY_SEEDS:,}"


def _percent(share: float) -> str:
    return "" if math.isnan(share) else f"{100 * share:.0f} %"


def _plain(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
