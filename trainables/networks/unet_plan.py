"""The blocks of a UNet denoiser as plain numbers (no torch): the network is built from them and its weights are counted.

Planning a sweep needs the number of weights, which is the shape of a DP-SGD release, without importing torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

KERNEL = 3
GROUP = 4
"""Channels that share a group norm; every width is a multiple of it."""


@dataclass(frozen=True, kw_only=True)
class Block:
    """One residual block, ``[n, in, h, w]`` to ``[n, out, h', w']``; ``resample`` doubles or halves the sides."""

    in_channels: int
    out_channels: int
    resample: Literal["none", "down", "up"] = "none"
    attention: bool = False

    def parameters(self, embedding: int) -> int:
        """Weights and biases, with an embedding of that length."""
        inside, out = self.in_channels, self.out_channels
        count = 2 * inside + _convolution_weights(inside, out, KERNEL)  # group norm, first convolution
        count += embedding * out + out
        count += 2 * out + _convolution_weights(out, out, KERNEL)
        if inside != out:
            count += _convolution_weights(inside, out, 1)
        if self.attention:
            count += 2 * out + _convolution_weights(out, 3 * out, 1) + _convolution_weights(out, out, 1)
        return count


@dataclass(frozen=True, kw_only=True)
class UNetPlan:
    """A UNet for images ``shape`` (C, H, W): blocks on the way down, in the middle and up."""

    shape: tuple[int, int, int]
    classes: int
    channels: int
    patch: int
    down: tuple[Block, ...]
    middle: tuple[Block, ...]
    up: tuple[Block, ...]

    @property
    def folded_channels(self) -> int:
        """Channels of the image once its ``patch`` x ``patch`` squares are folded into channels."""
        return self.shape[0] * self.patch**2

    @property
    def embedding(self) -> int:
        """Length of the embedding of noise level and class."""
        return 4 * self.channels

    @property
    def parameters(self) -> int:
        """P, the number of trainable weights."""
        count = _convolution_weights(self.folded_channels, self.channels, KERNEL)
        count += self.channels * self.embedding + self.embedding + self.embedding**2 + self.embedding  # noise level
        count += self.classes * self.embedding
        count += sum(block.parameters(self.embedding) for block in (*self.down, *self.middle, *self.up))
        last = self.up[-1].out_channels
        return count + 2 * last + _convolution_weights(last, self.folded_channels, KERNEL)


def plan_unet(
    shape: tuple[int, int, int],
    classes: int,
    *,
    channels: int,
    multipliers: Sequence[int],
    blocks: int,
    patch: int,
) -> UNetPlan:
    """The UNet of DDPM++ (Song et al., 2021) with BigGAN's resampling blocks and self-attention at the lowest resolution.

    ``channels * multipliers[level]`` feature maps at each level, ``blocks`` blocks a level on the way down and one more on
    the way up. ``patch`` folds squares of pixels into channels first: 1 is the published network, 2 takes a quarter of the
    work. Raises ``ValueError`` where the sides cannot be halved that often.
    """
    divisor = patch * 2 ** (len(multipliers) - 1)
    height, width = shape[1:]
    if height % divisor or width % divisor:
        raise ValueError(
            f"images are {height}x{width}; patch {patch} and {len(multipliers)} resolutions need sides divisible by {divisor}"
        )
    widths = [channels * multiplier for multiplier in multipliers]
    lowest = len(widths) - 1
    current, skips = channels, [channels]
    down: list[Block] = []
    for level, width in enumerate(widths):
        for _ in range(blocks):
            down.append(Block(in_channels=current, out_channels=width, attention=level == lowest))
            current = width
            skips.append(current)
        if level < lowest:
            down.append(Block(in_channels=current, out_channels=current, resample="down"))
            skips.append(current)
    middle = (
        Block(in_channels=current, out_channels=current, attention=True),
        Block(in_channels=current, out_channels=current),
    )
    up: list[Block] = []
    for level in range(lowest, -1, -1):
        for _ in range(blocks + 1):
            up.append(Block(in_channels=current + skips.pop(), out_channels=widths[level], attention=level == lowest))
            current = widths[level]
        if level:
            up.append(Block(in_channels=current, out_channels=current, resample="up"))
    return UNetPlan(shape=shape, classes=classes, channels=channels, patch=patch, down=tuple(down), middle=middle, up=tuple(up))


def _convolution_weights(inside: int, out: int, kernel: int) -> int:
    return inside * out * kernel**2 + out
