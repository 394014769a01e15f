"""What dpgan declares before torch is imported, against the networks themselves."""

import pytest

from trainables.base import DataInfo
from trainables.dpgan.method import PRESETS, Config, check, critic_size, mechanism
from trainables.dpgan.networks import Critic
from trainables.per_record_gradients import parameter_count

FASHION = DataInfo(size=60_000, channels=1, height=28, width=28, classes=10)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 28, 28), (1, 32, 32), (3, 32, 32), (1, 8, 8), (1, 13, 13), (3, 64, 64)])
@pytest.mark.parametrize("classes", [2, 10])
@pytest.mark.parametrize("channels", [2, 16])
def test_the_declared_length_of_a_release_is_the_critics_size(shape, classes, channels):
    data = DataInfo(size=100, channels=shape[0], height=shape[1], width=shape[2], classes=classes)
    assert critic_size(channels, data) == parameter_count(Critic(shape, classes, channels=channels))


def test_the_declared_mechanism():
    (phase,) = mechanism(Config(steps=7, batch_size=600, critic_channels=16), FASHION, "replace_one")
    release = phase.mechanism
    assert phase.steps == 7
    assert (release.sampling_rate, release.records, release.release_shape) == (0.01, 60_000, (29_169,))
    assert (release.clipping, release.releases_per_step, release.effective_noise_multiplier) == ("per_record", 1, 0.5)
    (other,) = mechanism(Config(), FASHION, "add_remove")
    assert other.mechanism.effective_noise_multiplier == 1.0


@pytest.mark.parametrize("name", PRESETS)
def test_presets_fit_the_data_they_are_for(name):
    celeba = DataInfo(size=162_770, channels=3, height=32, width=32, classes=2)
    check(Config(**PRESETS[name]), celeba if name == "published_celeba" else FASHION)


def test_published_settings():
    published = Config(**PRESETS["published"])
    assert (published.steps, published.batch_size, published.critic_steps) == (174_000, 512, "adaptive")
    assert critic_size(published.critic_channels, FASHION) == 1_724_289


@pytest.mark.parametrize(
    ("settings", "facts", "message"),
    [
        ({}, {"width": 32}, "images are 28x32; .* square ones of at least 8x8"),
        ({}, {"height": 4, "width": 4}, "images are 4x4"),
        ({"batch_size": 101}, {"size": 100}, "batch_size is 101; expected at most the 100 records"),
        ({"critic_channels": 5}, {}, "critic_channels is 5; expected an even number"),
        ({"critic_steps": 0}, {}, "critic_steps is 0; expected at least 1, or adaptive"),
    ],
)
def test_settings_that_cannot_run_are_refused_on_declared_facts(settings, facts, message):
    data = DataInfo(**{"size": 60_000, "channels": 1, "height": 28, "width": 28, "classes": 10, **facts})
    with pytest.raises(ValueError, match=message):
        mechanism(Config(**settings), data, "replace_one")
