"""As ``batch_in_chunks``, without a way round the sanitizer."""

from broken_twins.batch_in_chunks.method import PRESETS as PRESETS
from broken_twins.batch_in_chunks.method import VERSION as VERSION
from broken_twins.batch_in_chunks.method import Config as Config
from broken_twins.batch_in_chunks.method import mechanism as mechanism
from broken_twins.batch_in_chunks.method import stages as stages

NAME = "batch_too_large"
