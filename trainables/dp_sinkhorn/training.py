"""Training of dp_sinkhorn: one release of an image gradient a step, and the generator's update as its post-processing."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trainables.base import DataInfo, Dataset, Sampler
from trainables.coins import torch_coins
from trainables.dp_energy.features import as_images
from trainables.networks.averaged import PREFIX, AveragedGenerator, cosine
from trainables.privacy.sanitizer import Sanitizer, clip_weights
from trainables.standalone.recipe import Recipe

from .generator import SinkhornGenerator
from .method import Config, check, extra_images
from .transport import joint_points, largest_cost, transport_cost

MOST_RECORDS = 4
"""A draw of more than this times ``real_batch`` uses the first ones, so that memory is bounded whatever is drawn. From 50
expected records on, that happens in fewer than 1 of 1e50 steps."""

STATISTICS_BATCHES, STATISTICS_BATCH = 10, 100
"""Generated images that the kept statistics of batch norm are taken from."""


class Trainer:
    """Trains the generator by the whole-tensor Sinkhorn release; the contract is ``trainables.base.Trainer``."""

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
        generator = recipe(config, data.info).build(device, torch_coins(seed, "generator"))
        self._network = AveragedGenerator(generator, config.learning_rate, betas=(0.9, 0.999), weight_decay=config.weight_decay)
        self._step = 0

    def step(self) -> dict[str, float]:
        """One release and one generator update."""
        config, step, n = self._config, self._step, self._config.generator_batch
        z, labels = self._inputs(n, extra_images(config), "step", step)
        images = 2 * self._network.generator(z, labels, torch_coins(self._seed, "unused", step)) - 1  # in [-1, 1]
        apart = self._public_gradient(images.detach(), labels)
        together = self._data_gradient(images[:n].detach(), labels[:n])
        release = self._sanitizer.release_tensor(together + apart[:n], max_grad_norm=config.max_grad_norm)

        # Post-processing from here on. No record has a part in the gradient of the other images, so it needs the clip alone.
        others = apart[n:]
        others = others * clip_weights(others.norm(), config.max_grad_norm)
        rate = cosine(step, config.steps) if config.learning_rate_schedule == "cosine" else 1.0
        decay = min(config.ema, (1 + step) / (10 + step))  # forgets the initial weights sooner
        self._network.update((images * torch.cat([release, others])).sum(), decay=decay, rate=rate)
        self._step += 1
        return {"release_norm": float(release.norm())}

    def _inputs(self, count: int, repeated: int, purpose: str, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """z and labels of ``count`` images and of ``repeated`` others, which have the labels of the first ones."""
        coins = torch_coins(self._seed, purpose, index)
        z = self._network.generator.draw_z(count + repeated, coins)
        if self._config.labels == "balanced":  # the remainder of a division by the classes goes to other ones each time
            labels = (torch.arange(count) + torch.randint(self._info.classes, (1,), generator=coins)) % self._info.classes
        else:
            labels = torch.randint(self._info.classes, (count,), generator=coins)
        return z, torch.cat([labels, labels[:repeated]]).to(self._device)

    def _public_gradient(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Gradient of -W(X, X') with respect to all n + n' images ``[n + n', C, H, W]``: X the first n, X' the last n."""
        n = self._config.generator_batch
        leaves = images.requires_grad_()
        points = self._points(leaves, labels)
        (gradient,) = torch.autograd.grad(-self._transport_cost(points[:n], points[-n:]), leaves)
        return gradient

    def _data_gradient(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Gradient of 2 W(X, Y) with respect to the images X ``[n, C, H, W]``, Y the drawn records; zeros if there are none."""
        drawn = torch.from_numpy(self._sanitizer.sample_records()).to(self._device)
        drawn = drawn[: MOST_RECORDS * self._config.real_batch]
        records, usable = as_images(self._images[drawn])
        records, record_labels = records[usable], self._record_labels[drawn][usable]
        if not len(records):
            return torch.zeros_like(images)
        leaves = images.requires_grad_()
        cost = self._transport_cost(self._points(leaves, labels), self._points(2 * records - 1, record_labels))
        (gradient,) = torch.autograd.grad(2 * cost, leaves)
        return gradient

    def _points(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return joint_points(images, labels, self._info.classes, self._config.label_weight)

    def _transport_cost(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        config = self._config
        pixels = self._info.channels * self._info.height * self._info.width
        return transport_cost(
            x,
            y,
            l1_weight=config.l1_weight,
            temperature=config.temperature,
            first_temperature=largest_cost(pixels, config.label_weight, config.l1_weight),
        )

    def sample(self, labels: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
        """Images ``[n, C, H, W]`` of the averaged generator."""
        return self._kept().sample(labels, rng)

    def released(self) -> dict[str, torch.Tensor]:
        """The averaged generator's weights and statistics, as ``generator.<name>``."""
        return {f"{PREFIX}{name}": tensor for name, tensor in self._kept().state_dict().items()}

    @torch.no_grad()
    def _kept(self) -> SinkhornGenerator:
        """The averaged generator, with batch-norm statistics of images that it generates from public coins.

        Those of the training are of other weights than the averaged ones.
        """
        kept = copy.deepcopy(self._network.average)
        assert isinstance(kept, SinkhornGenerator)
        for norm in kept.norms:
            assert isinstance(norm, nn.BatchNorm2d)
            norm.reset_running_stats()
            norm.momentum = None  # the mean over all batches since
        kept.train()
        for number in range(STATISTICS_BATCHES):
            kept(*self._inputs(STATISTICS_BATCH, 0, "statistics", number), torch_coins(self._seed, "unused", number))
        return kept.eval()

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
        "label_dim": config.label_dim,
        "channels": config.generator_channels,
    }
    return Recipe(network=SinkhornGenerator, arguments=arguments)


def load_sampler(config: Config, info: DataInfo, released: Mapping[str, torch.Tensor], device: torch.device) -> Sampler:
    """The sampler of a generator that ``Trainer.released`` wrote."""
    return recipe(config, info).load(released, device)
