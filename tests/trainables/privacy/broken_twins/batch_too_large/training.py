"""The fault: all rows of the batch are handed over where the mechanism declares fewer."""

from broken_twins.batch_in_chunks.method import trained
from trainables.gs_wgan.training import Trainer as ShardTrainer
from trainables.gs_wgan.training import load_sampler as load_sampler


class Trainer(ShardTrainer):
    def __init__(self, config, data, sanitizer, stages, device, seed):
        super().__init__(trained(config), data, sanitizer, stages, device, seed)
