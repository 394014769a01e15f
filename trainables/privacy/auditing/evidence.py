"""The runs that the checks look at, and how two runs are compared.

Runs in pairs have equal secret draws and equal, forced releases, so whatever differs between them is what the replaced records
(or the other draws) did.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from trainables.base import Dataset
from trainables.privacy.mechanism import Mechanism, ShardMechanism

from .neighbours import KINDS, NOT_FINITE, neighbour, other_data, with_floats
from .observer import Release, Releasing, Script, draws_in_secret, units_of
from .subject import Run, Subject, tensors_of

RECORDS = 12
"""Records that are replaced one at a time, at most."""

DRAWN = 8
"""Records of a scripted Poisson draw, beside those that are replaced."""

ROUNDED = 1e-5
"""Distance of two contributions, in units of their clip bound C, that float32 arithmetic in another order may make."""


@dataclass(frozen=True)
class Pair:
    """A run beside its base: equal draws, equal releases, other records."""

    what: str
    records: tuple[int, ...]
    base: Run
    run: Run


@dataclass(frozen=True)
class Move:
    """What one step would release of two data sets, compared."""

    step: int
    mechanism: Mechanism
    distance: float
    """sqrt(sum over the step's releases of (L2 distance / std)^2) x effective noise multiplier: 1 is the declared bound."""
    drawn: np.ndarray | None
    units: frozenset[int]
    """Units whose answers differ."""


class Evidence:
    """Computes runs when they are first asked for."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self._mechanisms = [phase.mechanism for phase in subject.phases]

    @property
    def releasing(self) -> list[Releasing]:
        """Mechanisms of the phases that release."""
        return [mechanism for mechanism in self._mechanisms if isinstance(mechanism, Releasing)]

    @property
    def secret(self) -> bool:
        """Whether any draw is secret."""
        return any(draws_in_secret(mechanism) for mechanism in self.releasing)

    @property
    def stateless(self) -> list[Releasing]:
        """Mechanisms whose account needs answers that do not depend on earlier draws."""
        return [
            mechanism
            for mechanism in self.releasing
            if draws_in_secret(mechanism)
            and not (isinstance(mechanism, ShardMechanism) and (mechanism.schedule == "persistent" or mechanism.carried))
        ]

    # --- draws --------------------------------------------------------------------------------------------------------

    @property
    def targets(self) -> list[int]:
        """Records that are replaced one at a time; of Poisson draws the first at even steps, the second at odd ones."""
        size = len(self.subject.data.labels)
        count = min(size, RECORDS) if any(units_of(mechanism) for mechanism in self.releasing) else min(size, 2)
        return [int(index) for index in np.linspace(0, size - 1, count).round()]

    def script(self, *, other_history: bool = False, other_draw: bool = False) -> Script:
        """Draws for every step. ``other_history``: others at even steps; ``other_draw``: one unit changes at odd steps."""
        size, targets = len(self.subject.data.labels), self.targets

        def records(step: int) -> np.ndarray:
            rest = [record for record in range(size) if record not in targets]
            if step % 2 == 0 and other_history:
                return np.array(sorted(rest[1::3][:DRAWN]), dtype=np.int64)
            drawn = [*rest[:: max(len(rest) // DRAWN, 1)][:DRAWN], targets[step % len(targets)]]
            if step % 2 and other_draw:
                drawn = drawn[:-1]
            return np.array(sorted(drawn), dtype=np.int64)

        def shards(step: int, mechanism: ShardMechanism) -> np.ndarray:
            count, drawn = mechanism.shards, mechanism.shards_per_step
            units = (step * drawn + np.arange(drawn)) % count
            if step % 2 == 0 and other_history:
                units = (units + drawn) % count
            if step % 2 and other_draw:
                units[-1] = (units[-1] + 1) % count
            return np.sort(units)

        def script(step: int, mechanism: Mechanism) -> np.ndarray | None:
            if not draws_in_secret(mechanism):
                return None
            if isinstance(mechanism, ShardMechanism):
                return shards(step, mechanism)
            return records(step)

        return script

    # --- runs ---------------------------------------------------------------------------------------------------------

    def _forced(self, data: Dataset, script: Script | None = None) -> Run:
        return self.subject.run(data, forced=True, script=script or self.script())

    @cached_property
    def base(self) -> Run:
        """The data as they are."""
        return self._forced(self.subject.data)

    @cached_property
    def base_of_floats(self) -> Run:
        """The same values as float32."""
        return self._forced(with_floats(self.subject.data))

    @cached_property
    def again(self) -> Run:
        """The base once more."""
        return self._forced(self.subject.data)

    @cached_property
    def neighbours(self) -> list[Pair]:
        """One record replaced: every target by one kind in turn, or all kinds where there are few targets."""
        kinds = list(KINDS)
        changes = [(record, kinds[place % len(kinds)]) for place, record in enumerate(self.targets)]
        if len(self.targets) < len(kinds):
            changes = [(record, kind) for record in self.targets for kind in kinds]
        return [self._pair((record,), kind, f"record {record} replaced by {kind}") for record, kind in changes]

    @cached_property
    def whole_units(self) -> list[Pair]:
        """All records of a unit replaced, as far as its neighbours showed them; of the first and of the last unit."""
        found: dict[int, set[int]] = {}
        for pair in self.neighbours:
            for unit in self.units_reached(pair):
                found.setdefault(unit, set()).update(pair.records)
        chosen = [unit for unit in sorted(found) if len(found[unit]) > 1]
        return [
            self._pair(tuple(sorted(found[unit])), "noise", f"all {len(found[unit])} records of unit {unit} replaced")
            for unit in {*chosen[:1], *chosen[-1:]}
        ]

    @cached_property
    def other_records(self) -> Pair:
        """Every record replaced."""
        data = other_data(self.subject.data)
        return Pair("all records replaced", tuple(range(len(data.labels))), self.base, self._forced(data))

    @cached_property
    def other_history(self) -> Pair:
        """The same data, other draws at even steps."""
        return Pair("other draws", (), self.base, self._forced(self.subject.data, self.script(other_history=True)))

    @cached_property
    def other_draw(self) -> Pair:
        """The same data, one unit of the draw changed at odd steps."""
        return Pair("one unit of a draw changed", (), self.base, self._forced(self.subject.data, self.script(other_draw=True)))

    def _pair(self, records: tuple[int, ...], kind: str, what: str) -> Pair:
        run = self._forced(neighbour(self.subject.data, records, kind))
        return Pair(what, records, self.base_of_floats if kind in NOT_FINITE else self.base, run)

    @cached_property
    def real(self) -> list[Run]:
        """Runs as a trial makes them, with the system's entropy: two of one seed, two restored from one checkpoint."""
        data, middle = self.subject.data, self.subject.steps // 2
        first, second = (self.subject.run(data, injected_seed=None) for _ in range(2))
        half = self.subject.run(data, injected_seed=None, last=middle)
        if half.failure:
            return [first, second, half]
        return [first, second, half, *(self.subject.run(data, injected_seed=None, resumed=half) for _ in range(2))]

    # --- comparisons --------------------------------------------------------------------------------------------------

    def moves(self, pair: Pair) -> Iterator[Move]:
        """Step by step, as far as both runs came."""
        steps = sorted({release.step for release in pair.base.releases})
        for step in steps:
            ours = [release for release in pair.base.releases if release.step == step]
            theirs = [release for release in pair.run.releases if release.step == step]
            if len(ours) != len(theirs):
                return
            mechanism = self._mechanisms[ours[0].phase]
            squares, units = 0.0, set[int]()
            for one, other in zip(ours, theirs, strict=True):
                squares += float(torch.linalg.vector_norm(one.total - other.total) / one.std) ** 2
                units |= _changed(one, other)
            distance = squares**0.5 * mechanism.effective_noise_multiplier
            yield Move(step, mechanism, distance, ours[0].units, frozenset(units))

    def units_reached(self, pair: Pair) -> set[int]:
        """Shards or teachers whose answers, or whose part of the checkpoint, differ."""
        reached: set[int] = set().union(*(move.units for move in self.moves(pair)))
        counts = {units_of(mechanism) for mechanism in self.releasing} - {0}
        theirs = dict(tensors_of(pair.run.state))
        for name, ours in tensors_of(pair.base.state):
            other = theirs.get(name)
            if other is not None and ours.ndim and other.shape == ours.shape and ours.shape[0] in counts:
                reached |= {unit for unit in range(len(ours)) if not same(ours[unit], other[unit])}
        return reached


def _changed(one: Release, other: Release) -> set[int]:
    if one.answers is None or other.answers is None:
        return set()
    names: Sequence[int] | np.ndarray = range(len(one.answers)) if one.units is None else one.units
    return {int(unit) for unit, a, b in zip(names, one.answers, other.answers, strict=True) if not same(a, b)}


def strangers(one: Release, other: Release) -> int:
    """How many contributions to ``other`` are none of those to ``one``, beyond rounding; 0 where they are not known."""
    if one.probes is None or other.probes is None:
        return 0
    if not len(one.probes):
        return len(other.probes)
    nearest = (other.probes[:, None] - one.probes[None]).square().mean(dim=2).amin(dim=1).sqrt()
    return int((~(nearest <= ROUNDED)).sum())


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors are equal to the bit; NaN equals NaN."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    if torch.equal(one, other):
        return True
    return one.is_floating_point() and bool(((one == other) | (one.isnan() & other.isnan())).all())
