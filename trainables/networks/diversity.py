"""How much of a generator's variety is owed to its injected noise: a measure of the generator's own samples."""

from __future__ import annotations

import torch

from .conditional import ConditionalGenerator


def noise_share(generator: ConditionalGenerator, labels: torch.Tensor, rng: torch.Generator, *, draws: int = 16) -> float:
    """Share of the variance within a class that is owed to injected noise, between 0 and 1; the rest is owed to z.

    For every class of int64 ``labels [k]`` ``draws`` latents are drawn from ``rng`` (CPU), and each makes two images with
    noise of their own: 2 k ``draws`` images. Variances are of pixels, summed over an image and averaged over the classes: half
    the squared distance of a pair for the noise alone, the sample variance over latents for the whole (a one-way analysis of
    variance; Searle, Casella & McCulloch, 1992). Both are unbiased; their ratio, whose error falls as 1 / sqrt(k ``draws``),
    is cut to [0, 1], and is 0 where the images of a class do not vary at all.

    It reads no record and leaves the generator as it is: of a generator that may be released it is post-processing.

    Raises ``ValueError`` for fewer than 2 ``draws`` or no label.
    """
    if draws < 2 or len(labels) == 0:
        raise ValueError(f"{len(labels)} classes and {draws} draws; variance within classes needs a class and 2 draws at least")
    repeated = labels.repeat_interleave(draws)
    z = generator.draw_z(len(repeated), rng)
    first, second = (_images(generator, z, repeated, rng).reshape(len(labels), draws, -1) for _ in range(2))
    noise = (first - second).square().mean(dim=(0, 1)).sum() / 2
    whole = (first.var(dim=1) + second.var(dim=1)).mean(dim=0).sum() / 2
    return 0.0 if whole == 0 else float((noise / whole).clamp(0, 1))


def _images(generator: ConditionalGenerator, z: torch.Tensor, labels: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    batches = zip(z.split(generator.sample_batch), labels.split(generator.sample_batch), strict=True)
    return torch.cat([generator.generate(*batch, rng) for batch in batches]).double()
