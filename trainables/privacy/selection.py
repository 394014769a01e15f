"""What it costs to have looked at several trials: the price of choosing the best one."""

from __future__ import annotations

import math
from collections.abc import Sequence

from . import accounting
from .mechanism import Phase


def compose(parts: Sequence[tuple[Sequence[Phase], int]], *, delta: float, accountant: accounting.Accountant) -> float:
    """Epsilon of having seen every generator: each entry is (phases, number of trials that ran them).

    Adaptive composition of everything that was released; announcing only the best trial earns no discount. Composed in one
    go, which is far below the sum of the trials' epsilons. Where double precision no longer resolves ``delta`` by ``pld``
    (more than about delta x 10^16 steps in all), the Renyi bound is returned. Raises ``ValueError`` where the trials'
    neighbouring relations differ.

    >>> from trainables.privacy.mechanism import RecordMechanism
    >>> digits = RecordMechanism(sampling_rate=1.0, records=1000, release_shape=(50, 64), noise_multiplier=10.0)
    >>> round(compose([([Phase(mechanism=digits, steps=100)], 4)], delta=1e-5, accountant="pld"), 2)
    24.38
    """
    found = accounting.composed_epsilon(parts, delta=delta, accountant=accountant)
    if math.isinf(found) and accountant == "pld":
        found = accounting.composed_epsilon(parts, delta=delta, accountant="rdp")
    return found
