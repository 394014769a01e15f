"""The denoiser's loss at one record, and the public coins that go into it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from trainables.coins import numpy_coins
from trainables.networks.denoiser import SIGMA_DATA, Denoiser
from trainables.per_record_gradients import Call

from .method import Config

Draws = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Noise ``[n, K, C, H, W]``, noise levels ``[n, K]`` and whether the label is kept ``[n, K]`` (1 or 0), all float32."""


def to_model(images: torch.Tensor) -> torch.Tensor:
    """Images of 0 to 255 as floats in [-1, 1]."""
    return images.float() / 127.5 - 1


def record_draws(
    config: Config, shape: tuple[int, int, int], seed: int, purpose: str, step: int, records: Sequence[int]
) -> Draws:
    """The K draws of each of the ``records`` at ``step``.

    A record's draws are keyed by its index, so they do not depend on who else was drawn: else one record's presence would
    change what the others contribute, and the sensitivity of the sum would not be C.
    """
    count = config.noise_multiplicity
    noise = np.empty((len(records), count, *shape), dtype=np.float32)
    levels = np.empty((len(records), count), dtype=np.float32)
    kept = np.empty((len(records), count), dtype=np.float32)
    for row, record in enumerate(records):
        rng = numpy_coins(seed, purpose, step, record)
        levels[row] = np.exp(config.log_noise_mean + config.log_noise_std * rng.standard_normal(count))
        kept[row] = rng.random(count) >= config.label_dropout
        rng.standard_normal(dtype=np.float32, out=noise[row])
    return torch.from_numpy(noise), torch.from_numpy(levels), torch.from_numpy(kept)


def record_loss(
    call: Call,
    image: torch.Tensor,
    label: torch.Tensor,
    noise: torch.Tensor,
    levels: torch.Tensor,
    kept: torch.Tensor,
) -> torch.Tensor:
    """EDM's weighted squared error at one ``image [C, H, W]`` in [-1, 1], averaged over its K draws and the pixels.

    ``label [classes]`` is a one-hot row; the draws are those of one record. Karras et al. (2022), table 1: the weight
    (s^2 + d^2) / (s d)^2 makes every noise level s count alike at the start, d the standard deviation of the data.
    """
    spread = levels[:, None, None, None]
    denoised = call(image + spread * noise, levels, kept[:, None] * label)
    weights = (spread**2 + SIGMA_DATA**2) / (spread * SIGMA_DATA) ** 2
    return (weights * (denoised - image).square()).mean()


def batch_loss(
    config: Config, network: Denoiser, images: torch.Tensor, labels: torch.Tensor, rng: torch.Generator
) -> torch.Tensor:
    """The mean of ``record_loss`` over PUBLIC ``images [n, C, H, W]`` with ``labels [n, classes]``, one draw each.

    All draws come from ``rng`` (CPU).
    """
    count, device = len(images), images.device
    levels = torch.exp(config.log_noise_mean + config.log_noise_std * torch.randn(count, generator=rng)).to(device)
    kept = (torch.rand(count, generator=rng) >= config.label_dropout).to(images)
    noise = torch.randn(images.shape, generator=rng).to(device)
    return record_loss(network, images, labels, noise, levels, kept)
