"""What is audited: a method with settings small enough for seconds, its data, and runs of its real code."""

from __future__ import annotations

import copy
import importlib
import random
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from trainables.base import Dataset, Stage, phase_of
from trainables.privacy.mechanism import Phase
from trainables.privacy.sanitizer import PrivacyViolation

from .observer import Observer, Release, Script, ShutObserver

MOST_STEPS = 12
"""Steps of a run, at most: what comes later in a method with more is not looked at."""

CPU = torch.device("cpu")


@dataclass
class Run:
    """What a run showed. The lists have an entry a step that was completed."""

    observer: Observer
    releases: list[Release]
    released: list[dict[str, torch.Tensor]] = field(default_factory=list)
    """The tensors that would be kept."""
    diagnostics: list[dict[str, float]] = field(default_factory=list)
    samples: torch.Tensor | None = None
    """Two images a class from the last state."""
    state: Mapping[str, Any] = field(default_factory=dict)
    """The checkpoint after the last step."""
    folders: dict[str, Path] = field(default_factory=dict)
    """The stages that it read or made."""
    next_step: int = 0
    steps: int = 0
    """Steps begun here, that of a shared release included."""
    failure: str | None = None
    """What was raised, in one line; the run ends there."""
    violation: bool = False
    """It was a PrivacyViolation."""


@dataclass
class Subject:
    """A method, its settings and its public numbers. ``scratch`` holds stages and is the caller's to remove."""

    name: str
    method: ModuleType
    trainer: Any
    config: Any
    data: Dataset
    test: Dataset
    phases: tuple[Phase, ...]
    stages: tuple[Stage, ...]
    seed: int
    scratch: Path
    _prepared: dict[str, Path] | None = None

    @property
    def steps(self) -> int:
        """Steps of a run."""
        return min(MOST_STEPS, sum(self.phase_steps))

    @property
    def phase_steps(self) -> list[int]:
        return [phase.steps for phase in self.phases]

    def phase_at(self, step: int) -> int:
        """The phase that a step belongs to."""
        return phase_of(step, self.phase_steps)

    def run(
        self,
        data: Dataset,
        *,
        injected_seed: int | None = 0,
        forced: bool = False,
        script: Script | None = None,
        resumed: Run | None = None,
        last: int | None = None,
        told: Sequence[Phase] | None = None,
        shut: bool = False,
        twice: bool = False,
    ) -> Run:
        """Train on ``data`` and look. Global generators are seeded, the same for every run.

        ``resumed``: the run to go on from, by its checkpoint. ``last``: the step to stop before, if not ``steps``. ``told``:
        the phases that the sanitizer knows, if not the method's. ``shut``: no step is opened. ``twice``: all code runs twice
        in every step. What the method raises ends the run and is told in ``failure``.
        """
        kind = ShutObserver if shut else Observer
        observer = kind(told or self.phases, injected_seed=injected_seed, forced=forced, script=script)
        run = Run(observer=observer, releases=observer.seen)
        times = 2 if twice else 1
        seed_everything()
        at = "before the first step"
        try:
            run.folders = dict(resumed.folders) if resumed else self._prepare(data)
            first = resumed.next_step if resumed else 0
            for stage in self.stages:
                if stage.release and stage.name not in run.folders:
                    at = f"in the stage {stage.name}"
                    run.folders[stage.name] = folder = self._folder()
                    run.steps += 1
                    with opened(observer, 0, 0):
                        for _ in range(times):
                            _compute(stage)(dict(stage.config), data, observer, folder, CPU)
                    first = self.phase_steps[0]
            trainer = self.trainer(self.config, data, observer, run.folders, CPU, self.seed)
            if resumed:
                trainer.load_state_dict(resumed.state)
            run.next_step = first
            for step in range(first, self.steps if last is None else last):
                at = f"at step {step}"
                run.steps += 1
                with opened(observer, step, self.phase_at(step)):
                    for _ in range(times):
                        diagnostics = trainer.step()
                run.next_step = step + 1
                run.diagnostics.append(dict(diagnostics))
                run.released.append(copied(trainer.released()))
            at = "while its state was taken, or while it sampled"
            run.state = copy.deepcopy(trainer.state_dict())
            run.samples = self._samples(trainer)
        except Exception as error:
            run.failure = f"{type(error).__name__} {at}: {' '.join(str(error).split())}"
            run.violation = isinstance(error, PrivacyViolation)
        return run

    def _prepare(self, data: Dataset) -> dict[str, Path]:
        """Compute the stages that are no releases, as the harness does; name -> folder."""
        if data is self.data and self._prepared is not None:
            return dict(self._prepared)
        folders: dict[str, Path] = {}
        for stage in self.stages:
            if not stage.release:
                folders[stage.name] = folder = self._folder()
                _compute(stage)({**stage.config, **stage.paths}, data, self.test, folder, CPU)
        if data is self.data:
            self._prepared = dict(folders)
        return folders

    def _samples(self, trainer: Any) -> torch.Tensor:
        labels = torch.arange(self.data.classes).repeat_interleave(2)
        with torch.no_grad():
            return trainer.sample(labels, torch.Generator().manual_seed(0)).cpu()

    def _folder(self) -> Path:
        return Path(tempfile.mkdtemp(dir=self.scratch))


@contextmanager
def opened(observer: Observer, step: int, phase: int) -> Iterator[None]:
    """A step of the sanitizer around the method's code; closed only where that code did not raise."""
    observer.open_step(step, phase)
    yield
    observer.close_step()


def seed_everything(seed: int = 0) -> None:
    """Fix the generators that any code may use by accident; nothing secret may come out of them."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def copied(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}


def _compute(stage: Stage) -> Any:
    module, _, function = stage.compute.partition(":")
    return getattr(importlib.import_module(module), function)


def tensors_of(state: Any, name: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """All tensors of a nested state, with the path to each."""
    if isinstance(state, torch.Tensor):
        yield name, state.detach().cpu()
    elif isinstance(state, Mapping):
        for key, value in state.items():
            yield from tensors_of(value, f"{name}.{key}")
    elif isinstance(state, (list, tuple)):
        for index, value in enumerate(state):
            yield from tensors_of(value, f"{name}.{index}")
