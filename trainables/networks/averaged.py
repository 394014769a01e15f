"""A generator, its optimiser and its moving average: what every method here updates after a release."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch

from .conditional import ConditionalGenerator

PREFIX = "generator."
"""What the tensors of the averaged generator are called with in a kept file."""


class AveragedGenerator:
    """Adam on ``generator``, and an exponential moving average of its weights, the one that is kept.

    Buffers of the average are those of the generator: only weights are averaged.
    """

    def __init__(
        self,
        generator: ConditionalGenerator,
        learning_rate: float,
        *,
        betas: tuple[float, float] = (0.5, 0.9),
        weight_decay: float = 0.0,
    ) -> None:
        self.generator = generator
        self.average = copy.deepcopy(generator).requires_grad_(False).eval()
        self._learning_rate = learning_rate
        self._optimizer = torch.optim.Adam(generator.parameters(), lr=learning_rate, betas=betas, weight_decay=weight_decay)

    def update(self, loss: torch.Tensor, *, decay: float, rate: float = 1.0) -> None:
        """One step down ``loss`` with ``rate`` times the learning rate; then ``average`` keeps ``decay`` of what it was."""
        for group in self._optimizer.param_groups:
            group["lr"] = self._learning_rate * rate
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._optimizer.step()
        self.follow(decay)

    @torch.no_grad()
    def follow(self, decay: float) -> None:
        """``average`` keeps ``decay`` of its weights and takes the rest from ``generator``, and all of its buffers."""
        for kept, new in zip(self.average.parameters(), self.generator.parameters(), strict=True):
            kept.lerp_(new, 1 - decay)
        for copied, buffer in zip(self.average.buffers(), self.generator.buffers(), strict=True):
            copied.copy_(buffer)

    def released(self) -> dict[str, torch.Tensor]:
        """Weights and buffers of the average, as ``generator.<name>``."""
        return {f"{PREFIX}{name}": tensor.detach().clone() for name, tensor in self.average.state_dict().items()}

    def state_dict(self) -> dict[str, Any]:
        """Both networks and Adam's moments."""
        return copy.deepcopy(
            {
                "generator": self.generator.state_dict(),
                "ema": self.average.state_dict(),
                "optimizer": self._optimizer.state_dict(),
            }
        )

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state_dict`` was taken."""
        self.generator.load_state_dict(state["generator"])
        self.average.load_state_dict(state["ema"])
        self._optimizer.load_state_dict(state["optimizer"])


def cosine(step: int, steps: int, final: float = 0.05) -> float:
    """Share of the learning rate at ``step`` of ``steps``: from 1 down to ``final`` on half a cosine.

    >>> cosine(0, 10), round(cosine(5, 10), 3)
    (1.0, 0.525)
    """
    return final + (1 - final) * (1 + math.cos(math.pi * step / steps)) / 2
