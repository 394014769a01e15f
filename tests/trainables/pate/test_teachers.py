"""Stacked teachers and votes against plain re-statements of their formulas, one teacher and one image after the other."""

import copy

import numpy as np
import pytest
import torch
from pate_runs import Forced
from torch import nn

from trainables.coins import numpy_coins, torch_coins
from trainables.data.shards import partition
from trainables.datalens.training import SIGN_SCALE, signed_votes
from trainables.g_pate.training import bin_centres, to_bins
from trainables.pate.teachers import KINDS, TeacherBank

CLASSES, SHAPE, WIDTH = 3, (1, 8, 8), 4


def dense(weights, k, image, label):
    """Score of one image by teacher ``k``, as its description has it."""
    hidden = image.flatten() @ weights["pixels"][k] + weights["bias"][k, label]
    return nn.functional.leaky_relu(hidden, 0.2) @ weights["score"][k, label]


def convolutional(weights, k, image, label):
    def of_label(layer):
        return weights[f"labels.{layer}.weight"][k, :, label] + weights[f"labels.{layer}.bias"][k]

    features = image[None]
    for layer, name in enumerate(("conv1", "conv2")):
        features = nn.functional.conv2d(features, weights[f"{name}.weight"][k], weights[f"{name}.bias"][k], stride=2, padding=2)
        features = nn.functional.leaky_relu(features + of_label(layer)[:, None, None], 0.2)
    hidden = weights["dense.weight"][k] @ features.flatten() + weights["dense.bias"][k] + of_label(2)
    score = weights["score.weight"][k] @ nn.functional.leaky_relu(hidden, 0.2) + weights["score.bias"][k] + of_label(3)
    return score[0]


PLAIN = {"dense": dense, "convolutional": convolutional}


def make_bank(kind, records=20, teachers=4, batch=64, shape=SHAPE, **fields):
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.integers(0, 256, (records, *shape), dtype=np.uint8))
    labels = torch.from_numpy(rng.integers(0, CLASSES, records))
    parts = partition(records, teachers, 0)
    settings = {"width": WIDTH, "shown": 6, "learning_rate": 0.01, "seed": 0, **fields}
    return TeacherBank(images, labels, parts, CLASSES, kind=kind, batch=batch, **settings), images, labels, parts


def perturbed(bank, scale=0.1):
    """Biases start at zero: give every weight a value of its own, so that nothing is tested on zeros."""
    ((_, network, _),) = bank._groups
    coins = torch_coins(0, "perturbed")
    with torch.no_grad():
        for weight in network.parameters():
            weight += scale * torch.randn(weight.shape, generator=coins)
    return network


def shown(count=6):
    coins = torch_coins(0, "shown")
    return torch.rand(count, *SHAPE, generator=coins), torch.randint(CLASSES, (count,), generator=coins)


@pytest.mark.parametrize("kind", list(KINDS))
def test_scores_and_directions_are_those_of_single_teachers(kind):
    bank, *_ = make_bank(kind)
    network = perturbed(bank)
    images, labels = shown()
    weights = {name: weight.detach().double() for name, weight in network.named_parameters()}
    (scores,), (directions,) = bank.scores(images, labels), bank.directions(images, labels)
    for k in range(4):
        one = images.double().requires_grad_()
        plain = torch.stack([PLAIN[kind](weights, k, image, label) for image, label in zip(one, labels, strict=True)])
        torch.testing.assert_close(scores[k].double(), plain.detach(), rtol=1e-4, atol=1e-5)
        (gradient,) = torch.autograd.grad(torch.log1p(torch.exp(-plain)).mean(), one)
        torch.testing.assert_close(directions[k].double(), -gradient.flatten(1), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("kind", list(KINDS))
def test_an_update_is_adam_on_the_cross_entropy_of_the_own_part(kind):
    bank, images, labels, parts = make_bank(kind)
    network = perturbed(bank)
    fakes, fake_labels = shown(3)
    before = {name: weight.detach().clone() for name, weight in network.named_parameters()}
    bank.update(fakes, fake_labels, step=0, number=0)
    for k in range(4):
        weights = {name: weight.double().requires_grad_() for name, weight in before.items()}
        real = [PLAIN[kind](weights, k, images[i].double() / 255, labels[i]) for i in parts[k]]
        fake = [PLAIN[kind](weights, k, image.double(), label) for image, label in zip(fakes, fake_labels, strict=True)]
        right = nn.functional.logsigmoid(torch.stack(real)).mean() + nn.functional.logsigmoid(-torch.stack(fake)).mean()
        gradients = torch.autograd.grad(-right, list(weights.values()))
        for (name, weight), gradient in zip(network.named_parameters(), gradients, strict=True):
            # Adam's first step: the learning rate against the sign of the gradient, where it is not tiny.
            clear = gradient[k].abs() > 1e-5
            moved = (weight[k].double() - before[name][k].double())[clear]
            torch.testing.assert_close(moved, -0.01 * gradient[k][clear].sign(), rtol=2e-3, atol=1e-6)


def test_teachers_of_a_bank_are_the_same_whichever_others_there_are():
    (one, *_), (other, *_) = make_bank("dense", records=40, teachers=4), make_bank("dense", records=60, teachers=6)
    for name, weight in one._groups[0][1].named_parameters():
        assert torch.equal(weight, dict(other._groups[0][1].named_parameters())[name][:4])


def test_a_batch_is_drawn_from_the_own_part():
    """A teacher that has learnt from two of ten records at a time has met all ten."""
    bank, _, _, parts = make_bank("dense", records=40, batch=2)
    drawn = []
    whole = bank._images

    class Watched:
        def __getitem__(self, records):
            drawn.append(records)
            return whole[records]

    bank._images = Watched()
    fakes, fake_labels = shown(3)
    for number in range(40):
        bank.update(fakes, fake_labels, step=0, number=number)
    for k in range(4):
        met = torch.cat([records[k] for records in drawn])
        assert set(met.tolist()) == set(parts[k].tolist())
    assert all(records.shape == (4, 2) and (records[:, 0] != records[:, 1]).all() for records in drawn)


# --- votes ----------------------------------------------------------------------------------------------------------------


def test_bins_are_the_nearest_centres():
    values = torch.linspace(-2, 2, 4001, dtype=torch.float64) + 1e-9  # beside the borders, which belong to either side
    centres = 0.7 * bin_centres(torch.arange(7), 7)
    nearest = (values[:, None] - centres).abs().argmin(dim=1)
    assert torch.equal(to_bins(values, 0.7, 7), nearest)
    assert to_bins(torch.tensor([0.7, -0.7, 1e30, -1e30]), 0.7, 7).tolist() == [6, 0, 6, 0]


def test_projecting_and_projecting_back_keeps_the_direction(random_data, build, run):
    """With one teacher, no noise and wide bins G-PATE's direction is P P' g, bins apart."""
    trainer, sanitizer = build(
        "g_pate", random_data(), factor=0.0, teachers=1, batch=3, projections=64, bins=1001, threshold=None, clip=1.0
    )
    images, labels = trainer._fakes("z", 0)
    (own,) = trainer._bank.directions(images, labels)
    sanitizer.open_step(0, 0)
    found, _ = trainer._direction(images, labels)
    matrices = torch.randn(3, 64, 64, generator=torch_coins(0, "projections", 0)).double() / 8
    back = matrices @ (matrices.mT @ own[0].double()[..., None])
    torch.testing.assert_close(found.double()[..., None], back, rtol=0, atol=64 * 2 / 1001 / 8)
    assert float(nn.functional.cosine_similarity(found.double(), own[0].double()).min()) > 0.5


def test_stochastic_signs_of_the_largest_entries():
    directions = torch.zeros(1, 1, 8)
    directions[0, 0, :4] = torch.tensor([0.5, -1.0, 0.25, 0.1]) * SIGN_SCALE
    draws = 40_000
    uniforms = torch.rand(draws, 1, 3, generator=torch_coins(0, "uniforms"))
    votes = signed_votes(directions.expand(draws, -1, -1), uniforms)
    assert votes.dtype == torch.int8
    assert (votes[..., 3:] == 0).all()
    assert (votes[..., :3].abs() == 1).all()
    # The mean of a stochastic sign is g / b, with a standard error of at most 1 / 200: five of them.
    torch.testing.assert_close(votes.double().mean(dim=0)[0, :3], torch.tensor([0.5, -1.0, 0.25]).double(), atol=0.025, rtol=0)
    long = signed_votes(directions * 1e6, torch.rand(1, 1, 3, generator=torch_coins(0, "uniforms")))
    assert long[0, 0].tolist() == [1, -1, 1, 0, 0, 0, 0, 0], "long directions have certain signs"


def test_datalens_moves_where_enough_teachers_agree(random_data, build):
    trainer, sanitizer = build("datalens", random_data(), factor=0.0, threshold=0.2)
    images, labels = trainer._fakes("z", 0)
    (own,) = trainer._bank.directions(images, labels)
    sanitizer.open_step(0, 0)
    found, diagnostics = trainer._direction(images, labels)
    uniforms = torch.rand(6, 5, 9, generator=torch_coins(0, "signs", 0, 0))
    sums = signed_votes(own, uniforms).double().sum(dim=0)
    expected = torch.where(sums.abs() > 0.2 * 6, sums.sign(), 0.0)
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=0)
    assert 0 < diagnostics["answered"] < 1


def test_the_student_learns_the_share_or_the_majority(random_data, build, run):
    """Labels of the first step, against the teachers' own votes; what is released is a function of them."""
    for label in ("share", "majority"):
        trainer, sanitizer = build("pate_gan", random_data(), factor=0.0, label=label, teacher_updates=1)
        twin, _ = build("pate_gan", random_data(), factor=0.0, label=label, teacher_updates=1)
        for number in range(2):
            twin._bank.update(*twin._fakes("pretraining fakes", number), step=-1, number=number)
        twin._bank.update(*twin._fakes("teacher fakes", 0, 0), step=0, number=0)
        (scores,) = twin._bank.scores(*twin._fakes("labelled", 0))
        share = (scores > 0).double().mean(dim=0)
        expected = share if label == "share" else (share > 0.5).double()
        assert 0 < float(share.mean()) < 1
        (found,) = run(trainer, sanitizer, 0, 1)
        assert found["called_real"] == pytest.approx(float(expected.mean()), abs=1e-6)


def test_the_generator_follows_the_moved_images(random_data, build, run):
    """Adam's first step down the squared distance to the images moved by what was released, clipped to [0, 1]."""
    trainer, sanitizer = build("datalens", random_data(), sanitizer=Forced, threshold=0.1, image_step=0.6)
    generator = copy.deepcopy(trainer._network.generator)
    run(trainer, sanitizer, 0, 1)
    released = torch.from_numpy(numpy_coins(0, "forced release", 1).normal(2, 2, (5, 64))).float()
    moves = torch.where(released.abs() > 0.1 * 6, released.sign(), 0.0).reshape(5, *SHAPE)
    rng = torch_coins(0, "z", 0)
    labels = torch.randint(2, (5,), generator=rng)
    images = generator(generator.draw_z(5, rng), labels, rng)
    target = (images.detach() + 0.6 * moves).clamp(0, 1)
    assert not torch.equal(target, images.detach() + 0.6 * moves), "nothing was clipped"
    gradients = torch.autograd.grad((images - target).square().sum(), list(generator.parameters()))
    checked = 0
    for before, after, gradient in zip(generator.parameters(), trainer._network.generator.parameters(), gradients, strict=True):
        clear = gradient.abs() > 1e-3
        torch.testing.assert_close((after - before)[clear], -0.02 * gradient[clear].sign(), rtol=1e-3, atol=1e-6)
        checked += int(clear.sum())
    assert checked > 100
