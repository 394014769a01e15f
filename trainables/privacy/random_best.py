"""Private selection: a secret random number of trials is run, and only the best one is revealed.

Each trial is a draw from one fixed mechanism Q (its configuration is drawn too), scored by something that costs nothing. If
the number K of trials is secret and comes from one of these distributions, the price of the best trial grows with the
logarithm of the mean of K, not with its root (Liu & Talwar 2019; Papernot & Steinke 2022). K itself, the scores and the
generators of the losers are never revealed; only K = 0, which Poisson allows, shows. How long it took is not covered.

Two bounds, both proven: of Renyi divergences (``renyi``; Papernot & Steinke 2022, Theorems 2 and 6) and of the privacy
profile (``epsilon``), which is about 1 lower at epsilon 10.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np

Name = Literal["logarithmic", "geometric", "poisson"]
SHAPES: dict[Name, float] = {"logarithmic": 0.0, "geometric": 1.0, "poisson": math.inf}
"""Shape eta of the truncated negative binomial distribution that each is; the Poisson distribution is its limit."""

Profile = Callable[["np.ndarray"], "np.ndarray"]
"""delta(epsilon) of one trial at epsilons >= 0: falls, and bounds both directions."""

_GRID = 4001


@dataclass(frozen=True, kw_only=True)
class Repetitions:
    """The distribution of K: truncated negative binomial of shape eta >= 0, or Poisson where the shape is infinite.

    K is at least 1 except under Poisson. ``mean`` is E[K], over 1 (Poisson: at least 1, where the theorem holds).
    """

    shape: float
    mean: float

    def __post_init__(self) -> None:
        if not self.shape >= 0:
            raise ValueError(f"shape is {self.shape}; expected a number of at least 0")
        poisson = math.isinf(self.shape)
        if not (1 < self.mean < math.inf or (poisson and self.mean == 1)):
            least = "of at least 1" if poisson else "over 1"
            raise ValueError(f"mean_trials is {self.mean}; expected a finite number {least}")

    @cached_property
    def gamma(self) -> float:
        """gamma in (0, 1) of the truncated negative binomial distribution with this mean."""
        from scipy import optimize

        def excess(log_gamma: float) -> float:
            gamma = math.exp(log_gamma)
            if self.shape == 0:
                mean = (1 - gamma) / gamma / -log_gamma
            else:
                mean = self.shape * (1 - gamma) / gamma / -math.expm1(self.shape * log_gamma)
            return math.log(mean / self.mean)

        return math.exp(optimize.brentq(excess, -60.0, -1e-12, xtol=1e-15))

    def renyi(self, orders: np.ndarray, divergences: np.ndarray) -> np.ndarray:
        """Renyi divergences of the selection at ``orders`` (over 1), from those of one trial at the same orders.

        Papernot & Steinke 2022, Theorem 2 (truncated negative binomial) and Theorem 6 (Poisson). Divergences grow with the
        order, so that of a higher order bounds that of a lower one.
        """
        import numpy as np

        if math.isinf(self.shape):
            from dp_accounting.rdp.rdp_privacy_accountant import compute_delta

            deltas = np.array([compute_delta(orders, divergences, math.log1p(1 / (order - 1)))[0] for order in orders])
            found = divergences + self.mean * deltas + math.log(self.mean) / (orders - 1)
        else:
            helper = float(np.min((1 - 1 / orders) * divergences - math.log(self.gamma) / orders))
            found = divergences + (1 + self.shape) * helper + math.log(self.mean) / (orders - 1)
        return np.minimum.accumulate(found[::-1])[::-1]

    def epsilon(self, profile: Profile, *, delta: float) -> float:
        """Epsilon of the selection at ``delta``, from the privacy profile of one trial; infinity where it has none.

        Let f be the probability generating function of K and G(y) the chance that one trial is better than y. The best trial
        is y with density p(y) f'(1 - G(y)). For a neighbouring data set G' <= exp(e) G + delta(e), so for every e >= 0

            f'(1 - G) <= exp(c) f'(1 - G'),    exp(c) = (exp(e) + (1 - gamma) / gamma delta(e))^(1 + eta)

        (Poisson: c = E[K] (exp(e) - 1 + delta(e))), and f' <= f'(1) = E[K], which leaves
        delta_selection(e1 + c) <= E[K] delta(e1) (Koskela, Redberg & Wang 2024 have the same form).
        """
        import numpy as np

        one = _smallest_epsilon(profile, delta / self.mean)
        if math.isinf(one):
            return math.inf
        losses = np.linspace(0.0, max(one, 1.0), _GRID)  # past e1 a larger e only adds to c
        deltas = profile(losses)
        with np.errstate(over="ignore"):
            if math.isinf(self.shape):
                helpers = self.mean * (np.expm1(losses) + deltas)
            else:
                helpers = (1 + self.shape) * np.logaddexp(losses, _log(deltas * (1 - self.gamma) / self.gamma))
        return one + float(helpers.min())

    def quantile(self, probability: float) -> int:
        """The smallest k with P(K <= k) >= ``probability``, to show how far K may spread."""
        import numpy as np
        from scipy import special

        most = 16
        while True:
            k = np.arange(1, most)
            if math.isinf(self.shape):
                none, log_mass = math.exp(-self.mean), k * math.log(self.mean) - self.mean - special.gammaln(k + 1)
            else:
                none, log_mass = 0.0, k * math.log1p(-self.gamma) + special.gammaln(k + self.shape) - special.gammaln(k + 1)
                if self.shape:
                    log_mass -= math.log(math.expm1(-self.shape * math.log(self.gamma))) + special.gammaln(self.shape)
                else:
                    log_mass -= math.log(-math.log(self.gamma))
            reached = np.cumsum([none, *np.exp(log_mass)]) >= probability
            if reached.any():
                return int(np.argmax(reached))
            most *= 2

    def draw(self) -> int:
        """A secret K, from the operating system's entropy. Only of the three distributions that have names."""
        import numpy as np

        coins = np.random.Generator(np.random.PCG64DXSM(int.from_bytes(os.urandom(32), "big")))
        if math.isinf(self.shape):
            return int(coins.poisson(self.mean))
        if self.shape not in SHAPES.values():
            raise ValueError(f"shape is {self.shape}; expected one of {sorted(SHAPES.values())}")
        return int(coins.geometric(self.gamma) if self.shape else coins.logseries(1 - self.gamma))


def _log(values: np.ndarray) -> np.ndarray:
    import numpy as np

    with np.errstate(divide="ignore"):
        return np.log(values)


def _smallest_epsilon(profile: Profile, delta: float) -> float:
    """Smallest epsilon >= 0 at which the profile is at most ``delta``, rounded up; infinity where there is none below 2^20."""

    import numpy as np

    def over(epsilon: float) -> bool:
        return bool(profile(np.array([epsilon]))[0] > delta)

    if not over(0.0):
        return 0.0
    low, high = 0.0, 1.0
    while over(high):
        low, high = high, 2 * high
        if high > 2**20:
            return math.inf
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if over(middle) else (low, middle)
    return high
