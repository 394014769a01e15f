"""What one private record adds to the release, for many records at once, and the public part of the loss.

A record (x, k) pulls every slot s of its class by c_s (f_s - phi(x)) with

    c_s = 1 / (sqrt(n) max(d_s, 0.5)) + [s is the nearest] gamma / max(d_s, C),    d_s = ||f_s - phi(x)||,

n the slots of a class: the gradient of the energy distance (Szekely & Rizzo, 2013), which is a unit vector beyond distance
0.5, and a clipped squared error at the nearest slot. So a contribution is a linear map of differences and both its norm and
the weighted sum over records are matrix products. All of it is in float64: the differences of near neighbours are what is
left after cancellation, and in float32 the bound of the norm would not hold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from trainables.privacy.sanitizer import Contribution

_NEAR = 0.5  # distance below which the energy pull shrinks instead of turning at full length

RecordFeatures = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
"""Indices ``[n]`` to features ``[n, d]`` and to which of the records may contribute, bool ``[n]``."""


def contributions(
    slots: torch.Tensor,
    drawn: torch.Tensor,
    labels: torch.Tensor,
    record_features: RecordFeatures,
    *,
    energy: bool,
    reconstruction: float,
    reconstruction_clip: float,
    batch: int,
) -> Iterator[Contribution]:
    """Contributions of the drawn records in micro-batches of at most ``batch`` rows.

    ``slots`` is ``[classes, n, d]`` float64, ``drawn`` indices ``[m]`` and ``labels`` their classes ``[m]``. Every
    micro-batch takes the same number of records of each class, so that it is one batched matrix product over the classes.
    """
    classes = len(slots)
    order = torch.argsort(labels, stable=True)
    drawn, labels = drawn[order], labels[order]
    counts = torch.bincount(labels, minlength=classes)
    rank = torch.arange(len(drawn), device=drawn.device) - (counts.cumsum(0) - counts)[labels]
    largest, width = int(counts.max()), max(batch // classes, 1)
    for start in range(0, largest, width):
        end = min(start + width, largest)
        chosen = (rank >= start) & (rank < end)
        features, usable = record_features(drawn[chosen])
        yield _batch(
            slots,
            features,
            usable,
            records=drawn[chosen],
            rows=labels[chosen] * (end - start) + rank[chosen] - start,
            width=end - start,
            energy=energy,
            reconstruction=reconstruction,
            reconstruction_clip=reconstruction_clip,
        )


def _batch(
    slots: torch.Tensor,
    features: torch.Tensor,
    usable: torch.Tensor,
    *,
    records: torch.Tensor,
    rows: torch.Tensor,
    width: int,
    energy: bool,
    reconstruction: float,
    reconstruction_clip: float,
) -> Contribution:
    """Contribution of the records whose features lie at ``rows`` of a ``[classes * width]`` grid; other rows stay empty."""
    classes, n, size = slots.shape
    points = slots.new_zeros(classes * width, size)
    points[rows] = features.double()
    points = points.reshape(classes, width, size)
    present = torch.zeros(classes * width, dtype=torch.bool, device=slots.device)
    present[rows] = usable
    squared = squared_distances(slots, points)  # [classes, n, width]
    coefficients = pull_coefficients(
        squared, energy=energy, reconstruction=reconstruction, reconstruction_clip=reconstruction_clip
    )
    coefficients = coefficients * present.reshape(classes, 1, width)
    norms = (coefficients.square() * squared).sum(dim=1).sqrt().flatten()[rows]

    def weighted_sum(weights: torch.Tensor) -> torch.Tensor:
        grid = slots.new_zeros(classes * width)
        grid[rows] = weights.double()
        pull = coefficients * grid.reshape(classes, 1, width)
        return (pull.sum(dim=2, keepdim=True) * slots - torch.bmm(pull, points)).reshape(classes * n, size)

    return Contribution(norms=norms, weighted_sum=weighted_sum, records=records)


def single_pulls(
    slots: torch.Tensor,
    features: torch.Tensor,
    usable: torch.Tensor,
    *,
    energy: bool,
    reconstruction: float,
    reconstruction_clip: float,
) -> torch.Tensor:
    """What each of m records of one class adds to the release by itself: float32 ``[m, n * d]``, zero for one not usable.

    ``slots [n, d]`` are those of the class, ``features [m, d]`` the records'. For an audit; all m are held at once.
    """
    points = features.double()
    squared = squared_distances(slots[None], points[None])
    coefficients = pull_coefficients(
        squared, energy=energy, reconstruction=reconstruction, reconstruction_clip=reconstruction_clip
    )[0]
    weights = (coefficients * usable).T.float()  # [m, n]
    return (weights[:, :, None] * (slots.float() - points.float()[:, None])).flatten(1)


def squared_distances(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Squared distances ``[classes, n, m]`` between ``[classes, n, d]`` and ``[classes, m, d]``, float64 in and out."""
    lengths_a, lengths_b = (torch.linalg.vector_norm(x, dim=2).square() for x in (a, b))
    return (lengths_a[:, :, None] + lengths_b[:, None, :] - 2 * torch.bmm(a, b.transpose(1, 2))).clamp_min(0)


def pull_coefficients(
    squared: torch.Tensor, *, energy: bool, reconstruction: float, reconstruction_clip: float
) -> torch.Tensor:
    """c ``[classes, n, m]`` from squared distances: how strongly each of m records pulls each of the n slots of its class."""
    distances = squared.sqrt()
    coefficients = torch.zeros_like(distances)
    if energy:
        coefficients += 1 / (distances.clamp_min(_NEAR) * squared.shape[1] ** 0.5)
    if reconstruction > 0:
        nearest, slot = distances.min(dim=1, keepdim=True)
        coefficients.scatter_add_(1, slot, reconstruction / nearest.clamp_min(reconstruction_clip))
    return coefficients


def repulsion(slots: torch.Tensor) -> torch.Tensor:
    """Public half of the energy distance: mean unit vector from the other slots of the class to each slot.

    ``[classes, n, d]`` float64 in and out; n at least 2.
    """
    weights = 1 / squared_distances(slots, slots).sqrt().clamp_min(_NEAR)
    weights = weights - torch.diag_embed(torch.diagonal(weights, dim1=1, dim2=2))
    return (weights.sum(dim=2, keepdim=True) * slots - torch.bmm(weights, slots)) / (slots.shape[1] - 1)
