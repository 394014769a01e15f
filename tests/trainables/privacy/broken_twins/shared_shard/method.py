"""gs_wgan, where two critics learn from one shard."""

from trainables.gs_wgan.method import PRESETS as PRESETS
from trainables.gs_wgan.method import VERSION as VERSION
from trainables.gs_wgan.method import Config as Config
from trainables.gs_wgan.method import mechanism as mechanism
from trainables.gs_wgan.method import stages as stages

NAME = "shared_shard"
