"""The generator's injected noise over the steps: how strong it is, and where that is decided.

Whatever decides it is public: the settings, the step, or the generator's own images, which are post-processing of releases. So
none of it costs privacy.
"""

from __future__ import annotations

import torch

from trainables.coins import torch_coins
from trainables.networks.conditional import ConditionalGenerator, NoiseKind
from trainables.networks.diversity import noise_share

from .settings import Config

ADAPT_EVERY = 20
"""Steps between two measurements of the noise's share."""

FIRST_SCALE = 0.1
"""Where adaptive noise begins; the scale that Ma & Zhang (2026) chose by grid search."""

SMALLEST_SCALE, LARGEST_SCALE = 1e-3, 10.0


def noise_kind(config: Config) -> NoiseKind:
    """Where the generator keeps its scale: a schedule needs it in the state, so that a kept generator samples as it trained."""
    if config.noise_injection_schedule == "learnt":
        return "learnt"
    changes = config.noise_injection_schedule != "constant" or config.noise_injection_start > 0
    return "kept" if changes else "fixed"


def set_noise(generator: ConditionalGenerator, config: Config, step: int, seed: int) -> None:
    """Bring the scale of ``generator`` to what ``config`` wants for ``step``; a fixed or learnt one is left alone."""
    if generator.noise_kind != "kept":
        return
    start = config.noise_injection_start
    if step < start:
        generator.set_noise_injection(0.0)
    elif config.noise_injection_schedule == "constant":
        generator.set_noise_injection(config.noise_injection)
    elif config.noise_injection_schedule == "falling":
        generator.set_noise_injection(config.noise_injection * (config.steps - step) / (config.steps - start))
    elif step == start:
        generator.set_noise_injection(FIRST_SCALE)
    elif (step - start) % ADAPT_EVERY == 0:
        labels = torch.arange(generator.classes)
        share = noise_share(generator, labels, torch_coins(seed, "noise share", step), draws=8)
        generator.set_noise_injection(adapted(float(generator.noise_scales[0]), share, target=config.noise_injection))


def adapted(scale: float, share: float, *, target: float) -> float:
    """The next scale where noise of ``scale`` makes up ``share`` of the variance within a class and ``target`` is wanted.

    The variance that weak noise causes is proportional to its scale's square, so sqrt(target / share) would be the whole way;
    half of it is gone, in logarithms, and at most a factor of 2, since a measurement is itself noisy.

    >>> adapted(0.1, 0.04, target=0.04), adapted(0.1, 0.0, target=0.04), round(adapted(0.1, 0.64, target=0.04), 3)
    (0.1, 0.2, 0.05)
    """
    factor = 2.0 if share == 0 else (target / share) ** 0.25
    return min(max(scale * min(max(factor, 0.5), 2.0), SMALLEST_SCALE), LARGEST_SCALE)
