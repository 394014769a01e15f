"""What trials will take, from what earlier ones took; unknown where nothing was measured."""

from __future__ import annotations

from statistics import fmean
from typing import TYPE_CHECKING, Any

from .folders import Folders

if TYPE_CHECKING:
    from .plan import PlannedTrial

COLUMNS = ["method", "cell_id", "data_shape", "steps", "train_seconds", "evaluate_seconds", "peak_memory_mb", "status"]


class Estimates:
    """Seconds and memory by cell, else by method, image shape and step count."""

    def __init__(self, folders: Folders) -> None:
        self._rows: list[dict[str, Any]] = []
        if any(folders.table("trials").glob("*.parquet")):
            from . import store

            rows = store.read_table("trials", store.committed_parts(folders)["trials"]).select(COLUMNS).to_pylist()
            self._rows = [row for row in rows if row["status"] == "completed" and row["evaluate_seconds"]]

    def of(self, trial: PlannedTrial) -> dict[str, float | None]:
        """``seconds`` and ``memory_mb`` of a trial, None where unknown."""
        same_cell = [row for row in self._rows if row["cell_id"] == trial.cell_id]
        shape = "x".join(map(str, trial.data.info.shape))
        alike = same_cell or [row for row in self._rows if row["method"] == trial.spec.method and row["data_shape"] == shape]
        if not alike or trial.account is None:
            return {"seconds": None, "memory_mb": None}
        steps = sum(phase.steps for phase in trial.account.phases)
        training = fmean(row["train_seconds"] / row["steps"] for row in alike) * steps
        evaluation = fmean(row["evaluate_seconds"] for row in alike)
        seconds = {"train": training + evaluation, "evaluate": evaluation}.get(trial.action, 0.0)
        return {"seconds": seconds, "memory_mb": max(row["peak_memory_mb"] for row in alike)}
