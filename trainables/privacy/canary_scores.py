"""The grey-box score of a one-run audit: what the releases themselves say of planted records.

Whoever looks knows everything but the coins: every record that was not planted and whether it was drawn, the canary and the
stand-in of every slot, and the public state of every step. So from each release the drawn records that were not planted are
taken away; what is left holds, for every slot that was drawn, its canary or its stand-in, and the noise. The guarantee covers
this view too: that of Poisson sampling holds whichever other records were drawn (privacy by subsampling is conditional on
them), so the audit of Steinke, Nasr & Jagielski (2023) applies to any score made of it.

With d_i the contribution of canary i minus that of its stand-in, both clipped, and rho what is left of the release, centred at
the mean over the coins, z_i = <rho, d_i> is (q / 2) sum_k b_k <d_k, d_i> plus noise of covariance std^2 <d_i, d_k>, for coins b
of +1 and -1. The score is the posterior mean of b under this Gaussian model, (sum A + 1)^-1 sum y over all steps: the
direction that a canary pushes, less what other canaries push the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    import numpy as np

    from trainables.base import Dataset

_FLOOR = 0.1
"""Noise multiplier that is assumed at least, for the model leaves out which slots were drawn."""


HELD = 2**26
"""Numbers of planted records' contributions that are held at once, twice over: 256 MB each in float32."""


@dataclass(frozen=True)
class RecordContributions:
    """What single records would add to the release that is being made; public, given the records.

    ``of(images, labels)`` takes uint8 images ``[n, C, H, W]`` and labels ``[n]`` and returns ``[n, D / blocks]`` before the
    clip, D being the numbers of a release. ``blocks`` is 1, or the number of classes where the release is a block of equal size
    a class and a record adds to that of its own alone.
    """

    of: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    blocks: int = 1


class CanaryScores:
    """Collects, release by release, what they say of the canaries. Private: it never leaves the owner of the data.

    It reads releases and changes none. Nothing here knows the coins.
    """

    def __init__(self, slots: np.ndarray, canaries: Dataset, stand_ins: Dataset, device: torch.device | str = "cpu") -> None:
        """``slots`` are the positions ``[m]`` of the slots in the training set."""
        self.slots = torch.from_numpy(slots).to(device)
        pairs = canaries, stand_ins
        self._images = torch.cat([torch.from_numpy(part.images) for part in pairs]).to(device)
        self._labels = torch.cat([torch.from_numpy(part.labels) for part in pairs]).to(device)
        count = len(slots)
        self._signal = torch.zeros(count, dtype=torch.float64)
        self._gram = torch.zeros(count, count, dtype=torch.float64)
        self.releases = 0
        """Releases seen so far."""

    def observe(
        self,
        rest: torch.Tensor,
        contributions: RecordContributions,
        *,
        sampling_rate: float,
        noise_multiplier: float,
        max_grad_norm: float,
    ) -> None:
        """Take in a release without what the drawn records outside the slots have added (``rest``, of the release's shape)."""
        count, blocks = len(self.slots), contributions.blocks
        release = rest.detach().double().reshape(blocks, -1)
        products = torch.zeros(2 * count, dtype=torch.float64, device=release.device)
        gram = torch.zeros(2 * count, 2 * count, dtype=torch.float64, device=release.device)
        with torch.no_grad():
            for block in range(blocks):
                rows = (self._labels == block).nonzero().flatten() if blocks > 1 else torch.arange(2 * count).to(self._labels)
                parts = rows.split(max(HELD // release.shape[1], 1)) if len(rows) else ()
                for number, first in enumerate(parts):
                    vectors, weights = self._vectors(first, contributions, max_grad_norm)
                    products[first] = (vectors @ release[block].to(vectors)).double() * weights
                    gram[first[:, None], first] = (vectors @ vectors.T).double() * torch.outer(weights, weights)
                    for second in parts[number + 1 :]:
                        others, other_weights = self._vectors(second, contributions, max_grad_norm)
                        cross = (vectors @ others.T).double() * torch.outer(weights, other_weights)
                        gram[first[:, None], second], gram[second[:, None], first] = cross, cross.T
        between = gram[:count] - gram[count:]  # <d_i, v_k> of every difference and every planted record
        signal = products[:count] - products[count:] - sampling_rate / 2 * between.sum(dim=1)
        differences = between[:, :count] - between[:, count:]
        variance = (noise_multiplier**2 + _FLOOR**2) * max_grad_norm**2
        self._signal += (sampling_rate / 2 / variance * signal).cpu()
        self._gram += (sampling_rate**2 / 4 / variance * differences).cpu()
        self.releases += 1

    def _vectors(
        self, rows: torch.Tensor, contributions: RecordContributions, max_grad_norm: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return _clip(contributions.of(self._images[rows], self._labels[rows]), max_grad_norm)

    def scores(self) -> torch.Tensor:
        """float64 ``[m]``: the higher, the more a slot looks as if its canary were in it."""
        return torch.linalg.solve(self._gram + torch.eye(len(self._gram), dtype=torch.float64), self._signal)

    def state_dict(self) -> dict[str, Any]:
        """What the releases so far have said."""
        return {"signal": self._signal.clone(), "gram": self._gram.clone(), "releases": self.releases}

    def add(self, state: Mapping[str, Any]) -> None:
        """Take in what other releases have said (their ``state_dict``): a checkpoint's, or those of a shared release."""
        self._signal += state["signal"]
        self._gram += state["gram"]
        self.releases += state["releases"]


def _clip(vectors: torch.Tensor, max_grad_norm: float) -> tuple[torch.Tensor, torch.Tensor]:
    """(rows of ``[n, d]``, zero where they are not finite, and the float64 weights that bring them to ``max_grad_norm``)."""
    norms = torch.linalg.vector_norm(vectors, dim=1).double()
    finite = torch.isfinite(norms)
    if not finite.all():
        vectors = torch.where(finite[:, None], vectors, 0.0)
    return vectors, torch.where(finite, max_grad_norm / torch.where(finite, norms, 0.0).clamp_min(max_grad_norm), 0.0)
