"""Costs, plans and gradients against loops in float64 and against the exact optimum of a linear programme."""

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment, linprog

from trainables.coins import torch_coins
from trainables.dp_sinkhorn.transport import costs, joint_points, largest_cost, plan, transport_cost

CLASSES, WEIGHT = 3, 15.0


def points(count: int, seed: int, shape: tuple[int, int, int] = (1, 8, 8)) -> torch.Tensor:
    """Joint points of random images, with labels in turn."""
    images = 2 * torch.rand(count, *shape, generator=torch_coins(seed, "test")) - 1
    return joint_points(images, torch.arange(count) % CLASSES, CLASSES, WEIGHT)


def bound(l1_weight: float) -> float:
    return largest_cost(64, WEIGHT, l1_weight)


def test_a_joint_point_is_the_flat_image_and_the_weighted_one_hot_label():
    images = torch.tensor([[[[0.5, -1.0]]], [[[1.0, 0.0]]]])
    expected = torch.tensor([[0.5, -1, 0, 2.5], [1, 0, 0, 0]], dtype=torch.float64)
    assert torch.equal(joint_points(images, torch.tensor([1, 7]), 2, 2.5), expected)  # 7 is no class


@pytest.mark.parametrize("l1_weight", [0.0, 1.0, 3.0])
def test_costs_are_squared_distances_and_absolute_ones(l1_weight):
    x, y = points(4, 0), points(5, 1)
    by_hand = [[((a - b) ** 2).sum() + l1_weight * np.abs(a - b).sum() for b in y.numpy()] for a in x.numpy()]
    np.testing.assert_allclose(costs(x, y, l1_weight).numpy(), by_hand, rtol=1e-12)
    corners = torch.tensor([[1.0] * 64 + [WEIGHT, 0, 0], [-1.0] * 64 + [0, WEIGHT, 0]], dtype=torch.float64)
    assert costs(corners, corners, l1_weight)[0, 1].item() == pytest.approx(bound(l1_weight))


@pytest.mark.parametrize("l1_weight", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("count", [2, 10, 30])
def test_a_cold_plan_is_the_best_assignment(count, l1_weight):
    x, y = points(count, 0), points(count, 1)
    cost = costs(x, y, l1_weight)
    rows, columns = linear_sum_assignment(cost.numpy())
    best = cost[rows, columns].mean().item()
    found = plan(cost, temperature=0.05, first_temperature=bound(l1_weight))
    assert found.sum(dim=1).tolist() == pytest.approx([1 / count] * count, rel=1e-9)
    assert (found * cost).sum().item() == pytest.approx(best, rel=0.01)


def test_unequal_numbers_of_points_against_a_linear_programme():
    x, y = points(3, 0), points(6, 1)
    cost = costs(x, y, 1.0)
    marginals = np.concatenate([np.kron(np.eye(3), np.ones(6)), np.kron(np.ones(3), np.eye(6))])
    best = linprog(cost.numpy().ravel(), A_eq=marginals, b_eq=[1 / 3] * 3 + [1 / 6] * 6).fun
    found = transport_cost(x, y, l1_weight=1.0, temperature=0.05, first_temperature=bound(1.0))
    assert found.item() == pytest.approx(best, rel=0.01)


def test_a_hot_plan_is_the_entropic_optimum():
    """P_ij = u_i K_ij v_j with K = exp(-cost / temperature) and both marginals met (Sinkhorn, 1964), by plain scaling."""
    cost, temperature = costs(points(6, 0), points(9, 1), 1.0), 300.0
    kernel, u, v = np.exp(-cost.numpy() / temperature), np.ones(6), np.ones(9)
    for _ in range(500):
        v = 1 / 9 / (kernel.T @ u)
        u = 1 / 6 / (kernel @ v)
    found = plan(cost, temperature=temperature, first_temperature=bound(1.0)).numpy()
    np.testing.assert_allclose(found, u[:, None] * kernel * v, rtol=1e-3)
    assert found.max() > 2 * found.min()  # and not the uniform plan


def test_the_gradient_is_the_pull_of_the_points_that_the_plan_assigns():
    x, y = points(5, 0).requires_grad_(), points(6, 1)
    value = transport_cost(x, y, l1_weight=3.0, temperature=0.05, first_temperature=bound(3.0))
    (found,) = torch.autograd.grad(value, x)
    weights = plan(costs(x.detach(), y, 3.0), temperature=0.05, first_temperature=bound(3.0))
    for i in range(5):
        pull = sum(weights[i, j] * (2 * (x[i] - y[j]) + 3 * torch.sign(x[i] - y[j])) for j in range(6))
        torch.testing.assert_close(found[i], pull.detach(), rtol=1e-9, atol=1e-9)


def test_equal_points_and_single_ones_have_a_plan():
    for x, y in ((points(1, 0), points(1, 0)), (points(3, 0)[[0, 0, 0]], points(3, 0)[[0, 0]])):
        found = plan(costs(x, y, 1.0), temperature=0.05, first_temperature=bound(1.0))
        np.testing.assert_allclose(found.numpy(), np.full(found.shape, 1 / found.numel()))
