"""The fault: what a record contributes depends on who else was drawn, so no clip bounds what one record does."""

from trainables.dp_energy.training import Trainer as EnergyTrainer
from trainables.dp_energy.training import load_sampler as load_sampler


class Trainer(EnergyTrainer):
    def _record_features(self, records):
        features, usable = super()._record_features(records)
        return features - features.mean(dim=0, keepdim=True), usable
