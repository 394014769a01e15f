"""Classifiers of an evaluation: a small CNN, an MLP and multinomial logistic regression.

All take float images ``[n, C, H, W]`` in [0, 1] (C 1 or 3; H = W a multiple of 4) and return logits ``[n, classes]``.
"""

from __future__ import annotations

import torch
from torch import nn

FEATURES = 64
"""Dimension of the CNN's features, the layer before its last one."""


class CNN(nn.Module):
    """Two strided convolutions and a hidden layer of ``FEATURES`` units: 0.4 million multiplications a 28x28 image.

    Normalised by groups of channels within an image: running statistics of generated images would be wrong for real ones.
    """

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        channels, height, width = shape
        self.trunk = nn.Sequential(
            nn.Conv2d(channels, 16, 5, stride=2, padding=2, bias=False),
            nn.GroupNorm(4, 16),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False),
            nn.GroupNorm(4, 32),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(32 * (height // 4) * (width // 4), FEATURES),
            nn.ReLU(),
        )
        self.head = nn.Linear(FEATURES, classes)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """``[n, FEATURES]``, not negative."""
        return self.trunk(images)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(images))


class MLP(nn.Sequential):
    """One hidden layer of 100 units on the flat image."""

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        channels, height, width = shape
        super().__init__(nn.Flatten(), nn.Linear(channels * height * width, 100), nn.ReLU(), nn.Linear(100, classes))


class LogisticRegression(nn.Sequential):
    """Linear in the pixels; starts at zero, so it needs no seed."""

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        channels, height, width = shape
        linear = nn.Linear(channels * height * width, classes)
        nn.init.zeros_(linear.weight)
        nn.init.zeros_(linear.bias)
        super().__init__(nn.Flatten(), linear)


class LeNet(nn.Module):
    """The CNN that GS-WGAN (Chen et al. 2020) and its successors are scored by, for gray images: LeNet-5 with ReLU.

    Normalised by MNIST's mean and deviation on every data set, as published.
    """

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        channels, height, width = shape
        self.layers = nn.Sequential(
            nn.Conv2d(channels, 6, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 16, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(16 * ((height // 2 - 4) // 2) * ((width // 2 - 4) // 2), 120),
            nn.ReLU(),
            nn.Linear(120, 84),
            nn.ReLU(),
            nn.Linear(84, classes),
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layers((images - 0.1307) / 0.3081)


class CelebaCNN(nn.Module):
    """The CNN that DPAC (Chen et al. 2023) scores generated CelebA images by, for colour images."""

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        channels, height, width = shape
        left = [((side - 2) // 2 - 2) // 2 - 2 for side in (height, width)]
        self.layers = nn.Sequential(
            nn.Conv2d(channels, 32, 3),
            nn.MaxPool2d(2),
            nn.ReLU(),
            nn.Dropout2d(0.5),
            nn.Conv2d(32, 64, 3),
            nn.MaxPool2d(2),
            nn.ReLU(),
            nn.Dropout2d(0.5),
            nn.Conv2d(64, 128, 3),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(128 * left[0] * left[1], 128),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(128, classes),
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layers((images - 0.5) / 0.5)
