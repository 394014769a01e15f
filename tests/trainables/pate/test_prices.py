"""How few steps the published noise buys, computed from the mechanisms that the methods declare at their published settings."""

import pytest

from trainables import registry
from trainables.base import DataInfo
from trainables.pate.prices import affordable_steps

GRAY = DataInfo(size=60000, channels=1, height=28, width=28, classes=10)
CELEBA = DataInfo(size=162770, channels=3, height=64, width=64, classes=2)
SMALL = {"generator": "small"}  # 64x64 pixels, as published for CelebA; the generator does not enter the account


@pytest.mark.parametrize(
    ("method", "preset", "epsilon", "exact", "rdp"),
    [
        ("g_pate", "published", 10, 65, 58),
        ("g_pate", "published_epsilon_1", 1, 226, None),
        ("datalens", "published", 10, 142, None),
        ("datalens", "published_fashion_mnist", 10, 190, None),
        ("datalens", "published_celeba", 10, 36, None),
        ("datalens", "published_epsilon_1", 1, 149, None),
        ("datalens", "published_fashion_mnist_epsilon_1", 1, 149, None),
        ("datalens", "published_celeba_epsilon_1", 1, 76, None),
        ("pate_gan", "published", 10, 625, None),
    ],
)
def test_published_noise_buys_few_steps(method, preset, epsilon, exact, rdp):
    package = registry.method(method)
    celeba = "celeba" in preset
    config = package.Config(**package.PRESETS[preset])
    config = config.model_copy(update=SMALL) if celeba else config
    (phase,) = package.mechanism(config, CELEBA if celeba else GRAY, "replace_one")
    assert affordable_steps(phase.mechanism, target_epsilon=epsilon, delta=1e-5) == exact
    assert phase.steps == exact, "the preset plans what its noise buys"
    found = affordable_steps(phase.mechanism, target_epsilon=epsilon, delta=1e-5, accountant="rdp")
    assert found < exact
    if rdp is not None:
        assert found == rdp
    (sentence,) = package.remarks(config, CELEBA if celeba else GRAY, target_epsilon=epsilon, delta=1e-5)
    assert f"buys {exact} steps at epsilon {epsilon}, delta 1e-05; {exact} are planned" in sentence


@pytest.mark.parametrize(("epsilon", "labels"), [(10, 40_017), (1, 718)])
def test_labels_of_pate_gan_at_noise_100(epsilon, labels):
    package = registry.method("pate_gan")
    config = package.Config(**{**package.PRESETS["published"], "batch": 1})
    (phase,) = package.mechanism(config, GRAY, "replace_one")
    assert affordable_steps(phase.mechanism, target_epsilon=epsilon, delta=1e-5) == labels


def test_noise_that_buys_nothing_says_so():
    package = registry.method("g_pate")
    config = package.Config(vote_noise=1e-3)
    (sentence,) = package.remarks(config, GRAY, target_epsilon=1, delta=1e-5)
    assert "buys 0 steps" in sentence
    with pytest.raises(ValueError, match="target epsilon is inf"):
        package.remarks(config, GRAY, target_epsilon=float("inf"), delta=1e-5)
