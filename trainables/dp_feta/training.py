"""Training of dp_feta: releases of class means, a warm-up on them, then dpdm."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from trainables.base import DataInfo, Dataset
from trainables.coins import torch_coins
from trainables.dpdm.diffusion import batch_loss
from trainables.dpdm.training import Trainer as DpdmTrainer
from trainables.dpdm.training import load_sampler as load_sampler
from trainables.dpdm.training import recipe as dpdm_recipe
from trainables.networks.averaged import cosine
from trainables.privacy.sanitizer import Sanitizer
from trainables.standalone.recipe import Recipe

from .means import augment, release_means
from .method import Config, check

_FINAL_RATE = 0.1


class Trainer:
    """Runs the three phases one after the other; the contract is ``trainables.base.Trainer``."""

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
        self._config, self._data, self._sanitizer, self._device, self._seed = config, data, sanitizer, device, seed
        self._dpdm = DpdmTrainer(config, data, sanitizer, stages, device, seed)
        self._means: list[torch.Tensor] = []
        self._warm_steps = 0

    def step(self) -> dict[str, float]:
        """A release of means until there are enough, then a step on them until it has been enough, then a step of dpdm."""
        if len(self._means) < self._config.warm_up.releases:
            self._means.append(release_means(self._config, self._data, self._sanitizer, self._device))
            return {"means_norm": float(self._means[-1].norm())}
        if self._warm_steps < self._config.warm_up.steps:
            return self._warm_up()
        return self._dpdm.step()

    def _warm_up(self) -> dict[str, float]:
        """One step of Adam on augmented means; private data are not touched."""
        config, warm_up, step = self._config, self._config.warm_up, self._warm_steps
        coins = torch_coins(self._seed, "warm_up", step)
        classes = self._data.classes
        labels = torch.randint(classes, (warm_up.batch,), generator=coins).to(self._device)
        chosen = torch.randint(len(self._means), (warm_up.batch,), generator=coins).to(self._device)
        images = augment(torch.stack(self._means)[chosen, labels], warm_up, coins)
        model = self._dpdm.model
        loss = batch_loss(config, model.network, images, torch.nn.functional.one_hot(labels, classes).float(), coins)
        loss.backward()
        rate = warm_up.learning_rate * cosine(step, warm_up.steps, _FINAL_RATE)
        model.update(rate=rate, decay=min(config.ema, (1 + step) / (10 + step)))
        self._warm_steps += 1
        if self._warm_steps == warm_up.steps:
            model.restart()
        return {"warm_up_loss": float(loss.detach())}

    def sample(self, labels: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
        """Images ``[n, C, H, W]`` of the averaged denoiser."""
        return self._dpdm.sample(labels, rng)

    def released(self) -> dict[str, torch.Tensor]:
        """The averaged denoiser's weights, as ``denoiser.<name>``, and the mean images as ``means``."""
        means = {"means": torch.stack(self._means)} if self._means else {}
        return {**self._dpdm.released(), **means}

    def state_dict(self) -> dict[str, Any]:
        """The state of all phases; all of it is public."""
        return {
            "means": [mean.clone() for mean in self._means],
            "warm_steps": self._warm_steps,
            "dpdm": self._dpdm.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state_dict`` was taken."""
        self._means = [mean.clone().to(self._device) for mean in state["means"]]
        self._warm_steps = state["warm_steps"]
        self._dpdm.load_state_dict(state["dpdm"])


def recipe(config: Config, info: DataInfo) -> Recipe:
    """dpdm's; the released mean images are kept beside it."""
    return replace(dpdm_recipe(config, info), beside=("means",))
