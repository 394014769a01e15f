"""GS-WGAN as published (Chen, Orekondy & Fritz, 2020), re-stated plainly: what the engine's times are compared with.

One module a layer, one critic after the other, every loss a forward of its own, float32. Where the published code wastes time
(a graph for the critics' fakes, a spectral norm at every call, upsampled images in full), so does this one.
"""

from __future__ import annotations

import copy
from itertools import pairwise

import torch
from parts import Parts
from torch import nn
from torch.nn import functional

SHAPE, CLASSES, Z_DIM = (1, 28, 28), 10, 10
BATCH, CRITIC_STEPS, LEARNING_RATE, BETAS = 32, 5, 1e-4, (0.5, 0.9)
CLIP, NOISE_MULTIPLIER = 1.0, 1.07


class SpectralNorm(nn.Module):
    """A layer whose weight is divided by its largest singular value; one power iteration at every call."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer, weight = layer, layer.weight
        del layer._parameters["weight"]
        self.weight = nn.Parameter(weight.detach().clone())
        self.register_buffer("u", functional.normalize(torch.randn(len(weight)), dim=0))
        self.register_buffer("v", functional.normalize(torch.randn(weight[0].numel()), dim=0))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        matrix = self.weight.view(len(self.weight), -1)
        v = matrix.detach().t().mv(self.u)
        self.v = v / (v.norm() + 1e-10)
        u = matrix.detach().mv(self.v)
        self.u = u / (u.norm() + 1e-10)
        self.layer.weight = self.weight / self.u.dot(matrix.mv(self.v))
        return self.layer(features)


def pixel_norm(features: torch.Tensor) -> torch.Tensor:
    return features / torch.sqrt((features**2).mean(dim=1, keepdim=True) + 1e-10)


class Block(nn.Module):
    """Nearest upsampling by 2 and a 3x3 convolution, another one, and a 1x1 shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = SpectralNorm(nn.Conv2d(channels, channels, 3, padding=1))
        self.conv2 = SpectralNorm(nn.Conv2d(channels, channels, 3, padding=1))
        self.shortcut = SpectralNorm(nn.Conv2d(channels, channels, 1))
        self.upsample = nn.Upsample(scale_factor=2)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        hidden = self.conv1(self.upsample(pixel_norm(features)))
        hidden = self.conv2(functional.relu(pixel_norm(hidden)))
        return hidden + self.shortcut(self.upsample(features))


class Generator(nn.Module):
    """(z ``[n, 10]``, labels ``[n]``) -> images ``[n, 1, 28, 28]``."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self._channels = channels
        self.project = SpectralNorm(nn.Linear(Z_DIM + CLASSES, 16 * channels))
        self.blocks = nn.Sequential(Block(channels), Block(channels), Block(channels))
        self.to_image = SpectralNorm(nn.Conv2d(channels, 1, 3))

    def forward(self, z: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        features = self.project(torch.cat([z, functional.one_hot(labels, CLASSES).to(z)], dim=1))
        features = pixel_norm(functional.relu(features.view(-1, self._channels, 4, 4)))
        return torch.sigmoid(self.to_image(self.blocks(features)))[:, :, :28, :28]


class Critic(nn.Module):
    """(images, labels) -> scores ``[n]``."""

    def __init__(self, channels: int = 64) -> None:
        super().__init__()
        widths = (1, channels, 2 * channels, 4 * channels)
        self.convolutions = nn.ModuleList(
            SpectralNorm(nn.Conv2d(here, there, 5, stride=2, padding=2)) for here, there in pairwise(widths)
        )
        self.linear = SpectralNorm(nn.Linear(64 * channels, 1))
        self.embedding = SpectralNorm(nn.Embedding(CLASSES, 64 * channels))

    def forward(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        for convolution in self.convolutions:
            images = functional.relu(convolution(images))
        hidden = images.flatten(1)
        return self.linear(hidden)[:, 0] + (self.embedding(labels) * hidden).sum(dim=1)


class PublishedStep:
    """The published loop; ``shards_per_step`` of them answer, one after the other (published: 1)."""

    def __init__(self, channels: int, images: torch.Tensor, labels: torch.Tensor, *, shards_per_step: int = 1) -> None:
        """``images`` float32 ``[N, 1, 28, 28]`` of one shard, with their labels; every critic is shown the same ones."""
        self._images, self._labels = images, labels
        self.generator = Generator(channels)
        self.average = copy.deepcopy(self.generator)
        self.critics = [Critic() for _ in range(shards_per_step)]
        self._adam = _adam(self.generator)
        self._critic_adams = [_adam(critic) for critic in self.critics]
        self._step = 0

    def step(self, parts: Parts) -> None:
        """Train the critics on fresh fakes, sanitise what they answer, update the generator and its average."""
        for critic, adam in zip(self.critics, self._critic_adams, strict=True):
            for _ in range(CRITIC_STEPS):
                update_critic(critic, adam, self.generator, self._images, self._labels, parts)
        labels = torch.randint(CLASSES, (BATCH,))
        with parts("generator forward"):
            images = self.generator(_z(), labels)
        release = torch.zeros_like(images)
        for critic in self.critics:
            with parts("answers"):
                shown = images.detach().requires_grad_()
                (answer,) = torch.autograd.grad(-critic(shown, labels).sum(), shown)
            with parts("sanitizer"):
                norms = answer.flatten(1).norm(dim=1).clamp_min(1e-10)
                release += answer * (CLIP / norms).clamp_max(1)[:, None, None, None]
        with parts("sanitizer"):
            release += 2 * CLIP * NOISE_MULTIPLIER * torch.randn(release.shape)
        with parts("generator backward"):
            self._adam.zero_grad()
            (images * release).sum().div(BATCH * len(self.critics)).backward()
        with parts("Adam of the generator"):
            self._adam.step()
        with parts("average"), torch.no_grad():
            decay = min(1 - 1 / (self._step + 1), 0.999)
            for kept, new in zip(self.average.parameters(), self.generator.parameters(), strict=True):
                kept.copy_(decay * kept + (1 - decay) * new)
        self._step += 1


def pretrain_shard(channels: int, images: torch.Tensor, labels: torch.Tensor, rounds: int) -> None:
    """``rounds`` of the published pretraining of one shard: a full-size generator of its own and five critic steps each."""
    generator, critic = Generator(channels), Critic()
    adam, critic_adam, parts = _adam(generator), _adam(critic), Parts()
    for _ in range(rounds):
        for _ in range(CRITIC_STEPS):
            update_critic(critic, critic_adam, generator, images, labels, parts)
        wanted = torch.randint(CLASSES, (BATCH,))
        adam.zero_grad()
        (-critic(generator(_z(), wanted), wanted).mean()).backward()
        adam.step()


def update_critic(
    critic: Critic,
    adam: torch.optim.Adam,
    generator: Generator,
    images: torch.Tensor,
    labels: torch.Tensor,
    parts: Parts,
) -> None:
    """One WGAN-GP step with drift on random records of ``images`` and fresh fakes of their labels."""
    with parts("critic updates"):
        chosen = torch.randperm(len(images))[:BATCH]
        real, wanted = images[chosen], labels[chosen]
        with parts("fakes"):
            fake = generator(_z(), wanted).detach()
        on_real, on_fake = critic(real, wanted), critic(fake, wanted)
        mix = torch.rand(BATCH, 1, 1, 1)
        between = (mix * real + (1 - mix) * fake).requires_grad_()
        (slope,) = torch.autograd.grad(critic(between, wanted).sum(), between, create_graph=True)
        penalty = ((slope.flatten(1).norm(dim=1) - 1) ** 2).mean()
        loss = on_fake.mean() - on_real.mean() + 10 * penalty + 1e-3 * (on_real**2).mean()
        adam.zero_grad()
        loss.backward()
        with parts("Adam of the critics"):
            adam.step()


def _z() -> torch.Tensor:
    return torch.randint(2, (BATCH, Z_DIM)).float()


def _adam(network: nn.Module) -> torch.optim.Adam:
    return torch.optim.Adam(network.parameters(), lr=LEARNING_RATE, betas=BETAS, foreach=False)
