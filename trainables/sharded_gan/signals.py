"""What a shard answers: for every generated image, the direction in which a loss of the shard wants it to move.

An answer is a function of (shard, step, public coins, generated images), and of what the shard's model has kept where the
schedule lets it keep something. Nothing here is released: the engine weighs and sums the answers of a shard and hands them to
the sanitizer.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
import torch

from trainables.base import DataInfo
from trainables.coins import torch_coins
from trainables.dp_energy.features import Features
from trainables.networks.critic import Critics
from trainables.networks.encoder import Encoders

from .critics import Batches, CriticTraining
from .settings import Config, CriticConfig
from .states import ShardStates

SHARDS_AT_ONCE = 32
"""Shards whose models are trained side by side; bounds the memory of a step whatever m is."""

WIDE = 64
"""Channels of a critic's first convolution from which on one critic keeps a processor busy by itself."""

MIN_DISTANCE = 0.5
"""Images nearer than this pull with less than a unit vector; it keeps directions finite."""

Generate = Callable[[torch.Tensor, str, tuple[int, ...]], torch.Tensor]
"""(labels ``[n]``, purpose, coin indices) -> generated images ``[n, C, H, W]`` without a gradient."""


class Signal(Protocol):
    """One loss of the shards."""

    def answers(self, shards: np.ndarray, images: torch.Tensor, labels: torch.Tensor, step: int) -> torch.Tensor:
        """Gradient of every shard's loss in every image, ``[m, B, C, H, W]``, for ``images [B, C, H, W]`` and their labels."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """What shards have kept. Private: it stays in the checkpoint."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


class Stateless:
    """A signal whose answer to (shard, step, images) never depends on earlier draws."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        pass


class EnergyCritic(Stateless):
    """The attraction of the energy distance (Szekely & Rizzo, 2013) between generated images and a shard's of their class.

    Image i is answered by the gradient in i of the mean distance ||phi(i) - phi(x)|| to the shard's images x of its class; by
    zero where the shard has none. phi is public: pixels, or pixels joined with random convolutions, over the largest slope that
    it has, so that the clip does not cut into the attraction more than into the repulsion. That one, between generated images,
    is public too and is added after the release.
    """

    def __init__(self, config: CriticConfig, batches: Batches, info: DataInfo, seed: int, device: torch.device) -> None:
        self._batches = batches
        self._features = Features(config, info.channels, seed, device)
        self._slope = self._features.slope(info.shape)

    def answers(self, shards: np.ndarray, images: torch.Tensor, labels: torch.Tensor, step: int) -> torch.Tensor:
        """``[m, B, C, H, W]``; every row has a norm of at most 1."""
        features, pull_back = self._at(images)
        parts = []
        for group in in_groups(shards):
            real, real_labels = self._batches.whole(group)
            others = self._features(real.flatten(0, 1)).unflatten(0, real_labels.shape)
            parts.append(pull_back(_mean_directions(features, others, labels[:, None] == real_labels[:, None, :])))
        return torch.cat(parts)[: len(shards)]

    def repulsion(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Gradient of the mean distance to the other generated images of the class, ``[B, C, H, W]``; zero where it is alone.

        The public half of the energy distance: subtracted from the attraction it keeps the images of a class apart.
        """
        features, pull_back = self._at(images)
        alike = (labels[:, None] == labels[None, :]).fill_diagonal_(False)
        return pull_back(_mean_directions(features, features[None], alike[None]))[0]

    def _at(self, images: torch.Tensor) -> tuple[torch.Tensor, Callable[[torch.Tensor], torch.Tensor]]:
        """phi of ``images [B, C, H, W]``, and the map from directions ``[S, B, d]`` in features to those in images."""
        images = images.detach().requires_grad_()
        features = self._features(images)

        def pull_back(directions: torch.Tensor) -> torch.Tensor:
            if directions.shape[2] == images[0].numel():  # phi is the identity
                return directions.unflatten(2, images.shape[1:])
            (pulled,) = torch.autograd.grad(features, images, directions, retain_graph=True, is_grads_batched=True)
            return pulled / self._slope

        return features.detach(), pull_back


def _mean_directions(images: torch.Tensor, others: torch.Tensor, alike: torch.Tensor) -> torch.Tensor:
    """Mean of (i - j) / ||i - j|| over the ``others [S, n, d]`` that are ``alike [S, B, n]`` image i of ``[B, d]``.

    ``[S, B, d]``, of norm at most 1; zero where none is alike.
    """
    weight = alike / _distances(images, others).clamp_min(MIN_DISTANCE) / alike.sum(dim=2, keepdim=True).clamp_min(1)
    return images * weight.sum(dim=2, keepdim=True) - weight @ others


class TrainedCritic:
    """-D_k(image, label) of a critic that has been trained on shard k (GS-WGAN, Chen et al. 2020).

    sampled: the critics of the drawn shards are clones of the pretrained ones, trained for a few updates against the generator
    as it is, and forgotten. Otherwise a shard goes on from the weights and Adam moments that its last draw left.
    """

    def __init__(
        self,
        config: CriticConfig,
        batches: Batches,
        pretrained: ShardStates,
        generate: Generate,
        info: DataInfo,
        seed: int,
        device: torch.device,
        *,
        keeps: bool,
    ) -> None:
        self._config, self._batches, self._pretrained, self._generate = config, batches, pretrained, generate
        self._info, self._seed, self._device = info, seed, device
        self._keeps = keeps
        self._kept: dict[int, dict[str, Any]] = {}
        self._stacks: dict[int, Critics] = {}

    def answers(self, shards: np.ndarray, images: torch.Tensor, labels: torch.Tensor, step: int) -> torch.Tensor:
        """``[m, B, C, H, W]``: gradient of -D_k in every image after the critics' updates."""
        pool = self._shared_fakes(step)
        alone = self._keeps or is_wide(self._config.channels, self._device)  # Adam has one count of updates for a whole stack
        groups = in_groups(shards, 1 if alone else SHARDS_AT_ONCE)
        return torch.cat([self._answers(group, images, labels, step, pool) for group in groups])[: len(shards)]

    def _answers(
        self, shards: np.ndarray, images: torch.Tensor, labels: torch.Tensor, step: int, pool: torch.Tensor | None
    ) -> torch.Tensor:
        critics = self._stack(len(shards))
        critics.load_state_dict(self._pretrained.read(shards))
        training = CriticTraining(self._config, critics, self._config.learning_rate)
        kept = self._kept.get(int(shards[0])) if self._keeps else None
        if kept is not None:
            critics.load_state_dict(kept["critic"])
            training.optimizer.load_state_dict(kept["adam"])

        def fakes(number: int, wanted: torch.Tensor) -> torch.Tensor:
            if pool is None:
                return self._own_fakes(wanted, step, number, shards)
            coins = [torch_coins(self._seed, "choice of fakes", step, number, int(shard)) for shard in shards]
            choice = [torch.randint(pool.shape[1], (wanted.shape[1],), generator=rng) for rng in coins]
            return pool[wanted, torch.stack(choice).to(wanted.device)]

        for number in range(self._config.steps):
            training.update(self._batches, shards, fakes, seed=self._seed, purpose="critic batch", step=step, number=number)
        asked = images.detach().expand(len(shards), *images.shape).clone().requires_grad_()
        scores = critics(asked, labels.expand(len(shards), -1))
        (gradient,) = torch.autograd.grad(-scores.sum(), asked)
        if self._keeps:
            left = {"critic": critics.state_dict(), "adam": training.optimizer.state_dict()}
            self._kept[int(shards[0])] = copy.deepcopy(left)
        return gradient

    def _stack(self, count: int) -> Critics:
        if count not in self._stacks:
            sizes = {"channels": self._config.channels, "count": count}
            self._stacks[count] = Critics(self._info.shape, self._info.classes, **sizes, rngs=None).to(self._device)
        return self._stacks[count]

    def _own_fakes(self, labels: torch.Tensor, step: int, number: int, shards: np.ndarray) -> torch.Tensor:
        parts = [
            self._generate(wanted, "critic fakes", (step, number, int(shard)))
            for wanted, shard in zip(labels, shards, strict=True)
        ]
        return torch.stack(parts)

    def _shared_fakes(self, step: int) -> torch.Tensor | None:
        """``[classes, n, C, H, W]``: as many images as one critic is shown, the same number of every class."""
        if self._config.fakes == "own":
            return None
        classes = self._info.classes
        each = max(-(-self._config.batch * self._config.steps // classes), 1)
        labels = torch.arange(classes, device=self._device).repeat_interleave(each)
        return self._generate(labels, "shared fakes", (step,)).reshape(classes, each, *self._info.shape)

    def state_dict(self) -> dict[str, Any]:
        return {"kept": copy.deepcopy(self._kept)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._kept = copy.deepcopy(dict(state["kept"]))


class Reconstruction(Stateless):
    """The pull of every generated image towards one real image of its class in the shard (Ma & Zhang, 2026, section 4.3).

    The paper's equation 14, -||G(z) - x||^2 with z and x unrelated, would push away from the mean image; here the sign is
    repaired and x is chosen by ``matching``. The pull is the residual G(z) - x, clipped to norm ``reconstruction_clip`` and
    divided by it, so that it weighs against a critic's gradient, whose norm is about 1: the squared distance's gradient up to
    there, the distance's beyond. z and the labels never depend on x.
    """

    def __init__(self, config: Config, batches: Batches, encoders: ShardStates | None, info: DataInfo, seed: int) -> None:
        self._config, self._batches, self._encoders = config, batches, encoders
        self._info, self._seed = info, seed
        self._stacks: dict[int, Encoders] = {}

    def answers(self, shards: np.ndarray, images: torch.Tensor, labels: torch.Tensor, step: int) -> torch.Tensor:
        """``[m, B, C, H, W]``; every row has a norm of at most 1, and is zero where the shard has no image of the class."""
        flat = images.flatten(1)
        coins = torch.rand(len(images), generator=torch_coins(self._seed, "reconstruction", step)).to(flat)
        parts = []
        for group in in_groups(shards):
            real, real_labels = self._batches.whole(group)
            alike = labels[:, None] == real_labels[:, None, :]
            target = self._targets(group, images, real, alike, coins)
            residual = flat - real.flatten(2).gather(1, target[..., None].expand(-1, -1, flat.shape[1]))
            pull = residual / residual.norm(dim=2, keepdim=True).clamp_min(self._config.reconstruction_clip)
            parts.append(pull * alike.any(dim=2, keepdim=True))
        return torch.cat(parts)[: len(shards)].reshape(len(shards), *images.shape)

    def _targets(
        self, shards: np.ndarray, images: torch.Tensor, real: torch.Tensor, alike: torch.Tensor, coins: torch.Tensor
    ) -> torch.Tensor:
        """Index of every image's target among the shard's images, ``[S, B]``; any where there is none of the class."""
        if self._config.matching == "random":
            # The r-th image of the class, r uniform: the first one whose running count passes coin x count.
            passed = alike.cumsum(dim=2) > (coins[:, None] * alike.sum(dim=2, keepdim=True))
            return passed.to(torch.uint8).argmax(dim=2)
        if self._config.matching == "latent":
            everyone = images.expand(len(shards), *images.shape)
            distances = torch.cdist(self._encode(shards, everyone), self._encode(shards, real))
        else:
            distances = _distances(images.flatten(1), real.flatten(2))
        return distances.masked_fill(~alike, torch.inf).argmin(dim=2)

    @torch.no_grad()
    def _encode(self, shards: np.ndarray, images: torch.Tensor) -> torch.Tensor:
        """Latent means ``[S, n, latent]`` of ``images [S, n, C, H, W]`` by the shards' encoders."""
        assert self._encoders is not None  # matching: latent declares the stage
        count = len(shards)
        if count not in self._stacks:
            settings = self._config.encoder
            sizes = {"latent": settings.latent, "channels": settings.channels, "count": count}
            self._stacks[count] = Encoders(self._info.shape, **sizes, rngs=None).to(images.device)
        encoders = self._stacks[count]
        encoders.load_state_dict(self._encoders.read(shards))
        return encoders(images)[0]


def is_wide(channels: int, device: torch.device) -> bool:
    """Whether critics or classifiers of ``channels`` are better trained one after the other; settings alone decide.

    Side by side narrow ones take a third of the time, but wide ones a third more on a processor: each keeps it busy by itself,
    and what a stack of them reads and writes no longer fits the caches.
    """
    return device.type == "cpu" and channels >= WIDE


def in_groups(shards: np.ndarray, at_once: int | None = None) -> list[np.ndarray]:
    """Groups of equal size, of at most ``SHARDS_AT_ONCE`` unless told; the last one is filled with its last shard again.

    The answers over the count are to be dropped.
    A stack of another size adds in another order: the rounding of a shard's answer would tell how many were drawn with it.
    """
    count = -(-len(shards) // (at_once or SHARDS_AT_ONCE))
    filled = np.append(shards, np.repeat(shards[-1:], -len(shards) % count))
    return np.split(filled, count)


def _distances(images: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    """Euclidean distances ``[S, B, n]`` of ``images [B, d]`` to ``real [S, n, d]``.

    By a matrix product: fast, and exact enough since the sanitizer clips every row whatever it is.
    """
    squares = images.square().sum(dim=1)[:, None] + real.square().sum(dim=2)[:, None, :]
    return (squares - 2 * images @ real.transpose(1, 2)).clamp_min(0).sqrt()
