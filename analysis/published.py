"""Numbers that others printed: what they are, where they stand, and whether their epsilon is proven (``published.csv``)."""

from __future__ import annotations

from collections.abc import Collection
from functools import cache
from pathlib import Path

import pandas as pd

from .table import CLAIM, UNCHECKED

DATASETS = {
    "mnist": "MNIST",
    "fashion_mnist": "Fashion-MNIST",
    "celeba_gender": "CelebA",
    "celeba_unconditional": "CelebA without labels",
}
"""Names of the data sets in ``published.csv``, as tables head them."""

METRICS = {
    "is_dataset_classifier": ("IS (data-set classifier)", "higher"),
    "is_imagenet_inception": ("IS (ImageNet)", "higher"),
    "fid": ("FID", "lower"),
    "g2r_acc_mlp": ("MLP", "higher"),
    "g2r_acc_cnn": ("CNN", "higher"),
    "g2r_acc_logreg": ("logistic regression", "higher"),
    "g2r_acc_best_of_3": ("best of three networks", "higher"),
    "g2r_acc_mean_of_3": ("mean of three networks", "higher"),
    "g2r_acc_plot": ("read from a plot, network not stated", "higher"),
    "real_acc_cnn": ("CNN on real data by DP-SGD", "higher"),
    "real_acc_mlp": ("MLP on real data by DP-SGD", "higher"),
    "real_acc_logreg": ("logistic regression on real data by DP-SGD", "higher"),
    "precision": ("precision", "higher"),
    "recall": ("recall", "higher"),
    "fld": ("FLD", "lower"),
}
"""Kinds of printed numbers: what they are called, which way is better. Accuracies are called by their classifier."""

PROTOCOLS = {
    "paper2026": "Ma & Zhang (2026); delta 1e-5; FID of 20,000 or 12,000 images against the training set",
    "sinkhorn_early": "DP-Sinkhorn, first arXiv version; delta 1e-5; FID of 60,000 images against the test set",
    "sinkhorn_early_celeba": "DP-Sinkhorn, first arXiv version; delta 1e-6; 32 x 32",
    "dpdm": "DPDM; delta 1e-5; its own classifiers; others' rows from the literature",
    "dpdm_celeba": "DPDM; delta 1e-6; 32 x 32, unconditional",
    "dpgan_revisited": "DPGAN revisited; delta 1e-5; chosen on the test set",
    "dpimagebench": "DPImageBench; delta 1/(N ln N); best of three networks, chosen on clean private images",
    "dpimagebench_plot": "DPImageBench, data behind its plots; single runs",
    "feta_pro": "FETA-Pro, its logs; mean of three networks",
    "feta_pro_plot": "FETA-Pro, data behind its plots",
    "sok": "SoK on private data synthesis; delta 1e-5; LeNet of GS-WGAN",
}
"""Who measured, how: numbers of two protocols are not measured alike."""


def published(
    dataset: str | Collection[str] | None = None,
    protocol: str | Collection[str] | None = None,
    metric: str | Collection[str] | None = None,
) -> pd.DataFrame:
    """Printed numbers, a row each, of the data sets, protocols and kinds named (all where none is).

    Columns: ``method``, ``dataset``, ``epsilon`` (as printed; inf: no privacy), ``metric`` (a key of ``METRICS``), ``value``
    (accuracies as fractions) and ``printed`` (the same with its digits), ``protocol`` (a key of ``PROTOCOLS``), ``source``,
    ``accounting_sound`` (yes, no, unknown), ``column`` (the column of our trials table that is the same kind of number; empty
    where there is none) and ``epsilon_proven`` (what is known of the epsilon where the accounting is not sound, else empty).

    >>> row = published("fashion_mnist", "paper2026", "fid").iloc[1]
    >>> row.method, row.printed, row.epsilon_proven
    ('GS-WGAN', '131.34', '329 to 610')
    """
    rows = _all()
    for column, wanted in (("dataset", dataset), ("protocol", protocol), ("metric", metric)):
        if wanted is not None:
            rows = rows[rows[column].isin([wanted] if isinstance(wanted, str) else wanted)]
    return rows.reset_index(drop=True)


@cache
def _all() -> pd.DataFrame:
    rows = pd.read_csv(Path(__file__).with_name("published.csv"), dtype=str, keep_default_na=False)
    rows.insert(rows.columns.get_loc("value") + 1, "printed", rows["value"])
    return rows.astype({"value": float, "epsilon": float})


def dataset_of(source: str, classes: float) -> str:
    """The name in ``published.csv`` of a data source of ours: CelebA is printed with its two classes and without."""
    return source if source != "celeba" else "celeba_unconditional" if classes == 1 else "celeba_gender"


def mark(accounting_sound: str) -> str:
    """What a printed number carries: a dagger where its epsilon is a claim, two where nobody checked."""
    return {"no": CLAIM, "unknown": UNCHECKED}.get(accounting_sound, "")


def claims(rows: pd.DataFrame) -> list[str]:
    """Sentences that explain the marks of printed rows: what is known of each epsilon that is a claim."""
    notes = []
    unsound = rows[rows["accounting_sound"] == "no"]
    if len(unsound):
        notes.append(
            f"{CLAIM} The epsilon is a claim: its accounting is unsound. What its settings really buy (from a lower bound to a "
            f"proven one where both are known): {'; '.join(_bought(unsound))}."
        )
    if (rows["accounting_sound"] == "unknown").any():
        notes.append(f"{UNCHECKED} The accounting behind this epsilon was not checked.")
    if notes and (rows["accounting_sound"] == "yes").any():
        notes.append("A printed epsilon without a mark comes from sound accounting.")
    return notes


def _bought(unsound: pd.DataFrame) -> list[str]:
    """Who bought what: a phrase a method and epsilon, with the data sets and protocols where a method has several."""
    base = unsound["method"].str.contains("(base)", regex=False)
    names = unsound["method"].str.partition(" [")[0].where(~base, "DPAC")  # the base rows print DPAC's numbers
    phrases = []
    for name, rows in unsound.groupby(names, sort=False):
        for proven, same in rows.groupby("epsilon_proven", sort=False):
            where = []
            if rows["epsilon_proven"].nunique() > 1:
                if same["dataset"].nunique() < rows["dataset"].nunique():
                    where = [DATASETS[dataset] for dataset in same["dataset"].unique()]
                elif same["protocol"].nunique() < rows["protocol"].nunique():
                    where = [PROTOCOLS[protocol].partition(";")[0] for protocol in same["protocol"].unique()]
            phrases.append(f"{name}{' (' + ', '.join(where) + ')' if where else ''} {proven}")
    return phrases
