"""Training of dp_merf: a generator whose mean features are to be those that were released. All of it is post-processing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from trainables.base import DataInfo, Dataset, Sampler
from trainables.coins import torch_coins
from trainables.networks.averaged import AveragedGenerator, cosine
from trainables.networks.generator import Generator
from trainables.privacy.sanitizer import Sanitizer
from trainables.standalone.recipe import Recipe

from .embedding import FourierFeatures, load
from .generator import PublishedGenerator
from .method import EMBEDDING, Config, check, kernel_width

_STEP_DECAY = 0.9


class Trainer:
    """Trains a generator on the released embedding; the contract is ``trainables.base.Trainer``.

    Of ``data`` it reads the declared facts alone, and it asks nothing of the sanitizer.
    """

    def __init__(
        self,
        config: Config,
        data: Dataset,
        sanitizer: Sanitizer,
        stages: Mapping[str, Path],
        device: torch.device,
        seed: int,
    ) -> None:
        info = data.info
        check(config, info)
        self._config, self._device, self._seed, self._size = config, device, seed, info.size
        self._labels = torch.arange(info.classes, device=device).repeat_interleave(config.batch // info.classes)
        settings = {"features": config.features, "kernel_width": kernel_width(config, info), "release": config.release}
        self._features = FourierFeatures(settings, info.shape, device)
        # A class's mean, were the classes of equal size: how many records one has is not known, and not needed.
        self._target = load(stages[EMBEDDING], device) * (info.classes / info.size)
        generator = recipe(config, info).build(device, torch_coins(seed, "generator"))
        self._network = AveragedGenerator(generator, config.learning_rate)
        self._step = 0

    def step(self) -> dict[str, float]:
        """One generator update: down the squared distance between generated and released means, summed over the classes."""
        config, step = self._config, self._step
        generator = self._network.generator
        z = generator.draw_z(config.batch, torch_coins(self._seed, "z", step))
        images = generator(z, self._labels, torch_coins(self._seed, "noise_injection", step))
        means = self._features(images).reshape(len(self._target), -1, config.features).mean(dim=1)
        loss = (means - self._target).square().sum()
        decay = min(config.ema, (1 + step) / (10 + step))  # forgets the initial weights sooner
        self._network.update(loss, decay=decay, rate=self._rate())
        self._step += 1
        return {"distance": float(loss.detach())}

    def _rate(self) -> float:
        if self._config.rate_schedule == "cosine":
            return cosine(self._step, self._config.steps)
        return _STEP_DECAY ** (self._step // max(self._size // self._config.batch, 1))

    def sample(self, labels: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
        """Images ``[n, C, H, W]`` of the averaged generator."""
        return self._network.average.sample(labels, rng)

    def released(self) -> dict[str, torch.Tensor]:
        """The averaged generator's weights, as ``generator.<name>``."""
        return self._network.released()

    def state_dict(self) -> dict[str, Any]:
        """Both generators, Adam's moments and the step counter; all of it is public."""
        return {"step": self._step, **self._network.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state_dict`` was taken."""
        self._step = state["step"]
        self._network.load_state_dict(state)


def recipe(config: Config, info: DataInfo) -> Recipe:
    """The generator that ``config`` describes."""
    arguments = {"shape": info.shape, "classes": info.classes, "z_dim": config.z_dim}
    if config.generator == "published":
        return Recipe(network=PublishedGenerator, arguments=arguments)
    arguments |= {"channels": config.generator_channels, "noise_injection": config.noise_injection}
    return Recipe(network=Generator, arguments=arguments)


def load_sampler(config: Config, info: DataInfo, released: Mapping[str, torch.Tensor], device: torch.device) -> Sampler:
    """The sampler of a generator that ``Trainer.released`` wrote."""
    return recipe(config, info).load(released, device)
