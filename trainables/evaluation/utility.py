"""Training classifiers: those of the standard gen2real metrics, and the one that knows the real data.

The recipe is fixed: Adam with a one-cycle rate, random shifts by one pixel for the CNN, the last step's weights (never the
best on any test set). It was chosen on held-out real training images, for classifiers trained on real and on generated
ones. Coins are public and keyed by the caller's seed; with one number of threads on one machine the result is bit for bit
the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from trainables.coins import torch_coins
from trainables.networks.classifier import CNN, MLP, LogisticRegression

Kind = Literal["cnn", "mlp", "logreg"]

PREDICTION_BATCH = 500


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How a classifier is trained by Adam: ``epochs`` passes, at least ``min_steps`` steps, one-cycle up to ``rate``."""

    epochs: int
    rate: float
    batch: int = 64
    min_steps: int = 400
    shift: int = 0
    """Each image moves by up to so many pixels each way, black coming in: a class does not depend on the exact place."""


CNN_SCHEDULE = Schedule(epochs=8, rate=3e-3, shift=1)
MLP_SCHEDULE = Schedule(epochs=10, rate=3e-3)
LOGREG_L2 = 3e-3
LOGREG_ITERATIONS = 100


def train_classifier(
    kind: Kind, images: torch.Tensor, labels: torch.Tensor, classes: int, *, seed: int, device: torch.device
) -> nn.Module:
    """A classifier trained on uint8 ``images [N, C, H, W]`` and int64 ``labels [N]``, in evaluation mode on ``device``."""
    shape = (images.shape[1], images.shape[2], images.shape[3])
    images, labels = images.to(device), labels.to(device)
    with (
        torch.random.fork_rng(devices=[]),
        torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False),
    ):
        # Layers draw their initial weights from the global generator: it is seeded here and put back afterwards.
        torch.manual_seed(torch_coins(seed, f"classifier {kind}").initial_seed())
        if kind == "logreg":
            return _fit_logreg(LogisticRegression(shape, classes).to(device), images, labels).eval()
        network, schedule = (CNN(shape, classes), CNN_SCHEDULE) if kind == "cnn" else (MLP(shape, classes), MLP_SCHEDULE)
        return _fit(network.to(device), images, labels, schedule, torch_coins(seed, f"batches {kind}")).eval()


def accuracy(predicted: torch.Tensor, labels: torch.Tensor, classes: int) -> tuple[float, list[float]]:
    """Share of int64 ``labels [n]`` that ``predicted [n]`` equals, over all and a class (NaN for a class without images)."""
    hits = (predicted == labels).double()
    count = torch.bincount(labels, minlength=classes)
    return hits.mean().item(), (torch.bincount(labels, hits, minlength=classes) / count).tolist()


@torch.no_grad()
def predict(network: nn.Module, images: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Predicted classes, int64 ``[N]`` on the CPU, of uint8 ``images [N, C, H, W]``."""
    return torch.cat([network(as_float(batch.to(device))).argmax(dim=1).cpu() for batch in images.split(PREDICTION_BATCH)])


def as_float(images: torch.Tensor) -> torch.Tensor:
    """uint8 images to float in [0, 1], in the layout that is fastest for the CNN."""
    return (images.float() / 255).contiguous(memory_format=torch.channels_last)


def _fit(
    network: nn.Module, images: torch.Tensor, labels: torch.Tensor, schedule: Schedule, coins: torch.Generator
) -> nn.Module:
    batch = min(schedule.batch, len(images))
    steps = max(schedule.epochs * len(images) // batch, schedule.min_steps)
    network.to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(network.parameters(), lr=schedule.rate)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, schedule.rate, total_steps=steps, pct_start=0.2)
    order = torch.empty(0, dtype=torch.int64)
    for _ in range(steps):
        if len(order) < batch:
            order = torch.randperm(len(images), generator=coins)
        chosen, order = order[:batch].to(images.device), order[batch:]
        pixels = images[chosen]
        if schedule.shift:
            pixels = _shifted(pixels, schedule.shift, coins)
        loss = nn.functional.cross_entropy(network(as_float(pixels)), labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rate.step()
    return network


def _shifted(images: torch.Tensor, reach: int, coins: torch.Generator) -> torch.Tensor:
    """Every image moved by its own offset of at most ``reach`` pixels in each direction, zeros coming in."""
    size, (height, width) = len(images), images.shape[2:]
    padded = nn.functional.pad(images, (reach, reach, reach, reach))
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)
    down, right = torch.randint(0, 2 * reach + 1, (2, size), generator=coins).to(images.device)
    return windows[torch.arange(size, device=images.device), :, down, right]


def _fit_logreg(network: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> nn.Module:
    """L-BFGS on the mean cross-entropy plus L2/2 times the squared weights (not the bias)."""
    pixels = images.float().flatten(1) / 255
    weight, _ = network.parameters()
    optimizer = torch.optim.LBFGS(
        network.parameters(), max_iter=LOGREG_ITERATIONS, history_size=10, line_search_fn="strong_wolfe"
    )

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(network(pixels), labels) + LOGREG_L2 / 2 * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return network
