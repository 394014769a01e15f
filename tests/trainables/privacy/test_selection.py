"""The price of having seen every trial."""

import math

import pytest

from trainables.privacy.accounting import epsilon
from trainables.privacy.selection import compose

DELTA = 1e-5


def seen(*parts, accountant="pld"):
    return compose(parts, delta=DELTA, accountant=accountant)


@pytest.mark.parametrize("accountant", ["pld", "rdp"])
def test_one_trial_costs_its_epsilon_and_none_nothing(records, accountant):
    phases = [records(0.05, 200, 1.0), records(0.1, 50, 3.0)]
    assert seen((phases, 1), accountant=accountant) == pytest.approx(
        epsilon(phases, delta=DELTA, accountant=accountant), rel=1e-12
    )
    assert seen(accountant=accountant) == 0.0
    assert seen((phases, 0), accountant=accountant) == 0.0


@pytest.mark.parametrize("accountant", ["pld", "rdp"])
def test_trials_compose_like_phases(records, shards, accountant):
    """Three trials are their phases one after the other, whichever way they are listed."""
    first, second = [records(0.05, 20, 1.0)], [records(0.1, 50, 3.0), records(1.0, 2, 20.0)]
    together = seen((first, 2), (second, 1), accountant=accountant)
    apart = seen((first, 1), (second, 1), (first, 1), accountant=accountant)
    in_a_row = epsilon([*first, *second, *first], delta=DELTA, accountant=accountant)
    assert together == pytest.approx(apart, rel=1e-12)
    assert together == pytest.approx(in_a_row, rel=1e-12)


@pytest.mark.parametrize("accountant", ["pld", "rdp"])
def test_round_robin_trials_each_round_their_visits_up(shards, accountant):
    """11 steps over 10 shards visit one of them twice, in each of 3 trials: 6 visits, not the 4 of 33 steps in a row."""
    trial, visits = [shards(10, 11, 2.0, schedule="round_robin")], [shards(1, 6, 2.0)]
    assert seen((trial, 3), accountant=accountant) == pytest.approx(
        epsilon(visits, delta=DELTA, accountant=accountant), rel=1e-12
    )


@pytest.mark.parametrize(("trials", "golden"), [(1, 10.00425), (3, 19.5), (10, 43.8), (30, 99.9), (100, 266)])
def test_composed_sweeps_at_ten(records, trials, golden):
    phases = [records(512 / 60000, 20000, 0.911, neighbours="add_remove")]
    by_renyi = seen((phases, trials), accountant="rdp")
    assert by_renyi == pytest.approx(golden, rel=2e-3)
    assert seen((phases, trials)) < by_renyi


@pytest.mark.parametrize(("trials", "golden"), [(1, 1.00011), (3, 1.82), (10, 3.56), (30, 6.70), (100, 13.9)])
def test_composed_sweeps_at_one(records, trials, golden):
    phases = [records(512 / 60000, 20000, 4.946, neighbours="add_remove")]
    assert seen((phases, trials), accountant="rdp") == pytest.approx(golden, rel=3e-3)


def test_composition_is_far_below_the_sum(records):
    phases = [records(0.05, 200, 1.0)]
    alone = epsilon(phases, delta=DELTA, accountant="pld")
    assert alone < seen((phases, 2)) < seen((phases, 30)) < 15 * alone


def test_thousands_of_trials(records):
    """Ten thousand trials of five mechanisms, two phases each: resolved on the grid and far below Renyi's bound."""
    parts = [([records(0.05, 200, 1.1 + i / 2), records(0.05, 400, 2 + i / 2)], 2000) for i in range(5)]
    tight = seen(*parts)
    assert math.isfinite(tight)
    assert tight < seen(*parts, accountant="rdp")


def test_where_double_precision_ends_renyi_goes_on(records):
    phases = [records(0.05, 10**8, 5000.0)]
    assert seen((phases, 10**5)) == seen((phases, 10**5), accountant="rdp") < math.inf


def test_no_noise_and_mixed_relations(records):
    assert seen(([records(0.05, 10, 0.0)], 1), ([records(0.05, 10, 1.0)], 1)) == math.inf
    with pytest.raises(ValueError, match="neighbours differ"):
        seen(([records(0.05, 10, 1.0)], 1), ([records(0.05, 10, 1.0, neighbours="add_remove")], 1))
