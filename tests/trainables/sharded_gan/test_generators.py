import pytest
import torch

from trainables.base import DataInfo
from trainables.coins import torch_coins
from trainables.sharded_gan.generators import NETWORKS, generator_recipe

LABELS = torch.tensor([0, 1, 1, 0])


def built(name, shape, **settings):
    channels, height, width = shape
    info = DataInfo(size=100, channels=channels, height=height, width=width, classes=2)
    sizes = {"channels": 4, "z_dim": 3, "z_distribution": "bernoulli", "noise_injection": 0.2}
    return generator_recipe(name, info, **{**sizes, **settings}).build(torch.device("cpu"), torch_coins(0, "weights"))


@pytest.mark.parametrize("name", NETWORKS)
def test_settings_reach_every_network(name):
    generator = built(name, (3, 32, 32), noise_kind="kept", noise_injection=0.4)
    assert (generator.z_dim, generator.z_distribution, generator.classes) == (3, "bernoulli", 2)
    assert set(generator.noise_scales.tolist()) == {torch.tensor(0.4).item()}
    assert generator.sample(LABELS, torch_coins(0, "sample")).shape == (4, 3, 32, 32)
    assert "noise_scales" not in built(name, (3, 32, 32)).state_dict()


@pytest.mark.parametrize(("shape", "maps"), [((1, 32, 32), 2), ((3, 64, 64), 3), ((1, 40, 16), 3), ((1, 36, 36), 2)])
def test_the_small_network_upsamples_sides_over_32_once_more_where_it_can(shape, maps):
    generator = built("small", shape, noise_kind="kept")
    assert len(generator.noise_scales) == maps
    assert generator.sample(LABELS, torch_coins(0, "sample")).shape == (4, *shape)
