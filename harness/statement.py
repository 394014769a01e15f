"""The privacy statement of a release: what was proven of a generator, by which theorem, and what was not.

It holds nothing that is the data owner's alone: no fingerprint, no id that is made from one, no machine, path or time, and no
number computed from private data without noise unless the data are declared public.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from trainables.evaluation.metrics import METRICS
from trainables.privacy import accounting
from trainables.privacy.accounting import Accountant
from trainables.privacy.mechanism import Phase, SelectionMechanism, to_dict

from . import rows, store
from .attempts import read_attempts
from .audit_rows import SCORES, audit_rows
from .calibrations import Calibrations
from .ledger import unfinished_selections
from .lock import holder
from .releasable import Refused, Releasable
from .totals import Total, lineage_total, sweep_total

FORMAT = 1
"""Of ``privacy.json``."""

NOT_COVERED = (
    "Several images of one person or thing: the unit that is protected is one image.",
    "Finite precision: the proof is of Gaussian noise on real numbers. Noise is drawn in double precision and rounded once.",
    "Timing and other side channels, and an operator who does not run the code as it is.",
    "A choice among generators by scores that were computed from private data without noise.",
)

RELATIONS = {
    "replace_one": "data sets that differ in one image, which is replaced by another",
    "add_remove": "data sets of which one has one image more than the other, while all others keep their places",
}

ACCOUNTANTS: tuple[Accountant, ...] = ("pld", "rdp")


def statement(found: Releasable, metrics: Collection[str] | None = None) -> dict[str, Any]:
    """The statement as a JSON object; ``metrics`` are the names that were asked for, None for all that may leave.

    Raises ``Refused`` for a metric that may not leave, or that was not measured.
    """
    privacy, lineage = found.job["privacy"], found.job["data"]["lineage"]
    calibrations = Calibrations(found.folders.calibrations)
    attempts = read_attempts(found.folders)
    injected = {trial_id for trial_id, records in attempts.items() if not all(record.proven for record in records)}
    terms: Any = {"delta": found.delta, "accountant": found.accountant}
    totals = sweep_total(found.folders, calibrations, **terms, injected=injected)
    spent = lineage_total(found.folders, lineage, calibrations, **terms)
    calibrations.save()
    neighbours = privacy["neighbours"]
    (total,) = (part for part in totals if part.neighbours == neighbours)
    alone = sum(part.generators for part in totals) == 1
    composed = not alone and total.epsilon >= found.epsilon
    return {
        "format": FORMAT,
        "headline": {
            "epsilon": total.epsilon if composed else found.epsilon,
            "delta": found.delta,
            "accountant": total.accountant if composed else found.accountant,
            "neighbours": neighbours,
            "unit": "one image",
            "against": "whoever has this generator, the only one of its sweep" if alone else _all_seen(total),
        },
        "generator": {
            "epsilon": found.epsilon,
            "delta": found.delta,
            "target_epsilon": privacy["target_epsilon"],
            **{f"epsilon_{name}": rows.epsilon_of(found.job, found.executed, name) for name in ACCOUNTANTS},
            "accountant": found.accountant,
            "accountant_version": privacy["accountant_version"],
            "proof": {name: accounting.PROOFS[name] for name in privacy["proof"].split("+")},
            "neighbours": neighbours,
            "unit": "one image",
            "mechanism": [
                {**to_dict(phase), "steps_paid_for": steps, "in_words": mechanism_in_words(phase)}
                for phase, steps in zip(found.phases, found.executed, strict=True)
            ],
            "releases": sum(
                steps * phase.mechanism.releases_per_step for phase, steps in zip(found.phases, found.executed, strict=True)
            ),
            "steps": found.row["steps"],
            "status": found.row["status"],
        },
        "sweep": {
            "totals": [_document(part) for part in totals],
            "running": holder(found.folders.lock) is not None,
        },
        "data_set": {
            "lineage": lineage,
            "records": found.info.size,
            "shape": list(found.info.shape),
            "classes": found.info.classes,
            "public": found.public,
            "spent_in_all_sweeps": [_document(part) for part in spent],
            "unfinished_selections": len(unfinished_selections(found.folders.root, lineage)),
        },
        "delta_check": {"one_over_records": 1 / found.info.size, "exceeds": found.delta > 1 / found.info.size},
        "not_covered": list(NOT_COVERED),
        "selection": json.loads(found.row["selection"]) if found.row.get("selection") else None,
        "audit": _audit(found),
        "metrics": _metrics(found, metrics),
        "scores_of_private_data": [
            name
            for name, metric in METRICS.items()
            if (metric.private or (found.row["test_set"] == "private" and metric.reference != "none"))
            and found.row.get(name) is not None
        ],
        "method": {
            "name": found.job["method"],
            "version": found.job["version"],
            "config": found.job["config"],
            "seed": found.job["seed"],
        },
        "made_with": _versions(found),
    }


def _versions(found: Releasable) -> dict[str, Any]:
    """Of the training; what else its row says of the machine stays there."""
    versions = json.loads(found.row["versions"] or "{}")
    return {name: versions[name] for name in ("dpsweep", "python", "torch") if name in versions}


def _all_seen(total: Total) -> str:
    count = total.generators - total.unproven
    if count == 1:
        others = "with a proof" if total.unproven else f"under {total.neighbours.replace('_', ' ')}"
        return f"whoever has this generator, the only one of its sweep {others}"
    all_of_them = "both" if count == 2 else f"all {count:,}"
    return f"whoever has seen {all_of_them} generators of its sweep, failed and superseded ones too"


def _document(total: Total) -> dict[str, Any]:
    return {
        "neighbours": total.neighbours,
        "generators": total.generators,
        "without_proof": total.unproven,
        "epsilon": total.epsilon if math.isfinite(total.epsilon) else None,
        "delta": total.delta,
        "accountant": total.accountant,
    }


def _audit(found: Releasable) -> dict[str, Any] | None:
    """How the training was audited, and of public data what the audit found; None where it was not.

    Raises ``Refused`` where the audits of its seeds together refute the proven epsilon: then the account is wrong, whatever the
    reason.
    """
    if not found.row.get("audit"):
        return None
    trials = store.read_committed(found.folders, "trials").to_pylist()
    siblings = (trial for trial in trials if trial["control"] or trial["cell_id"] == found.row["cell_id"])
    audits = audit_rows(trial for trial in siblings if trial["audit"])
    if wrong := [audit for audit in audits if audit.wrong]:
        seeds = max(len(audit.bounds) for audit in wrong)
        of = "the trial" if seeds == 1 else f"the trial and its {seeds - 1} other seed{'s' if seeds > 2 else ''}"
        raise Refused(
            f"an audit of {of} shows that epsilon is over {max(max(audit.bounds) for audit in wrong):.3g}, and "
            f"{found.epsilon:.3g} is called proven: one of the two is wrong, so nothing may leave"
        )
    document = json.loads(found.row["audit"])
    settings = {name: document[name] for name in ("kind", "canaries", "guesses", "confidence", "highest_bound")}
    if not found.public:
        return {**settings, "scores": None}
    scores = [
        {
            "score": audit.score,
            "right": document[key]["right"],
            "bound": document[key]["bound"],
            "control": audit.control,
            "says": audit.verdict,
        }
        for key, audit in zip(SCORES, audits, strict=True)
        if "bound" in document[key]
    ]
    return {**settings, "scores": scores}


def _metrics(found: Releasable, wanted: Collection[str] | None) -> dict[str, Any]:
    """Metrics that may leave: all of public data, else those that touch private data through the generator alone."""
    free = {
        name for name, metric in METRICS.items() if found.public or (found.row["test_set"] == "public" and not metric.private)
    }
    for name in wanted or ():
        if name not in METRICS:
            raise Refused(f"--metrics {name}: there is no such metric; expected {', '.join(METRICS)}")
        if name not in free:
            why = "the test set is declared private" if not METRICS[name].private else "it is computed from private data"
            raise Refused(f"--metrics {name} cannot leave: {why}, without noise")
        if found.row.get(name) is None:
            raise Refused(f"--metrics {name}: the trial was not measured by it")
    names = [name for name in METRICS if name in free and (wanted is None or name in wanted)]
    values = {name: found.row[name] for name in names if found.row.get(name) is not None}
    return {"images": found.row["evaluation_samples"], **values} if values else {}


def mechanism_in_words(phase: Phase) -> str:
    """What a step of ``phase`` does to private data, in a few plain sentences."""
    if isinstance(phase.mechanism, SelectionMechanism):
        return _selection_in_words(phase.mechanism)
    mechanism = to_dict(phase)
    kind = mechanism["kind"]
    if kind == "post_processing":
        return "Works on what was released before; private images are not touched."
    noise = f"{mechanism['noise_multiplier']:.4g}" if "noise_multiplier" in mechanism else ""
    shape = "x".join(map(str, mechanism.get("release_shape", ())))
    if kind in ("poisson_records", "all_records"):
        rate = mechanism["sampling_rate"]
        drawn = "All images take part" if rate == 1 else f"Every image takes part with probability {rate:.4g}, on its own"
        clipped = (
            "what each contributes is clipped to norm C, and the sum"
            if mechanism["clipping"] == "per_record"
            else "one tensor is computed from them and clipped to norm C as a whole; it"
        )
        return f"{drawn}; {clipped} ({shape} numbers) is released with Gaussian noise of standard deviation {noise} C."
    if kind.startswith("teachers_"):
        return (
            f"{mechanism['teachers']} teachers, each trained on a part of the images of its own, all vote; the counts "
            f"({shape}) are released with Gaussian noise of {noise} times the most that one teacher can move a row of them."
        )
    if kind.endswith("_shards"):
        how = "in turn" if mechanism["schedule"] == "round_robin" else "drawn in secret"
        return (
            f"The images are split in {mechanism['shards']} fixed shards, of which {mechanism['shards_per_step']}, {how}, "
            f"answer with a tensor ({shape}) that is clipped a row; the sum is released with Gaussian noise of {noise} times "
            "the most that one image can move a row of it."
        )
    return f"A mechanism of kind {kind.replace('_', ' ')}, with the parameters below."


def _selection_in_words(mechanism: SelectionMechanism) -> str:
    distribution = {0.0: "logarithmic", 1.0: "geometric", math.inf: "Poisson"}.get(mechanism.shape, "negative binomial")
    one = " Then: ".join(mechanism_in_words(phase) for phase in mechanism.candidates[0])
    return (
        f"A secret random number of generators ({distribution}, {mechanism.mean_trials:g} on average) was trained, each with "
        "settings drawn at random from a fixed list; the best by a score of public data is this one, and the others and their "
        f"number were deleted. The epsilon covers that choice. A step of the first of these settings: {one}"
    )


def text(epsilon: float | None) -> str:
    """Four digits, rounded up: a privacy loss is never said to be smaller than it is.

    >>> text(9.70111), text(0.97), text(29.9512), text(None)
    ('9.702', '0.97', '29.96', 'unbounded')
    """
    if epsilon is None or not math.isfinite(epsilon):
        return "unbounded"
    if epsilon <= 0:
        return "0"
    scale = 10.0 ** (3 - math.floor(math.log10(epsilon)))
    return f"{math.ceil(epsilon * scale * (1 - 1e-12)) / scale:.{max(0, round(math.log10(scale)))}f}".rstrip("0").rstrip(".")


def headline(said: Mapping[str, Any]) -> str:
    """The epsilon to quote, in one sentence."""
    top = said["headline"]
    return (
        f"epsilon {text(top['epsilon'])} at delta {top['delta']:g} for {top['unit']} ({top['neighbours'].replace('_', ' ')}), "
        f"against {top['against']}"
    )


def warnings(said: Mapping[str, Any]) -> Sequence[str]:
    """Sentences that a reader of the headline has to know."""
    found = []
    bound, generator = said["delta_check"]["one_over_records"], said["generator"]
    if said["delta_check"]["exceeds"]:
        found.append(
            f"Delta {said['headline']['delta']:g} exceeds 1/N = {bound:.2g}: a mechanism that publishes one image of the data "
            "outright can meet such a delta."
        )
    without = sum(part["without_proof"] for part in said["sweep"]["totals"])
    if without:
        found.append(
            f"Nothing is proven of {without} other generator{'s' if without > 1 else ''} of the sweep (no noise, or noise of a "
            "test); the epsilon above holds only if nothing of them left the owner's hands or led to a choice."
        )
    others = [part for part in said["sweep"]["totals"] if part["neighbours"] != generator["neighbours"]]
    for part in others:
        found.append(
            f"{part['generators']} other generators of the sweep are protected under another relation "
            f"({part['neighbours'].replace('_', ' ')}): epsilon {text(part['epsilon'])} together, on top of the above."
        )
    if secret := said["data_set"]["unfinished_selections"]:
        found.append(
            f"{secret} private selection{'s' if secret > 1 else ''} on these data had not ended when this was written; what "
            "they spend comes on top of what all sweeps have spent."
        )
    if said["sweep"]["running"]:
        found.append("The sweep was running when this was written: what it releases later is not in the total.")
    return found


def as_json(said: Mapping[str, Any]) -> str:
    """``privacy.json``."""
    return json.dumps(said, indent=1, allow_nan=False) + "\n"
