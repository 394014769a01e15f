"""How few steps a noise buys: data-independent, by the same account that a trial is held to."""

from __future__ import annotations

from trainables.privacy import accounting
from trainables.privacy.mechanism import Mechanism, Phase


def affordable_steps(
    mechanism: Mechanism, *, target_epsilon: float, delta: float, accountant: accounting.Accountant = "pld"
) -> int:
    """The most steps of ``mechanism``, with the noise that it declares, whose epsilon is at most ``target_epsilon``.

    >>> from trainables.privacy.mechanism import TeacherMechanism
    >>> label = TeacherMechanism(answer="yes_no", teachers=10, release_shape=(1,), noise_multiplier=100.0)
    >>> affordable_steps(label, target_epsilon=10, delta=1e-5)
    40017
    """

    def affordable(steps: int) -> bool:
        spent = accounting.epsilon([Phase(mechanism=mechanism, steps=steps)], delta=delta, accountant=accountant)
        return spent <= target_epsilon

    low, high = 0, 1
    while affordable(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if affordable(middle) else (low, middle)
    return low


def remark(phase: Phase, noise: str, *, target_epsilon: float, delta: float) -> str:
    """One sentence: what the noise described by ``noise``, which ``phase`` declares, buys, and how many steps are planned.

    Raises ``ValueError`` for a target that is not a finite number over 0.
    """
    if not 0 < target_epsilon < float("inf"):
        raise ValueError(f"target epsilon is {target_epsilon}; expected a finite number over 0")
    steps = affordable_steps(phase.mechanism, target_epsilon=target_epsilon, delta=delta)
    bought = f"{steps} step{'s' * (steps != 1)}"
    planned = f"{phase.steps} are planned, with the noise that the budget asks for"
    return f"{noise} buys {bought} at epsilon {target_epsilon:g}, delta {delta:g}; {planned}"
