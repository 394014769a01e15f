"""How a kept generator is built again: by the harness, and by the ``sample.py`` of a release, from one description."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from trainables.base import Sampler

from .runtime import fill


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A network class and its arguments, with the names that ``Trainer.released`` gives its tensors."""

    network: type[Any]
    """A ``torch.nn.Module`` with ``sample(labels, rng)`` as ``trainables.base.Sampler``; it imports torch alone, beside modules
    of its own project that do. Labels drawn in parts of 5,000 with one ``rng`` give what they give at once."""
    arguments: Mapping[str, Any]
    """Keyword arguments: numbers, text, True, False, None, and tuples and dictionaries of such. Without the argument ``rng``
    the network's weights are left to be loaded."""
    prefix: str = "generator."
    """What the names of the network's tensors begin with in the kept file."""
    beside: tuple[str, ...] = ()
    """Other tensors that are kept and that noise protects as well; no sampler needs them."""

    def build(self, device: torch.device, rng: torch.Generator | None = None) -> Any:
        """The network with initial weights from ``rng`` (CPU); without it they are to be loaded."""
        return self.network(**self.arguments, rng=rng).to(device)

    def load(self, released: Mapping[str, torch.Tensor], device: torch.device) -> Sampler:
        """The sampler of what ``Trainer.released`` gave."""
        network = self.network(**self.arguments)
        fill(network, released, self.prefix)
        sampler: Sampler = network.to(device).sample
        return sampler

    def needed(self, kept: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The tensors of ``kept`` that the network consists of, and no others.

        Raises ``ValueError`` with one sentence for a tensor that is neither one of these nor named in ``beside``, for one that
        is missing, and for one of another shape or type: then ``kept`` is not what training keeps.
        """
        state = {f"{self.prefix}{name}": tensor for name, tensor in self.network(**self.arguments).state_dict().items()}
        if unknown := sorted(kept.keys() - state.keys() - set(self.beside)):
            raise ValueError(
                f"it holds {_some(unknown)}, no part of the generator: only the generator may leave, as training has kept it"
            )
        if missing := sorted(state.keys() - kept.keys()):
            raise ValueError(f"it lacks {_some(missing)}, which the generator of these settings has")
        for name, tensor in state.items():
            if (kept[name].shape, kept[name].dtype) != (tensor.shape, tensor.dtype):
                found, expected = (f"{tuple(one.shape)} of {one.dtype}" for one in (kept[name], tensor))
                raise ValueError(f"its {name} is {found}, and the generator of these settings has {expected}")
        return {name: kept[name] for name in state}


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
