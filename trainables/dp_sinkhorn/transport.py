"""Entropic optimal transport between labelled images (Cuturi, 2013): costs, the plan, and the gradient of its cost.

Ours and not geomloss (0.3.1), whose annealing starts at the diameter of the points: with the cost of Cao et al. that is a
30th of the largest costs. Measured on 10 and 50 images of Fashion-MNIST a side, label_weight 15, against a linear programme:
the cosine between the gradient and that of the exact optimum is .57 to .77 there and .95 to 1 here, in about the same time.
"""

from __future__ import annotations

import math

import torch

SWEEPS = 5
"""Sinkhorn iterations a temperature. In that measurement 5 come within 5 % of the least cost, and 20 within 1 %. More would
not show: the noise of a release of ten such images is nearly 80 times as long as the gradient at epsilon 10."""


def joint_points(images: torch.Tensor, labels: torch.Tensor, classes: int, label_weight: float) -> torch.Tensor:
    """Flat image and ``label_weight`` times the one-hot label side by side, ``[n, pixels + classes]`` float64.

    ``images [n, C, H, W]`` in [-1, 1]; a label outside 0 to ``classes`` - 1 is no class and adds zeros.
    """
    one_hot = labels[:, None] == torch.arange(classes, device=labels.device)
    return torch.cat([images.flatten(1).double(), one_hot.double() * label_weight], dim=1)


def costs(x: torch.Tensor, y: torch.Tensor, l1_weight: float) -> torch.Tensor:
    """||x_i - y_j||_2^2 + l1_weight ||x_i - y_j||_1 for ``x [n, d]`` and ``y [m, d]``, float64 ``[n, m]``."""
    squared = (x.square().sum(dim=1)[:, None] + y.square().sum(dim=1) - 2 * x @ y.T).clamp_min(0)
    return squared + l1_weight * torch.cdist(x, y, p=1) if l1_weight else squared


def largest_cost(pixels: int, label_weight: float, l1_weight: float) -> float:
    """A bound of ``costs`` between joint points of ``pixels`` values in [-1, 1]; a public number.

    >>> largest_cost(1, label_weight=0.0, l1_weight=1.0)
    6.0
    """
    return 4 * pixels + 2 * label_weight**2 + l1_weight * (2 * pixels + 2 * label_weight)


@torch.no_grad()
def plan(cost: torch.Tensor, *, temperature: float, first_temperature: float) -> torch.Tensor:
    """The entropic plan ``[n, m]`` for ``cost [n, m]`` between uniform weights 1/n and 1/m, in the log domain.

    The temperature is halved from ``first_temperature`` (a bound of the costs) to ``temperature``, the strength of the
    entropy in units of cost, with ``SWEEPS`` iterations at each, however far they converge. Rows sum to 1/n.
    """
    rows, columns = cost.shape
    log_a, log_b = -math.log(rows), -math.log(columns)
    g = cost.new_zeros(columns)

    def row_potential(at: float) -> torch.Tensor:
        return -at * torch.logsumexp(log_b + (g - cost) / at, dim=1)

    current = first_temperature
    while True:
        current = max(current / 2, temperature)
        for _ in range(SWEEPS):
            f = row_potential(current)
            g = -current * torch.logsumexp(log_a + (f[:, None] - cost) / current, dim=0)
        if current == temperature:
            break
    f = row_potential(temperature)
    return torch.exp((f[:, None] + g - cost) / temperature + log_a + log_b)


def transport_cost(
    x: torch.Tensor, y: torch.Tensor, *, l1_weight: float, temperature: float, first_temperature: float
) -> torch.Tensor:
    """Cost of the entropic plan between the points ``x [n, d]`` and ``y [m, d]``, a scalar.

    The plan is a constant to autograd: at the optimum its own change adds nothing to the gradient (the envelope theorem).
    """
    cost = costs(x, y, l1_weight)
    return (plan(cost.detach(), temperature=temperature, first_temperature=first_temperature) * cost).sum()
