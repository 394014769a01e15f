"""What it costs to have looked at several trials: the price of choosing the best one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from . import accounting
from .accounting import Accountant
from .mechanism import Phase, SelectionMechanism, scale_noise
from .random_best import SHAPES, Name

Parts = Sequence[tuple[Sequence[Phase], int]]
"""(phases, number of trials that ran them)."""


def compose(parts: Parts, *, delta: float, accountant: Accountant) -> float:
    """Epsilon of having seen every generator: each entry is (phases, number of trials that ran them).

    Adaptive composition of everything that was released; announcing only the best trial earns no discount. Composed in one
    go, which is far below the sum of the trials' epsilons. The Renyi bound is returned where double precision no longer
    resolves ``delta`` by ``pld`` (more than about delta x 10^16 steps in all), and of a private selection among other things.
    Raises ``ValueError`` where the trials' neighbouring relations differ.

    >>> from trainables.privacy.mechanism import RecordMechanism
    >>> digits = RecordMechanism(sampling_rate=1.0, records=1000, release_shape=(50, 64), noise_multiplier=10.0)
    >>> round(compose([([Phase(mechanism=digits, steps=100)], 4)], delta=1e-5, accountant="pld"), 2)
    24.38
    """
    found = accounting.composed_epsilon(parts, delta=delta, accountant=accountant)
    if math.isinf(found) and accountant == "pld":
        found = accounting.composed_epsilon(parts, delta=delta, accountant="rdp")
    return found


@dataclass(frozen=True, kw_only=True)
class Price:
    """What one way of choosing among trials costs, at the noise that they have and at the noise that would keep to a target."""

    way: str
    """``all_seen``: every trial is seen, so that they compose. Or how the secret number of trials would have been drawn:
    ``logarithmic``, ``geometric`` or ``poisson``, with only the best trial revealed (``random_best``)."""
    trials: float
    """How many there are; the mean of a secret number."""
    epsilon: float
    base_epsilon: float | None
    """Epsilon of the costliest single trial if all had the noise at which this way costs the target; None without target."""


def prices(parts: Parts, *, delta: float, accountant: Accountant, target_epsilon: float | None) -> list[Price]:
    """The price of every way to choose among the trials of ``parts``, two or more, all of which release with noise."""
    trials = sum(count for _, count in parts)
    candidates = tuple(dict.fromkeys(tuple(phase for phase in phases if phase.releases) for phases, _ in parts))

    def seen(factor: float) -> float:
        return compose([(scale_noise(phases, factor), n) for phases, n in parts], delta=delta, accountant=accountant)

    def base(factor: float) -> float:
        scaled = [scale_noise(phases, factor) for phases in candidates]
        return max(accounting.epsilon(phases, delta=delta, accountant=accountant) for phases in scaled)

    target = target_epsilon
    found = [
        Price(
            way="all_seen",
            trials=trials,
            epsilon=seen(1.0),
            base_epsilon=None if target is None else base(accounting.smallest_factor(seen, target, delta)),
        )
    ]
    for name in SHAPES:
        once = selection_phase(candidates, mean_trials=float(trials), distribution=name)
        found.append(
            Price(
                way=name,
                trials=trials,
                epsilon=accounting.epsilon([once], delta=delta, accountant=accountant),
                base_epsilon=None if target is None else base(selection_factor(once, target, delta, accountant)),
            )
        )
    return found


def selection_phase(candidates: Sequence[Sequence[Phase]], *, mean_trials: float, distribution: Name) -> Phase:
    """The phase of one private selection among trials that each have the phases of one of ``candidates``."""
    releasing = dict.fromkeys(tuple(phase for phase in phases if phase.releases) for phases in candidates)
    mechanism = SelectionMechanism(candidates=tuple(releasing), mean_trials=mean_trials, shape=SHAPES[distribution])
    return Phase(mechanism=mechanism, steps=1)


def selection_factor(selection: Phase, target_epsilon: float, delta: float, accountant: Accountant) -> float:
    """Smallest common factor on the noise of all candidates at which the selection costs at most the target.

    Raises ``accounting.InfeasibleBudget``.
    """
    return accounting.calibrate([selection], target_epsilon=target_epsilon, delta=delta, accountant=accountant)


def base_epsilon(
    candidates: Sequence[tuple[Sequence[Phase], int]],
    *,
    mean_trials: float,
    distribution: Name,
    target_epsilon: float,
    delta: float,
    accountant: Accountant,
) -> float:
    """Largest epsilon of one trial, to about a thousandth, at which the whole selection costs at most ``target_epsilon``.

    ``candidates`` are (phases, reserve steps) of every setting, whose noise is calibrated for the returned epsilon, the
    reserve included, as that of any other trial. Raises ``accounting.InfeasibleBudget``.
    """

    def total(base: float) -> float:
        calibrated = []
        for phases, reserve in candidates:
            factor = accounting.calibrate(
                phases, target_epsilon=base, delta=delta, accountant=accountant, reserve_steps=reserve
            )
            calibrated.append(with_reserve(scale_noise(phases, factor), reserve))
        once = selection_phase(calibrated, mean_trials=mean_trials, distribution=distribution)
        return accounting.epsilon([once], delta=delta, accountant=accountant)

    low, high = 0.0, target_epsilon
    guess = target_epsilon / 2
    for _ in range(30):
        base = _four_digits(guess)
        found = total(base)
        if found <= target_epsilon:
            low = base
            if found >= 0.999 * target_epsilon:
                break
        else:
            high = base
        guess = base * (target_epsilon * 0.9996 / found)  # about in proportion
        if not low < guess < high:
            guess = (low + high) / 2
    if not low:
        raise accounting.InfeasibleBudget(
            f"epsilon {target_epsilon:g} at delta {delta:g} is out of reach for the best of {mean_trials:g} trials on average; "
            "ask for fewer trials or a larger epsilon"
        )
    return low


def with_reserve(phases: Sequence[Phase], reserve_steps: int) -> tuple[Phase, ...]:
    """The phases with ``reserve_steps`` more in each that releases: no run of a trial within its reserve makes more."""
    extra = accounting.reserved(phases, reserve_steps)
    return tuple(
        replace(phase, steps=phase.steps + more) if phase.releases else phase for phase, more in zip(phases, extra, strict=True)
    )


def _four_digits(value: float) -> float:
    """``value`` rounded down to 4 significant digits, so that it reads the same wherever it is written."""
    scale = 10.0 ** (3 - math.floor(math.log10(value)))
    return math.floor(value * scale) / scale
