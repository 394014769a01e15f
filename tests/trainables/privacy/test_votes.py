"""Teachers' votes: what a release may move by, what is refused, the noise, and the account."""

import json
import math

import numpy as np
import pytest
import torch
from scipy import stats

from trainables.privacy.accounting import calibrate, epsilon, proof
from trainables.privacy.mechanism import Phase, TeacherMechanism, from_dict, scale_noise, to_dict
from trainables.privacy.sanitizer import PrivacyViolation, Sanitizer

TEACHERS, ROWS, BINS, SIGNS = 7, 5, 6, 4
DELTA = 1e-5


def one_of_n(noise=0.0, threshold=None, **fields):
    fields = {"teachers": TEACHERS, "release_shape": (ROWS, BINS), **fields}
    return TeacherMechanism(answer="one_of_n", noise_multiplier=noise, threshold_noise_multiplier=threshold, **fields)


def yes_no(noise=0.0, **fields):
    return TeacherMechanism(
        answer="yes_no", noise_multiplier=noise, **{"teachers": TEACHERS, "release_shape": (ROWS,), **fields}
    )


def signs(noise=0.0, **fields):
    fields = {"teachers": TEACHERS, "release_shape": (ROWS, BINS), "signs": SIGNS, **fields}
    return TeacherMechanism(answer="signs", noise_multiplier=noise, **fields)


def opened(mechanism, **options):
    sanitizer = Sanitizer([Phase(mechanism=mechanism, steps=3)], **options)
    sanitizer.open_step(0, 0)
    return sanitizer


def answers(mechanism, rng, teachers=None):
    """Votes of the declared form, one teacher unlike the other."""
    teachers = mechanism.teachers if teachers is None else teachers
    rows, n = mechanism.release_shape[0], mechanism.release_shape[-1]
    if mechanism.answer == "one_of_n":
        return torch.from_numpy(rng.integers(0, n, (teachers, rows)))
    if mechanism.answer == "yes_no":
        return torch.from_numpy(rng.integers(0, 2, (teachers, rows)))
    kept = np.argsort(rng.random((teachers, rows, n)), axis=2) < mechanism.signs
    return torch.from_numpy((kept * rng.choice([-1, 1], kept.shape)).astype(np.int8))


def released(mechanism, votes):
    return opened(mechanism).release_votes([votes])


# --- sensitivity and counts -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mechanism", [one_of_n(), yes_no(), signs()], ids=lambda m: m.answer)
def test_one_teacher_moves_a_row_by_the_declared_distance_at_most(mechanism):
    rng = np.random.default_rng(0)
    votes = answers(mechanism, rng)
    before = released(mechanism, votes).reshape(ROWS, -1)
    for _ in range(200):
        other = votes.clone()
        other[3] = answers(mechanism, rng, 1)[0]
        moved = (released(mechanism, other).reshape(ROWS, -1) - before).norm(dim=1)
        assert float(moved.max()) <= mechanism.row_sensitivity * (1 + 1e-6)


def test_the_distances_are_attained():
    cases = [
        (one_of_n(), torch.zeros(TEACHERS, ROWS, dtype=torch.int64), 1),
        (yes_no(), torch.zeros(TEACHERS, ROWS, dtype=torch.uint8), 1),
        (signs(), torch.cat([torch.ones(SIGNS), torch.zeros(BINS - SIGNS)]).to(torch.int8).repeat(TEACHERS, ROWS, 1), None),
    ]
    for mechanism, votes, value in cases:
        other = votes.clone()
        other[2] = -votes[2] if value is None else value
        moved = (released(mechanism, votes) - released(mechanism, other)).norm()
        assert float(moved) == pytest.approx(mechanism.row_sensitivity * math.sqrt(ROWS), rel=1e-6)


@pytest.mark.parametrize("parts", [1, 3, TEACHERS])
def test_counts_are_those_of_a_loop(parts):
    rng = np.random.default_rng(1)
    for mechanism in (one_of_n(), yes_no(), signs()):
        votes = answers(mechanism, rng)
        expected = np.zeros(mechanism.release_shape)
        for teacher in votes.numpy():
            for row, answer in enumerate(teacher):
                if mechanism.answer == "one_of_n":
                    expected[row, answer] += 1
                else:
                    expected[row] += answer
        found = opened(mechanism).release_votes(iter(votes.chunk(parts)))
        assert np.array_equal(found.numpy(), expected)


def test_rows_below_the_threshold_are_withheld():
    votes = torch.zeros(TEACHERS, ROWS, dtype=torch.int64)
    votes[:3, 1] = torch.arange(3) + 1  # 4 of 7 agree there, and all elsewhere
    mechanism = one_of_n(0.0, 0.0)
    counts, passed = opened(mechanism).release_confident_votes([votes], threshold=5.0)
    assert passed.tolist() == [True, False, True, True, True]
    assert counts[1].tolist() == [0.0] * BINS
    assert counts[0].tolist() == [7.0] + [0.0] * (BINS - 1)


# --- what is refused ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mechanism", "votes", "words"),
    [
        (one_of_n(), torch.full((TEACHERS, ROWS), BINS), "0 to 5"),
        (one_of_n(), torch.full((TEACHERS, ROWS), -1), "0 to 5"),
        (one_of_n(), torch.zeros(TEACHERS, ROWS), "float32"),
        (one_of_n(), torch.zeros(TEACHERS, ROWS, BINS, dtype=torch.int64), "shape"),
        (one_of_n(), torch.zeros(TEACHERS - 1, ROWS, dtype=torch.int64), "6 teachers voted; declared are 7"),
        (one_of_n(), torch.zeros(TEACHERS + 1, ROWS, dtype=torch.int64), "8 teachers voted"),
        (yes_no(), torch.full((TEACHERS, ROWS), 2), "0 to 1"),
        (signs(), torch.ones(TEACHERS, ROWS, BINS, dtype=torch.int8), "4 signs"),
        (signs(), torch.zeros(TEACHERS, ROWS, BINS, dtype=torch.int8), "4 signs"),
        (signs(), torch.full((TEACHERS, ROWS, BINS), 2, dtype=torch.int8), "-1 to 1"),
        (signs(), torch.full((TEACHERS, ROWS, BINS), -128, dtype=torch.int8), "-1 to 1"),
    ],
)
def test_votes_of_another_form_end_the_trial(mechanism, votes, words):
    sanitizer = opened(mechanism)
    with pytest.raises(PrivacyViolation, match=words):
        sanitizer.release_votes([votes])
    assert sanitizer.releases == [0]


def test_a_step_has_its_declared_releases():
    votes = torch.zeros(TEACHERS, ROWS, dtype=torch.int64)
    sanitizer = opened(one_of_n())
    sanitizer.release_votes([votes])
    with pytest.raises(PrivacyViolation, match="second draw"):
        sanitizer.release_votes([votes])
    with pytest.raises(PrivacyViolation, match="made 0 releases"):
        opened(one_of_n()).close_step()
    with pytest.raises(PrivacyViolation, match="declares none"):
        opened(one_of_n()).release_confident_votes([votes], threshold=3.0)
    with pytest.raises(PrivacyViolation, match="declares a threshold"):
        opened(one_of_n(1.0, 1.0)).release_votes([votes])
    with pytest.raises(PrivacyViolation, match="public, finite"):
        opened(one_of_n(1.0, 1.0)).release_confident_votes([votes], threshold=torch.tensor(3.0))
    with pytest.raises(PrivacyViolation, match="sample_records"):
        opened(one_of_n()).sample_records()
    sanitizer = opened(one_of_n(1.0, 1.0))
    sanitizer.release_confident_votes([votes], threshold=3.0)
    sanitizer.close_step()
    assert sanitizer.releases == [2]


@pytest.mark.parametrize(
    ("make", "fields", "words"),
    [
        (one_of_n, {"neighbours": "add_remove"}, "write neighbours: replace_one"),
        (one_of_n, {"teachers": 0}, "teachers is 0"),
        (one_of_n, {"release_shape": (3,)}, "expected 2 whole numbers"),
        (one_of_n, {"signs": 3}, "leave it out"),
        (one_of_n, {"noise": 1.0, "threshold": 0.0}, "threshold_noise_multiplier is 0.0"),
        (one_of_n, {"noise": math.inf}, "noise_multiplier is inf"),
        (yes_no, {"release_shape": (3, 2)}, "expected 1 whole numbers"),
        (yes_no, {"threshold_noise_multiplier": 1.0}, "largest of several"),
        (signs, {"signs": 0}, "signs is 0"),
        (signs, {"signs": 7}, "expected 1 to the 6 entries"),
    ],
)
def test_impossible_mechanisms(make, fields, words):
    with pytest.raises(ValueError, match=words):
        make(**fields)


# --- noise ----------------------------------------------------------------------------------------------------------------


def inside(value, law, alarm=1e-6):
    return law.ppf(alarm / 2) <= value <= law.isf(alarm / 2)


@pytest.mark.parametrize(
    ("mechanism", "std"),
    [
        (one_of_n(30.0, release_shape=(400, 100)), 30 * math.sqrt(2)),
        (yes_no(30.0, release_shape=(40_000,)), 30.0),
        (signs(30.0, release_shape=(400, 100), signs=9), 30 * 2 * 3.0),
    ],
    ids=lambda value: getattr(value, "answer", ""),
)
def test_the_noise_of_a_count_is_declared_per_row(mechanism, std):
    votes = answers(mechanism, np.random.default_rng(2))
    exact = released(scale_noise([Phase(mechanism=mechanism, steps=1)], 0.0)[0].mechanism, votes)
    noise = ((released(mechanism, votes) - exact) / std).double().numpy().ravel()
    assert inside(float(noise @ noise), stats.chi2(noise.size))
    assert inside(float(noise.sum()), stats.norm(0, math.sqrt(noise.size)))
    assert not inside(float(noise @ noise) * 0.9, stats.chi2(noise.size)), "ten percent less would be noticed"


def test_the_largest_counts_have_noise_of_their_own():
    """Ten teachers agree on every row, so the largest count is 10, and half the rows pass a threshold of 10."""
    rows = 20_000
    mechanism = one_of_n(3.0, 5.0, teachers=10, release_shape=(rows, 2))
    votes = torch.zeros(10, rows, dtype=torch.int64)
    for threshold, share in ((10.0, 0.5), (15.0, float(stats.norm.sf(1)))):
        counts, passed = opened(mechanism).release_confident_votes([votes], threshold=threshold)
        assert inside(int(passed.sum()), stats.binom(rows, share))
        noise = ((counts[passed] - torch.tensor([10.0, 0.0])) / (3 * math.sqrt(2))).double().numpy().ravel()
        # Independent of the check: given that a row passed, its counts have the plain noise.
        assert inside(float(noise @ noise), stats.chi2(noise.size))
        assert inside(float(noise.sum()), stats.norm(0, math.sqrt(noise.size)))


# --- the account ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mechanism", "rho"),
    [
        # Renyi divergence / order of a step, as the table of privacy losses in the literature has it.
        (one_of_n(100 / math.sqrt(2), 600.0, release_shape=(300, 10)), 300 * (1 / 100**2 + 1 / (2 * 600**2))),
        (yes_no(100.0, release_shape=(64,)), 64 / (2 * 100**2)),
        (signs(800 / (2 * math.sqrt(300)), release_shape=(15, 784), signs=300), 15 * 2 * 300 / 800**2),
    ],
    ids=lambda value: getattr(value, "answer", ""),
)
def test_a_step_costs_what_its_rows_cost(mechanism, rho):
    assert 1 / (2 * mechanism.effective_noise_multiplier**2) == pytest.approx(rho, rel=1e-12)
    # 40 steps are one Gaussian release of mu^2 = 80 rho; at epsilon 10 and delta 1e-5 mu^2 is 2.0004456^2.
    phase = Phase(mechanism=mechanism, steps=40)
    factor = math.sqrt(80 * rho) / 2.0004456204306282
    for accountant, expected in (("pld", 10.0), ("rdp", 10.7283)):
        assert epsilon(scale_noise([phase], factor), delta=DELTA, accountant=accountant) == pytest.approx(expected, rel=1e-3)
    assert calibrate([phase], target_epsilon=10, delta=DELTA, accountant="pld") == pytest.approx(factor, rel=1e-3)
    assert (proof([phase], "pld"), proof([phase], "rdp")) == ("gaussian", "gaussian_rdp")


def test_scaling_scales_both_noises_and_no_noise_is_not_private():
    (phase,) = scale_noise([Phase(mechanism=one_of_n(3.0, 7.0), steps=4)], 2.5)
    assert (phase.mechanism.noise_multiplier, phase.mechanism.threshold_noise_multiplier) == (7.5, 17.5)
    silent = scale_noise([phase], 0.0)
    assert silent[0].mechanism.effective_noise_multiplier == 0
    assert epsilon(silent, delta=DELTA, accountant="pld") == math.inf


def test_phases_survive_json():
    for mechanism in (one_of_n(2.0), one_of_n(2.0, 3.0), yes_no(2.0), signs(2.0)):
        phase = Phase(mechanism=mechanism, steps=9)
        document = json.loads(json.dumps(to_dict(phase)))
        assert document["kind"] == f"teachers_{mechanism.answer}"
        assert from_dict(document) == phase
