"""What the sanitizer promises, each promise with a test that fails when it is broken."""

import json
import math
import random

import numpy as np
import pytest
import torch

from trainables.privacy.mechanism import Phase, RecordMechanism, ShardMechanism
from trainables.privacy.sanitizer import Contribution, PrivacyViolation, Sanitizer, clip_weights

SHAPE = (3, 5)
CLIP = 0.7
HOSTILE = [math.nan, math.inf, -math.inf, 1e30, -1e30]


def record_mechanism(**fields):
    fields = {"sampling_rate": 1.0, "records": 8, "release_shape": SHAPE, "noise_multiplier": 0.0, **fields}
    return RecordMechanism(**fields)


def shard_mechanism(**fields):
    fields = {"schedule": "sampled", "shards": 10, "shards_per_step": 2, "noise_multiplier": 0.0, **fields}
    return ShardMechanism(release_shape=SHAPE, **fields)


def opened(mechanism, steps=10, draw=True, **options):
    """A sanitizer in step 0, units drawn."""
    if isinstance(mechanism, ShardMechanism) and mechanism.schedule == "round_robin":
        options.setdefault("executed", [0])
    sanitizer = Sanitizer([Phase(mechanism=mechanism, steps=steps)], **options)
    sanitizer.open_step(0, 0)
    if draw:
        sanitizer.sample_records() if isinstance(mechanism, RecordMechanism) else sanitizer.sample_shards()
    return sanitizer


def contribution(rows):
    """Explicit rows ``[n, *SHAPE]``; those that are not finite are left out of the sum, as the contract asks."""

    def weighted_sum(weights):
        kept = torch.where(torch.isfinite(rows), rows, 0.0)
        return (weights.reshape(-1, 1, 1) * kept).sum(dim=0)

    return Contribution(norms=rows.flatten(1).norm(dim=1), weighted_sum=weighted_sum)


def summed(rows, batch=3):
    """The release of records ``rows [n, *SHAPE]`` without noise, in micro-batches."""
    sanitizer = opened(record_mechanism(records=len(rows)))
    return sanitizer.release_records((contribution(part) for part in rows.split(batch)), max_grad_norm=CLIP)


def as_a_whole(tensor):
    return opened(record_mechanism(clipping="whole_tensor")).release_tensor(tensor, max_grad_norm=CLIP)


def answered(answers):
    return opened(shard_mechanism(shards_per_step=len(answers))).release_rows(answers, max_grad_norm=CLIP)


def batch(seed, *shape, dtype=torch.float32):
    """Rows of very different lengths."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(*shape, generator=generator, dtype=torch.float64)
    return (rows * torch.exp(4 * torch.randn(shape[0], *[1] * (len(shape) - 1), generator=generator))).to(dtype)


def aligned(sign, *shape):
    """Rows at the clip bound, all in one direction: the worst neighbours of their opposites."""
    rows = torch.zeros(*shape)
    rows[..., 0] = sign * 1e6
    return rows


# --- sensitivity ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("seed", range(20))
def test_a_record_moves_the_sum_by_its_clip_bound(seed, dtype):
    rows = batch(seed, 8, *SHAPE, dtype=dtype)
    other = rows.clone()
    other[3] = batch(seed + 1000, 1, *SHAPE, dtype=dtype)[0] if seed % 2 else -rows[3]
    present, replaced, absent = summed(rows), summed(other), summed(torch.cat([rows[:3], rows[4:]]))
    rounding = 1e-6  # of the sums to float32
    assert float((present - absent).norm()) <= CLIP + rounding
    assert float((present - replaced).norm()) <= 2 * CLIP + rounding


def test_the_bounds_of_a_record_are_attained():
    rows = aligned(1, 8, *SHAPE)
    other = rows.clone()
    other[3] *= -1
    assert float((summed(rows) - summed(other)).norm()) == pytest.approx(2 * CLIP, rel=1e-5)
    assert float((summed(rows) - summed(rows[1:])).norm()) == pytest.approx(CLIP, rel=1e-5)


@pytest.mark.parametrize("seed", range(20))
def test_a_whole_tensor_moves_by_twice_the_clip_bound(seed):
    one, other = batch(seed, *SHAPE), batch(seed + 1000, *SHAPE)
    assert float(as_a_whole(one).norm()) <= CLIP
    assert float((as_a_whole(one) - as_a_whole(other)).norm()) <= 2 * CLIP
    assert float((as_a_whole(one * 1e3) - as_a_whole(-one * 1e3)).norm()) == pytest.approx(2 * CLIP, rel=1e-5)


@pytest.mark.parametrize("seed", range(20))
def test_a_shard_moves_every_row_by_twice_the_clip_bound(seed):
    """Also where the replaced shard is another one of the sum: the answers are clipped one by one."""
    answers = batch(seed, 4, *SHAPE)
    other = answers.clone()
    other[2] = batch(seed + 1000, *SHAPE) if seed % 2 else -answers[2]
    moved = (answered(answers) - answered(other)).norm(dim=1)
    assert float(moved.max()) <= 2 * CLIP + 1e-6
    assert float(moved.norm()) <= 2 * CLIP * math.sqrt(SHAPE[0]) + 1e-6
    worst = (answered(aligned(1, 1, *SHAPE)) - answered(aligned(-1, 1, *SHAPE))).norm()
    assert float(worst) == pytest.approx(2 * CLIP * math.sqrt(SHAPE[0]), rel=1e-5)


def test_what_is_short_is_not_touched():
    rows = torch.full((8, *SHAPE), 1e-3)
    torch.testing.assert_close(summed(rows), rows.sum(dim=0))
    torch.testing.assert_close(as_a_whole(rows[0]), rows[0])
    torch.testing.assert_close(answered(rows[:2]), rows[:2].sum(dim=0))
    assert torch.equal(summed(torch.zeros(8, *SHAPE)), torch.zeros(SHAPE))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_clipped_norms_stay_under_the_bound(dtype):
    """Rounding included: a float32 norm may overshoot by 1.6e-7."""
    rows = batch(0, 20000, 64, dtype=dtype)
    norms = rows.norm(dim=1)
    clipped = rows * clip_weights(norms, CLIP)[:, None]
    assert float(clipped.double().norm(dim=1).max()) <= CLIP
    assert torch.equal(clip_weights(norms, CLIP) == 1, norms <= CLIP * (1 - 1e-6))


# --- values that are no numbers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", HOSTILE)
@pytest.mark.parametrize("whole", [True, False])
def test_hostile_records_cost_at_most_their_bound(value, whole):
    rows = batch(0, 8, *SHAPE)
    absent = summed(torch.cat([rows[:3], rows[4:]]))
    if whole:
        rows[3] = value
    else:
        rows[3, 0, 0] = value
    present = summed(rows)
    assert torch.isfinite(present).all()
    assert float((present - absent).norm()) <= CLIP + 1e-6
    if not math.isfinite(value):
        torch.testing.assert_close(present, absent)


@pytest.mark.parametrize("value", HOSTILE)
def test_hostile_rows_and_tensors_cost_at_most_their_bound(value):
    answers = batch(0, 2, *SHAPE)
    without = answers.clone()
    without[1, 2] = 0
    answers[1, 2, 4] = value
    found = answered(answers)
    assert torch.isfinite(found).all()
    assert torch.equal(found[:2], answered(without)[:2])
    assert float((found[2] - answered(without)[2]).norm()) <= CLIP + 1e-6
    if not math.isfinite(value):
        assert torch.equal(found, answered(without))
        assert torch.equal(as_a_whole(answers[1]), torch.zeros(SHAPE))
    else:  # its square overflows float32, yet it is a direction like any other
        assert float((found[2] - answered(without)[2]).norm()) == pytest.approx(CLIP, rel=1e-5)
    assert float(as_a_whole(answers[1]).norm()) <= CLIP


def test_a_sum_that_lets_infinity_in_ends_the_trial():
    """weighted_sum multiplied 0 x inf: its other numbers cannot be believed either, and no noise is drawn."""
    rows = torch.ones(8, *SHAPE)
    rows[0] = math.inf
    poisoned = Contribution(
        norms=rows.flatten(1).norm(dim=1), weighted_sum=lambda weights: (weights[:, None, None] * rows).sum(0)
    )
    sanitizer = opened(record_mechanism())
    with pytest.raises(PrivacyViolation, match="not finite"):
        sanitizer.release_records([poisoned], max_grad_norm=CLIP)
    assert sanitizer.releases == [0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_coarse_norms_and_sums_are_refused(dtype):
    rows = torch.ones(8, *SHAPE)
    norms, total = rows.flatten(1).norm(dim=1), rows.sum(0)
    for poor in (Contribution(norms.to(dtype), lambda _: total), Contribution(norms, lambda _: total.to(dtype))):
        with pytest.raises(PrivacyViolation, match="too coarse"):
            opened(record_mechanism()).release_records([poor], max_grad_norm=CLIP)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_answers_of_any_precision_are_clipped_in_float64(dtype):
    answers = batch(0, 2, *SHAPE).clamp(-1e3, 1e3).to(dtype)
    found = answered(answers)
    assert found.dtype == torch.float32
    assert torch.equal(found, answered(answers.double()))


@pytest.mark.parametrize("bound", [0.0, -1.0, math.nan, math.inf, torch.tensor(1.0), np.array(1.0)])
def test_a_clip_bound_is_a_public_positive_number(bound):
    with pytest.raises(PrivacyViolation, match="max_grad_norm"):
        opened(shard_mechanism()).release_rows(torch.ones(2, *SHAPE), max_grad_norm=bound)
    with pytest.raises(PrivacyViolation, match="max_grad_norm"):
        opened(record_mechanism()).release_records([contribution(torch.ones(8, *SHAPE))], max_grad_norm=bound)


def test_nothing_released_leads_back_to_private_models():
    """Otherwise a backward pass of the generator's loss would walk around the noise."""
    rows = torch.ones(8, *SHAPE, requires_grad=True)
    assert not summed(rows).requires_grad
    assert not as_a_whole(rows[0]).requires_grad
    assert not answered(rows[:2]).requires_grad


# --- counts ---------------------------------------------------------------------------------------------------------------


def test_releases_are_counted_a_phase():
    phases = [Phase(mechanism=shard_mechanism(releases_per_step=2), steps=3), Phase(mechanism=record_mechanism(), steps=2)]
    sanitizer = Sanitizer(phases)
    for step in range(3):
        sanitizer.open_step(step, 0)
        sanitizer.sample_shards()
        for _ in range(2):
            sanitizer.release_rows(torch.ones(2, *SHAPE), max_grad_norm=CLIP)
        sanitizer.close_step()
    for step in (3, 4):
        sanitizer.open_step(step, 1)
        sanitizer.sample_records()
        sanitizer.release_records([], max_grad_norm=CLIP)
        sanitizer.close_step()
    assert sanitizer.releases == [6, 2]


def release_once(sanitizer):
    return sanitizer.release_rows(torch.ones(2, *SHAPE), max_grad_norm=CLIP)


def test_one_release_more_or_less_is_a_violation():
    sanitizer = opened(shard_mechanism())
    release_once(sanitizer)
    with pytest.raises(PrivacyViolation, match="release 2 in step 0; sampled_shards declares 1"):
        release_once(sanitizer)
    assert sanitizer.releases == [1]
    with pytest.raises(PrivacyViolation, match="made 0 releases; sampled_shards declares 1"):
        opened(shard_mechanism()).close_step()


@pytest.mark.parametrize("shape", [(1, *SHAPE), (3, *SHAPE), (2, 2, 5), (2, 3, 6), (2, 15), SHAPE])
def test_another_shape_of_answers_is_a_violation(shape):
    with pytest.raises(PrivacyViolation, match="would release shape"):
        opened(shard_mechanism()).release_rows(torch.ones(shape), max_grad_norm=CLIP)


def test_another_shape_of_a_tensor_or_sum_is_a_violation():
    with pytest.raises(PrivacyViolation, match="would release shape"):
        opened(record_mechanism(clipping="whole_tensor")).release_tensor(torch.ones(5, 3), max_grad_norm=CLIP)
    broadcast = Contribution(torch.ones(1), lambda weights: torch.ones(1, 5))
    with pytest.raises(PrivacyViolation, match="would release shape"):
        opened(record_mechanism()).release_records([broadcast], max_grad_norm=CLIP)


def test_records_that_were_not_drawn_are_a_violation():
    """All records, though a tenth was drawn: the amplification by sampling would be a fiction."""
    sanitizer = opened(record_mechanism(sampling_rate=0.1, records=1000), draw=False)
    drawn = sanitizer.sample_records()
    assert len(drawn) < 1000
    with pytest.raises(PrivacyViolation, match="more records than it drew"):
        sanitizer.release_records([contribution(torch.ones(1000, *SHAPE))], max_grad_norm=CLIP)
    sanitizer.release_records([contribution(torch.ones(len(drawn), *SHAPE))], max_grad_norm=CLIP)


def test_a_release_needs_a_draw_and_a_step_has_one():
    for mechanism in (shard_mechanism(), shard_mechanism(schedule="round_robin"), shard_mechanism(schedule="persistent")):
        with pytest.raises(PrivacyViolation, match="no draw"):
            release_once(opened(mechanism, draw=False))
        with pytest.raises(PrivacyViolation, match="second draw"):
            opened(mechanism).sample_shards()
    with pytest.raises(PrivacyViolation, match="no draw"):
        opened(record_mechanism(), draw=False).release_records([], max_grad_norm=CLIP)
    with pytest.raises(PrivacyViolation, match="second draw"):
        opened(record_mechanism(sampling_rate=0.5)).sample_records()
    whole = opened(record_mechanism(clipping="whole_tensor"), draw=False)
    with pytest.raises(PrivacyViolation, match="no draw"):
        whole.release_tensor(torch.ones(SHAPE), max_grad_norm=CLIP)


def test_calls_that_the_mechanism_does_not_have_are_violations():
    rows, tensor = torch.ones(2, *SHAPE), torch.ones(SHAPE)
    wrong = [
        (shard_mechanism(), lambda s: s.sample_records()),
        (shard_mechanism(), lambda s: s.release_records([], max_grad_norm=CLIP)),
        (shard_mechanism(), lambda s: s.release_tensor(tensor, max_grad_norm=CLIP)),
        (record_mechanism(), lambda s: s.sample_shards()),
        (record_mechanism(), lambda s: s.release_rows(rows, max_grad_norm=CLIP)),
        (record_mechanism(), lambda s: s.release_tensor(tensor, max_grad_norm=CLIP)),
        (record_mechanism(clipping="whole_tensor"), lambda s: s.release_records([], max_grad_norm=CLIP)),
    ]
    for mechanism, call in wrong:
        with pytest.raises(PrivacyViolation, match="but the mechanism declared is"):
            call(opened(mechanism))


def test_steps_open_and_close_in_turn():
    sanitizer = Sanitizer([Phase(mechanism=shard_mechanism(), steps=2), Phase(mechanism=record_mechanism(), steps=3)])
    for call in (sanitizer.sample_shards, sanitizer.sample_records, sanitizer.close_step):
        with pytest.raises(PrivacyViolation, match="outside an open step"):
            call()
    for step, phase in ((0, 1), (2, 0), (5, 1), (-1, 0), (0, -2), (0, 2)):
        with pytest.raises(PrivacyViolation, match="opened in phase"):
            sanitizer.open_step(step, phase)
    sanitizer.open_step(1, 0)
    with pytest.raises(PrivacyViolation, match="step 2 opened before step 1 was closed"):
        sanitizer.open_step(2, 1)


def test_a_violation_is_no_error_that_training_code_retries():
    """torch raises RuntimeError when memory runs out, and methods catch that."""
    assert not issubclass(PrivacyViolation, (RuntimeError, ValueError, ArithmeticError))


def test_draws_and_releases_stay_out_of_autocast():
    sanitizer = opened(shard_mechanism())
    with torch.autocast("cpu"), pytest.raises(PrivacyViolation, match="autocast"):
        release_once(sanitizer)
    with torch.autocast("cpu"), pytest.raises(PrivacyViolation, match="autocast"):
        opened(shard_mechanism())


@pytest.mark.filterwarnings("ignore:Dynamo")
def test_a_compiled_step_draws_anew_every_time():
    """Nothing is traced into a graph as a constant."""
    mechanism = record_mechanism(sampling_rate=0.5, records=300, clipping="whole_tensor", noise_multiplier=1.0)
    sanitizer = Sanitizer([Phase(mechanism=mechanism, steps=10)])

    @torch.compile(backend="eager")
    def step(number, tensor):
        sanitizer.open_step(number, 0)
        drawn = sanitizer.sample_records()
        release = sanitizer.release_tensor(tensor * 2, max_grad_norm=CLIP)
        sanitizer.close_step()
        return drawn, release

    found = [step(number, torch.ones(SHAPE)) for number in range(4)]
    assert len({tuple(drawn) for drawn, _ in found}) == 4
    assert len({tuple(release.flatten().tolist()) for _, release in found}) == 4
    assert sanitizer.releases == [4]


# --- schedules ------------------------------------------------------------------------------------------------------------


def visits(sanitizer, mechanism, steps):
    counts = np.zeros(mechanism.shards, dtype=int)
    for step in steps:
        sanitizer.open_step(step, 0)
        np.add.at(counts, sanitizer.sample_shards(), 1)
        release_once(sanitizer)
        sanitizer.close_step()
    return counts


def test_round_robin_visits_every_shard_in_turn():
    mechanism = shard_mechanism(schedule="round_robin", shards=7)
    phases = [Phase(mechanism=mechanism, steps=20)]
    sanitizer = Sanitizer(phases, executed=[0])
    counts = visits(sanitizer, mechanism, range(20))
    assert counts.sum() == 40
    assert counts.max() == mechanism.visits(20)
    assert counts.max() - counts.min() <= 1


def test_round_robin_goes_on_where_all_attempts_stopped():
    """Steps that run again visit the next shards, or the account of the steps executed would count too few visits."""
    mechanism = shard_mechanism(schedule="round_robin", shards=100)
    phases = [Phase(mechanism=mechanism, steps=30)]
    attempts = [range(0, 20), range(10, 25), range(10, 30)]  # two of them lost their last steps
    counts, executed = np.zeros(100, dtype=int), 0
    for steps in attempts:
        counts += visits(Sanitizer(phases, executed=[executed]), mechanism, steps)
        executed += len(steps)
    assert executed == 55
    assert counts.max() <= mechanism.visits(executed)
    with pytest.raises(ValueError, match="give executed"):
        Sanitizer(phases)


def test_injected_round_robin_is_keyed_by_step():
    """So that a run resumed under injected noise repeats the uninterrupted one."""
    mechanism = shard_mechanism(schedule="round_robin", shards=100)
    draws = []
    for executed in ([0], [5]):
        sanitizer = Sanitizer([Phase(mechanism=mechanism, steps=30)], executed=executed, injected_seed=1)
        sanitizer.open_step(5, 0)
        draws.append(sanitizer.sample_shards().tolist())
    assert draws == [[10, 11], [10, 11]]


# --- injected noise ---------------------------------------------------------------------------------------------------------


def run(seed, steps, releases=2):
    mechanism = shard_mechanism(noise_multiplier=1.0, releases_per_step=releases)
    sanitizer = Sanitizer([Phase(mechanism=mechanism, steps=10)], injected_seed=seed)
    found = []
    for step in steps:
        sanitizer.open_step(step, 0)
        found.append((sanitizer.sample_shards().tolist(), *(release_once(sanitizer).tolist() for _ in range(releases))))
        sanitizer.close_step()
    return found


def test_injected_noise_is_keyed_by_seed_step_and_call():
    assert run(0, [3, 4]) == run(0, [3, 4])
    assert run(0, [3, 4])[1] == run(0, [4])[0]
    assert run(0, [3]) != run(1, [3])
    assert run(0, [3]) != run(0, [4])
    _, first, second = run(0, [3])[0]
    assert first != second


def test_injected_records_are_a_poisson_sample():
    mechanism = record_mechanism(sampling_rate=0.3, records=10000)
    draws = [opened(mechanism, injected_seed=seed, draw=False).sample_records().tolist() for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]
    assert abs(len(draws[0]) - 3000) < 5 * math.sqrt(2100)


def test_only_the_operating_systems_noise_is_proven():
    assert opened(shard_mechanism()).proven
    assert not opened(shard_mechanism(), injected_seed=0).proven


# --- where the entropy comes from -------------------------------------------------------------------------------------------


def test_seeds_of_others_decide_nothing():
    def draw():
        random.seed(0)
        np.random.seed(0)
        torch.manual_seed(0)
        shards = opened(shard_mechanism(noise_multiplier=1.0, shards=10**6, shards_per_step=2), draw=False)
        records = opened(record_mechanism(sampling_rate=0.5, records=1000), draw=False)
        return shards.sample_shards().tolist(), release_once(shards).tolist(), records.sample_records().tolist()

    one, other = draw(), draw()
    assert all(a != b for a, b in zip(one, other, strict=True))


def test_draws_and_noise_move_no_stream_of_others():
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    release_once(opened(shard_mechanism(noise_multiplier=1.0)))
    opened(record_mechanism(sampling_rate=0.5))
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1], before[2]) == (np.random.get_state()[1].tolist(), random.getstate())


def test_nothing_random_is_kept():
    """A checkpoint of everything the sanitizer holds would reveal neither past nor future noise."""
    sanitizer = opened(shard_mechanism(noise_multiplier=1.0))
    release_once(sanitizer)
    kept = {name: value for name, value in vars(sanitizer).items() if name not in ("_phases", "_mechanism", "_device")}
    assert json.dumps(kept)  # numbers and lists of numbers; no generator, no array
    numbers = [n for value in kept.values() if value is not None for n in (value if isinstance(value, list) else [value])]
    assert all(number < 10 for number in numbers)  # the shape and step of this test; no key, no seed
