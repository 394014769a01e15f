"""One step: the profiles lie over what numerically integrated mechanisms do, and touch it where they claim to be attained."""

import math

import numpy as np
import pytest
from scipy import stats

from trainables.privacy.loss_distribution import discretise, grid_width, largest_loss
from trainables.privacy.profiles import (
    AddedUnit,
    Gaussian,
    ReplacedRecord,
    ReplacedUnit,
    RevealedDraws,
    gaussian_hockey_stick,
)

RATES = (0.001, 0.05, 0.3, 0.9)
NOISES = (0.2, 0.6, 1.1, 5.0)


def mixture(weights, centres, x, noise):
    """Density over the grid ``x [n, d]`` of a mixture of Gaussians of standard deviation ``noise``."""
    squares = ((x[:, None, :] - np.asarray(centres)[None]) ** 2).sum(axis=2)
    return np.exp(-squares / (2 * noise**2)) @ np.asarray(weights) / (2 * math.pi * noise**2) ** (x.shape[1] / 2)


def hockey_sticks(p, q, losses, cell):
    """Sums over a grid; the kink costs up to 3e-7, which the comparisons allow."""
    return np.array([np.maximum(p - math.exp(loss) * q, 0).sum() * cell for loss in losses])


def line(noise, cells=40001):
    x = np.linspace(-3 - 9 * noise, 3 + 9 * noise, cells)
    return x[:, None], x[1] - x[0]


def plane(noise, cells=301):
    side = np.linspace(-2 - 6 * noise, 2 + 6 * noise, cells)
    x, y = np.meshgrid(side, side)
    return np.stack([x.ravel(), y.ravel()], axis=1), (side[1] - side[0]) ** 2


def losses_of(profile):
    return np.concatenate([[0.0], np.geomspace(1e-4, 1, 12) * min(largest_loss(profile), 30)])


def ball(rng, dimensions):
    """A point of the unit ball, often on its surface."""
    point = rng.normal(size=dimensions)
    return point / np.linalg.norm(point) * rng.choice([1.0, rng.random()])


def random_step(rng, dimensions):
    """(P, Q) as (weights, centres): other records' sums at random inclusion, and a record of norm <= 1 replaced by another."""
    others = rng.normal(size=(3, dimensions)) * rng.choice([0, 0.1, 1])
    inclusion = rng.dirichlet(np.ones(3))
    first, second = ball(rng, dimensions), ball(rng, dimensions)
    rate = float(rng.choice(RATES))

    def law(record):
        weights = np.concatenate([(1 - rate) * inclusion, rate * inclusion])
        return weights, np.concatenate([others, others + record])

    return rate, law(first), law(second)


@pytest.mark.parametrize("seed", range(60))
def test_replacing_a_record_never_exceeds_the_profile(seed):
    rng = np.random.default_rng(seed)
    noise, dimensions = float(rng.choice(NOISES)), 1 + seed % 2
    rate, p, q = random_step(rng, dimensions)
    x, cell = line(noise) if dimensions == 1 else plane(noise)
    profile = ReplacedRecord(rate, noise)
    losses = losses_of(profile)
    bound = profile.forward(losses)
    for one, other in ((p, q), (q, p)):
        assert np.all(hockey_sticks(mixture(*one, x, noise), mixture(*other, x, noise), losses, cell) <= bound + 3e-7)


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("rate", RATES)
def test_two_records_that_pull_apart_attain_the_profile(rate, noise):
    x, cell = line(noise)
    p, q = (mixture([1 - rate, rate], [[0.0], [pull]], x, noise) for pull in (1.0, -1.0))
    profile = ReplacedRecord(rate, noise)
    losses = losses_of(profile)
    np.testing.assert_allclose(profile.forward(losses), hockey_sticks(p, q, losses, cell), atol=3e-7)


@pytest.mark.parametrize("seed", range(60))
def test_replacing_a_shard_never_exceeds_the_profile(seed):
    """Answers of all shards, and of the replaced one, lie in a ball of radius 1: pairwise within 2."""
    rng = np.random.default_rng(seed)
    noise, dimensions = float(rng.choice(NOISES)), 1 + seed % 2
    count = int(rng.choice([2, 3, 20]))
    answers = np.array([ball(rng, dimensions) for _ in range(count)])
    if seed % 3 == 0:
        answers[1:] = -answers[0]  # everybody else as far away as possible
    replaced = answers.copy()
    replaced[0] = -answers[0] if seed % 4 == 0 else ball(rng, dimensions)
    x, cell = line(noise) if dimensions == 1 else plane(noise)
    profile = ReplacedUnit(1 / count, noise / 2)
    losses = losses_of(profile)
    bound = profile.forward(losses)
    for one, other in ((answers, replaced), (replaced, answers)):
        p, q = (mixture(np.full(count, 1 / count), centres, x, noise) for centres in (one, other))
        assert np.all(hockey_sticks(p, q, losses, cell) <= bound + 3e-7)


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("rate", RATES)
def test_a_shard_unlike_all_others_attains_the_profile(rate, noise):
    x, cell = line(noise)
    p, q = mixture([1 - rate, rate], [[-1.0], [1.0]], x, noise), mixture([1.0], [[-1.0]], x, noise)
    profile = ReplacedUnit(rate, noise / 2)
    losses = losses_of(profile)
    np.testing.assert_allclose(profile.forward(losses), hockey_sticks(p, q, losses, cell), atol=3e-7)


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("rate", RATES)
def test_adding_and_removing_a_record_are_exact(rate, noise):
    x, cell = line(noise)
    p, q = mixture([1 - rate, rate], [[0.0], [1.0]], x, noise), mixture([1.0], [[0.0]], x, noise)
    removed, added = AddedUnit(rate, noise, removed=True), AddedUnit(rate, noise, removed=False)
    losses = losses_of(removed)
    for profile, forward, backward in ((removed, (p, q), (q, p)), (added, (q, p), (p, q))):
        np.testing.assert_allclose(profile.forward(losses), hockey_sticks(*forward, losses, cell), atol=3e-7)
        np.testing.assert_allclose(profile.backward(losses), hockey_sticks(*backward, losses, cell), atol=3e-7)


def joint_convexity(rate, noise, losses):
    """The looser bound that advanced joint convexity gives for a replaced record, q [(1-b) H(P1, R) + b H(P1, Q1)]."""
    inner = np.log1p(np.expm1(losses) / rate)
    share = np.exp(losses - inner)
    return rate * ((1 - share) * gaussian_hockey_stick(inner, noise) + share * gaussian_hockey_stick(inner, noise / 2))


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("rate", RATES)
def test_the_profiles_are_ordered(rate, noise):
    """One direction of add/remove <= a replaced record <= joint convexity <= distance 2 C throughout."""
    losses = losses_of(ReplacedUnit(rate, noise / 2))
    added = AddedUnit(rate, noise, removed=True).forward(losses)
    record = ReplacedRecord(rate, noise).forward(losses)
    convexity = joint_convexity(rate, noise, losses)
    unit = ReplacedUnit(rate, noise / 2).forward(losses)
    assert np.all(added <= record + 1e-15)
    assert np.all(record <= convexity + 1e-15)
    assert np.all(convexity <= unit + 1e-15)
    assert np.any(record < 0.99 * convexity)


@pytest.mark.parametrize("noise", [0.05, 0.4, 3.0, 100.0, 1e4])
@pytest.mark.parametrize("rate", [1e-4, 0.05, 0.5, 0.999])
def test_profiles_are_convex_on_the_grid(rate, noise):
    """``discretise`` raises where they are not; the masses must add up too."""
    for profile in (
        ReplacedUnit(rate, noise),
        ReplacedRecord(rate, noise),
        AddedUnit(rate, noise, removed=True),
        AddedUnit(rate, noise, removed=False),
    ):
        losses = discretise(profile, grid_width({profile: 100}))
        assert losses.mass.min() >= 0
        assert losses.mass.sum() + losses.infinite == pytest.approx(1, abs=1e-9)


def test_a_gaussian_release_is_exact():
    for noise in (0.05, 0.5, 2.0, 300.0):
        for loss in (0.0, 0.3, 5.0):
            exact = stats.norm.cdf(1 / (2 * noise) - loss * noise) - math.exp(loss) * stats.norm.cdf(
                -1 / (2 * noise) - loss * noise
            )
            assert gaussian_hockey_stick(np.array(loss), noise) == pytest.approx(exact, rel=1e-9, abs=1e-15)


def test_revealed_draws_sum_the_whole_binomial():
    rate, noise, steps = 0.3, 2.0, 1000
    losses = np.array([0.5, 10.0, 60.0, 200.0])
    counts = np.arange(1, steps + 1)
    exact = [
        sum(stats.binom.pmf(n, steps, rate) * Gaussian(noise / math.sqrt(n)).forward(np.array(loss)) for n in counts)
        for loss in losses
    ]
    np.testing.assert_allclose(RevealedDraws(rate, noise, steps).forward(losses), exact, rtol=1e-9, atol=1e-18)
