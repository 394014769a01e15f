"""The epsilon that GS-WGAN's privacy script computes, for comparison with published tables. It is not a proven epsilon.

GS-WGAN (Chen, Orekondy, Fritz 2020), and after it DPAC and Ma & Zhang, compose steps x batch *independently subsampled*
Gaussian releases at the noise of one image. But all images of a step share one draw of a shard: the coin is tossed once a
step, and each toss shows a query whose noise is sqrt(batch) smaller. Nor is it counted that DPAC releases twice a step and
Ma & Zhang three times, that critics persist between draws, or what an error buffer carries into the steps of other shards.
``accounting.epsilon`` accounts what the code does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import special

LARGEST_ORDER = 2048


def published_epsilon(subsampled: Sequence[tuple[float, float, int]], delta: float) -> float:
    """Epsilon of ``subsampled`` releases (noise multiplier of one image, sampling rate, count) as the script computes it.

    The script calls autodp's ``anaRDPacct.compose_subsampled_mechanism``: Wang, Balle, Kasiviswanathan 2019, Theorem 9,
    replace-one, without replacement, at integer orders, and Mironov's (2017) conversion log(1/delta) / (order - 1).

    >>> round(published_epsilon([(1.07, 1 / 1000, 20000 * 32)], 1e-5), 4)
    9.9926
    """
    highest = 64
    while True:
        orders = np.arange(2, highest + 1)
        moments = np.zeros(len(orders))
        for noise, rate, count in subsampled:
            moments += count * np.array([_log_moment(noise, rate, order) for order in range(2, highest + 1)])
        candidates = (math.log(1 / delta) + moments) / (orders - 1)
        best = int(np.argmin(candidates))
        if best < len(orders) - 1 or highest >= LARGEST_ORDER:
            return float(candidates[best])
        highest *= 2


def _log_moment(noise: float, rate: float, order: int) -> float:
    """Theorem 9's bound of (order - 1) x Renyi divergence at an integer order, and never more than without subsampling."""
    divergence = 1 / noise**2  # of order 2
    second = 2 * math.log(rate) + _log_binomial(order, 2)
    second += min(math.log(4) + divergence + math.log(-math.expm1(-divergence)), divergence + math.log(2))
    powers = np.arange(3, order + 1)
    higher = math.log(2) + powers * (powers - 1) / (2 * noise**2) + powers * math.log(rate) + _log_binomial(order, powers)
    return min(order * (order - 1) / (2 * noise**2), float(special.logsumexp(np.concatenate([[0.0, second], higher]))))


def _log_binomial(n: int, k: int | np.ndarray) -> float | np.ndarray:
    return special.gammaln(n + 1) - special.gammaln(n - k + 1) - special.gammaln(k + 1)
