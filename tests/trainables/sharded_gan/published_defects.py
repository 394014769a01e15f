"""The engine with the two defects of DPAC's published code (Chen et al., 2023) planted in it, and with a count that is off.

Each class is the real ``Trainer`` with one thing wrong; ``test_dpac_defects`` shows that none of them gets anywhere.
"""

from __future__ import annotations

from typing import Any

import torch

from trainables.sharded_gan.settings import Config
from trainables.sharded_gan.training import Trainer


class BatchLeftAtFakes(Trainer):
    """The generator's batch stays what the classifier's generated images made it, as published: 1000 in place of 32."""

    def _generate(self, labels: torch.Tensor, purpose: str, key: tuple[int, ...]) -> torch.Tensor:
        if purpose == "classifier fakes":
            self._config = self._config.model_copy(update={"generator_batch": len(labels)})
        return super()._generate(labels, purpose, key)


class QueryASignal(Trainer):
    """Critic and classifier are sanitised one by one, whatever was declared; published as one query of the accountant."""

    def __init__(self, config: Config, *arguments: Any) -> None:
        super().__init__(config.model_copy(update={"release": "per_signal"}), *arguments)


class ClassifierBeforeItsStart(Trainer):
    """The classifier answers from the first step on."""

    def __init__(self, config: Config, *arguments: Any) -> None:
        super().__init__(_started_at(config, 0), *arguments)


class ClassifierAfterItsStart(Trainer):
    """The classifier comes in a step late, so that a declared release is not made."""

    def __init__(self, config: Config, *arguments: Any) -> None:
        super().__init__(_started_at(config, config.classifier.start + 1), *arguments)


def _started_at(config: Config, step: int) -> Config:
    return config.model_copy(update={"classifier": config.classifier.model_copy(update={"start": step})})
