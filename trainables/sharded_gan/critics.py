"""WGAN-GP on the critics of several shards side by side: stacked weights, one optimiser, nothing shared between them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn

from trainables.coins import torch_coins
from trainables.networks.critic import Critics

from .settings import CriticConfig

Fakes = Callable[[int, torch.Tensor], torch.Tensor]
"""(number of the update, labels int64 ``[S, n]``) -> generated images ``[S, n, C, H, W]``, without a gradient."""


def as_images(pixels: torch.Tensor) -> torch.Tensor:
    """uint8 to [0, 1] in torch's default precision."""
    return pixels.to(torch.get_default_dtype()) / 255


class Batches:
    """The real images of every shard, and the mini-batches of them that public coins choose."""

    def __init__(self, images: torch.Tensor, labels: torch.Tensor, shards: np.ndarray) -> None:
        """``images`` uint8 ``[N, C, H, W]``, ``labels`` int64 ``[N]``, ``shards`` int64 ``[K, n]`` of record indices."""
        self._images, self._labels = images, labels
        self._shards = torch.from_numpy(shards).to(images.device)

    def whole(self, shards: Sequence[int] | np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """All (images ``[S, n, C, H, W]`` in [0, 1], labels ``[S, n]``) of the given shards."""
        records = self._shards[torch.as_tensor(np.asarray(shards), device=self._shards.device)]
        return as_images(self._images[records]), self._labels[records]

    def draw(
        self, shards: Sequence[int] | np.ndarray, size: int, coins: Sequence[torch.Generator]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """``size`` different records of every shard (all, in another order, where it has no more), chosen by its coins."""
        records = self._shards[torch.as_tensor(np.asarray(shards), device=self._shards.device)]
        each = records.shape[1]
        order = torch.stack([torch.randperm(each, generator=rng)[:size] for rng in coins]).to(records.device)
        chosen = records.gather(1, order)
        return as_images(self._images[chosen]), self._labels[chosen]


def critic_loss(
    critics: nn.Module,
    real: torch.Tensor,
    fake: torch.Tensor,
    labels: torch.Tensor,
    mix: torch.Tensor,
    *,
    gradient_penalty: float,
    drift: float,
) -> torch.Tensor:
    """Loss of every critic ``[S]``: -E D(x) + E D(G(z)) + penalty E (||grad D|| - 1)^2 + drift E D(x)^2.

    Real and generated images ``[S, n, C, H, W]`` have the same ``labels [S, n]``; ``mix [S, n, 1, 1, 1]`` in [0, 1] is the
    share of the real image where the gradient is taken (Gulrajani et al., 2017; Ma & Zhang, 2026, equation 12; the drift is
    GS-WGAN's).
    """
    on_real, on_fake = critics(real, labels), critics(fake, labels)
    between = (mix * real + (1 - mix) * fake).requires_grad_()
    (gradient,) = torch.autograd.grad(critics(between, labels).sum(), between, create_graph=True)
    excess = gradient.flatten(2).norm(dim=2) - 1
    penalty = gradient_penalty * excess.square().mean(dim=1)
    return on_fake.mean(dim=1) - on_real.mean(dim=1) + penalty + drift * on_real.square().mean(dim=1)


class CriticTraining:
    """Updates of a stack of critics by Adam, every one on its own shard."""

    def __init__(self, config: CriticConfig, critics: Critics, learning_rate: float) -> None:
        self._config, self._critics = config, critics
        self.optimizer = torch.optim.Adam(critics.parameters(), lr=learning_rate, betas=(0.5, 0.9))

    def update(
        self,
        batches: Batches,
        shards: Sequence[int] | np.ndarray,
        fakes: Fakes,
        *,
        seed: int,
        purpose: str,
        step: int,
        number: int,
    ) -> None:
        """Update ``number`` (from 0) of a step; images and mixes have coins keyed by (seed, purpose, step, number, shard)."""
        config = self._config
        coins = [torch_coins(seed, purpose, step, number, int(shard)) for shard in shards]
        real, labels = batches.draw(shards, config.batch, coins)
        mix = torch.stack([torch.rand(labels.shape[1], 1, 1, 1, generator=rng) for rng in coins]).to(real)
        loss = critic_loss(
            self._critics,
            real,
            fakes(number, labels),
            labels,
            mix,
            gradient_penalty=config.gradient_penalty,
            drift=config.drift,
        )
        self.optimizer.zero_grad(set_to_none=True)
        # The sum: every critic's weights see the gradient of its own loss alone.
        loss.sum().backward(inputs=list(self._critics.parameters()))
        self.optimizer.step()
