"""The fault: the sanitizer takes 32 rows a step, so the rest of the batch goes through in steps of its own."""

import torch

from broken_twins.batch_in_chunks.method import trained
from trainables.gs_wgan.training import Trainer as ShardTrainer
from trainables.gs_wgan.training import load_sampler as load_sampler


class Trainer(ShardTrainer):
    def __init__(self, config, data, sanitizer, stages, device, seed):
        super().__init__(trained(config), data, sanitizer, stages, device, seed)
        self._rows = config.generator_batch

    def _release(self, shards, images, labels):
        parts = []
        for rows, row_labels in zip(images.split(self._rows), labels.split(self._rows), strict=True):
            if parts:
                self._sanitizer.close_step()
                self._sanitizer.open_step(self._step, 0)
                shards = self._sanitizer.sample_shards()
            parts.append(super()._release(shards, rows, row_labels))
        return torch.cat(parts)
