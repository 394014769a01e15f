"""Rows that all shards share (an error buffer): what they move, what noise they get, and that they are declared."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from trainables.coins import numpy_coins
from trainables.privacy.mechanism import Phase, ShardMechanism
from trainables.privacy.sanitizer import PrivacyViolation, Sanitizer

SHAPE = (3, 5)
CLIP, CARRIED = 0.7, 0.3
SHARE = CARRIED / (CLIP + CARRIED)
HOSTILE = [math.nan, math.inf, -math.inf, 1e30, -1e30]


def opened(carried=SHARE, noise_multiplier=0.0, shape=SHAPE, shards_per_step=2):
    mechanism = ShardMechanism(
        schedule="sampled",
        shards=10,
        shards_per_step=shards_per_step,
        release_shape=shape,
        noise_multiplier=noise_multiplier,
        carried=carried,
    )
    sanitizer = Sanitizer([Phase(mechanism=mechanism, steps=1)])
    sanitizer.open_step(0, 0)
    sanitizer.sample_shards()
    return sanitizer


def released(answers, carried, **options):
    sanitizer = opened(**options)
    return sanitizer.release_rows(answers, max_grad_norm=CLIP, carried=carried, carried_norm=CARRIED)


def batch(seed, *shape):
    """Rows of very different lengths."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator) * torch.exp(4 * torch.randn(*shape[:-1], 1, generator=generator))


def aligned(sign, *shape):
    """Rows far over the clip bound, all in one direction."""
    rows = torch.zeros(*shape)
    rows[..., 0] = sign * 1e6
    return rows


def test_the_buffer_is_added_once_however_many_shards_answer():
    answers, buffer = torch.full((2, *SHAPE), 1e-3), torch.full(SHAPE, 1e-2)
    torch.testing.assert_close(released(answers, buffer), answers.sum(dim=0) + buffer)


@pytest.mark.parametrize("seed", range(20))
def test_a_row_moves_by_the_declared_sensitivity(seed):
    """Whatever the neighbour does to the answer of a drawn shard and to the buffer."""
    answers, buffer = batch(seed, 2, *SHAPE), batch(seed + 1000, *SHAPE)
    other, other_buffer = answers.clone(), batch(seed + 2000, *SHAPE) if seed % 2 else -buffer
    other[1] = batch(seed + 3000, *SHAPE) if seed % 3 else -answers[1]
    rounding = 1e-6  # of the sums to float32
    drawn = (released(answers, buffer) - released(other, other_buffer)).norm(dim=1)
    assert float(drawn.max()) <= 2 * (CLIP + CARRIED) + rounding
    undrawn = (released(answers, buffer) - released(answers, other_buffer)).norm(dim=1)
    assert float(undrawn.max()) <= 2 * CARRIED + rounding


def test_the_declared_sensitivity_is_attained():
    answers, buffer = aligned(1, 2, *SHAPE), aligned(1, *SHAPE)
    other = answers.clone()
    other[1] *= -1
    drawn = (released(answers, buffer) - released(other, -buffer)).norm()
    assert float(drawn) == pytest.approx(2 * (CLIP + CARRIED) * math.sqrt(SHAPE[0]), rel=1e-5)
    undrawn = (released(answers, buffer) - released(answers, -buffer)).norm()
    assert float(undrawn) == pytest.approx(SHARE * float(drawn), rel=1e-5)


@pytest.mark.parametrize("value", HOSTILE)
def test_hostile_rows_of_a_buffer_cost_at_most_their_bound(value):
    answers, buffer = batch(0, 2, *SHAPE), batch(1, *SHAPE)
    without = buffer.clone()
    without[2] = 0
    buffer[2, 4] = value
    found, expected = released(answers, buffer), released(answers, without)
    assert torch.equal(found[:2], expected[:2])
    assert float((found[2] - expected[2]).norm()) == pytest.approx(CARRIED if math.isfinite(value) else 0, rel=1e-4)


def test_noise_is_in_units_of_both_bounds():
    shape = (400, 500)
    sanitizer = opened(noise_multiplier=1.5, shape=shape)
    zeros = torch.zeros(2, *shape)
    release = sanitizer.release_rows(zeros, max_grad_norm=CLIP, carried=zeros[0], carried_norm=CARRIED)
    noise = release.double().numpy().ravel() / (1.5 * 2 * (CLIP + CARRIED))
    law = stats.chi2(noise.size)
    assert law.ppf(5e-7) <= float(noise @ noise) <= law.isf(5e-7)
    assert not law.ppf(5e-7) <= 0.98**2 * float(noise @ noise) <= law.isf(5e-7)  # two percent less would be noticed


@pytest.mark.parametrize(
    ("declared", "options"),
    [
        (0.0, {"carried": torch.ones(SHAPE), "carried_norm": CARRIED}),  # an undeclared buffer
        (0.0, {"carried": torch.ones(SHAPE), "carried_norm": 1e-300}),
        (0.0, {"carried_norm": CARRIED}),  # more noise than declared, and no rows for it
        (SHARE, {}),  # a declared buffer that is not handed over
        (SHARE, {"carried_norm": CARRIED}),
        (SHARE, {"carried": torch.ones(SHAPE), "carried_norm": 1.001 * CARRIED}),  # another share of the sensitivity
        (SHARE, {"carried": torch.ones(SHAPE), "carried_norm": 0.999 * CARRIED}),
        (SHARE, {"carried": torch.ones(SHAPE), "carried_norm": 0.0}),  # bounds that are none
        (SHARE, {"carried": torch.ones(SHAPE), "carried_norm": -CARRIED}),
        (SHARE, {"carried": torch.ones(SHAPE), "carried_norm": math.nan}),
        (SHARE, {"carried": torch.ones(SHAPE), "carried_norm": math.inf}),
        (SHARE, {"carried": torch.ones(SHAPE), "carried_norm": torch.tensor(CARRIED)}),
        (SHARE, {"carried": torch.ones(SHAPE), "carried_norm": np.array(CARRIED)}),
        (SHARE, {"carried": torch.ones(2, *SHAPE), "carried_norm": CARRIED}),  # a buffer a shard
        (SHARE, {"carried": torch.ones(1, 5), "carried_norm": CARRIED}),  # would be broadcast
    ],
)
def test_what_is_not_declared_is_a_violation(declared, options):
    sanitizer = opened(carried=declared)
    with pytest.raises(PrivacyViolation):
        sanitizer.release_rows(torch.ones(2, *SHAPE), max_grad_norm=CLIP, **options)
    assert sanitizer.releases == [0]


def test_messages_name_both_shares():
    with pytest.raises(PrivacyViolation, match=r"would carry the share 0.5 .* shared_buffer_shards declares 0.3"):
        opened().release_rows(torch.ones(2, *SHAPE), max_grad_norm=CLIP, carried=torch.ones(SHAPE), carried_norm=CLIP)
    with pytest.raises(PrivacyViolation, match=r"carries no rows, .* shared_buffer_shards declares the share 0.3"):
        opened().release_rows(torch.ones(2, *SHAPE), max_grad_norm=CLIP)


def test_a_buffer_leads_back_to_no_private_model():
    buffer = torch.ones(SHAPE, requires_grad=True)
    assert not released(torch.ones(2, *SHAPE), buffer).requires_grad


def test_a_release_without_a_buffer_is_bit_equal_to_what_it_was():
    """Sums in float64, clipped at (1 - 1e-6) C, plus the injected noise times 2 C, rounded once."""
    answers = batch(0, 2, *SHAPE)
    mechanism = ShardMechanism(schedule="sampled", shards=10, shards_per_step=2, release_shape=SHAPE, noise_multiplier=1.5)
    found = []
    for noise in (mechanism, ShardMechanism(**{**vars(mechanism), "noise_multiplier": 0.0})):
        sanitizer = Sanitizer([Phase(mechanism=noise, steps=1)], injected_seed=0)
        sanitizer.open_step(0, 0)
        sanitizer.sample_shards()
        found.append(sanitizer.release_rows(answers, max_grad_norm=CLIP))
    rows = answers.double()
    bound = CLIP * (1 - 1e-6)
    clipped = (rows * (bound / rows.norm(dim=2, keepdim=True).clamp_min(bound))).sum(dim=0)
    assert torch.equal(found[1], clipped.float())
    noise = torch.from_numpy(numpy_coins(0, "injected noise", 0, 1).standard_normal(SHAPE))
    assert torch.equal(found[0], (clipped + noise * (1.5 * 2 * CLIP)).float())
