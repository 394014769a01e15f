"""Renyi divergences against the library's bounds, brute-force integrals and the privacy profiles they must go with."""

import numpy as np
import pytest

from trainables.privacy import renyi
from trainables.privacy.loss_distribution import discretise, grid_width
from trainables.privacy.profiles import ReplacedRecord, ReplacedUnit

CASES = [(0.001, 0.5), (0.05, 0.8142), (0.05, 5.27), (0.5, 2.0), (0.95, 0.6)]


@pytest.mark.parametrize(("rate", "noise"), CASES)
def test_a_replaced_record_lies_between_an_added_one_and_the_librarys_bound(rate, noise):
    """The library only knows distance 2 C throughout, which is std / 2 C."""
    found = renyi.replaced_record(rate, noise)
    upper, lower = renyi.replaced_unit(rate, noise / 2), renyi.added_unit(rate, noise)
    whole = renyi.orders() % 1 == 0  # between integers the library interpolates its bound, and leaves out what diverges
    assert np.all(found[whole] <= upper[whole] * (1 + 1e-12))
    assert np.all(found[whole] >= lower[whole] * (1 - 1e-9))


@pytest.mark.parametrize(("rate", "noise"), CASES)
def test_a_replaced_record_is_integrated_exactly(rate, noise):
    x = np.linspace(-30, 30, 600001)
    p, q = (
        ((1 - rate) * np.exp(-x * x / 2) + rate * np.exp(-((x - shift) ** 2) / 2)) / np.sqrt(2 * np.pi)
        for shift in (1 / noise, -1 / noise)
    )
    for order in (1.5, 2.0, 4.0):
        index = int(np.argmin(np.abs(renyi.orders() - order)))
        moment = np.sum(np.exp(order * np.log(p) + (1 - order) * np.log(q))) * 1e-4
        assert renyi.replaced_record(rate, noise)[index] == pytest.approx(np.log(moment) / (order - 1), rel=1e-9)


@pytest.mark.parametrize(
    ("profile", "divergences"),
    [
        (ReplacedRecord(0.05, 0.8142), renyi.replaced_record),
        (ReplacedRecord(0.3, 3.0), renyi.replaced_record),
        (ReplacedUnit(1e-3, 0.4647), renyi.replaced_unit),
        (ReplacedUnit(0.05, 3.043), renyi.replaced_unit),
    ],
)
def test_moments_of_the_profile_never_exceed_the_divergence(profile, divergences):
    """Two derivations of the same step: E[exp((order - 1) loss)] under P, from its discretised losses."""
    losses = discretise(profile, grid_width({profile: 1}) / 4)
    parameters = (profile.rate, profile.noise)
    for order in (2.0, 3.0, 8.0):
        index = int(np.flatnonzero(renyi.orders() == order)[0])
        moment = np.log(np.sum(losses.mass * np.exp((order - 1) * losses.values))) / (order - 1)
        assert moment <= divergences(*parameters)[index] * (1 + 1e-3)


def test_revealed_draws_average_the_moments():
    rate, noise = 0.3, 2.0
    orders = renyi.orders()[renyi.orders() < 20]
    moments = 1 - rate + rate * np.exp(orders * (orders - 1) / (2 * noise**2))
    found = renyi.revealed_draw(rate, noise)[: len(orders)]
    np.testing.assert_allclose(found, np.log(moments) / (orders - 1), rtol=1e-12)
    assert np.all(np.isfinite(renyi.revealed_draw(rate, 0.01)))


def test_steps_without_the_unit_move_by_what_is_carried():
    rate, noise, carried = 0.3, 2.0, 0.4
    orders = renyi.orders()[renyi.orders() < 20]
    squares = orders * (orders - 1) / (2 * noise**2)
    moments = (1 - rate) * np.exp(carried**2 * squares) + rate * np.exp(squares)
    found = renyi.revealed_draw(rate, noise, carried)[: len(orders)]
    np.testing.assert_allclose(found, np.log(moments) / (orders - 1), rtol=1e-12)
    assert np.all(np.isfinite(renyi.revealed_draw(rate, 0.01, carried)))
    assert np.array_equal(renyi.revealed_draw(rate, noise, 0.0), renyi.revealed_draw(rate, noise))


def test_every_small_integer_is_an_order():
    assert set(range(2, 65)) <= set(renyi.orders().tolist())
    assert renyi.orders().max() >= 1024
