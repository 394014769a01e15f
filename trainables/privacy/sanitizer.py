"""The one door through which anything private leaves: draws, clips, noise, and the count of all of it.

What holds, and where it is tested (``tests/trainables/privacy/test_sanitizer.py``):

- Secret draws and noise come from the operating system's entropy, a new generator for every release, never stored. Noise
  is drawn and added in float64 and rounded once to float32. Proven for real-valued Gaussian noise; finite precision,
  timing and a hostile operator are not covered.
- A contribution (record, row or tensor) that is not finite counts as zero, before the clip; no private value raises.
- Every release is checked against the declared mechanism; one more call, draw, row, record or step raises
  ``PrivacyViolation``, and so does a call from inside an autocast region or a captured graph. What is released carries
  no gradient back to what it was computed from.
"""

from __future__ import annotations

import math
import os
import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch

from trainables.base import phase_of
from trainables.coins import numpy_coins

from . import votes
from .canary_scores import CanaryScores, RecordContributions
from .mechanism import Mechanism, Phase, RecordMechanism, ShardMechanism, TeacherMechanism

# float32 norms overshoot their clip by 1.6e-7; clipping a little tighter keeps the declared bound true.
CLIP_MARGIN = 1e-6

_SHARDS_AT_ONCE = 16

M = TypeVar("M", ShardMechanism, RecordMechanism, TeacherMechanism)


class PrivacyViolation(Exception):
    """The code did something that its mechanism does not declare. The trial is neither resumable nor releasable.

    No RuntimeError: code that retries after torch's out-of-memory error must not swallow it.
    """


@dataclass(frozen=True)
class Contribution:
    """What a micro-batch of n records adds to a release, without holding n tensors of its shape.

    ``norms`` (float32 or float64 ``[n]``) are the L2 norms of the records' contributions and ``weighted_sum(weights)``
    returns the sum over records of weight x contribution for weights ``[n]``, float32 or better too. Both must be exact for
    the clip to be exact; a weight is 0 for a record whose norm is not finite, and ``weighted_sum`` must then leave its
    values out (0 x inf is NaN).
    """

    norms: torch.Tensor
    weighted_sum: Callable[[torch.Tensor], torch.Tensor]
    records: torch.Tensor | None = None
    """Positions ``[n]`` of the records in the training set, which an audit's grey-box score needs."""


class Sanitizer:
    """Draws units, clips, adds noise and counts, for the phases of one trial.

    ``injected_seed`` replaces the entropy by coins keyed by (seed, step, call): for tests that compare two runs bit for bit.
    Nothing that ran so is private; ``proven`` is then False and no epsilon may be printed for it.

    ``executed`` are the steps a phase that the ledger counts for all earlier attempts. A round-robin schedule goes on from
    there and not from the step of the checkpoint: steps that run again would visit the same shards again, more often than
    the account of so many steps allows. Raises ``ValueError`` where such a schedule is not told.

    ``canaries`` are shown every release of a method that says what a record adds to it, and change none.
    """

    def __init__(
        self,
        phases: Sequence[Phase],
        *,
        device: torch.device | str = "cpu",
        injected_seed: int | None = None,
        executed: Sequence[int] | None = None,
        canaries: CanaryScores | None = None,
    ) -> None:
        self._phases = tuple(phases)
        self.canaries = canaries
        if executed is None and any(getattr(phase.mechanism, "schedule", None) == "round_robin" for phase in self._phases):
            raise ValueError("a round-robin schedule goes on where all earlier attempts stopped: give executed, steps a phase")
        self._device = torch.device(device)
        self._injected_seed = injected_seed
        self._opened = [0] * len(self._phases) if executed is None else list(executed)
        self._mechanism: Mechanism | None = None
        self._phase = self._step = self._calls = 0
        self._drawn: int | None = None
        self._of_records: RecordContributions | None = None
        self.releases = [0] * len(self._phases)
        """Releases made in this process, a phase."""

    @property
    def proven(self) -> bool:
        """False where the noise was injected by a test."""
        return self._injected_seed is None

    def open_step(self, step: int, phase: int) -> None:
        """Allow the releases of global step ``step``, which belongs to phase number ``phase``. The budget was asked before."""
        if self._mechanism is not None:
            raise PrivacyViolation(f"step {step} opened before step {self._step} was closed")
        planned = [phase.steps for phase in self._phases]
        if not 0 <= step < sum(planned) or phase_of(step, planned) != phase:
            raise PrivacyViolation(f"step {step} opened in phase {phase}; the phases declare {planned} steps")
        self._mechanism, self._phase, self._step = self._phases[phase].mechanism, phase, step
        self._opened[phase] += 1
        self._calls, self._drawn, self._of_records = 0, None, None

    def close_step(self) -> None:
        """Check that the step released exactly what it declared."""
        mechanism = self._require_open()
        self._mechanism = None
        if self._calls != mechanism.releases_per_step:
            raise PrivacyViolation(
                f"step {self._step} made {self._calls} releases; {mechanism.kind} declares {mechanism.releases_per_step} a step"
            )

    # --- secret draws -------------------------------------------------------------------------------------------------

    def sample_records(self) -> np.ndarray:
        """Indices (int64, ascending) of the records drawn for this step, each with probability ``sampling_rate``."""
        mechanism = self._require(RecordMechanism, "sample_records")
        records = np.arange(mechanism.records)
        if mechanism.sampling_rate < 1:
            # 64 bits a record against the rate x 2^64: a coin for each, as fair as the rate is a float.
            records = np.flatnonzero(self._coins(mechanism.records) < np.uint64(mechanism.sampling_rate * 2**64))
        self._draw(len(records))
        return records

    def sample_shards(self) -> np.ndarray:
        """The m shards that answer this step: secret and fresh, or the next ones of the public round-robin schedule."""
        mechanism = self._require(ShardMechanism, "sample_shards")
        shards, count = mechanism.shards, mechanism.shards_per_step
        self._draw(count)
        if mechanism.schedule == "round_robin":
            turn = self._opened[self._phase] - 1 if self.proven else self._step
            return (turn * count + np.arange(count)) % shards
        if self._injected_seed is not None:
            return np.sort(self._injected("draw").choice(shards, count, replace=False))
        return np.sort(secrets.SystemRandom().sample(range(shards), count))

    # --- audits -------------------------------------------------------------------------------------------------------

    def explain_records(self, of_records: RecordContributions) -> None:
        """Say what any record would add to the next release, for the grey-box score of an audit; read by nothing else."""
        self._of_records = of_records

    # --- releases -----------------------------------------------------------------------------------------------------

    def release_records(self, contributions: Iterable[Contribution], *, max_grad_norm: float) -> torch.Tensor:
        """Sum of the drawn records' contributions, each clipped to ``max_grad_norm`` (a public number, C), plus noise.

        ``contributions`` come in micro-batches of any size; none at all is an empty draw and is released like any other.
        Returns float32 of the declared shape.
        """
        mechanism = self._require(RecordMechanism, "release_records", clipping="per_record")
        total = torch.zeros(mechanism.release_shape, dtype=torch.float64, device=self._device)
        of_records, self._of_records = self._of_records, None
        watched = self.canaries if of_records is not None else None
        planted = torch.zeros_like(total) if watched else total
        records = 0
        for contribution in contributions:
            records += len(contribution.norms)
            weights = clip_weights(contribution.norms.detach(), max_grad_norm)
            part = contribution.weighted_sum(weights)
            if watched and contribution.records is not None:
                inside = torch.isin(contribution.records, watched.slots)
                if inside.any():
                    planted += contribution.weighted_sum(weights * inside).detach()
            self._check_shape(part, mechanism.release_shape)
            self._check_precision(contribution.norms, part)
            total += part.detach()
        if records > (self._drawn or 0):
            raise PrivacyViolation(f"step {self._step} would release more records than it drew")
        released = self._release(total, mechanism.noise_multiplier, max_grad_norm)
        if watched and of_records:
            watched.observe(
                released - (total - planted),
                of_records,
                sampling_rate=mechanism.sampling_rate,
                noise_multiplier=mechanism.noise_multiplier,
                max_grad_norm=max_grad_norm,
            )
        return released

    def release_tensor(self, tensor: torch.Tensor, *, max_grad_norm: float) -> torch.Tensor:
        """``tensor``, computed from all drawn records, clipped to ``max_grad_norm`` as a whole, plus noise."""
        mechanism = self._require(RecordMechanism, "release_tensor", clipping="whole_tensor")
        self._check_shape(tensor, mechanism.release_shape)
        clipped = _clip(tensor.detach().reshape(1, -1), max_grad_norm).reshape(mechanism.release_shape)
        return self._release(clipped, mechanism.noise_multiplier, max_grad_norm)

    def release_rows(
        self,
        answers: torch.Tensor,
        *,
        max_grad_norm: float,
        carried: torch.Tensor | None = None,
        carried_norm: float = 0.0,
    ) -> torch.Tensor:
        """Sum over the m drawn shards of ``answers [m, B, ...]``, every row clipped to ``max_grad_norm``, plus noise.

        The same weight for every shard whatever it holds; divide the result by the constant m if a mean is wanted.

        ``carried [B, ...]`` is private state that all shards share (an error buffer): its rows, clipped to ``carried_norm``,
        are added once. A row of a drawn shard then moves by 2 (max_grad_norm + carried_norm), which is the unit of the noise.
        Raises ``PrivacyViolation`` unless the share of ``carried_norm`` in that sum is what the mechanism declares.
        """
        mechanism = self._require(ShardMechanism, "release_rows")
        self._check_shape(answers, (mechanism.shards_per_step, *mechanism.release_shape))
        self._check_carried(mechanism, carried, max_grad_norm, carried_norm)
        total = torch.zeros(mechanism.release_shape, dtype=torch.float64, device=answers.device)
        for part in answers.detach().split(_SHARDS_AT_ONCE):  # in float64 a part at a time, however many shards were drawn
            rows = part.reshape(len(part) * mechanism.release_shape[0], -1)
            total += _clip(rows, max_grad_norm).reshape(part.shape).sum(dim=0)
        if carried is not None:
            total += _clip(carried.detach().reshape(len(carried), -1), carried_norm).reshape(total.shape)
        return self._release(total, mechanism.noise_multiplier, 2 * (max_grad_norm + carried_norm))

    def release_votes(self, parts: Iterable[torch.Tensor]) -> torch.Tensor:
        """Noisy counts, float32 of the declared shape, of the whole-number votes of all K teachers.

        ``parts`` hold every teacher once, in parts of any number of them; ``votes.count`` says their form. Raises
        ``PrivacyViolation`` for votes of another form and where the mechanism declares a threshold.
        """
        mechanism = self._require(TeacherMechanism, "release_votes")
        if mechanism.threshold_noise_multiplier is not None:
            raise PrivacyViolation(f"release_votes in step {self._step}, but the mechanism declares a threshold: {mechanism}")
        return self._release(self._count(mechanism, parts), mechanism.noise_multiplier, mechanism.row_sensitivity)

    def release_confident_votes(self, parts: Iterable[torch.Tensor], *, threshold: float) -> tuple[torch.Tensor, torch.Tensor]:
        """As ``release_votes``, for rows whose noisy largest count reaches ``threshold`` (public), zeros for all others.

        Returns the counts and which rows passed (bool ``[rows]``). The largest counts have noise of their own, and both
        releases are made whatever passes (confident GNMax; Papernot et al., 2018). Raises as ``release_votes`` does.
        """
        mechanism = self._require(TeacherMechanism, "release_confident_votes")
        if mechanism.threshold_noise_multiplier is None:
            raise PrivacyViolation(f"a threshold in step {self._step}, but the mechanism declares none: {mechanism}")
        if not isinstance(threshold, (float, int)) or not math.isfinite(threshold):
            raise PrivacyViolation(f"threshold is {type(threshold).__name__}; expected a public, finite number")
        counts = self._count(mechanism, parts)
        largest = self._release(counts.amax(dim=1), mechanism.threshold_noise_multiplier, 1.0)
        noisy = self._release(counts, mechanism.noise_multiplier, mechanism.row_sensitivity)
        passed = largest >= threshold
        return torch.where(passed[:, None], noisy, 0.0), passed

    # --- inside -------------------------------------------------------------------------------------------------------

    def _release(self, total: torch.Tensor, noise_multiplier: float, unit: float) -> torch.Tensor:
        """``total`` (float64, every contribution finite and clipped) plus noise of noise_multiplier x ``unit``, in float32."""
        mechanism = self._require_open()
        if self._drawn is None:
            raise PrivacyViolation(f"step {self._step} would release what no draw of units has chosen")
        self._calls += 1
        if self._calls > mechanism.releases_per_step:
            raise PrivacyViolation(
                f"release {self._calls} in step {self._step}; {mechanism.kind} declares {mechanism.releases_per_step} a step"
            )
        if not torch.isfinite(total).all():
            # Every weight of a contribution that is not finite was 0, so weighted_sum let one in and bounds nothing.
            raise PrivacyViolation(f"step {self._step} would release numbers that are not finite; weighted_sum multiplied them")
        self.releases[self._phase] += 1
        noise = torch.from_numpy(self._noise().standard_normal(tuple(total.shape)))
        return (total + noise.to(total.device) * (noise_multiplier * unit)).float()

    def _noise(self) -> np.random.Generator:
        """A generator for one release: 256 bits of the operating system's entropy, and gone afterwards."""
        if self._injected_seed is not None:
            return self._injected("noise")
        return np.random.Generator(np.random.PCG64DXSM(int.from_bytes(os.urandom(32), "big")))

    def _coins(self, count: int) -> np.ndarray:
        """``count`` uniform uint64, straight from the operating system."""
        if self._injected_seed is not None:
            return self._injected("draw").integers(0, 2**64, count, dtype=np.uint64)
        return np.frombuffer(os.urandom(8 * count), dtype=np.uint64)

    def _injected(self, purpose: str) -> np.random.Generator:
        assert self._injected_seed is not None
        return numpy_coins(self._injected_seed, f"injected {purpose}", self._step, self._calls)

    def _count(self, mechanism: TeacherMechanism, parts: Iterable[torch.Tensor]) -> torch.Tensor:
        self._draw(mechanism.teachers)
        try:
            return votes.count(parts, mechanism, self._device)
        except votes.InvalidVotes as error:
            raise PrivacyViolation(f"step {self._step}: {error}") from None

    def _require_open(self) -> Mechanism:
        if self._mechanism is None:
            raise PrivacyViolation("private data was asked for outside an open step")
        autocast = torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda")
        captured = torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()
        # Under torch.compile the exception makes the tracer step out, and this code runs eagerly as it must.
        if autocast or captured or torch.compiler.is_compiling():
            raise PrivacyViolation("draws and releases stay outside autocast regions, captured and compiled graphs")
        return self._mechanism

    def _require(self, family: type[M], call: str, clipping: str | None = None) -> M:
        mechanism = self._require_open()
        if not isinstance(mechanism, family) or (clipping and getattr(mechanism, "clipping", None) != clipping):
            raise PrivacyViolation(f"{call} in step {self._step}, but the mechanism declared is {mechanism}")
        return mechanism

    def _draw(self, units: int) -> None:
        if self._drawn is not None:
            raise PrivacyViolation(f"a second draw in step {self._step}; a step has one draw of units")
        self._drawn = units

    def _check_carried(
        self, mechanism: ShardMechanism, carried: torch.Tensor | None, max_grad_norm: float, carried_norm: float
    ) -> None:
        _check_bound("max_grad_norm", max_grad_norm)
        if carried is None:
            if carried_norm or mechanism.carried:
                raise PrivacyViolation(
                    f"step {self._step} carries no rows, but its carried_norm is {carried_norm} and {mechanism.kind} declares "
                    f"the share {mechanism.carried}"
                )
            return
        _check_bound("carried_norm", carried_norm)
        self._check_shape(carried, mechanism.release_shape)
        share = carried_norm / (max_grad_norm + carried_norm)
        if not math.isclose(share, mechanism.carried, rel_tol=1e-9):
            raise PrivacyViolation(
                f"step {self._step} would carry the share {share} of a row's sensitivity; {mechanism.kind} declares "
                f"{mechanism.carried}"
            )

    def _check_precision(self, *tensors: torch.Tensor) -> None:
        for tensor in tensors:
            if tensor.dtype not in (torch.float32, torch.float64):
                raise PrivacyViolation(f"step {self._step} would clip in {tensor.dtype}, too coarse for the bound to hold")

    def _check_shape(self, tensor: torch.Tensor, expected: tuple[int, ...]) -> None:
        if tuple(tensor.shape) != expected:
            raise PrivacyViolation(f"step {self._step} would release shape {tuple(tensor.shape)}; declared is {expected}")


def clip_weights(norms: torch.Tensor, max_grad_norm: float) -> torch.Tensor:
    """Weights in [0, 1] that bring contributions of the given L2 norms to at most ``max_grad_norm``; 0 if not finite.

    Raises ``PrivacyViolation`` for a bound that is not a positive number: a tensor or array, which may hold private values,
    is none.
    """
    _check_bound("max_grad_norm", max_grad_norm)
    bound = max_grad_norm * (1 - CLIP_MARGIN)
    finite = torch.isfinite(norms)
    return torch.where(finite, bound / torch.where(finite, norms, 0.0).clamp_min(bound), 0.0)


def _check_bound(name: str, bound: float) -> None:
    if not isinstance(bound, (float, int)) or not 0 < bound < math.inf:
        raise PrivacyViolation(f"{name} is {type(bound).__name__}; expected a public, finite number over 0")


def _clip(rows: torch.Tensor, max_grad_norm: float) -> torch.Tensor:
    """Each row of ``[n, d]`` scaled to an L2 norm of at most ``max_grad_norm``, in float64; rows not finite become zero."""
    rows = rows.double()
    norms = rows.norm(dim=1)
    weights = clip_weights(norms, max_grad_norm)
    return weights[:, None] * torch.where(torch.isfinite(norms)[:, None], rows, 0.0)
