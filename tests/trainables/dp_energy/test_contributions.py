"""Norms, bounds and sums of the records' contributions, against loops over single records."""

import math

import pytest
import torch

from trainables.coins import torch_coins
from trainables.dp_energy.contributions import contributions, repulsion
from trainables.dp_energy.method import Config, norm_bound

CLASSES, N, SIZE = 3, 4, 20
SWITCHES = [(True, 0.0), (True, 1.0), (True, 0.3), (False, 1.0)]
CLIP = 1.5


def slots_and_records(records: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Random slots ``[CLASSES, N, SIZE]``, features ``[records, SIZE]`` and labels, the classes unequal in number."""
    coins = torch_coins(seed, "test")
    slots = torch.rand(CLASSES, N, SIZE, generator=coins, dtype=torch.float64)
    features = torch.rand(records, SIZE, generator=coins, dtype=torch.float64)
    labels = torch.randint(0, CLASSES, (records,), generator=coins) * (torch.rand(records, generator=coins) < 0.6)
    return slots, features, labels


def placed_records(slots: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Records on a slot of their class, at 1e-12 to 1e6 from it, and around the two distances where the pull changes."""
    directions = torch.randn(60, SIZE, generator=torch_coins(0, "directions"), dtype=torch.float64)
    directions /= directions.norm(dim=1, keepdim=True)
    near = [10.0**power for power in range(-12, 7)] + [0.49, 0.5, 0.51, 1.49, 1.5, 1.51]
    reach = torch.tensor([0.0, *near] * 2, dtype=torch.float64)
    labels = torch.arange(len(reach)) % CLASSES
    return slots[labels, torch.arange(len(reach)) % N] + reach[:, None] * directions[: len(reach)], labels


def one_record(slots: torch.Tensor, x: torch.Tensor, label: int, energy: bool, gamma: float) -> torch.Tensor:
    """A record's contribution ``[CLASSES * N, SIZE]`` as the method's description writes it, one slot after the other."""
    total = torch.zeros_like(slots)
    distances = [math.dist(slot.tolist(), x.tolist()) for slot in slots[label]]
    for s, distance in enumerate(distances):
        if energy:
            total[label, s] += (slots[label, s] - x) / max(distance, 0.5) / math.sqrt(N)
    nearest = distances.index(min(distances))
    residual = slots[label, nearest] - x
    total[label, nearest] += gamma * residual * min(1, CLIP / max(distances[nearest], 1e-300)) / CLIP
    return total.reshape(CLASSES * N, SIZE)


def run(slots, features, labels, energy, gamma, usable=None, batch=4096):
    usable = torch.ones(len(features), dtype=torch.bool) if usable is None else usable
    return list(
        contributions(
            slots,
            torch.arange(len(features)),
            labels,
            lambda records: (features[records], usable[records]),
            energy=energy,
            reconstruction=gamma,
            reconstruction_clip=CLIP,
            batch=batch,
        )
    )


def total(parts, weight: float = 1.0) -> torch.Tensor:
    return sum(part.weighted_sum(torch.full_like(part.norms, weight)) for part in parts)


def bound(energy: bool, gamma: float) -> float:
    config = Config(slots=CLASSES * N, energy=energy, reconstruction=gamma, reconstruction_schedule="constant")
    return norm_bound(config, CLASSES, 0)


@pytest.mark.parametrize(("energy", "gamma"), SWITCHES)
def test_each_norm_is_the_norm_of_what_is_added_and_at_most_the_bound(energy, gamma):
    slots, _, _ = slots_and_records(0)
    features, labels = placed_records(slots)
    for x, label in zip(features, labels, strict=True):
        (part,) = run(slots, x[None], label[None], energy, gamma)
        added = part.weighted_sum(torch.ones(1))
        torch.testing.assert_close(added, one_record(slots, x, int(label), energy, gamma), rtol=1e-7, atol=1e-9)
        assert part.norms.item() == pytest.approx(added.norm().item(), rel=1e-6, abs=1e-6)
        assert added.norm().item() <= bound(energy, gamma) * (1 + 1e-9)


@pytest.mark.parametrize(("energy", "gamma"), SWITCHES)
def test_the_bound_is_attained_by_a_distant_record(energy, gamma):
    slots, _, _ = slots_and_records(0)
    (part,) = run(slots, torch.full((1, SIZE), 50.0, dtype=torch.float64), torch.tensor([1]), energy, gamma)
    assert part.norms.item() == pytest.approx(bound(energy, gamma), rel=1e-9)


@pytest.mark.parametrize(("energy", "gamma"), SWITCHES)
def test_vectorised_sum_is_the_loop_over_classes_and_records(energy, gamma):
    slots, features, labels = slots_and_records(50)
    weights = torch.rand(50, generator=torch_coins(0, "weights"), dtype=torch.float64)
    expected = sum(w * one_record(slots, x, int(k), energy, gamma) for w, x, k in zip(weights, features, labels, strict=True))
    order = torch.argsort(labels, stable=True)  # one micro-batch takes the records by class, in their order
    (part,) = run(slots, features, labels, energy, gamma)
    torch.testing.assert_close(part.weighted_sum(weights[order]), expected, rtol=1e-10, atol=1e-10)


def test_micro_batches_are_bounded_and_add_up_to_the_whole():
    slots, features, labels = slots_and_records(500)
    whole = run(slots, features, labels, True, 1.0)
    parts = run(slots, features, labels, True, 1.0, batch=30)
    assert len(whole) == 1
    assert len(parts) > 10
    assert max(len(part.norms) for part in parts) <= 30
    assert sum(len(part.norms) for part in parts) == 500
    torch.testing.assert_close(total(parts), total(whole), rtol=1e-10, atol=1e-10)


def test_the_order_of_the_draw_does_not_matter():
    slots, features, labels = slots_and_records(100)
    mixed = torch.randperm(100, generator=torch_coins(0, "order"))
    torch.testing.assert_close(
        total(run(slots, features[mixed], labels[mixed], True, 1.0)),
        total(run(slots, features, labels, True, 1.0)),
        rtol=1e-10,
        atol=1e-10,
    )


def test_a_record_that_may_not_contribute_adds_nothing():
    slots, features, labels = slots_and_records(30)
    usable = torch.arange(30) % 3 != 0
    parts = run(slots, features, labels, True, 1.0, usable)
    expected = total(run(slots, features[usable], labels[usable], True, 1.0))
    torch.testing.assert_close(total(parts), expected, rtol=1e-10, atol=1e-10)
    assert sum((part.norms == 0).sum() for part in parts) == 10


def test_an_empty_draw_makes_no_contribution():
    slots, features, labels = slots_and_records(0)
    assert run(slots, features, labels, True, 1.0) == []


def test_repulsion_is_the_mean_unit_vector_from_the_other_slots():
    slots, _, _ = slots_and_records(0)
    slots[0, 1] = slots[0, 0]  # two that coincide do not push each other
    found = repulsion(slots)
    for k in range(CLASSES):
        for s in range(N):
            pushes = [slots[k, s] - slots[k, other] for other in range(N) if other != s]
            expected = sum(push / max(push.norm().item(), 0.5) for push in pushes) / (N - 1)
            torch.testing.assert_close(found[k, s], expected, rtol=1e-7, atol=1e-9)
