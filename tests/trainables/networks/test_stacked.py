"""Encoders, decoders and small generators: stacks in which no network sees another's values."""

import pytest
import torch
from torch import nn

from trainables.coins import torch_coins
from trainables.networks.encoder import Decoders, Encoders, elbo_loss
from trainables.networks.stacked import StackedGenerators

GRAY, COLOUR = (1, 28, 28), (3, 32, 32)


def rngs_of(name, shards):
    return [torch_coins(0, name, shard) for shard in shards]


def encoders_of(shards, shape=GRAY):
    return Encoders(shape, latent=3, channels=4, count=len(shards), rngs=rngs_of("encoder", shards))


def decoders_of(shards, shape=GRAY):
    return Decoders(shape, latent=3, channels=4, count=len(shards), rngs=rngs_of("decoder", shards))


def generators_of(shards, shape=GRAY):
    return StackedGenerators(shape, 10, z_dim=6, hidden=16, count=len(shards), rngs=rngs_of("generator", shards))


def normal_of(shards, *shape):
    return torch.stack([torch.randn(shape, generator=torch_coins(0, "normal", shard)) for shard in shards])


def images_of(shards, shape=GRAY):
    return torch.stack([torch.rand((5, *shape), generator=torch_coins(0, "images", shard)) for shard in shards])


@pytest.mark.parametrize("build", [encoders_of, decoders_of, generators_of])
def test_a_network_is_the_same_bits_alone_or_in_any_stack(build):
    stack, alone = build([7, 3, 5]).state_dict(), build([3]).state_dict()
    for name, tensor in stack.items():
        assert torch.equal(tensor[1], alone[name][0]), name
        assert name.endswith("bias") or not torch.equal(tensor[0], tensor[1]), name


@pytest.mark.parametrize("shape", [GRAY, COLOUR, (3, 64, 64), (1, 10, 6)])
def test_shapes_and_ranges(shape):
    shards = [0, 1]
    mean, log_variance = encoders_of(shards, shape)(images_of(shards, shape))
    assert mean.shape == log_variance.shape == (2, 5, 3)
    images = decoders_of(shards, shape)(mean)
    assert images.shape == (2, 5, *shape)
    assert 0 <= images.min() < images.max() <= 1
    generated = generators_of(shards, shape)(normal_of(shards, 5, 6), torch.arange(5).expand(2, 5))
    assert generated.shape == (2, 5, *shape)
    assert 0 <= generated.min() < generated.max() <= 1


def test_a_stack_is_its_networks_one_by_one():
    shards = [0, 1, 2]
    images, noise, labels = images_of(shards).double(), normal_of(shards, 5, 3).double(), torch.arange(15).reshape(3, 5) % 10
    z = normal_of(shards, 5, 6).double()
    losses = elbo_loss(encoders_of(shards).double(), decoders_of(shards).double(), images, noise)
    generated = generators_of(shards).double()(z, labels)
    for shard in shards:
        part, one = slice(shard, shard + 1), [shard]
        alone = elbo_loss(encoders_of(one).double(), decoders_of(one).double(), images[part], noise[part])
        torch.testing.assert_close(losses[part], alone, rtol=1e-12, atol=0)
        torch.testing.assert_close(generated[part], generators_of(one).double()(z[part], labels[part]), rtol=1e-12, atol=0)


def test_one_network_in_plain_functions():
    encoders, decoders = encoders_of([0]).double(), decoders_of([0]).double()
    images, noise = images_of([0]).double(), normal_of([0], 5, 3).double()
    weight = {name: tensor[0] for name, tensor in [*encoders.state_dict().items(), *decoders.state_dict().items()]}
    hidden = images[0]
    for name in ("conv1", "conv2"):
        hidden = nn.functional.conv2d(hidden, weight[f"{name}.weight"], weight[f"{name}.bias"], stride=2, padding=1).relu()
    mean, log_variance = (hidden.flatten(1) @ weight["head.weight"].T + weight["head.bias"]).chunk(2, dim=1)
    posterior = torch.distributions.Normal(mean, (log_variance / 2).exp())
    divergence = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(torch.zeros(()), torch.ones(())))
    code = mean + (log_variance / 2).exp() * noise[0]
    hidden = (code @ weight["project.weight"].T + weight["project.bias"]).relu().reshape(5, 8, 7, 7)
    hidden = nn.functional.conv2d(hidden, weight["up1.weight"], weight["up1.bias"], padding=1)
    hidden = nn.functional.pixel_shuffle(hidden, 2).relu()
    hidden = nn.functional.conv2d(hidden, weight["up2.weight"], weight["up2.bias"], padding=1)
    decoded = nn.functional.pixel_shuffle(hidden, 2).sigmoid()
    likelihood = images[0] * decoded.log() + (1 - images[0]) * (1 - decoded).log()
    expected = (divergence.sum(dim=1) - likelihood.flatten(1).sum(dim=1)).mean()
    torch.testing.assert_close(elbo_loss(encoders, decoders, images, noise)[0], expected, rtol=1e-12, atol=0)


def test_another_shards_records_do_not_change_a_bit():
    shards = [0, 1, 2]
    images, noise = images_of(shards), normal_of(shards, 5, 3)
    changed = images.clone()
    changed[1, 0] = float("nan")

    def trained(data):
        encoders, decoders = encoders_of(shards), decoders_of(shards)
        optimizer = torch.optim.Adam([*encoders.parameters(), *decoders.parameters()], lr=0.01)
        for _ in range(3):
            optimizer.zero_grad()
            elbo_loss(encoders, decoders, data, noise).sum().backward()
            optimizer.step()
        return encoders.state_dict() | decoders.state_dict()

    one, other = trained(images), trained(changed)
    for name, tensor in one.items():
        assert torch.equal(tensor[[0, 2]], other[name][[0, 2]]), name
        assert not torch.equal(tensor[1], other[name][1]), name


def test_an_autoencoder_learns_its_shard():
    images = (torch.rand(1, 8, *GRAY, generator=torch_coins(0, "images")) < 0.2).float()
    encoders, decoders = encoders_of([0]), decoders_of([0])
    optimizer = torch.optim.Adam([*encoders.parameters(), *decoders.parameters()], lr=0.005)
    losses = []
    for step in range(60):
        noise = torch.randn(1, 8, 3, generator=torch_coins(0, "noise", step))
        loss = elbo_loss(encoders, decoders, images, noise).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
