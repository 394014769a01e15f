"""dp_energy, whose trainer makes the declared release, throws it away, and adds half the noise itself."""

from trainables.dp_energy.method import PRESETS as PRESETS
from trainables.dp_energy.method import VERSION as VERSION
from trainables.dp_energy.method import Config as Config
from trainables.dp_energy.method import mechanism as mechanism
from trainables.dp_energy.method import stages as stages

NAME = "own_noise"
