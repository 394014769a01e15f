"""Privacy profiles of one step: the hockey-stick divergence that a step can reach on any pair of neighbouring data sets.

H_a(P, Q) = integral of max(p - a q, 0), written here at a = exp(loss). A mechanism is (epsilon, delta)-DP exactly if
H_exp(epsilon) <= delta both ways. A function that is convex in a and lies over H for all neighbours is the profile of some
pair of distributions that dominates the step, and the composition of dominating pairs dominates the composition of the
steps, adaptive ones too (Zhu, Dong, Wang 2022, Theorem 10). Convexity is checked where a profile is put on a grid
(``loss_distribution``).

``noise`` is always std / distance in L2 of the two answers compared. Losses are float64 arrays of numbers >= 0; the values
below 0 follow from H_a(P, Q) = 1 - a + a H_{1/a}(Q, P).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from scipy import special

_ROOT = math.sqrt(2 * math.pi)
_CELLS_AT_ONCE = 1 << 20


class Profile(Protocol):
    """What ``loss_distribution`` needs to know of a dominating pair (P, Q). Equal profiles compare and hash equal."""

    def forward(self, losses: np.ndarray) -> np.ndarray:
        """H_exp(loss)(P, Q)."""
        ...

    def backward(self, losses: np.ndarray) -> np.ndarray:
        """H_exp(loss)(Q, P)."""
        ...


def gaussian_hockey_stick(losses: np.ndarray, noise: float | np.ndarray) -> np.ndarray:
    """Phi(1/(2s) - loss s) - exp(loss) Phi(-1/(2s) - loss s) for s = ``noise``.

    The exact profile of one Gaussian release (Balle & Wang 2018, Theorem 8) at losses >= 0, written with Mills ratios, which
    keep relative precision where both terms are tiny.

    >>> float(gaussian_hockey_stick(np.array(10.0), 0.49988862).round(9))
    1e-05
    """
    position = losses * noise - 1 / (2 * noise)
    tail = np.where(position > 0, _density(position) * _mills(np.maximum(position, 0)), special.ndtr(-position))
    return np.maximum(tail - _density(position) * _mills(position + 1 / noise), 0.0)


def _density(z: np.ndarray) -> np.ndarray:
    return np.exp(-z * z / 2) / _ROOT


def _mills(z: np.ndarray) -> np.ndarray:
    """Phi(-z) / density(z) for z >= 0."""
    return special.erfcx(z / math.sqrt(2)) * _ROOT / 2


def _loss_when_drawn(losses: np.ndarray, rate: float) -> np.ndarray:
    """log(1 + (exp(loss) - 1) / rate): the loss that the drawn unit must show for the mixture to show ``losses``."""
    small = np.minimum(losses, 30.0)
    large = np.maximum(losses, 30.0)
    return np.where(
        losses < 30, np.log1p(np.expm1(small) / rate), large - math.log(rate) + np.log1p((rate - 1) * np.exp(-large))
    )


@dataclass(frozen=True)
class Gaussian:
    """One Gaussian release, or several: n releases at noise s are one at s / sqrt(n)."""

    noise: float

    def forward(self, losses: np.ndarray) -> np.ndarray:
        return gaussian_hockey_stick(losses, self.noise)

    backward = forward


@dataclass(frozen=True)
class ReplacedUnit:
    """A unit that takes part with probability ``rate`` is replaced by another one: shards, or a whole-tensor clip.

    One step is P = (1 - q) R + q P1 against Q = (1 - q) R + q Q1: R is the law of the answer without the unit, and R, P1, Q1
    are pairwise within one distance, std / ``noise``. By advanced joint convexity (Balle, Barthe, Gaboardi 2018, Theorem 2),
    H_a = q H_a'(P1, (1 - b) R + b Q1) with a = 1 + q (a' - 1) and b = a / a', and convexity in the second argument leaves
    q H_a'(Gaussian): the replace-one profile of m of K units drawn without replacement (Zhu, Dong, Wang 2022). It is
    attained for a >= 1 where R = Q1, and for a < 1 (P and Q exchanged) where R = P1.
    """

    rate: float
    noise: float

    def forward(self, losses: np.ndarray) -> np.ndarray:
        return self.rate * gaussian_hockey_stick(_loss_when_drawn(losses, self.rate), self.noise)

    backward = forward


@dataclass(frozen=True)
class ReplacedRecord:
    """A Poisson-sampled record of a clipped sum is replaced by another one; ``noise`` is std / clip bound of one record.

    The record moves the sum by at most C when it is drawn rather than not and by at most 2 C when it is replaced. Given the
    other records drawn, H_a(P, Q) for a >= 1 is the largest q P1(A) - (a - 1)(1 - q) R(A) - a q Q1(A) over events A. Among
    events with P1(A) = Phi(z), Neyman and Pearson give R(A) >= Phi(z - C/std) and Q1(A) >= Phi(z - 2C/std), and half-lines of

        (1 - q) N(0, s^2) + q N(1, s^2)  against  (1 - q) N(0, s^2) + q N(-1, s^2),    s = std / C,

    attain both at once: this pair dominates, and two records that pull in opposite directions show it. Averaging over the
    other records keeps the bound (joint convexity), a < 1 is the mirror image. ``PLDAccountant`` of dp-accounting uses the
    same pair under ``REPLACE_ONE``.
    """

    rate: float
    noise: float

    def forward(self, losses: np.ndarray) -> np.ndarray:
        shift = 1 / self.noise
        # p = a q is a quadratic equation in y = exp(shift x) at x standard deviations, solved in logarithms:
        # k y^2 - w (a - 1) y - a k = 0 with w = 1 - rate, k = rate exp(-shift^2 / 2).
        log_k = math.log(self.rate) - shift * shift / 2
        with np.errstate(divide="ignore"):
            log_linear = math.log1p(-self.rate) + np.log(-np.expm1(-losses))
        log_root = np.logaddexp(2 * log_linear, math.log(4) + 2 * log_k - losses) / 2
        threshold = (losses + np.logaddexp(log_linear, log_root) - math.log(2) - log_k) / shift
        # Both terms are differences of Mills ratios; the (1 - q) parts are eliminated by p = a q at the threshold.
        drawn = special.ndtr(shift - threshold) - _density(threshold - shift) * _mills(threshold)
        other = np.exp(losses - (threshold + shift) ** 2 / 2) / _ROOT * (_mills(threshold) - _mills(threshold + shift))
        return self.rate * np.maximum(drawn + other, 0.0)

    backward = forward


@dataclass(frozen=True)
class AddedUnit:
    """A unit that takes part with probability ``rate`` is there or not: M = (1 - q) N(0, s^2) + q N(1, s^2) against N(0, s^2).

    Both orders dominate their own direction of the neighbouring relation (Zhu, Dong, Wang 2022, Theorem 11), so the two
    are composed apart and the larger epsilon counts.
    """

    rate: float
    noise: float
    removed: bool
    """True: P is the mixture (the record is in the first data set)."""

    def forward(self, losses: np.ndarray) -> np.ndarray:
        return self._mixture_first(losses) if self.removed else self._mixture_second(losses)

    def backward(self, losses: np.ndarray) -> np.ndarray:
        return self._mixture_second(losses) if self.removed else self._mixture_first(losses)

    def _mixture_first(self, losses: np.ndarray) -> np.ndarray:
        return self.rate * gaussian_hockey_stick(_loss_when_drawn(losses, self.rate), self.noise)

    def _mixture_second(self, losses: np.ndarray) -> np.ndarray:
        # H_a(N, M) = a [H_{1/a}(M, N) - (1 - 1/a)], and with c = 1 + (1/a - 1) / q the bracket is q c H_{1/c}(Gaussian);
        # a q c = 1 - a (1 - q) is the share of N that M cannot explain, and 0 where no outcome has a loss as large.
        share = -np.expm1(np.minimum(losses + math.log1p(-self.rate), 0.0))
        inner = losses + math.log(self.rate) - np.log(np.maximum(share, 1e-300))
        return share * gaussian_hockey_stick(inner, self.noise)


@dataclass(frozen=True)
class RevealedDraws:
    """``steps`` steps whose draws are handed over: n ~ Binomial(steps, rate) visits to the unit, each a Gaussian release.

    The expectation over n of the Gaussian profile at noise / sqrt(n). It holds whatever state persists between visits. A step
    that does not visit the unit may still move by ``carried`` times the distance of one that does (state that all units
    share): the profile is then that at noise / sqrt(n + carried^2 (steps - n)).
    """

    rate: float
    noise: float
    steps: int
    carried: float = 0.0

    @cached_property
    def _visits(self) -> tuple[np.ndarray, np.ndarray]:
        """Visit counts and their probabilities; those further out than Bernstein's bound of exp(-50) are put at ``steps``."""
        mean, variance = self.steps * self.rate, self.steps * self.rate * (1 - self.rate)
        reach = 50 / 3 + math.sqrt((50 / 3) ** 2 + 100 * variance)
        counts = np.arange(max(0, math.floor(mean - reach)), min(self.steps, math.ceil(mean + reach)) + 1)
        logs = (
            special.gammaln(self.steps + 1)
            - special.gammaln(counts + 1)
            - special.gammaln(self.steps - counts + 1)
            + special.xlogy(counts, self.rate)
            + special.xlog1py(self.steps - counts, -self.rate)
        )
        weights = np.exp(logs)
        return np.append(counts, self.steps), np.append(weights / weights.sum(), 2 * math.exp(-50))

    def forward(self, losses: np.ndarray) -> np.ndarray:
        counts, weights = self._visits
        squares = counts + self.carried**2 * (self.steps - counts)  # in squared distances of one visit
        weights, noises = weights[squares > 0], self.noise / np.sqrt(squares[squares > 0])
        total = np.zeros_like(losses, dtype=np.float64)
        at_once = max(1, _CELLS_AT_ONCE // losses.size)
        for first in range(0, len(noises), at_once):
            part = slice(first, first + at_once)
            total += gaussian_hockey_stick(losses[:, None], noises[part]) @ weights[part]
        return total

    backward = forward
