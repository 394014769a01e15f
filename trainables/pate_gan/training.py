"""Training of pate_gan: one release of noisy labels a step, an update of the student and one of the generator."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trainables.base import Dataset
from trainables.coins import torch_coins
from trainables.pate.teachers import KINDS
from trainables.pate.training import PateTrainer
from trainables.pate.training import load_sampler as load_sampler
from trainables.pate.training import recipe as recipe
from trainables.privacy.sanitizer import Sanitizer

from .method import Config, check


class Trainer(PateTrainer):
    """Jordon, Yoon and van der Schaar, 2019, Algorithm 1. The student and the generator are functions of noisy labels."""

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
        self._student = KINDS[config.teacher](data.info.shape, data.classes, width=config.student_width, count=1)
        self._student.draw([torch_coins(seed, "student weights")])
        self._student.to(device)
        self._optimizer = torch.optim.Adam(self._student.parameters(), lr=config.student_learning_rate, betas=(0.5, 0.999))

    def _learn(self) -> dict[str, float]:
        config = self._config
        fakes, labels = self._fakes("labelled", self._step)
        votes = ((scores > 0).to(torch.uint8) for scores in self._bank.scores(fakes, labels))
        share = self._sanitizer.release_votes(votes) / config.teachers
        targets = (share > 0.5).to(share) if config.label == "majority" else share.clamp(0, 1)
        loss = nn.functional.binary_cross_entropy_with_logits(self._score(fakes, labels), targets)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._optimizer.step()
        images, labels = self._images("z", self._step)
        self._update_generator(nn.functional.softplus(-self._score(images, labels)).mean())
        return {"called_real": float(targets.mean())}

    def _score(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return self._student(images[None], labels[None])[0]

    def state_dict(self) -> dict[str, Any]:
        """As ``PateTrainer.state_dict``, with the student, which is public."""
        student = {"network": self._student.state_dict(), "optimizer": self._optimizer.state_dict()}
        return {**super().state_dict(), "student": copy.deepcopy(student)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state_dict`` was taken."""
        super().load_state_dict(state)
        self._student.load_state_dict(state["student"]["network"])
        self._optimizer.load_state_dict(state["student"]["optimizer"])
