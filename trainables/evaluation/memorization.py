"""Do generated images lie nearer to the training records than to records that the generator has never seen?

An indicator of memorisation, not of privacy: a share of one half proves nothing, for distances of pixels see few of the ways
in which a generator can leak (van Breugel et al. 2023; arXiv 2505.01524). What bounds leakage is epsilon.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from trainables.base import Dataset
from trainables.coins import torch_coins

COMPARED = 10_000
"""Most training records, and most held-out records, that are compared with."""
LEVEL = 0.95
"""Of the interval."""
BLOCK = 1000


def compute_reference(
    train: Dataset, test: Dataset, directory: Path, *, samples: int, seed: int, device: torch.device
) -> dict[str, float]:
    """Write ``memorization.safetensors`` into ``directory``: the records that ``measure`` compares with.

    As many of the training set as of the test set, a public choice; at most half of the training set, since the others take
    the place of generated images in the value that is returned, ``samples`` of them or all: what a generator reaches that
    draws from the same law and has seen neither of the two.
    """
    size = min(len(train.labels) // 2, len(test.labels), COMPARED)
    images, held_out = torch.from_numpy(train.images), torch.from_numpy(test.images)
    order = torch.randperm(len(images), generator=torch_coins(seed, "memorization: training records"))
    chosen = torch.randperm(len(held_out), generator=torch_coins(seed, "memorization: held-out records"))[:size]
    records = {"train": images[order[:size]].contiguous(), "held_out": held_out[chosen].contiguous()}
    save_file(records, directory / "memorization.safetensors")
    return measure(images[order[size : size + samples]], records, device)


def load_reference(directory: Path) -> dict[str, torch.Tensor]:
    """``train`` and ``held_out``, uint8 ``[n, C, H, W]`` each, as ``compute_reference`` wrote them."""
    return load_file(directory / "memorization.safetensors")


def measure(images: torch.Tensor, records: dict[str, torch.Tensor], device: torch.device) -> dict[str, float]:
    """The share of uint8 ``images [N, C, H, W]`` that are nearer to a record of ``train`` than to all of ``held_out``.

    Distances are Euclidean on pixels, a tie counts half. With it the Clopper-Pearson interval of level ``LEVEL``; it covers
    the draw of the generated images alone, not that of the two sets of records.
    """
    train, held_out = (nearest(images, records[name], device) for name in ("train", "held_out"))
    hits = (train < held_out).sum().item() + (train == held_out).sum().item() / 2
    low, high = clopper_pearson(hits, len(images))
    return {"memorization_pixels": hits / len(images), "memorization_pixels_low": low, "memorization_pixels_high": high}


def nearest(images: torch.Tensor, records: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Squared distance of each of uint8 ``images [n, ...]`` to its nearest of ``records [m, ...]``: int64 ``[n]``."""
    rows = _centred(records, device)
    squares = rows.square().sum(dim=1)
    found = []
    for block in images.split(BLOCK):
        chosen = torch.addmm(squares, _centred(block, device), rows.T, alpha=-2).argmin(dim=1).cpu()
        # float32 is near enough to find the record and not to tell whether it is the same image
        found.append((block.flatten(1).long() - records[chosen].flatten(1).long()).square().sum(dim=1))
    return torch.cat(found)


def clopper_pearson(hits: float, n: int, level: float = LEVEL) -> tuple[float, float]:
    """Exact confidence interval of a binomial share (Clopper and Pearson 1934); ``hits`` may end in a half.

    >>> low, high = clopper_pearson(5, 10)
    >>> round(low, 4), round(high, 4), clopper_pearson(0, 10)[0], clopper_pearson(10, 10)[1]
    (0.1871, 0.8129, 0.0, 1.0)
    """
    from scipy.stats import beta

    tail = (1 - level) / 2
    low = float(beta.ppf(tail, hits, n - hits + 1)) if hits > 0 else 0.0
    high = float(beta.ppf(1 - tail, hits + 1, n - hits)) if hits < n else 1.0
    return low, high


def _centred(images: torch.Tensor, device: torch.device) -> torch.Tensor:
    """float32 rows about zero: their products then lose fewer digits."""
    return images.to(device).flatten(1).float() - 128
