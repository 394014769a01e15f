"""Plain re-statements of published networks and steps, for comparison with the engine: nothing here is shared with it.

Written from the descriptions with torch.nn.functional alone (GS-WGAN: Chen, Orekondy & Fritz, 2020; what DPAC adds is in
``test_dpac_step``): mean losses and their gradient clipped to C / B with noise (C / B) x noise multiplier x 2, upsampling
before the convolutions, one critic after the other, Adam by hand. They are given what is public and what tests may fix: the
initial tensors, and the coins, which are keyed (purpose, indices):

- of the sanitizer, by its injected seed: ("injected draw", step, 0) chooses the shard, ("injected noise", step, n) the noise
  of the step's n-th release;
- of the trial, by its seed: ("labels", step), ("z", step), ("critic batch", step, update, shard) first the order of the records
  and then the mixing weights of the gradient penalty, ("critic fakes", step, update, shard) the latents.

Where the engine deviates on purpose the re-statements do too: a critic starts from its pretrained state at every draw, the
clip is tighter by 1e-6, every noisy sum is rounded once to float32, and making fakes does not move the norms' vectors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from engine_runs import Run, compute_stages, random_data, start
from torch import Tensor
from torch.nn import functional

from trainables.coins import numpy_coins, torch_coins
from trainables.data.shards import partition
from trainables.sharded_gan.states import ShardStates

SEED, INJECTED, SHARDS = 0, 5, 4
LEARNING_RATE, BETAS, ADAM_EPS = 1e-4, (0.5, 0.9), 1e-8
NOISE_MULTIPLIER, CLIP = 1.07, 0.4  # the gradients of GS-WGAN's first step are longer, those of the other two shorter
Tensors = dict[str, Tensor]
Loss = Callable[[Tensor], Tensor]
"""Images ``[B, C, H, W]`` -> the mean loss of one private network."""


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


def trunk(state: Tensors, images: Tensor) -> Tensor:
    """Three spectrally normalised convolutions, flat ``[n, features]``."""
    h = images
    for name in ("conv1", "conv2", "conv3"):
        h = functional.conv2d(h, normalised(state, name), state[f"{name}.bias"], stride=2, padding=2).relu()
    return h.flatten(1)


def critic(state: Tensors, images: Tensor, labels: Tensor) -> Tensor:
    """A linear score of the convolutions' features and the projection on the label's embedding."""
    h = trunk(state, images)
    score = functional.linear(h, normalised(state, "linear"), state["linear.bias"])[:, 0]
    return score + (functional.embedding(labels, normalised(state, "embedding")) * h).sum(dim=1)


def is_parameter(name: str) -> bool:
    return name.endswith((".weight", ".bias"))


def parameters_of(state: Tensors) -> Tensors:
    return {name: tensor for name, tensor in state.items() if is_parameter(name)}


def gradients(loss: Tensor, parameters: Tensors) -> Tensors:
    return dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True))


def leaves(state: Tensors) -> Tensors:
    return {name: tensor.detach().clone().requires_grad_() for name, tensor in parameters_of(state).items()}


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
    """GS-WGAN's training, one generator step after the other."""

    state: Tensors
    critics: Tensors
    images: Tensor
    labels: Tensor
    shards: np.ndarray
    batch: int
    critic_batch: int
    clip: float

    def __post_init__(self) -> None:
        self.adam = Adam(parameters_of(self.state))
        self.average = dict(self.adam.parameters)
        self.clipped: list[int] = []
        """Rows of every release that were longer than the bound."""

    def step(self, step: int) -> Tensors:
        """Train the drawn shard's networks and then the generator; return the gradients of the generator's weights."""
        shard = int(numpy_coins(INJECTED, "injected draw", step, 0).choice(SHARDS, 1, replace=False)[0])
        labels = torch.randint(10, (self.batch,), generator=torch_coins(SEED, "labels", step))
        parameters = leaves(self.state)
        self.state |= parameters
        fakes = generator(self.state, bernoulli(self.batch, SEED, "z", step), labels)
        losses = self.losses(step, shard, labels)
        released = [self.sanitised(loss, fakes.detach(), step, call) for call, loss in enumerate(losses, start=1)]
        noisy = sum(released[1:], released[0]).to(fakes) / self.batch
        found = gradients((fakes * noisy).sum(), parameters)
        self.adam.step(found)
        self.state |= self.adam.parameters
        decay = min(1 - 1 / (step + 1), 0.999)
        self.average = {name: decay * kept + (1 - decay) * self.state[name] for name, kept in self.average.items()}
        return found

    def losses(self, step: int, shard: int, labels: Tensor) -> list[Loss]:
        """What the generator's images are to minimise, a loss for every network that sanitises its gradient."""
        trained = self.trained_critic(step, shard)
        return [lambda images: -critic(trained, images, labels).mean()]

    def sanitised(self, loss: Loss, images: Tensor, step: int, call: int) -> Tensor:
        """The gradient of a mean loss in the images, clipped to C / B and noised; times B, in float32."""
        shown = images.requires_grad_()
        (slope,) = torch.autograd.grad(loss(shown), shown)
        bound = self.clip / self.batch
        norms = slope.flatten(1).norm(dim=1)[:, None, None, None].double()
        self.clipped.append(int((norms > bound).sum()))
        clipped = slope.double() * torch.clamp(bound * (1 - 1e-6) / norms, max=1)
        noise = torch.from_numpy(numpy_coins(INJECTED, "injected noise", step, call).standard_normal(tuple(slope.shape)))
        return ((clipped + bound * NOISE_MULTIPLIER * 2 * noise) * self.batch).float()

    def trained_critic(self, step: int, shard: int) -> Tensors:
        """A clone of the shard's pretrained critic after five WGAN-GP steps with drift."""
        state = {name: tensor[shard].clone() for name, tensor in self.critics.items()}
        adam = Adam(parameters_of(state))
        for update in range(5):
            coins = torch_coins(SEED, "critic batch", step, update, shard)
            real, labels = self.records(shard, self.critic_batch, coins)
            mix = torch.rand(len(real), 1, 1, 1, generator=coins)
            z = bernoulli(len(real), SEED, "critic fakes", step, update, shard)
            fake = generator(self.state, z, labels, iterate=False).detach()
            state = critic_update(state, adam, real, fake, labels, mix)
        return state

    def records(self, shard: int, count: int, coins: torch.Generator) -> tuple[Tensor, Tensor]:
        """(images, labels) of ``count`` records of the shard."""
        chosen = self.shards[shard][torch.randperm(self.shards.shape[1], generator=coins)[:count].numpy()]
        return self.images[chosen], self.labels[chosen]


R = TypeVar("R", bound=Restatement)


def made(
    restatement: type[R],
    tmp_path: Path,
    *,
    width: int,
    batch: int,
    critic_batch: int,
    method: str = "gs_wgan",
    **changes: Any,
) -> tuple[Run, R]:
    """The engine at step 0 on random data with ``changes`` of its settings, and the re-statement with the same tensors."""
    config: dict[str, Any] = {
        "steps": 3,
        "shards": SHARDS,
        "max_grad_norm": CLIP,
        "generator_batch": batch,
        "generator_channels": width,
        **changes,
        "critic": {
            "channels": width,
            "batch": critic_batch,
            "pretraining": {"steps": 2, "critic_steps": 2, "generator": "small", "hidden": 5, "learning_rate": 1e-3},
        },
    }
    data = random_data(50, (1, 28, 28), classes=10)
    stages = compute_stages(method, config, data, tmp_path)
    run = start(config, data, stages, method=method, noise=NOISE_MULTIPLIER, injected_seed=INJECTED, seed=SEED)
    return run, restatement(
        state={name: tensor.clone() for name, tensor in run.trainer.state_dict()["generator"].items() if "_taps" not in name},
        critics=ShardStates(stages, "critics").read(range(SHARDS)),
        images=torch.from_numpy(data.images).to(torch.get_default_dtype()) / 255,
        labels=torch.from_numpy(data.labels),
        shards=partition(50, SHARDS, seed=0),
        batch=batch,
        critic_batch=critic_batch,
        clip=config["max_grad_norm"],
    )


def check_equal(run: Run, restated: Restatement, before: Tensors) -> None:
    """Generator and average are those of the re-statement, and every weight has moved away from ``before``."""
    state = run.trainer.state_dict()
    for name, expected in restated.state.items():
        torch.testing.assert_close(state["generator"][name], expected, rtol=0, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}")
    for name, expected in restated.average.items():
        torch.testing.assert_close(state["ema"][name], expected, rtol=0, atol=1e-12)
    moved = [(state["generator"][name] - before[name]).abs().max() for name in restated.average]
    assert min(moved) > LEARNING_RATE, "every weight has moved, by about the learning rate a step"
