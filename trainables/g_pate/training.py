"""Training of g_pate: one release of votes on projected directions a step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch

from trainables.base import Dataset
from trainables.coins import torch_coins
from trainables.pate.training import FeedbackTrainer
from trainables.pate.training import load_sampler as load_sampler
from trainables.pate.training import recipe as recipe
from trainables.privacy.sanitizer import Sanitizer

from .method import Config, check


class Trainer(FeedbackTrainer):
    """Long et al., 2021, Algorithm 2: random projection, discretisation, confident GNMax, back projection."""

    def __init__(
        self,
        config: Config,
        data: Dataset,
        sanitizer: Sanitizer,
        stages: Mapping[str, Path],
        device: torch.device,
        seed: int,
    ) -> None:
        check(config, data.info)
        super().__init__(config, data, sanitizer, stages, device, seed)
        self._config = config

    def _direction(self, images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, dict[str, float]]:
        config = self._config
        pixels = images[0].numel()
        # Entries of variance 1 / projections, so that projecting and projecting back is the identity on average.
        coins = torch_coins(self._seed, "projections", self._step)
        matrices = torch.randn(len(images), pixels, config.projections, generator=coins).to(images)
        matrices /= config.projections**0.5

        def choices() -> Iterator[torch.Tensor]:
            for directions in self._bank.directions(images, labels):
                yield to_bins(torch.einsum("sbd,bdp->sbp", directions, matrices), config.clip, config.bins).flatten(1)

        if config.threshold is None:
            counts, passed = self._sanitizer.release_votes(choices()), None
        else:
            needed = config.threshold * config.teachers
            counts, passed = self._sanitizer.release_confident_votes(choices(), threshold=needed)
        coordinates = bin_centres(counts.argmax(dim=1), config.bins)
        if passed is not None:
            coordinates = torch.where(passed, coordinates, 0.0)
        coordinates = coordinates.reshape(len(images), config.projections).to(matrices)
        diagnostics = {"answered": 1.0 if passed is None else float(passed.double().mean())}
        return torch.einsum("bdp,bp->bd", matrices, coordinates), diagnostics


def to_bins(values: torch.Tensor, clip: float, bins: int) -> torch.Tensor:
    """Number (int64, 0 to bins - 1) of the interval of [-clip, clip] that each value, clipped to it, lies in."""
    scaled = (values.clamp(-clip, clip) / clip + 1) * (bins / 2)
    return scaled.long().clamp(0, bins - 1)


def bin_centres(numbers: torch.Tensor, bins: int) -> torch.Tensor:
    """Centres (float64) of the intervals that ``to_bins`` numbers, in units of the clip.

    >>> bin_centres(torch.tensor([0, 1]), 2).tolist()
    [-0.5, 0.5]
    """
    return (2 * numbers.double() + 1) / bins - 1
