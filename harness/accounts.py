"""What a trial may release and what that costs: its noise from its budget, then both proven epsilons and the claimed one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from trainables.privacy import accounting
from trainables.privacy.accounting import Accountant
from trainables.privacy.budget import Budget
from trainables.privacy.mechanism import Phase, scale_noise, with_steps

from .calibrations import Calibrations
from .document import InputError
from .expand import TrialSpec

# A checkpoint (and so a reservation) every twentieth of the steps, and one more such block in the noise: redoing one
# after a crash then costs 5 % more releases rather than the trial.
CHECKPOINTS_A_TRIAL = 20


def checkpoint_interval(phases: Sequence[Phase]) -> int:
    """Steps between checkpoints: as many as the reserve, or a twentieth of all steps where nothing is in reserve."""
    return default_reserve(phases) or -(-sum(phase.steps for phase in phases) // CHECKPOINTS_A_TRIAL)


@dataclass(frozen=True, kw_only=True)
class Account:
    """What a trial may release and what that costs; the same object for all trials that share a mechanism and a request."""

    phases: tuple[Phase, ...]
    """Calibrated."""
    reserve: int
    """Steps beyond the planned ones that the noise leaves room for."""
    epsilon_pld: float
    epsilon_rdp: float
    epsilon_published: float | None
    proof: str
    cut: str | None = None
    """What to say of it where the budget buys fewer steps than the method has: ``phases`` are those that it buys."""

    def epsilon(self, accountant: Accountant) -> float:
        """Proven epsilon of the planned steps."""
        return self.epsilon_pld if accountant == "pld" else self.epsilon_rdp


def default_reserve(phases: Sequence[Phase]) -> int:
    """A twentieth of the steps that release something, rounded up; none for a single one, which there is no part of."""
    releasing = sum(phase.steps for phase in phases if phase.releases)
    return -(-releasing // CHECKPOINTS_A_TRIAL) if releasing > 1 else 0


class Accounts:
    """The accounts of a sweep's trials, each distinct one calibrated once."""

    def __init__(self, calibrations: Calibrations) -> None:
        self._calibrations = calibrations
        self._known: dict[tuple[Any, ...], tuple[Account | None, str | None]] = {}

    def of(
        self, spec: TrialSpec, relative: tuple[Phase, ...], begun: tuple[Phase, ...] | None = None
    ) -> tuple[Account | None, str | None]:
        """The account of a trial, or None and why its budget is out of reach.

        ``relative`` are the method's phases, whose noise the budget scales. ``begun`` are those that the trial has already
        released under, if it has begun: its noise stays as it was. Raises ``InputError`` where the published accounting is
        to decide the noise and knows nothing of the mechanism.
        """
        privacy = spec.privacy
        reserve = default_reserve(relative) if privacy.reserve is None else privacy.reserve
        if privacy.published_noise or privacy.noise_multiplier is not None:  # no noise is calibrated for it
            reserve = 0
        noise = privacy.epsilon, privacy.noise_multiplier, privacy.published_noise
        key = (relative, begun, *noise, privacy.delta, privacy.accountant, reserve)
        if key not in self._known:
            self._known[key] = self._calibrate(spec, relative, begun, reserve)
        return self._known[key]

    def _calibrate(
        self, spec: TrialSpec, relative: tuple[Phase, ...], begun: tuple[Phase, ...] | None, reserve: int
    ) -> tuple[Account | None, str | None]:
        privacy, cache = spec.privacy, self._calibrations
        factor = privacy.noise_multiplier
        if not any(phase.releases for phase in relative):
            factor = 1.0  # real images: there is no noise
        if factor is None and begun is None:
            assert privacy.epsilon is not None  # spec: one of the two is there
            request: dict[str, Any] = {"target_epsilon": privacy.epsilon, "delta": privacy.delta}
            try:
                if privacy.published_noise:
                    factor = self._published_factor(spec, relative, **request)
                else:
                    factor = cache.factor(relative, **request, accountant=privacy.accountant, reserve=reserve)
            except accounting.InfeasibleBudget as error:
                return None, str(error)
        phases, cut = begun or scale_noise(relative, factor or 0.0), None
        if privacy.noise_multiplier is not None and privacy.epsilon is not None:
            phases, cut = self._afford(spec, scale_noise(relative, privacy.noise_multiplier), begun)
            if not phases:
                return None, cut
        return (
            Account(
                phases=phases,
                reserve=reserve,
                epsilon_pld=cache.epsilon(phases, delta=privacy.delta, accountant="pld"),
                epsilon_rdp=cache.epsilon(phases, delta=privacy.delta, accountant="rdp"),
                epsilon_published=cache.published_epsilon(phases, delta=privacy.delta),
                proof=accounting.proof(phases, privacy.accountant),
                cut=cut,
            ),
            None,
        )

    def _afford(
        self, spec: TrialSpec, whole: tuple[Phase, ...], begun: tuple[Phase, ...] | None
    ) -> tuple[tuple[Phase, ...], str | None]:
        """As much of ``whole`` as the budget buys (none where one step is too dear), and a sentence where that is not all."""
        privacy = spec.privacy
        assert privacy.epsilon is not None
        target = f"epsilon {privacy.epsilon:g} at delta {privacy.delta:g}"
        given = f"noise_multiplier {privacy.noise_multiplier:g}"
        block = [index for index, phase in enumerate(whole) for _ in range(phase.steps)]
        if begun:
            steps = [phase.steps for phase in begun] + [0] * (len(whole) - len(begun))  # what was cut off is the end
        else:
            budget = Budget(whole, target_epsilon=privacy.epsilon, delta=privacy.delta, accountant=privacy.accountant)
            count = budget.affordable([0] * len(whole), block)
            steps = [block[:count].count(index) for index in range(len(whole))]
        if sum(steps) == len(block):
            return whole, None
        first = [1] + [0] * (len(whole) - 1)
        one = self._calibrations.epsilon(with_steps(whole, first), delta=privacy.delta, accountant=privacy.accountant)
        costs = f"one step costs epsilon {one:.4g}" if math.isfinite(one) else "no step has a finite epsilon"
        if not sum(steps):
            return (), f"{target} is out of reach with {given}: {costs}"
        return with_steps(whole, steps), f"{target} buys {sum(steps)} of {len(block)} steps with {given}; {costs}"

    def _published_factor(self, spec: TrialSpec, relative: tuple[Phase, ...], **request: float) -> float:
        try:
            return self._calibrations.published_factor(relative, **request)
        except accounting.InfeasibleBudget as error:
            raise accounting.InfeasibleBudget(f"by the published accounting {error}") from None
        except ValueError as error:
            found = f"published_noise is true for {spec.method}, but {error}"
            raise InputError(spec.problem("privacy.published_noise", found, fix="write published_noise: false")) from None
