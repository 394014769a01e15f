import math

import pytest

from trainables.privacy import accounting
from trainables.privacy.accounting import calibrate, epsilon
from trainables.privacy.budget import Budget
from trainables.privacy.mechanism import NoRelease, Phase, scale_noise, with_steps

DELTA = 1e-5


@pytest.fixture(params=["pld", "rdp"])
def accountant(request):
    return request.param


@pytest.fixture
def calibrated(records, accountant):
    """Two phases of 20 and 50 steps whose noise meets epsilon 3 with 7 more steps in either."""
    phases = [records(0.05, 20, 1.3), records(0.1, 50, 1.0)]
    factor = calibrate(phases, target_epsilon=3.0, delta=DELTA, accountant=accountant, reserve_steps=7)
    return scale_noise(phases, factor)


@pytest.fixture
def budget(calibrated, accountant):
    return Budget(calibrated, target_epsilon=3.0, delta=DELTA, accountant=accountant, reserve_steps=7)


def test_the_plan_and_its_reserve_are_affordable(budget):
    for steps in ([0, 0], [1, 0], [20, 50], [27, 50], [20, 57]):
        assert budget.allows(steps)
        assert budget.epsilon(steps) <= 3.0


def test_what_exceeds_the_target_is_refused(budget, calibrated, accountant):
    """Beyond the plan the exact account decides, so a saving in one phase may be spent in the other."""
    asked = [[27, 57], [40, 50], [20, 200], [27, 10], [0, 60], [60, 0], [500, 0], [0, 500]]
    answers = [budget.allows(steps) for steps in asked]
    exact = [epsilon(with_steps(calibrated, steps), delta=DELTA, accountant=accountant) <= 3.0 for steps in asked]
    assert answers == exact
    assert {*answers} == {True, False}


def test_a_plan_within_its_reserve_is_looked_up_not_computed_again(budget, monkeypatch):
    assert budget.allows([20, 50])
    monkeypatch.setattr(accounting, "epsilon", None)
    assert all(budget.allows([first, second]) for first in range(21) for second in range(51))


def test_affordable_steps_are_the_most_that_fit(budget):
    """Calibrated to the digit: after the plan and one reserve some steps may be left, and then none."""
    block = [1] * 40
    count = budget.affordable([20, 50], block)
    assert 7 <= count < 40
    assert budget.allows([20, 50 + count])
    assert not budget.allows([20, 50 + count + 1])
    assert budget.affordable([20, 50 + count], block) == 0
    assert budget.affordable([20, 500], block) == 0


def test_a_block_may_cross_phases(budget):
    assert budget.affordable([0, 0], [0] * 20 + [1] * 50) == 70
    assert budget.affordable([20, 0], []) == 0
    count = budget.affordable([0, 0], [0] * 20 + [1] * 500)
    assert budget.allows([20, count - 20])
    assert not budget.allows([20, count - 19])


def test_steps_asked_block_by_block_never_overspend(budget):
    """However often attempts lose and repeat steps, the executed total stays within the target."""
    executed, refused = [0, 0], False
    while not refused:
        block = [0] * 10 if executed[0] < 20 else [1] * 10
        granted = budget.affordable(executed, block)
        for phase in block[:granted]:
            executed[phase] += 1
        refused = granted < len(block)
    assert budget.epsilon(executed) <= 3.0
    assert not budget.allows([executed[0], executed[1] + 1])


def test_noise_that_was_not_calibrated_is_not_believed(calibrated, accountant):
    """The planned steps themselves are refused once they pass the target."""
    budget = Budget(scale_noise(calibrated, 0.5), target_epsilon=3.0, delta=DELTA, accountant=accountant, reserve_steps=7)
    assert not budget.allows([20, 50])
    granted = budget.affordable([0, 0], [0] * 20 + [1] * 50)
    assert 0 < granted < 70


def test_given_noise_refuses_nothing(calibrated, accountant):
    budget = Budget(scale_noise(calibrated, 0.0), target_epsilon=None, delta=DELTA, accountant=accountant)
    assert budget.allows([10**6, 10**6])
    assert budget.affordable([20, 50], [0, 1, 1]) == 3
    assert budget.epsilon([1, 0]) == math.inf
    assert budget.epsilon([0, 0]) == 0.0


@pytest.mark.parametrize("purpose", ["post_processing", "reference"])
def test_steps_that_release_nothing_have_no_budget(purpose, accountant):
    phases = [Phase(mechanism=NoRelease(purpose=purpose), steps=4)]
    assert Budget(phases, target_epsilon=1.0, delta=DELTA, accountant=accountant).affordable([2], [0, 0]) == 2
