"""What the audits of a sweep's trials say, a row a cell and score: for the closing lines of a command and for the report."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

SCORES = {"black_box": "black box", "grey_box": "grey box"}


@dataclass(frozen=True, kw_only=True)
class AuditRow:
    """One score of the trials of one cell."""

    cell: str
    """The label without the seed."""
    score: str
    """``black box`` (samples) or ``grey box`` (releases)."""
    epsilon: float | None
    """The smallest proven one of the cell's trials; None where nothing is proven, or infinite."""
    bounds: tuple[float, ...]
    """Lower bounds on epsilon, one a seed, each at the audit's confidence; none where the method has no such score."""
    right: tuple[int, ...]
    """Right guesses, one a seed."""
    guesses: int
    canaries: int
    confidence: float
    highest: float
    """The bound if every guess were right."""
    control: float | None
    """The bound of the same training without noise; None where there is no control of it yet."""
    p_at_epsilon: float | None
    """The smallest probability, over the seeds, of so many right guesses under the proven epsilon."""
    looks: int
    """Numbers of right guesses that were looked at in the cell: seeds x scores."""

    @property
    def wrong(self) -> bool:
        """Whether the proven epsilon is refuted at the audit's confidence, over all seeds and scores of the cell together.

        The Bonferroni correction: with a true epsilon, one of n probabilities is below (1 - confidence) / n in at most a share
        1 - confidence of all cells, even though the seeds share their coins.
        """
        return self.p_at_epsilon is not None and self.p_at_epsilon * self.looks < 1 - self.confidence

    @property
    def verdict(self) -> str:
        """One sentence. It never says that anything is private."""
        if not self.bounds:
            return "the method has none."
        if self.wrong:
            return (
                f"THE ACCOUNT IS WRONG: {self.epsilon:.3g} is called proven, and under it so many right guesses have a "
                f"probability of at most {self.p_at_epsilon:.2g}{self._corrected}. Release nothing."
            )
        if self.epsilon is None:
            return "There is no proven epsilon to contradict."
        if self.p_at_epsilon is not None and max(self.bounds) > self.epsilon:
            return (
                "A bound lies above the proven epsilon, as may happen by chance: under it so many right guesses have a "
                f"probability of at most {self.p_at_epsilon:.2g}{self._corrected}. "
                f"Not refuted at {self.confidence:g} confidence."
            )
        if self.control is None:
            return "Without a control nobody knows whether this audit could have noticed anything."
        if self.control <= self.epsilon:
            return (
                f"This audit had no power: even without noise it shows no more than {self.control:.3g}, which is not above the "
                "proven epsilon."
            )
        return f"No contradiction, and without noise the audit shows {self.control:.3g}. This does not prove the epsilon."

    @property
    def _corrected(self) -> str:
        """The probability after the correction; empty where there was one look."""
        if self.looks == 1 or self.p_at_epsilon is None:
            return ""
        return f", {min(self.p_at_epsilon * self.looks, 1.0):.2g} for the best of {self.looks} (Bonferroni)"


def audit_rows(trials: Iterable[Mapping[str, Any]]) -> list[AuditRow]:
    """The audits in these rows of the trials table, in their order; controls stand beside the cells that they are of."""
    audited = [(trial, json.loads(trial["audit"])) for trial in trials if isinstance(trial.get("audit"), str)]
    controls = {_setting(trial): found for trial, found in audited if trial["control"]}
    cells: dict[str, list[tuple[Mapping[str, Any], Mapping[str, Any]]]] = {}
    for trial, found in audited:
        if not trial["control"]:
            cells.setdefault(trial["cell_id"], []).append((trial, found))
    rows = []
    for members in cells.values():
        first, settings = members[0]
        proven = [trial["epsilon"] for trial, _ in members if trial["epsilon"] is not None and math.isfinite(trial["epsilon"])]
        looks = sum("bound" in audit[key] for _, audit in members for key in SCORES)
        for key, name in SCORES.items():
            found = [audit[key] for _, audit in members if "bound" in audit[key]]
            chances = [one["p_at_epsilon"] for one in found if one["p_at_epsilon"] is not None]
            rows.append(
                AuditRow(
                    cell=first["label"].rpartition("seed=")[0].strip() or first["case"],
                    score=name,
                    epsilon=min(proven, default=None),
                    bounds=tuple(one["bound"] for one in found),
                    right=tuple(one["right"] for one in found),
                    guesses=settings["guesses"],
                    canaries=settings["canaries"],
                    confidence=settings["confidence"],
                    highest=settings["highest_bound"],
                    control=controls.get(_setting(first), {}).get(key, {}).get("bound"),
                    p_at_epsilon=min(chances, default=None),
                    looks=looks,
                )
            )
    return rows


def _setting(trial: Mapping[str, Any]) -> tuple[Any, ...]:
    """What a trial has in common with its control."""
    return tuple(trial[name] for name in ("method", "method_version", "config", "data_fingerprint", "delta", "neighbours"))
