"""The classifiers that published results of private image generators are scored by, trained as published.

``lenet``: GS-WGAN's CNN for gray images (Chen, Orekondy and Fritz 2020) and DPAC's CelebA CNN for colour ones (Chen et al.
2023); momentum SGD, 50 epochs, the last one counts. ``mlp_sklearn``: scikit-learn's ``MLPClassifier`` with its own settings
on flat images in [0, 1], for gray and colour alike.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import torch
from torch import nn

from trainables.coins import torch_coins
from trainables.networks.classifier import CelebaCNN, LeNet

from .utility import as_float

if TYPE_CHECKING:
    from sklearn.neural_network import MLPClassifier

EPOCHS, DECAY_AT = 50, 40
BATCH = 128
LENET_RATE, CELEBA_RATE = 0.02, 0.05


def train_lenet(
    images: torch.Tensor, labels: torch.Tensor, classes: int, *, seed: int, device: torch.device, epochs: int = EPOCHS
) -> nn.Module:
    """The CNN trained on uint8 ``images [N, C, H, W]`` and int64 ``labels [N]``, in evaluation mode on ``device``.

    The rate falls to a tenth after four fifths of the ``epochs``.
    """
    shape = (images.shape[1], images.shape[2], images.shape[3])
    images, labels = images.to(device), labels.to(device)
    coins = torch_coins(seed, "batches lenet")
    with (
        torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
        torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False),
    ):
        torch.manual_seed(torch_coins(seed, "classifier lenet").initial_seed())  # initial weights and dropout
        network, rate = (LeNet(shape, classes), LENET_RATE) if shape[0] == 1 else (CelebaCNN(shape, classes), CELEBA_RATE)
        network.to(device).to(memory_format=torch.channels_last).train()
        optimizer = torch.optim.SGD(network.parameters(), lr=rate, momentum=0.9, weight_decay=1e-4)
        schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [epochs * DECAY_AT // EPOCHS], gamma=0.1)
        for _ in range(epochs):
            for chosen in torch.randperm(len(images), generator=coins).to(device).split(BATCH):
                loss = nn.functional.cross_entropy(network(as_float(images[chosen])), labels[chosen])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            schedule.step()
    return network.eval()


def train_mlp(images: torch.Tensor, labels: torch.Tensor, *, seed: int) -> MLPClassifier:
    """scikit-learn's MLP (100 hidden units, Adam at 1e-3, at most 200 iterations) trained on uint8 ``images [N, C, H, W]``."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # 200 iterations are the recipe, whether or not they suffice
        return MLPClassifier(random_state=seed).fit(as_rows(images), labels.numpy())


def as_rows(images: torch.Tensor):
    """uint8 images as float32 rows in [0, 1], ``[N, C * H * W]``."""
    return (images.flatten(1).float() / 255).numpy()
