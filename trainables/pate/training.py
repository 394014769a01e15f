"""What the methods of the PATE family share in training: teachers, a generator, and the order of a step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from trainables.base import DataInfo, Dataset, Sampler
from trainables.coins import torch_coins
from trainables.data.shards import partition
from trainables.networks.averaged import AveragedGenerator
from trainables.networks.dcgan import DCGANGenerator
from trainables.networks.generator import Generator
from trainables.privacy.sanitizer import Sanitizer
from trainables.standalone.recipe import Recipe

from .settings import FeedbackConfig, PateConfig, check_pate
from .teachers import TeacherBank


class PateTrainer(ABC):
    """Train the teachers, ask them, release their votes, update the generator; the contract is ``trainables.base.Trainer``.

    Private: the teachers. All else is a function of the releases and of public coins.
    """

    def __init__(
        self,
        config: PateConfig,
        data: Dataset,
        sanitizer: Sanitizer,
        stages: Mapping[str, Path],
        device: torch.device,
        seed: int,
    ) -> None:
        check_pate(config, data.info)
        self._info, self._sanitizer, self._device, self._seed = data.info, sanitizer, device, seed
        self._settings = config
        self._bank = TeacherBank(
            torch.from_numpy(data.images).to(device),
            torch.from_numpy(data.labels).to(device),
            partition(data.info.size, config.teachers, seed),
            data.classes,
            kind=config.teacher,
            width=config.teacher_width,
            batch=config.teacher_batch,
            shown=config.batch,
            learning_rate=config.teacher_learning_rate,
            seed=seed,
        )
        generator = recipe(config, data.info).build(device, torch_coins(seed, "generator"))
        self._network = AveragedGenerator(generator, config.learning_rate)
        self._step = 0

    def step(self) -> dict[str, float]:
        """Update the teachers, then one release and one generator update."""
        config, step = self._settings, self._step
        if step == 0:
            for number in range(config.teacher_pretraining):
                fakes, labels = self._fakes("pretraining fakes", number)
                self._bank.update(fakes, labels, step=-1, number=number)
        for number in range(config.teacher_updates):
            fakes, labels = self._fakes("teacher fakes", step, number)
            self._bank.update(fakes, labels, step=step, number=number)
        diagnostics = self._learn()
        self._step += 1
        return diagnostics

    @abstractmethod
    def _learn(self) -> dict[str, float]:
        """One release, and the updates that are its post-processing; returns diagnostics."""

    def _images(self, purpose: str, *indices: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Generated images ``[batch, C, H, W]`` with a gradient, and their labels, uniform over the classes: public coins."""
        rng, generator = torch_coins(self._seed, purpose, *indices), self._network.generator
        labels = torch.randint(self._info.classes, (self._settings.batch,), generator=rng).to(self._device)
        z = generator.draw_z(len(labels), rng)
        return generator(z, labels, rng), labels

    def _fakes(self, purpose: str, *indices: int) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.no_grad():
            return self._images(purpose, *indices)

    def _update_generator(self, loss: torch.Tensor) -> None:
        decay = min(self._settings.ema, (1 + self._step) / (10 + self._step))  # forgets the initial weights sooner
        self._network.update(loss, decay=decay)

    def sample(self, labels: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
        """Images ``[n, C, H, W]`` of the averaged generator."""
        return self._network.average.sample(labels, rng)

    def released(self) -> dict[str, torch.Tensor]:
        """The averaged generator's weights, as ``generator.<name>``."""
        return self._network.released()

    def state_dict(self) -> dict[str, Any]:
        """Generator and teachers with their Adam moments, and the step counter. The teachers are private, and they are the
        live tensors, not copies: with thousands of teachers there may be no room for two."""
        return {"step": self._step, **self._network.state_dict(), "teachers": self._bank.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state_dict`` was taken."""
        self._step = state["step"]
        self._network.load_state_dict(state)
        self._bank.load_state_dict(state["teachers"])


class FeedbackTrainer(PateTrainer):
    """G-PATE and DataLens: the teachers vote on where every generated image should move, and the generator follows.

    Its loss is the squared error between an image and the image moved, in units of the move: Adam does not see the unit, but
    for its eps. A moved image is clipped to [0, 1]; without that, pixels ran into the sigmoid's flat ends for good before the
    teachers could turn round.
    """

    def __init__(
        self,
        config: FeedbackConfig,
        data: Dataset,
        sanitizer: Sanitizer,
        stages: Mapping[str, Path],
        device: torch.device,
        seed: int,
    ) -> None:
        super().__init__(config, data, sanitizer, stages, device, seed)
        self._image_step = config.image_step

    @abstractmethod
    def _direction(self, images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, dict[str, float]]:
        """The released directions ``[batch, C * H * W]`` of detached ``images``, with entries of about 1, and diagnostics."""

    def _learn(self) -> dict[str, float]:
        images, labels = self._images("z", self._step)
        direction, diagnostics = self._direction(images.detach(), labels)
        moved = images.detach() + self._image_step * direction.to(images).reshape(images.shape)
        self._update_generator((images - moved.clamp(0, 1)).square().sum() / (len(images) * self._image_step))
        return diagnostics


def recipe(config: PateConfig, info: DataInfo) -> Recipe:
    """The generator that ``config`` describes."""
    size = {"z_dim": config.z_dim, "channels": config.generator_channels, "noise_injection": 0.0}
    return Recipe(
        network=Generator if config.generator == "small" else DCGANGenerator,
        arguments={"shape": info.shape, "classes": info.classes, **size},
    )


def load_sampler(config: PateConfig, info: DataInfo, released: Mapping[str, torch.Tensor], device: torch.device) -> Sampler:
    """The sampler of a generator that ``Trainer.released`` wrote."""
    return recipe(config, info).load(released, device)
