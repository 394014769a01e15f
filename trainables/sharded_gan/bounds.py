"""What error feedback adds to the bound of one image's answer; no torch, since planning needs it."""

from __future__ import annotations

from .settings import FeedbackKind


def row_bound(kind: FeedbackKind, max_grad_norm: float, feedback_clip: float) -> float:
    """Bound of one image's row of a drawn shard: C1, and C2 more where an error buffer is added. Sensitivity is twice that.

    >>> row_bound("public", 1.0, 0.5), row_bound("paper", 1.0, 0.5)
    (1.0, 1.5)
    """
    return max_grad_norm + (feedback_clip if kind in ("paper", "per_shard") else 0.0)


def carried_share(kind: FeedbackKind, max_grad_norm: float, feedback_clip: float) -> float:
    """Share of that bound which a shard also has in steps that do not draw it: C2 / (C1 + C2) for the one buffer of all shards.

    >>> carried_share("paper", 1.0, 1.0), carried_share("per_shard", 1.0, 1.0)
    (0.5, 0.0)
    """
    return feedback_clip / (max_grad_norm + feedback_clip) if kind == "paper" else 0.0
