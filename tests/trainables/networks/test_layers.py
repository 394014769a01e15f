import pytest
import torch
from torch import nn

from trainables.coins import torch_coins
from trainables.networks.layers import SNConv2d, SNLinear, SNUpsampleConv2d, SpectralNorm, pixel_norm


def features_of(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch_coins(0, "features"), dtype=torch.float64)


def drawn(layer: SpectralNorm) -> SpectralNorm:
    layer.draw([torch_coins(0, "weights")])
    return layer.double()


def test_the_normalised_weight_has_a_largest_singular_value_of_one():
    layer = drawn(SpectralNorm((6, 4, 3, 3)))
    for _ in range(500):
        weight = layer.normalised()
    largest = torch.linalg.matrix_norm(layer.weight.flatten(1), 2)
    assert torch.linalg.matrix_norm(weight.flatten(1), 2).item() == pytest.approx(1, abs=1e-9)
    torch.testing.assert_close(weight, layer.weight / largest, rtol=1e-9, atol=1e-12)


def test_one_power_iteration_a_forward_in_training_and_none_in_evaluation():
    layer = drawn(SNLinear(5, 3))
    features = features_of(2, 5)
    u = layer.u.clone()
    v = nn.functional.normalize(layer.weight.detach().T @ u, dim=0, eps=0)
    u = nn.functional.normalize(layer.weight.detach() @ v, dim=0, eps=0)
    trained = layer(features)
    torch.testing.assert_close((layer.u, layer.v), (u, v), rtol=1e-11, atol=1e-11)
    stored = layer.u.clone(), layer.v.clone()
    layer.eval()
    assert torch.equal(layer(features), trained)
    assert torch.equal(layer.u, stored[0])
    assert torch.equal(layer.v, stored[1])


def test_u_and_v_are_buffers_and_gradients_flow_through_the_weight_alone():
    layer = drawn(SpectralNorm((3, 4), bias=False)).eval()
    assert [name for name, _ in layer.named_parameters()] == ["weight"]
    assert [name for name, _ in layer.named_buffers()] == ["u", "v"]

    def normalised(weight: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(_Normalised(layer), {"layer.weight": weight}, ())

    assert torch.autograd.gradcheck(normalised, (layer.weight.detach().clone().requires_grad_(),))
    assert torch.autograd.gradgradcheck(normalised, (layer.weight.detach().clone().requires_grad_(),))


class _Normalised(nn.Module):
    def __init__(self, layer: SpectralNorm) -> None:
        super().__init__()
        self.layer = layer

    def forward(self) -> torch.Tensor:
        return self.layer.normalised()


@pytest.mark.parametrize("mode", [True, False])
def test_several_forwards_before_one_backward(mode):
    """A critic scores real, generated and mixed images before it learns: u and v must not change under the first's graph."""
    layer = drawn(SNLinear(5, 3)).train(mode)
    first = layer(features_of(2, 5))
    layer.train()
    (first.sum() + layer(features_of(2, 5)).sum()).backward()
    assert layer.weight.grad is not None


@pytest.mark.parametrize("mode", [True, False])
def test_a_stack_is_its_layers_side_by_side(mode):
    stack = SNConv2d(2, 4, 3, stride=2, padding=1, stack=3)
    stack.draw([torch_coins(0, "weights", index) for index in range(3)])
    features = features_of(5, 6, 8, 8)
    found = stack.double().train(mode)(features)
    for index in range(3):
        layer = SNConv2d(2, 4, 3, stride=2, padding=1)
        layer.draw([torch_coins(0, "weights", index)])
        expected = layer.double().train(mode)(features[:, 2 * index : 2 * index + 2])
        torch.testing.assert_close(found[:, 4 * index : 4 * index + 4], expected, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(stack.v[index], layer.v, rtol=1e-12, atol=1e-12)


def test_the_sub_pixel_form_is_upsampling_and_convolution():
    layer = drawn(SNUpsampleConv2d(5, 3))
    features = features_of(2, 5, 6, 7)
    found = layer.eval()(features)
    upsampled = nn.functional.interpolate(features, scale_factor=2, mode="nearest")
    expected = nn.functional.conv2d(upsampled, layer.normalised(), layer.bias, padding=1)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_pixel_norm_adds_its_eps_inside_the_root():
    features = torch.full((1, 2, 1, 1), 3e-5, dtype=torch.float64)
    assert pixel_norm(features)[0, 0].item() == pytest.approx(3e-5 / (9e-10 + 1e-8) ** 0.5)
    assert pixel_norm(features, 1e-10)[0, 0].item() == pytest.approx(3e-5 / (9e-10 + 1e-10) ** 0.5)
