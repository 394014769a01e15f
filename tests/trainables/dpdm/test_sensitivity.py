"""What a release of dpdm moves by when one record changes, measured on the trainer with the noise set to zero."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from trainables.base import Dataset
from trainables.dpdm.diffusion import record_draws, record_loss, to_model
from trainables.dpdm.method import Config, mechanism
from trainables.dpdm.training import Trainer
from trainables.per_record_gradients import flatten
from trainables.privacy.mechanism import scale_noise
from trainables.privacy.sanitizer import Sanitizer

SMALL = {"steps": 3, "sampling_rate": 1.0, "noise_multiplicity": 2, "max_grad_norm": 0.5, "network": {"channels": 4}}


class Recorder(Sanitizer):
    """The sanitizer, keeping what it released and the bound it was given."""

    def release_records(self, contributions, *, max_grad_norm):
        self.bound = max_grad_norm
        self.release = super().release_records(contributions, max_grad_norm=max_grad_norm)
        return self.release


def release(data: Dataset, *, moved_weights: bool = False, **settings) -> Recorder:
    """One step without noise, from the initial weights or from others that say nothing about the data."""
    config = Config(**{**SMALL, **settings})
    phases = scale_noise(mechanism(config, data.info, "replace_one"), 0.0)
    sanitizer = Recorder(phases, injected_seed=0)
    trainer = Trainer(config, data, sanitizer, {}, torch.device("cpu"), 0)
    if moved_weights:
        noise = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in trainer.model.network.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=noise))
    sanitizer.open_step(0, 0)
    trainer.step()
    sanitizer.close_step()
    return sanitizer


def with_last(data: Dataset, image: np.ndarray, label: int) -> Dataset:
    """``data`` with its last record replaced."""
    return replace(
        data,
        images=np.concatenate([data.images[:-1], image[None].astype(data.images.dtype)]),
        labels=np.concatenate([data.labels[:-1], [label]]),
    )


@pytest.mark.parametrize("moved_weights", [False, True])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 12)])
def test_a_record_moves_the_gradient_by_no_more_than_declared(random_data, shape, moved_weights):
    data = random_data(5, shape)
    black, white = np.zeros(shape, dtype=np.uint8), np.full(shape, 255, dtype=np.uint8)
    candidates = [(black, 0), (white, 0), (white, 1), (data.images[-1], 0)]
    found = [release(with_last(data, image, label), moved_weights=moved_weights) for image, label in candidates]
    absent = release(replace(data, images=data.images[:-1], labels=data.labels[:-1]), moved_weights=moved_weights)
    assert {run.bound for run in found} == {0.5}
    moved = [float((run.release - absent.release).norm()) for run in found]
    assert max(moved) <= 0.5 * (1 + 1e-5)
    assert min(moved) > 0
    assert max(moved) == pytest.approx(0.5, rel=1e-4)  # clipped: the bound is attained
    replaced = [float((one.release - other.release).norm()) for one in found for other in found]
    assert 0 < max(replaced) <= 1.0 * (1 + 1e-5)


def test_a_contribution_is_the_clipped_gradient_of_the_averaged_loss(random_data):
    """One record alone in its data set, against autograd: multiplicity comes before the clip."""
    data = random_data(1)
    config = Config(**{**SMALL, "noise_multiplicity": 3, "max_grad_norm": 1e6})
    phases = scale_noise(mechanism(config, data.info, "replace_one"), 0.0)
    sanitizer = Recorder(phases, injected_seed=0)
    trainer = Trainer(config, data, sanitizer, {}, torch.device("cpu"), 0)
    network = trainer.model.network
    draws = [tensor[0] for tensor in record_draws(config, (1, 8, 8), 0, "diffusion", 0, [0])]
    loss = record_loss(network, to_model(torch.from_numpy(data.images))[0], torch.tensor([1.0, 0.0]), *draws)
    expected = flatten(torch.autograd.grad(loss, list(network.parameters())))
    sanitizer.open_step(0, 0)
    trainer.step()
    torch.testing.assert_close(sanitizer.release, expected, rtol=1e-4, atol=1e-5)


def test_who_else_is_drawn_does_not_change_a_contribution(random_data):
    """The release is additive over the records: each one's part is what it contributes alone."""
    data = random_data(4)
    together = release(data).release
    nothing = np.full(data.images.shape, np.nan, dtype=np.float32)
    parts = []
    for record in range(4):
        images = nothing.copy()  # the others are no images and contribute nothing
        images[record] = data.images[record]
        parts.append(release(replace(data, images=images)).release)
    torch.testing.assert_close(sum(parts), together, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
def test_a_record_that_is_no_image_contributes_nothing(random_data, value):
    """Data sets are uint8; a data set of floats could hold anything, and must not raise or poison the release."""
    data = random_data(5)
    floats = replace(data, images=data.images.astype(np.float32))
    broken = floats.images[-1].copy()
    broken[0, 3, 3] = value
    found = release(with_last(floats, broken, 0)).release
    expected = release(replace(data, images=data.images[:-1], labels=data.labels[:-1])).release
    assert torch.isfinite(found).all()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
