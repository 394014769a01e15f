"""``gs_wgan`` against the plain re-statement of the published step (Chen, Orekondy & Fritz, 2020) in ``published_pieces``."""

from __future__ import annotations

import torch
from engine_runs import compute_stages, random_data
from published_pieces import (
    BETAS,
    LEARNING_RATE,
    SHARDS,
    Adam,
    Restatement,
    bernoulli,
    check_equal,
    critic,
    critic_update,
    generator,
    gradients,
    leaves,
    made,
    parameters_of,
)

from trainables.coins import torch_coins
from trainables.data.shards import partition
from trainables.networks.critic import Critics
from trainables.networks.resnet import ResNetGenerator
from trainables.sharded_gan.states import ShardStates


def test_three_steps_are_the_published_ones(float64, tmp_path):
    run, restated = made(Restatement, tmp_path, width=8, batch=6, critic_batch=7)
    before = run.trainer.state_dict()["generator"]
    run.advance(0, 3)
    for step in range(3):
        restated.step(step)
    check_equal(run, restated, before)
    assert restated.clipped == [6, 0, 0], "the clip is exercised, and so is leaving alone what is shorter"


def gradients_at_width_64(tmp_path):
    """(found, expected) generator gradients of the first step, each name -> tensor."""
    run, restated = made(Restatement, tmp_path, width=64, batch=32, critic_batch=32)
    run.advance(0, 1)
    expected = restated.step(0)
    adam = run.trainer.state_dict()["optimizer"]["state"]
    names = [name for name, _ in run.trainer._network.generator.named_parameters()]
    assert set(names) == set(expected)
    found = {name: adam[index]["exp_avg"] / (1 - BETAS[0]) for index, name in enumerate(names)}  # Adam's first mean
    return found, expected


def test_the_gradients_of_a_step_at_width_64(float64, tmp_path):
    found, expected = gradients_at_width_64(tmp_path)
    for name, gradient in expected.items():
        assert float((found[name] - gradient).norm() / gradient.norm()) < 1e-10, name


def test_the_gradients_of_a_step_at_width_64_in_float32(tmp_path):
    """Adam's first steps turn the rounding of a critic's small gradients into steps: 1e-5 to 2e-4 were measured a tensor."""
    found, expected = gradients_at_width_64(tmp_path)
    difference = sum(float((found[name] - gradient).square().sum()) for name, gradient in expected.items())
    assert difference < 1e-6 * sum(float(gradient.square().sum()) for gradient in expected.values())


def test_pretraining_is_the_published_one(float64, tmp_path):
    """Critic and ResNet generator of one shard, alone with its records; here both move the norms' vectors at every forward.

    Coins are keyed by (partition_seed, purpose, step, shard), the fakes' by the update as well.
    """
    coins, batch, shard = 7, 6, 2
    pretraining = {"steps": 2, "critic_steps": 3, "learning_rate": LEARNING_RATE}
    critics = {"channels": 8, "batch": batch, "pretraining": pretraining}
    config = {"shards": SHARDS, "generator_channels": 8, "partition_seed": coins, "critic": critics}
    data = random_data(50, (1, 28, 28), classes=10)
    found = ShardStates(compute_stages("gs_wgan", config, data, tmp_path), "critics").read([shard])

    network = Critics((1, 28, 28), 10, channels=8, rngs=[torch_coins(coins, "critic weights", shard)])
    state = {name: tensor[0].clone() for name, tensor in network.state_dict().items()}
    shape = {"z_dim": 10, "channels": 8, "noise_injection": 0.0}
    local = ResNetGenerator((1, 28, 28), 10, **shape, rng=torch_coins(coins, "local generator weights", shard)).state_dict()
    adam, local_adam = Adam(parameters_of(state)), Adam(parameters_of(local))
    initial = dict(state)
    for step in range(2):
        for update in range(3):
            rng = torch_coins(coins, "pretraining batch", step, update, shard)
            records = partition(50, SHARDS, seed=coins)[shard][torch.randperm(12, generator=rng)[:batch].numpy()]
            real = torch.from_numpy(data.images[records]).double() / 255
            labels = torch.from_numpy(data.labels[records])
            fake = generator(local, bernoulli(batch, coins, "pretraining fakes", step, update, shard), labels).detach()
            state = critic_update(state, adam, real, fake, labels, torch.rand(batch, 1, 1, 1, generator=rng))
        labels = torch.randint(10, (batch,), generator=torch_coins(coins, "pretraining labels", step, shard))
        parameters = leaves(local)
        local |= parameters
        fake = generator(local, bernoulli(batch, coins, "pretraining z", step, 0, shard), labels)
        local_adam.step(gradients(-critic(state, fake, labels).mean(), parameters))
        local |= local_adam.parameters
    for name, expected in state.items():
        torch.testing.assert_close(found[name][0], expected, rtol=0, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}")
        if name.endswith(".weight"):
            assert (expected - initial[name]).abs().max() > LEARNING_RATE
