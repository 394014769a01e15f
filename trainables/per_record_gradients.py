"""Gradients of a network's loss, one a record: what DP-SGD clips and adds up (Abadi et al., 2016).

``record_gradients`` works for any loss that can be written for one record: it differentiates that loss with ``torch.func``
and lets ``vmap`` run it for a micro-batch. A released gradient is one flat vector; ``assign_gradient`` hands it to an ordinary
optimiser. Clipping and noise are the ``Sanitizer``'s; nothing here limits what a record can do.

Opacus' GradSampleModule was measured beside it on dpgan's critics (28x28 and 32x32x3, 16 to 64 channels, each at its best
micro-batch, one thread): it takes 0.75 to 1.35 times as long, most often longer, and wants its losses a batch at a time.

The order of a flat vector is that of ``module.named_parameters()``, those that require a gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import nn

from trainables.privacy.sanitizer import Contribution

Call = Callable[..., Any]
"""Runs the network with the parameters that are differentiated."""

GRADIENT_BYTES = {"cpu": 16 * 2**20, "cuda": 512 * 2**20}
"""Bytes that the gradients of one micro-batch may take, a kind of device; the work behind them takes as much again, or more.

On a CPU gradients that outgrow its caches take 2.5 times as long: 1.15 ms a record with 108 MiB of them, 0.46 ms with 13 MiB
(dpgan's critic of 111,585 weights, one thread).
"""

_LARGEST_NORM = 1e30  # the weights that clip longer gradients would be subnormal in float32, too coarse for the bound to hold


def trainable(module: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that require a gradient, by name, in the order of a flat vector."""
    return {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}


def parameter_count(module: nn.Module) -> int:
    """P, the length of a flat gradient."""
    return sum(parameter.numel() for parameter in trainable(module).values())


def micro_batch_size(module: nn.Module, limit: int | None = None) -> int:
    """How many records' gradients fit into ``limit`` bytes (by default the device's), 1 at least and 512 at most."""
    parameters = trainable(module).values()
    if limit is None:
        limit = GRADIENT_BYTES["cuda" if next(iter(parameters)).is_cuda else "cpu"]
    return max(1, min(limit // sum(parameter.numel() * parameter.element_size() for parameter in parameters), 512))


def record_gradients(module: nn.Module, loss: Callable[..., torch.Tensor], batch: Sequence[torch.Tensor]) -> Contribution:
    """The gradients of ``loss`` at the n records of ``batch``, as a contribution of shape (P,).

    ``batch`` is a tuple of tensors ``[n, ...]``; all n gradients are held at once, n x P numbers. ``loss(call, *record)`` is
    the scalar loss of one record: ``record`` holds row r of every tensor, without the batch dimension, and ``call(*args)``
    runs ``module``, so ``call(image[None])`` for a network that wants a batch. It may draw nothing at random (``vmap`` raises
    ``RuntimeError``): a coin that a record uses belongs into ``batch``, keyed by that record.
    """
    return summed(_gradients(module, loss, batch))


def gradient_rows(module: nn.Module, loss: Callable[..., torch.Tensor], batch: Sequence[torch.Tensor]) -> torch.Tensor:
    """The same gradients as rows ``[n, P]``, before any clip: for an audit, which looks at few records."""
    parts = [torch.cat([part.flatten(1) for part in _gradients(module, loss, micro)], dim=1) for micro in _split(module, batch)]
    return torch.cat(parts)


def _split(module: nn.Module, batch: Sequence[torch.Tensor]) -> Iterable[tuple[torch.Tensor, ...]]:
    size = micro_batch_size(module)
    return zip(*(tensor.split(size) for tensor in batch), strict=True)


def _gradients(module: nn.Module, loss: Callable[..., torch.Tensor], batch: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """A tensor ``[n, *shape]`` a parameter, in flat order."""
    parameters = {name: parameter.detach() for name, parameter in trainable(module).items()}
    if not len(batch[0]):
        return [value.new_zeros(0, *value.shape) for value in parameters.values()]

    def one(values: dict[str, torch.Tensor], *record: torch.Tensor) -> torch.Tensor:
        def call(*args: Any, **kwargs: Any) -> Any:
            return torch.func.functional_call(module, values, args, kwargs)

        return loss(call, *record)

    over_records = (None, *(0 for _ in batch))
    gradients = torch.func.vmap(torch.func.grad(one), in_dims=over_records)(parameters, *batch)
    return [gradients[name] for name in parameters]


def summed(gradients: Sequence[torch.Tensor]) -> Contribution:
    """The contribution of n records whose gradients are ``gradients``: a tensor ``[n, *shape]`` a parameter, in flat order.

    Norms are float64: their rounding error is far below the margin that the clip leaves. A record with any value that is
    not finite, or a norm over 1e30, gets the norm inf and its values are left out of the sums; they are overwritten with zeros.
    """
    rows = [gradient.detach().flatten(1) for gradient in gradients]
    parts = torch.stack([torch.linalg.vector_norm(part, dim=1, dtype=torch.float64) for part in rows])
    norms = torch.linalg.vector_norm(parts, dim=0)
    broken = (~(norms <= _LARGEST_NORM)).nonzero().flatten()
    norms[broken] = torch.inf
    for part in rows:
        part[broken] = 0.0

    def weighted_sum(weights: torch.Tensor) -> torch.Tensor:
        # In float64, a parameter at a time: rounding in the order of the records would be more than the clip's margin allows.
        return torch.cat([weights.double() @ part.double() for part in rows])

    return Contribution(norms=norms, weighted_sum=weighted_sum)


def flatten(tensors: Iterable[torch.Tensor]) -> torch.Tensor:
    """``tensors`` one behind the other as one vector.

    >>> flatten([torch.ones(1, 2), torch.zeros(3)])
    tensor([1., 1., 0., 0., 0.])
    """
    return torch.cat([tensor.detach().reshape(-1) for tensor in tensors])


def assign_gradient(module: nn.Module, vector: torch.Tensor) -> None:
    """Make the flat ``vector [P]`` the ``.grad`` of the trainable parameters, for an optimiser's next step.

    Raises ``ValueError`` where its shape is not (P,).
    """
    parameters = trainable(module)
    if vector.shape != (parameter_count(module),):
        expected = f"({parameter_count(module)},), one number a weight"
        raise ValueError(f"the gradient has shape {tuple(vector.shape)}; expected {expected}")
    parts = vector.split([parameter.numel() for parameter in parameters.values()])
    for parameter, part in zip(parameters.values(), parts, strict=True):
        parameter.grad = part.reshape(parameter.shape).to(parameter).clone()
