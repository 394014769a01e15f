"""The fault: critics stay in a schedule that is declared as sampled."""

from trainables.gs_wgan.training import Trainer as ShardTrainer
from trainables.gs_wgan.training import load_sampler as load_sampler


class Trainer(ShardTrainer):
    def __init__(self, config, data, sanitizer, stages, device, seed):
        super().__init__(config, data, sanitizer, stages, device, seed)
        self._signals["critic"]._keeps = True
