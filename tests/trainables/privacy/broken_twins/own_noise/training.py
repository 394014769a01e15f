"""The fault: the sanitizer is asked, so that it counts, and its answer is not used."""

import torch

from trainables.dp_energy.contributions import contributions
from trainables.dp_energy.method import norm_bound, reconstruction_at
from trainables.dp_energy.training import RECORDS_PER_BATCH
from trainables.dp_energy.training import Trainer as EnergyTrainer
from trainables.dp_energy.training import load_sampler as load_sampler
from trainables.privacy.sanitizer import clip_weights


class Trainer(EnergyTrainer):
    def _release(self, slots):
        config, bound = self._config, norm_bound(self._config, self._info.classes, self._step)
        drawn = torch.from_numpy(self._sanitizer.sample_records())
        pulls = list(
            contributions(
                slots,
                drawn,
                self._record_labels[drawn],
                self._record_features,
                energy=config.energy,
                reconstruction=reconstruction_at(config, self._step),
                reconstruction_clip=config.reconstruction_clip,
                batch=RECORDS_PER_BATCH,
            )
        )
        release = self._sanitizer.release_records(pulls, max_grad_norm=bound)
        total = sum((pull.weighted_sum(clip_weights(pull.norms, bound)) for pull in pulls), torch.zeros(release.shape))
        return (total + 0.5 * bound * torch.randn(total.shape)).float()
