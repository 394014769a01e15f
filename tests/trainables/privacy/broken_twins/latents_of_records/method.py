"""ef_dpgan, whose generator starts from encoded records: the literal reading of an autoencoder's reconstruction loss."""

from trainables.ef_dpgan.method import PRESETS as PRESETS
from trainables.ef_dpgan.method import VERSION as VERSION
from trainables.ef_dpgan.method import Config as Config
from trainables.ef_dpgan.method import mechanism as mechanism
from trainables.ef_dpgan.method import stages as stages

NAME = "latents_of_records"
