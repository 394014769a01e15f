"""Error feedback: what the clip cuts off a shard's answer may come back in a later release.

Clipping biases a sum of gradients wherever the parts disagree in length. Four forms, in the words of a row, one generated
image's gradient ``g_k`` from shard k, with ``clip(g, C)`` its scaling to a norm of at most C:

``none``       sum_k clip(g_k, C1).
``paper``      v = sum_k clip(g_k, C1) + clip(e, C2), then e <- e + sum_k g_k - v: one buffer for all shards (Ma & Zhang, 2026,
               equations 7 to 11, after DiceSGD, Zhang et al., ICLR 2024). Through e a record reaches every later release, and
               no secret draw hides it: see ``ShardMechanism.carried``.
``per_shard``  sum_k v_k with v_k = clip(g_k, C1) + clip(e_k, C2), then e_k <- e_k + g_k - v_k: each shard with a buffer of its
               own. In a public round-robin order alone: a shard's buffer tells of its visits, which a secret draw must hide.
``public``     sum_k clip(g_k - M, C1), then M <- M + beta x release / m. M is a function of releases, so the account is that of
               ``none`` (EF21, Richtarik et al., 2021; Clip21, Khirirat et al., 2023).

A row that is not finite counts as zero, in releases and in buffers. Buffers are float32 tensors of one answer's shape
``[B, ...]`` on the answers' device and begin as zeros; row i of a buffer belongs to image i of every batch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch

from trainables.privacy.sanitizer import Sanitizer, clip_weights

from .bounds import row_bound
from .settings import FeedbackKind

_SHARDS_AT_ONCE = 16  # in float64, however many shards were drawn


def build(kind: FeedbackKind, *, max_grad_norm: float, feedback_clip: float, feedback_rate: float, keyed: bool) -> Feedback:
    """The form called ``kind`` with C1, C2 and beta, for one stream of releases; settings that it does not read are ignored.

    ``keyed``: whether a public order (round-robin) decides which shards answer. ``public`` then has a memory for every group of
    m shards that answer together. Raises ``ValueError`` for ``per_shard`` without such an order.
    """
    if kind == "per_shard":
        if not keyed:
            raise ValueError("feedback is per_shard, but the draws are secret; write schedule: round_robin")
        return ShardBuffers(max_grad_norm, feedback_clip)
    if kind == "paper":
        return SharedBuffer(max_grad_norm, feedback_clip)
    if kind == "public":
        return PublicMemory(max_grad_norm, feedback_rate, keyed)
    return NoFeedback(max_grad_norm)


class Feedback(ABC):
    """Turns the answers of the drawn shards into their noisy sum, and remembers what its form remembers."""

    def __init__(self) -> None:
        self._buffers: dict[int, torch.Tensor] = {}

    @abstractmethod
    def release(self, sanitizer: Sanitizer, answers: torch.Tensor, shards: np.ndarray) -> torch.Tensor:
        """Noisy sum, float32 ``[B, ...]``, over the m drawn ``shards`` of their ``answers [m, B, ...]``; one release.

        Raises ``PrivacyViolation`` as ``Sanitizer.release_rows`` does.
        """
        ...

    def state_dict(self) -> dict[str, Any]:
        """A copy of the buffers, which are private in ``paper`` and ``per_shard``: it stays in the checkpoint."""
        return {"buffers": dict(self._buffers)}  # never written into, only replaced

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state_dict`` was taken."""
        self._buffers = {int(key): buffer for key, buffer in state["buffers"].items()}

    def _read(self, keys: Iterable[int], answers: torch.Tensor) -> torch.Tensor:
        """Buffers of ``keys`` as float64 rows ``[len(keys), B, d]`` on the answers' device; zeros where nothing was kept."""
        empty = torch.zeros_like(answers[0], dtype=torch.float32)
        return _rows(torch.stack([self._buffers.get(key, empty).to(answers.device) for key in keys]))

    def _keep(self, keys: Iterable[int], rows: torch.Tensor, answers: torch.Tensor) -> None:
        kept = _in_float32(rows).reshape(len(rows), *answers.shape[1:])
        self._buffers.update(zip(keys, kept.unbind(), strict=True))


class NoFeedback(Feedback):
    """``none``: what is cut off is lost."""

    def __init__(self, max_grad_norm: float) -> None:
        super().__init__()
        self._bound = max_grad_norm

    def release(self, sanitizer: Sanitizer, answers: torch.Tensor, shards: np.ndarray) -> torch.Tensor:
        return sanitizer.release_rows(answers, max_grad_norm=self._bound)


class SharedBuffer(Feedback):
    """``paper``: one private buffer, which all shards fill and every release draws on."""

    def __init__(self, max_grad_norm: float, feedback_clip: float) -> None:
        super().__init__()
        self._bound, self._carried = max_grad_norm, feedback_clip

    def release(self, sanitizer: Sanitizer, answers: torch.Tensor, shards: np.ndarray) -> torch.Tensor:
        error = self._read([0], answers)
        left = error - _clip(error, self._carried)
        for part in answers.split(_SHARDS_AT_ONCE):
            rows = _rows(part)
            left += (rows - _clip(rows, self._bound)).sum(dim=0)
        carried = error.reshape(answers.shape[1:])
        released = sanitizer.release_rows(answers, max_grad_norm=self._bound, carried=carried, carried_norm=self._carried)
        self._keep([0], left, answers)
        return released


class ShardBuffers(Feedback):
    """``per_shard``: a private buffer a shard, which it alone fills and draws on at its own visits."""

    def __init__(self, max_grad_norm: float, feedback_clip: float) -> None:
        super().__init__()
        self._bound, self._carried = max_grad_norm, feedback_clip

    def release(self, sanitizer: Sanitizer, answers: torch.Tensor, shards: np.ndarray) -> torch.Tensor:
        handed, keys = torch.empty_like(answers, dtype=torch.float32), [int(shard) for shard in shards]
        for first in range(0, len(keys), _SHARDS_AT_ONCE):
            part = slice(first, first + _SHARDS_AT_ONCE)
            rows, error = _rows(answers[part]), self._read(keys[part], answers)
            values = _clip(rows, self._bound) + _clip(error, self._carried)
            handed[part] = values.reshape(answers[part].shape)
            self._keep(keys[part], error + rows - values, answers)
        return sanitizer.release_rows(handed, max_grad_norm=row_bound("per_shard", self._bound, self._carried))


class PublicMemory(Feedback):
    """``public``: shards answer with their difference to what is known already, and the sum is put together again."""

    def __init__(self, max_grad_norm: float, rate: float, keyed: bool) -> None:
        super().__init__()
        self._bound, self._rate, self._keyed = max_grad_norm, rate, keyed

    def release(self, sanitizer: Sanitizer, answers: torch.Tensor, shards: np.ndarray) -> torch.Tensor:
        # A key may depend on public things alone: the order of round-robin is public, a secret draw is not.
        key = int(shards[0]) if self._keyed else 0
        memory = self._read([key], answers)
        differences = [_in_float32(_rows(part) - memory) for part in answers.split(_SHARDS_AT_ONCE)]
        released = sanitizer.release_rows(torch.cat(differences).reshape(answers.shape), max_grad_norm=self._bound)
        rows = released.reshape(memory.shape).double()
        self._keep([key], memory + self._rate / len(answers) * rows, answers)
        return _in_float32(len(answers) * memory + rows).reshape(released.shape)


def _rows(answers: torch.Tensor) -> torch.Tensor:
    """``[n, B, ...]`` as float64 rows ``[n, B, d]``, those that are not finite (or too long to have a norm) zero."""
    rows = answers.detach().reshape(*answers.shape[:2], -1).double()
    return torch.where(torch.isfinite(rows.norm(dim=2, keepdim=True)), rows, 0.0)


def _clip(rows: torch.Tensor, bound: float) -> torch.Tensor:
    """Rows ``[n, B, d]``, all finite, scaled to a norm of at most ``bound``."""
    return clip_weights(rows.norm(dim=2, keepdim=True), bound) * rows


def _in_float32(rows: torch.Tensor) -> torch.Tensor:
    """Rounded; beyond the largest float32 that number, so that a buffer stays finite whatever it is fed."""
    limit = torch.finfo(torch.float32).max
    return rows.clamp(-limit, limit).float()
