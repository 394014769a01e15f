"""A one-run audit of a trained generator: how many of the coins that planted its canaries it gives away.

Steinke, Nasr & Jagielski (NeurIPS 2023). Scores are fixed before anyone looks: the black box sees samples of the kept
generator, the grey box the releases themselves (``trainables.privacy.canary_scores``). What is proven holds for each score by
itself. No result of an audit says that a generator is private.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from trainables.base import DataInfo, Dataset, Sampler
from trainables.coins import torch_coins
from trainables.data.canaries import Planted
from trainables.privacy.audit_bound import highest_bound, lower_bound, p_value
from trainables.privacy.mechanism import Neighbours

from .evaluate import SAMPLING_BATCH

BLACK_BOX = (
    "L2 distance in pixels to the nearest real test image of the class minus that to the nearest generated one, of the canary "
    "minus of its stand-in"
)
GREY_BOX = (
    "posterior mean of the coins given what every release holds of planted records (the records drawn outside the slots are "
    "known), under a Gaussian model"
)
NO_GREY_BOX = "the method has none"

_AT_ONCE = 256
"""Images whose distances to all others are held at once."""


def audit(
    planted: Planted,
    sampler: Sampler,
    grey_box: torch.Tensor | None,
    *,
    samples: int,
    seed: int,
    info: DataInfo,
    guesses: int,
    confidence: float,
    delta: float,
    neighbours: Neighbours,
    epsilon: float | None,
) -> dict[str, Any]:
    """The audit as JSON: settings, the highest bound that it could have shown, and by score the right guesses and the bound.

    ``samples`` images are drawn anew from ``sampler``; ``grey_box`` are scores ``[m]``, None where the method has none.
    ``epsilon`` is the proven one, None or infinite where nothing is: what is reported beside each bound is the largest
    probability of guessing so well under it.
    """
    count = len(planted.present)
    settings: dict[str, Any] = {"canaries": count, "guesses": guesses, "delta": delta}
    bounds: dict[str, Any] = {**settings, "confidence": confidence, "neighbours": neighbours}

    def result(scores: np.ndarray, definition: str) -> dict[str, Any]:
        right = right_guesses(scores, planted.present, guesses)
        chance = None
        if epsilon is not None and math.isfinite(epsilon):
            chance = p_value(epsilon, right=right, neighbours=neighbours, **settings)
        return {"definition": definition, "right": right, "bound": lower_bound(right=right, **bounds), "p_at_epsilon": chance}

    black = black_box(planted, sampler, samples=samples, seed=seed, info=info)
    return {
        **bounds,
        "origin": planted.origin,
        "samples": samples,
        "highest_bound": highest_bound(**bounds),
        "black_box": result(black, BLACK_BOX),
        "grey_box": {"definition": NO_GREY_BOX} if grey_box is None else result(grey_box.numpy(), GREY_BOX),
    }


def right_guesses(scores: np.ndarray, present: np.ndarray, guesses: int) -> int:
    """How many of the coins are guessed rightly: in for the half of ``guesses`` with the highest scores, out for the lowest.

    Scores that are equal keep the order of the slots, which no coin decides; NaN counts as zero.

    >>> right_guesses(np.array([3.0, 1.0, 2.0, 0.0]), np.array([True, False, False, True]), 4)
    2
    """
    order = np.argsort(np.nan_to_num(scores), kind="stable")
    out, inside = order[: guesses // 2], order[len(order) - guesses // 2 :]
    return int(present[inside].sum() + (~present[out]).sum())


def black_box(planted: Planted, sampler: Sampler, *, samples: int, seed: int, info: DataInfo) -> np.ndarray:
    """Scores ``[m]``: how much nearer the generator comes to a canary than real images do, less the same of its stand-in."""
    images, labels = fresh_samples(sampler, samples=samples, seed=seed, info=info)
    generated = Dataset(images=images, labels=labels, classes=info.classes)

    def closeness(records: Dataset) -> np.ndarray:
        return nearest(records, planted.test) - nearest(records, generated)

    return closeness(planted.canaries) - closeness(planted.stand_ins)


@torch.no_grad()
def fresh_samples(sampler: Sampler, *, samples: int, seed: int, info: DataInfo) -> tuple[np.ndarray, np.ndarray]:
    """(images uint8 ``[samples, C, H, W]``, labels), the same number of every class, by coins that no metric uses."""
    labels = torch.arange(samples) % info.classes
    parts = []
    for number, batch in enumerate(labels.split(SAMPLING_BATCH)):
        found = sampler(batch, torch_coins(seed, "audit samples", number)).detach().cpu()
        parts.append((found.nan_to_num() * 255).round().clamp(0, 255).to(torch.uint8))
    return torch.cat(parts).numpy(), labels.numpy()


def nearest(records: Dataset, among: Dataset) -> np.ndarray:
    """L2 distance of every record to the nearest image of its class in ``among``, float64 ``[n]``; 0 where that has none.

    Pixels are in [0, 1].
    """
    found = np.zeros(len(records.labels))
    for label in np.unique(records.labels):
        rows = np.flatnonzero(records.labels == label)
        others = _pixels(among.images[among.labels == label])
        if len(others):
            parts = _pixels(records.images[rows]).split(_AT_ONCE)
            found[rows] = torch.cat([torch.cdist(part, others).amin(dim=1) for part in parts]).numpy()
    return found


def _pixels(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(images)).flatten(1).float() / 255
