"""ef_dpgan: the method of Ma & Zhang (2026), a sharded GAN that repairs what privacy breaks.

The sharded engine with noise injection (section 4.2), reconstruction (section 4.3), and a choice of error feedback (section
4.1). What the paper leaves open is decided so that an epsilon is proven: z and labels never depend on records, and critics are
clones that are discarded. By default the signals are summed before one release and nothing is fed back; the preset
``published`` is the paper's own form, three releases and the shared error buffer, for those who want to see its price.
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
    """sigma_noise: standard deviation of the noise added to every upsampled feature map (Ma & Zhang, 2026, Algorithm 1). Under
    learnt the one to start from, under adaptive the share to hold."""
    reconstruction: float = Field(default=1.0, ge=0)
    """gamma_recon: weight of the pull of every generated image to a real one of its class (Ma & Zhang, 2026, equation 15). The
    pull shares max_grad_norm with the critic's answer: where their sum is longer, gamma decides whose direction it has."""


PRESETS: dict[str, dict[str, Any]] = {
    # Algorithm 2 with the paper's coefficients; what the paper does not say is DPAC's, and C2 = C1. Labels are fixed, for
    # a buffer belongs to an image of one label.
    "published": {
        "labels": "fixed",
        "release": "per_signal",
        "feedback": "paper",
        "matching": "latent",
        "critic": {"weight": 0.8},
        "classifier": {"weight": 0.2, "accumulate_fake_gradients": True},
    },
    # The closed-form critic learns where trained ones drown in noise. Many steps with more noise each beat few with less.
    "cpu": {
        **engine.CPU,
        "steps": 2000,
        "shards_per_step": 32,
        "generator_batch": 40,
        "ema": 0.99,
        "critic": {"kind": "energy"},
    },
    # The best form on shards that was found on held-out Fashion-MNIST. More and smaller shards are more answers of the same
    # bound under one noise; below about 24 records a shard too many of them lack a class. Noise spreads the images of a class
    # by itself, so less repulsion than the energy distance has, least of all while shapes are learnt.
    "tuned": {
        **engine.CPU,
        "steps": 1000,
        "shards": 2500,
        "shards_per_step": 160,
        "generator_batch": 40,
        "learning_rate": 4e-3,
        "critic": {"kind": "energy", "repulsion": 0.92, "repulsion_schedule": "rising"},
    },
}
