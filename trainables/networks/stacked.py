"""Stacks of small independent networks, one a shard, computed together: every parameter has a leading axis of networks.

Network s reads slice s of everything and is drawn from its own coins, so what happens to one shard's records reaches no other
shard's network, and a network is the same bits whichever others it was made with.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn


class StackedLinear(nn.Module):
    """``stack`` dense layers, ``[S, n, in] -> [S, n, out]``."""

    def __init__(self, stack: int, in_features: int, out_features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(stack, out_features, in_features))
        self.bias = nn.Parameter(torch.empty(stack, out_features))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return torch.baddbmm(self.bias.unsqueeze(1), features, self.weight.mT)


class StackedConv2d(nn.Module):
    """``stack`` convolutions as one grouped convolution, ``[n, S * in, h, w] -> [n, S * out, h', w']``."""

    def __init__(self, stack: int, in_channels: int, out_channels: int, kernel: int, *, stride: int, padding: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(stack, out_channels, in_channels, kernel, kernel))
        self.bias = nn.Parameter(torch.empty(stack, out_channels))
        self._stride, self._padding = stride, padding

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        weight, bias = self.weight.flatten(0, 1), self.bias.flatten()
        return nn.functional.conv2d(features, weight, bias, stride=self._stride, padding=self._padding, groups=len(self.weight))


def to_channels(images: torch.Tensor) -> torch.Tensor:
    """``[S, n, C, H, W]`` with the networks' images side by side as channels, ``[n, S * C, H, W]``."""
    return images.transpose(0, 1).flatten(1, 2)


def from_channels(features: torch.Tensor, stack: int) -> torch.Tensor:
    """The inverse of ``to_channels``."""
    return features.unflatten(1, (stack, -1)).transpose(0, 1)


def check_rngs(rngs: Sequence[torch.Generator], count: int) -> None:
    """Raise ``ValueError`` unless there is one generator a network."""
    if len(rngs) != count:
        raise ValueError(f"a stack of {count} networks needs {count} generators of initial weights, not {len(rngs)}")


def initialise_stack(module: nn.Module, rngs: Sequence[torch.Generator]) -> None:
    """``layers.initialise`` a network: slice s of every parameter is drawn from ``rngs[s]`` alone.

    He normal matrices and kernels, zero biases.
    """
    with torch.no_grad():
        for parameter in module.parameters():
            check_rngs(rngs, len(parameter))
            for slice_, rng in zip(parameter, rngs, strict=True):
                if slice_.ndim == 1:
                    slice_.zero_()
                    continue
                std = (2 / slice_[0].numel()) ** 0.5
                slice_.copy_(torch.randn(slice_.shape, generator=rng) * std)


class StackedGenerators(nn.Module):
    """Small generators, the private sparring partners of critics in pretraining; never released.

    z and one-hot label -> two hidden layers of ``hidden`` units, leaky ReLU -> sigmoid. In the published pretraining every
    critic has a ResNet generator of its own; a dense one makes 28x28 images in a thousandth of the products.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        classes: int,
        *,
        z_dim: int,
        hidden: int,
        count: int,
        rngs: Sequence[torch.Generator] | None = None,
    ) -> None:
        """``shape`` is (C, H, W); generator s is drawn from ``rngs[s]`` (None: all will be loaded)."""
        super().__init__()
        self.z_dim, self._shape, self._classes = z_dim, shape, classes
        self.layer1 = StackedLinear(count, z_dim + classes, hidden)
        self.layer2 = StackedLinear(count, hidden, hidden)
        self.to_pixels = StackedLinear(count, hidden, torch.Size(shape).numel())
        if rngs is not None:
            initialise_stack(self, rngs)

    def forward(self, z: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Images ``[S, n, C, H, W]`` in [0, 1] for ``z [S, n, z_dim]`` and int64 ``labels [S, n]``."""
        hidden = torch.cat([z, nn.functional.one_hot(labels, self._classes).to(z)], dim=2)
        for layer in (self.layer1, self.layer2):
            hidden = nn.functional.leaky_relu(layer(hidden), 0.2)
        return torch.sigmoid(self.to_pixels(hidden)).unflatten(2, self._shape)
