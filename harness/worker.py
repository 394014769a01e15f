"""The worker's side of a job: read the launch's plan, run one job of it, and let no exception out.

Called in whatever process an executor made. Only the path of the plan and the job's id travel; the rest is on disk.
"""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .attempts import Fenced
from .folders import Folders
from .jobs import Report
from .planfile import read_job
from .process import logger, logging_to, one_line, out_of_memory


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
        return {"status": _status(error), "message": one_line(error), "log": None}


def _run_stage(folders: Folders, job: Mapping[str, Any]) -> Mapping[str, Any]:
    from trainables.base import Stage

    from . import releases
    from .job_data import load_data
    from .stages import compute_stage
    from .trial import prepare_torch

    log = folders.stage_log(job["id"])
    with logging_to(log):
        try:
            if job["stage"]["release"]:
                releases.draw(folders, job)
            else:
                train, test = load_data(job["data"], folders)
                compute_stage(folders, job["id"], Stage(**job["stage"]), train, test, prepare_torch(job["resources"]))
        except Exception as error:
            logger.error("stage failed\n%s", traceback.format_exc())
            return {"status": _status(error), "message": one_line(error), "log": str(log)}
        logger.info("completed")
    return {"status": "completed"}


def _status(error: Exception) -> str:
    return "oom" if out_of_memory(error) else "failed"
