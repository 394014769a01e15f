"""Teachers: many small conditional critics, each on its own part of the records, computed and trained side by side.

A teacher's state is a function of its part, of the generated images it was shown (public) and of its own coins: all arithmetic
is stacked, and nothing is shared between teachers. They are trained and asked a group at a time, so that memory does not grow
with how many there are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from trainables.coins import torch_coins
from trainables.networks.stacked import StackedConv2d, StackedLinear, from_channels, initialise_stack, to_channels

TeacherKind = Literal["dense", "convolutional"]

_SLOPE = 0.2
_WORKING_SET = 1 << 22
"""Numbers that a group's images may take, or one teacher where that alone is more: 16 MB of float32, as groups of four times as
many took 1.6 times as long."""


class DenseTeachers(nn.Module):
    """``count`` critics of one hidden layer: pixels -> ``width`` units, with a bias a class -> score, with weights a class.

    A label that only entered as a bias would hardly turn the direction in which a critic wants an image to move.
    """

    def __init__(self, shape: tuple[int, int, int], classes: int, *, width: int, count: int) -> None:
        super().__init__()
        # [in, out], unlike torch's layers: their transposed product took 1.3 to 1.5 times as long on a CPU.
        self.pixels = nn.Parameter(torch.empty(count, torch.Size(shape).numel(), width))
        self.bias = nn.Parameter(torch.empty(count, classes, width))
        self.score = nn.Parameter(torch.empty(count, classes, width))

    @torch.no_grad()
    def draw(self, rngs: Sequence[torch.Generator]) -> None:
        """Normal weights, zero biases; critic s is drawn from ``rngs[s]`` alone.

        He's scale for the scores and a tenth of it for the pixels, so that where a critic wants an image to move is what it has
        learnt and not where it began: after ten updates the votes of DataLens agree three times as much.
        """
        self.bias.zero_()
        for weight, std in (
            (self.pixels, 0.1 * (2 / self.pixels.shape[1]) ** 0.5),
            (self.score, (2 / self.score.shape[2]) ** 0.5),
        ):
            for slice_, rng in zip(weight, rngs, strict=True):
                slice_.copy_(torch.randn(slice_.shape, generator=rng) * std)

    def forward(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Scores ``[S, n]`` of ``images [S, n, C, H, W]`` and int64 ``labels [S, n]``."""
        places = labels[..., None].expand(-1, -1, self.bias.shape[2])
        hidden = torch.baddbmm(self.bias.gather(1, places), images.flatten(2), self.pixels)
        return (nn.functional.leaky_relu(hidden, _SLOPE) * self.score.gather(1, places)).sum(dim=2)


class ConvolutionalTeachers(nn.Module):
    """``count`` DCGAN critics as in G-PATE and DataLens: two 5x5 convolutions of stride 2, a dense layer of 256, a score.

    The convolutions have C + classes and ``width`` + classes channels. Labels enter every layer, as a bias a class: published
    is a constant map a class beside the layer's inputs, the same function but at the zero-padded border. No batch norm.
    """

    def __init__(self, shape: tuple[int, int, int], classes: int, *, width: int, count: int) -> None:
        super().__init__()
        colours, height, width_ = shape
        first, second, hidden = colours + classes, width + classes, 256
        self._classes = classes
        self.conv1 = StackedConv2d(count, colours, first, 5, stride=2, padding=2)
        self.conv2 = StackedConv2d(count, first, second, 5, stride=2, padding=2)
        self.dense = StackedLinear(count, second * -(-height // 4) * -(-width_ // 4), hidden)
        self.score = StackedLinear(count, hidden, 1)
        self.labels = nn.ModuleList(StackedLinear(count, classes, size) for size in (first, second, hidden, 1))

    def draw(self, rngs: Sequence[torch.Generator]) -> None:
        """He normal weights, zero biases; critic s is drawn from ``rngs[s]`` alone."""
        initialise_stack(self, rngs)

    def forward(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Scores ``[S, n]`` of ``images [S, n, C, H, W]`` and int64 ``labels [S, n]``."""
        one_hot = nn.functional.one_hot(labels, self._classes).to(images)
        biases = [label(one_hot) for label in self.labels]
        features = to_channels(images)
        for layer, bias in zip((self.conv1, self.conv2), biases[:2], strict=True):
            features = layer(features) + to_channels(bias[..., None, None])
            features = nn.functional.leaky_relu(features, _SLOPE)
        hidden = self.dense(from_channels(features, len(images)).flatten(2)) + biases[2]
        return (self.score(nn.functional.leaky_relu(hidden, _SLOPE)) + biases[3]).squeeze(2)


KINDS: dict[TeacherKind, type[DenseTeachers] | type[ConvolutionalTeachers]] = {
    "dense": DenseTeachers,
    "convolutional": ConvolutionalTeachers,
}


class TeacherBank:
    """K teachers, their parts of the records, and their training: binary cross-entropy, Adam with betas (0.5, 0.999)."""

    def __init__(
        self,
        images: torch.Tensor,
        labels: torch.Tensor,
        parts: np.ndarray,
        classes: int,
        *,
        kind: TeacherKind,
        width: int,
        batch: int,
        shown: int,
        learning_rate: float,
        seed: int,
    ) -> None:
        """``images`` uint8 ``[N, C, H, W]``, ``labels`` int64 ``[N]``, ``parts`` int64 ``[K, n]`` of record indices.

        ``batch``: real records an update, at most a whole part. ``shown``: the most generated images in one call, by which
        groups are sized. Raises ``ValueError`` where parts share a record.
        """
        if len(np.unique(parts)) != parts.size:
            raise ValueError(f"the parts of {len(parts)} teachers share records; every record belongs to one teacher")
        self._images, self._labels, self._seed = images, labels, seed
        self._parts = torch.from_numpy(parts).to(images.device)
        self._batch = min(batch, parts.shape[1])
        shape = (images.shape[1], images.shape[2], images.shape[3])
        each = max(1, _WORKING_SET // ((self._batch + shown) * images[0].numel()))
        self._groups: list[tuple[slice, nn.Module, torch.optim.Optimizer]] = []
        for first in range(0, len(parts), each):
            members = slice(first, min(first + each, len(parts)))
            coins = [torch_coins(seed, "teacher weights", k) for k in range(members.start, members.stop)]
            network = KINDS[kind](shape, classes, width=width, count=len(coins))
            network.draw(coins)
            network.to(images.device)
            optimizer = torch.optim.Adam(network.parameters(), lr=learning_rate, betas=(0.5, 0.999), fused=True)
            self._groups.append((members, network, optimizer))

    def update(self, fakes: torch.Tensor, labels: torch.Tensor, *, step: int, number: int) -> None:
        """One update of every teacher: own real records against ``fakes [n, C, H, W]`` of ``labels [n]``, the same for all.

        Where a part is larger than the batch, coins keyed by (seed, step, number) choose from the parts of all teachers.
        """
        records = self._parts
        if self._batch < records.shape[1]:
            order = torch.rand(records.shape, generator=torch_coins(self._seed, "teacher batch", step, number)).argsort(dim=1)
            records = records.gather(1, order[:, : self._batch].to(records.device))
        for members, network, optimizer in self._groups:
            own = records[members]
            images = torch.cat([self._images[own].to(fakes).div_(255), fakes.expand(len(own), *fakes.shape)], dim=1)
            scores = network(images, torch.cat([self._labels[own], labels.expand(len(own), -1)], dim=1))
            real, fake = scores.split([own.shape[1], len(fakes)], dim=1)
            losses = nn.functional.softplus(-real).mean(dim=1) + nn.functional.softplus(fake).mean(dim=1)
            optimizer.zero_grad(set_to_none=True)
            losses.sum().backward()  # the sum: every teacher's weights see the gradient of its own loss alone
            optimizer.step()

    def scores(self, images: torch.Tensor, labels: torch.Tensor) -> Iterator[torch.Tensor]:
        """Scores ``[S, n]`` of every group, positive for real, of ``images [n, C, H, W]`` and ``labels [n]``."""
        for members, network, _ in self._groups:
            count = members.stop - members.start
            with torch.no_grad():
                yield network(images.expand(count, *images.shape), labels.expand(count, -1))

    def directions(self, images: torch.Tensor, labels: torch.Tensor) -> Iterator[torch.Tensor]:
        """Where every teacher of a group wants the images to move, ``[S, n, C * H * W]``, finite.

        Minus the gradient of the generator's loss, the mean over images of softplus(-score), at ``images [n, C, H, W]`` of
        ``labels [n]``. What is not finite counts as 0.
        """
        for members, network, _ in self._groups:
            count = members.stop - members.start
            shown = images.detach().expand(count, *images.shape).requires_grad_()
            loss = nn.functional.softplus(-network(shown, labels.expand(count, -1))).mean(dim=1).sum()
            (gradient,) = torch.autograd.grad(loss, shown)
            yield -gradient.flatten(2).nan_to_num(0.0, 0.0, 0.0)

    def state_dict(self) -> dict[str, Any]:
        """Weights and Adam's moments of all groups: private, a checkpoint's alone."""
        return {
            "networks": [network.state_dict() for _, network, _ in self._groups],
            "optimizers": [optimizer.state_dict() for *_, optimizer in self._groups],
        }

    def load_state_dict(self, state: Mapping[str, Sequence[Any]]) -> None:
        """Go on where ``state_dict`` was taken."""
        for (_, network, optimizer), weights, moments in zip(self._groups, state["networks"], state["optimizers"], strict=True):
            network.load_state_dict(weights)
            optimizer.load_state_dict(moments)
