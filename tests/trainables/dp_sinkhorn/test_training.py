"""The trainer: its loss restated, resuming, sampling, and the behaviour that VERSION stands for."""

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from sinkhorn_runs import SMALL, advance, make

from trainables.coins import torch_coins
from trainables.dp_sinkhorn import method
from trainables.dp_sinkhorn.training import Trainer, load_sampler


def test_the_release_is_the_gradient_of_the_semi_debiased_loss(random_data):
    """Five images against five records, where the cold plans are assignments: 2 W(X, Y) - W(X, X'), written out in float64."""
    data = random_data(5, classes=5)
    made = make(data, noise=0.0, real_batch=5, max_grad_norm=1e6, temperature=0.001)
    trainer, guard = made
    coins = torch_coins(0, "step", 0)
    z = torch.rand(7, SMALL["z_dim"], generator=coins)
    labels = torch.randint(5, (5,), generator=coins)
    labels = torch.cat([labels, labels[:2]])  # the others have the labels of the first two
    with torch.no_grad():
        network = trainer._network.generator
        images = (2 * network(z, labels, coins) - 1).double()
    leaves = images.requires_grad_()
    one_hot = torch.nn.functional.one_hot
    generated = torch.cat([leaves.flatten(1), 15.0 * one_hot(labels, 5)], dim=1)
    records = torch.from_numpy(data.images).double() / 127.5 - 1
    real = torch.cat([records.flatten(1), 15.0 * one_hot(torch.from_numpy(data.labels), 5)], dim=1)

    def transport(x, y):
        cost = torch.stack([torch.stack([(a - b).square().sum() + (a - b).abs().sum() for b in y]) for a in x])
        rows, columns = linear_sum_assignment(cost.detach().numpy())
        return cost[rows, columns].mean()

    loss = 2 * transport(generated[:5], real) - transport(generated[:5], generated[2:])
    (expected,) = torch.autograd.grad(loss, leaves)
    advance(made, 0, 1)
    torch.testing.assert_close(guard.release.double(), expected[:5], rtol=1e-3, atol=1e-3)


def test_balanced_labels_are_as_many_of_each_class_and_the_others_repeat_the_first(random_data):
    trainer, _ = make(random_data(30, classes=5), labels="balanced", generator_batch=12)
    labels = [trainer._inputs(12, 4, "step", step)[1].tolist() for step in range(40)]
    for found in labels:
        assert sorted(np.bincount(found[:12], minlength=5)) == [2, 2, 2, 3, 3]
        assert found[12:] == found[:4]
    assert len({tuple(found) for found in labels}) == 5  # the remainder goes to other classes each time


def test_a_share_of_zero_is_the_ordinary_debiased_divergence(random_data):
    made = make(random_data(10), noise=0.0, extra_share=0.0, real_batch=10)
    advance(made, 0, 2)
    assert made[1].releases == [2]
    assert made[1].release.shape == (5, 1, 8, 8)


def test_a_resumed_trainer_goes_on_bit_for_bit(random_data, tmp_path):
    data = random_data(60, classes=3)
    torch.manual_seed(1)
    whole = make(data)
    diagnostics = advance(whole, 0, 4)
    for stop in (1, 3):
        torch.manual_seed(2 + stop)  # the global generator is nobody's business
        first = make(data)
        advance(first, 0, stop)
        state = first[0].state_dict()
        advance(first, stop, 4)  # a state is a copy: going on does not change it
        torch.save(state, tmp_path / "state.pt")
        second = make(data)
        second[0].load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
        assert advance(second, stop, 4) == diagnostics[stop:]
        mine, theirs = whole[0].released(), second[0].released()
        assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_looking_at_samples_changes_nothing(random_data):
    data = random_data(30, classes=3)
    watched, alone = make(data), make(data)
    for step in range(4):
        watched[0].sample(torch.tensor([0, 1, 2]), torch.Generator().manual_seed(step))
        watched[0].released()
        assert advance(watched, step, step + 1) == advance(alone, step, step + 1)
    assert torch.equal(watched[0].released()["generator.up2.weight"], alone[0].released()["generator.up2.weight"])


@pytest.mark.parametrize(("shape", "classes"), [((1, 28, 28), 10), ((3, 32, 32), 2), ((1, 8, 8), 10)])
def test_the_kept_tensors_sample_as_the_trainer_does(random_data, shape, classes):
    data = random_data(30, shape, classes)
    made = make(data)
    advance(made, 0, 2)
    labels = torch.tensor([1, 0, 1, 1])
    expected = made[0].sample(labels, torch.Generator().manual_seed(3))
    config = method.Config(**SMALL)
    sampler = load_sampler(config, data.info, made[0].released(), torch.device("cpu"))
    assert torch.equal(sampler(labels, torch.Generator().manual_seed(3)), expected)
    assert expected.shape == (4, *shape)
    assert expected.min() >= 0
    assert expected.max() <= 1


def test_an_image_does_not_depend_on_what_is_sampled_beside_it(random_data):
    made = make(random_data(30))
    advance(made, 0, 2)
    kept = made[0]._kept()
    z, labels = torch.rand(6, SMALL["z_dim"]), torch.tensor([0, 1, 0, 1, 0, 1])
    torch.testing.assert_close(kept.generate(z, labels, None)[:2], kept.generate(z[:2], labels[:2], None))


def test_the_kept_statistics_are_those_of_images_of_the_kept_weights(random_data):
    made = make(random_data(30))
    advance(made, 0, 3)
    kept = made[0]._kept()
    inputs = [made[0]._inputs(100, 0, "statistics", number) for number in range(10)]
    with torch.no_grad():
        first = torch.stack(
            [kept.up1(torch.cat([z, kept.embed(y)], dim=1)[:, :, None, None]).mean(dim=(0, 2, 3)) for z, y in inputs]
        )
    torch.testing.assert_close(kept.norms[0].running_mean, first.mean(dim=0), rtol=1e-4, atol=1e-6)


def test_settings_change_what_is_learnt(random_data):
    data = random_data(60, classes=3)
    base = make(data)
    advance(base, 0, 4)
    for change in (
        {"l1_weight": 3.0},
        {"label_weight": 0.0},
        {"temperature": 100.0},
        {"extra_share": 0.0},
        {"labels": "balanced"},
        {"weight_decay": 0.5},
        {"ema": 0.0},
        {"learning_rate_schedule": "constant"},
    ):
        other = make(data, **change)
        advance(other, 0, 4)
        name = "generator.to_image.weight"
        assert not torch.equal(base[0].released()[name], other[0].released()[name]), change


GOLDEN = {1: [0.55632, 0.48379, 0.50365, 0.5266, 0.47916, 0.48866, 0.56554, 0.43883, 0.54144]}


def test_golden_run(random_data):
    made = make(random_data(60, classes=3), learning_rate=0.02, steps=6)
    advance(made, 0, 6)
    images = made[0].sample(torch.arange(300) % 3, torch.Generator().manual_seed(0))
    found = images.reshape(100, 3, 8, 8).mean(dim=(0, 2))[:, ::3].flatten().tolist()
    assert found == pytest.approx(GOLDEN[method.VERSION], abs=1e-3), "restore the behaviour or raise VERSION (and add its run)"


def test_a_trainer_learns_the_classes_without_noise():
    """Two classes, a black and a white image: the generator ends near them, and not in between."""
    from trainables.base import Dataset

    labels = np.arange(40) % 2
    images = np.broadcast_to((labels * 255)[:, None, None, None], (40, 1, 8, 8)).astype(np.uint8)
    data = Dataset(images=images, labels=labels, classes=2)
    made = make(data, noise=0.0, steps=60, learning_rate=0.01, ema=0.0)
    assert isinstance(made[0], Trainer)
    advance(made, 0, 60)
    black, white = made[0].sample(torch.tensor([0, 1]), torch.Generator().manual_seed(0)).mean(dim=(1, 2, 3)).tolist()
    assert black < 0.3
    assert white > 0.7
