"""What is left of a private selection that has run to its end: its best trial, as the selection's one row (``selection``).

The row, the generator and the samples are the best trial's, under the selection's name and at the selection's price; the
ledger counts one step of the selection. All else of its trials is deleted.
"""

from __future__ import annotations

import json
import math
import os
import secrets
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from trainables.evaluation.metrics import DETAILS, METRICS

from . import store
from .attempts import Attempt, read_trial_attempts
from .documents import job_document
from .folders import create_json, file_hash
from .ledger import trial_account
from .plan import Plan, PlannedTrial, make_plan
from .planfile import write_plan
from .rows import trial_row
from .sealed import clear, drawn_trials
from .selection import Selection


def reveal(chosen: Selection) -> str:
    """Keep the best trial as what the selection is, delete all others, and return a sentence on it.

    Until the last record is written the sealed folder is there, so that the same command does this again after a crash; it
    reveals the same trial, which is paid for once.
    """
    from .snapshot import provenance

    inner, specs, folders = chosen.sealed, drawn_trials(chosen), chosen.folders
    best = _winner(chosen, make_plan(inner, specs)) if specs else None
    outer = job_document(chosen.plan, chosen.trial, provenance())
    job = outer if best is None else {**job_document(best[0], best[1], provenance()), **_whole(outer)}
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%f")
    path = folders.launches / f"{stamp}-{os.getpid()}" / "plan.json"
    write_plan(path, [(job["trial_id"], {**job, "kind": "train"})])
    assert chosen.trial.account is not None
    attempt = Attempt.open(
        folders,
        job["trial_id"],
        kind="train",
        lineage=job["data"]["lineage"],
        phases=chosen.trial.account.phases,
        plan=path,
    )
    before = trial_account(folders, job["trial_id"], before=attempt.number)
    begun = inner.root / "revealing.json"
    # A reveal of these draws that was cut off is counted already; whatever else is on record is another one.
    executed = [0 if begun.exists() and before and any(before.executed) else 1]
    if any(executed):
        with suppress(FileExistsError):
            create_json(begun, {})
        attempt.reserve(0, 1)
    attempt.settle(executed, stopped=False)
    paid = trial_account(folders, job["trial_id"])
    assert paid is not None
    status, message = ("failed", _nothing(chosen)) if best is None else ("completed", None)
    fields: dict[str, Any] = {}
    ending: dict[str, Any] = {"resumable": best is not None}
    parts = []
    if best is not None:
        fields, samples, ending["generator"] = _take(chosen, best[1], attempt)
        if samples:
            parts.append(store.write_part(folders, "samples", f"{attempt.trial_id}.{attempt.number}", samples))
    row = trial_row(
        {**job, "label": chosen.trial.spec.label if best is None else f"best of a selection: {_setting(best[1])}"},
        status=status,
        attempt=attempt.number,
        executed=paid.executed,
        kept_steps=None if best is None else 1,
        stopped=False,
        proven=True,
        exogenous=True,
        message=message,
        attempts=attempt.number,
        selection=_described(chosen),
    )
    parts.append(store.write_part(folders, "trials", f"{attempt.trial_id}.{attempt.number}", [row | fields]))
    evaluated = fields.get("evaluation_id")
    attempt.close(status, parts=parts, evaluation_id=evaluated, message=message, step=1, executed=executed, **ending)
    clear(chosen)
    return message or f"The best trial was kept; the others, and how many there were, are deleted. {_paid(chosen)}"


def _winner(chosen: Selection, plan: Plan) -> tuple[Plan, PlannedTrial] | None:
    """``_best``, chosen once: written down before anything of it is revealed, and read from then on."""
    record = chosen.sealed.root / "winner.json"
    if not record.exists():
        found = _best(chosen, plan)
        create_json(record, {"trial_id": found[1].trial_id if found else None})
    trial_id = json.loads(record.read_text())["trial_id"]
    return None if trial_id is None else (plan, next(trial for trial in plan.trials if trial.trial_id == trial_id))


def _best(chosen: Selection, plan: Plan) -> tuple[Plan, PlannedTrial] | None:
    """The trial with the best score; one that failed has none. None where no trial has one.

    Between equals the operating system draws. A trial that took more steps than the price counts (its process was lost more
    often than its reserve holds), or has other noise than what is paid for, is taken for failed.
    """
    committed = store.read_committed(plan.folders, "trials", plan.attempts).to_pylist()
    rows = {row["trial_id"]: row for row in committed}
    most = {(spec.method, spec.config_key): phases for spec, phases in zip(chosen.settings, chosen.phases, strict=True)}
    sign = 1 if METRICS[chosen.search.score].direction == "higher" else -1
    scores: dict[str, float] = {}
    for trial in plan.trials:
        row, account = rows.get(trial.trial_id, {}), plan.accounts.get(trial.trial_id)
        score = row.get(chosen.search.score)
        whole = row.get("status") == "completed" and row.get("epsilon") is not None and account is not None
        if not whole or account is None or score is None or not math.isfinite(score):
            continue
        allowed = most[trial.spec.method, trial.spec.config_key]
        if all(
            done <= phase.steps and ran.mechanism == phase.mechanism
            for done, ran, phase in zip(account.executed, account.phases, allowed, strict=True)
        ):
            scores[trial.trial_id] = sign * score
    if not scores:
        return None
    equals = [trial for trial in plan.trials if scores.get(trial.trial_id) == max(scores.values())]
    return plan, secrets.choice(equals)


def _whole(outer: Mapping[str, Any]) -> dict[str, Any]:
    """What of the winner's job is that of the selection: its name, and what it costs."""
    return {key: outer[key] for key in ("trial_id", "cell_id", "sweep", "privacy", "release", "cut", "stages")}


def _take(chosen: Selection, best: PlannedTrial, attempt: Attempt) -> tuple[dict[str, Any], list[dict[str, Any]], str]:
    """(columns, samples, hash of the generator) of the best trial under the selection's name.

    Nothing is taken over that would tell of the others: no times, no number of an attempt, no id.
    """
    from safetensors.torch import load_file

    from .evaluate import keep_generator

    inner, trial_id = chosen.sealed, chosen.trial.trial_id
    (row,) = store.read_committed(inner, "trials", {best.trial_id: read_trial_attempts(inner, best.trial_id)}).to_pylist()
    kept = ("per_class", "real", "evaluation_id", "evaluation_samples", "evaluation", "device", "versions")
    fields = {name: row[name] for name in (*METRICS, *DETAILS, *kept)}
    fields |= {"steps": row["steps"], "steps_planned": row["steps_planned"], "axes": row["axes"], "case": row["case"]}
    tensors = load_file(inner.generator(best.trial_id))
    metadata = {"trial_id": trial_id, "attempt": str(attempt.number), "steps": "1"}
    keep_generator(chosen.folders, trial_id, tensors, metadata)
    samples = store.read_samples(inner.sweep, [best.trial_id]).to_dict("records")
    for sample in samples:
        name = f"{trial_id}_{sample['label']}_{sample['index']}.png"
        sample |= {"trial_id": trial_id, "image": {**sample["image"], "path": name}}
    return fields, samples, file_hash(chosen.folders.generator(trial_id))


def _setting(trial: PlannedTrial) -> str:
    """The label of a trial without its seed."""
    return trial.spec.label.rpartition(" seed=")[0] or trial.spec.method


def _described(chosen: Selection) -> str:
    """The column ``selection``."""
    search = chosen.search.model_dump(mode="json")
    return json.dumps({**search, "settings": len(chosen.settings), "base_epsilon": chosen.base_epsilon})


def _nothing(chosen: Selection) -> str:
    empty = " (or there was none, which a Poisson number allows)" if math.isinf(chosen.repetitions.shape) else ""
    return f"no trial of the selection ended well{empty}: nothing is kept; one trial without `search` may tell why"


def _paid(chosen: Selection) -> str:
    request, account = chosen.trial.spec.privacy, chosen.trial.account
    assert account is not None
    return (
        f"Epsilon {account.epsilon(request.accountant):.4g} (delta {request.delta:g}) covers the choice; every trial had "
        f"{chosen.base_epsilon:.4g}."
    )
