"""dp_energy, whose features are centred on the batch: what a layer of batch normalization in training mode would do."""

from trainables.dp_energy.method import PRESETS as PRESETS
from trainables.dp_energy.method import VERSION as VERSION
from trainables.dp_energy.method import Config as Config
from trainables.dp_energy.method import mechanism as mechanism
from trainables.dp_energy.method import stages as stages

NAME = "batch_mean"
