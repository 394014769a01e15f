"""The worker's side of a job: read the launch's plan, run one job of it, and let no exception out.

Called in whatever process an executor made. Only the path of the plan and the job's id travel; the rest is on disk.
"""

from __future__ import annotations

import logging
import platform
import resource
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .folders import Folders
from .jobs import Report
from .ledger import Fenced
from .planfile import read_job

logger = logging.getLogger("dpsweep")


def run_job(plan: Path, job_id: str, report: Report) -> Mapping[str, Any]:
    """Run job ``job_id`` of ``plan``; return its status, and for a failure one line of it and the path of its log."""
    folders = Folders(plan.parents[3], plan.parents[2].name)
    try:
        job = read_job(plan, job_id)
        if job["kind"] == "stage":
            return _run_stage(folders, job)
        from .trial import run_trial

        return run_trial(folders, job, report, plan=plan)
    except Fenced as error:
        return {"status": "lost", "message": str(error)}
    except Exception as error:
        return {"status": "failed", "message": one_line(error), "log": None}


def _run_stage(folders: Folders, job: Mapping[str, Any]) -> Mapping[str, Any]:
    from trainables.base import Stage

    from .stages import compute_stage
    from .trial import load_data, prepare_torch

    log = folders.logs / f"{job['id']}.log"
    with logging_to(log):
        try:
            train, test = load_data(job["data"], folders)
            compute_stage(folders, job["id"], Stage(**job["stage"]), train, test, prepare_torch(job["resources"]))
        except Exception as error:
            logger.error("stage failed\n%s", traceback.format_exc())
            return {"status": "failed", "message": one_line(error), "log": str(log)}
    return {"status": "completed"}


@contextmanager
def logging_to(path: Path) -> Iterator[None]:
    """Send the ``dpsweep`` logger to a file of its own, only readable by the owner."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path)
    path.chmod(0o600)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        handler.close()


def one_line(error: BaseException) -> str:
    """The last line of a traceback, short enough for a table.

    >>> one_line(ValueError("steps is 0;\\nexpected 1"))
    'ValueError: steps is 0; expected 1'
    """
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= 300 else text[:297] + "..."


def peak_memory_mb() -> float:
    """Largest resident size of this process so far, in MB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def versions() -> dict[str, str | None]:
    """What ran: dpsweep, Python and torch, and the host's platform."""
    from importlib.metadata import PackageNotFoundError, version

    found: dict[str, str | None] = {"python": platform.python_version(), "platform": platform.platform()}
    for name in ("dpsweep", "torch", "ray", "dp-accounting"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found
