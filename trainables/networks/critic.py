"""The two private networks of a shard that judge an image with its label, several side by side.

GS-WGAN's spectral-norm projection critic (Chen, Orekondy & Fritz, 2020) and DPAC's dual-purpose classifier (Chen, Liu, Ma,
Nepal & Xu, 2023) stand on the same convolutions. No network sees another's values: scores, gradients and the norms' vectors of
one are the same bits whatever the images of the others. A part of a stack is
``load_state_dict({name: full[name][ids] for name in full})``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from .layers import SNConv2d, SpectralNorm
from .stacked import check_rngs, from_channels, to_channels

_THREE_HALVINGS = 32
"""Longest side that three convolutions take, as published; longer ones get a fourth, so that 64x64 leaves 4x4 as 32x32 does."""


class _Trunk(nn.Module):
    """5x5 convolutions of stride 2 to c, 2c and 4c channels (and 8c for sides over 32), all with spectral norm and ReLU."""

    def __init__(self, shape: tuple[int, int, int], channels: int, count: int) -> None:
        super().__init__()
        colours, height, width = shape
        self.conv1 = SNConv2d(colours, channels, 5, stride=2, padding=2, stack=count)
        self.conv2 = SNConv2d(channels, 2 * channels, 5, stride=2, padding=2, stack=count)
        self.conv3 = SNConv2d(2 * channels, 4 * channels, 5, stride=2, padding=2, stack=count)
        self.conv4 = None
        if max(height, width) > _THREE_HALVINGS:
            self.conv4 = SNConv2d(4 * channels, 8 * channels, 5, stride=2, padding=2, stack=count)
        shrunk = 2 ** len(self._convolutions())
        self._flat = shrunk // 2 * channels * -(-height // shrunk) * -(-width // shrunk)

    def _convolutions(self) -> list[SNConv2d]:
        return [layer for layer in (self.conv1, self.conv2, self.conv3, self.conv4) if layer is not None]

    def _features(self, images: torch.Tensor) -> torch.Tensor:
        """``[S, n, flat]`` of ``images [S, n, C, H, W]``."""
        hidden = to_channels(images)
        for layer in self._convolutions():
            hidden = nn.functional.relu(layer(hidden))
        return from_channels(hidden, len(images)).flatten(2)


class Critics(_Trunk):
    """``count`` independent critics; every parameter and buffer has a leading axis of ``count``, one slice a critic.

    One critic: three 5x5 convolutions of stride 2 to c, 2c and 4c channels with ReLU, flat to h, and the score of label y
    = w' h + b + E[y]' h; all weights spectrally normalised. With c = ``channels`` = 64 it has 1,071,105 weights for 28x28
    gray images of 10 classes and 1,041,537 for 32x32 RGB images of 2 (DPAC). Sides over 32 (none is published) get a fourth
    convolution to 8c channels.

    Deviations from the published code: those of ``SpectralNorm``; all convolutions of a stack are one grouped convolution,
    and the scores of all labels are computed and one is picked (the same function).
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        classes: int,
        *,
        channels: int = 64,
        count: int = 1,
        rngs: Sequence[torch.Generator] | None = None,
    ) -> None:
        """``shape`` is (C, H, W). Critic s is drawn from ``rngs[s]`` alone (None: all will be loaded), with the
        distributions that torch gives the published layers.

        Raises ``ValueError`` where there is not one generator a critic.
        """
        super().__init__(shape, channels, count)
        self.linear = SpectralNorm((1, self._flat), stack=count)
        self.embedding = SpectralNorm((classes, self._flat), stack=count, bias=False)
        if rngs is not None:
            check_rngs(rngs, count)
            for layer in (*self._convolutions(), self.linear):
                layer.draw(rngs)
            self.embedding.draw(rngs, normal=True)

    def forward(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Scores ``[S, n]`` of ``images [S, n, C, H, W]`` and int64 ``labels [S, n]``; row s is critic s's."""
        assert self.linear.bias is not None
        # Row 0 is the label-free score, the others are the labels': one product of [S, n, flat] with [S, 1 + classes, flat].
        features = self._features(images)
        weight = torch.cat([self.linear.normalised(), self.embedding.normalised()], dim=1)
        products = features @ weight.mT
        by_label = products[..., 1:].gather(2, labels.unsqueeze(2)).squeeze(2)
        return products[..., 0] + self.linear.bias + by_label


class Classifiers(_Trunk):
    """``count`` independent dual-purpose classifiers (DPAC, Chen et al., 2023), stacked as ``Critics`` are.

    One classifier: the critic's convolutions, flat to h, and outputs o = W h + b, one a class; the score of label y is
    o_y less the mean of the other outputs (published as the sum of o weighted +1 for y and -1 / (classes - 1) for the
    others). It is a score like a critic's, without a softmax, and is trained as one. With c = ``channels`` = 64 it has
    1,067,018 weights for 28x28 gray images of 10 classes and 1,037,442 for 32x32 RGB images of 2.

    Deviations from the published code: those of ``SpectralNorm``, and one grouped convolution for a stack.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        classes: int,
        *,
        channels: int = 64,
        count: int = 1,
        rngs: Sequence[torch.Generator] | None = None,
    ) -> None:
        """``shape`` is (C, H, W); classifier s is drawn from ``rngs[s]`` as a critic is (None: all will be loaded).

        Raises ``ValueError`` where there are fewer than 2 classes or not one generator a classifier.
        """
        if classes < 2:
            raise ValueError(f"a classifier tells classes apart and needs at least 2 of them, not {classes}")
        super().__init__(shape, channels, count)
        self._classes = classes
        self.linear = SpectralNorm((classes, self._flat), stack=count)
        if rngs is not None:
            check_rngs(rngs, count)
            for layer in (*self._convolutions(), self.linear):
                layer.draw(rngs)

    def forward(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Scores ``[S, n]`` of ``images [S, n, C, H, W]`` and int64 ``labels [S, n]``; row s is classifier s's."""
        assert self.linear.bias is not None
        outputs = self._features(images) @ self.linear.normalised().mT + self.linear.bias.unsqueeze(1)
        others = 1 / (self._classes - 1)
        weights = nn.functional.one_hot(labels, self._classes).to(outputs) * (1 + others) - others
        return (outputs * weights).sum(dim=2)
