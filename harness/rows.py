"""Rows of the trials table: what a job and its outcome say, with the account of everything that was released."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from trainables.base import phase_of
from trainables.privacy import accounting
from trainables.privacy.accounting import Accountant
from trainables.privacy.mechanism import Mechanism, Phase, from_dict, with_steps

from .account_files import LedgerError


def phases_of(job: Mapping[str, Any]) -> tuple[Phase, ...]:
    """The calibrated phases of a trial's job."""
    return tuple(from_dict(document) for document in job["privacy"]["phases"])


def is_reference(phases: Sequence[Phase]) -> bool:
    """Whether what is kept are real images, in the place of generated ones: they have no epsilon and are never released."""
    return any(phase.mechanism.kind == "reference" for phase in phases)


def last_release(phases: Sequence[Phase]) -> Mechanism | None:
    """The mechanism of the last phase that releases anything; None where none does."""
    return next((phase.mechanism for phase in reversed(phases) if phase.releases), None)


def epsilon_of(job: Mapping[str, Any], steps: Sequence[int], accountant: Accountant | None = None) -> float:
    """Epsilon of ``steps`` executed a phase, by the trial's accountant or the one named.

    What the plan has computed is looked up, the rest is computed.
    """
    privacy = job["privacy"]
    by: Accountant = accountant or privacy["accountant"]
    known = privacy["known"].get(by, {}).get(steps_key(steps))
    if known is not None:
        return float(known)
    return accounting.epsilon(with_steps(phases_of(job), steps), delta=privacy["delta"], accountant=by)


def steps_key(steps: Sequence[int]) -> str:
    """Steps a phase as a key of a JSON object.

    >>> steps_key([200, 40])
    '200,40'
    """
    return ",".join(map(str, steps))


def steps_a_phase(steps: int, planned: Sequence[int]) -> list[int]:
    """How many of the first ``steps`` steps lie in each phase.

    >>> steps_a_phase(5, [3, 7])
    [3, 2]
    """
    counts = [0] * len(planned)
    for step in range(steps):
        counts[phase_of(step, planned)] += 1
    return counts


def check_paid(what: str, steps: Sequence[int], executed: Sequence[int]) -> None:
    """Raise ``LedgerError`` if ``what`` holds more steps a phase than the ledger has of all attempts (``executed``)."""
    if any(paid < held for paid, held in zip(executed, steps, strict=True)):
        found = f"{what} has {list(steps)} steps a phase"
        raise LedgerError(f"{found} but the ledger knows of {list(executed)} only; bring the ledger back from a copy")


def trial_row(
    job: Mapping[str, Any],
    *,
    status: str,
    attempt: int,
    executed: Sequence[int],
    kept_steps: int | None,
    stopped: bool,
    proven: bool,
    exogenous: bool,
    **fields: Any,
) -> dict[str, Any]:
    """The row of a trial whose attempt number ``attempt`` was closed.

    ``executed`` are the steps a phase of all attempts, ``kept_steps`` the steps in the kept generator, None without one. A
    trial that was ``stopped`` and did not go on is charged its planned steps: who stops it may have looked. ``proven`` is
    False where a test injected the noise: the row then has no epsilon. Where what was lost was not lost for reasons outside
    (``exogenous`` False), the steps that survive were chosen by those that did not, and are charged as all. Raises
    ``LedgerError`` if fewer steps were paid for than were kept.
    """
    privacy, phases = job["privacy"], phases_of(job)
    last = last_release(phases)
    planned = [phase.steps for phase in phases]
    surviving = None
    if kept_steps is not None:
        surviving = steps_a_phase(kept_steps, planned)
        check_paid(f"the generator of trial {job['trial_id']}", surviving, executed)
        in_turn = any(getattr(phase.mechanism, "schedule", None) == "round_robin" for phase in phases)
        if job.get("release"):  # one that was lost and drawn again may have been seen
            surviving[0] = executed[0]
        if in_turn or not exogenous:
            # In turn the order went on over steps that were lost, so what survives is no run of it: a shard may have had more
            # visits than so many steps in turn allow.
            surviving = list(executed)
    charged = [max(pair) for pair in zip(executed, planned, strict=True)] if stopped else list(executed)
    names: tuple[Accountant, ...] = ("pld", "rdp")
    injected = not proven
    proven = proven and not is_reference(phases)
    account = {name: epsilon_of(job, charged, name) if proven else None for name in names}
    return {
        **{key: job[key] for key in ("trial_id", "cell_id", "sweep", "label", "method", "seed")},
        "case": job["case"] or job["method"],
        "method_version": job["version"],
        "status": status,
        "attempt": attempt,
        "config": json.dumps(job["config"]),
        "axes": json.dumps(job["axes"]),
        "data_source": job["data"]["source"],
        "data_fingerprint": job["data"]["fingerprint"],
        "data_size": job["data"]["info"]["size"],
        "data_shape": "x".join(str(job["data"]["info"][side]) for side in ("channels", "height", "width")),
        "data_classes": job["data"]["info"]["classes"],
        "lineage": job["data"]["lineage"],
        "test_set": job["data"]["test_set"],
        "control": bool(job.get("control")),
        "steps": kept_steps,
        "steps_planned": sum(planned),
        "epsilon": account[privacy["accountant"]],
        "epsilon_surviving": epsilon_of(job, surviving) if proven and surviving else None,
        "epsilon_published": privacy["epsilon_published"],
        "epsilon_pld": account["pld"],
        "epsilon_rdp": account["rdp"],
        "target_epsilon": privacy["target_epsilon"],
        "delta": privacy["delta"],
        "accountant": privacy["accountant"],
        "accountant_version": privacy["accountant_version"],
        "proof": "none: the noise was injected by a test" if injected else privacy["proof"],
        "neighbours": privacy["neighbours"],
        "mechanism": json.dumps(privacy["phases"]),
        "noise_multiplier": last.noise_multiplier if last else None,
        "effective_noise_multiplier": last.effective_noise_multiplier if last else None,
        "releases": sum(count * phase.mechanism.releases_per_step for count, phase in zip(executed, phases, strict=True)),
        "ended": datetime.now(UTC),
        **fields,
    }
