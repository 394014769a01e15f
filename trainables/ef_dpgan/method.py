"""ef_dpgan: the method of Ma & Zhang (2026), a sharded GAN that repairs what privacy breaks.

The sharded engine with noise injection (section 4.2) and reconstruction (section 4.3). What the paper leaves open is decided so
that an epsilon is proven: the signals are summed before one release, z and labels never depend on records, and critics are
clones that are discarded.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from trainables.sharded_gan import method as engine
from trainables.sharded_gan.method import mechanism as mechanism
from trainables.sharded_gan.method import stages as stages

NAME = "ef_dpgan"
VERSION = engine.VERSION


class Config(engine.Config):
    """Settings of the engine; noise injection and reconstruction start from the paper's choice."""

    noise_injection: float = Field(default=0.1, ge=0)
    """sigma_noise: standard deviation of the noise added to every upsampled feature map (Ma & Zhang, 2026, Algorithm 1)."""
    reconstruction: float = Field(default=1.0, ge=0)
    """gamma_recon: weight of the pull of every generated image to a real one of its class (Ma & Zhang, 2026, equation 15)."""


PRESETS: dict[str, dict[str, Any]] = {
    # The published settings, where the paper has any, are the defaults; the others are those of GS-WGAN.
    "published": {},
    # The closed-form critic learns where trained ones drown in noise. Many steps with more noise each beat few with less.
    "cpu": {
        **engine.CPU,
        "steps": 2000,
        "shards_per_step": 32,
        "generator_batch": 40,
        "ema": 0.99,
        "critic": {"kind": "energy"},
    },
}
