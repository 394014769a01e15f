"""What the report says of the run itself: failures, privacy, where it came from.

What only the data's owner may see is not in results made for publication; nothing here takes it from elsewhere.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import pandas as pd

from .answer import proofs
from .page import Block, Facts, Heading, Items, Section, TableBlock, Text, columns_of, counted, listed, strings
from .results import ENDED_WELL, Results, SweepRecord
from .table import epsilon_text, spread


def failures(results: Results) -> Section:
    """How trials ended, and every one that did not end well, with where to look."""
    trials = results.trials
    counts = trials["status"].astype(str).value_counts()
    blocks: list[Block] = [
        Text(f"{counted(len(trials), 'trial')}: {listed(f'{count:,} {name}' for name, count in counts.items())}.")
    ]
    blocks += [Text(note, "warning") for note in results.notes]
    for sweep in results.sweeps:
        infeasible = sweep.document.get("totals", {}).get("infeasible")
        if infeasible:
            blocks.append(
                Text(f"{sweep.name}: {counted(infeasible, 'trial')} cannot meet the budget and did not run.", "warning")
            )
        blocks += [Text(f"{sweep.name}: {note}.", "warning") for note in sweep.document.get("notes", [])]
    bad = trials[~trials["status"].isin(ENDED_WELL)]
    if bad.empty:
        blocks.append(Text("No trial failed or was left unfinished.", "quiet"))
    else:
        columns = ["label", "status", "attempt", *(name for name in ("message",) if name in bad)]
        frame = bad[columns].copy()
        if results.public:  # a trial's id hashes the data
            frame["log, in the sweep's folder"] = [
                f"logs/{trial}.{attempt}.log" for trial, attempt in zip(bad["trial_id"], bad["attempt"], strict=True)
            ]
        blocks.append(plain_table("Trials that failed or did not end", frame))
    again = int((trials["attempts"] > 1).sum())
    if again:
        blocks.append(
            Text(f"{counted(again, 'trial')} took more than one attempt; what the earlier ones released is in their epsilon.")
        )
    return Section("failures", "Failures and warnings", tuple(blocks))


def plain_table(title: str, frame: pd.DataFrame) -> TableBlock:
    shown = strings(frame)
    return TableBlock(title, columns_of(shown), tuple(shown.itertuples(index=False, name=None)))


def privacy(results: Results) -> Section:
    """What was proven, how, of which neighbours; what may be published and what may not."""
    return Section("privacy", "Privacy statement", tuple(_privacy(results)))


def _privacy(results: Results) -> Iterator[Block]:
    trials = results.trials
    keys = [
        trials["method"].astype(str),
        *(trials[name].astype(str) for name in ("proof", "neighbours", "accountant", "delta")),
    ]
    kinds = trials["mechanism"].map(_kinds).fillna("mechanism not recorded")
    for (method, *_), rows in trials.groupby([*keys, kinds], sort=False):
        yield Heading(f"{method}: {_kinds(rows['mechanism'].iloc[0]) or 'mechanism not recorded'}")
        yield Facts(tuple(_statement(results, rows)))
    yield Heading("What may be published")
    yield from _publication(results)


def _kinds(mechanism: object) -> str | None:
    """The kinds of the phases of a mechanism's JSON, as words."""
    if not isinstance(mechanism, str):
        return None
    return " then ".join(str(phase.get("kind", "?")).replace("_", " ") for phase in json.loads(mechanism))


def _statement(results: Results, rows: pd.DataFrame) -> Iterator[tuple[str, tuple[str, ...]]]:
    yield "Trials", (f"{len(rows):,}",)
    proven = rows["epsilon"][np.isfinite(rows["epsilon"])]
    without = len(rows) - len(proven)
    said = [f"{spread(rows['epsilon'])} for one generator"] if len(proven) else []
    if without:
        said.append(f"{counted(without, 'trial')} without a proven epsilon: nothing is promised of what they released.")
    yield "Proven epsilon", tuple(said)
    targets = rows["target_epsilon"].dropna().unique()
    if len(targets):
        yield "Asked for", (listed(f"{target:g}" for target in sorted(targets)),)
    delta = rows["delta"].dropna()
    sizes = rows["data_size"].dropna()
    if len(delta):
        words = [f"{value:g}" for value in sorted(delta.unique())]
        if len(sizes):
            bound = 1 / sizes.max()
            words = [
                f"{value:g}, {'below' if value < bound else 'NOT below'} 1/N = {bound:.3g} for N = {int(sizes.max()):,} records"
                for value in sorted(delta.unique())
            ]
        yield "Delta", tuple(words)
    for relation in rows["neighbours"].dropna().unique():
        yield "Neighbours", (_NEIGHBOURS.get(relation, str(relation).replace("_", " ")),)
    for accountant in rows["accountant"].dropna().unique():
        yield "Accountant", (", ".join([str(accountant).upper(), *map(str, rows["accountant_version"].dropna().unique())]),)
    for name, text in proofs(results, rows):
        yield f"Proof {name}", (text,)
    noise = rows["effective_noise_multiplier"].dropna()
    if len(noise):
        low, high = f"{noise.min():.4g}", f"{noise.max():.4g}"
        yield "Noise", (f"standard deviation / L2 sensitivity of a step: {low if low == high else f'{low} to {high}'}",)
    released = rows["releases"].dropna()
    if len(released):
        yield "Releases", (f"{int(released.sum()):,} in all attempts; one that trials share counts with each of them",)
    claimed = rows["epsilon_published"].dropna()
    if len(claimed):
        low, high = epsilon_text(claimed.min()), epsilon_text(claimed.max())
        yield (
            "Published accounting",
            (f"{low if low == high else f'{low} to {high}'}: a claim of that line of work for the same noise, not proven.",),
        )
    survived = rows[(rows["epsilon_surviving"] - rows["epsilon"]).abs() > 1e-9]
    if len(survived):
        yield (
            "Repeated steps",
            (f"{counted(len(survived), 'trial')} redid steps after an interruption; their epsilon counts those as well.",),
        )


_NEIGHBOURS = {
    "replace_one": "Two data sets are neighbours if one record, here one image, is replaced by another.",
    "add_remove": "Two data sets are neighbours if one has one record, here one image, more than the other; all others keep "
    "their places.",
}


def _publication(results: Results) -> Iterator[Block]:
    trials = results.trials
    superseded = int(((results.attempts["kind"] == "train") & (results.attempts["attempt"] > 1)).sum())
    failed = int((~trials["status"].isin(ENDED_WELL)).sum())
    private = [str(name) for name in results.columns.index[results.columns["private"]]]
    shown = (
        "The data are declared public, so this report shows real images and scores that the owner of private data would keep."
        if results.public
        else "The data are not declared public (data.public: true), so real images, metrics computed from private data and "
        "columns for the owner alone are in no file of this report."
    )
    yield Items(
        (
            "What noise protects may be published at the epsilon stated: a generator, any number of images from it, the "
            "settings, and the columns that are not marked private; accuracies on real test images only if that test set is "
            "public.",
            "A generator that was named by its settings and seed before any was looked at is promised its own epsilon. One "
            "that was picked after looking, by a score that is free, is promised the composed epsilon of all that were looked "
            "at, and so are all of them together. One that was picked by a score on private data is covered by neither.",
            f"{counted(failed, 'trial')} failed or did not end, and {counted(superseded, 'earlier attempt')} "
            f"{'was' if superseded == 1 else 'were'} superseded. What they released counts in the composed epsilon.",
            "The unit of the promise is one image. Several images of one person are not covered as one.",
            "Logs, checkpoints, shared stages, timings and memory are the data owner's: they depend on private data without "
            "noise.",
            shown,
        )
    )
    yield Text(f"Columns marked private: {', '.join(private)}.", "quiet")


def provenance(results: Results) -> Section:
    """File, changes to it, code, versions, machines, time and cost of every sweep."""
    blocks: list[Block] = []
    for sweep in results.sweeps:
        if len(results.sweeps) > 1:
            blocks.append(Heading(sweep.name))
        blocks.append(Facts(tuple(_origin(results, sweep))))
    return Section("provenance", "Provenance", tuple(blocks))


def _origin(results: Results, sweep: SweepRecord) -> Iterator[tuple[str, tuple[str, ...]]]:
    rows = results.trials[results.trials["sweep"] == sweep.name]
    document = sweep.document
    yield "Results", (sweep.path.name,)
    if document.get("file"):
        yield "Sweep file", (str(document["file"]),)
    yield "Changed by --set", tuple(str(change) for change in document.get("set") or ["nothing"])
    data = {
        f"{source}, {int(size):,} records, {shape}, {counted(int(classes), 'class', 'classes')}"
        for source, size, shape, classes in rows[["data_source", "data_size", "data_shape", "data_classes"]]
        .dropna()
        .values.tolist()
    }
    if data:
        yield "Data", tuple(sorted(data))
    methods = rows[["method", "method_version"]].dropna().drop_duplicates().values.tolist()
    yield "Methods", tuple(f"{name}, version {int(version)}" for name, version in methods)
    versions = [json.loads(text) for text in rows["versions"].dropna().unique()]
    states = list(dict.fromkeys(str(found["git"]) for found in versions if found.get("git")))
    planned = document.get("provenance", {}).get("git")
    if planned and planned not in states:
        states.append(f"{planned} (the last command)")
    if states:
        yield "Git state", tuple(states)
    names = dict.fromkeys(name for found in versions for name in found if name not in ("git", "platform"))
    if names:
        yield (
            "Versions",
            tuple(f"{name} {listed(dict.fromkeys(str(found[name]) for found in versions if name in found))}" for name in names),
        )
    evaluations = [json.loads(text) for text in rows["evaluation"].dropna().unique()]
    if evaluations:
        yield (
            "Evaluation",
            tuple(
                f"version {found.get('version', '?')}, metrics {listed(found.get('metrics') or ['?'])}" for found in evaluations
            ),
        )
    accountants = rows["accountant_version"].dropna().unique()
    if len(accountants):
        yield "Accounting", tuple(map(str, accountants))
    devices = rows["device"].dropna().unique()
    if len(devices):
        yield "Devices", tuple(map(str, devices))
    if results.public:
        yield from _cost(results, sweep, rows)
    else:
        yield "Machines and time", ("left out: they are the data owner's",)


def _cost(results: Results, sweep: SweepRecord, rows: pd.DataFrame) -> Iterator[tuple[str, tuple[str, ...]]]:
    attempts = results.attempts[results.attempts["trial_id"].isin(rows["trial_id"])]
    hosts = rows["host"].dropna().value_counts()
    if len(hosts):
        yield "Machines", tuple(f"{host}: {counted(int(count), 'trial')}" for host, count in hosts.items())
    platforms = dict.fromkeys(json.loads(text).get("platform") for text in rows["versions"].dropna().unique())
    if known := [str(platform) for platform in platforms if platform]:
        yield "Platform", tuple(known)
    whole = attempts.dropna(subset=["started", "ended"])
    if len(whole):
        took = (whole["ended"] - whole["started"]).dt.total_seconds().sum()
        yield (
            "Time",
            (
                f"{whole['started'].min():%Y-%m-%d %H:%M} to {whole['ended'].max():%Y-%m-%d %H:%M} UTC, "
                f"{duration(_covered(whole))} of it with a trial running",
            ),
        )
        resources = sweep.document.get("sweep", {}).get("resources") or {}
        asked = [
            f"{duration(took * resources[name])} of {name.upper()}, as asked for"
            for name in ("cpu", "gpu")
            if resources.get(name)
        ]
        yield "Cost", (f"{counted(len(whole), 'attempt')}, {duration(took)} together", *asked)
    memory = rows["peak_memory_mb"].dropna()
    if len(memory):
        yield "Memory", (f"at most {memory.max():,.0f} MB a trial",)


def _covered(attempts: pd.DataFrame) -> float:
    """Seconds in which at least one of the attempts ran."""
    covered, reached = 0.0, None
    for start, end in attempts[["started", "ended"]].sort_values("started").itertuples(index=False):
        begin = start if reached is None or start > reached else reached
        covered += max(0.0, (end - begin).total_seconds())
        reached = end if reached is None or end > reached else reached
    return covered


def duration(seconds: float) -> str:
    """
    >>> duration(42), duration(600), duration(5400)
    ('42 s', '10 min', '1.5 h')
    """
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
