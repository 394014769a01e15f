"""Training of dpgan: a private critic step each time, and the generator's steps between them."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trainables.base import DataInfo, Dataset, Sampler
from trainables.coins import torch_coins
from trainables.networks.averaged import AveragedGenerator
from trainables.per_record_gradients import (
    Call,
    assign_gradient,
    gradient_rows,
    micro_batch_size,
    parameter_count,
    record_gradients,
)
from trainables.privacy.canary_scores import RecordContributions
from trainables.privacy.sanitizer import Contribution, Sanitizer, clip_weights
from trainables.standalone.recipe import Recipe

from .critic_steps import CriticSteps
from .method import Config, check, sampling_rate
from .networks import DCGAN, Critic

_BETAS = (0.5, 0.999)


class Trainer:
    """Trains the critic on releases and the generator on the critic; the contract is ``trainables.base.Trainer``.

    The critic's loss is the logistic one, softplus(-D(x)) at a record and softplus(D(G(z))) at a generated image. The release
    holds the records' half alone; the other half is public and is added to it afterwards. The paper clips and noises both
    halves together: that is as private, but the generated images take up some of the length that a record may have and share
    its noise. Here they are clipped to the same C and get no noise. They need no clip to be private; without one they would
    outweigh the records, and a critic could not come to rest where both distributions are the same.
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
        check(config, data.info)
        self._config, self._sanitizer, self._device, self._seed = config, sanitizer, device, seed
        self._info = info = data.info
        self._images, self._labels = torch.from_numpy(data.images), torch.from_numpy(data.labels)
        critic = Critic(info.shape, info.classes, channels=config.critic_channels, rng=torch_coins(seed, "critic"))
        self._critic = critic.to(device)
        self._critic_optimizer = torch.optim.Adam(self._critic.parameters(), lr=config.critic_learning_rate, betas=_BETAS)
        generator = recipe(config, info).build(device, torch_coins(seed, "generator"))
        self._network = AveragedGenerator(generator, config.generator_learning_rate, betas=_BETAS)
        self._micro_batch = micro_batch_size(self._critic)
        self._step = 0
        self._schedule = CriticSteps(config)

    def step(self) -> dict[str, float]:
        """One release and one critic step, and the generator's step after every n_D-th of them."""
        config = self._config
        drawn = torch.from_numpy(self._sanitizer.sample_records())
        self._sanitizer.explain_records(RecordContributions(self._gradients))
        release = self._sanitizer.release_records(self._contributions(drawn), max_grad_norm=config.max_grad_norm)

        # Post-processing from here on. The divisor is the declared mean number of drawn records, never their count.
        gradient = release / (sampling_rate(config, self._info) * self._info.size) + self._fake_gradient()
        assign_gradient(self._critic, gradient)
        self._critic_optimizer.step()
        self._step += 1
        diagnostics = {"release_norm": float(release.norm()), "critic_steps": float(self._schedule.per_generator_step)}
        if self._schedule.critic_stepped():
            diagnostics["fake_accuracy"] = self._generator_step()
        return diagnostics

    def _contributions(self, drawn: torch.Tensor) -> Iterator[Contribution]:
        """The critic's gradients at the drawn records, in micro-batches."""
        for records in drawn.split(self._micro_batch):
            images = self._images[records].to(self._device).float() / 255
            batch = images, self._one_hot(self._labels[records].to(self._device))
            yield replace(record_gradients(self._critic, _real_loss, batch), records=records.to(self._device))

    def _gradients(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The critic's gradients ``[n, P]`` at uint8 ``images``, for an audit."""
        batch = images.to(self._device).float() / 255, self._one_hot(labels.to(self._device))
        return gradient_rows(self._critic, _real_loss, batch)

    def _fake_gradient(self) -> torch.Tensor:
        """Mean ``[P]`` of the critic's clipped gradients at freshly generated images; public."""
        labels, z = self._inputs("critic z", self._config.fake_batch_size)
        images = self._network.generator.generate(z, labels, torch.Generator())
        total = torch.zeros(parameter_count(self._critic), device=self._device)
        for part, one_hot in zip(images.split(self._micro_batch), self._one_hot(labels).split(self._micro_batch), strict=True):
            found = record_gradients(self._critic, _fake_loss, (part, one_hot))
            total += found.weighted_sum(clip_weights(found.norms, self._config.max_grad_norm))
        return total / self._config.fake_batch_size

    def _generator_step(self) -> float:
        """One update of the generator; the share of its images that the critic called fake before it."""
        config = self._config
        labels, z = self._inputs("z", config.generator_batch)
        images = self._network.generator(z, labels, torch.Generator())
        weights = {name: weight.detach() for name, weight in self._critic.named_parameters()}
        logits = torch.func.functional_call(self._critic, weights, (images, self._one_hot(labels)))
        accuracy = float((logits < 0).float().mean())
        self._network.update(nn.functional.softplus(-logits).mean(), decay=config.ema)
        self._schedule.generator_stepped(accuracy)
        return accuracy

    def _inputs(self, purpose: str, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Labels in turn ``[count]`` and latents ``[count, z_dim]``; neither knows how many records a class has."""
        labels = torch.arange(count, device=self._device) % self._info.classes
        return labels, self._network.generator.draw_z(count, torch_coins(self._seed, purpose, self._step))

    def _one_hot(self, labels: torch.Tensor) -> torch.Tensor:
        return nn.functional.one_hot(labels, self._info.classes).float()

    def sample(self, labels: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
        """Images ``[n, C, H, W]`` of the averaged generator."""
        return self._network.average.sample(labels, rng)

    def released(self) -> dict[str, torch.Tensor]:
        """The averaged generator's weights, as ``generator.<name>``."""
        return self._network.released()

    def state_dict(self) -> dict[str, Any]:
        """Networks, Adam's moments, step and schedule; all of it is public."""
        return {
            "step": self._step,
            "schedule": self._schedule.state_dict(),
            "critic": copy.deepcopy(self._critic.state_dict()),
            "critic_optimizer": copy.deepcopy(self._critic_optimizer.state_dict()),
            **self._network.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state_dict`` was taken."""
        self._step = state["step"]
        self._schedule.load_state_dict(state["schedule"])
        self._critic.load_state_dict(state["critic"])
        self._critic_optimizer.load_state_dict(state["critic_optimizer"])
        self._network.load_state_dict(state)


def recipe(config: Config, info: DataInfo) -> Recipe:
    """The generator that ``config`` describes."""
    size = {"z_dim": config.z_dim, "channels": config.generator_channels}
    return Recipe(network=DCGAN, arguments={"shape": info.shape, "classes": info.classes, **size})


def load_sampler(config: Config, info: DataInfo, released: Mapping[str, torch.Tensor], device: torch.device) -> Sampler:
    """The sampler of a generator that ``Trainer.released`` wrote."""
    return recipe(config, info).load(released, device)


def _real_loss(call: Call, image: torch.Tensor, one_hot: torch.Tensor) -> torch.Tensor:
    return nn.functional.softplus(-call(image[None], one_hot[None])[0])


def _fake_loss(call: Call, image: torch.Tensor, one_hot: torch.Tensor) -> torch.Tensor:
    return nn.functional.softplus(call(image[None], one_hot[None])[0])
