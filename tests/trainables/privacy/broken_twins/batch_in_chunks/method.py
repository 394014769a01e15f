"""gs_wgan, accounted with the batch of its settings and trained with four times as many images.

DPAC's published code does so: its variable ``batchsize`` stays at 1000 once the classifier has made its images, and 32 images
are accounted. (Several images in one declared row would be no fault: the sanitizer clips that row as one.)
"""

from trainables.gs_wgan.method import PRESETS as PRESETS
from trainables.gs_wgan.method import VERSION as VERSION
from trainables.gs_wgan.method import Config as Config
from trainables.gs_wgan.method import mechanism as mechanism
from trainables.gs_wgan.method import stages as stages

NAME = "batch_in_chunks"
TIMES = 4


def trained(config):
    """The settings that the training really has."""
    return config.model_copy(update={"generator_batch": TIMES * config.generator_batch})
