"""Tests of noise and draws. All raise a false alarm with a probability of at most ``FALSE_ALARM``."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from scipy import stats

FALSE_ALARM = 1e-6

_MOST = 200_000
"""Numbers that the shape of a distribution is tested on."""


def not_standard_normal(numbers: np.ndarray, alarm: float = FALSE_ALARM) -> str:
    """What speaks against ``numbers`` being independent and standard normal; empty if nothing does.

    A chi-square test of the variance, both sides; a normal test of the mean; Kolmogorov and Smirnov's of the shape.
    """
    count, share = len(numbers), alarm / 3
    squares = float(np.square(numbers).sum())
    variance = 2 * min(stats.chi2.cdf(squares, count), stats.chi2.sf(squares, count))
    if variance < share:
        return f"chi-square test of {count} numbers, p {_shown(variance)}"
    mean = 2 * float(stats.norm.sf(abs(numbers.sum()) / count**0.5))
    if mean < share:
        return f"its mean is {numbers.mean():.3g} of a std, p {_shown(mean)}"
    shape = float(stats.kstest(numbers[:_MOST], "norm").pvalue)
    return f"it is not Gaussian: Kolmogorov-Smirnov test, p {_shown(shape)}" if shape < share else ""


def dependent_pair(rows: Sequence[np.ndarray], alarm: float = FALSE_ALARM) -> str:
    """Which two of ``rows`` are equal or correlated; empty if none are. Pearson's r, both sides, rows of at least 3 numbers."""
    pairs = [(i, j) for i, j in itertools.combinations(range(len(rows)), 2) if len(rows[i]) == len(rows[j])]
    for i, j in pairs:
        if alike(rows[i], rows[j]):
            return f"releases {i} and {j} have the same noise"
        if len(rows[i]) < 3:
            continue
        found = stats.pearsonr(rows[i], rows[j])
        if found.pvalue < alarm / len(pairs):
            return f"the noise of releases {i} and {j} is correlated: r = {found.statistic:.3f}, p {_shown(found.pvalue)}"
    return ""


def alike(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two rows of noise are one, but for the rounding of what they were added to.

    Noise is known as a difference, released minus un-noised, of numbers that were rounded to float32.
    """
    return one.shape == other.shape and bool(np.linalg.norm(one - other) <= 1e-3 * np.linalg.norm(one))


def count_is_unlikely(count: int, trials: int, rate: float) -> bool:
    """Whether ``count`` successes in ``trials`` coins of ``rate`` would be rarer than the alarm; binomial test, both sides."""
    if rate >= 1:
        return count != trials
    return 2 * min(stats.binom.cdf(count, trials, rate), stats.binom.sf(count - 1, trials, rate)) < FALSE_ALARM


def _shown(p: float) -> str:
    return f"= {p:.1g}" if p > 0 else "< 1e-300"
