"""Training of dp_energy: one release a step, and the generator's update as its post-processing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from trainables.base import DataInfo, Dataset, Sampler
from trainables.coins import torch_coins
from trainables.networks.averaged import AveragedGenerator, cosine
from trainables.networks.generator import Generator
from trainables.privacy.canary_scores import RecordContributions
from trainables.privacy.sanitizer import Sanitizer
from trainables.standalone.recipe import Recipe

from .contributions import contributions, repulsion, single_pulls
from .features import Features, as_images
from .method import Config, check, norm_bound, reconstruction_at

Guide = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""A public loss on generated images: (images ``[B, C, H, W]``, labels ``[B]``) to a scalar. A function of releases alone."""

RECORDS_PER_BATCH = 512
"""Records whose features are held at once: 13 MB of 3,088 float64 features. 4096 took twice the time on a CPU."""


class Trainer:
    """Trains the generator by the record-level energy release; the contract is ``trainables.base.Trainer``."""

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
        self._images = torch.from_numpy(data.images).to(device)
        self._record_labels = torch.from_numpy(data.labels).to(device)
        self._labels = torch.arange(data.classes, device=device).repeat_interleave(config.slots // data.classes)
        self._features = Features(config, data.info.channels, seed, device)
        generator = recipe(config, data.info).build(device, torch_coins(seed, "generator"))
        self._network = AveragedGenerator(generator, config.learning_rate)
        self._step = 0

    @property
    def steps_done(self) -> int:
        """Generator updates made so far."""
        return self._step

    def step(self, guide: Guide | None = None) -> dict[str, float]:
        """One release and one generator update, which also follows ``guide`` where there is one."""
        config, step = self._config, self._step
        z = torch.randn(config.slots, config.z_dim, generator=torch_coins(self._seed, "z", step)).to(self._device)
        images = self._network.generator(z, self._labels, torch_coins(self._seed, "noise_injection", step))
        features = self._features(images)
        slots = features.detach().double().reshape(self._info.classes, -1, features.shape[1])
        release = self._release(slots)

        # Post-processing from here on. The divisor is the declared mean number of a class's records, never their count.
        expected = config.sampling_rate * self._info.size / self._info.classes
        direction = release.double() * (slots.shape[1] ** 0.5 / expected)
        if config.energy:
            direction -= repulsion(slots).reshape(direction.shape)
        loss = (features * direction.to(features)).sum() / config.slots
        diagnostics = {"release_norm": float(release.norm())}
        if guide is not None:
            guidance = guide(images, self._labels)
            loss = loss + guidance
            diagnostics["guidance"] = float(guidance.detach())
        decay = min(config.ema, (1 + step) / (10 + step))  # forgets the initial weights sooner
        self._network.update(loss, decay=decay, rate=cosine(step, config.steps))
        self._step += 1
        return diagnostics

    def _release(self, slots: torch.Tensor) -> torch.Tensor:
        """Noisy sum ``[slots, feature_size]`` of the drawn records' pulls on ``slots [classes, n, feature_size]``."""
        config = self._config
        drawn = torch.from_numpy(self._sanitizer.sample_records()).to(self._device)
        pulls = contributions(
            slots,
            drawn,
            self._record_labels[drawn],
            self._record_features,
            energy=config.energy,
            reconstruction=reconstruction_at(config, self._step),
            reconstruction_clip=config.reconstruction_clip,
            batch=RECORDS_PER_BATCH,
        )
        bound = norm_bound(config, self._info.classes, self._step)
        self._sanitizer.explain_records(RecordContributions(partial(self._pulls, slots), blocks=self._info.classes))
        return self._sanitizer.release_records(pulls, max_grad_norm=bound)

    def _pulls(self, slots: torch.Tensor, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """What uint8 ``images`` of one class would add to the release, ``[n, slots of a class * feature_size]``."""
        config = self._config
        usable_images, usable = as_images(images)
        return single_pulls(
            slots[labels[0]],
            self._features(usable_images),
            usable,
            energy=config.energy,
            reconstruction=reconstruction_at(config, self._step),
            reconstruction_clip=config.reconstruction_clip,
        )

    def _record_features(self, records: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        images, usable = as_images(self._images[records])
        return self._features(images), usable

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
    arguments = {
        "shape": info.shape,
        "classes": info.classes,
        "z_dim": config.z_dim,
        "channels": config.generator_channels,
        "noise_injection": config.noise_injection,
    }
    return Recipe(network=Generator, arguments=arguments)


def load_sampler(config: Config, info: DataInfo, released: Mapping[str, torch.Tensor], device: torch.device) -> Sampler:
    """The sampler of a generator that ``Trainer.released`` wrote."""
    return recipe(config, info).load(released, device)
