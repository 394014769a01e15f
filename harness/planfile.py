"""``launches/<id>/plan.json``: everything the workers of one launch are told, written once before the first job starts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .folders import write_json


def write_plan(path: Path, jobs: Mapping[str, Mapping[str, Any]]) -> None:
    """Write the documents of a launch's jobs by id."""
    write_json(path, {"jobs": jobs})


def read_job(path: Path, job_id: str) -> Mapping[str, Any]:
    """The document of one job. Raises ``KeyError`` for an id that the launch does not have."""
    return json.loads(path.read_text())["jobs"][job_id]
