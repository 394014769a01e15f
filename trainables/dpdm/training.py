"""Training of dpdm: a step is one released gradient and one step of Adam."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from trainables.base import DataInfo, Dataset, Sampler
from trainables.networks.averaged import cosine
from trainables.per_record_gradients import assign_gradient, micro_batch_size, record_gradients
from trainables.privacy.sanitizer import Contribution, Sanitizer
from trainables.standalone.recipe import Recipe

from .diffusion import record_draws, record_loss, to_model
from .method import Config, check, network_plan
from .model import PREFIX, Model
from .sampler import DiffusionGenerator

IMAGES_AT_ONCE = 512
"""Noisy images (records x noise multiplicity) that the denoiser works on at once."""


class Trainer:
    """Trains the denoiser by DP-SGD; the contract is ``trainables.base.Trainer``."""

    def __init__(
        self,
        config: Config,
        data: Dataset,
        sanitizer: Sanitizer,
        stages: Mapping[str, Path],
        device: torch.device,
        seed: int,
    ) -> None:
        check(config, data.info)
        self._config, self._sanitizer, self._device, self._seed = config, sanitizer, device, seed
        self._info = data.info
        self._images, self._labels = torch.from_numpy(data.images), torch.from_numpy(data.labels)
        self.model = Model(network_plan(config, data.info), config.sampler, device, seed)
        self._step = 0

    def step(self) -> dict[str, float]:
        """One release and one step of Adam."""
        config, step = self._config, self._step
        drawn = torch.from_numpy(self._sanitizer.sample_records())
        release = self._sanitizer.release_records(self._gradients(drawn), max_grad_norm=config.max_grad_norm)
        # The divisor is the declared mean number of records, never how many were drawn.
        assign_gradient(self.model.network, release / (config.sampling_rate * self._info.size))
        rate = config.learning_rate * cosine(step, config.steps, config.final_learning_rate)
        self.model.update(rate=rate, decay=min(config.ema, (1 + step) / (10 + step)))  # forgets the initial weights sooner
        self._step += 1
        return {"release_norm": float(release.norm())}

    def _gradients(self, drawn: torch.Tensor) -> Iterator[Contribution]:
        """Gradients of the ``drawn`` records, in micro-batches."""
        config, network = self._config, self.model.network
        size = min(micro_batch_size(network), max(1, IMAGES_AT_ONCE // config.noise_multiplicity))
        for records in drawn.split(size):
            draws = record_draws(config, self._info.shape, self._seed, "diffusion", self._step, records.tolist())
            one_hot = torch.nn.functional.one_hot(self._labels[records], self._info.classes).float()
            batch = (to_model(self._images[records]), one_hot, *draws)
            yield record_gradients(network, record_loss, [tensor.to(self._device) for tensor in batch])

    def sample(self, labels: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
        """Images ``[n, C, H, W]`` of the averaged denoiser."""
        return self.model.sample(labels, rng)

    def released(self) -> dict[str, torch.Tensor]:
        """The averaged denoiser's weights, as ``denoiser.<name>``."""
        return self.model.released()

    def state_dict(self) -> dict[str, Any]:
        """Both denoisers, Adam's moments and the step counter; all of it is public."""
        return {"step": self._step, **self.model.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state_dict`` was taken."""
        self._step = state["step"]
        self.model.load_state_dict(state)


def recipe(config: Config, info: DataInfo) -> Recipe:
    """The denoiser and the sampler that ``config`` describes."""
    settings = {"network": config.network.model_dump(), "sampler": config.sampler.model_dump()}
    return Recipe(
        network=DiffusionGenerator, arguments={"shape": info.shape, "classes": info.classes, **settings}, prefix=PREFIX
    )


def load_sampler(config: Config, info: DataInfo, released: Mapping[str, torch.Tensor], device: torch.device) -> Sampler:
    """The sampler of a denoiser that ``Trainer.released`` wrote."""
    return recipe(config, info).load(released, device)
