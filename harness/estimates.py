"""What trials will take, from what earlier ones took; unknown where nothing was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from .attempts import AttemptRecord
from .folders import Folders

if TYPE_CHECKING:
    from .plan import PlannedTrial

COLUMNS = ["method", "cell_id", "data_shape", "steps", "train_seconds", "evaluate_seconds", "peak_memory_mb", "status"]


class Estimates:
    """Seconds and memory by cell, else by method and image shape (seconds then scale with the steps)."""

    def __init__(self, folders: Folders, attempts: Mapping[str, Sequence[AttemptRecord]]) -> None:
        measured: dict[Any, list[dict[str, Any]]] = {}
        if any(folders.table("trials").glob("*.parquet")):
            from . import store

            table = store.read_committed(folders, "trials", attempts).select(COLUMNS)
            for row in table.to_pylist():
                if row["status"] == "completed" and row["evaluate_seconds"]:
                    measured.setdefault(row["cell_id"], []).append(row)
                    measured.setdefault((row["method"], row["data_shape"]), []).append(row)
        self._means = {
            key: (
                fmean(row["train_seconds"] / row["steps"] for row in rows),
                fmean(row["evaluate_seconds"] for row in rows),
                max(row["peak_memory_mb"] for row in rows),
            )
            for key, rows in measured.items()
        }

    def of(self, trial: PlannedTrial) -> dict[str, float | None]:
        """``seconds`` that are left of a trial, and its ``memory_mb``; None where unknown."""
        alike = trial.spec.method, "x".join(map(str, trial.data.info.shape))
        found = self._means.get(trial.cell_id) or self._means.get(alike)
        if found is None or trial.account is None:
            return {"seconds": None, "memory_mb": None}
        seconds_a_step, evaluation, memory = found
        training = seconds_a_step * sum(phase.steps for phase in trial.account.phases)
        return {
            "seconds": {"train": training + evaluation, "evaluate": evaluation}.get(trial.action, 0.0),
            "memory_mb": memory,
        }
