"""Numerics: composed profiles against closed forms, against dp-accounting, and on other grids."""

import math
import subprocess
import sys
from dataclasses import dataclass

import numpy as np
import pytest
from dp_accounting import NeighboringRelation, dp_event
from dp_accounting.pld.pld_privacy_accountant import PLDAccountant

from trainables.privacy.loss_distribution import (
    Losses,
    compose,
    delta_of,
    discretise,
    epsilon_of,
    epsilons,
    exact_epsilon,
    grid_width,
    largest_loss,
)
from trainables.privacy.profiles import AddedUnit, Gaussian, ReplacedRecord, ReplacedUnit, RevealedDraws


@pytest.mark.parametrize("delta", [1e-3, 1e-5, 1e-8])
@pytest.mark.parametrize("mu", [0.05, 2.0, 30.0])
@pytest.mark.parametrize("steps", [2, 100, 20000, 450000])
def test_composed_gaussians_are_over_the_exact_one_and_close(steps, mu, delta):
    """n releases at noise s are one at s / sqrt(n)."""
    found = epsilons([{Gaussian(math.sqrt(steps) / mu): steps}], delta)[0]
    exact = exact_epsilon(Gaussian(1 / mu), delta)
    assert exact < found < exact * (1 + 3e-4)


@pytest.mark.parametrize("steps", [100, 20000, 450000])
def test_rounding_counts_as_loss(steps):
    """Where delta nears the transform's precision the bound grows, at last to infinity; it never falls under the truth."""
    for delta in (1e-10, 1e-12, 1e-14, 1e-16):
        for mu in (0.05, 2.0, 30.0):
            found = epsilons([{Gaussian(math.sqrt(steps) / mu): steps}], delta)[0]
            assert found > exact_epsilon(Gaussian(1 / mu), delta)


def library(event, steps, relation):
    accountant = PLDAccountant(relation, value_discretization_interval=1e-3)
    return accountant.compose(event, steps).get_epsilon(1e-5)


@pytest.mark.parametrize(("rate", "noise", "steps"), [(0.05, 1.1022, 200), (0.01, 0.8, 1000), (0.3, 3.0, 50), (0.9, 5.0, 20)])
def test_poisson_agrees_with_the_library(rate, noise, steps):
    """Both relations, on the library's grid; under replace-one it doubles the sensitivity by itself."""
    event = dp_event.PoissonSampledDpEvent(rate, dp_event.GaussianDpEvent(noise))
    replaced = epsilons([{ReplacedRecord(rate, noise): steps}], 1e-5, 1e-3)[0]
    assert replaced == pytest.approx(library(event, steps, NeighboringRelation.REPLACE_ONE), rel=1e-5)
    both = [epsilons([{AddedUnit(rate, noise, removed): steps}], 1e-5, 1e-3)[0] for removed in (True, False)]
    assert max(both) == pytest.approx(library(event, steps, NeighboringRelation.ADD_OR_REMOVE_ONE), rel=1e-5)


PARTS = [
    {ReplacedUnit(1 / 1000, 0.4647): 20000},
    {ReplacedUnit(1 / 1000, 0.9441): 20000},
    {ReplacedUnit(1 / 1000, 1.07 / math.sqrt(32)): 20000},
    {ReplacedRecord(0.05, 0.8142): 200},
    {ReplacedRecord(0.05, 44.0): 200},
    {AddedUnit(256 / 60000, 1.1, removed=True): 14062},
    {AddedUnit(128 / 60000, 1.0, removed=False): 450000},
    {ReplacedRecord(0.05, 2.4): 200, ReplacedRecord(0.05, 1.9): 400, Gaussian(2.0): 1},
    {RevealedDraws(1e-3, 1.0, 20000): 1, Gaussian(2.0): 1},
]


@pytest.mark.parametrize("parts", PARTS)
def test_halving_the_grid_changes_little_and_downwards(parts):
    width = grid_width(parts)
    whole, half = (epsilons([parts], 1e-5, w)[0] for w in (width, width / 2))
    assert half <= whole * (1 + 1e-9)
    assert half >= whole * (1 - 1e-3)


def test_a_curve_is_the_same_as_its_points():
    one, other = ReplacedRecord(0.05, 2.4), ReplacedRecord(0.05, 1.9)
    totals = [{one: 50}, {one: 200}, {one: 200, other: 1}, {one: 200, other: 400}]
    width = grid_width(totals[-1])
    assert epsilons(totals, 1e-5) == pytest.approx([epsilons([parts], 1e-5, width)[0] for parts in totals], rel=1e-9)


def test_a_composed_distribution_is_one():
    width = grid_width(PARTS[7])
    (losses,) = compose([PARTS[7]], 1e-5, width)
    assert losses.mass.min() >= 0
    assert losses.mass.sum() + losses.infinite == pytest.approx(1, abs=1e-6)
    assert epsilon_of(losses, 1e-5) > epsilon_of(losses, 1e-4) > epsilon_of(losses, 1e-3)
    assert epsilon_of(losses, losses.infinite / 2) == math.inf


def test_a_delta_that_nothing_exceeds_costs_nothing():
    assert exact_epsilon(Gaussian(100.0), 0.5) == 0.0
    assert epsilons([{ReplacedRecord(0.05, 50.0): 3}], 0.5)[0] == 0.0


@dataclass(frozen=True)
class Bent:
    """No profile: a bound with a dent, which no pair of distributions has."""

    def forward(self, losses):
        return np.maximum(0.5 - 0.2 * losses - 0.2 * np.sin(3 * losses), 0)

    backward = forward


def test_a_profile_that_is_not_convex_is_refused():
    with pytest.raises(ArithmeticError, match="not convex"):
        discretise(Bent(), 0.01)


@dataclass(frozen=True)
class TooLow:
    """No profile either: H_a <= 1 - a + a H_{1/a} the other way is broken, so the masses exceed one."""

    def forward(self, losses):
        return 0.9 * np.exp(-losses)

    def backward(self, losses):
        return 0.1 * np.exp(-losses)


def test_masses_over_one_are_refused():
    with pytest.raises(ArithmeticError, match="privacy profile"):
        discretise(TooLow(), 0.01)


@pytest.mark.parametrize("profile", [Gaussian(0.3), ReplacedRecord(0.01, 0.5), AddedUnit(0.3, 2.0, removed=False)])
def test_the_largest_loss_leaves_nothing_over(profile):
    at = np.array([largest_loss(profile)])
    assert max(profile.forward(at)[0], profile.backward(at)[0]) <= 1e-22
    at *= 0.95
    assert max(profile.forward(at)[0], profile.backward(at)[0]) > 1e-22


@pytest.mark.parametrize("width", [1e-4, 0.05, 0.7, 30.0, 1000.0])
def test_delta_is_its_definition_whatever_the_grid(width):
    """Fine grids and such whose next cell counts for nothing; both directions between delta and epsilon."""
    rng = np.random.default_rng(0)
    mass = rng.random(700) * np.exp(-rng.random(700) * 30)
    losses = Losses(mass / (1.1 * mass.sum()), -200, width, 1e-6)
    asked = width * np.array([0.0, 0.3, 1.0, 17.5, 300.0, 498.7, 499.0, 600.0])
    excess = -np.expm1(np.minimum(asked[:, None] - losses.values, 0.0))
    expected = losses.infinite + excess @ losses.mass
    found = delta_of(losses)(asked)
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-15)
    for epsilon, delta in zip(asked, expected, strict=True):
        smallest = epsilon_of(losses, delta * (1 + 1e-12))
        assert smallest <= epsilon + 1e-9 * width
        assert delta_of(losses)(np.array([smallest]))[0] <= delta * (1 + 1e-9)


def test_an_account_does_not_take_the_imports_of_a_whole_library():
    """Every trial with a tight account makes one, in a process of its own."""
    program = "import sys, trainables.privacy.loss_distribution; sys.exit('scipy.signal' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
