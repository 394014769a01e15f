"""The price of having seen several generators: everything that was released, composed."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from trainables.privacy.accounting import Accountant
from trainables.privacy.mechanism import Phase, SelectionMechanism, with_steps

from .calibrations import Calibrations
from .ledger import TrialAccount
from .rows import is_reference

if TYPE_CHECKING:
    from .plan import PlannedTrial


@dataclass(frozen=True, kw_only=True)
class Composition:
    """Epsilon of having seen several trials and shared releases, under one neighbouring relation."""

    neighbours: str
    trials: int
    epsilon: float
    delta: float
    accountant: Accountant


def compose(
    calibrations: Calibrations,
    seen: Sequence[tuple[tuple[Phase, ...], Sequence[int]]],
    *,
    delta: float,
    accountant: Accountant,
) -> list[Composition]:
    """Compose trials, given as (phases, steps executed a phase), apart for each neighbouring relation.

    By Renyi moments where a private selection is among them: it has no known loss distribution.
    """
    if len(seen) > 1 and any(isinstance(phase.mechanism, SelectionMechanism) for phases, _ in seen for phase in phases):
        accountant = "rdp"
    relations: dict[str, Counter[tuple[Phase, ...]]] = {}
    for phases, steps in seen:
        if executed := tuple(phase for phase in with_steps(phases, steps) if phase.releases):
            relations.setdefault(phases[0].mechanism.neighbours, Counter())[executed] += 1
    return [
        Composition(
            neighbours=neighbours,
            trials=sum(parts.values()),
            epsilon=calibrations.composition(list(parts.items()), delta=delta, accountant=accountant),
            delta=delta,
            accountant=accountant,
        )
        for neighbours, parts in sorted(relations.items())
    ]


def composed(
    calibrations: Calibrations,
    trials: Sequence[PlannedTrial],
    accounts: Mapping[str, TrialAccount],
    releases: Mapping[str, TrialAccount],
) -> list[Composition]:
    """What looking at every generator costs, an entry a neighbouring relation: all that ran in the sweep (``accounts``), failed
    and superseded attempts included, and all that is planned; a release that trials share is counted once."""
    seen: dict[str, tuple[tuple[Phase, ...], Sequence[int]]] = {
        trial_id: (account.phases, account.charged) for trial_id, account in accounts.items()
    }
    shared = {account.release: account.phases for account in accounts.values() if account.release}
    for trial in trials:
        if trial.account is not None and trial.action not in ("done", "failed", "lost_cause"):
            phases = trial.account.phases
            spent = trial.spent.charged if trial.spent else [0] * len(phases)
            planned = [max(n, phase.steps) for n, phase in zip(spent, phases, strict=True)]
            if trial.release:
                shared[trial.release] = phases
                planned[0] = 0
            seen[trial.trial_id] = phases, planned
    for release, phases in shared.items():
        drawn = releases[release].executed[0] if release in releases else 0
        seen[release] = phases[:1], [max(drawn, 1)]
    delta, accountant = _account(trials)
    generators: Counter[str] = Counter(
        phases[0].mechanism.neighbours
        for name, (phases, steps) in seen.items()
        if name not in shared and any(steps) and not is_reference(phases)
    )
    parts = compose(calibrations, list(seen.values()), delta=delta, accountant=accountant)
    return [replace(part, trials=generators[part.neighbours]) for part in parts]


def prices(calibrations: Calibrations, trials: Sequence[PlannedTrial], all_seen: Sequence[Composition]) -> list[dict[str, Any]]:
    """What choosing the best of the sweep's trials costs, an entry a way and neighbouring relation (``selection.Price``).

    Of what the trials are planned to release: those that share one release, and release nothing else, are one. Having seen
    all of them costs what ``all_seen`` says, which counts every attempt. Nothing where there is no choice, and nothing of
    trials without noise.
    """
    counted = {part.neighbours: part.epsilon for part in all_seen if math.isfinite(part.epsilon)}
    looks: dict[str, dict[str, tuple[Phase, ...]]] = {}
    for trial in trials:
        if trial.account is None or not math.isfinite(trial.account.epsilon_rdp):
            continue
        releasing = tuple(phase for phase in trial.account.phases if phase.releases)
        if releasing and not is_reference(trial.account.phases):
            name = trial.release if trial.release and len(releasing) == 1 else trial.trial_id
            looks.setdefault(trial.spec.privacy.neighbours, {})[name] = releasing
    delta, accountant = _account(trials)
    asked = [trial.spec.privacy.target_epsilon for trial in trials]
    targets = [target for target in asked if target is not None]
    found = []
    for neighbours, of_relation in sorted(looks.items()):
        selections = any(isinstance(phase.mechanism, SelectionMechanism) for phases in of_relation.values() for phase in phases)
        if len(of_relation) > 1 and not selections:
            parts = list(Counter(of_relation.values()).items())
            target = max(targets) if len(targets) == len(asked) else None
            ways = calibrations.prices(parts, delta=delta, accountant=accountant, target_epsilon=target)
            shared: dict[str, Any] = {"delta": delta, "accountant": accountant, "neighbours": neighbours}
            for way in ways:
                if way["way"] == "all_seen":
                    way = {**way, "epsilon": counted.get(neighbours, way["epsilon"])}
                found.append({**way, **shared, "target_epsilon": target})
    return found


def _account(trials: Sequence[PlannedTrial]) -> tuple[float, Accountant]:
    """The delta and the accountant that what several trials cost is stated by."""
    requests = [trial.spec.privacy for trial in trials]
    return min(request.delta for request in requests), (
        "pld" if all(request.accountant == "pld" for request in requests) else "rdp"
    )
