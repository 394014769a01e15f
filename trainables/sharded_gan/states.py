"""Tensors of many shards in safetensors files, read a shard at a time.

A stage of ``pretraining`` writes one file for its shards; the first axis of every tensor is the shard. A file is mapped while
it is read, and only the rows of the shards that were drawn are: a thousand critics of the published width (4.3 GB) cost a trial
the memory of those that answer one step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file

FILE = "shards.safetensors"


def save_states(directory: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write tensors ``[count, ...]`` of the shards of one stage into its folder."""
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, directory / FILE)


class ShardStates:
    """The tensors of all shards of a kind, ``critics`` or ``encoders``, over the folders of their stages."""

    def __init__(self, stages: Mapping[str, Path], kind: str) -> None:
        """``stages`` are a trial's: name -> folder; those called ``<kind>-<first shard>`` are taken."""
        chunks = sorted((int(name.rpartition("-")[2]), path) for name, path in stages.items() if name.startswith(f"{kind}-"))
        self._firsts = np.array([first for first, _ in chunks])
        self._files = [path / FILE for _, path in chunks]

    def read(self, shards: Sequence[int] | np.ndarray) -> dict[str, torch.Tensor]:
        """name -> tensor ``[len(shards), ...]``, copies, in the order of ``shards``."""
        rows: dict[str, list[torch.Tensor]] = {}
        for shard in shards:
            chunk = int(np.searchsorted(self._firsts, shard, side="right")) - 1
            row = int(shard) - int(self._firsts[chunk])
            # Opened for every read: a mapping that stayed would count all rows ever read as memory of this process.
            with safe_open(self._files[chunk], framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 (a file is no dict)
                    rows.setdefault(name, []).append(file.get_slice(name)[row : row + 1].clone())
        return {name: torch.cat(parts) for name, parts in rows.items()}
