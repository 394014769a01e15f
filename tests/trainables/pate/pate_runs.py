"""Settings of tiny runs, and a sanitizer that shows what it was handed and answers as it is told."""

from typing import Any

import torch

from trainables.coins import numpy_coins
from trainables.privacy.sanitizer import Sanitizer

TINY: dict[str, Any] = {
    "steps": 4,
    "teachers": 6,
    "batch": 5,
    "teacher_width": 4,
    "teacher_batch": 3,
    "teacher_updates": 2,
    "teacher_pretraining": 2,
    "teacher_learning_rate": 0.05,
    "generator_channels": 4,
    "z_dim": 3,
    "learning_rate": 0.02,
}
SETTINGS: dict[str, dict[str, Any]] = {
    "g_pate": {**TINY, "projections": 3, "bins": 4, "threshold": 0.4, "clip": 0.01},
    "datalens": {**TINY, "top": 9, "threshold": 0.1},
    "pate_gan": {**TINY, "batch": 40, "student_width": 5, "student_learning_rate": 0.02},
}
METHODS = tuple(SETTINGS)


class Forced(Sanitizer):
    """Keeps the un-noised totals it was handed, and releases what public coins say in their place."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.totals: list[torch.Tensor] = []

    def _release(self, total: torch.Tensor, noise_multiplier: float, unit: float) -> torch.Tensor:
        self.totals.append(total.clone())
        released = super()._release(total, noise_multiplier, unit)
        coins = numpy_coins(0, "forced release", len(self.totals))
        return torch.from_numpy(coins.normal(2, 2, tuple(released.shape))).float()
