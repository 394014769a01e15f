"""What any accountant must do, whatever the numbers: bounds in order, monotone, calibrated from above, clear refusals."""

import math
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainables.privacy import accounting
from trainables.privacy.accounting import (
    PROOFS,
    InfeasibleBudget,
    calibrate,
    epsilon,
    epsilon_curve,
    proof,
    published_epsilon,
)
from trainables.privacy.mechanism import Phase, RecordMechanism, ShardMechanism, scale_noise, with_steps

DELTA = 1e-5


def record_phase(rate=0.05, steps=200, noise=1.0, **fields):
    return Phase(
        mechanism=RecordMechanism(sampling_rate=rate, records=60000, release_shape=(4,), noise_multiplier=noise, **fields),
        steps=steps,
    )


def shard_phase(count=1000, steps=2000, noise=0.5, per_step=1, **fields):
    fields = {"schedule": "sampled", "release_shape": (1,), **fields}
    return Phase(
        mechanism=ShardMechanism(shards=count, shards_per_step=per_step, noise_multiplier=noise, **fields), steps=steps
    )


EVERY_KIND = {
    "wor_profile": shard_phase(),
    "poisson_replace_profile": record_phase(),
    "poisson_profile": record_phase(neighbours="add_remove"),
    "gaussian": record_phase(rate=1.0, noise=20.0),
    "draws_revealed": shard_phase(schedule="persistent", noise=2.0),
    "shared_buffer_revealed": shard_phase(carried=0.5, noise=20.0),
}
PRIVATE_KINDS = [*EVERY_KIND.values(), record_phase(clipping="whole_tensor"), shard_phase(schedule="round_robin", noise=1.0)]


def spent(*phases, accountant="pld", delta=DELTA):
    return epsilon(phases, delta=delta, accountant=accountant)


# --- edges --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("accountant", ["pld", "rdp"])
def test_nothing_run_costs_nothing_and_no_noise_costs_everything(accountant):
    assert spent(accountant=accountant) == 0.0
    for phase in PRIVATE_KINDS:
        (silent,) = scale_noise([phase], 0.0)
        assert spent(silent, accountant=accountant) == math.inf
    assert spent(record_phase(), *scale_noise([record_phase()], 0.0), accountant=accountant) == math.inf


@pytest.mark.parametrize("delta", [0.0, 1.0, -1e-5, math.nan])
def test_a_delta_that_is_none(delta):
    with pytest.raises(ValueError, match="expected a number between 0 and 1"):
        spent(record_phase(), delta=delta)


def test_unknown_accountants_and_mixed_relations_are_refused():
    with pytest.raises(ValueError, match="expected pld or rdp"):
        spent(record_phase(), accountant="moments")
    with pytest.raises(ValueError, match=r"neighbours differ between phases \(add_remove and replace_one\)"):
        spent(record_phase(), record_phase(neighbours="add_remove"))


def test_proofs():
    for name, phase in EVERY_KIND.items():
        assert proof([phase], "pld") == name
        assert proof([phase], "rdp") == f"{name}_rdp"
    assert proof([shard_phase(per_step=1000)], "pld") == "gaussian"
    assert proof([shard_phase(per_step=1000, carried=0.5)], "pld") == "gaussian"
    assert proof([shard_phase(schedule="persistent", carried=0.5)], "pld") == "shared_buffer_revealed"
    assert proof([shard_phase(schedule="round_robin")], "pld") == "gaussian"
    assert proof([record_phase(), record_phase(rate=0.1), record_phase(rate=1.0)], "pld") == "poisson_replace_profile+gaussian"
    assert proof(scale_noise([record_phase(), shard_phase()], 0.0), "pld") == "not_private"
    names = {f"{kind}{suffix}" for kind in EVERY_KIND for suffix in ("", "_rdp")} | {"not_private"}
    names |= {"random_best", "random_best_rdp"}  # of a selection: test_random_best
    assert set(PROOFS) == names


def test_published_epsilon_is_for_shards_alone():
    assert published_epsilon([record_phase()], delta=DELTA) is None
    assert published_epsilon([shard_phase(), record_phase()], delta=DELTA) is None
    assert published_epsilon([], delta=DELTA) is None
    assert published_epsilon(scale_noise([shard_phase()], 0.0), delta=DELTA) == math.inf
    # It composes steps x images, so one phase split in two is the same.
    whole, halves = [shard_phase(steps=20000, noise=1.07)], [shard_phase(steps=10000, noise=1.07)] * 2
    assert published_epsilon(whole, delta=DELTA) == pytest.approx(published_epsilon(halves, delta=DELTA))


def test_planning_imports_neither_torch_nor_the_library():
    code = (
        "import sys; from trainables.privacy import accounting, budget, selection, mechanism\n"
        "heavy = {'torch', 'ray', 'dp_accounting', 'numpy', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "phase = mechanism.Phase(mechanism=mechanism.RecordMechanism(sampling_rate=.05, records=10, release_shape=(2,),"
        " noise_multiplier=1.0), steps=10)\n"
        "accounting.calibrate([phase], target_epsilon=1, delta=1e-5, accountant='pld')\n"
        "assert not {'torch', 'ray', 'dp_accounting'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# --- order and monotony -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", PRIVATE_KINDS, ids=lambda phase: phase.mechanism.kind)
def test_the_tight_accountant_is_never_looser(phase):
    assert 0 < spent(phase) <= spent(phase, accountant="rdp")


@pytest.mark.parametrize("phase", PRIVATE_KINDS, ids=lambda phase: phase.mechanism.kind)
@pytest.mark.parametrize("accountant", ["pld", "rdp"])
def test_epsilon_grows_with_steps_and_falls_with_noise_and_delta(phase, accountant):
    steps = [with_steps([phase], [phase.steps * n // 4]) for n in (1, 2, 4)]
    by_steps = [epsilon(phases, delta=DELTA, accountant=accountant) for phases in steps]
    assert by_steps == sorted(by_steps)
    by_noise = [spent(*scale_noise([phase], factor), accountant=accountant) for factor in (0.9, 0.99, 1.0, 1.01, 1.5)]
    assert by_noise == sorted(by_noise, reverse=True)
    assert len(set(by_noise)) == len(by_noise)
    by_delta = [spent(phase, accountant=accountant, delta=delta) for delta in (1e-7, 1e-5, 1e-3)]
    assert by_delta == sorted(by_delta, reverse=True)


def test_epsilon_of_shards_grows_with_every_count():
    plain = spent(shard_phase())
    assert spent(shard_phase(per_step=2)) > plain
    assert spent(shard_phase(count=500)) > plain
    assert spent(shard_phase(release_shape=(2,))) > plain
    assert spent(shard_phase(releases_per_step=2)) == pytest.approx(spent(shard_phase(release_shape=(2,))), rel=1e-12)
    assert spent(shard_phase(release_shape=(1, 28, 28))) == plain


def test_what_a_record_can_do_is_ordered():
    """Adding or removing a record < replacing one < replacing one under a whole-tensor clip; sampling rates grow to 1."""
    whole = {"clipping": "whole_tensor"}
    assert spent(record_phase(neighbours="add_remove")) < spent(record_phase()) < spent(record_phase(**whole))
    rates = [spent(record_phase(rate=rate, noise=10.0)) for rate in (0.01, 0.05, 0.5, 0.999, 1.0)]
    assert rates == sorted(rates)
    assert rates[-2] == pytest.approx(rates[-1], rel=2e-3)
    added = [spent(record_phase(rate=rate, noise=10.0, neighbours="add_remove")) for rate in (0.5, 0.999, 1.0)]
    assert added == sorted(added)
    assert added[-2] == pytest.approx(added[-1], rel=2e-3)
    assert spent(record_phase(noise=3.0, releases_per_step=4)) == pytest.approx(spent(record_phase(noise=1.5)), rel=1e-12)


@settings(max_examples=25, deadline=None)
@given(
    count=st.integers(2, 3000),
    per_step=st.integers(1, 40),
    steps=st.integers(1, 3000),
    noise=st.floats(0.3, 20.0),
    more=st.integers(1, 100),
)
def test_sampled_shards_lie_between_nothing_and_revealed_draws(count, per_step, steps, noise, more):
    fields = {"count": count, "per_step": min(per_step, count), "noise": noise}
    found = spent(shard_phase(steps=steps, **fields))
    assert 0 <= found <= spent(shard_phase(steps=steps, schedule="persistent", **fields)) * (1 + 1e-3) + 1e-9
    assert spent(shard_phase(steps=steps + more, **fields)) >= found * (1 - 1e-9)


@settings(max_examples=25, deadline=None)
@given(
    rates=st.tuples(st.floats(1e-3, 1.0), st.floats(1e-3, 1.0)),
    steps=st.tuples(st.integers(1, 500), st.integers(1, 500)),
    noises=st.tuples(st.floats(0.5, 20.0), st.floats(0.5, 20.0)),
)
def test_two_phases_cost_more_than_each_and_less_than_both(rates, steps, noises):
    one, other = (record_phase(rate, count, noise) for rate, count, noise in zip(rates, steps, noises, strict=True))
    both = spent(one, other)
    assert both >= max(spent(one), spent(other)) * (1 - 1e-3)
    assert both <= (spent(one, delta=DELTA / 2) + spent(other, delta=DELTA / 2)) * (1 + 1e-3) + 1e-9
    assert both == pytest.approx(spent(other, one), rel=1e-9)
    assert both <= spent(one, other, accountant="rdp") * (1 + 1e-3)


@pytest.mark.parametrize("phase", PRIVATE_KINDS, ids=lambda phase: phase.mechanism.kind)
@pytest.mark.parametrize("accountant", ["pld", "rdp"])
def test_a_phase_split_in_two_is_the_same_phase(phase, accountant):
    """Round-robin, whose two schedules may start at the same shard, may only grow."""
    half = with_steps([phase], [phase.steps // 2])
    split, whole = spent(*half, *half, accountant=accountant), spent(phase, accountant=accountant)
    if phase.mechanism.kind == "round_robin_shards":
        assert split >= whole
    elif phase.mechanism.kind == "persistent_shards" and accountant == "pld":
        assert split == pytest.approx(whole, rel=1e-12)  # the visits of all steps are one binomial
    else:
        assert split == pytest.approx(whole, rel=1e-9)


# --- curves -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("accountant", ["pld", "rdp"])
def test_a_curve_ends_at_epsilon_and_grows(accountant):
    phases = [record_phase(steps=200, noise=1.2), record_phase(rate=1.0, steps=3, noise=8.0), record_phase(steps=400)]
    checkpoints = [[0, 0, 0], [50, 0, 0], [200, 0, 0], [200, 2, 0], [200, 3, 0], [200, 3, 150], [200, 3, 400]]
    curve = epsilon_curve(phases, checkpoints, delta=DELTA, accountant=accountant)
    assert curve[0] == 0.0
    assert curve == sorted(curve)
    assert curve[-1] == pytest.approx(spent(*phases, accountant=accountant), rel=1e-9)
    for steps, value in zip(checkpoints[1:], curve[1:], strict=True):
        assert value == pytest.approx(spent(*with_steps(phases, steps), accountant=accountant), rel=1e-3)


def test_curves_of_nothing_and_of_no_noise():
    assert epsilon_curve([record_phase()], [], delta=DELTA, accountant="pld") == []
    silent = scale_noise([record_phase()], 0.0)
    assert epsilon_curve(silent, [[0], [5]], delta=DELTA, accountant="pld") == [0.0, math.inf]


# --- calibration --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", PRIVATE_KINDS, ids=lambda phase: phase.mechanism.kind)
@pytest.mark.parametrize(("accountant", "target"), [("pld", 10.0), ("pld", 0.5), ("rdp", 3.0)])
def test_calibration_meets_the_target_from_below_and_not_a_digit_less(phase, accountant, target):
    factor = calibrate([phase], target_epsilon=target, delta=DELTA, accountant=accountant)
    assert factor == round(factor, 4)
    assert spent(*scale_noise([phase], factor), accountant=accountant) <= target
    assert spent(*scale_noise([phase], round(factor - 1e-4, 4)), accountant=accountant) > target


@pytest.mark.parametrize("accountant", ["pld", "rdp"])
def test_a_reserve_is_affordable_in_any_one_phase(accountant):
    phases = [record_phase(steps=20, noise=1.3), record_phase(rate=0.1, steps=50, noise=1.0)]
    factor = calibrate(phases, target_epsilon=5, delta=DELTA, accountant=accountant, reserve_steps=7)
    plain = calibrate(phases, target_epsilon=5, delta=DELTA, accountant=accountant)
    assert factor > plain
    ways = [with_steps(phases, steps) for steps in ([27, 50], [20, 57])]
    assert all(spent(*scale_noise(way, factor), accountant=accountant) <= 5 for way in ways)
    assert any(spent(*scale_noise(way, factor - 1e-4), accountant=accountant) > 5 for way in ways)


@settings(max_examples=15, deadline=None)
@given(rate=st.floats(1e-3, 1.0), steps=st.integers(1, 2000), noise=st.floats(0.05, 20.0), target=st.floats(0.05, 50.0))
def test_calibration_of_anything(rate, steps, noise, target):
    phase = record_phase(rate, steps, noise)
    factor = calibrate([phase], target_epsilon=target, delta=DELTA, accountant="pld")
    assert spent(*scale_noise([phase], factor)) <= target
    assert factor == 1e-4 or spent(*scale_noise([phase], round(factor - 1e-4, 4))) > target


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"target_epsilon": 0.0}, "the target epsilon is 0.0; expected a finite number over 0"),
        ({"target_epsilon": -1.0}, "the target epsilon is -1.0"),
        ({"target_epsilon": math.nan}, "the target epsilon is nan"),
        ({"target_epsilon": math.inf}, "the target epsilon is inf"),
        ({"delta": 0.0}, "delta is 0.0; expected a number between 0 and 1"),
        ({"delta": 1.0}, "delta is 1.0"),
        ({"target_epsilon": 1e-9, "delta": 1e-12}, "out of reach"),
    ],
)
def test_impossible_budgets(request_, message):
    request_ = {"target_epsilon": 1.0, "delta": DELTA, "accountant": "pld", **request_}
    with pytest.raises(InfeasibleBudget, match=message):
        calibrate([record_phase(steps=20000)], **request_)


def test_silence_cannot_be_scaled():
    with pytest.raises(InfeasibleBudget, match="noise multiplier of 0"):
        calibrate(scale_noise([record_phase()], 0.0), target_epsilon=1, delta=DELTA, accountant="pld")
    with pytest.raises(ValueError, match="no phases"):
        calibrate([], target_epsilon=1, delta=DELTA, accountant="pld")


# --- the library --------------------------------------------------------------------------------------------------------


def test_the_library_still_means_what_it_meant():
    """Under replace-one RdpAccountant takes std / sensitivity and PLDAccountant std / norm of one record.

    If this fails, the library has changed its mind: go through every event that ``renyi`` hands it before anything else.
    """
    from importlib.metadata import version

    from dp_accounting import NeighboringRelation, dp_event
    from dp_accounting.pld.pld_privacy_accountant import PLDAccountant
    from dp_accounting.rdp.rdp_privacy_accountant import RdpAccountant

    assert accounting.ACCOUNTANT_VERSION.startswith(f"dp-accounting {version('dp-accounting')},")
    release = dp_event.GaussianDpEvent(1.0)
    for relation in (NeighboringRelation.REPLACE_ONE, NeighboringRelation.ADD_OR_REMOVE_ONE):
        assert RdpAccountant(neighboring_relation=relation).compose(release).get_epsilon(DELTA) == pytest.approx(
            4.7285, abs=1e-4
        )
    tight = {NeighboringRelation.ADD_OR_REMOVE_ONE: 4.3772, NeighboringRelation.REPLACE_ONE: 9.9973}
    for relation, value in tight.items():
        assert PLDAccountant(relation).compose(release).get_epsilon(DELTA) == pytest.approx(value, abs=1e-3)
    # m of K without replacement at std / sensitivity, and nothing but m / K matters.
    events = [dp_event.SampledWithoutReplacementDpEvent(size, share, release) for size, share in ((1000, 50), (1, 0.05))]
    found = [RdpAccountant(neighboring_relation=NeighboringRelation.REPLACE_ONE).compose(event, 200).rdp for event in events]
    assert found[0] == pytest.approx(found[1], rel=1e-12)
