import pytest
import torch

from trainables.base import DataInfo
from trainables.dp_feta import method as dp_feta
from trainables.dp_feta.training import Trainer as FetaTrainer
from trainables.dpdm import method as dpdm
from trainables.dpdm.training import Trainer as DpdmTrainer
from trainables.per_record_gradients import parameter_count
from trainables.privacy import accounting
from trainables.privacy.mechanism import NoRelease, RecordMechanism, scale_noise
from trainables.privacy.sanitizer import Sanitizer

GRAY = DataInfo(size=60000, channels=1, height=28, width=28, classes=10)
COLOUR = DataInfo(size=5000, channels=3, height=32, width=32, classes=2)
BOTH = pytest.mark.parametrize("package", [dpdm, dp_feta])


@pytest.mark.parametrize("info", [GRAY, COLOUR])
def test_dpdm_is_one_phase_of_dp_sgd(info):
    config = dpdm.Config(steps=7, sampling_rate=0.1)
    (phase,) = dpdm.mechanism(config, info, "replace_one")
    assert isinstance(phase.mechanism, RecordMechanism)
    assert (phase.steps, phase.mechanism.sampling_rate, phase.mechanism.records) == (7, 0.1, info.size)
    assert phase.mechanism.clipping == "per_record"
    assert phase.mechanism.neighbours == "replace_one"
    assert phase.mechanism.release_shape == (dpdm.network_plan(config, info).parameters,)


@BOTH
def test_a_record_fewer_would_move_the_coins_of_all_others(package):
    with pytest.raises(ValueError, match="keyed by its place"):
        package.mechanism(package.Config(), GRAY, "add_remove")


def test_dp_feta_releases_means_then_nothing_then_gradients():
    config = dp_feta.Config(steps=7, warm_up={"releases": 3, "noise_ratio": 2.5, "sampling_rate": 0.2, "steps": 11})
    means, warm_up, gradients = dp_feta.mechanism(config, COLOUR, "replace_one")
    assert [phase.steps for phase in (means, warm_up, gradients)] == [3, 11, 7]
    assert means.mechanism.release_shape == (2, 3, 16, 16)
    assert means.mechanism.sampling_rate == 0.2
    assert means.mechanism.noise_multiplier / gradients.mechanism.noise_multiplier == pytest.approx(2.5)
    assert warm_up.mechanism == NoRelease()
    assert (gradients,) == dpdm.mechanism(config, COLOUR, "replace_one")


def test_the_bound_of_a_small_image():
    config = dp_feta.Config(warm_up={"max_brightness": 0.5})
    assert dp_feta.mean_norm_bound(config, GRAY) == pytest.approx(0.5 * 14)
    config = dp_feta.Config(warm_up={"max_brightness": 1.0, "downsample": 4})
    assert dp_feta.mean_norm_bound(config, COLOUR) == pytest.approx((3 * 8 * 8) ** 0.5)  # a white image


@BOTH
def test_the_warm_up_is_free_and_the_means_are_not(package):
    """Short phases, so that the account is quick; the steps that release nothing change no epsilon."""
    short = package.Config(steps=5, **({"warm_up": {"steps": 3}} if package is dp_feta else {}))
    phases = scale_noise(package.mechanism(short, GRAY, "replace_one"), 2.0)
    paid = [phase for phase in phases if phase.releases]
    whole = accounting.epsilon(phases, delta=1e-5, accountant="rdp")
    assert whole == accounting.epsilon(paid, delta=1e-5, accountant="rdp")
    assert whole > accounting.epsilon(paid[-1:], delta=1e-5, accountant="rdp") or package is dpdm


@BOTH
@pytest.mark.parametrize(
    ("settings", "info", "words"),
    [
        ({}, DataInfo(size=10, channels=1, height=30, width=28, classes=10), "30x28"),
        ({"sampler": {"sigma_min": 2.0, "sigma_max": 1.0}}, GRAY, "sigma_min is 2.0; expected less than"),
        ({"sampler": {"kind": "ddim", "churn": 10}}, GRAY, "ddim adds no noise"),
        ({"sampler": {"guidance": 1}, "label_dropout": 0}, GRAY, "nothing is learnt without labels"),
    ],
)
def test_settings_that_cannot_work_are_refused_with_a_reason(package, settings, info, words):
    with pytest.raises(ValueError, match=words):
        package.mechanism(package.Config(**settings), info, "replace_one")


def test_means_need_sides_that_can_be_averaged():
    with pytest.raises(ValueError, match=r"warm_up.downsample is 3, which does not divide images of 28x28"):
        dp_feta.mechanism(dp_feta.Config(warm_up={"downsample": 3}), GRAY, "replace_one")


@BOTH
@pytest.mark.parametrize("preset", ["published", "cpu"])
@pytest.mark.parametrize("info", [GRAY, COLOUR])
def test_presets_train_on_grey_and_colour(package, preset, info, random_data):
    """The declared shape is that of the network that is built."""
    config = package.Config(**package.PRESETS[preset])
    phases = package.mechanism(config, info, "replace_one")
    data = random_data(1, info.shape, info.classes)
    trainer_class = DpdmTrainer if package is dpdm else FetaTrainer
    trainer = trainer_class(config, data, Sanitizer(phases), {}, torch.device("cpu"), 0)
    model = trainer.model if package is dpdm else trainer._dpdm.model
    assert phases[-1].mechanism.release_shape == (parameter_count(model.network),)
