"""Injected noise: fixed, kept in the state, or learnt."""

import copy

import pytest
import torch

from trainables.coins import torch_coins
from trainables.networks.averaged import PREFIX, AveragedGenerator
from trainables.networks.dcgan import DCGANGenerator
from trainables.networks.generator import Generator
from trainables.networks.resnet import ResNetGenerator
from trainables.standalone.runtime import fill

NETWORKS = [Generator, ResNetGenerator, DCGANGenerator]
MAPS = {Generator: 2, ResNetGenerator: 3, DCGANGenerator: 2}
KINDS = ["fixed", "kept", "learnt"]
LABELS = torch.tensor([0, 1, 1, 0])


def generator_of(network, kind, noise_injection=0.3, *, rng="weights"):
    coins = None if rng is None else torch_coins(0, rng)
    return network((1, 28, 28), 2, z_dim=3, channels=4, noise_injection=noise_injection, noise_kind=kind, rng=coins)


def sample(generator):
    return generator.sample(LABELS, torch_coins(0, "sample"))


def images_of(generator):
    z = generator.draw_z(len(LABELS), torch_coins(0, "z"))
    return generator(z, LABELS, torch_coins(0, "noise"))


@pytest.mark.parametrize("network", NETWORKS)
def test_all_kinds_start_as_the_same_function(network):
    fixed, kept, learnt = (generator_of(network, kind) for kind in KINDS)
    assert "noise_scales" not in fixed.state_dict()
    for other in (kept, learnt):
        assert torch.equal(other.noise_scales, torch.full((MAPS[network],), 0.3))
        assert torch.equal(sample(fixed), sample(other))
        weights = other.state_dict()
        assert weights.keys() - {"noise_scales"} == fixed.state_dict().keys()
        assert all(torch.equal(tensor, weights[key]) for key, tensor in fixed.state_dict().items())


@pytest.mark.parametrize("network", NETWORKS)
def test_what_is_trained(network):
    for kind in KINDS:
        generator = generator_of(network, kind)
        assert ("noise_scales" in dict(generator.named_parameters())) == (kind == "learnt")
        assert ("noise_scales" in dict(generator.named_buffers())) == (kind == "kept")


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("kind", ["kept", "learnt"])
def test_every_map_has_the_scale_of_its_own(network, kind):
    generator = generator_of(network, kind, 0.0).eval()
    with torch.no_grad():
        found = [images_of(generator)]
        for layer in range(MAPS[network]):
            generator.noise_scales.copy_(torch.eye(MAPS[network])[layer])
            found.append(images_of(generator))
    for one in range(len(found)):
        for other in range(one):
            assert not torch.allclose(found[one], found[other])


@pytest.mark.parametrize("network", NETWORKS)
def test_a_set_noise_is_the_fixed_one_and_travels_with_the_kept_weights(network):
    trained = AveragedGenerator(generator_of(network, "kept", 0.1), learning_rate=1e-3)
    trained.generator.set_noise_injection(0.7)
    trained.update(images_of(trained.generator).square().sum(), decay=0.5)
    released = trained.released()
    assert torch.equal(released["generator.noise_scales"], torch.full((MAPS[network],), 0.7))
    loaded = generator_of(network, "kept", 0.1, rng=None)
    fill(loaded, released, PREFIX)
    assert torch.equal(sample(loaded), sample(trained.average))
    fixed = generator_of(network, "fixed", 0.7, rng=None)
    fill(fixed, {key: tensor for key, tensor in released.items() if key != "generator.noise_scales"}, PREFIX)
    assert torch.equal(sample(fixed), sample(loaded))


@pytest.mark.parametrize("network", NETWORKS)
def test_learnt_scales_take_gradients_are_averaged_and_are_kept(network):
    trained = AveragedGenerator(generator_of(network, "learnt", 0.0), learning_rate=0.1)
    trained.update(images_of(trained.generator).square().sum(), decay=0.75)
    learnt, kept = trained.generator.noise_scales, trained.average.noise_scales
    torch.testing.assert_close(learnt.abs(), torch.full_like(learnt, 0.1))  # Adam's first step, so each had a gradient
    torch.testing.assert_close(kept, learnt.detach() / 4)
    loaded = generator_of(network, "learnt", 0.0, rng=None)
    fill(loaded, trained.released(), PREFIX)
    assert torch.equal(loaded.noise_scales, kept)
    assert torch.equal(sample(loaded), sample(trained.average))


@pytest.mark.parametrize("network", NETWORKS)
def test_the_scale_gradient_is_that_of_the_plain_formula(network):
    """d loss / d scale by autograd against a difference quotient, in float64."""
    generator = generator_of(network, "learnt").double().eval()
    loss = images_of(generator).square().sum()
    (found,) = torch.autograd.grad(loss, generator.noise_scales)
    step = 1e-6
    for layer in range(len(found)):
        values = []
        for shift in (step, -step):
            moved = copy.deepcopy(generator)
            with torch.no_grad():
                moved.noise_scales[layer] += shift
                values.append(images_of(moved).square().sum())
        torch.testing.assert_close(found[layer], (values[0] - values[1]) / (2 * step), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("network", NETWORKS)
def test_a_scale_of_the_state_does_not_move_the_coins(network):
    """What is drawn after the images is the same whatever the scales are; a fixed zero draws nothing."""

    def after(kind, noise):
        generator, rng = generator_of(network, kind, noise), torch_coins(0, "sample")
        generator.sample(LABELS, rng)
        return torch.rand(3, generator=rng)

    assert torch.equal(after("kept", 0.0), after("kept", 0.5))
    assert torch.equal(after("learnt", 0.0), after("fixed", 0.5))
    assert not torch.equal(after("fixed", 0.0), after("fixed", 0.5))


@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf")])
def test_what_is_no_standard_deviation_is_refused(value):
    generator = generator_of(Generator, "kept")
    with pytest.raises(ValueError, match="expected a standard deviation, a finite number of at least 0"):
        generator.set_noise_injection(value)
    assert torch.equal(generator.noise_scales, torch.full((2,), 0.3))


@pytest.mark.parametrize("kind", ["fixed", "learnt"])
def test_only_a_kept_noise_can_be_set(kind):
    with pytest.raises(ValueError, match=f"noise of this generator is {kind}; only a kept one can be set"):
        generator_of(Generator, kind).set_noise_injection(0.2)
