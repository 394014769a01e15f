"""Epsilon of phases: the only module that computes one.

Two accountants. ``pld`` composes the tight privacy profile of each step numerically (``profiles``, ``loss_distribution``).
``rdp`` is the Renyi accountant of dp-accounting, looser and independent of ours. Both are upper bounds; ``PROOFS`` names
the theorem behind each. Neither torch nor dp-accounting is imported at import time.

dp-accounting is pinned to one version: under replace-one its ``RdpAccountant`` takes noise multipliers as std / sensitivity
(a test guards that), and a change of meaning would silently halve or double every noise.

>>> from trainables.privacy.mechanism import Phase, RecordMechanism
>>> digits = RecordMechanism(sampling_rate=1.0, records=1000, release_shape=(50, 64), noise_multiplier=10.0)
>>> round(epsilon([Phase(mechanism=digits, steps=100)], delta=1e-5, accountant="pld"), 3)
9.997
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Literal

from .mechanism import Mechanism, Phase, RecordMechanism, SelectionMechanism, ShardMechanism, scale_noise, with_steps
from .random_best import Repetitions

if TYPE_CHECKING:
    import numpy as np

    from .profiles import Profile

Accountant = Literal["pld", "rdp"]

ACCOUNTANT_VERSION = "dp-accounting 0.6.0, profiles 3"
"""Goes into cache keys: raised whenever the same phases would get another number."""

UNITS = 10_000
"""Calibrated factors are whole multiples of 1 / UNITS."""

LARGEST_FACTOR = 1e6
"""Calibration looks no further; a millionfold of the method's natural noise teaches nothing."""

PROOFS: dict[str, str] = {
    "wor_profile": (
        "One step is dominated by the privacy profile of sampling m of K shards without replacement, shards neighbouring by "
        "replacement (Balle, Barthe, Gaboardi 2018, Theorem 2; Zhu, Dong, Wang 2022), composed numerically."
    ),
    "poisson_replace_profile": (
        "One step is dominated by (1 - q) N(0, s^2) + q N(C, s^2) against (1 - q) N(0, s^2) + q N(-C, s^2): Neyman-Pearson "
        "against absence (distance C) and replacement (2 C) at once, as in dp-accounting's PLDAccountant; with a whole-tensor "
        "clip, 2 C both, by Balle, Barthe, Gaboardi 2018, Theorem 2. Composed numerically (Zhu, Dong, Wang 2022, Theorem 10)."
    ),
    "poisson_profile": (
        "The Poisson-subsampled Gaussian pair dominates adding or removing a record, each direction apart (Zhu, Dong, Wang "
        "2022, Theorem 11), composed numerically."
    ),
    "gaussian": (
        "Adaptive Gaussian releases compose to a single one (Dong, Roth, Su 2022), whose profile is known exactly (Balle, Wang "
        "2018, Theorem 8)."
    ),
    "draws_revealed": (
        "The secret draws are handed over: the visits to one unit are binomial, each visit is a Gaussian release, and delta is "
        "averaged over the number of visits (Balle & Wang 2018, Theorem 8). No amplification is claimed beyond that."
    ),
    "shared_buffer_revealed": (
        "An error buffer that all shards share moves in every step, so the draws are handed over: with n ~ Binomial(T, m / K) "
        "drawn steps of sensitivity 2 (C1 + C2) a row and T - n others of 2 C2, the releases compose to one Gaussian (Dong, "
        "Roth, Su 2022), and delta is averaged over n (Balle & Wang 2018, Theorem 8)."
    ),
    "wor_profile_rdp": (
        "Renyi bound of sampling without replacement under replacement (Wang, Balle, Kasiviswanathan 2019, Theorem 27), "
        "converted by Canonne, Kamath, Steinke 2020, Proposition 12."
    ),
    "poisson_replace_profile_rdp": (
        "Renyi divergence of the pair that dominates one step, (1 - q) N(0, s^2) + q N(C, s^2) against (1 - q) N(0, s^2) + "
        "q N(-C, s^2) by Neyman-Pearson; with a whole-tensor clip Wang, Balle, Kasiviswanathan 2019, Theorem 27. Converted by "
        "Canonne, Kamath, Steinke 2020, Proposition 12."
    ),
    "poisson_profile_rdp": (
        "Renyi bound of the Poisson-subsampled Gaussian (Mironov, Talwar, Zhang 2019), converted by Canonne, Kamath, Steinke "
        "2020, Proposition 12."
    ),
    "gaussian_rdp": (
        "Renyi divergence of Gaussian releases adds up (Mironov 2017), converted by Canonne, Kamath, Steinke 2020, "
        "Proposition 12."
    ),
    "draws_revealed_rdp": (
        "The secret draws are handed over: the Renyi moments of one step average those of a Gaussian release and of none "
        "(Mironov 2017), converted by Canonne, Kamath, Steinke 2020, Proposition 12."
    ),
    "shared_buffer_revealed_rdp": (
        "An error buffer that all shards share moves in every step, so the draws are handed over: the Renyi moments of one "
        "step average those of a Gaussian release at 2 (C1 + C2) a row and at 2 C2 (Mironov 2017), converted by Canonne, "
        "Kamath, Steinke 2020, Proposition 12."
    ),
    "random_best": (
        "A secret random number of trials (truncated negative binomial, or Poisson) with settings drawn uniformly, of which "
        "only the best by a score that costs nothing is revealed: delta(e1 + c) <= E[K] delta_trial(e1) with c from the "
        "trial's own privacy profile (Papernot & Steinke 2022; profile form as in Koskela, Redberg, Wang 2024)."
    ),
    "random_best_rdp": (
        "A secret random number of trials (truncated negative binomial, or Poisson) with settings drawn uniformly, of which "
        "only the best by a score that costs nothing is revealed (Papernot & Steinke 2022, Theorems 2 and 6), on the largest "
        "Renyi divergence of any setting."
    ),
    "not_private": "A noise multiplier is 0, or what is kept is real data: nothing is proven.",
}


class InfeasibleBudget(ValueError):
    """No noise meets the target."""


def epsilon(phases: Sequence[Phase], *, delta: float, accountant: Accountant) -> float:
    """Smallest proven epsilon at ``delta`` of having run ``phases`` (their ``steps`` are what ran, in all attempts).

    0.0 for no phases, infinity where a noise multiplier is 0. Raises ``ValueError`` for a delta outside (0, 1) or phases
    whose neighbouring relations differ.
    """
    return _epsilons([[(phase, 1) for phase in phases]], delta, accountant)[0]


def epsilon_curve(
    phases: Sequence[Phase], checkpoints: Sequence[Sequence[int]], *, delta: float, accountant: Accountant
) -> list[float]:
    """``epsilon`` after each of ``checkpoints`` (steps done a phase, increasing), for little more than the last one costs."""
    return _epsilons([[(phase, 1) for phase in with_steps(phases, steps)] for steps in checkpoints], delta, accountant)


def composed_epsilon(parts: Sequence[tuple[Sequence[Phase], int]], *, delta: float, accountant: Accountant) -> float:
    """``epsilon`` of several trials that were all seen: each entry is (phases, number of trials that ran them)."""
    return _epsilons([[(phase, trials) for phases, trials in parts for phase in phases if trials]], delta, accountant)[0]


def published_epsilon(phases: Sequence[Phase], *, delta: float) -> float | None:
    """What GS-WGAN's own script claims for mechanisms of its family (``published``); never proven. None for other phases.

    One release a step is counted however many there are, as the published codes do.
    """
    subsampled = []
    for phase in phases:
        if not phase.releases:
            continue
        mechanism = phase.mechanism
        if not isinstance(mechanism, ShardMechanism):
            return None
        if mechanism.noise_multiplier == 0:
            return math.inf
        images = phase.steps * mechanism.release_shape[0]
        subsampled.append((_published_noise(mechanism), mechanism.sampling_rate, images))
    if not subsampled:
        return None
    from . import published

    return published.published_epsilon(subsampled, delta)


def _published_noise(mechanism: ShardMechanism) -> float:
    """Noise multiplier of one image as the published codes count it.

    GS-WGAN and DPAC: std / (2 C1), which is ours. With the error feedback of Ma & Zhang 2026 (section 5.3) std is
    sigma C1 sqrt(1 + 2 r), r = C2 / C1, and sigma is what they account. That is wrong twice over: an image's row moves by
    2 (C1 + C2) when its shard is drawn, and by 2 C2 in every other step, which nothing amplifies.
    """
    share = mechanism.carried  # C2 / (C1 + C2), so std = noise_multiplier 2 C1 / (1 - share) and 1 + 2 r = (1 + s) / (1 - s)
    return mechanism.noise_multiplier * (2 / math.sqrt(1 - share * share) if share else 1.0)


def proof(phases: Sequence[Phase], accountant: Accountant) -> str:
    """Names of the proofs (keys of ``PROOFS``) that ``epsilon`` rests on, joined with ``+`` in the order of the phases."""
    if any(phase.mechanism.noise_multiplier == 0 or phase.mechanism.kind == "reference" for phase in phases):
        return "not_private"
    suffix = "_rdp" if accountant == "rdp" else ""
    return "+".join(dict.fromkeys(kind + suffix for phase in phases if phase.releases for kind in _kinds(phase.mechanism)))


def _kinds(mechanism: Mechanism) -> list[str]:
    """The names of what its epsilon rests on, without the accountant's."""
    if isinstance(mechanism, SelectionMechanism):
        of_trials = [phase.mechanism for phases in mechanism.candidates for phase in phases if phase.releases]
        return [_kind(mechanism), *(kind for trial in of_trials for kind in _kinds(trial))]
    return [_kind(mechanism)]


def _kind(mechanism: Mechanism) -> str:
    if isinstance(mechanism, SelectionMechanism):
        return "random_best"
    if isinstance(mechanism, ShardMechanism):
        if mechanism.schedule == "round_robin" or mechanism.sampling_rate == 1:
            return "gaussian"
        if mechanism.carried:
            return "shared_buffer_revealed"
        return "draws_revealed" if mechanism.schedule == "persistent" else "wor_profile"
    if mechanism.sampling_rate == 1:
        return "gaussian"
    return "poisson_profile" if mechanism.neighbours == "add_remove" else "poisson_replace_profile"


# --- from phases to what composes ---------------------------------------------------------------------------------------

Runs = Sequence[tuple[Phase, int]]
"""(phase, how many times all of it ran)."""


def _epsilons(totals: Sequence[Runs], delta: float, accountant: Accountant) -> list[float]:
    """Epsilon of each of ``totals``, of which the last has the most steps."""
    if not 0 < delta < 1:
        raise ValueError(f"delta is {delta}; expected a number between 0 and 1, usually below 1 / number of records")
    if accountant not in ("pld", "rdp"):
        raise ValueError(f"accountant is {accountant!r}; expected pld or rdp")
    private = [proof([phase for phase, _ in runs], accountant) != "not_private" for runs in totals]
    totals = [[(phase, times) for phase, times in runs if phase.releases] for runs in totals]
    relations = sorted({phase.mechanism.neighbours for runs in totals for phase, _ in runs})
    if len(relations) > 1:
        raise ValueError(f"neighbours differ between phases ({' and '.join(relations)}); an epsilon is for one relation")
    bounded = [runs for runs, noisy in zip(totals, private, strict=True) if runs and noisy]
    found = iter((_pld if accountant == "pld" else _rdp)(bounded, delta) if bounded else ())
    return [(next(found) if runs else 0.0) if noisy else math.inf for runs, noisy in zip(totals, private, strict=True)]


def _pld(totals: Sequence[Runs], delta: float) -> list[float]:
    from .loss_distribution import epsilons

    if any(isinstance(phase.mechanism, SelectionMechanism) for runs in totals for phase, _ in runs):
        return [_selection_epsilon(runs, delta) for runs in totals]
    # Only adding and removing a record are two different pairs; elsewhere both directions have one profile.
    forward = epsilons([_profiles(runs, removed=True) for runs in totals], delta)
    if all(_kind(phase.mechanism) != "poisson_profile" for runs in totals for phase, _ in runs):
        return forward
    return list(map(max, forward, epsilons([_profiles(runs, removed=False) for runs in totals], delta)))


def _selection_epsilon(runs: Runs, delta: float) -> float:
    """Of one selection by the profile of its trials; where it is composed with anything else, the Renyi bound.

    A selection has no known loss distribution that could be composed.
    """
    (phase, times), *others = runs
    if others or phase.steps * times != 1 or not isinstance(phase.mechanism, SelectionMechanism):
        return _rdp([runs], delta)[0]
    mechanism = phase.mechanism
    repetitions = Repetitions(shape=mechanism.shape, mean=mechanism.mean_trials)
    return repetitions.epsilon(privacy_profile(mechanism.candidates, delta=delta / mechanism.mean_trials), delta=delta)


def privacy_profile(candidates: Sequence[Sequence[Phase]], *, delta: float) -> Callable[[np.ndarray], np.ndarray]:
    """delta(epsilon), at epsilons >= 0, that no run of any of ``candidates`` exceeds: the largest of theirs, both ways.

    Also bounds a run of one that is drawn from them (the hockey-stick divergence is jointly convex). ``delta`` is the scale
    that it is wanted at. The phases all release with noise.
    """
    import numpy as np

    runs = [[(phase, 1) for phase in phases if phase.releases] for phases in candidates]
    curves = [curve for of_candidate in runs for curve in _delta_curves(of_candidate, delta)]
    return lambda epsilons: np.max([curve(epsilons) for curve in curves], axis=0)


def _delta_curves(runs: Runs, delta: float) -> list[Callable[[np.ndarray], np.ndarray]]:
    """delta(epsilon) of a composition, a function a direction."""
    from .loss_distribution import compose, delta_of, grid_width

    curves: list[Callable[[np.ndarray], np.ndarray]] = []
    for removed in (True, False):
        parts = _profiles(runs, removed=removed)
        if sum(parts.values()) == 1:
            profile = next(iter(parts))
            curves += [profile.forward, profile.backward]
        else:
            curves.append(delta_of(next(compose([parts], delta, grid_width(parts)))))
        if all(_kind(phase.mechanism) != "poisson_profile" for phase, _ in runs):
            break  # both directions have one profile
    return curves


def _profiles(runs: Runs, removed: bool) -> dict[Profile, int]:
    """How often each one-step profile is composed; Gaussian releases are one, their mu^2 adding up, and so are visits."""
    from .profiles import AddedUnit, Gaussian, ReplacedRecord, ReplacedUnit, RevealedDraws

    counts: dict[Profile, int] = {}
    squared_mu = 0.0
    revealed: dict[tuple[float, float, float], int] = {}
    for phase, times in runs:
        mechanism, steps = phase.mechanism, phase.steps * times
        kind, rate, noise = _kind(mechanism), mechanism.sampling_rate, mechanism.effective_noise_multiplier
        profile: Profile
        if kind == "gaussian":
            squared_mu += times * _visits(phase) / noise**2
            continue
        if kind in ("draws_revealed", "shared_buffer_revealed"):
            draw = rate, noise, _carried(mechanism)
            revealed[draw] = revealed.get(draw, 0) + steps
            continue
        if kind == "poisson_profile":
            profile = AddedUnit(rate, noise, removed)
        elif _presence_noise(mechanism) > noise:
            profile = ReplacedRecord(rate, _presence_noise(mechanism))
        else:
            profile = ReplacedUnit(rate, noise)
        counts[profile] = counts.get(profile, 0) + steps
    counts |= {RevealedDraws(rate, noise, steps, carried): 1 for (rate, noise, carried), steps in revealed.items()}
    if squared_mu:
        counts[Gaussian(1 / math.sqrt(squared_mu))] = 1
    return counts


def _visits(phase: Phase) -> int:
    """Gaussian releases that touch one unit: all steps, or the visits of the most visited shard."""
    mechanism = phase.mechanism
    if isinstance(mechanism, ShardMechanism) and mechanism.schedule == "round_robin":
        return mechanism.visits(phase.steps)
    return phase.steps


def _carried(mechanism: Mechanism) -> float:
    """Distance that a step moves which does not draw the unit, in distances of one that does."""
    return mechanism.carried if isinstance(mechanism, ShardMechanism) else 0.0


def _presence_noise(mechanism: Mechanism) -> float:
    """std / distance that everything one step releases moves when a unit answers rather than not (a shard: another one)."""
    if not isinstance(mechanism, RecordMechanism):
        return mechanism.effective_noise_multiplier
    return mechanism.noise_multiplier / (mechanism.presence_distance * math.sqrt(mechanism.releases_per_step))


def _rdp(totals: Sequence[Runs], delta: float) -> list[float]:
    from dp_accounting.rdp.rdp_privacy_accountant import compute_epsilon

    from . import renyi

    return [
        float(compute_epsilon(renyi.orders(), sum(times * _phase_renyi(phase) for phase, times in runs), delta)[0])
        for runs in totals
    ]


def _phase_renyi(phase: Phase) -> np.ndarray:
    """Renyi divergences of one run of a phase at ``renyi.orders()``."""
    import numpy as np

    from . import renyi

    mechanism = phase.mechanism
    if isinstance(mechanism, SelectionMechanism):
        trials = [np.sum([_phase_renyi(part) for part in phases if part.releases], axis=0) for phases in mechanism.candidates]
        repetitions = Repetitions(shape=mechanism.shape, mean=mechanism.mean_trials)
        return phase.steps * repetitions.renyi(renyi.orders(), np.max(trials, axis=0))
    kind, rate, noise = _kind(mechanism), mechanism.sampling_rate, mechanism.effective_noise_multiplier
    if kind == "gaussian":
        return _visits(phase) * renyi.gaussian(noise)
    if kind in ("draws_revealed", "shared_buffer_revealed"):
        return phase.steps * renyi.revealed_draw(rate, noise, _carried(mechanism))
    if kind == "poisson_profile":
        return phase.steps * renyi.added_unit(rate, noise)
    if _presence_noise(mechanism) > noise:
        return phase.steps * renyi.replaced_record(rate, _presence_noise(mechanism))
    return phase.steps * renyi.replaced_unit(rate, noise)


# --- calibration --------------------------------------------------------------------------------------------------------


def calibrate(
    phases: Sequence[Phase], *, target_epsilon: float, delta: float, accountant: Accountant, reserve_steps: int = 0
) -> float:
    """Smallest common factor on the phases' noise multipliers that meets the target, rounded up to 4 decimal digits.

    Meets: ``epsilon`` of the phases as planned, with ``reserved`` more in any one of them (steps that an interruption makes a
    trial repeat), is at most ``target_epsilon``; with 0.0001 less it is not. Raises ``InfeasibleBudget``.
    """
    _check_target(phases, target_epsilon, delta)
    extra = [steps if phase.releases else 0 for phase, steps in zip(phases, reserved(phases, reserve_steps), strict=True)]
    extended = [
        [replace(phase, steps=phase.steps + extra[index] * (index == longer)) for index, phase in enumerate(phases)]
        for longer in range(len(phases))
        if extra[longer] or not any(extra)
    ]

    def spent(factor: float) -> float:
        return max(epsilon(scale_noise(plan, factor), delta=delta, accountant=accountant) for plan in extended)

    return smallest_factor(spent, target_epsilon, delta)


def reserved(phases: Sequence[Phase], reserve_steps: int) -> list[int]:
    """Steps in reserve of each phase: ``reserve_steps``, or all that a shorter phase has, for one interruption loses no more.

    >>> from trainables.privacy.mechanism import NoRelease, Phase
    >>> reserved([Phase(mechanism=NoRelease(), steps=steps) for steps in (5, 1000)], 50)
    [5, 50]
    """
    return [min(reserve_steps, phase.steps) for phase in phases]


def published_factor(phases: Sequence[Phase], *, target_epsilon: float, delta: float) -> float:
    """Smallest common factor on the phases' noise multipliers, rounded up to 4 digits, that the published accounting allows.

    At it ``published_epsilon`` is at most ``target_epsilon``; ``epsilon``, the proven one, is usually far above. Raises
    ``ValueError`` for phases that are not of the shard family and ``InfeasibleBudget`` like ``calibrate``.

    >>> from trainables.privacy.mechanism import Phase, ShardMechanism
    >>> gs_wgan = ShardMechanism(
    ...     schedule="persistent", shards=1000, shards_per_step=1, release_shape=(32, 784), noise_multiplier=1.0
    ... )
    >>> published_factor([Phase(mechanism=gs_wgan, steps=20000)], target_epsilon=10, delta=1e-5)
    1.0693
    """
    _check_target(phases, target_epsilon, delta)
    others = [p.mechanism.kind for p in phases if p.releases and not isinstance(p.mechanism, ShardMechanism)]
    if others:
        raise ValueError(
            f"the published accounting is that of critics on shards; {others[0]} has no shards, so it claims nothing"
        )

    def claimed(factor: float) -> float:
        found = published_epsilon(scale_noise(phases, factor), delta=delta)
        assert found is not None
        return found

    return smallest_factor(claimed, target_epsilon, delta)


def _check_target(phases: Sequence[Phase], target_epsilon: float, delta: float) -> None:
    if not (target_epsilon > 0 and math.isfinite(target_epsilon)):
        raise InfeasibleBudget(f"the target epsilon is {target_epsilon}; expected a finite number over 0")
    if not 0 < delta < 1:
        raise InfeasibleBudget(f"delta is {delta}; expected a number between 0 and 1, usually below 1 / number of records")
    if any(phase.mechanism.noise_multiplier == 0 for phase in phases):
        raise InfeasibleBudget("a phase declares a noise multiplier of 0, which no factor can raise to a finite epsilon")
    if not any(phase.releases for phase in phases):
        raise ValueError("no phases release anything: there is no noise to calibrate")


def smallest_factor(spent: Callable[[float], float], target_epsilon: float, delta: float) -> float:
    """The first multiple of 1 / UNITS at which ``spent``, which falls with the factor, is at most the target."""

    @cache
    def log_excess(units: int) -> float:
        """log(epsilon / target) at a factor of ``units`` / 10000."""
        found = spent(units / UNITS)
        return math.log(found / target_epsilon) if found > 0 else -math.inf

    # Epsilon falls at least as fast as 1 / factor in practice, so this guess and 1 mostly have the answer between them.
    limit = round(LARGEST_FACTOR * UNITS)
    guess = math.ceil(UNITS * math.exp(min(log_excess(UNITS), math.log(LARGEST_FACTOR))))
    low, high = sorted((UNITS, max(guess, 1)))
    while log_excess(high) > 0:
        if high >= limit:
            raise InfeasibleBudget(
                f"epsilon {target_epsilon} at delta {delta} is out of reach: {LARGEST_FACTOR:g} times the method's own noise "
                f"would not do; ask for a larger epsilon or fewer steps"
            )
        low, high = high, min(2 * high, limit)
    while low and log_excess(low) <= 0:
        low, high = low // 2, low
    return _smallest(log_excess, low, high) / UNITS


def _smallest(excess: Callable[[int], float], low: int, high: int) -> int:
    """The first whole number at which a falling function is <= 0, between ``low`` (0, or above) and ``high`` (not above).

    Regula falsi on logarithms, Illinois variant: the value at an end that stays twice is halved, which draws the next point
    towards it.
    """
    at_low, at_high = excess(low) if low else math.inf, excess(high)
    moved = None
    while high - low > 1:
        if math.isfinite(at_low) and math.isfinite(at_high):
            middle = round(low * (high / low) ** (at_low / (at_low - at_high)))
        else:
            middle = (low + high) // 2
        middle = min(max(middle, low + 1), high - 1)
        if excess(middle) > 0:
            at_high /= 2 if moved == "low" else 1
            low, at_low, moved = middle, excess(middle), "low"
        else:
            at_low /= 2 if moved == "high" else 1
            high, at_high, moved = middle, excess(middle), "high"
    return high
