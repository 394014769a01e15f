"""Renyi divergences of one step, the currency of the ``rdp`` accountant: they add up over steps, phases and trials.

Most come from dp-accounting, which is imported inside the functions (2 s). ``noise`` is std / L2 distance.
"""

from __future__ import annotations

import logging
import math
from functools import cache, lru_cache
from typing import Any

import numpy as np
from scipy import special

LARGEST_GRID = 1_000_000


@cache
def orders() -> np.ndarray:
    """dp-accounting's orders and every integer to 64: without the small integers a bound may be eight times as large."""
    from dp_accounting.rdp import rdp_privacy_accountant as library

    return np.array(sorted({*library.DEFAULT_RDP_ORDERS, *range(2, 65), 80, 96, 160, 192}), dtype=np.float64)


def gaussian(noise: float) -> np.ndarray:
    """Of one Gaussian release (Mironov 2017)."""
    return orders() / (2 * noise**2)


def revealed_draw(rate: float, noise: float, carried: float = 0.0) -> np.ndarray:
    """Of a release that is handed over together with whether the unit took part; if not, it moves ``carried`` times as far."""
    moment = orders() * (orders() - 1) / (2 * noise**2)
    return np.logaddexp(math.log1p(-rate) + carried**2 * moment, math.log(rate) + moment) / (orders() - 1)


@lru_cache(maxsize=256)
def replaced_unit(rate: float, noise: float) -> np.ndarray:
    """Of a unit drawn with probability ``rate`` and replaced: Wang, Balle, Kasiviswanathan 2019, Theorem 27.

    The theorem is about m of K units without replacement, but its proof only needs three mixtures (drawn, drawn and replaced,
    not drawn) that are pairwise within one distance. The library uses sample size / data-set size alone.
    """
    from dp_accounting import dp_event

    return _by_library(dp_event.SampledWithoutReplacementDpEvent(1, rate, dp_event.GaussianDpEvent(noise)), "REPLACE_ONE")


@lru_cache(maxsize=256)
def added_unit(rate: float, noise: float) -> np.ndarray:
    """Of a Poisson-sampled unit that is there or not (Mironov, Talwar, Zhang 2019)."""
    from dp_accounting import dp_event

    return _by_library(dp_event.PoissonSampledDpEvent(rate, dp_event.GaussianDpEvent(noise)), "ADD_OR_REMOVE_ONE")


def _by_library(event: Any, relation: str) -> np.ndarray:
    from dp_accounting.privacy_accountant import NeighboringRelation
    from dp_accounting.rdp.rdp_privacy_accountant import RdpAccountant

    # The library warns of every fractional order whose series does not converge and leaves that order out: nobody's concern.
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        return RdpAccountant(orders(), NeighboringRelation[relation]).compose(event).rdp
    finally:
        logger.setLevel(level)


@lru_cache(maxsize=256)
def replaced_record(rate: float, noise: float) -> np.ndarray:
    """Of a Poisson-sampled record that is replaced; ``noise`` is std / clip bound of one record.

    The divergence of the pair of ``profiles.ReplacedRecord``, which dominates the step, integrated by the trapezoidal rule;
    on functions analytic in a strip around the real line that is exact to double precision long before the steps taken here.
    Where noise is so small and the order so high that the grid would be huge, sampling hardly matters and the bound is that
    of a record drawn for certain.
    """
    return np.array([_log_moment(rate, 1 / noise, order) / (order - 1) for order in orders()])


def _log_moment(rate: float, shift: float, order: float) -> float:
    """log of the integral of p^order q^(1 - order), in standard deviations of the noise."""
    step = min(0.1, 0.5 / shift)
    if 2 * order * shift > LARGEST_GRID * step:
        return (order - 1) * order * (2 * shift) ** 2 / 2
    x = np.arange(-12 - shift, 2 * order * shift + 12, step)
    p = _log_mixture(rate, shift, x)
    q = _log_mixture(rate, -shift, x)
    moment = float(special.logsumexp(order * p + (1 - order) * q)) + math.log(step / math.sqrt(2 * math.pi))
    return max(moment, 0.0) * (1 + 1e-12) + 1e-14  # more than rounding can have taken away


def _log_mixture(rate: float, shift: float, x: np.ndarray) -> np.ndarray:
    """log((1 - rate) exp(-x^2 / 2) + rate exp(-(x - shift)^2 / 2))."""
    return np.logaddexp(math.log1p(-rate), math.log(rate) + x * shift - shift * shift / 2) - x * x / 2
