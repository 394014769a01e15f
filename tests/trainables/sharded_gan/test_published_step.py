"""``gs_wgan`` against a plain re-statement of the published step (Chen, Orekondy & Fritz, 2020, and their code).

Written from the description with torch.nn.functional alone: the mean loss and its gradient clipped to C / B with noise
(C / B) x noise multiplier x 2, upsampling before the convolutions, one critic after the other, Adam by hand. It is given what
is public and what tests may fix: the initial tensors, and the coins, which are keyed (purpose, indices):

- of the sanitizer, by its injected seed: ("injected draw", step, 0) chooses the shard, ("injected noise", step, 1) the noise;
- of the trial, by its seed: ("labels", step), ("z", step), ("critic batch", step, update, shard) first the order of the records
  and then the mixing weights of the gradient penalty, ("critic fakes", step, update, shard) the latents.

Where the engine deviates on purpose the re-statement does too: a critic starts from its pretrained state at every draw, the
clip is tighter by 1e-6, the noisy sum is rounded once to float32, and making fakes does not move the norms' vectors.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from engine_runs import Run, compute_stages, random_data, start
from torch import Tensor
from torch.nn import functional

from trainables.coins import numpy_coins, torch_coins
from trainables.data.shards import partition
from trainables.networks.critic import Critics
from trainables.networks.resnet import ResNetGenerator
from trainables.sharded_gan.states import ShardStates

SEED, INJECTED, SHARDS = 0, 5, 4
LEARNING_RATE, BETAS, ADAM_EPS = 1e-4, (0.5, 0.9), 1e-8
NOISE_MULTIPLIER, CLIP = 1.07, 0.4  # the gradients of the first step are longer, those of the other two shorter
Tensors = dict[str, Tensor]


@dataclass
class Adam:
    """Kingma & Ba (2015), algorithm 1."""

    parameters: Tensors
    count: int = 0
    first: Tensors = field(default_factory=dict)
    second: Tensors = field(default_factory=dict)

    def step(self, gradients: Tensors) -> None:
        self.count += 1
        for name, g in gradients.items():
            self.first[name] = BETAS[0] * self.first.get(name, torch.zeros_like(g)) + (1 - BETAS[0]) * g
            self.second[name] = BETAS[1] * self.second.get(name, torch.zeros_like(g)) + (1 - BETAS[1]) * g**2
            mean = self.first[name] / (1 - BETAS[0] ** self.count)
            variance = self.second[name] / (1 - BETAS[1] ** self.count)
            self.parameters[name] = self.parameters[name] - LEARNING_RATE * mean / (variance.sqrt() + ADAM_EPS)


def normalised(state: Tensors, layer: str, iterate: bool = True) -> Tensor:
    """The weight over its singular value, estimated by one power iteration whose vectors are kept."""
    weight = state[f"{layer}.weight"]
    matrix = weight.reshape(len(weight), -1)
    if iterate:
        v = matrix.detach().T @ state[f"{layer}.u"]
        state[f"{layer}.v"] = v / v.norm()
        u = matrix.detach() @ state[f"{layer}.v"]
        state[f"{layer}.u"] = u / u.norm()
    return weight / (state[f"{layer}.u"] @ (matrix @ state[f"{layer}.v"]))


def pixel_norm(x: Tensor) -> Tensor:
    return x / torch.sqrt((x**2).mean(dim=1, keepdim=True) + 1e-10)


def generator(state: Tensors, z: Tensor, labels: Tensor, iterate: bool = True) -> Tensor:
    """GS-WGAN's ResNet: three residual blocks of upsampling; 30x30 pixels of which the last two rows and columns go."""

    def layer(name: str) -> tuple[Tensor, Tensor]:
        return normalised(state, name, iterate), state[f"{name}.bias"]

    x = torch.cat([z, functional.one_hot(labels, 10).to(z)], dim=1)
    x = functional.linear(x, *layer("project")).reshape(len(z), -1, 4, 4)
    x = pixel_norm(x.relu())
    for block in ("block1", "block2", "block3"):
        h = functional.interpolate(pixel_norm(x), scale_factor=2, mode="nearest")
        h = functional.conv2d(h, *layer(f"{block}.up"), padding=1)
        h = functional.conv2d(pixel_norm(h).relu(), *layer(f"{block}.conv"), padding=1)
        x = functional.interpolate(x, scale_factor=2, mode="nearest")
        x = h + functional.conv2d(x, *layer(f"{block}.shortcut"))
    return functional.conv2d(x, *layer("to_image")).sigmoid()[:, :, :28, :28]


def critic(state: Tensors, images: Tensor, labels: Tensor) -> Tensor:
    """Three spectrally normalised convolutions, a linear score and the projection on the label's embedding."""
    h = images
    for name in ("conv1", "conv2", "conv3"):
        h = functional.conv2d(h, normalised(state, name), state[f"{name}.bias"], stride=2, padding=2).relu()
    h = h.flatten(1)
    score = functional.linear(h, normalised(state, "linear"), state["linear.bias"])[:, 0]
    return score + (functional.embedding(labels, normalised(state, "embedding")) * h).sum(dim=1)


def is_parameter(name: str) -> bool:
    return name.endswith((".weight", ".bias"))


def gradients(loss: Tensor, parameters: Tensors) -> Tensors:
    return dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True))


def leaves(state: Tensors) -> Tensors:
    return {name: tensor.detach().clone().requires_grad_() for name, tensor in state.items() if is_parameter(name)}


def critic_update(state: Tensors, adam: Adam, real: Tensor, fake: Tensor, labels: Tensor, mix: Tensor) -> Tensors:
    """The critic after one step of WGAN-GP with drift."""
    parameters = leaves(state)
    state = state | parameters
    on_real, on_fake = critic(state, real, labels), critic(state, fake, labels)
    between = (mix * real + (1 - mix) * fake).requires_grad_()
    (slope,) = torch.autograd.grad(critic(state, between, labels).sum(), between, create_graph=True)
    penalty = ((slope.flatten(1).norm(dim=1) - 1) ** 2).mean()
    loss = -on_real.mean() + on_fake.mean() + 10 * penalty + 1e-3 * (on_real**2).mean()
    adam.step(gradients(loss, parameters))
    return {name: tensor.detach() for name, tensor in (state | adam.parameters).items()}


def bernoulli(count: int, seed: int, purpose: str, *indices: int) -> Tensor:
    return torch.randint(2, (count, 10), generator=torch_coins(seed, purpose, *indices)).to(torch.get_default_dtype())


@dataclass
class Restatement:
    """The published training, one generator step after the other."""

    state: Tensors
    critics: Tensors
    images: Tensor
    labels: Tensor
    shards: np.ndarray
    batch: int
    critic_batch: int

    def __post_init__(self) -> None:
        self.adam = Adam({name: tensor for name, tensor in self.state.items() if is_parameter(name)})
        self.average = dict(self.adam.parameters)

    def step(self, step: int) -> Tensors:
        """Train the drawn shard's critic and then the generator; return the gradients of the generator's weights."""
        shard = int(numpy_coins(INJECTED, "injected draw", step, 0).choice(SHARDS, 1, replace=False)[0])
        labels = torch.randint(10, (self.batch,), generator=torch_coins(SEED, "labels", step))
        parameters = leaves(self.state)
        self.state |= parameters
        fakes = generator(self.state, bernoulli(self.batch, SEED, "z", step), labels)
        trained = self.trained_critic(step, shard)
        shown = fakes.detach().requires_grad_()
        (slope,) = torch.autograd.grad(-critic(trained, shown, labels).mean(), shown)
        bound = CLIP / self.batch
        norms = slope.flatten(1).norm(dim=1)[:, None, None, None].double()
        clipped = slope.double() * torch.clamp(bound * (1 - 1e-6) / norms, max=1)
        noise = torch.from_numpy(numpy_coins(INJECTED, "injected noise", step, 1).standard_normal(tuple(slope.shape)))
        noisy = ((clipped + bound * NOISE_MULTIPLIER * 2 * noise) * self.batch).float().to(fakes) / self.batch
        found = gradients((fakes * noisy).sum(), parameters)
        self.adam.step(found)
        self.state |= self.adam.parameters
        decay = min(1 - 1 / (step + 1), 0.999)
        self.average = {name: decay * kept + (1 - decay) * self.state[name] for name, kept in self.average.items()}
        return found

    def trained_critic(self, step: int, shard: int) -> Tensors:
        """A clone of the shard's pretrained critic after five WGAN-GP steps with drift."""
        state = {name: tensor[shard].clone() for name, tensor in self.critics.items()}
        adam = Adam({name: tensor for name, tensor in state.items() if is_parameter(name)})
        for update in range(5):
            coins = torch_coins(SEED, "critic batch", step, update, shard)
            records = self.shards[shard][torch.randperm(self.shards.shape[1], generator=coins)[: self.critic_batch].numpy()]
            real, labels = self.images[records], self.labels[records]
            mix = torch.rand(len(real), 1, 1, 1, generator=coins)
            z = bernoulli(len(real), SEED, "critic fakes", step, update, shard)
            fake = generator(self.state, z, labels, iterate=False).detach()
            state = critic_update(state, adam, real, fake, labels, mix)
        return state


def made(tmp_path, *, width: int, batch: int, critic_batch: int) -> tuple[Run, Restatement]:
    """The engine at step 0, and the re-statement with the same initial tensors."""
    config = {
        "steps": 3,
        "shards": SHARDS,
        "max_grad_norm": CLIP,
        "generator_batch": batch,
        "generator_channels": width,
        "critic": {
            "channels": width,
            "batch": critic_batch,
            "pretraining": {"steps": 2, "critic_steps": 2, "generator": "small", "hidden": 5, "learning_rate": 1e-3},
        },
    }
    data = random_data(50, (1, 28, 28), classes=10)
    stages = compute_stages("gs_wgan", config, data, tmp_path)
    run = start(config, data, stages, noise=NOISE_MULTIPLIER, injected_seed=INJECTED, seed=SEED)
    return run, Restatement(
        state={name: tensor.clone() for name, tensor in run.trainer.state_dict()["generator"].items() if "_taps" not in name},
        critics=ShardStates(stages, "critics").read(range(SHARDS)),
        images=torch.from_numpy(data.images).to(torch.get_default_dtype()) / 255,
        labels=torch.from_numpy(data.labels),
        shards=partition(50, SHARDS, seed=0),
        batch=batch,
        critic_batch=critic_batch,
    )


@pytest.fixture
def float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def test_three_steps_are_the_published_ones(float64, tmp_path):
    run, restated = made(tmp_path, width=8, batch=6, critic_batch=7)
    before = run.trainer.state_dict()["generator"]
    run.advance(0, 3)
    for step in range(3):
        restated.step(step)
    state = run.trainer.state_dict()
    for name, expected in restated.state.items():
        torch.testing.assert_close(state["generator"][name], expected, rtol=0, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}")
    for name, expected in restated.average.items():
        torch.testing.assert_close(state["ema"][name], expected, rtol=0, atol=1e-12)
    moved = [(state["generator"][name] - before[name]).abs().max() for name in restated.average]
    assert min(moved) > 1e-4, "every weight has moved, by about the learning rate a step"


def gradients_at_width_64(tmp_path):
    """(found, expected) generator gradients of the first step, each name -> tensor."""
    run, restated = made(tmp_path, width=64, batch=32, critic_batch=32)
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
    adam, local_adam = (Adam({name: tensor for name, tensor in of.items() if is_parameter(name)}) for of in (state, local))
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
