"""Shared stages: every shard's critic or encoder, trained on that shard alone before any trial.

What a shard's network becomes is a function of (its records, the partition, its own public coins): its fakes come from a
generator that it alone trains, and stacking shares arithmetic but no statistics, clip, scale or stop. Tested: replace a record
of one shard and the networks of all others stay equal to the bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trainables.base import DataInfo, Dataset
from trainables.coins import torch_coins
from trainables.data.shards import partition
from trainables.networks.conditional import ConditionalGenerator
from trainables.networks.critic import Critics
from trainables.networks.encoder import Decoders, Encoders, elbo_loss
from trainables.networks.stacked import StackedGenerators

from .critics import Batches, CriticTraining
from .generators import generator_recipe
from .settings import CriticConfig
from .signals import is_wide
from .states import save_states


def critics(config: Mapping[str, Any], train: Dataset, test: Dataset, directory: Path, device: torch.device) -> None:
    """Stage: WGAN-GP on shards ``first`` to ``first + count``; keeps the critics and drops the shards' own generators."""
    seed, shards, batches = _shards(config, train, device)
    groups = [[shard] for shard in shards] if is_wide(config["critic"]["channels"], device) else [shards]
    states = [_trained_critics(config, train.info, seed, group, batches, device) for group in groups]
    save_states(directory, {name: torch.cat([state[name] for state in states]) for name in states[0]})


def _trained_critics(
    config: Mapping[str, Any], info: DataInfo, seed: int, shards: list[int], batches: Batches, device: torch.device
) -> dict[str, torch.Tensor]:
    """The critics of ``shards`` after pretraining side by side; tensors ``[len(shards), ...]``."""
    settings, pretraining = CriticConfig.model_validate(config["critic"]), config["pretraining"]
    sizes = {"channels": settings.channels, "count": len(shards)}
    network = Critics(info.shape, info.classes, **sizes, rngs=_coins(seed, "critic", shards)).to(device)
    local = _LocalGenerators(pretraining, info, seed, shards, device)
    optimizer = torch.optim.Adam(local.parameters(), lr=pretraining["learning_rate"], betas=(0.5, 0.9))
    training = CriticTraining(settings, network, pretraining["learning_rate"])
    for step in range(pretraining["steps"]):

        def fakes(number: int, labels: torch.Tensor, step: int = step) -> torch.Tensor:
            with torch.no_grad():
                return local(labels, "pretraining fakes", step, number)

        for number in range(pretraining["critic_steps"]):
            training.update(batches, shards, fakes, seed=seed, purpose="pretraining batch", step=step, number=number)
        labels = torch.stack(
            [
                torch.randint(info.classes, (settings.batch,), generator=torch_coins(seed, "pretraining labels", step, shard))
                for shard in shards
            ]
        ).to(device)
        loss = -network(local(labels, "pretraining z", step, 0), labels).mean(dim=1).sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward(inputs=list(local.parameters()))
        optimizer.step()
    return network.state_dict()


def encoders(config: Mapping[str, Any], train: Dataset, test: Dataset, directory: Path, device: torch.device) -> None:
    """Stage: a VAE (Kingma & Welling, 2014) on shards ``first`` to ``first + count``; keeps the encoders."""
    seed, shards, batches = _shards(config, train, device)
    settings = config["encoder"]
    shape = train.info.shape
    sizes = {"latent": settings["latent"], "channels": settings["channels"], "count": len(shards)}
    network = Encoders(shape, **sizes, rngs=_coins(seed, "encoder", shards)).to(device)
    partner = Decoders(shape, **sizes, rngs=_coins(seed, "decoder", shards)).to(device)
    optimizer = torch.optim.Adam([*network.parameters(), *partner.parameters()], lr=settings["learning_rate"])
    for step in range(settings["steps"]):
        coins = [torch_coins(seed, "encoder batch", step, shard) for shard in shards]
        images, _ = batches.draw(shards, settings["batch"], coins)
        noise = torch.stack([torch.randn(images.shape[1], settings["latent"], generator=rng) for rng in coins]).to(images)
        loss = elbo_loss(network, partner, images, noise).sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    save_states(directory, network.state_dict())


class _LocalGenerators:
    """A generator for every shard of a job, which no other shard trains."""

    def __init__(
        self, pretraining: Mapping[str, Any], info: DataInfo, seed: int, shards: Sequence[int], device: torch.device
    ) -> None:
        self._seed, self._shards, self._device, self._z_dim = seed, shards, device, int(pretraining["z_dim"])
        coins = _coins(seed, "local generator", shards)
        self._stack: StackedGenerators | None = None
        self._each: list[ConditionalGenerator] = []
        if pretraining["generator"] == "small":
            sizes = {"z_dim": self._z_dim, "hidden": pretraining["hidden"], "count": len(shards)}
            self._stack = StackedGenerators(info.shape, info.classes, **sizes, rngs=coins).to(device)
        else:
            settings = {name: pretraining[name] for name in ("z_dim", "z_distribution")} | {"noise_injection": 0.0}
            network, channels = pretraining["network"]["generator"], pretraining["network"]["generator_channels"]
            recipe = generator_recipe(network, info, channels=channels, **settings)
            self._each = [recipe.build(device, rng) for rng in coins]

    def parameters(self) -> list[torch.nn.Parameter]:
        networks = self._each if self._stack is None else [self._stack]
        return [parameter for network in networks for parameter in network.parameters()]

    def __call__(self, labels: torch.Tensor, purpose: str, step: int, number: int) -> torch.Tensor:
        """Images ``[S, n, C, H, W]`` for ``labels [S, n]``; z has coins of its own a shard."""
        coins = [torch_coins(self._seed, purpose, step, number, shard) for shard in self._shards]
        count = labels.shape[1]
        if self._stack is not None:
            z = torch.stack([torch.randn(count, self._z_dim, generator=rng) for rng in coins])
            return self._stack(z.to(self._device), labels)
        images = [net(net.draw_z(count, rng), wanted, rng) for net, wanted, rng in zip(self._each, labels, coins, strict=True)]
        return torch.stack(images)


def _shards(config: Mapping[str, Any], train: Dataset, device: torch.device) -> tuple[int, list[int], Batches]:
    settings = config["partition"]
    everywhere = partition(len(train.labels), settings["shards"], settings["seed"])
    shards = list(range(config["first"], config["first"] + config["count"]))
    images, labels = torch.from_numpy(train.images).to(device), torch.from_numpy(train.labels).to(device)
    return settings["seed"], shards, Batches(images, labels, np.asarray(everywhere))


def _coins(seed: int, purpose: str, shards: Sequence[int]) -> list[torch.Generator]:
    return [torch_coins(seed, f"{purpose} weights", shard) for shard in shards]
