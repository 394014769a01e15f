"""``launches/<id>/plan.json``: everything the workers of one launch are told, written once before the first job starts.

A JSON object with a line a job: a worker looks for its own and leaves the others alone. Reading all of them in every worker
would take 30 ms a trial in a launch of 1,000 trials, and seconds and gigabytes in one of 100,000.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from .account_files import LedgerError
from .folders import write_texts


def write_plan(path: Path, jobs: Iterable[tuple[str, Mapping[str, Any]]]) -> None:
    """Write the documents of a launch's jobs, (id, document) each; only one of them is in memory at a time."""
    write_texts(path, _texts(jobs))


def _texts(jobs: Iterable[tuple[str, Mapping[str, Any]]]) -> Iterator[str]:
    before = '{"jobs": {\n'
    for job_id, job in jobs:
        yield f"{before}{json.dumps(job_id)}: {json.dumps(job)}"
        before = ",\n"
    yield "\n}}"


def read_job(path: Path, job_id: str) -> Mapping[str, Any]:
    """The document of one job. Raises ``LedgerError`` where it cannot be read."""
    try:
        line = _line(path, job_id)
        return json.loads(line) if line is not None else json.loads(path.read_text())["jobs"][job_id]
    except (FileNotFoundError, ValueError, KeyError) as error:
        raise LedgerError(
            f"{path} does not hold job {job_id} ({type(error).__name__}), of which an attempt is still open: bring the file "
            f"back, or delete the folder attempts/{job_id} (the ledger keeps what it has spent)"
        ) from error


def _line(path: Path, job_id: str) -> bytes | None:
    """The job's document on its line; None where it has none, as in plans of earlier versions. No JSON has a newline in it."""
    key = f"\n{json.dumps(job_id)}: ".encode()
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
        start = text.find(key)
        if start < 0:
            return None
        start += len(key)
        return text[start : text.find(b"\n", start)].removesuffix(b",")
