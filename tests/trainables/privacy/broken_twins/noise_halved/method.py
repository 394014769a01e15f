"""dp_energy, whose trainer has the sanitizer add half of the noise that is declared and paid for."""

from trainables.dp_energy.method import PRESETS as PRESETS
from trainables.dp_energy.method import VERSION as VERSION
from trainables.dp_energy.method import Config as Config
from trainables.dp_energy.method import mechanism as mechanism
from trainables.dp_energy.method import stages as stages

NAME = "noise_halved"
