"""How large epsilon must at least be, given how well an audit told planted records from their stand-ins.

Steinke, Nasr & Jagielski (NeurIPS 2023), one run: each of m canaries is in the data by a fair coin of its own, and whoever
sees what was released guesses r of the coins. The better the guesses, the larger the epsilon that explains them. What comes
out is a lower bound at some confidence; it never says that a mechanism is private.
"""

from __future__ import annotations

import math

from .mechanism import Neighbours

_PRECISION = 1e-6
"""Of a bound, which is rounded down to it."""

_MOST = 64.0
"""No bound is above this: it would take more right guesses than there are atoms."""


def p_value(
    epsilon: float, *, canaries: int, guesses: int, right: int, delta: float, neighbours: Neighbours = "replace_one"
) -> float:
    """The largest probability of ``right`` or more right guesses under (``epsilon``, ``delta``), at most 1.

    P[B >= v] + 2 m delta max_{i >= 1} P[v > B >= v - i] / i for B ~ Binomial(r, e^epsilon / (1 + e^epsilon)), m ``canaries``,
    r ``guesses`` and v ``right`` ones (Steinke, Nasr & Jagielski 2023, Theorem 5.2).

    A coin decides between a canary and its stand-in, one record replaced by another, which is the step between neighbours
    under ``replace_one``. Under ``add_remove`` it is two steps, which (epsilon, delta) bounds by (2 epsilon,
    (1 + e^epsilon) delta). Raises ``ValueError`` for counts that cannot be.

    >>> round(p_value(0.0, canaries=100, guesses=10, right=9, delta=0.0), 4)
    0.0107
    """
    if not 0 <= right <= guesses <= canaries or guesses < 1:
        raise ValueError(
            f"{right} of {guesses} guesses at {canaries} canaries are right; expected right <= guesses <= canaries"
        )
    import numpy as np
    from scipy.stats import binom

    if neighbours == "add_remove":
        if epsilon > _MOST:
            return 1.0  # no bound is above it, and e^epsilon may have no float
        epsilon, delta = 2 * epsilon, (1 + math.exp(epsilon)) * delta
    chance = 1 / (1 + math.exp(-epsilon))
    found = float(binom.sf(right - 1, guesses, chance))
    if delta > 0 and right > 0:
        below = np.cumsum(binom.pmf(np.arange(right - 1, -1, -1), guesses, chance))
        found += 2 * canaries * delta * float((below / np.arange(1, right + 1)).max())
    return min(found, 1.0)


def lower_bound(
    *, canaries: int, guesses: int, right: int, delta: float, confidence: float = 0.95, neighbours: Neighbours = "replace_one"
) -> float:
    """The epsilon that is refuted with ``confidence``, 0 where none is: any smaller one makes so many right guesses too rare.

    Raises ``ValueError`` as ``p_value`` does.

    >>> round(lower_bound(canaries=1000, guesses=100, right=90, delta=1e-5), 2)
    1.63
    """

    def refuted(epsilon: float) -> bool:
        found = p_value(epsilon, canaries=canaries, guesses=guesses, right=right, delta=delta, neighbours=neighbours)
        return found < 1 - confidence

    if not refuted(0.0):
        return 0.0
    low, high = 0.0, _MOST
    while high - low > _PRECISION:
        middle = (low + high) / 2
        low, high = (middle, high) if refuted(middle) else (low, middle)
    return low


def highest_bound(
    *, canaries: int, guesses: int, delta: float, confidence: float = 0.95, neighbours: Neighbours = "replace_one"
) -> float:
    """What ``lower_bound`` would be if every guess were right: no audit of this size can show more.

    >>> round(highest_bound(canaries=1000, guesses=200, delta=1e-5), 2)
    4.17
    """
    return lower_bound(
        canaries=canaries, guesses=guesses, right=guesses, delta=delta, confidence=confidence, neighbours=neighbours
    )
