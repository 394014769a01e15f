"""What a command finds when it takes a sweep over: attempts whose process is gone, and parts that the disk has damaged.

Attempts are closed as ``lost``, with a row that counts what they may have released. A part that is missing or has changed is
made again: from the compacted copy, or by an evaluation of the kept generator, which costs nothing. Nothing is trained again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from . import rows, store
from .attempts import Attempt, AttemptRecord, close_from_outside, fence_off, read_attempts
from .evaluate import kept_steps
from .folders import Folders
from .ledger import check_account, sweep_accounts, trial_account, violated
from .lock import require_held
from .planfile import read_job
from .releases import executed_with_release

NOT_KEPT = "not kept"
"""Evaluation id of an attempt that says that the metrics, or the samples, of the one before are lost: no evaluation has it."""


def recover(folders: Folders) -> list[str]:
    """Bring the records of a sweep in order before anything is planned; return a sentence on everything that was damaged.

    Only for the holder of the driver's lock, before any job runs. Raises ``Locked`` for anybody else, and ``LedgerError`` for
    what only a copy can bring back.
    """
    close_orphans(folders)
    attempts, accounts = read_attempts(folders), sweep_accounts(folders)
    for trial_id, records in attempts.items():
        check_account(folders, records, accounts.get(trial_id))
    copies = cache(lambda table: store.copies(table, folders))
    told = []
    for records in attempts.values():
        if damaged := store.damaged_parts(folders, records):
            told += _make_again(folders, records, damaged, copies)
    return told


def close_orphans(folders: Folders) -> list[str]:
    """Close every open attempt of the sweep; return the trials' ids.

    Only for the holder of the driver's lock while none of its jobs runs; raises ``Locked`` for anybody else. A process that is
    alive after all (its driver was killed) finds itself fenced before its next release, and what it has reserved until then is
    counted.
    """
    require_held(folders.lock)
    lost = []
    for trial_id, records in read_attempts(folders).items():
        if records[-1].end is None and close_lost(folders, records):
            lost.append(trial_id)
    return lost


def close_lost(folders: Folders, records: Sequence[AttemptRecord], status: str = "lost", why: str | None = None) -> bool:
    """Close the last of a trial's attempts, whose process is gone; False if it closed itself in the meantime.

    One that had settled its account after a privacy violation is closed as ``failed`` and is never resumed. ``status`` is
    ``oom`` where Ray has ended the process because its machine ran out of memory; ``why`` is what is known of it.
    """
    record = records[-1]
    fence_off(folders, record)
    gone = f"process {record.start['pid']} on {record.start['host']}: {why or 'ended without a word'}"
    message = f"{gone}{_last_words(folders, record)}"
    parts, executed, resumable = [], [], True
    if record.start["kind"] == "train":  # a look again that was lost leaves the row as it was
        job = read_job(folders.sweep / record.start["plan"], record.trial_id)
        account = trial_account(folders, record.trial_id)
        check_account(folders, records, account)
        if violated(folders, record):  # it was killed before it could say so
            status, resumable = "failed", False
        executed = list(executed_with_release(folders, account)) if account else [0] * len(job["privacy"]["phases"])
        row = rows.trial_row(
            job,
            status=status,
            attempt=record.number,
            executed=executed,
            kept_steps=kept_steps(folders, record.trial_id),
            stopped=account is not None and account.stopped,
            proven=all(record.proven for record in records),
            exogenous=not any(record.dropped_steps for record in records),
            message=message,
            attempts=record.number,
        )
        parts.append(store.write_part(folders, "trials", f"{record.trial_id}.{record.number}.lost", [row]))
    outcome = {"message": message, "resumable": resumable, "step": 0, "evaluation_id": None}
    return close_from_outside(folders, record, status, parts=parts, **outcome)


def _last_words(folders: Folders, record: AttemptRecord) -> str:
    """The error that ends the log of an attempt, where there is one."""
    try:
        text = folders.log(record.trial_id, record.number).read_text(errors="replace").strip()
    except OSError:
        return ""
    return f"; its log ends with {text.rpartition(chr(10))[2][:200]}" if " ERROR " in text else ""


def _make_again(folders: Folders, records: Sequence[AttemptRecord], damaged: Mapping[str, str], copies: Any) -> list[str]:
    """Supersede damaged parts of a trial (table -> path) by an attempt of kind ``repair``, which trains nothing."""
    last, trial_id = records[-1], records[-1].trial_id
    assert last.end is not None  # close_orphans has been here
    plan = folders.sweep / last.start["plan"]
    job = read_job(plan, trial_id)
    trained = [r for r in records if r.start["kind"] == "train" and r.end]
    attempt = Attempt.open(folders, trial_id, kind="repair", lineage=job["data"]["lineage"], phases=(), plan=plan)
    told, parts, again = [], [], False
    for table, path in damaged.items():
        name = path.rpartition("/")[2]
        known = copies(table).get(name) if table in store.COMPACTED else None
        if known is not None:
            content, how = known.to_pylist(), "its rows were taken from the compacted copy"
        elif table == "trials":
            account = trial_account(folders, trial_id)
            row = rows.trial_row(
                job,
                status=trained[-1].status if trained else last.status,
                attempt=attempt.number,
                executed=executed_with_release(folders, account) if account else [0] * len(job["privacy"]["phases"]),
                kept_steps=kept_steps(folders, trial_id),
                stopped=account is not None and account.stopped,
                proven=all(record.proven for record in records),
                exogenous=not any(record.dropped_steps for record in records),
                message=last.end["message"],
                attempts=attempt.number,
                train_seconds=last.end.get("train_seconds"),
            )
            content, how, again = [row], "its metrics are computed again", True
        else:
            content, how = [], "its rows are lost"
            if table == "samples":
                how, again = "its samples are drawn again", True
        parts.append(store.write_part(folders, table, f"{trial_id}.{attempt.number}", content))
        told.append(f"{folders.sweep / path} was missing or damaged: {how}")
    outcome = {name: last.end[name] for name in ("resumable", "step", "train_seconds") if name in last.end}
    evaluation_id = NOT_KEPT if again else None
    attempt.close(last.status, parts=parts, evaluation_id=evaluation_id, message="; ".join(told), **outcome)
    return told
