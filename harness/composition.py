"""The price of having seen several generators: everything that was released, composed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from trainables.privacy.accounting import Accountant
from trainables.privacy.mechanism import Phase, with_steps

from .calibrations import Calibrations


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
    """Compose trials, given as (phases, steps executed a phase), apart for each neighbouring relation."""
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
