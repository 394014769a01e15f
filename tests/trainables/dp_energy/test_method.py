import math

import pytest

from trainables.base import DataInfo
from trainables.dp_energy import method as dp_energy
from trainables.dp_energy_guided import method as dp_energy_guided

GRAY = DataInfo(size=60000, channels=1, height=28, width=28, classes=10)
COLOUR = DataInfo(size=5000, channels=3, height=32, width=32, classes=4)


def test_release_shapes_and_rates_are_those_of_the_settings():
    (phase,) = dp_energy.mechanism(dp_energy.Config(features="pixels", steps=7, sampling_rate=0.1), GRAY, "replace_one")
    assert (phase.steps, phase.mechanism.sampling_rate, phase.mechanism.records) == (7, 0.1, 60000)
    assert phase.mechanism.release_shape == (200, 784)
    (phase,) = dp_energy.mechanism(dp_energy.Config(), GRAY, "add_remove")
    assert phase.mechanism.release_shape == (200, 784 + 16 * 12 * 12)
    assert phase.mechanism.neighbours == "add_remove"


def test_guided_has_the_classifier_first_and_splits_the_budget_by_noise_ratio():
    config = dp_energy_guided.Config(classifier={"steps": 11, "noise_ratio": 1.3, "sampling_rate": 0.2}, slots=40)
    classifier, energy = dp_energy_guided.mechanism(config, COLOUR, "replace_one")
    assert (classifier.steps, energy.steps) == (11, 600)
    assert classifier.mechanism.release_shape == (4, 16 * 8 * 8 + 3 * 16 * 16 + 1)
    assert classifier.mechanism.sampling_rate == 0.2
    assert classifier.mechanism.noise_multiplier / energy.mechanism.noise_multiplier == pytest.approx(1.3)
    assert energy.mechanism.release_shape == (40, 3 * 32 * 32 + 16 * 14 * 14)


def test_norm_bound_follows_gamma():
    config = dp_energy.Config(slots=200, steps=10, reconstruction=1.0)
    assert dp_energy.norm_bound(config, 10, 0) == pytest.approx(1.564, abs=1e-3)
    assert dp_energy.norm_bound(config, 10, 5) == pytest.approx(math.sqrt(1 + 0.25 + 1 / math.sqrt(20)))
    assert dp_energy.norm_bound(config.model_copy(update={"reconstruction": 0.0}), 10, 5) == 1
    constant = config.model_copy(update={"reconstruction_schedule": "constant", "energy": False})
    assert dp_energy.norm_bound(constant, 10, 9) == 1


@pytest.mark.parametrize("package", [dp_energy, dp_energy_guided])
@pytest.mark.parametrize(
    ("settings", "info", "words"),
    [
        ({"slots": 55}, GRAY, "slots is 55; expected a multiple of the 10 classes"),
        ({"slots": 10}, GRAY, "at least 20"),
        ({"energy": False, "reconstruction": 0}, GRAY, "nothing would be learnt"),
        ({}, DataInfo(size=10, channels=1, height=30, width=28, classes=10), "30x28"),
        ({}, DataInfo(size=10, channels=1, height=4, width=4, classes=10), "write features: pixels"),
    ],
)
def test_settings_that_cannot_work_are_refused_with_a_reason(package, settings, info, words):
    with pytest.raises(ValueError, match=words):
        package.mechanism(package.Config(**settings), info, "replace_one")


@pytest.mark.parametrize("package", [dp_energy, dp_energy_guided])
def test_presets_are_settings(package):
    for preset in package.PRESETS.values():
        package.mechanism(package.Config(**preset), GRAY, "replace_one")
