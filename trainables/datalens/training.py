"""Training of datalens: one release of signed votes a step."""

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

SIGN_SCALE = 1e-5
"""b: a vote is +1 with probability 1/2 + g / (2 b) for a gradient g clipped to +-b, b = min(max |g|, SIGN_SCALE)."""


class Trainer(FeedbackTrainer):
    """Wang et al., 2021, Algorithms 1 and 2: stochastic signs of the top k, noisy sum, threshold."""

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

        def votes() -> Iterator[torch.Tensor]:
            for group, directions in enumerate(self._bank.directions(images, labels)):
                coins = torch_coins(self._seed, "signs", self._step, group)
                shape = (*directions.shape[:2], config.top)
                yield signed_votes(directions, torch.rand(shape, generator=coins).to(directions))

        sums = self._sanitizer.release_votes(votes())
        agreed = sums.abs() > config.threshold * config.teachers
        direction = torch.where(agreed, sums.sign(), 0.0)
        return direction, {"answered": float(agreed.double().mean())}


def signed_votes(directions: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """Stochastic signs (int8, else 0) of the k largest entries of the rows of ``directions [S, n, d]``.

    ``uniforms [S, n, k]`` in [0, 1) are the coins: +1 where one is below 1/2 + g / (2 b).
    """
    places = directions.abs().topk(uniforms.shape[2], dim=2, sorted=False).indices
    largest = directions.gather(2, places)
    scale = largest.abs().amax(dim=2, keepdim=True).clamp(1e-30, SIGN_SCALE)
    likely = 0.5 + (largest / scale).clamp(-1, 1) / 2
    signs = torch.where(uniforms < likely, 1, -1).to(torch.int8)
    return torch.zeros(directions.shape, dtype=torch.int8, device=directions.device).scatter_(2, places, signs)
