"""How a sweep's latest run on Slurm stands, or how it has ended: what ``--status`` says of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from slurm.launch import look
from slurm.run import RunFolder

from .slurm_cluster import log_tail, runs


def status_document(sweep: Path) -> dict[str, Any] | None:
    """How the latest run on Slurm stands: its head's job and its workers, or how it has ended (state ENDED).

    None where the sweep has none, or what it has ended with is in the sweep's rows.
    """
    run = next(iter(reversed(runs(sweep))), None)
    record = run.read(run.record) if run is not None else None
    if run is None or not record:
        return None
    job = run.head_job()
    if run.ended() is not None:
        return _ending(run)
    found = look(run)
    if job and job not in found:
        return _ending(run)
    workers = [found[worker] for worker in run.worker_jobs() if worker in found]
    if not job and not workers:
        return None
    return {
        "job": job,
        "state": found[job].state if job else "HERE",
        "reason": found[job].reason if job else None,
        "workers": len(run.worker_jobs()),
        "workers_running": sum(worker.state == "RUNNING" for worker in workers),
        "workers_pending": sorted(worker.reason for worker in workers if worker.state == "PENDING"),
        "nodes_joined": len(list(run.nodes.glob("*.json"))),
        "output": str(run.output),
    }


def _ending(run: RunFolder) -> dict[str, Any] | None:
    """How a run that a job held has ended; None where its rows say it all, or a later command has gone on."""
    job, status = run.head_job(), run.ended()
    if job is None or status in (0, 1):  # all done, or with trials that failed
        return None
    last = max(path.stat().st_mtime for path in (run.record, run.output, run.exit) if path.exists())
    if any(launch.stat().st_mtime > last for launch in (run.path.parents[1] / "launches").glob("*")):
        return None
    said = run.output.read_text(errors="replace").split("\n") if run.output.exists() else []
    if status is None:  # the job has ended before its command could
        log = run.jobs / f"{job}_0_log.out"
        return {"job": job, "state": "ENDED", "status": None, "said": log_tail(run), "output": str(log)}
    return {
        "job": job,
        "state": "ENDED",
        "status": status,
        "said": next((line for line in reversed(said) if line.strip()), None),
        "output": str(run.output),
    }


def status_sentence(document: dict[str, Any]) -> str:
    """``status_document`` for a person."""
    if document["state"] == "ENDED":
        return _ended_sentence(document)
    state = state_in_words(document["state"], document["reason"])
    job = f"Slurm job {document['job']} holds the sweep: {state}" if document["job"] else "held on this machine"
    waiting = document["workers_pending"]
    queued = f", {len(waiting)} wait in the queue ({', '.join(sorted(set(waiting)))})" if waiting else ""
    workers = f"worker jobs: {document['workers_running']} of {document['workers']} run{queued}"
    return f"{job}; {workers if document['workers'] else 'no worker job is queued'}. Output: {document['output']}"


def _ended_sentence(document: dict[str, Any]) -> str:
    job, status, said = f"Slurm job {document['job']}", document["status"], document["said"]
    if said is None and status == 130:
        return f"{job} was cancelled while it waited in the queue."
    if status is None:
        return f"{job} has ended before its command could: {said}\n  its log: {document['output']}"
    return f"{job} has ended with status {status}: {said or 'it said nothing'}\n  its output: {document['output']}"


def state_in_words(state: str, reason: str | None) -> str:
    """A job's state, with the reason why it waits; Slurm says None until it has looked at the job."""
    return f"{state} ({reason})" if state == "PENDING" and reason not in (None, "", "None") else state
