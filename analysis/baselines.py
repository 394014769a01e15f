"""Our methods beside everything that is published on the same data set at the same epsilon."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from .published import DATASETS, METRICS, PROTOCOLS, claims, mark, published
from .rows import Row, chosen, evaluated
from .table import Table, epsilon_text, mean_and_spread

if TYPE_CHECKING:
    from .results import Metric, Results

_ACCURACY = "accuracy, by classifier ↑"
"""One column of words for all accuracies, each with its classifier's name."""


def baselines(results: Results) -> Table:
    """Ours first (a row a case and target epsilon, at its best cell), then what is printed, protocol by protocol.

    Accuracies are listed with the classifier that gave each, for hardly two protocols use the same. ``data`` has a row a
    number, with what ``shown`` leaves out: precision, recall and FLD.
    """
    trials = evaluated(results)
    ours = chosen(trials, results)
    numbers = [*_measured(ours.rows, results.metrics), *_real(results, trials)]
    printed = published(set(trials["dataset"]))
    at = set(zip(trials["dataset"], trials["target_epsilon"], strict=True))
    same = printed[pd.MultiIndex.from_frame(printed[["dataset", "epsilon"]]).isin(at)] if at else printed.iloc[:0]
    numbers += _printed(same)
    data = pd.DataFrame(numbers, columns=_COLUMNS)
    notes = [*claims(same), *_notes(printed, same, trials), *ours.notes]
    names = [DATASETS.get(name, name) for name in dict.fromkeys(trials["dataset"])]
    return Table("baselines", f"Beside what is published, on {' and '.join(names)}", data, _shown(data), tuple(notes))


_COLUMNS = (
    *("protocol", "dataset", "method", "setting", "epsilon", "epsilon_printed", "epsilon_proven", "accounting_sound"),
    *("metric", "column", "kind", "value", "sd", "n", "text", "heading"),
)
"""A row a number. ``epsilon`` is proven, ``epsilon_printed`` what others printed. Shown under ``heading``, empty: not shown."""


def _measured(rows: Sequence[Row], metrics: Mapping[str, Metric]) -> Iterator[dict[str, Any]]:
    for row in rows:
        epsilon = row.trials["epsilon"].max() if row.trials["epsilon"].notna().all() else math.nan
        for name, metric in metrics.items():
            values = row.trials.groupby("seed")[name].mean().dropna()
            if len(values):
                yield {
                    **{"protocol": "ours", "dataset": row.trials["dataset"].iloc[0], "method": row.method},
                    **{"setting": row.setting, "epsilon": epsilon, **_kind(metric)},
                    **{"value": values.mean(), "sd": values.std(), "n": len(values)},
                    "text": _text(metric, mean_and_spread(metric.text(values.mean()), values.std(), len(values))),
                }


def _real(results: Results, trials: pd.DataFrame) -> Iterator[dict[str, Any]]:
    datasets = dict(zip(trials["data_source"], trials["dataset"], strict=True))
    several = len(results.real) > 1
    for real in results.real.to_dict("records"):
        for name, metric in results.metrics.items():
            if real["data_source"] in datasets and pd.notna(real[name]):
                yield {
                    **{"protocol": "ours", "dataset": datasets[real["data_source"]], "method": "Real images"},
                    **{
                        "setting": f"{real['data_shape']}, {real['n']:,}" if several else f"{real['n']:,}",
                        "epsilon": math.inf,
                        **_kind(metric),
                    },
                    **{"value": real[name], "text": _text(metric, metric.text(real[name]))},
                }


def _printed(rows: pd.DataFrame) -> Iterator[dict[str, Any]]:
    for row in rows.itertuples():
        name, _, setting = row.method.rstrip("]").partition(" [")
        kind, better = METRICS[row.metric]
        accuracy = "_acc_" in row.metric
        heading = _ACCURACY if accuracy else _heading(kind, better) if row.column else ""
        yield {
            **{"protocol": row.protocol, "dataset": row.dataset, "method": name, "setting": setting.replace("=", " ")},
            **{"epsilon": row.epsilon if row.accounting_sound == "yes" else math.nan, "epsilon_printed": row.epsilon},
            **{"epsilon_proven": row.epsilon_proven, "accounting_sound": row.accounting_sound, "metric": row.metric},
            **{"column": row.column, "kind": kind, "value": row.value, "heading": heading},
            "text": f"{kind} {row.printed}{mark(row.accounting_sound)}"
            if accuracy
            else row.printed + mark(row.accounting_sound),
        }


def _kind(metric: Metric) -> dict[str, str]:
    """What a metric of ours is called: as the printed numbers of the same kind, where there are any."""
    same = published()
    same = same[same["column"] == metric.name]["metric"]
    if metric.name.startswith(("gen2real", "real2gen")):
        return {"column": metric.name, "kind": metric.heading.removeprefix("gen2real "), "heading": _ACCURACY}
    kind, better = METRICS[same.iloc[0]] if len(same) else (metric.heading, metric.better)
    return {"column": metric.name, "kind": kind, "heading": _heading(kind, better)}


def _text(metric: Metric, text: str) -> str:
    kind = _kind(metric)
    return f"{kind['kind']} {text}" if kind["heading"] == _ACCURACY else text


def _heading(kind: str, better: str) -> str:
    return f"{kind} {'↑' if better == 'higher' else '↓'}"


def _shown(data: pd.DataFrame) -> pd.DataFrame:
    data = data[data["heading"] != ""]
    headings = [name for name in dict.fromkeys(data["heading"]) if name != _ACCURACY]
    several = data["dataset"].nunique() > 1
    lines = []
    row_of = ["dataset", "protocol", "method", "setting", "epsilon", "epsilon_printed"]
    for (dataset, protocol, method, setting, spent, printed), row in data.groupby(row_of, sort=False, dropna=False):
        line = {"measured by": PROTOCOLS[protocol].partition(";")[0] if protocol in PROTOCOLS else "ours"}
        line |= {"data": DATASETS.get(dataset, dataset)} if several else {}
        line |= {"method": f"{method} ({setting})" if setting else method}
        claim = mark(row["accounting_sound"].iloc[0])
        line["ε"] = f"{printed:g}{claim}" if protocol in PROTOCOLS else "" if spent == math.inf else epsilon_text(spent)
        line["seeds"] = "" if row["n"].isna().all() else f"{row['n'].max():.0f}"
        for heading in headings:
            line[heading] = ", ".join(row.loc[row["heading"] == heading, "text"])
        of_it = row[row["heading"] == _ACCURACY]
        line[_ACCURACY] = ", ".join(of_it["text"])
        lines.append(line)
    return pd.DataFrame(lines)


def _notes(printed: pd.DataFrame, same: pd.DataFrame, trials: pd.DataFrame) -> Iterator[str]:
    if same.empty and len(printed):
        there = ", ".join(f"{epsilon:g}" for epsilon in sorted(printed.loc[printed["epsilon"] < math.inf, "epsilon"].unique()))
        ours = (
            ", ".join(f"{epsilon:g}" for epsilon in sorted(trials["target_epsilon"].dropna().unique())) or "no target epsilon"
        )
        yield f"Nothing is printed at our epsilon ({ours}); there are numbers at {there}."
    elif same.empty:
        yield f"Nothing that we know of is printed on {', '.join(trials['data_source'].unique())}."
    else:
        yield (
            "Ours: mean ± standard deviation over seeds; ε is proven and rounded up. Printed numbers have no spread, and each "
            "protocol has its own data split, classifiers, reference set and number of images: a difference between two "
            "protocols is not one between two methods."
        )
        yield f"Measured how: {'. '.join(f'{PROTOCOLS[name]}' for name in same['protocol'].unique())}."
        if same["metric"].isin(["precision", "recall", "fld"]).any():
            yield "Precision, recall and FLD of DPImageBench are in the CSV file: nothing of ours is of that kind."
