"""Building blocks of the networks: initial weights from public coins, pixel norm, spectral norm, sub-pixel upsampling."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

_FIRST_ITERATIONS = 15  # power iterations on the initial weights, as many as torch's own spectral norm makes


def initialise(module: nn.Module, rng: torch.Generator) -> None:
    """Fill every parameter from ``rng`` (a CPU generator): matrices and kernels He normal, vectors zero (He et al., 2015)."""
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim == 1:
                parameter.zero_()
                continue
            std = (2 / parameter[0].numel()) ** 0.5
            parameter.copy_(torch.randn(parameter.shape, generator=rng) * std)


def draw_uniform(shape: Sequence[int], fan: int, rng: torch.Generator) -> torch.Tensor:
    """Uniform on +-1/sqrt(fan), float32: torch's default for the weights and biases of dense and convolutional layers."""
    return (2 * torch.rand(tuple(shape), generator=rng) - 1) / fan**0.5


def in_full_precision(tensor: torch.Tensor) -> torch.autocast:
    """Leave autocast where ``tensor`` lies: for what is computed on weights alone, which costs little and must not drift."""
    return torch.autocast(tensor.device.type, enabled=False)


def pixel_norm(features: torch.Tensor, eps: float = 1e-8) -> torch.Tensor:
    """Scale the channel vector of every pixel of ``[n, C, ...]`` to unit mean square (Karras et al., 2018)."""
    return features * torch.rsqrt(features.square().mean(dim=1, keepdim=True) + eps)


class UpsampleConv2d(nn.Module):
    """Nearest-neighbour upsampling by 2 followed by a 3x3 convolution with zero padding, ``[n, in, h, w] -> [n, out, 2h, 2w]``.

    Computed in its sub-pixel form (Shi et al., 2016): under a 3x3 window of the upsampled image lie only 2x2 different
    pixels, so each of the four output phases is a 2x2 convolution of the small image. It takes 16/36 of the products.
    """

    _taps: torch.Tensor

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, 3, 3))
        self.bias = nn.Parameter(torch.empty(out_channels))
        self.register_buffer("_taps", _sub_pixel_taps(), persistent=False)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return _upsample_conv2d(features, self.weight, self.bias, self._taps)


class SpectralNorm(nn.Module):
    """A weight ``[out, ...]`` over its largest singular value as a matrix ``[out, -1]`` (Miyato et al., 2018), and a bias.

    With ``stack`` = S there are S independent ones: every tensor has a leading axis of S networks. The singular value is
    u' W v for the vectors u and v that one power iteration gives at each ``normalised()`` in training mode; in evaluation
    mode the stored ones are used as they are, so that evaluating changes nothing. Gradients flow through W, not u and v.

    Deviations from the published code (GS-WGAN), whose wrapper does the rest in the same way:

    - u and v are buffers. There they are parameters that the training loop makes trainable, so that Adam moves them.
    - They start from 15 power iterations on the initial weight in place of none, so that evaluation mode is right at once.
    - It iterates in evaluation as well, so what it samples depends on what was sampled before.
    - 1e-10 is added there to the norms that divide; here a norm counts as 1e-12 at least.
    """

    u: torch.Tensor
    v: torch.Tensor

    def __init__(self, shape: Sequence[int], *, stack: int | None = None, bias: bool = True) -> None:
        """``shape`` is one network's weight ``[out, ...]``. All values are to be loaded or drawn by ``draw``."""
        super().__init__()
        lead = () if stack is None else (stack,)
        self._shape, self._stack = tuple(shape), stack
        fan = torch.Size(self._shape[1:]).numel()
        self.weight = nn.Parameter(torch.empty(*lead, *shape))
        self.bias = nn.Parameter(torch.empty(*lead, shape[0])) if bias else None
        self.register_buffer("u", torch.empty(*lead, shape[0]))
        self.register_buffer("v", torch.empty(*lead, fan))

    @torch.no_grad()
    def draw(self, rngs: Sequence[torch.Generator], *, normal: bool = False) -> None:
        """Initial values, network s's from ``rngs[s]`` alone: torch's defaults, as published.

        Uniform on +-1/sqrt(fan in); standard ``normal`` for an embedding. Equal bit for bit whatever the stack's size.
        """
        for index, rng in enumerate(rngs):
            place = ... if self._stack is None else index
            fan = torch.Size(self._shape[1:]).numel()
            weight = torch.randn(self._shape, generator=rng) if normal else draw_uniform(self._shape, fan, rng)
            u = torch.randn(self._shape[0], generator=rng)
            for _ in range(_FIRST_ITERATIONS):
                u, v = _power_iteration(weight.flatten(1), u)
            self.weight[place], self.u[place], self.v[place] = weight, u, v
            if self.bias is not None:
                self.bias[place] = draw_uniform(self._shape[:1], fan, rng)

    def normalised(self) -> torch.Tensor:
        """The weight over its largest singular value; in training mode u and v move by one power iteration first.

        In the weight's own precision, under autocast as well: u and v are the running state of an iteration.
        """
        with in_full_precision(self.weight):
            return self._normalised()

    def _normalised(self) -> torch.Tensor:
        matrix = self.weight.flatten(1 if self._stack is None else 2)
        if self.training:
            u, v = _power_iteration(matrix.detach(), self.u)
            self.u.copy_(u)
            self.v.copy_(v)
        else:  # copies: a later forward in training mode must not change what this one's backward needs
            u, v = self.u.clone(), self.v.clone()
        singular_value = (u * _apply(matrix, v)).sum(dim=-1)
        return self.weight / singular_value.reshape(*singular_value.shape, *(1 for _ in self._shape))


class SNLinear(SpectralNorm):
    """Dense layer ``[n, in] -> [n, out]`` with a spectrally normalised weight."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__((out_features, in_features))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(features, self.normalised(), self.bias)


class SNConv2d(SpectralNorm):
    """Convolution ``[n, in, h, w] -> [n, out, h', w']`` with a spectrally normalised kernel.

    A stack of S is one grouped convolution ``[n, S * in, h, w] -> [n, S * out, h', w']``, networks side by side.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, *, stride: int = 1, padding: int = 0, stack: int | None = None
    ) -> None:
        super().__init__((out_channels, in_channels, kernel, kernel), stack=stack)
        self._stride, self._padding = stride, padding

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        assert self.bias is not None
        weight = self.normalised().reshape(-1, *self.weight.shape[-3:])
        bias, groups = self.bias.flatten(), self._stack or 1
        return nn.functional.conv2d(features, weight, bias, stride=self._stride, padding=self._padding, groups=groups)


class SNUpsampleConv2d(SpectralNorm):
    """``UpsampleConv2d`` with a spectrally normalised kernel ``[out, in, 3, 3]``."""

    _taps: torch.Tensor

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__((out_channels, in_channels, 3, 3))
        self.register_buffer("_taps", _sub_pixel_taps(), persistent=False)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        assert self.bias is not None
        return _upsample_conv2d(features, self.normalised(), self.bias, self._taps)


def _power_iteration(matrix: torch.Tensor, u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Next u ``[..., out]`` and v ``[..., in]`` of the matrices ``[..., out, in]``."""
    v = nn.functional.normalize(_apply(matrix.mT, u), dim=-1)
    return nn.functional.normalize(_apply(matrix, v), dim=-1), v


def _apply(matrix: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
    return (matrix @ vector.unsqueeze(-1)).squeeze(-1)


def _sub_pixel_taps() -> torch.Tensor:
    """taps[phase, position, tap]: which of the 3 taps fall on which of the 2 source pixels, for odd and even outputs."""
    return torch.tensor([[[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]], [[1.0, 0.0, 0.0], [0.0, 1.0, 1.0]]])


def _upsample_conv2d(features: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, taps: torch.Tensor) -> torch.Tensor:
    out_channels, in_channels = weight.shape[:2]
    with in_full_precision(weight):  # taps of the kernel are added before they are rounded
        kernel = torch.einsum("api,bqj,ocij->oabcpq", taps, taps, weight)
    kernel = kernel.reshape(4 * out_channels, in_channels, 2, 2)
    phases = nn.functional.conv2d(features, kernel, bias.repeat_interleave(4), padding=1)
    # With the odd phase first, interleaving shifts the image by one pixel: the border that the padding made is cut off.
    return nn.functional.pixel_shuffle(phases, 2)[..., 1:-1, 1:-1]
