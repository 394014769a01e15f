"""Per-record gradients against a plain loop over records in float64."""

import copy

import pytest
import torch
from torch import nn

from trainables.per_record_gradients import (
    assign_gradient,
    flatten,
    micro_batch_size,
    parameter_count,
    record_gradients,
    summed,
    trainable,
)


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(1, 3, 3, stride=2), nn.LeakyReLU(0.2), nn.Flatten(), nn.Linear(27, 4))
    layers[0].bias.requires_grad_(False)
    return layers


def loss(call, image, target):
    return nn.functional.cross_entropy(call(image[None]), target[None])


def batch(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(1)
    return torch.randn(n, 1, 7, 7, generator=rng), torch.randint(4, (n,), generator=rng)


def loop(module: nn.Module, images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """``[n, P]`` in float64, one backward a record."""
    module = copy.deepcopy(module).double()
    rows = []
    for image, target in zip(images.double(), targets, strict=True):
        value = nn.functional.cross_entropy(module(image[None]), target[None])
        rows.append(flatten(torch.autograd.grad(value, list(trainable(module).values()))))
    return torch.stack(rows)


def test_norms_and_sums_are_those_of_a_loop_over_records():
    module, (images, targets) = network(), batch(5)
    expected = loop(module, images, targets)
    found = record_gradients(module, loss, (images, targets))
    weights = torch.tensor([0.5, 0.0, 1.0, 0.25, 0.125])
    assert parameter_count(module) == expected.shape[1] == 3 * 9 + 27 * 4 + 4
    torch.testing.assert_close(found.norms, expected.norm(dim=1), rtol=1e-6, atol=0)
    torch.testing.assert_close(found.weighted_sum(weights).double(), weights.double() @ expected, rtol=1e-5, atol=1e-6)
    assert all(parameter.grad is None for parameter in module.parameters())


def test_in_float64_they_are_exact():
    module, (images, targets) = network().double(), batch(4)
    found = record_gradients(module, loss, (images.double(), targets))
    expected = loop(module, images, targets)
    torch.testing.assert_close(found.norms, expected.norm(dim=1), rtol=1e-12, atol=0)
    sums = found.weighted_sum(torch.ones(4, dtype=torch.float64))
    torch.testing.assert_close(sums, expected.sum(dim=0), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 3e38])
def test_a_record_that_is_not_finite_is_left_out(value):
    module, (images, targets) = network(), batch(4)
    expected = record_gradients(module, loss, (images[[0, 2, 3]], targets[[0, 2, 3]]))
    images[1] = value
    found = record_gradients(module, loss, (images, targets))
    assert torch.isfinite(found.norms).tolist() == [True, False, True, True]
    torch.testing.assert_close(
        found.weighted_sum(torch.tensor([1.0, 0.0, 1.0, 1.0])), expected.weighted_sum(torch.ones(3)), rtol=1e-5, atol=1e-6
    )


def test_one_broken_value_of_one_parameter_breaks_the_record():
    first, second = torch.ones(2, 3), torch.ones(2, 1)
    second[1, 0] = float("nan")
    found = summed([first, second])
    assert float(found.norms[0]) == pytest.approx(2, rel=1e-12)
    assert not torch.isfinite(found.norms[1])
    assert found.weighted_sum(torch.tensor([1.0, 0.0])).tolist() == [1.0] * 4


def test_no_records_are_no_contribution():
    module, (images, targets) = network(), batch(0)
    found = record_gradients(module, loss, (images, targets))
    assert found.norms.shape == (0,)
    assert torch.equal(found.weighted_sum(torch.zeros(0)), torch.zeros(parameter_count(module)))


def test_a_loss_that_draws_is_refused():
    def noisy(call, image, target):
        return loss(call, image + torch.randn(image.shape), target)

    with pytest.raises(RuntimeError, match="randomness"):
        record_gradients(network(), noisy, batch(2))


def test_an_optimiser_follows_an_assigned_gradient():
    module = network()
    before = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
    vector = torch.arange(float(parameter_count(module)))
    assign_gradient(module, vector)
    torch.optim.SGD(module.parameters(), lr=1.0).step()
    moved = flatten(before[name] - parameter for name, parameter in trainable(module).items())
    torch.testing.assert_close(moved, vector, rtol=1e-5, atol=1e-5)
    assert torch.equal(before["0.bias"], module[0].bias)
    with pytest.raises(ValueError, match=r"shape \(3,\); expected \(139,\)"):
        assign_gradient(module, torch.zeros(3))


def test_the_micro_batch_is_bounded_by_bytes():
    module = network()
    assert micro_batch_size(module, limit=10 * 4 * 139) == 10
    assert micro_batch_size(module, limit=1) == 1
    assert micro_batch_size(module) == 512
