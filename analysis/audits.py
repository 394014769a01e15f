"""What the report says of one-run audits: bounds beside the proven epsilon, the control, and whether it had any power."""

from __future__ import annotations

import pandas as pd

from harness.store import AuditRow

from .files import rows_of
from .page import Items, Section, TableBlock, Text, columns_of
from .results import Results
from .table import epsilon_text


def audits(results: Results) -> list[Section]:
    """The section on audits; none where no trial was audited, or where the results are not for their owner alone."""
    rows = results.audits
    if not rows:
        return []
    wrong = [Text(f"{row.cell}: {row.verdict}", "warning") for row in rows if row.wrong]
    shown = pd.DataFrame([_shown(row) for row in rows])
    confidence = " or ".join(sorted({f"{row.confidence:.0%}" for row in rows}))
    table = TableBlock("Lower bounds on epsilon from one run", columns_of(shown), rows_of(shown))
    notes = (
        "Steinke, Nasr & Jagielski (2023): canaries are in the data by secret fair coins, and these coins are guessed. "
        f"Each bound holds with {confidence} confidence by itself; where there are many, some are too high by chance. An "
        "account is called wrong where the smallest probability in a cell, times its seeds and scores (Bonferroni), is below 1 "
        "minus that confidence.",
        "A bound of 0 is no proof of anything: an audit can refute an epsilon and cannot confirm one.",
        "The control is the same training without noise. No epsilon covers these rows: they are for the owner of the data.",
    )
    return [Section("audit", "Did the releases give records away?", (*wrong, table, Items(notes, "footnotes")))]


def _shown(row: AuditRow) -> dict[str, str]:
    return {
        "cell": row.cell,
        "score": row.score,
        "proven epsilon": "none" if row.epsilon is None else epsilon_text(row.epsilon),
        "right guesses": ", ".join(f"{right} of {row.guesses}" for right in row.right),
        "lower bound": ", ".join(f"{bound:.3g}" for bound in row.bounds),
        "highest possible": f"{row.highest:.3g}",
        "control's bound": "" if row.control is None else f"{row.control:.3g}",
        "what it says": row.verdict,
    }
