"""The account of an error buffer that all shards share (Ma & Zhang 2026), and what the published one claims for it."""

import math

import numpy as np
import pytest
from scipy import optimize, stats

from trainables.privacy.accounting import (
    InfeasibleBudget,
    calibrate,
    composed_epsilon,
    epsilon,
    epsilon_curve,
    published_epsilon,
    published_factor,
)
from trainables.privacy.mechanism import scale_noise
from trainables.privacy.profiles import RevealedDraws, gaussian_hockey_stick

DELTA = 1e-5


def spent(*phases, accountant="pld", delta=DELTA):
    return epsilon(phases, delta=delta, accountant=accountant)


def recomputed(count, per_step, steps, noise, carried, delta=DELTA):
    """Epsilon from the definition: delta is the mean over all n of the Gaussian profile, by scipy's own distributions."""
    n = np.arange(steps + 1)
    weights = stats.binom.pmf(n, steps, per_step / count)
    mu = np.sqrt(n + (steps - n) * carried**2) / noise

    def excess(loss):
        return (
            float(weights @ (stats.norm.sf(loss / mu - mu / 2) - np.exp(loss + stats.norm.logsf(loss / mu + mu / 2)))) - delta
        )

    return optimize.brentq(excess, 0, 1e4, xtol=1e-10)


@pytest.mark.parametrize(
    ("count", "per_step", "steps", "noise", "carried"),
    [(10, 1, 50, 2.0, 0.5), (100, 7, 300, 4.0, 0.1), (1000, 1, 2000, 10.0, 0.5), (50, 49, 100, 3.0, 0.9), (3, 1, 1, 0.7, 0.2)],
)
def test_the_account_is_the_mean_over_the_draws(shards, count, per_step, steps, noise, carried):
    phase = shards(count, steps, noise, shards_per_step=per_step, carried=carried)
    assert spent(phase) == pytest.approx(recomputed(count, per_step, steps, noise, carried), rel=1e-8)


@pytest.mark.parametrize(("ratio", "mu_alone", "found"), [(1.0, 863.3, 377637), (0.1, 136.5, 11796)])
def test_the_papers_feedback_at_its_printed_noise(shards, ratio, mu_alone, found):
    """std = sigma C1 sqrt(1 + 2 r): T releases of 2 C2 a row alone cost mu_alone; the drawn steps come on top."""
    std = 1.07 * math.sqrt(1 + 2 * ratio)
    assert math.sqrt(20000 * 32) * 2 * ratio / std == pytest.approx(mu_alone, rel=1e-3)
    phase = shards(1000, 20000, std / (2 * (1 + ratio)), release_shape=(32, 4), carried=ratio / (1 + ratio))
    carried_alone = spent(shards(1, 1, 1 / mu_alone))
    assert carried_alone < spent(phase) < 1.25 * carried_alone
    assert spent(phase) == pytest.approx(found, rel=1e-3)
    assert spent(phase) < spent(phase, accountant="rdp") < math.inf


@pytest.mark.parametrize("accountant", ["pld", "rdp"])
def test_it_grows_with_what_is_carried_from_revealed_draws_to_plain_releases(shards, accountant):
    found = [
        spent(shards(1000, 2000, 20.0, carried=share), accountant=accountant) for share in (1e-9, 0.01, 0.1, 0.5, 0.999999)
    ]
    assert found == sorted(found)
    revealed = spent(shards(1000, 2000, 20.0, schedule="persistent"), accountant=accountant)
    assert found[0] == pytest.approx(revealed, rel=1e-6)
    everything = spent(shards(1000, 2000, 20.0, shards_per_step=1000), accountant=accountant)
    assert found[-1] == pytest.approx(everything, rel=1e-4)


@pytest.mark.parametrize("accountant", ["pld", "rdp"])
def test_with_every_shard_in_every_step_nothing_is_left_to_carry(shards, accountant):
    whole, carried = (shards(10, 100, 15.0, shards_per_step=10, carried=share) for share in (0.0, 0.5))
    assert spent(carried, accountant=accountant) == spent(whole, accountant=accountant)


def test_a_profile_without_carrying_is_the_one_of_revealed_draws():
    losses = np.linspace(0, 20, 50)
    counts = np.arange(201)
    exact = sum(
        weight * gaussian_hockey_stick(losses, 1.0 / math.sqrt(count)) for count, weight in
        zip(counts[1:], stats.binom.pmf(counts[1:], 200, 0.05), strict=True)
    )  # fmt: skip
    np.testing.assert_allclose(RevealedDraws(0.05, 1.0, 200).forward(losses), exact, rtol=1e-9, atol=1e-18)


@pytest.mark.parametrize("accountant", ["pld", "rdp"])
def test_phases_and_trials_add_up(shards, accountant):
    half, whole = shards(100, 250, 30.0, carried=0.5), shards(100, 500, 30.0, carried=0.5)
    assert spent(half, half, accountant=accountant) == pytest.approx(spent(whole, accountant=accountant), rel=1e-12)
    trials = composed_epsilon([([half], 2), ([whole], 3)], delta=DELTA, accountant=accountant)
    assert trials == pytest.approx(spent(shards(100, 2000, 30.0, carried=0.5), accountant=accountant), rel=1e-12)
    # Beside another share, and beside amplified shards, which need the grid.
    other, sampled = shards(100, 250, 30.0, carried=0.25), shards(100, 500, 1.0)
    for more in (other, sampled):
        both = spent(half, more, accountant=accountant)
        assert max(spent(half, accountant=accountant), spent(more, accountant=accountant)) < both
        assert both < spent(half, accountant=accountant, delta=DELTA / 2) + spent(more, accountant=accountant, delta=DELTA / 2)


def test_a_curve_grows_to_the_whole(shards):
    phase = shards(100, 500, 30.0, carried=0.5)
    curve = epsilon_curve([phase], [[100], [300], [500]], delta=DELTA, accountant="pld")
    assert curve == sorted(curve)
    assert curve[-1] == spent(phase)


@pytest.mark.parametrize("ratio", [0.1, 1.0])
def test_noise_that_makes_it_true(shards, ratio):
    """The paper's method at a proven epsilon of 10, K 1000, T 20000: hundreds of times the printed noise."""
    share = ratio / (1 + ratio)
    phase = shards(1000, 20000, 1.0, release_shape=(32, 4), carried=share)
    factor = calibrate([phase], target_epsilon=10, delta=DELTA, accountant="pld")
    effective = factor / math.sqrt(32)
    assert recomputed(1000, 1, 20000, effective, share) == pytest.approx(10, rel=1e-3)
    assert factor > math.sqrt(20000 * 32) * share / 2.0004456  # what the undrawn steps alone need


@pytest.mark.parametrize("noise", [1e-1, 1e-2, 1e-4, 1e-9])
@pytest.mark.parametrize("accountant", ["pld", "rdp"])
def test_next_to_no_noise_has_a_number_all_the_same(shards, noise, accountant):
    """At least the divergence of the releases that the buffer makes alone, mu^2 / 2, whatever else they compose with."""
    phases = [shards(1000, 2000, noise * factor, carried=0.5) for factor in (1, 2)]
    least = sum(2000 * (0.5 / (noise * factor)) ** 2 / 2 for factor in (1, 2))
    assert least / 1.25 < spent(phases[0], accountant=accountant) < math.inf
    assert least < spent(*phases, accountant=accountant) < math.inf
    assert spent(shards(1000, 2000, noise), accountant=accountant) < math.inf


# --- what is published ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "golden"), [(1000, 1.07), (2543, 0.6114)])
@pytest.mark.parametrize("releases", [1, 2, 3])
def test_the_published_noise(shards, count, golden, releases):
    """GS-WGAN's settings and DPAC's CelebA; one release a step is counted however many are made."""
    phase = shards(count, 20000, 1.0, release_shape=(32, 4), schedule="persistent", releases_per_step=releases)
    factor = published_factor([phase], target_epsilon=10, delta=DELTA)
    assert factor == pytest.approx(golden, rel=1e-3)
    assert factor == round(factor, 4)
    assert published_epsilon(scale_noise([phase], factor), delta=DELTA) <= 10
    assert published_epsilon(scale_noise([phase], factor - 1e-4), delta=DELTA) > 10
    assert spent(*scale_noise([phase], factor)) > 600


@pytest.mark.parametrize("ratio", [0.1, 1.0, 10.0])
def test_the_printed_noise_of_the_feedback(shards, ratio):
    """std = sigma C1 sqrt(1 + 2 r), which is believed to be worth sigma."""
    noise = 1.07 * math.sqrt(1 + 2 * ratio) / (2 * (1 + ratio))
    phase = shards(1000, 20000, noise, release_shape=(32, 4), carried=ratio / (1 + ratio))
    assert published_epsilon([phase], delta=DELTA) == pytest.approx(9.992624296723676, rel=1e-6)
    assert published_factor(scale_noise([phase], 1 / noise), target_epsilon=10, delta=DELTA) == pytest.approx(noise, rel=1e-3)


def test_the_published_accounting_is_of_shards(shards, records):
    for phases in ([records(0.05, 200, 1.0)], [shards(10, 1, 1.0), records(1.0, 200, 1.0)]):
        with pytest.raises(ValueError, match=f"that of critics on shards; {phases[-1].mechanism.kind} has no shards"):
            published_factor(phases, target_epsilon=10, delta=DELTA)
    with pytest.raises(ValueError, match="no phases"):
        published_factor([], target_epsilon=10, delta=DELTA)
    with pytest.raises(InfeasibleBudget, match=r"the target epsilon is 0\.0"):
        published_factor([shards(10, 1, 1.0)], target_epsilon=0.0, delta=DELTA)
    with pytest.raises(InfeasibleBudget, match="out of reach"):  # its orders end at 2048
        published_factor([shards(1000, 20000, 1.0, release_shape=(32, 4))], target_epsilon=0.005, delta=DELTA)
