"""gs_wgan: Chen, Orekondy and Fritz (NeurIPS 2020), a GAN whose critics live on shards and whose generator alone is private.

The sharded engine with one signal, a WGAN-GP critic a shard. Deviations from the published code, all of them for a true
epsilon: a critic is a clone of its pretrained state at every draw and is discarded (there it is kept, with Adam's moments and
the loader's position), secret draws and noise have entropy of their own, spectral norm's vectors are no parameters and stand
still while images are made for critics.
"""

from __future__ import annotations

from typing import Any

from trainables.sharded_gan import method as engine
from trainables.sharded_gan.method import Config as Config
from trainables.sharded_gan.method import mechanism as mechanism
from trainables.sharded_gan.method import stages as stages

NAME = "gs_wgan"
VERSION = engine.VERSION

PRESETS: dict[str, dict[str, Any]] = {
    # The published settings are the engine's defaults.
    "published": {},
    # At epsilon 10 it learns crude silhouettes of the classes and stays well below ef_dpgan's closed-form critic; 64 and 100
    # shards a step gave no more than 32, nor do they without noise.
    "cpu": {**engine.CPU, "shards_per_step": 32, "critic": engine.CPU_CRITIC},
}
