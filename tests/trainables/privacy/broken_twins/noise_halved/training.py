"""The fault: "the releases are averaged anyway"."""

from trainables.dp_energy.training import Trainer as EnergyTrainer
from trainables.dp_energy.training import load_sampler as load_sampler
from trainables.privacy.mechanism import scale_noise


class Trainer(EnergyTrainer):
    def __init__(self, config, data, sanitizer, stages, device, seed):
        super().__init__(config, data, sanitizer, stages, device, seed)
        sanitizer._phases = scale_noise(sanitizer._phases, 0.5)
