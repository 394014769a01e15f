"""gs_wgan, whose critics go on from where their last draw left them, as published, and which declares them stateless."""

from trainables.gs_wgan.method import PRESETS as PRESETS
from trainables.gs_wgan.method import VERSION as VERSION
from trainables.gs_wgan.method import Config as Config
from trainables.gs_wgan.method import mechanism as mechanism
from trainables.gs_wgan.method import stages as stages

NAME = "persistent_critics"
