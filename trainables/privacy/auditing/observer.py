"""A sanitizer that looks: the real one, which also keeps what it was handed, what it drew and what it released."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from trainables.coins import numpy_coins
from trainables.privacy.mechanism import Mechanism, Phase, RecordMechanism, ShardMechanism, TeacherMechanism
from trainables.privacy.sanitizer import Contribution, Sanitizer, clip_weights

Releasing = ShardMechanism | RecordMechanism | TeacherMechanism
"""Mechanisms of steps that release something."""

Script = Callable[[int, Mechanism], "np.ndarray | None"]
"""(step, mechanism) -> the units that this step has to draw; None leaves the sanitizer's own draw."""

LENGTHS_A_RELEASE = 16
"""Contributions of a release that are measured one by one."""

PROBES = 8
"""Random directions in which contributions are kept, in place of their many numbers: they tell two of them apart."""


@dataclass(frozen=True, kw_only=True)
class Release:
    """One release as it happened. Tensors are float64 on the CPU."""

    step: int
    phase: int
    call: int
    """Number of the release within its step, from 0."""
    total: torch.Tensor
    """What would have been released without noise: clipped, summed."""
    noise: torch.Tensor
    """What the sanitizer added."""
    std: float
    """Standard deviation of the noise that the declared mechanism asks for."""
    units: np.ndarray | None
    """Drawn records or shards; None where every unit answers."""
    answers: torch.Tensor | None
    """What each unit handed in, before the clip: ``[m, ...]`` of the drawn shards, ``[K, ...]`` votes. None for records."""
    lengths: tuple[float, ...]
    """True L2 norms of single records' clipped contributions, in units of the clip bound C."""
    probes: torch.Tensor | None
    """``[n, PROBES]``: products of every drawn record's clipped contribution, in units of C, with fixed Gaussian vectors; the
    difference of two has the length of the contributions' difference times sqrt(PROBES), in the mean square. None where there
    are no single records, or more than are measured."""


class Observer(Sanitizer):
    """Runs the code of ``Sanitizer`` as it is and writes down what passes.

    ``forced`` hands out, in place of the release, numbers that depend on the place of the release alone, of the size of its
    noise: all histories are then equal, and carry nothing private. ``script`` decides the draws. Both need ``injected_seed``.
    """

    def __init__(
        self,
        phases: Sequence[Phase],
        *,
        injected_seed: int | None,
        forced: bool = False,
        script: Script | None = None,
    ) -> None:
        super().__init__(phases, injected_seed=injected_seed, executed=[0] * len(phases))
        self._declared = tuple(phases)  # a trainer that edits the sanitizer's phases does not edit these
        self._forced, self._script = forced, script
        self._handed: torch.Tensor | None = None
        self._lengths: list[float] = []
        self._probes: list[torch.Tensor] | None = None
        self._handed_before = 0
        self._units: np.ndarray | None = None
        self.seen: list[Release] = []
        self.draws: list[tuple[int, np.ndarray]] = []
        """(step, units) of every draw."""
        self.records_handed = 0
        """Records whose contributions were added up."""
        self.opened = 0
        """Steps opened, by whomever."""

    def open_step(self, step: int, phase: int) -> None:
        super().open_step(step, phase)
        self._units = None
        self.opened += 1

    def sample_records(self) -> np.ndarray:
        return self._note_draw(super().sample_records())

    def sample_shards(self) -> np.ndarray:
        return self._note_draw(super().sample_shards())

    def _note_draw(self, drawn: np.ndarray) -> np.ndarray:
        if self._script is not None and self._mechanism is not None:
            scripted = self._script(self._step, self._mechanism)
            if scripted is not None:
                drawn = scripted
                self._drawn = len(drawn)
        self._units = np.array(drawn)
        self.draws.append((self._step, self._units))
        return drawn

    def release_records(self, contributions: Iterable[Contribution], *, max_grad_norm: float) -> torch.Tensor:
        def measured() -> Iterator[Contribution]:
            for contribution in contributions:
                self.records_handed += len(contribution.norms)
                self._measure(contribution, max_grad_norm)
                yield contribution

        self._lengths, self._probes, self._handed_before = [], [], self.records_handed
        return super().release_records(measured(), max_grad_norm=max_grad_norm)

    def _measure(self, contribution: Contribution, max_grad_norm: float) -> None:
        """The clip is as true as the norms that it is told; compare them with the tensors themselves."""
        assert self._probes is not None
        weights = clip_weights(contribution.norms.detach(), max_grad_norm)
        for row in range(min(len(weights), LENGTHS_A_RELEASE - len(self._lengths))):
            alone = torch.zeros_like(weights)
            alone[row] = weights[row]
            clipped = contribution.weighted_sum(alone).detach().cpu().double().flatten() / max_grad_norm
            self._lengths.append(float(torch.linalg.vector_norm(clipped)))
            self._probes.append(_directions(len(clipped)) @ clipped)

    def release_rows(self, answers: torch.Tensor, **bounds: Any) -> torch.Tensor:
        self._handed = answers.detach().cpu().clone()
        return super().release_rows(answers, **bounds)

    def _count(self, mechanism: TeacherMechanism, parts: Iterable[torch.Tensor]) -> torch.Tensor:
        kept: list[torch.Tensor] = []

        def copied() -> Iterator[torch.Tensor]:
            for part in parts:
                kept.append(part.detach().cpu().clone())
                yield part

        counts = super()._count(mechanism, copied())
        self._handed = torch.cat(kept)
        return counts

    def _release(self, total: torch.Tensor, noise_multiplier: float, unit: float) -> torch.Tensor:
        step, call, phase = self._step, self._calls, self._phase
        released = super()._release(total, noise_multiplier, unit)
        mechanism = self._declared[phase].mechanism
        assert isinstance(mechanism, Releasing)  # the sanitizer refuses releases of all others
        std = declared_release(mechanism, call)[0] * unit
        probes = None
        if self._probes is not None and len(self._probes) == self.records_handed - self._handed_before:
            probes = torch.stack(self._probes) if self._probes else torch.zeros(0, PROBES, dtype=torch.float64)
        clean = total.detach().cpu().double().clone()
        release = Release(
            step=step,
            phase=phase,
            call=call,
            total=clean,
            noise=released.detach().cpu().double() - clean,
            std=std,
            units=self._units,
            answers=self._handed,
            lengths=tuple(self._lengths),
            probes=probes,
        )
        self.seen.append(release)
        self._lengths, self._probes = [], None
        return _forced(release, mechanism).to(released) if self._forced else released


class ShutObserver(Observer):
    """Never opens a step: whatever private is asked for has to be refused."""

    def open_step(self, step: int, phase: int) -> None:
        self.opened += 1

    def close_step(self) -> None: ...


@lru_cache(maxsize=4)
def _directions(size: int) -> torch.Tensor:
    """Fixed Gaussian vectors ``[PROBES, size]``, float64."""
    return torch.from_numpy(numpy_coins(0, "audit probes").standard_normal((PROBES, size)))


def declared_release(mechanism: Releasing, call: int) -> tuple[float, tuple[int, ...]]:
    """Noise multiplier and shape that are declared for release number ``call`` of a step; a threshold is checked first."""
    if isinstance(mechanism, TeacherMechanism) and mechanism.threshold_noise_multiplier is not None and call == 0:
        return mechanism.threshold_noise_multiplier, mechanism.release_shape[:1]
    return mechanism.noise_multiplier, mechanism.release_shape


def _forced(release: Release, mechanism: Mechanism) -> torch.Tensor:
    """Numbers in the place of a release, a function of its step and call: noise alone, or counts of votes at random."""
    coins, shape = numpy_coins(0, "forced release", release.step, release.call), tuple(release.total.shape)
    if isinstance(mechanism, TeacherMechanism):
        low = -mechanism.teachers if mechanism.answer == "signs" else 0
        return torch.from_numpy(coins.uniform(low, mechanism.teachers, shape))
    return torch.from_numpy(coins.standard_normal(shape)) * release.std


def units_of(mechanism: Mechanism) -> int:
    """How many units the mechanism tells apart: shards, teachers, or 0 for records."""
    if isinstance(mechanism, ShardMechanism):
        return mechanism.shards
    return mechanism.teachers if isinstance(mechanism, TeacherMechanism) else 0


def draws_in_secret(mechanism: Mechanism) -> bool:
    """Whether the units of a step are a secret draw."""
    if isinstance(mechanism, ShardMechanism):
        return mechanism.schedule != "round_robin" and mechanism.shards_per_step < mechanism.shards
    return isinstance(mechanism, RecordMechanism) and mechanism.sampling_rate < 1


def coincidence(mechanism: Mechanism) -> float:
    """Probability that two draws of a step are equal."""
    if not draws_in_secret(mechanism):
        return 1.0
    if isinstance(mechanism, ShardMechanism):
        return 1 / math.comb(mechanism.shards, mechanism.shards_per_step)
    assert isinstance(mechanism, RecordMechanism)
    return (mechanism.sampling_rate**2 + (1 - mechanism.sampling_rate) ** 2) ** mechanism.records
