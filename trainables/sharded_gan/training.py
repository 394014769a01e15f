"""Training of the sharded engine: one step is draw, ask, release, update, average."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trainables.base import DataInfo, Dataset, Sampler
from trainables.coins import torch_coins
from trainables.data.shards import partition
from trainables.networks.averaged import AveragedGenerator, cosine
from trainables.privacy.sanitizer import Sanitizer
from trainables.standalone.recipe import Recipe

from .bounds import row_bound
from .classifier import SequentialClassifier
from .critics import Batches
from .feedback import Feedback
from .feedback import build as build_feedback
from .generators import check_compiler, generator_recipe
from .injected_noise import noise_kind, set_noise
from .method import check, class_presence
from .settings import Config, repulsion_at, signals, weights
from .signals import EnergyCritic, Reconstruction, Signal, TrainedCritic
from .states import ShardStates


class Trainer:
    """Trains the generator by clipped, summed and noised answers of shards; the contract is ``trainables.base.Trainer``."""

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
        generator = recipe(config, data.info).build(device, torch_coins(seed, "generator"))
        self._network = AveragedGenerator(generator, config.learning_rate)
        if config.generator_compiled:
            check_compiler(device)
            generator.compile(dynamic=False)  # the average is not: whoever draws from what is kept does not compile it
        self._step = 0

        shards = partition(data.info.size, config.shards, config.partition_seed)
        batches = Batches(torch.from_numpy(data.images).to(device), torch.from_numpy(data.labels).to(device), shards)
        self._signals = {name: self._signal(name, batches, stages) for name in signals(config)}
        # Summed signals are clipped together, so what is cut off is one error; signals by themselves have one each.
        streams = signals(config) if config.release == "per_signal" else ("sum",)
        self._feedback = {name: self._new_feedback() for name in streams}

    def _signal(self, name: str, batches: Batches, stages: Mapping[str, Path]) -> Signal:
        config, info, seed, device = self._config, self._info, self._seed, self._device
        if name == "reconstruction":
            encoders = ShardStates(stages, "encoders") if config.matching == "latent" else None
            return Reconstruction(config, batches, encoders, info, seed)
        if name == "classifier":
            return SequentialClassifier(config.classifier, batches, self._generate, info, seed, device)
        if config.critic.kind == "energy":
            return EnergyCritic(config.critic, batches, info, seed, device)
        keeps = config.schedule != "sampled"
        pretrained = ShardStates(stages, "critics")
        return TrainedCritic(config.critic, batches, pretrained, self._generate, info, seed, device, keeps=keeps)

    def _new_feedback(self) -> Feedback:
        config = self._config
        return build_feedback(
            config.feedback,
            max_grad_norm=config.max_grad_norm,
            feedback_clip=config.feedback_clip,
            feedback_rate=config.feedback_rate,
            keyed=config.schedule == "round_robin",
        )

    def step(self) -> dict[str, float]:
        """Draw m shards, release their summed answers to B generated images, and follow the release."""
        config, step, generator = self._config, self._step, self._network.generator
        set_noise(generator, config, step, self._seed)
        labels = self._labels(step)
        z = generator.draw_z(len(labels), torch_coins(self._seed, "z", step))
        with self._arithmetic():
            images = generator(z, labels, torch_coins(self._seed, "noise_injection", step))
        images = images.to(z)
        release = self._release(self._sanitizer.sample_shards(), images.detach(), labels)

        # Post-processing from here on. Every divisor is a declared constant, however many shards held a class.
        direction = release.to(images) / config.shards_per_step
        critic = self._signals.get("critic")
        if isinstance(critic, EnergyCritic):
            # The attraction was clipped, and shards without an image of the class gave none; its public counterpart may not
            # outweigh what was left of it.
            bound = row_bound(config.feedback, config.max_grad_norm, config.feedback_clip)
            weight = repulsion_at(config, step) * min(config.critic.weight, bound) * class_presence(config, self._info)
            direction = direction - weight * critic.repulsion(images, labels)
        loss = (images * direction).sum() / config.generator_batch
        rate = cosine(step, config.steps) if config.learning_rate_schedule == "cosine" else 1.0
        self._network.update(loss, decay=min(config.ema, 1 - 1 / (step + 1)), rate=rate)
        self._step += 1
        return {"release_norm": float(release.norm())}

    def _release(self, shards: np.ndarray, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Noisy sum over ``shards`` of their clipped answers, ``[B, C, H, W]``; one release, or one a signal."""
        answers = {
            name: weight * self._signals[name].answers(shards, images, labels, self._step)
            for name, weight in weights(self._config, self._step).items()
        }
        if "sum" in self._feedback:
            first, *others = answers.values()
            answers = {"sum": sum(others, first)}
        released = [self._feedback[name].release(self._sanitizer, answer, shards) for name, answer in answers.items()]
        return sum(released[1:], released[0])

    def _labels(self, step: int) -> torch.Tensor:
        """Labels ``[B]`` of the images of a step: public, and never those of records."""
        classes, count = self._info.classes, self._config.generator_batch
        if self._config.labels == "balanced":
            return torch.arange(classes, device=self._device).repeat_interleave(count // classes)
        if self._config.labels == "fixed":
            return torch.arange(count, device=self._device) % classes
        return torch.randint(classes, (count,), generator=torch_coins(self._seed, "labels", step)).to(self._device)

    def _generate(self, labels: torch.Tensor, purpose: str, key: tuple[int, ...]) -> torch.Tensor:
        """Images of the generator as it is, for critics; their coins move no other stream.

        In evaluation mode: the vectors of a spectral norm would move with every call, and the fakes of a shard would tell how
        many shards were asked before it.
        """
        with self._arithmetic():
            images = self._network.generator.sample(labels, torch_coins(self._seed, purpose, *key))
        return images.to(torch.get_default_dtype())

    def _arithmetic(self) -> torch.autocast:
        """The generator's alone: shards are drawn, asked and released outside of it."""
        return torch.autocast(self._device.type, torch.bfloat16, enabled=self._config.generator_precision == "bfloat16")

    def sample(self, labels: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
        """Images ``[n, C, H, W]`` of the averaged generator."""
        return self._network.average.sample(labels, rng)

    def released(self) -> dict[str, torch.Tensor]:
        """The averaged generator's weights, as ``generator.<name>``."""
        return self._network.released()

    def state_dict(self) -> dict[str, Any]:
        """Both generators, Adam's moments, step counter, buffers; private models only where the schedule lets them stay."""
        kept = {name: signal.state_dict() for name, signal in self._signals.items()}
        buffers = {name: feedback.state_dict() for name, feedback in self._feedback.items()}
        return {"step": self._step, **self._network.state_dict(), "signals": kept, "feedback": buffers}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state_dict`` was taken."""
        self._step = state["step"]
        self._network.load_state_dict(state)
        for name, signal in self._signals.items():
            signal.load_state_dict(state["signals"][name])
        for name, feedback in self._feedback.items():
            feedback.load_state_dict(state["feedback"][name])


def recipe(config: Config, info: DataInfo) -> Recipe:
    """The generator that ``config`` describes."""
    return generator_recipe(
        config.generator,
        info,
        channels=config.generator_channels,
        z_dim=config.z_dim,
        z_distribution=config.z_distribution,
        noise_injection=config.noise_injection,
        noise_kind=noise_kind(config),
    )


def load_sampler(config: Config, info: DataInfo, released: Mapping[str, torch.Tensor], device: torch.device) -> Sampler:
    """The sampler of a generator that ``Trainer.released`` wrote."""
    return recipe(config, info).load(released, device)
