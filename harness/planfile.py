"""``launches/<id>/plan.json``: everything the workers of one launch are told, written once before the first job starts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .folders import write_json
from .ledger import LedgerError


def write_plan(path: Path, jobs: Mapping[str, Mapping[str, Any]]) -> None:
    """Write the documents of a launch's jobs by id."""
    write_json(path, {"jobs": jobs})


def read_job(path: Path, job_id: str) -> Mapping[str, Any]:
    """The document of one job. Raises ``LedgerError`` where it cannot be read."""
    try:
        return json.loads(path.read_text())["jobs"][job_id]
    except (FileNotFoundError, ValueError, KeyError) as error:
        raise LedgerError(
            f"{path} does not hold job {job_id} ({type(error).__name__}), of which an attempt is still open: bring the file "
            f"back, or delete the folder attempts/{job_id} (the ledger keeps what it has spent)"
        ) from error
