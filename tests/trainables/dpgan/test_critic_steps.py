"""The ladder of n_D, against a plain restatement of the rule."""

import pytest

from trainables.dpgan.critic_steps import CriticSteps, ladder
from trainables.dpgan.method import Config


def test_a_constant_ladder():
    schedule = CriticSteps(Config(critic_steps=3))
    moves = []
    for _ in range(9):
        moves.append(schedule.critic_stepped())
        if moves[-1]:
            schedule.generator_stepped(0.0)
    assert moves == [False, False, True] * 3


def test_the_adaptive_rule_is_the_papers():
    accuracies = [1.0] * 8 + [0.2] * 60 + [1.0] * 60 + [0.0] * 30
    schedule = CriticSteps(Config(critic_steps="adaptive", adaptive_threshold=0.7, adaptive_wait=10))
    rung, waited, average, rungs = 0, 0, accuracies[0], []
    for accuracy in accuracies:
        steps = 0
        moved = False
        while not moved:
            moved = schedule.critic_stepped()
            steps += 1
        assert steps == ladder(rung)
        schedule.generator_stepped(accuracy)
        average = 0.99 * average + 0.01 * accuracy
        waited += 1
        if waited >= 10 and average <= 0.7:
            rung, waited = rung + 1, 0
        rungs.append(rung)
        assert schedule.per_generator_step == ladder(rung)
    assert rungs[7] == 0
    assert rungs[-1] == 6  # it climbed, and not at every step


@pytest.mark.parametrize("stop", [1, 7, 23])
def test_a_restored_schedule_goes_on(stop):
    config = Config(critic_steps="adaptive", adaptive_wait=2)
    whole, first = CriticSteps(config), CriticSteps(config)

    def advance(schedule: CriticSteps, start: int, end: int) -> list[tuple[bool, int]]:
        found = []
        for step in range(start, end):
            moved = schedule.critic_stepped()
            if moved:
                schedule.generator_stepped(step % 3 / 4)
            found.append((moved, schedule.per_generator_step))
        return found

    expected = advance(whole, 0, 40)
    advance(first, 0, stop)
    second = CriticSteps(config)
    second.load_state_dict(first.state_dict())
    assert advance(second, stop, 40) == expected[stop:]
    assert expected[-1][1] > 1
