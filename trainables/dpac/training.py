"""Training of dpac: the sharded engine."""

from __future__ import annotations

from trainables.sharded_gan.training import Trainer as Trainer
from trainables.sharded_gan.training import load_sampler as load_sampler
from trainables.sharded_gan.training import recipe as recipe
