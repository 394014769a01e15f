"""The classifiers that published results of private image generators are scored by, trained as published.

``lenet``: GS-WGAN's CNN for gray images (Chen, Orekondy and Fritz 2020) and DPAC's CelebA CNN for colour ones (Chen et al.
2023); momentum SGD, 50 epochs, the last one counts. ``mlp_sklearn``: scikit-learn's ``MLPClassifier`` with its own settings
on flat images in [0, 1], for gray and colour alike.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from trainables.base import Dataset
from trainables.coins import torch_coins
from trainables.networks.classifier import MLP, CelebaCNN, LeNet

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
        network, rate = _lenet(shape, classes), LENET_RATE if shape[0] == 1 else CELEBA_RATE
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


def as_network(mlp: MLPClassifier, shape: tuple[int, int, int], classes: int) -> MLP:
    """The same function as a network: logits ``[n, classes]``, minus infinity for a class that it was never shown."""
    (hidden, out), (hidden_bias, out_bias) = (
        [torch.from_numpy(part) for part in parts] for parts in (mlp.coefs_, mlp.intercepts_)
    )
    if out.shape[1] == 1:  # of two classes scikit-learn models the second alone
        out, out_bias = (torch.cat([torch.zeros_like(part), part], dim=-1) for part in (out, out_bias))
    shown = torch.from_numpy(mlp.classes_)
    weight, bias = out.new_zeros(classes, len(out)), out.new_full((classes,), -torch.inf)
    weight[shown], bias[shown] = out.T, out_bias
    with torch.device("meta"):
        network = MLP(shape, classes)
    tensors = dict(zip(network.state_dict(), (hidden.T, hidden_bias, weight, bias), strict=True))
    network.load_state_dict(tensors, assign=True)
    return network.eval()


def compute_reference(train: Dataset, directory: Path, *, seed: int, device: torch.device) -> None:
    """Write ``prior_work.safetensors`` into ``directory``: both classifiers, trained on all of ``train``."""
    images, labels = torch.from_numpy(train.images), torch.from_numpy(train.labels)
    networks = {
        "lenet": train_lenet(images, labels, train.classes, seed=seed, device=device),
        "mlp_sklearn": as_network(train_mlp(images, labels, seed=seed), train.info.shape, train.classes),
    }
    tensors = {f"{kind}.{name}": value for kind, network in networks.items() for name, value in network.state_dict().items()}
    save_file({name: value.cpu().contiguous() for name, value in tensors.items()}, directory / "prior_work.safetensors")


def load_reference(directory: Path, shape: tuple[int, int, int], classes: int, device: torch.device) -> dict[str, nn.Module]:
    """The classifiers of real data that ``compute_reference`` wrote, ``lenet`` and ``mlp_sklearn``, in evaluation mode."""
    tensors = load_file(directory / "prior_work.safetensors")
    with torch.device("meta"):  # no initial weights: drawing them would advance the global coins
        networks = {"lenet": _lenet(shape, classes), "mlp_sklearn": MLP(shape, classes)}
    for kind, network in networks.items():
        network.load_state_dict({name: tensors[f"{kind}.{name}"] for name in network.state_dict()}, assign=True)
        network.to(device).eval()
    return networks


def _lenet(shape: tuple[int, int, int], classes: int) -> nn.Module:
    return LeNet(shape, classes) if shape[0] == 1 else CelebaCNN(shape, classes)


def as_rows(images: torch.Tensor):
    """uint8 images as float32 rows in [0, 1], ``[N, C * H * W]``."""
    return (images.flatten(1).float() / 255).numpy()
