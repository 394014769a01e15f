"""Distributions of noise and draws, tested at a false-alarm rate of one in a million."""

import math
import os
import secrets

import numpy as np
import pytest
import torch
from scipy import stats

from trainables.privacy.mechanism import Phase, RecordMechanism, ShardMechanism
from trainables.privacy.sanitizer import Contribution, Sanitizer

ALARM = 1e-6
FAR = float(stats.norm.isf(ALARM / 2))
CLIP = 0.7
KEY = 47
"""Entropy whose first million normals reach 6.02 standard deviations, as one key in two hundred does."""


def inside(value, law):
    """Whether ``value`` is one that ``law`` would give, both tails together, but for a chance of ALARM."""
    return law.ppf(ALARM / 2) <= value <= law.isf(ALARM / 2)


def record_steps(steps, **fields):
    fields = {"sampling_rate": 1.0, "records": 3, "noise_multiplier": 1.5, **fields}
    return Sanitizer([Phase(mechanism=RecordMechanism(**fields), steps=steps)])


def release_records(sanitizer, step=0):
    sanitizer.open_step(step, 0)
    sanitizer.sample_records()
    release = sanitizer.release_records([], max_grad_norm=CLIP)
    sanitizer.close_step()
    return release


def noise_of(mode, shape, releases=1):
    """Pure noise of one step's releases, in units of the standard deviation declared."""
    fields = {"release_shape": shape, "noise_multiplier": 1.5, "releases_per_step": releases}
    if mode == "rows":
        mechanism = ShardMechanism(schedule="sampled", shards=5, shards_per_step=2, **fields)
    else:
        mechanism = RecordMechanism(sampling_rate=0.5, records=10, clipping=mode, **fields)
    sanitizer = Sanitizer([Phase(mechanism=mechanism, steps=1)])
    sanitizer.open_step(0, 0)
    if mode == "rows":
        sanitizer.sample_shards()
        answers = torch.zeros(2, *shape)
        found = [sanitizer.release_rows(answers, max_grad_norm=CLIP) for _ in range(releases)]
    elif mode == "per_record":
        sanitizer.sample_records()
        found = [sanitizer.release_records([], max_grad_norm=CLIP) for _ in range(releases)]
    else:
        sanitizer.sample_records()
        found = [sanitizer.release_tensor(torch.zeros(shape), max_grad_norm=CLIP) for _ in range(releases)]
    # std an entry / C for records; std / the sensitivity 2 C of one image's row for shards.
    unit = 1.5 * (2 * CLIP if mode == "rows" else CLIP)
    return [release.double().numpy().ravel() / unit for release in found]


@pytest.mark.parametrize("mode", ["rows", "per_record", "whole_tensor"])
def test_noise_is_the_declared_gaussian(mode):
    noise = np.concatenate(noise_of(mode, (400, 500), releases=3))
    count = noise.size
    assert inside(float(noise @ noise), stats.chi2(count))
    assert inside(float(noise.sum()), stats.norm(0, math.sqrt(count)))
    assert stats.kstest(noise, "norm").pvalue > ALARM
    # Fourth moment 3 and sixth 15; their variances are 96 and 10170 an entry.
    assert inside(float((noise**4).mean()), stats.norm(3, math.sqrt(96 / count)))
    assert inside(float((noise**6).mean()), stats.norm(15, math.sqrt(10170 / count)))
    for limit in (3, 4):
        assert inside(int((np.abs(noise) > limit).sum()), stats.binom(count, 2 * stats.norm.sf(limit)))


def test_a_violated_declaration_would_be_noticed():
    """The test above has teeth: one percent less noise fails it."""
    noise = np.concatenate(noise_of("rows", (400, 500), releases=3)) * 0.99
    assert not inside(float(noise @ noise), stats.chi2(noise.size))


def test_noise_is_independent_over_entries_calls_and_steps():
    calls = noise_of("rows", (400, 500), releases=3)
    sanitizer = record_steps(2, release_shape=(400, 500))
    steps = [release_records(sanitizer, step).double().numpy().ravel() / (1.5 * CLIP) for step in range(2)]
    pairs = [(calls[0], calls[1]), (calls[1], calls[2]), (calls[0], steps[0]), (steps[0], steps[1])]
    pairs += [(steps[0][:-lag], steps[0][lag:]) for lag in (1, 2, 500)]
    for one, other in pairs:
        correlation = float(one @ other) / math.sqrt(one.size)
        assert abs(correlation) < FAR
        squares = float((one**2 - 1) @ (other**2 - 1)) / (2 * math.sqrt(one.size))
        assert abs(squares) < FAR + 1  # products of chi-squares have longer tails than a normal law


def test_two_sanitizers_of_one_process_differ():
    one, other = (release_records(record_steps(1, release_shape=(50,))) for _ in range(2))
    assert not torch.isin(one, other).any()


def test_a_fork_draws_its_own_noise():
    sanitizer = record_steps(1, release_shape=(50,))
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, release_records(sanitizer).numpy().tobytes())
        os._exit(0)
    os.close(writing)
    theirs = os.read(reading, 4 * 50)
    os.waitpid(child, 0)
    os.close(reading)
    assert len(theirs) == 200
    assert not torch.isin(release_records(sanitizer), torch.from_numpy(np.frombuffer(theirs, dtype=np.float32).copy())).any()


def test_tails_reach_past_what_float32_generators_can(monkeypatch):
    """torch's float32 normals stop at 5.77 standard deviations."""
    monkeypatch.setattr(os, "urandom", lambda size: KEY.to_bytes(size, "big"))
    sanitizer = record_steps(1, release_shape=(1000, 1000))
    assert float(release_records(sanitizer).abs().max()) / (1.5 * CLIP) > 5.9


def test_noise_is_added_in_float64_and_rounded_once(monkeypatch):
    """A large sum and its noise: the float32 nearest to their exact sum, not the sum of two rounded numbers."""
    monkeypatch.setattr(os, "urandom", lambda size: KEY.to_bytes(size, "big"))
    exact = np.random.Generator(np.random.PCG64DXSM(KEY)).standard_normal((1000,)) * (1.5 * CLIP)
    rows = torch.full((3, 1000), CLIP / 40, dtype=torch.float64)
    sanitizer = record_steps(1, release_shape=(1000,))
    sanitizer.open_step(0, 0)
    sanitizer.sample_records()
    contribution = Contribution(norms=rows.norm(dim=1), weighted_sum=lambda weights: (weights[:, None] * rows).sum(0))
    release = sanitizer.release_records([contribution], max_grad_norm=CLIP)
    assert release.dtype == torch.float32
    assert release.numpy().tolist() == (rows.sum(0).numpy() + exact).astype(np.float32).tolist()


# --- draws --------------------------------------------------------------------------------------------------------------


def draws_of_records(steps, records, rate):
    sanitizer = record_steps(steps, records=records, sampling_rate=rate, release_shape=(1,))
    for step in range(steps):
        sanitizer.open_step(step, 0)
        yield sanitizer.sample_records()
        sanitizer.release_records([], max_grad_norm=CLIP)
        sanitizer.close_step()


@pytest.mark.parametrize("rate", [0.05, 0.3, 0.9])
def test_records_are_poisson_sampled(rate):
    """The number drawn has the variance of coin tosses (a fixed batch size has none), and every record its share."""
    steps, records = 2000, 500
    seen, sizes = np.zeros(records), []
    together = 0
    for drawn in draws_of_records(steps, records, rate):
        assert np.all(np.diff(drawn) > 0)
        seen[drawn] += 1
        sizes.append(len(drawn))
        together += int(np.isin([0, 1], drawn).all())
    variance = records * rate * (1 - rate)
    assert inside(sum(sizes), stats.binom(steps * records, rate))
    assert inside(float(((np.array(sizes) - records * rate) ** 2).sum() / variance), stats.chi2(steps))
    assert inside(float(((seen - steps * rate) ** 2).sum() / (steps * rate * (1 - rate))), stats.chi2(records))
    assert inside(together, stats.binom(steps, rate**2))
    successive = (np.array(sizes[:-1]) - records * rate) @ (np.array(sizes[1:]) - records * rate)
    assert abs(successive) / variance / math.sqrt(steps) < FAR


def test_empty_draws_happen_and_are_steps():
    steps, records = 3000, 50
    sizes = [len(drawn) for drawn in draws_of_records(steps, records, 1 / records)]
    assert len(sizes) == steps
    assert inside(sizes.count(0), stats.binom(steps, (1 - 1 / records) ** records))


def test_sampling_rate_one_is_everybody():
    assert [drawn.tolist() for drawn in draws_of_records(3, 7, 1.0)] == [list(range(7))] * 3


def test_a_tiny_rate_is_no_zero():
    drawn = sum(len(found) for found in draws_of_records(20, 10**6, 1e-5))
    assert inside(drawn, stats.binom(20 * 10**6, 1e-5))


@pytest.mark.parametrize("schedule", ["sampled", "persistent"])
@pytest.mark.parametrize("count", [1, 3])
def test_shards_are_drawn_uniformly_and_afresh(schedule, count):
    shards, steps = 12, 4000
    mechanism = ShardMechanism(
        schedule=schedule, shards=shards, shards_per_step=count, release_shape=(1,), noise_multiplier=1.0
    )
    sanitizer = Sanitizer([Phase(mechanism=mechanism, steps=steps)])
    seen, pairs, repeated, last = np.zeros(shards), 0, 0, None
    for step in range(steps):
        sanitizer.open_step(step, 0)
        drawn = sanitizer.sample_shards()
        sanitizer.release_rows(torch.zeros(count, 1), max_grad_norm=CLIP)
        sanitizer.close_step()
        assert len(set(drawn.tolist())) == count
        seen[drawn] += 1
        pairs += int(np.isin([0, 1], drawn).all())
        repeated += int(last is not None and np.isin(last, drawn).sum())
        last = drawn
    rate = count / shards
    # The counts of a step sum to m, so their squares have K - 1 degrees of freedom at a variance K / (K - 1) times smaller.
    squares = ((seen - steps * rate) ** 2).sum() / (steps * rate * (1 - rate)) * (shards - 1) / shards
    assert inside(float(squares), stats.chi2(shards - 1))
    assert pairs == 0 if count == 1 else inside(pairs, stats.binom(steps, rate * (count - 1) / (shards - 1)))
    overlap = stats.hypergeom(shards, count, count)
    expected, spread = (steps - 1) * overlap.mean(), math.sqrt((steps - 1) * overlap.var())
    assert abs(repeated - expected) < FAR * spread


def test_shards_come_from_the_operating_system(monkeypatch):
    """Secret draws ask ``secrets``: a generator that is seeded has no part in them."""
    asked = []

    class Watched(secrets.SystemRandom):
        def random(self):
            asked.append("random")
            return super().random()

        def getrandbits(self, bits):
            asked.append(bits)
            return super().getrandbits(bits)

    monkeypatch.setattr(secrets, "SystemRandom", Watched)
    mechanism = ShardMechanism(schedule="sampled", shards=12, shards_per_step=2, release_shape=(1,), noise_multiplier=1.0)
    sanitizer = Sanitizer([Phase(mechanism=mechanism, steps=1)])
    sanitizer.open_step(0, 0)
    sanitizer.sample_shards()
    assert asked
