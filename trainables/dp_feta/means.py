"""Noisy mean images of the classes: the private release, and its augmentation, which is public."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

from trainables.base import Dataset
from trainables.privacy.sanitizer import Contribution, Sanitizer

from .method import Config, WarmUpConfig, mean_norm_bound

RECORDS_PER_BATCH = 1024
"""Records whose small images are held at once."""


def release_means(config: Config, data: Dataset, sanitizer: Sanitizer, device: torch.device) -> torch.Tensor:
    """One release: mean images ``[classes, C, H, W]`` in [-1, 1], enlarged to the size of a record.

    The sum is divided by the declared number of records a class, q N / classes, so that the mean of a rarer class comes out
    darker; its sensitivity is the same for all.
    """
    drawn = torch.from_numpy(sanitizer.sample_records())
    bound = mean_norm_bound(config, data.info)
    release = sanitizer.release_records(_contributions(config, data, drawn, device), max_grad_norm=bound)
    expected = config.warm_up.sampling_rate * data.info.size / data.info.classes
    size = (data.info.height, data.info.width)
    small = (release / expected).clamp(0, 1)
    return torch.nn.functional.interpolate(small, size, mode="bilinear", align_corners=False) * 2 - 1


def _contributions(config: Config, data: Dataset, drawn: torch.Tensor, device: torch.device) -> Iterator[Contribution]:
    """Small images of the ``drawn`` records in their classes' slots, in micro-batches."""
    images, labels = torch.from_numpy(data.images), torch.from_numpy(data.labels)
    for records in drawn.split(RECORDS_PER_BATCH):
        full = images[records].to(device).double() / 255
        yield in_slots(
            torch.nn.functional.avg_pool2d(full, config.warm_up.downsample), labels[records].to(device), data.classes
        )


def in_slots(images: torch.Tensor, labels: torch.Tensor, classes: int) -> Contribution:
    """``images [n, C, h, w]`` (float64), each in slot ``labels[r]`` of ``[classes, C, h, w]`` and zero elsewhere.

    An image with a value that is not finite contributes nothing.
    """
    rows = images.flatten(1)
    norms = rows.norm(dim=1)
    usable = torch.where(torch.isfinite(norms)[:, None], rows, 0.0)

    def weighted_sum(weights: torch.Tensor) -> torch.Tensor:
        one_hot = torch.nn.functional.one_hot(labels, classes).to(usable)
        return ((weights.to(usable)[:, None] * one_hot).T @ usable).reshape(classes, *images.shape[1:])

    return Contribution(norms=norms, weighted_sum=weighted_sum)


def augment(images: torch.Tensor, config: WarmUpConfig, rng: torch.Generator) -> torch.Tensor:
    """``images [n, C, H, W]`` in [-1, 1], each turned, moved, scaled, sheared and changed in contrast at random.

    What comes in from outside repeats the border. ``rng`` is a CPU generator. No flips: digits are not symmetric.
    """
    count = len(images)

    def uniform(reach: float, *more: int) -> torch.Tensor:
        return (torch.rand(count, *more, generator=rng) * 2 - 1) * reach

    angle = uniform(math.radians(config.rotation))
    rotation = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], dim=1).reshape(count, 2, 2)
    stretch = torch.eye(2) + uniform(config.scale, 2, 2)
    moves = uniform(2 * config.shift, 2, 1)  # the grid's sides are 2 long
    contrast = 1 + uniform(config.contrast)
    transform = torch.cat([rotation @ stretch, moves], dim=2).to(images)
    grid = torch.nn.functional.affine_grid(transform, list(images.shape), align_corners=False)
    moved = torch.nn.functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
    return (moved * contrast.to(images)[:, None, None, None]).clamp(-1, 1)
