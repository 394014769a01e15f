"""Attempts whose process is gone: closed as ``lost`` by the driver, with a row that counts what they may have released."""

from __future__ import annotations

from collections.abc import Sequence

from . import rows, store
from .evaluate import kept_steps
from .folders import Folders
from .ledger import AttemptRecord, close_from_outside, fence_off, read_attempts, trial_account
from .planfile import read_job


def close_orphans(folders: Folders) -> list[str]:
    """Close every open attempt of the sweep; return the trials' ids.

    Only for the holder of the driver's lock while none of its jobs runs. A process that is alive after all (its driver was
    killed) finds itself fenced before its next release, and what it has reserved until then is counted.
    """
    lost = []
    for trial_id, records in read_attempts(folders).items():
        if records[-1].end is None and close_lost(folders, records):
            lost.append(trial_id)
    return lost


def close_lost(folders: Folders, records: Sequence[AttemptRecord]) -> bool:
    """Close the last of a trial's attempts as ``lost``; False if it closed itself in the meantime."""
    record = records[-1]
    fence_off(folders, record)
    message = f"process {record.start['pid']} on {record.start['host']} ended without a word"
    parts = []
    if record.start["kind"] == "train":  # a look again that was lost leaves the row as it was
        job = read_job(folders.sweep / record.start["plan"], record.trial_id)
        account = trial_account(folders, record.trial_id)
        row = rows.trial_row(
            job,
            status="lost",
            attempt=record.number,
            executed=account.executed if account else [0] * len(job["privacy"]["phases"]),
            kept_steps=kept_steps(folders, record.trial_id),
            message=message,
            attempts=record.number,
        )
        parts.append(store.write_part(folders, "trials", f"{record.trial_id}.{record.number}.lost", [row]))
    outcome = {"message": message, "resumable": True, "step": 0, "evaluation_id": None}
    return close_from_outside(folders, record, "lost", parts=parts, **outcome)
