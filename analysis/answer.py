"""The answer that a report begins with: the best setting, how well it does, what it and the choice of it cost."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from . import grid
from .page import Block, Items, Number, Numbers, Picture, Pictures, Section, TableBlock, Text, counted, listed, montage
from .results import Metric, Results
from .sections import SHOWN_CLASSES, Subject, between, of_classes, why_no_real_images
from .statistics import alike_in_spread
from .table import Table, epsilon_text, spread

UNEVEN = 0.01
"""p of one spread for all cells below which the page warns."""

SAMPLES = 8
"""Images a class beside the answer."""


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
        Number(
            "proven epsilon of one such generator, had it been named before looking", spread(chosen["epsilon"]), account(chosen)
        ),
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
    yield from _uneven(results, metric)
    yield choice(results, metric)
    if len(results.sweeps) > 1:
        yield (
            "Prices are those of each sweep. Whoever has seen several sweeps on the same data is promised at most the sum of "
            "their epsilons, at the sum of their deltas, where all are of one neighbouring relation."
        )


def _uneven(results: Results, metric: Metric) -> Iterator[str]:
    """Where cells spread so unevenly that pooling misleads: tests pool the spread."""
    groups = [values for _, values in results.trials.groupby("cell", observed=True)[metric.name]]
    if alike_in_spread(groups) < UNEVEN:
        sds = [f"{sd:.2g}" for sd in sorted(values.std() for values in groups if values.count() > 1)]
        yield (
            f"The cells do not spread alike (standard deviations {sds[0]} to {sds[-1]}; Bartlett's test, p < {UNEVEN}), and "
            "the tests pool the spread: steady cells may differ where none is told apart, unsteady ones seem more certain "
            "than they are."
        )


def account(rows: pd.DataFrame) -> str:
    """Delta, neighbours, accountant and proof of these trials in a few words."""
    return ", ".join(
        _detail(name, value)
        for name in ("delta", "neighbours", "accountant", "proof")
        for value in rows[name].dropna().unique()
    )


def price(results: Results) -> Iterator[Number]:
    """Everything that the sweeps say of the price of choosing; entries are not known here, only their names and numbers."""
    for sweep in results.sweeps:
        totals = sweep.document.get("totals", {})
        for key in ("compose", "price"):
            for entry in _entries(totals.get(key)):
                if key == "price" and entry.get("name") == "all seen" and totals.get("compose"):
                    continue  # the composition says it already
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
    order = sorted(entry, key=lambda word: word != "delta")  # as in ``account``
    details = [_detail(word, entry[word]) for word in order if entry[word] is not None]
    return Number(term, epsilon_text(value) if isinstance(value, int | float) else "not proven", ", ".join(details))


def _detail(name: str, value: object) -> str:
    """A term of an account: "delta 1e-05", "neighbours: replace one", "accountant: PLD"."""
    words = name.replace("_", " ")
    if isinstance(value, str):
        kept = value.upper() if name == "accountant" else value if name == "proof" else value.replace("_", " ")
        return f"{words}: {kept}"
    return f"{words} {value:.4g}" if isinstance(value, float) else f"{words} {value}"


def choice(results: Results, metric: Metric) -> str:
    """What the choice itself costs beside the generators: nothing, or something that no account has."""
    private_test = bool((results.trials["test_set"] != "public").any()) and "test set" in metric.reference
    if private_test or metric.private:
        why = "the test set is not declared public" if private_test else "it is computed from the private training set"
        return (
            f"The choice was made by {metric.heading}, a score on private data ({why}). Choosing by such a score is covered by "
            "no epsilon: neither by that of one generator nor by that of all of them."
        )
    return (
        f"The choice was made by {metric.heading}, which touches private data through the generators alone. It looked at all "
        "of them, failed and superseded ones too, so whoever sees them all, or only the one that it chose, is promised the "
        "epsilon of all, not that of one. Choosing by a score on private data would be covered by no epsilon."
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
    rows, ceilings = [], _real_images(results, chosen)
    for name, metric in results.metrics.items():
        if name not in found.index or pd.isna(found.loc[name, "mean"]):
            continue
        row = found.loc[name]
        real = ceilings[name].dropna() if name in ceilings else pd.Series(dtype=float)
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


def _real_images(results: Results, chosen: pd.DataFrame) -> pd.DataFrame:
    """The metrics of real images on the data and by the evaluation of these trials."""
    keys = ["data_fingerprint", "evaluation_id"]
    if not set(keys) <= set(chosen):
        return results.real.iloc[:0]
    return results.real.merge(chosen[keys].drop_duplicates(), on=keys)


def _samples_of_best(subject: Subject, chosen: pd.DataFrame) -> Iterator[Block]:
    results = subject.results
    first = chosen.sort_values("seed").iloc[0]
    made = results.samples(trial_ids=[first["trial_id"]], classes=SHOWN_CLASSES, per_class=SAMPLES)
    if made.empty:
        yield Text("This setting has no kept images, so none are shown.", "quiet")
        return
    pictures = [_by_class(made, f"Generated, seed {first['seed']}")]
    real = results.real_samples(classes=SHOWN_CLASSES, per_class=SAMPLES)
    if len(real):
        pictures.append(_by_class(real[real["trial_id"] == first["data_fingerprint"]], "Real test images"))
    yield Text(f"Not chosen: the first {SAMPLES} images a class, a row a class{of_classes(results)}.", "quiet")
    yield Pictures(tuple(pictures))
    yield from why_no_real_images(results, len(real) > 0)


def _by_class(samples: pd.DataFrame, caption: str) -> Picture:
    rows = [list(of_class["image"]) for _, of_class in samples.groupby("label", sort=True)]
    return montage(
        rows, caption, f"{caption}: {counted(len(rows), 'row')}, one a class, of {max(map(len, rows))} images", scale=1.5
    )
