"""The budget of one trial: may the next steps run? Asked before their noise is drawn, never after."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from . import accounting
from .mechanism import Phase, with_steps


class Budget:
    """What a trial with these phases (noise as calibrated, steps as planned) may still release.

    ``target_epsilon`` None means that the noise was given and nothing is refused; nor is it where no phase releases anything.
    ``reserve_steps`` is how many steps more, in any one phase (``accounting.reserved``), the noise was calibrated for: those
    that an interruption makes the trial run again.

    >>> from trainables.privacy.mechanism import RecordMechanism
    >>> digits = RecordMechanism(sampling_rate=1.0, records=1000, release_shape=(50, 64), noise_multiplier=10.5)
    >>> plan = [Phase(mechanism=digits, steps=100)]
    >>> budget = Budget(plan, target_epsilon=10.0, delta=1e-5, accountant="pld", reserve_steps=10)
    >>> budget.affordable([105], block=[0] * 20)
    5
    """

    def __init__(
        self,
        phases: Sequence[Phase],
        *,
        target_epsilon: float | None,
        delta: float,
        accountant: accounting.Accountant,
        reserve_steps: int = 0,
    ) -> None:
        self._phases = tuple(phases)
        self._target = target_epsilon if any(phase.releases for phase in self._phases) else None
        self._delta = delta
        self._accountant = accountant
        extra = accounting.reserved(self._phases, reserve_steps)
        self._plans = [
            tuple(phase.steps + extra[index] * (index == longer) for index, phase in enumerate(self._phases))
            for longer in range(len(self._phases))
        ]
        self._known: dict[tuple[int, ...], float] = {}

    def epsilon(self, steps: Sequence[int]) -> float:
        """Epsilon of ``steps`` executed a phase, computed once."""
        key = tuple(steps)
        if key not in self._known:
            phases = with_steps(self._phases, key)
            self._known[key] = accounting.epsilon(phases, delta=self._delta, accountant=self._accountant)
        return self._known[key]

    def allows(self, steps: Sequence[int]) -> bool:
        """Whether ``steps`` executed a phase (of all attempts, the proposed block included) are within the target."""
        if self._target is None:
            return True
        # Epsilon grows with the steps of every phase, so whatever lies within an affordable plan is affordable.
        within = [plan for plan in self._plans if all(done <= planned for done, planned in zip(steps, plan, strict=True))]
        return any(self.epsilon(plan) <= self._target for plan in within) or self.epsilon(steps) <= self._target

    def affordable(self, executed: Sequence[int], block: Sequence[int]) -> int:
        """How many of the next steps, whose phases are ``block`` in order, may run after ``executed`` steps a phase."""

        def fits(count: int) -> bool:
            wanted = Counter(block[:count])
            return self.allows([done + wanted[phase] for phase, done in enumerate(executed)])

        if fits(len(block)):
            return len(block)
        low, high = 0, len(block)  # zero further steps cost nothing, even when the budget is overspent already
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if fits(middle) else (low, middle)
        return low
