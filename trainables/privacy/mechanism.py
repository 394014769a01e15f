"""What a step does to private data, as values that accounting can read.

A ``Phase`` is a ``Mechanism`` run for a number of steps; a method declares a tuple of phases that follow each other. The
``Sanitizer`` enforces what is declared here and ``accounting`` turns it into epsilon, so nothing else needs to be believed.

Words: *noise_multiplier* is the method's natural unit (shards: std / sensitivity of one image's row; records: std / C, the
clip bound of one record; teachers: std / sensitivity of one row of votes). *effective_noise_multiplier* is std / L2
sensitivity of everything one step releases, the only noise number an accountant may be given.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Literal

Neighbours = Literal["replace_one", "add_remove"]
Schedule = Literal["sampled", "round_robin", "persistent"]
Answer = Literal["one_of_n", "yes_no", "signs"]


@dataclass(frozen=True, kw_only=True)
class ShardMechanism:
    """m of K disjoint shards answer a step; each answer is clipped a row, summed over the shards, and released with noise.

    ``sampled``: the m shards are drawn afresh and in secret, and an answer depends on (shard, released history, public
    coins) alone. ``round_robin``: a public schedule fixed in advance that advances with every step executed, repeated ones
    included; anything may persist in a shard. ``persistent``:
    secret draws with private state that survives them, as published by GS-WGAN, DPAC and Ma & Zhang; only the bound that
    reveals the draws is proven for it.
    """

    schedule: Schedule
    shards: int
    """K. Fixed in advance; the partition does not depend on what the records hold."""
    shards_per_step: int
    """m, drawn without replacement."""
    release_shape: tuple[int, ...]
    """(B, ...): the rows are the B generated images whose gradient is released."""
    noise_multiplier: float
    """Noise std an entry / L2 sensitivity of ONE image's row of a drawn shard: 2 C1, or 2 (C1 + C2) with ``carried``."""
    releases_per_step: int = 1
    """Sanitised tensors a step, all from the same shards (DPAC's critic and classifier hooks are 2)."""
    neighbours: Neighbours = "replace_one"
    carried: float = 0.0
    """Share of a row's sensitivity that a shard also has in steps which do not draw it: C2 / (C1 + C2) where C1 clips its
    answer and C2 an error buffer that all shards share (Ma & Zhang 2026, equations 7 to 11). A row then moves by 2 (C1 + C2)
    when the shard is drawn and by 2 C2 in every other step."""

    def __post_init__(self) -> None:
        if self.neighbours != "replace_one":
            raise ValueError(
                "neighbours: add_remove is not available for shards, whose partition would have to survive the change of N; "
                "write neighbours: replace_one"
            )
        if self.schedule not in ("sampled", "round_robin", "persistent"):
            raise ValueError(f"schedule is {self.schedule!r}; expected sampled, round_robin or persistent")
        _check_whole("shards", self.shards)
        _check_whole("shards_per_step", self.shards_per_step)
        if self.shards_per_step > self.shards:
            raise ValueError(f"shards_per_step is {self.shards_per_step}; expected 1 to shards = {self.shards}")
        if not 0 <= self.carried < 1:
            raise ValueError(f"carried is {self.carried}; expected a share of at least 0 and below 1")
        if self.carried and self.schedule == "round_robin":
            raise ValueError(
                f"carried is {self.carried} in a round_robin schedule, where a buffer that all shards share would carry each "
                "of them into every step; keep a buffer a shard, or write schedule: sampled"
            )
        _check_common(self.release_shape, self.noise_multiplier, self.releases_per_step)

    @property
    def kind(self) -> str:
        return "shared_buffer_shards" if self.carried else f"{self.schedule}_shards"

    @property
    def sampling_rate(self) -> float:
        """q = m / K, the probability that a given shard answers a step."""
        return self.shards_per_step / self.shards

    @property
    def effective_noise_multiplier(self) -> float:
        """noise_multiplier / sqrt(releases x rows): one record may change every row of every release of its shard.

        Of a step that draws the shard; with ``carried`` every other step moves by that share of it.
        """
        return self.noise_multiplier / math.sqrt(self.releases_per_step * self.release_shape[0])

    def visits(self, steps: int) -> int:
        """Most visits that any shard gets in ``steps`` steps of the public round-robin schedule."""
        return -(-self.shards_per_step * steps // self.shards)


@dataclass(frozen=True, kw_only=True)
class RecordMechanism:
    """Poisson-sampled records answer a step, each included with probability ``sampling_rate`` (1: all records, every step).

    ``per_record``: every record's contribution is clipped to C and they are summed (DP-SGD, dp_energy); the release moves
    by C when a record comes or goes and by 2 C when it is replaced. A contribution depends on (record, released history,
    public coins) alone, never on who else was drawn. ``whole_tensor``: one tensor computed from all drawn
    records is clipped to C as a whole (DP-Sinkhorn); a record may turn it round, so it moves by 2 C either way.
    """

    sampling_rate: float
    records: int
    """Declared N."""
    release_shape: tuple[int, ...]
    noise_multiplier: float
    """Noise std an entry / C, the clip bound of one contribution (per_record) or of the tensor (whole_tensor)."""
    releases_per_step: int = 1
    neighbours: Neighbours = "replace_one"
    clipping: Literal["per_record", "whole_tensor"] = "per_record"

    def __post_init__(self) -> None:
        if not 0 < self.sampling_rate <= 1:
            raise ValueError(f"sampling_rate is {self.sampling_rate}; expected a number over 0 and up to 1")
        _check_whole("records", self.records)
        if self.neighbours not in ("replace_one", "add_remove"):
            raise ValueError(f"neighbours is {self.neighbours!r}; expected replace_one or add_remove")
        if self.clipping not in ("per_record", "whole_tensor"):
            raise ValueError(f"clipping is {self.clipping!r}; expected per_record or whole_tensor")
        _check_common(self.release_shape, self.noise_multiplier, self.releases_per_step)

    @property
    def kind(self) -> str:
        return "poisson_records" if self.sampling_rate < 1 else "all_records"

    @property
    def presence_distance(self) -> float:
        """How far one release moves, in units of C, when a record is included rather than not."""
        return 1.0 if self.clipping == "per_record" else 2.0

    @property
    def sensitivity(self) -> float:
        """L2 sensitivity of one release in units of C, under ``neighbours``."""
        return 2.0 if self.neighbours == "replace_one" else self.presence_distance

    @property
    def effective_noise_multiplier(self) -> float:
        """std / L2 sensitivity of everything one step releases."""
        return self.noise_multiplier / (self.sensitivity * math.sqrt(self.releases_per_step))


@dataclass(frozen=True, kw_only=True)
class TeacherMechanism:
    """K teachers on disjoint parts of the records all answer every step; their votes are counted and released with noise.

    Nothing is drawn, so anything may persist in a teacher: its state is a function of its part and of what was released. One
    replaced record changes the answers of one teacher, and the form of an answer bounds by how much (PATE; Papernot et al.,
    2017 and 2018). A row, which is what one question asks of every teacher, is

    - ``one_of_n``: a vote for one of n bins; two counts move by 1 each, sqrt(2) in L2;
    - ``yes_no``: a vote that is counted or not; the count moves by 1;
    - ``signs``: exactly k entries of +1 or -1 among n (DataLens; Wang et al., 2021); the sum moves by 2 sqrt(k).
    """

    answer: Answer
    teachers: int
    """K. Fixed in advance; the partition does not depend on what the records hold."""
    release_shape: tuple[int, ...]
    """(rows, n), or (rows,) for ``yes_no``."""
    noise_multiplier: float
    """Noise std of a count / L2 sensitivity of ONE row."""
    signs: int = 0
    """k, for ``signs`` alone."""
    threshold_noise_multiplier: float | None = None
    """``one_of_n`` may first release the largest count of every row, which moves by 1, with noise of this std: rows below a
    threshold are then withheld (confident GNMax; Papernot et al., 2018). Both releases count, whether or not a row passes."""
    neighbours: Neighbours = "replace_one"

    sampling_rate: ClassVar[float] = 1.0

    def __post_init__(self) -> None:
        if self.neighbours != "replace_one":
            raise ValueError(
                "neighbours: add_remove is not available for teachers, whose parts would have to survive the change of N; "
                "write neighbours: replace_one"
            )
        if self.answer not in ("one_of_n", "yes_no", "signs"):
            raise ValueError(f"answer is {self.answer!r}; expected one_of_n, yes_no or signs")
        _check_whole("teachers", self.teachers)
        _check_common(self.release_shape, self.noise_multiplier, self.releases_per_step)
        axes = 1 if self.answer == "yes_no" else 2
        if len(self.release_shape) != axes:
            raise ValueError(f"release_shape is {self.release_shape}; expected {axes} whole numbers for {self.answer} votes")
        if self.answer == "signs":
            _check_whole("signs", self.signs)
            if self.signs > self.release_shape[1]:
                raise ValueError(f"signs is {self.signs}; expected 1 to the {self.release_shape[1]} entries of a row")
        elif self.signs:
            raise ValueError(f"signs is {self.signs}, but the answers are {self.answer} votes; leave it out")
        noise = self.threshold_noise_multiplier
        if noise is None:
            return
        if self.answer != "one_of_n":
            raise ValueError(f"a threshold is checked on the largest of several counts; {self.answer} votes have none")
        if not 0 <= noise < math.inf or (noise == 0 < self.noise_multiplier):
            raise ValueError(f"threshold_noise_multiplier is {noise}; expected a finite number over 0")

    @property
    def kind(self) -> str:
        return f"teachers_{self.answer}"

    @property
    def releases_per_step(self) -> int:
        """The votes, and with a threshold the largest counts before them."""
        return 1 if self.threshold_noise_multiplier is None else 2

    @property
    def row_sensitivity(self) -> float:
        """L2 distance that one row's counts move when one teacher answers otherwise."""
        return {"one_of_n": math.sqrt(2), "yes_no": 1.0, "signs": 2 * math.sqrt(self.signs)}[self.answer]

    @property
    def effective_noise_multiplier(self) -> float:
        """1 / sqrt(rows (1 / noise_multiplier^2 + 1 / threshold_noise_multiplier^2)): Gaussian releases add up their mu^2."""
        noises = [self.noise_multiplier]
        if self.threshold_noise_multiplier is not None:
            noises.append(self.threshold_noise_multiplier)
        if min(noises) == 0:
            return 0.0
        return 1 / math.sqrt(self.release_shape[0] * sum(1 / noise**2 for noise in noises))


@dataclass(frozen=True, kw_only=True)
class NoRelease:
    """Steps that release nothing, so that they cost nothing.

    ``post_processing``: they work on what earlier phases have released; private data may not be touched. ``reference``: real
    images in the place of generated ones, to be measured and never released; such a trial has no epsilon.
    """

    purpose: Literal["post_processing", "reference"] = "post_processing"
    neighbours: Neighbours = "replace_one"

    releases_per_step: ClassVar[int] = 0
    sampling_rate: ClassVar[float] = 0.0
    noise_multiplier: ClassVar[float] = math.inf
    effective_noise_multiplier: ClassVar[float] = math.inf

    @property
    def kind(self) -> str:
        return self.purpose


@dataclass(frozen=True, kw_only=True)
class SelectionMechanism:
    """The best of a secret random number of trials, each with settings drawn uniformly from fixed ones (``random_best``).

    One step is the whole selection. The score that decides is not charged here: it is computed from a trial's generator and
    public data alone.
    """

    candidates: tuple[tuple[Phase, ...], ...]
    """The phases of each setting that a trial may draw, distinct ones once."""
    mean_trials: float
    """Mean of the secret number of trials."""
    shape: float
    """Of its distribution: 0 logarithmic, 1 geometric, infinity Poisson."""

    releases_per_step: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if not self.candidates or any(not any(phase.releases for phase in phases) for phases in self.candidates):
            raise ValueError("a selection needs trials that release something; nothing is paid for one that does not")
        if not self.mean_trials >= 1:
            raise ValueError(f"mean_trials is {self.mean_trials}; expected at least 1")
        if len({phase.mechanism.neighbours for phases in self.candidates for phase in phases}) > 1:
            raise ValueError("neighbours differ between the trials of a selection; an epsilon is for one relation")

    @property
    def kind(self) -> str:
        return "random_best"

    @property
    def neighbours(self) -> Neighbours:
        return self.candidates[0][0].mechanism.neighbours

    @property
    def sampling_rate(self) -> float:
        """All units take part: the trials are inside."""
        return 1.0

    @property
    def noise_multiplier(self) -> float:
        """The smallest among the last releases of the settings."""
        return min(_last_release(phases).noise_multiplier for phases in self.candidates)

    @property
    def effective_noise_multiplier(self) -> float:
        """The smallest among the last releases of the settings."""
        return min(_last_release(phases).effective_noise_multiplier for phases in self.candidates)


def _last_release(phases: Sequence[Phase]) -> Mechanism:
    return next(phase.mechanism for phase in reversed(phases) if phase.releases)


Mechanism = ShardMechanism | RecordMechanism | TeacherMechanism | NoRelease | SelectionMechanism


@dataclass(frozen=True, kw_only=True)
class Phase:
    """``mechanism`` run for ``steps`` steps."""

    mechanism: Mechanism
    steps: int

    def __post_init__(self) -> None:
        _check_whole("steps", self.steps)

    @property
    def releases(self) -> bool:
        """Whether its steps release anything."""
        return self.mechanism.releases_per_step > 0


def scale_noise(phases: Iterable[Phase], factor: float) -> tuple[Phase, ...]:
    """Every phase with its relative noise multipliers times ``factor``."""

    def scaled(mechanism: Mechanism) -> Mechanism:
        if isinstance(mechanism, NoRelease):
            return mechanism
        if isinstance(mechanism, SelectionMechanism):
            return replace(mechanism, candidates=tuple(scale_noise(phases, factor) for phases in mechanism.candidates))
        noise = mechanism.noise_multiplier * factor
        if isinstance(mechanism, TeacherMechanism) and mechanism.threshold_noise_multiplier is not None:
            threshold_noise = mechanism.threshold_noise_multiplier * factor
            return replace(mechanism, noise_multiplier=noise, threshold_noise_multiplier=threshold_noise)
        return replace(mechanism, noise_multiplier=noise)

    return tuple(replace(phase, mechanism=scaled(phase.mechanism)) for phase in phases)


def with_steps(phases: Sequence[Phase], steps: Sequence[int]) -> tuple[Phase, ...]:
    """The same mechanisms with other step counts; phases of no steps are left out."""
    return tuple(replace(phase, steps=count) for phase, count in zip(phases, steps, strict=True) if count)


def to_dict(phase: Phase) -> dict[str, Any]:
    """JSON-able form of a phase, with the derived numbers that a reader wants beside the declared ones."""
    mechanism = phase.mechanism
    if isinstance(mechanism, NoRelease):
        return {"kind": mechanism.kind, **asdict(mechanism), "steps": phase.steps}
    if isinstance(mechanism, SelectionMechanism):
        candidates = [[to_dict(of_trial) for of_trial in phases] for phases in mechanism.candidates]
        shape = mechanism.shape if math.isfinite(mechanism.shape) else None  # JSON has no infinity
        drawn = {"mean_trials": mechanism.mean_trials, "shape": shape}
        return {"kind": mechanism.kind, **drawn, "candidates": candidates, "steps": phase.steps}
    return {
        "kind": mechanism.kind,
        **asdict(mechanism),
        "release_shape": list(mechanism.release_shape),
        "effective_noise_multiplier": mechanism.effective_noise_multiplier,
        "steps": phase.steps,
    }


def from_dict(document: Mapping[str, Any]) -> Phase:
    """The phase that ``to_dict`` wrote; what documents of earlier versions leave out is at its default."""
    fields = {key: value for key, value in document.items() if key not in ("kind", "effective_noise_multiplier", "steps")}
    if "purpose" in fields:
        return Phase(mechanism=NoRelease(**fields), steps=document["steps"])
    if "candidates" in fields:
        candidates = tuple(tuple(from_dict(of_trial) for of_trial in phases) for phases in fields["candidates"])
        shape = math.inf if fields["shape"] is None else fields["shape"]
        selection = SelectionMechanism(candidates=candidates, mean_trials=fields["mean_trials"], shape=shape)
        return Phase(mechanism=selection, steps=document["steps"])
    fields["release_shape"] = tuple(fields["release_shape"])
    family = ShardMechanism if "shards" in fields else TeacherMechanism if "teachers" in fields else RecordMechanism
    return Phase(mechanism=family(**fields), steps=document["steps"])


def _check_common(release_shape: tuple[int, ...], noise_multiplier: float, releases_per_step: int) -> None:
    if not release_shape or any(not isinstance(size, int) or size < 1 for size in release_shape):
        raise ValueError(f"release_shape is {release_shape}; expected a tuple of positive whole numbers")
    if not (noise_multiplier >= 0 and math.isfinite(noise_multiplier)):
        raise ValueError(f"noise_multiplier is {noise_multiplier}; expected a finite number of at least 0")
    _check_whole("releases_per_step", releases_per_step)


def _check_whole(name: str, value: int) -> None:
    if not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} is {value}; expected a whole number of at least 1")
