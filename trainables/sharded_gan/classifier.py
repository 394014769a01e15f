"""The dual-purpose auxiliary classifier of DPAC (Chen, Liu, Ma, Nepal & Xu, CVPR 2023), as a signal of shards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from trainables.base import DataInfo
from trainables.coins import torch_coins
from trainables.networks.critic import Classifiers

from .critics import Batches
from .settings import ClassifierConfig
from .signals import Generate, Stateless, in_groups, is_wide


class SequentialClassifier(Stateless):
    """-score_k(image, label) of a classifier that has seen generated images first and then the records of shard k.

    "Sequentialisation": never both in one batch. Network and Adam start afresh at every step. The first half sees nothing
    private and is the same for all shards of the step, so it is computed once and every drawn shard goes on from a clone.

    Deviations from the published code: the generated images are made in evaluation mode, so that making them moves no state of
    the generator, and the generator's own batch keeps its size (there it stays at 1000 once the classifier is in).
    """

    def __init__(
        self,
        config: ClassifierConfig,
        batches: Batches,
        generate: Generate,
        info: DataInfo,
        seed: int,
        device: torch.device,
    ) -> None:
        self._config, self._batches, self._generate = config, batches, generate
        self._info, self._seed, self._device = info, seed, device

    def answers(self, shards: np.ndarray, images: torch.Tensor, labels: torch.Tensor, step: int) -> torch.Tensor:
        """``[m, B, C, H, W]``: gradient of -score_k in every image."""
        common, adam = self._seen_fakes(step)
        groups = in_groups(shards, 1 if is_wide(self._config.channels, self._device) else None)
        return torch.cat([self._answers(group, images, labels, step, common, adam) for group in groups])[: len(shards)]

    def _seen_fakes(self, step: int) -> tuple[Classifiers, torch.optim.Adam]:
        """The step's new classifier after its updates on generated images; public."""
        config = self._config
        rng = torch_coins(self._seed, "classifier weights", step)
        network = Classifiers(self._info.shape, self._info.classes, channels=config.channels, rngs=[rng]).to(self._device)
        adam = self._adam(network)
        if config.fake_steps:
            labels = torch.arange(config.fake_batch, device=self._device) * self._info.classes // config.fake_batch
            fakes = self._generate(labels, "classifier fakes", (step,))[None]
        for number in range(config.fake_steps):
            if number == 0 or not config.accumulate_fake_gradients:
                adam.zero_grad(set_to_none=True)
            self._loss(network, fakes, labels[None]).sum().backward(inputs=list(network.parameters()))
            adam.step()
        return network, adam

    def _answers(
        self,
        shards: np.ndarray,
        images: torch.Tensor,
        labels: torch.Tensor,
        step: int,
        common: Classifiers,
        common_adam: torch.optim.Adam,
    ) -> torch.Tensor:
        count = len(shards)
        sizes = {"channels": self._config.channels, "count": count}
        network = Classifiers(self._info.shape, self._info.classes, **sizes, rngs=None).to(self._device)
        network.load_state_dict({name: _repeated(tensor, count) for name, tensor in common.state_dict().items()})
        adam = self._adam(network)
        adam.load_state_dict(_repeated_moments(common_adam.state_dict(), count))
        for number in range(self._config.real_steps):
            coins = [torch_coins(self._seed, "classifier batch", step, number, int(shard)) for shard in shards]
            real, real_labels = self._batches.draw(shards, self._config.batch, coins)
            loss = self._loss(network, real, real_labels)
            adam.zero_grad(set_to_none=True)
            loss.sum().backward(inputs=list(network.parameters()))
            adam.step()
        asked = images.detach().expand(count, *images.shape).clone().requires_grad_()
        (gradient,) = torch.autograd.grad(-network(asked, labels.expand(count, -1)).sum(), asked)
        return gradient

    def _adam(self, network: Classifiers) -> torch.optim.Adam:
        return torch.optim.Adam(network.parameters(), lr=self._config.learning_rate, betas=(0.5, 0.9))

    def _loss(self, network: Classifiers, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        config = self._config
        return score_loss(network, images, labels, gradient_penalty=config.gradient_penalty, drift=config.drift)


def score_loss(
    classifiers: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor, *, gradient_penalty: float, drift: float
) -> torch.Tensor:
    """Loss of every classifier ``[S]``: -E score + penalty E (||grad score|| - 1)^2 + drift E score^2, all at the images shown.

    ``images [S, n, C, H, W]``, ``labels [S, n]``; DPAC's loss, for generated and for real images alike. Not a cross-entropy.
    """
    points = images.detach().requires_grad_()
    scores = classifiers(points, labels)
    (gradient,) = torch.autograd.grad(scores.sum(), points, create_graph=True)
    penalty = (gradient.flatten(2).norm(dim=2) - 1).square().mean(dim=1)
    return -scores.mean(dim=1) + gradient_penalty * penalty + drift * scores.square().mean(dim=1)


def _repeated(tensor: torch.Tensor, count: int) -> torch.Tensor:
    """``count`` copies of the one network's slice ``[1, ...]``."""
    return tensor.expand(count, *tensor.shape[1:]).clone()


def _repeated_moments(adam: Mapping[str, Any], count: int) -> dict[str, Any]:
    """Adam's state with the moments of one network copied for ``count``; the number of updates is common to a stack."""
    state = {
        parameter: {name: value.clone() if name == "step" else _repeated(value, count) for name, value in moments.items()}
        for parameter, moments in adam["state"].items()
    }
    groups: Sequence[Any] = adam["param_groups"]
    return {"state": state, "param_groups": groups}
