"""The contract between the harness and a method.

A method is a package with two modules, so that planning a sweep never imports torch:

``method.py`` (no torch)
    ``NAME: str``, ``VERSION: int`` (raised whenever the same settings would train another generator),
    ``Config`` (pydantic model, frozen, extra keys forbidden, a docstring under each field),
    ``PRESETS: dict[str, dict]`` (named starting points for ``train:``),
    ``mechanism(config, data, neighbours) -> tuple[Phase, ...]`` and
    ``stages(config, data) -> tuple[Stage, ...]``.
    Optional: ``remarks(config, data, *, target_epsilon, delta) -> Sequence[str]``, sentences that the plan prints.
    All of them raise ``ValueError`` with one sentence where declared facts (size, shape, classes) rule a setting out.

``training.py`` (torch)
    ``Trainer`` and ``load_sampler`` as the protocols below describe.
    Optional: ``recipe(config, info) -> trainables.standalone.recipe.Recipe``, from which ``load_sampler`` is a line and without
    which no generator of the method can be released (``harness.release``).

The noise multipliers that ``mechanism`` returns are relative: the accountant multiplies all of them by one factor, found
for the target epsilon or given in the sweep file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np
    import torch

    from trainables.privacy.sanitizer import Sanitizer


@dataclass(frozen=True, kw_only=True)
class DataInfo:
    """Declared facts of the private training set: never counts a class, never statistics."""

    size: int
    """Number of training records N."""
    channels: int
    height: int
    width: int
    classes: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of one image."""
        return (self.channels, self.height, self.width)


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """One split of a data set, decoded. ``images`` is uint8 ``[N, C, H, W]``, ``labels`` int64 ``[N]``."""

    images: np.ndarray
    labels: np.ndarray
    classes: int

    @property
    def info(self) -> DataInfo:
        """The declared facts of this split."""
        size, channels, height, width = self.images.shape
        return DataInfo(size=size, channels=channels, height=height, width=width, classes=self.classes)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """An input that several trials share, computed once and found again by its content (``harness.stages``).

    A stage sees private data and is released never: it feeds metrics or private models, and its folder stays with the
    data owner. The exception is a ``release``.
    """

    name: str
    """What it is, in the file system's terms: ``reference``, ``critics``."""
    config: Mapping[str, Any]
    """JSON-able settings; together with the data fingerprint they are its identity."""
    compute: str
    """``package.module:function`` called as ``function(config, train, test, directory, device)``; writes into ``directory``."""
    paths: Mapping[str, str] = field(default_factory=dict)
    """Files that it reads beside the data. They join ``config`` in the call but not its identity, since the same file may lie
    elsewhere: what must be in them (a hash) is a setting in ``config``."""
    release: bool = False
    """Whether it makes the first phase of the method, which is one step, once for all trials that share it. What it writes is
    a function of that release alone. ``compute`` is then called as ``function(config, train, sanitizer, directory, device)``
    inside the step; it is part of its identity which noise the budget allows."""


class Sampler(Protocol):
    """Turns labels into images: all that is left of a method once it is trained."""

    def __call__(self, labels: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
        """Return float images ``[n, C, H, W]`` in [0, 1] for int64 ``labels [n]``; ``rng`` is a CPU generator."""
        ...


class Trainer(Protocol):
    """One trial's training. Private data is reached through ``data`` and leaves through ``sanitizer`` only.

    Everything random but the sanitizer's draws comes from ``trainables.coins`` keyed by (seed, purpose, step), so a trainer
    restored from ``state_dict`` goes on exactly as if it had never stopped.
    """

    def __init__(
        self,
        config: Any,
        data: Dataset,
        sanitizer: Sanitizer,
        stages: Mapping[str, Path],
        device: torch.device,
        seed: int,
    ) -> None: ...

    def step(self) -> dict[str, float]:
        """Run the next step (phases follow each other); return diagnostics that are functions of releases alone."""
        ...

    def sample(self, labels: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
        """Sample as ``Sampler`` does, from the weights that would be kept now (the EMA)."""
        ...

    def released(self) -> dict[str, torch.Tensor]:
        """The tensors that are kept after training; a function of releases alone. ``load_sampler`` reads them back."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on (tensors, numbers, nested dicts and lists); no secret draws, no random state."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


def phase_of(step: int, phase_steps: Sequence[int]) -> int:
    """Index of the phase that global ``step`` (from 0) belongs to.

    >>> [phase_of(step, (2, 3)) for step in range(5)]
    [0, 0, 1, 1, 1]
    """
    for index, steps in enumerate(phase_steps):
        if step < steps:
            return index
        step -= steps
    raise ValueError(f"step is past the last phase of {list(phase_steps)}")
