"""What a release moves by when one record changes, measured on the trainers themselves with the noise set to zero."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from trainables import registry
from trainables.base import Dataset, phase_of
from trainables.dp_energy.method import norm_bound
from trainables.privacy.mechanism import scale_noise
from trainables.privacy.sanitizer import Sanitizer

SMALL = {"generator_channels": 4, "z_dim": 3, "sampling_rate": 1.0, "steps": 3, "reconstruction_clip": 2.0, "filters": 3}


class Recorder(Sanitizer):
    """The sanitizer, keeping what it released and the bound it was given."""

    def release_records(self, contributions, *, max_grad_norm):
        self.bound = max_grad_norm
        self.release = super().release_records(contributions, max_grad_norm=max_grad_norm)
        return self.release


def releases(method: str, settings: dict, data: Dataset, steps: int = 1) -> Recorder:
    """Run ``steps`` steps without noise; the recorder has the last release."""
    package = registry.method(method)
    config = package.Config(**settings)
    phases = scale_noise(package.mechanism(config, data.info, "replace_one"), 0.0)
    sanitizer = Recorder(phases, injected_seed=0)
    trainer = registry.training(method).Trainer(config, data, sanitizer, {}, torch.device("cpu"), 0)
    for step in range(steps):
        sanitizer.open_step(step, phase_of(step, [phase.steps for phase in phases]))
        trainer.step()
        sanitizer.close_step()
    return sanitizer


def with_record(data: Dataset, image: np.ndarray, label: int) -> Dataset:
    """``data`` with its first record replaced."""
    return replace(
        data,
        images=np.concatenate([image[None].astype(data.images.dtype), data.images[1:]]),
        labels=np.concatenate([[label], data.labels[1:]]),
    )


def without_record(data: Dataset) -> Dataset:
    return replace(data, images=data.images[1:], labels=data.labels[1:])


def first_images(settings: dict, data: Dataset) -> np.ndarray:
    """The images whose neighbourhood is the hard case: those that the untrained generator makes, rounded."""
    config = registry.method("dp_energy").Config(**settings)
    phases = scale_noise(registry.method("dp_energy").mechanism(config, data.info, "replace_one"), 0.0)
    sanitizer = Sanitizer(phases, injected_seed=0)
    trainer = registry.training("dp_energy").Trainer(config, data, sanitizer, {}, torch.device("cpu"), 0)
    images = trainer.sample(torch.tensor([0, 1]), torch.Generator().manual_seed(0))
    return (images * 255).round().numpy().astype(np.uint8)


@pytest.mark.parametrize("features", ["pixels", "random_convolutions"])
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32)])
@pytest.mark.parametrize("switches", [{"reconstruction": 0}, {"reconstruction": 1}, {"energy": False}])
def test_a_record_moves_the_energy_release_by_no_more_than_declared(random_data, features, shape, switches):
    settings = {**SMALL, "slots": 8, "features": features, **switches}
    data = random_data(6, shape)
    black, white = np.zeros(shape, dtype=np.uint8), np.full(shape, 255, dtype=np.uint8)
    config = registry.method("dp_energy").Config(**settings)
    candidates = [(black, 0), (white, 0), (white, 1), *((image, 0) for image in first_images(settings, data))]
    found = [releases("dp_energy", settings, with_record(data, image, label)) for image, label in candidates]
    absent = releases("dp_energy", settings, without_record(data))
    bound = norm_bound(config, 2, 0)
    assert {run.bound for run in found} == {bound}
    moved = [float((run.release - absent.release).norm()) for run in found]
    assert max(moved) <= bound * (1 + 1e-5)
    assert moved[0] >= 0.5 * bound  # a distant record uses most of what it may
    replaced = [float((one.release - other.release).norm()) for one in found for other in found]
    assert max(replaced) <= 2 * bound * (1 + 1e-5)
    assert max(replaced) > bound  # two records that pull in opposite directions


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32)])
def test_a_record_moves_the_classifiers_gradient_by_no_more_than_declared(random_data, shape):
    settings = {
        **SMALL,
        "slots": 4,
        "features": "pixels",
        "classifier": {"steps": 2, "sampling_rate": 1.0, "max_grad_norm": 0.7},
    }
    data = random_data(6, shape)
    image = data.images[0]
    here, elsewhere = (releases("dp_energy_guided", settings, with_record(data, image, label)) for label in (0, 1))
    absent = releases("dp_energy_guided", settings, without_record(data))
    assert here.bound == 0.7
    assert float((here.release - absent.release).norm()) == pytest.approx(0.7, rel=1e-5)  # clipped: the bound is attained
    assert float((here.release - elsewhere.release).norm()) <= 1.4 * (1 + 1e-5)


def test_the_classifiers_contribution_is_the_clipped_gradient(random_data):
    """One record alone in its data set, at the second step, against autograd."""
    from trainables.dp_energy_guided.classifier import PrivateClassifier
    from trainables.dp_energy_guided.method import ClassifierConfig, Config, mechanism
    from trainables.dp_energy_guided.oriented import OrientedFeatures

    data = random_data(1, (1, 12, 12), classes=3)
    config = ClassifierConfig(steps=3, sampling_rate=1.0, max_grad_norm=100.0, learning_rate=0.1)
    phases = mechanism(Config(classifier=config, slots=6, features="pixels"), data.info, "replace_one")
    sanitizer = Recorder(scale_noise(phases, 0.0), injected_seed=0)
    classifier = PrivateClassifier(config, data, sanitizer, torch.device("cpu"))
    weight = torch.zeros(3, 16 * 9 + 36 + 1, requires_grad=True)
    inputs = OrientedFeatures(torch.device("cpu"))(torch.from_numpy(data.images).float() / 255)
    for step in range(2):
        sanitizer.open_step(step, 0)
        classifier.step()
        sanitizer.close_step()
        loss = torch.nn.functional.cross_entropy(inputs @ weight.T, torch.from_numpy(data.labels))
        (gradient,) = torch.autograd.grad(loss, weight)
        torch.testing.assert_close(sanitizer.release, gradient, rtol=1e-4, atol=1e-6)
        with torch.no_grad():
            weight -= 0.1 * gradient


@pytest.mark.parametrize("method", ["dp_energy", "dp_energy_guided"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30, -1.0])
def test_a_record_that_is_no_image_contributes_nothing(random_data, method, value):
    """Data sets are uint8; a data set of floats could hold anything, and must not raise or poison the release."""
    settings = {**SMALL, "slots": 4}
    if method == "dp_energy_guided":
        settings["classifier"] = {"steps": 1, "sampling_rate": 1.0}
    data = random_data(5)
    floats = replace(data, images=data.images.astype(np.float32))
    broken = floats.images[0].copy()
    broken[0, 3, 3] = value
    for steps in (1, 2):
        found = releases(method, settings, with_record(floats, broken, 0), steps)
        # The same N, hence the same divisor, without the record: its label is moved to a wholly broken image.
        expected = releases(method, settings, with_record(floats, np.full_like(broken, np.nan), 1), steps)
        assert torch.isfinite(found.release).all()
        torch.testing.assert_close(found.release, expected.release, rtol=1e-5, atol=1e-6)
    present = releases(method, settings, floats, 1)
    assert float((present.release - releases(method, settings, with_record(floats, broken, 0), 1).release).norm()) > 0.01
