"""The one door through which anything private leaves: draws, clips, noise, and the count of all of it.

What holds, and where it is tested (``tests/trainables/privacy/test_sanitizer.py``):

- Secret draws and noise come from the operating system's entropy, a new generator for every release, never stored. Noise
  is drawn and added in float64 and rounded once to float32. Proven for real-valued Gaussian noise; finite precision,
  timing and a hostile operator are not covered.
- A contribution (record, row or tensor) that is not finite counts as zero, before the clip; no private value raises.
- Every release is checked against the declared mechanism; one more call, row or step raises ``PrivacyViolation``.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch

from .mechanism import Mechanism, Phase, RecordMechanism, ShardMechanism

# float32 norms overshoot their clip by 1.6e-7; clipping a little tighter keeps the declared bound true.
CLIP_MARGIN = 1e-6


M = TypeVar("M", ShardMechanism, RecordMechanism)


class PrivacyViolation(RuntimeError):
    """The code did something that its mechanism does not declare. The trial is neither resumable nor releasable."""


@dataclass(frozen=True)
class Contribution:
    """What a micro-batch of n records adds to a release, without holding n tensors of its shape.

    ``norms`` (float ``[n]``) are the L2 norms of the records' contributions and ``weighted_sum(weights)`` returns the sum
    over records of weight x contribution for float weights ``[n]``. Both must be exact for the clip to be exact; a weight
    is 0 for a record whose norm is not finite, and ``weighted_sum`` must then leave its values out (0 x inf is NaN).
    """

    norms: torch.Tensor
    weighted_sum: Callable[[torch.Tensor], torch.Tensor]


class Sanitizer:
    """Draws units, clips, adds noise and counts, for the phases of one trial.

    ``injected_seed`` replaces the entropy by coins keyed by (seed, step, call): for tests that compare two runs bit for bit.
    Nothing that ran so is private; ``proven`` is then False and no epsilon may be printed for it.
    """

    def __init__(self, phases: Sequence[Phase], *, device: torch.device | str = "cpu", injected_seed: int | None = None) -> None:
        self._phases = tuple(phases)
        self._device = torch.device(device)
        self._injected_seed = injected_seed
        self._mechanism: Mechanism | None = None
        self._phase = self._step = self._calls = self._draws = 0
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
        self._mechanism, self._phase, self._step = self._phases[phase].mechanism, phase, step
        self._calls = self._draws = 0

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
        self._draw_once()
        generator = self._generator("draw")
        if mechanism.sampling_rate == 1:
            return np.arange(mechanism.records)
        return np.flatnonzero(generator.random(mechanism.records) < mechanism.sampling_rate)

    def sample_shards(self) -> np.ndarray:
        """The m shards that answer this step: secret and fresh, or the next ones of the public round-robin schedule."""
        mechanism = self._require(ShardMechanism, "sample_shards")
        self._draw_once()
        shards, count = mechanism.shards, mechanism.shards_per_step
        if mechanism.schedule == "round_robin":
            return (self._step * count + np.arange(count)) % shards
        if self._injected_seed is not None:
            return np.sort(self._generator("draw").choice(shards, count, replace=False))
        return np.sort(secrets.SystemRandom().sample(range(shards), count))

    # --- releases -----------------------------------------------------------------------------------------------------

    def release_records(self, contributions: Iterable[Contribution], *, max_grad_norm: float) -> torch.Tensor:
        """Sum of the drawn records' contributions, each clipped to ``max_grad_norm`` (a public number, C), plus noise.

        ``contributions`` come in micro-batches of any size; none at all is an empty draw and is released like any other.
        Returns float32 of the declared shape.
        """
        mechanism = self._require(RecordMechanism, "release_records", clipping="per_record")
        total = torch.zeros(mechanism.release_shape, dtype=torch.float64, device=self._device)
        for contribution in contributions:
            weights = clip_weights(contribution.norms, max_grad_norm)
            part = contribution.weighted_sum(weights)
            self._check_shape(part, mechanism.release_shape)
            total += part
        return self._add_noise(total, mechanism.noise_multiplier * max_grad_norm)

    def release_tensor(self, tensor: torch.Tensor, *, max_grad_norm: float) -> torch.Tensor:
        """``tensor``, computed from all drawn records, clipped to ``max_grad_norm`` as a whole, plus noise."""
        mechanism = self._require(RecordMechanism, "release_tensor", clipping="whole_tensor")
        self._check_shape(tensor, mechanism.release_shape)
        clipped = _clip(tensor.reshape(1, -1), max_grad_norm).reshape(mechanism.release_shape)
        return self._add_noise(clipped, mechanism.noise_multiplier * max_grad_norm)

    def release_rows(self, answers: torch.Tensor, *, max_grad_norm: float) -> torch.Tensor:
        """Sum over the m drawn shards of ``answers [m, B, ...]``, every row clipped to ``max_grad_norm``, plus noise.

        The same weight for every shard whatever it holds; divide the result by the constant m if a mean is wanted.
        """
        mechanism = self._require(ShardMechanism, "release_rows")
        self._check_shape(answers, (mechanism.shards_per_step, *mechanism.release_shape))
        rows = mechanism.shards_per_step * mechanism.release_shape[0]
        clipped = _clip(answers.reshape(rows, -1), max_grad_norm).reshape(answers.shape).sum(dim=0)
        return self._add_noise(clipped, mechanism.noise_multiplier * 2 * max_grad_norm)

    # --- inside -------------------------------------------------------------------------------------------------------

    def _add_noise(self, total: torch.Tensor, std: float) -> torch.Tensor:
        mechanism = self._require_open()
        self._calls += 1
        if self._calls > mechanism.releases_per_step:
            raise PrivacyViolation(
                f"release {self._calls} in step {self._step}; {mechanism.kind} declares {mechanism.releases_per_step} a step"
            )
        self.releases[self._phase] += 1
        noise = self._generator("noise").standard_normal(tuple(total.shape))
        if not torch.isfinite(total).all():
            # Each contribution was finite and clipped, so this is a defect of weighted_sum; a release of zeros says nothing.
            total = torch.zeros_like(total)
        return (total.double() + torch.from_numpy(noise).to(total.device) * std).float()

    def _generator(self, purpose: str) -> np.random.Generator:
        if self._injected_seed is not None:
            from trainables.coins import numpy_coins

            return numpy_coins(self._injected_seed, f"injected {purpose}", self._step, self._calls)
        return np.random.Generator(np.random.PCG64DXSM(int.from_bytes(os.urandom(32), "big")))

    def _require_open(self) -> Mechanism:
        if self._mechanism is None:
            raise PrivacyViolation("private data was asked for outside an open step")
        return self._mechanism

    def _require(self, family: type[M], call: str, clipping: str | None = None) -> M:
        mechanism = self._require_open()
        if not isinstance(mechanism, family) or (clipping and getattr(mechanism, "clipping", None) != clipping):
            raise PrivacyViolation(f"{call} in step {self._step}, but the mechanism declared is {mechanism}")
        return mechanism

    def _draw_once(self) -> None:
        self._draws += 1
        if self._draws > 1:
            raise PrivacyViolation(f"a second draw in step {self._step}; a step has one draw of units")

    def _check_shape(self, tensor: torch.Tensor, expected: tuple[int, ...]) -> None:
        if tuple(tensor.shape) != expected:
            raise PrivacyViolation(f"step {self._step} would release shape {tuple(tensor.shape)}; declared is {expected}")


def clip_weights(norms: torch.Tensor, max_grad_norm: float) -> torch.Tensor:
    """Weights in [0, 1] that bring contributions of the given L2 norms to at most ``max_grad_norm``; 0 if not finite."""
    bound = max_grad_norm * (1 - CLIP_MARGIN)
    weights = (bound / norms.clamp_min(bound)).nan_to_num(0.0)
    return torch.where(torch.isfinite(norms), weights, torch.zeros_like(weights))


def _clip(rows: torch.Tensor, max_grad_norm: float) -> torch.Tensor:
    """Each row of ``[n, d]`` scaled to an L2 norm of at most ``max_grad_norm``, in float64; rows not finite become zero."""
    rows = rows.double()
    norms = rows.norm(dim=1)
    return clip_weights(norms, max_grad_norm)[:, None] * torch.where(torch.isfinite(norms)[:, None], rows, torch.zeros_like(rows))
