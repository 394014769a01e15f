import pytest
import torch
from torch.nn import functional

from trainables.coins import torch_coins
from trainables.networks.dcgan import DCGANGenerator
from trainables.networks.generator import Generator
from trainables.networks.resnet import ResNetGenerator

GRAY, COLOUR, LARGE = (1, 28, 28), (3, 32, 32), (3, 64, 64)
NETWORKS = [Generator, ResNetGenerator, DCGANGenerator]


def build(network, shape=GRAY, classes=10, *, channels=8, noise_injection=0.0, **settings):
    settings = {"z_dim": 10, "rng": torch_coins(0, "weights")} | settings
    return network(shape, classes, channels=channels, noise_injection=noise_injection, **settings)


def inputs_of(network, count=3):
    z = network.draw_z(count, torch_coins(0, "z"))
    return z, torch.arange(count) % network.classes, torch_coins(0, "noise")


@pytest.mark.parametrize(
    ("network", "shape", "classes", "published"),
    [
        (ResNetGenerator, GRAY, 10, 3_826_177),
        (ResNetGenerator, COLOUR, 2, 3_798_019),
        (ResNetGenerator, LARGE, 2, 3_798_019 + 2 * (256 * 256 * 9 + 256) + 256 * 256 + 256),
        (DCGANGenerator, GRAY, 10, 86_016 + 819_328 + 204_864 + 4_097),
    ],
)
def test_the_numbers_of_weights(network, shape, classes, published):
    weights = build(network, shape, classes, channels=256, rng=None).parameters()
    assert sum(parameter.numel() for parameter in weights) == published


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 28, 28), (1, 32, 32), (3, 32, 32)])
def test_images_have_the_declared_shape_and_range(network, shape):
    images = build(network, shape, 3, noise_injection=0.1).sample(torch.tensor([0, 1, 2, 0]), torch_coins(0, "sample"))
    assert images.shape == (4, *shape)
    assert 0 <= images.min() < images.max() <= 1


@pytest.mark.parametrize(("network", "settings"), [(ResNetGenerator, {}), (Generator, {"upsamplings": 3})])
def test_64_pixels_take_one_more_block_in_the_same_memory(network, settings):
    generator = build(network, LARGE, 2, noise_injection=0.1, **settings)
    assert generator.sample_batch * 64**2 <= build(network, COLOUR).sample_batch * 32**2  # pixels of feature maps at once
    images = generator.sample(torch.tensor([0, 1, 0]), torch_coins(0, "sample"))
    assert images.shape == (3, *LARGE)
    assert 0 <= images.min() < images.max() <= 1


def test_three_upsamplings_of_the_small_generator_in_plain_functions():
    network = build(Generator, (2, 16, 24), 3, channels=6, upsamplings=3).double()
    state = network.state_dict()
    z, labels, rng = inputs_of(network)

    def activate(features):
        features = features / (features.square().mean(dim=1, keepdim=True) + 1e-8).sqrt()
        return functional.leaky_relu(features, 0.1)

    hidden = torch.cat([z, functional.one_hot(labels, 3)], dim=1)
    hidden = activate(functional.linear(hidden, state["embed.weight"], state["embed.bias"]))
    hidden = activate(functional.linear(hidden, state["project.weight"], state["project.bias"]).view(-1, 6, 2, 3))
    for name, channels in (("up1", 6), ("up2", 6), ("up3", 3)):
        hidden = functional.conv2d(upsampled(hidden), state[f"{name}.weight"], state[f"{name}.bias"], padding=1)
        hidden = activate(hidden)
        assert hidden.shape[1] == channels
    expected = functional.conv2d(hidden, state["to_image.weight"], state["to_image.bias"], padding=1).sigmoid()
    torch.testing.assert_close(network(z, labels, rng), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("network", "shape", "message"),
    [
        (ResNetGenerator, (1, 8, 8), r"resnet .* 28x28, 32x32 or 64x64 pixels, not 8x8; the small generator takes any"),
        (ResNetGenerator, (1, 28, 32), r"not 28x32"),
        (DCGANGenerator, (1, 8, 8), r"dcgan .* 28x28 or 32x32 pixels, not 8x8; the resnet .* 64x64 as well, and the small one"),
        (DCGANGenerator, LARGE, r"28x28 or 32x32 pixels, not 64x64; the resnet generator makes 64x64"),
    ],
)
def test_another_size_is_refused_with_what_to_use(network, shape, message):
    with pytest.raises(ValueError, match=message):
        build(network, shape)


def pixel_norm(features):
    return features / (features.square().mean(dim=1, keepdim=True) + 1e-10).sqrt()


def upsampled(features):
    return functional.interpolate(features, scale_factor=2, mode="nearest")


@pytest.mark.parametrize("shape", [GRAY, COLOUR, LARGE])
@pytest.mark.parametrize("noise_injection", [0.0, 0.3])
def test_resnet_is_the_published_function(shape, noise_injection):
    network = build(ResNetGenerator, shape, noise_injection=noise_injection).double()
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    z, labels, rng = inputs_of(network)
    found = network(z, labels, rng)

    expected_rng = torch_coins(0, "noise")

    def layer(name, features, **settings):
        weight = state[f"{name}.weight"]
        matrix = weight.flatten(1)
        v = functional.normalize(matrix.T @ state[f"{name}.u"], dim=0)
        u = functional.normalize(matrix @ v, dim=0)
        weight = weight / (u @ matrix @ v)
        if weight.ndim == 2:
            return functional.linear(features, weight, state[f"{name}.bias"])
        return functional.conv2d(features, weight, state[f"{name}.bias"], **settings)

    hidden = layer("project", torch.cat([z, functional.one_hot(labels, 10)], dim=1)).view(-1, 8, 4, 4)
    hidden = pixel_norm(hidden.relu())
    for block in ("block1", "block2", "block3", "block4")[: 4 if shape == LARGE else 3]:
        inner = layer(f"{block}.up", upsampled(pixel_norm(hidden)), padding=1)
        if noise_injection:
            inner = inner + noise_injection * torch.randn(inner.shape, generator=expected_rng).double()
        inner = layer(f"{block}.conv", pixel_norm(inner).relu(), padding=1)
        hidden = inner + layer(f"{block}.shortcut", upsampled(hidden))
    expected = layer("to_image", hidden, padding=0 if shape == GRAY else 1).sigmoid()
    if shape == GRAY:
        expected = expected[:, :, :-2, :-2]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("noise_injection", [0.0, 0.3])
def test_dcgan_is_the_published_function(noise_injection):
    network = build(DCGANGenerator, noise_injection=noise_injection).double()
    state = network.state_dict()
    z, labels, rng = inputs_of(network)

    expected_rng = torch_coins(0, "noise")

    def noisy(features):
        if not noise_injection:
            return features
        return features + noise_injection * torch.randn(features.shape, generator=expected_rng).double()

    def layer(name, features, **settings):
        return functional.conv_transpose2d(features, state[f"{name}.weight"], state[f"{name}.bias"], **settings)

    joined = torch.cat([z, functional.one_hot(labels, 10)], dim=1)
    hidden = functional.linear(joined, state["project.weight"], state["project.bias"]).view(-1, 8, 4, 4)
    hidden = noisy(layer("up1", pixel_norm(hidden.relu()))[:, :, :7, :7])
    hidden = noisy(layer("up2", pixel_norm(hidden.relu())))
    expected = layer("to_image", pixel_norm(hidden.relu()), stride=2).sigmoid()
    torch.testing.assert_close(network(z, labels, rng), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("network", "maps"), [(Generator, 2), (ResNetGenerator, 3), (DCGANGenerator, 2)])
def test_noise_of_every_upsampled_maps_shape_is_read_from_the_given_coins_alone(network, maps, monkeypatch):
    drawn = []
    plain = torch.randn

    def spy(*shape, generator=None, **kwargs):
        drawn.append((tuple(shape[0]), generator))
        return plain(*shape, generator=generator, **kwargs)

    noisy = build(network, noise_injection=0.1)
    z, labels, rng = inputs_of(noisy)
    monkeypatch.setattr(torch, "randn", spy)
    noisy(z, labels, rng)
    assert len(drawn) == maps
    assert all(len(shape) == 4 and generator is rng for shape, generator in drawn)
    drawn.clear()
    build(network, rng=None)(z, labels, rng)
    assert drawn == []


@pytest.mark.parametrize("network", NETWORKS)
def test_weights_and_samples_depend_on_their_coins_alone(network):
    def make(global_seed):
        torch.manual_seed(global_seed)
        generator = build(network, channels=4, noise_injection=0.1)
        return generator.sample(torch.zeros(120, dtype=torch.int64), torch_coins(1, "sample"))

    images = make(1)
    assert torch.equal(images, make(2))
    assert not torch.equal(images[:20], images[100:])  # every batch of samples goes on where the last one stopped


@pytest.mark.parametrize("network", NETWORKS)
def test_sampling_leaves_nothing_behind(network):
    generator = build(network, noise_injection=0.1)
    before = {name: tensor.clone() for name, tensor in generator.state_dict().items()}
    one = generator.sample(torch.tensor([1, 2]), torch_coins(0, "sample"))
    other = generator.sample(torch.tensor([1, 2]), torch_coins(0, "sample"))
    assert torch.equal(one, other)
    assert generator.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in generator.state_dict().items())


@pytest.mark.parametrize("network", NETWORKS)
def test_the_distribution_of_z(network):
    normal = build(network).draw_z(2000, torch_coins(0, "z"))
    assert normal.shape == (2000, 10)
    assert abs(normal.mean()) < 0.05
    assert abs(normal.std() - 1) < 0.05
    bits = build(network, z_distribution="bernoulli").double().draw_z(2000, torch_coins(0, "z"))
    assert bits.dtype == torch.float64
    assert set(bits.unique().tolist()) == {0.0, 1.0}
    assert abs(bits.mean() - 0.5) < 0.03
