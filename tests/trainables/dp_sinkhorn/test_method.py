import pytest

from trainables.base import DataInfo
from trainables.dp_sinkhorn import method

GRAY = DataInfo(size=60000, channels=1, height=28, width=28, classes=10)
COLOUR = DataInfo(size=5000, channels=3, height=32, width=32, classes=2)


def test_the_release_is_one_whole_tensor_of_the_generated_images():
    (phase,) = method.mechanism(method.Config(real_batch=50, generator_batch=40, steps=7), GRAY, "replace_one")
    mechanism = phase.mechanism
    assert (phase.steps, mechanism.sampling_rate, mechanism.records) == (7, 50 / 60000, 60000)
    assert (mechanism.release_shape, mechanism.clipping) == ((40, 1, 28, 28), "whole_tensor")
    # Noise over C is twice the noise over the sensitivity: the clipped tensor may be turned round.
    assert mechanism.noise_multiplier / mechanism.effective_noise_multiplier == 2
    (phase,) = method.mechanism(method.Config(), COLOUR, "add_remove")
    assert (phase.mechanism.neighbours, phase.mechanism.release_shape) == ("add_remove", (10, 3, 32, 32))


@pytest.mark.parametrize(("n", "share", "extra"), [(50, 0.2, 10), (10, 0.29, 2), (100, 0.29, 29), (10, 0.0, 0), (4, 1.0, 4)])
def test_the_number_of_other_images_is_rounded_down(n, share, extra):
    assert method.extra_images(method.Config(generator_batch=n, extra_share=share)) == extra


@pytest.mark.parametrize(
    ("settings", "info", "words"),
    [
        ({"real_batch": 5001}, COLOUR, "real_batch is 5001, more than the 5000 records"),
        ({"generator_batch": 1}, GRAY, "generator_batch is 1; batch norm needs 2 images"),
        ({}, DataInfo(size=60, channels=1, height=30, width=28, classes=10), "30x28"),
    ],
)
def test_settings_that_cannot_work_are_refused_with_a_reason(settings, info, words):
    with pytest.raises(ValueError, match=words):
        method.mechanism(method.Config(**settings), info, "replace_one")


@pytest.mark.parametrize("info", [GRAY, COLOUR])
def test_presets_are_settings(info):
    assert {"published", "cpu"} <= method.PRESETS.keys()
    for preset in method.PRESETS.values():
        method.mechanism(method.Config(**preset), info, "replace_one")
