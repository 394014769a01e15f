"""A denoiser, its optimiser and its moving average, the one that is kept."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch

from trainables.coins import torch_coins
from trainables.networks.denoiser import Denoiser
from trainables.networks.unet_plan import UNetPlan

from .method import SamplerConfig
from .sampler import SamplerSettings, sample

PREFIX = "denoiser."
"""What the tensors of the averaged denoiser are called with in a kept file."""


class Model:
    """Adam on ``network``, and an exponential moving average of its weights."""

    def __init__(self, plan: UNetPlan, sampler: SamplerConfig, device: torch.device, seed: int) -> None:
        self._sampler = SamplerSettings(**sampler.model_dump())
        self.network = Denoiser(plan, torch_coins(seed, "denoiser")).to(device)
        self._average = copy.deepcopy(self.network).requires_grad_(False)
        self._optimizer = torch.optim.Adam(self.network.parameters())

    def update(self, *, rate: float, decay: float) -> None:
        """One step of Adam on the ``.grad`` that the weights have; then the average keeps ``decay`` of what it was."""
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            for kept, new in zip(self._average.parameters(), self.network.parameters(), strict=True):
                kept.lerp_(new, 1 - decay)

    def restart(self) -> None:
        """Go on from the average with fresh moments: those of another loss say nothing about the next one."""
        self.network.load_state_dict(self._average.state_dict())
        self._optimizer = torch.optim.Adam(self.network.parameters())

    def sample(self, labels: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
        """Images ``[n, C, H, W]`` of the average."""
        return sample(self._average, self._sampler, labels, rng)

    def released(self) -> dict[str, torch.Tensor]:
        """The average's weights, as ``denoiser.<name>``."""
        return {f"{PREFIX}{name}": tensor.detach().clone() for name, tensor in self._average.state_dict().items()}

    def state_dict(self) -> dict[str, Any]:
        """Both networks and Adam's moments."""
        return copy.deepcopy(
            {
                "network": self.network.state_dict(),
                "average": self._average.state_dict(),
                "optimizer": self._optimizer.state_dict(),
            }
        )

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state_dict`` was taken."""
        self.network.load_state_dict(state["network"])
        self._average.load_state_dict(state["average"])
        self._optimizer.load_state_dict(state["optimizer"])
