"""The reference row: no training, and a sampler that hands out real images, each of them once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from trainables.base import DataInfo, Dataset, Sampler
from trainables.coins import torch_coins
from trainables.privacy.sanitizer import Sanitizer

from .method import Config


class Trainer:
    """Keeps a public choice of real images; the contract is ``trainables.base.Trainer``, but for what it keeps."""

    def __init__(
        self,
        config: Config,
        data: Dataset,
        sanitizer: Sanitizer,
        stages: Mapping[str, Path],
        device: torch.device,
        seed: int,
    ) -> None:
        order = torch.randperm(len(data.labels), generator=torch_coins(seed, "real images"))
        labels = torch.from_numpy(data.labels)[order]
        chosen = torch.cat([order[labels == k][: config.samples_a_class] for k in range(data.classes)])
        self._kept = {"images": torch.from_numpy(data.images)[chosen], "labels": torch.from_numpy(data.labels)[chosen]}
        self._sampler = RealImages(**self._kept, device=device)
        self._step = 0

    def step(self) -> dict[str, float]:
        """Nothing is learnt."""
        self._step += 1
        return {}

    def sample(self, labels: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
        """Real images ``[n, C, H, W]`` in [0, 1], none of them twice."""
        return self._sampler(labels, rng)

    def released(self) -> dict[str, torch.Tensor]:
        """``images`` (uint8) and ``labels``. Real data: the file that they are kept in stays with the data's owner."""
        return dict(self._kept)

    def state_dict(self) -> dict[str, Any]:
        """The step alone: the choice of images follows from the seed."""
        return {"step": self._step}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state_dict`` was taken."""
        self._step = state["step"]


class RealImages:
    """A ``Sampler`` that hands out the next images of a class, in an order that is a public choice, and none twice.

    Without replacement over all calls together, so the coins of a call decide nothing: a set with the same image twice
    would not be what its number of images says.
    """

    def __init__(self, images: torch.Tensor, labels: torch.Tensor, device: torch.device) -> None:
        """``images`` uint8 ``[n, C, H, W]`` and ``labels`` int64 ``[n]``."""
        self._images, self._labels, self._device = images, labels, device
        self._used: dict[int, int] = {}

    def __call__(self, labels: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
        """Images in [0, 1] of the classes ``labels [n]``. Raises ``ValueError`` where a class has no more of them."""
        asked = labels.cpu()
        found = self._images.new_empty(len(asked), *self._images.shape[1:])
        for label in asked.unique().tolist():
            places, own = asked == label, torch.nonzero(self._labels == label).flatten()
            start = self._used.get(label, 0)
            end = start + int(places.sum())
            if end > len(own):
                raise ValueError(
                    f"{end} real images of class {label} are asked for in all and {len(own)} are kept; raise samples_a_class "
                    "of the method real (if the training set has more), or lower evaluate.samples or keep_samples"
                )
            found[places] = self._images[own[start:end]]
            self._used[label] = end
        return found.to(self._device).float() / 255


def load_sampler(config: Config, info: DataInfo, released: Mapping[str, torch.Tensor], device: torch.device) -> Sampler:
    """The sampler of the images that ``Trainer.released`` gave, from their first one on."""
    return RealImages(released["images"].cpu(), released["labels"].cpu(), device)
