"""What every released sampler needs beside its network. ``source`` copies it into the bundle, so it knows torch alone."""

from __future__ import annotations

import argparse
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

Generate = Callable[..., torch.Tensor]
"""``generate(labels, seed=0)``: float images ``[n, C, H, W]`` in [0, 1] for ``n`` labels."""


def fill(network: Any, tensors: Mapping[str, torch.Tensor], prefix: str) -> None:
    """Load the ``tensors`` whose names begin with ``prefix`` into ``network``, and make it ready to sample."""
    network.requires_grad_(False).eval()
    network.load_state_dict({name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)})


def load_into(network: Any, prefix: str, classes: int, file: str | Path, device: str) -> Generate:
    """Fill ``network`` from a safetensors ``file``; return how images are drawn from it on ``device``.

    All randomness is drawn on the CPU, so the same labels and seed give the same images everywhere, up to rounding.
    """
    fill(network, load_file(file), prefix)
    network.to(device)

    def generate(labels: Sequence[int] | torch.Tensor, seed: int = 0) -> torch.Tensor:
        wanted = torch.as_tensor(labels, dtype=torch.int64).cpu()
        if wanted.ndim != 1 or not len(wanted) or wanted.min() < 0 or wanted.max() >= classes:
            raise ValueError(f"labels are {labels}; expected at least one, each a whole number from 0 to {classes - 1}")
        images: torch.Tensor = network.sample(wanted, torch.Generator().manual_seed(seed))
        return images

    return generate


def png(image: torch.Tensor) -> bytes:
    """PNG of one float image ``[C, H, W]`` in [0, 1] with C of 1 (gray) or 3 (RGB)."""
    channels, height, width = image.shape
    rows = (image.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).reshape(height, -1).tolist()

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0 if channels == 1 else 2, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + bytes(row) for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def main(load: Callable[..., Generate], classes: int) -> None:
    """The command line: the same number of images of every class, as PNG files."""
    command = argparse.ArgumentParser(description="Draw images from the generator that lies beside this file.")
    command.add_argument("--per-class", type=int, default=10, metavar="N", help="images of every class (default: 10)")
    command.add_argument("--out", type=Path, default=Path("images"), metavar="DIR", help="folder to write to (default: images)")
    command.add_argument("--seed", type=int, default=0, help="another seed draws other images (default: 0)")
    command.add_argument("--device", default="cpu", help="cpu (default), cuda, ...")
    arguments = command.parse_args()
    if arguments.per_class < 1:
        command.error(f"--per-class is {arguments.per_class}; expected at least 1")
    labels = torch.arange(classes).repeat_interleave(arguments.per_class)
    images = load(device=arguments.device)(labels, arguments.seed)
    arguments.out.mkdir(parents=True, exist_ok=True)
    for index, (label, image) in enumerate(zip(labels.tolist(), images, strict=True)):
        (arguments.out / f"{label}_{index % arguments.per_class:05}.png").write_bytes(png(image))
    print(f"{len(images)} images are in {arguments.out}")
