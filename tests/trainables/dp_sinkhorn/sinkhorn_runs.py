"""Tiny trainings, step by step."""

import torch

from trainables.base import Dataset
from trainables.dp_sinkhorn import method
from trainables.dp_sinkhorn.training import Trainer
from trainables.privacy.mechanism import scale_noise
from trainables.privacy.sanitizer import Sanitizer

SMALL = {
    "steps": 4,
    "real_batch": 20,
    "generator_batch": 5,
    "labels": "drawn",
    "extra_share": 0.4,
    "max_grad_norm": 0.5,
    "generator_channels": 8,
    "z_dim": 3,
    "learning_rate": 1e-3,
    "learning_rate_schedule": "cosine",
    "ema": 0.9,
}


class Recorder(Sanitizer):
    """The sanitizer, keeping the tensors that it was handed and those that it gave back."""

    def release_tensor(self, tensor, *, max_grad_norm):
        self.handed = tensor.clone()
        self.release = super().release_tensor(tensor, max_grad_norm=max_grad_norm)
        return self.release


def make(data: Dataset, *, sanitizer=Recorder, noise: float = 0.3, injected_seed: int = 5, **settings):
    """A trainer and its sanitizer; ``noise`` multiplies the relative noise."""
    config = method.Config(**{**SMALL, **settings})
    phases = scale_noise(method.mechanism(config, data.info, "replace_one"), noise)
    guard = sanitizer(phases, injected_seed=injected_seed)
    return Trainer(config, data, guard, {}, torch.device("cpu"), 0), guard


def advance(made, start: int, end: int) -> list[dict[str, float]]:
    trainer, guard = made
    diagnostics = []
    for step in range(start, end):
        guard.open_step(step, 0)
        diagnostics.append(trainer.step())
        guard.close_step()
    return diagnostics
