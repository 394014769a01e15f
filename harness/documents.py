"""A plan as JSON: what ``--dry-run --json`` prints, and what a worker is told about a job (``planfile``)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from trainables.base import Stage
from trainables.privacy import accounting
from trainables.privacy.mechanism import Phase, to_dict

from .audits import evaluation
from .plan import Plan, PlannedTrial
from .rows import last_release, steps_key
from .stages import stage_id


def privacy_document(trial: PlannedTrial) -> dict[str, Any]:
    """The privacy part of a trial as JSON. An epsilon that is infinite (no noise) is null; ``proof`` says so."""
    request, account = trial.spec.privacy, trial.account
    document: dict[str, Any] = {
        "target_epsilon": request.target_epsilon,
        "epsilon": None,
        "delta": request.delta,
        "accountant": request.accountant,
        "proof": None,
        "neighbours": request.neighbours,
        "mechanism": None,
        "noise_multiplier": None,
        "effective_noise_multiplier": None,
        "epsilon_published": None,
        "published_noise": request.published_noise,
    }
    if account is None:
        return {**document, "problem": trial.problem}
    last = last_release(account.phases)
    return {
        **document,
        "epsilon": finite(account.epsilon(request.accountant)),
        "epsilon_pld": finite(account.epsilon_pld),
        "epsilon_rdp": finite(account.epsilon_rdp),
        "proof": account.proof,
        "mechanism": [to_dict(phase) for phase in account.phases],
        "noise_multiplier": last.noise_multiplier if last else None,
        "effective_noise_multiplier": last.effective_noise_multiplier if last else None,
        "release": trial.release,
        "cut": account.cut,
        "epsilon_published": account.epsilon_published,
        "reserve": account.reserve,
    }


def job_document(plan: Plan, trial: PlannedTrial, provenance: Mapping[str, Any]) -> dict[str, Any]:
    """What a worker is told about a trial (``planfile``)."""
    spec, request, account = trial.spec, trial.spec.privacy, trial.account
    assert account is not None
    checkpoints = _checkpoints(account.phases, trial.checkpoint_every)
    keys = [steps_key(steps) for steps in checkpoints]
    known: dict[str, dict[str, float]] = {
        "pld": {keys[-1]: account.epsilon_pld},
        "rdp": {keys[-1]: account.epsilon_rdp},
    }
    curve = plan.calibrations.curve(account.phases, checkpoints, delta=request.delta, accountant=request.accountant)
    known[request.accountant] = {**dict(zip(keys, curve, strict=True)), **known[request.accountant]}
    document: dict[str, Any] = {
        "kind": trial.action,
        "trial_id": trial.trial_id,
        "cell_id": trial.cell_id,
        "sweep": plan.folders.name,
        "case": spec.case,
        "label": spec.label,
        "method": spec.method,
        "version": spec.version,
        "config": spec.config_json,
        "axes": dict(spec.axes),
        "seed": spec.seed,
        "data": trial.data.document,
        "privacy": {
            "phases": [to_dict(phase) for phase in account.phases],
            "target_epsilon": request.target_epsilon,
            "delta": request.delta,
            "accountant": request.accountant,
            "accountant_version": accounting.ACCOUNTANT_VERSION,
            "neighbours": request.neighbours,
            "proof": account.proof,
            "reserve": account.reserve,
            "epsilon_published": account.epsilon_published,
            "known": known,
        },
        "evaluation": {
            "id": trial.evaluation_id,
            "samples": spec.evaluate.samples,
            "every": spec.evaluate.every,
            "metrics": list(trial.reference.config["metrics"]),
            "version": trial.reference.config["version"],
            "inception": asdict(trial.inception) if trial.inception else None,
            "stage": stage_id(trial.reference, trial.data.fingerprint),
        },
        "checkpoint_every": trial.checkpoint_every,
        "keep_samples": spec.keep_samples,
        "stages": dict(trial.stages),
        "release": trial.release,
        "cut": account.cut,
        "resources": {"cpu": spec.resources.cpu, "gpu": spec.resources.gpu},
        "provenance": dict(provenance),
    }
    if spec.audit:
        document["audit"] = evaluation(spec.audit)
    return document | ({"control": True} if spec.control else {})


def stage_document(plan: Plan, stage: Stage, identifier: str, trial: PlannedTrial) -> dict[str, Any]:
    """What a worker is told about a stage; of a release also what all trials of the plan that share it ask of its budget."""
    document: dict[str, Any] = {
        "kind": "stage",
        "id": identifier,
        "stage": asdict(stage),
        "data": trial.data.document,
        "resources": {"cpu": trial.spec.resources.cpu, "gpu": trial.spec.resources.gpu},
    }
    if trial.control and stage.release:
        document["control"] = True
    if stage.release:
        assert trial.account is not None
        asked = {
            (request.target_epsilon, request.delta, request.accountant)
            for request in (other.spec.privacy for other in plan.trials if other.release == identifier)
        }
        document["privacy"] = {
            "phases": [to_dict(phase) for phase in trial.account.phases],
            "requests": [dict(zip(("target_epsilon", "delta", "accountant"), request, strict=True)) for request in asked],
        }
    return document


def plan_document(plan: Plan) -> dict[str, Any]:
    """The plan as one JSON object: ``trials``, and what ``plan_summary`` says of all of them."""
    return {
        "sweep": plan.folders.name,
        "trials": [
            {
                "trial_id": trial.trial_id,
                "cell_id": trial.cell_id,
                "seed": trial.spec.seed,
                "case": trial.spec.case,
                "label": trial.spec.label,
                "axes": dict(trial.spec.axes),
                "method": trial.spec.method,
                "config": trial.spec.config_json,
                "status": trial.status,
                "action": trial.action,
                "privacy": privacy_document(trial),
                "estimate": plan.estimates.of(trial),
                **({"control": True} if trial.control else {}),
            }
            for trial in plan.trials
        ],
        **plan_summary(plan),
    }


def plan_summary(plan: Plan) -> dict[str, Any]:
    """``totals`` of a plan, the theorem behind every name of a proof, and notes."""
    counts = Counter(trial.action for trial in plan.trials)
    names = dict.fromkeys(name for trial in plan.trials if trial.account for name in trial.account.proof.split("+"))
    return {
        "totals": {
            "trials": len(plan.trials),
            "to_train": counts["train"],
            "to_evaluate": counts["evaluate"],
            "done": counts["done"],
            "failed": counts["failed"] + counts["lost_cause"],
            "infeasible": counts["infeasible"],
            "stages": sorted(plan.stages),
            "running": counts["running"],
            "left": counts["left"],
            "compose": [{**asdict(part), "epsilon": finite(part.epsilon)} for part in plan.compositions],
        },
        "proofs": {name: accounting.PROOFS[name] for name in names},
        "notes": list(plan.notes),
    }


def price_entries(plan: Plan) -> list[dict[str, Any]]:
    """The price of choosing for ``sweep.json`` and the report: an entry a way, as ``selection.Price`` names them."""
    entries = []
    for price in plan.prices:
        named = {key: value for key, value in price.items() if key not in ("way", "base_epsilon", "target_epsilon")}
        entry = {"name": WAYS[price["way"]], **named, "epsilon": finite(price["epsilon"])}
        if price["target_epsilon"] is not None:
            entry[f"epsilon of each trial that would have kept it at {price['target_epsilon']:g}"] = price["base_epsilon"]
        entries.append(entry)
    return entries


WAYS = {
    "all_seen": "all seen",
    "logarithmic": "best of a secret random number, logarithmic",
    "geometric": "best of a secret random number, geometric",
    "poisson": "best of a secret random number, Poisson",
}
"""``selection.Price.way`` in words."""


def finite(value: float) -> float | None:
    """``value``, or None where it is infinite: JSON has no infinity."""
    return value if math.isfinite(value) else None


def _checkpoints(phases: Sequence[Phase], every: int) -> list[list[int]]:
    """Steps done a phase at every checkpoint, the end included."""
    total = sum(phase.steps for phase in phases)
    points = [*range(every, total, every), total]
    result = []
    for point in points:
        steps = []
        for phase in phases:
            steps.append(min(point, phase.steps))
            point -= steps[-1]
        result.append(steps)
    return result
