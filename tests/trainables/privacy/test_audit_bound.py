"""The bound of a one-run audit: published formula, golden values, and what it must do in between."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest

from trainables.privacy.audit_bound import highest_bound, lower_bound, p_value

SHARES = (55, 60, 65, 70, 80, 90, 95, 100)
GOLDEN = {100: (0, 0.05, 0.25, 0.47, 0.96, 1.63, 2.17, 3.47), 200: (0, 0.16, 0.37, 0.58, 1.09, 1.80, 2.39, 4.17)}
"""Bounds at m = 1000 canaries, delta 1e-5, confidence 95 %, by guesses and percent of them right."""


@pytest.mark.parametrize("guesses", GOLDEN)
def test_golden_bounds(guesses: int) -> None:
    found = [lower_bound(canaries=1000, guesses=guesses, right=guesses * share // 100, delta=1e-5) for share in SHARES]
    assert [round(bound, 2) for bound in found] == list(GOLDEN[guesses])


def test_without_delta_it_is_the_binomial_test() -> None:
    """delta = 0: the epsilon at which exactly 5 % of r coins of e^eps / (1 + e^eps) come out as many times right."""
    bound = lower_bound(canaries=50, guesses=50, right=40, delta=0.0)
    assert p_value(bound, canaries=50, guesses=50, right=40, delta=0.0) == pytest.approx(0.05, abs=1e-6)
    all_right = 0.05 ** (1 / 50)
    assert highest_bound(canaries=50, guesses=50, delta=0.0) == pytest.approx(math.log(all_right / (1 - all_right)), abs=1e-5)


def test_more_right_guesses_prove_more_and_more_delta_less() -> None:
    bounds = [lower_bound(canaries=200, guesses=100, right=right, delta=1e-5) for right in range(101)]
    assert bounds == sorted(bounds)
    assert bounds[50] == 0.0
    assert bounds[100] == highest_bound(canaries=200, guesses=100, delta=1e-5)
    by_delta = [lower_bound(canaries=200, guesses=100, right=90, delta=delta) for delta in (0.0, 1e-5, 1e-4, 1e-3)]
    assert by_delta == sorted(by_delta, reverse=True)
    assert by_delta[0] > by_delta[-1]
    by_confidence = [
        lower_bound(canaries=200, guesses=100, right=90, delta=1e-5, confidence=confidence) for confidence in (0.9, 0.95, 0.99)
    ]
    assert by_confidence == sorted(by_confidence, reverse=True)
    assert by_confidence[0] > by_confidence[-1]


def test_a_replaced_record_is_two_steps_where_neighbours_add_or_remove_one() -> None:
    whole = lower_bound(canaries=200, guesses=100, right=95, delta=0.0)
    half = lower_bound(canaries=200, guesses=100, right=95, delta=0.0, neighbours="add_remove")
    assert half == pytest.approx(whole / 2, abs=1e-5)


def test_an_epsilon_whose_exponential_has_no_float_makes_everything_likely() -> None:
    for epsilon in (65.0, 710.0, 1e6):
        assert p_value(epsilon, canaries=10, guesses=10, right=9, delta=1e-5, neighbours="add_remove") == 1.0


def test_randomized_response_is_not_refuted() -> None:
    """The mechanism that meets the bound: each coin told rightly with e^eps / (1 + e^eps). All 2,000 runs, false alarms 5 %."""
    import numpy as np

    right = np.random.default_rng(0).binomial(100, np.e / (1 + np.e), 2000)
    refuted = np.mean([lower_bound(canaries=100, guesses=100, right=int(v), delta=0.0) > 1.0 for v in right])
    assert 0.01 < refuted <= 0.05 + 0.024  # false-alarm rate of the test 1e-6: 4.9 standard deviations


def test_counts_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="12 of 10 guesses at 100 canaries"):
        p_value(1.0, canaries=100, guesses=10, right=12, delta=0.0)
    with pytest.raises(ValueError, match="guesses <= canaries"):
        lower_bound(canaries=5, guesses=10, right=5, delta=0.0)


def test_importing_it_is_light() -> None:
    heavy = "torch", "ray", "dp_accounting", "scipy", "numpy"
    code = f"import sys, trainables.privacy.audit_bound; print([name for name in {heavy!r} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
