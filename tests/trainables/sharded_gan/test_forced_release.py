"""Everything after the release is post-processing: equal releases give equal generators whatever the data are.

The same comparison catches the two leaks that are easiest to write: latents that an encoder makes from records, and labels of
generated images that are those of records.
"""

import numpy as np
import pytest
import torch
from engine_runs import PUBLISHED_NETWORKS, SIGNALS, Forced, Recorder, compute_stages, equal, random_data, settings, start

from trainables.base import Dataset
from trainables.coins import torch_coins
from trainables.networks.encoder import Encoders
from trainables.sharded_gan.states import ShardStates
from trainables.sharded_gan.training import Trainer

STEPS = 3


def other_data(data: Dataset) -> Dataset:
    """As many images of the same shape; other pixels, and labels that leave a class out."""
    rng = np.random.default_rng(99)
    images = rng.integers(0, 64, data.images.shape, dtype=np.uint8)
    return Dataset(images=images, labels=np.zeros_like(data.labels), classes=data.classes)


def generators_are_equal(tmp_path, config, trainer=Trainer, sanitizer=Forced, method="gs_wgan") -> bool:
    """Train on two data sets, with the secret draws of two runs; compare all that is kept and all that is reported."""
    shape = (1, 8, 8) if config["generator"] == "small" else (1, 28, 28)
    data = random_data(shape=shape)
    runs, diagnostics = [], []
    for injected_seed, records in ((5, data), (6, other_data(data))):
        stages = compute_stages(method, config, records, tmp_path / str(injected_seed))
        run = start(config, records, stages, method=method, sanitizer=sanitizer, trainer=trainer, injected_seed=injected_seed)
        diagnostics.append(run.advance(0, STEPS))
        runs.append(run)
    states = [run.trainer.state_dict() for run in runs]
    return (
        diagnostics[0] == diagnostics[1]
        and all(equal(states[0][part], states[1][part]) for part in ("generator", "ema"))
        and equal(runs[0].trainer.released(), runs[1].trainer.released())
    )


@pytest.mark.parametrize("networks", [{}, PUBLISHED_NETWORKS], ids=["small", "resnet"])
@pytest.mark.parametrize("signal", SIGNALS)
def test_equal_releases_give_bit_equal_generators_on_different_data(tmp_path, signal, networks):
    assert generators_are_equal(tmp_path, settings(SIGNALS[signal], networks))


@pytest.mark.parametrize(
    "change",
    [
        {"generator": "dcgan"},
        {"schedule": "round_robin"},
        {"schedule": "persistent"},
        {**SIGNALS["critic and reconstruction"], "release": "per_signal"},
        {"noise_injection": 0.3},
        {"noise_injection": 0.3, **PUBLISHED_NETWORKS},
        {"labels": "balanced", "learning_rate_schedule": "cosine"},
        {"labels": "fixed", "feedback": "public"},
        {"labels": "fixed", "feedback": "public", "schedule": "round_robin"},
        {"labels": "fixed", "feedback": "paper", **SIGNALS["critic and reconstruction"], "release": "per_signal"},
        {"labels": "fixed", "feedback": "per_shard", "schedule": "round_robin"},
        *({"noise_injection": 0.3, "noise_injection_schedule": kind} for kind in ("falling", "learnt", "adaptive")),
        {"noise_injection": 0.3, "noise_injection_start": 2, "reconstruction_start": 1, "reconstruction_schedule": "falling"},
        {"critic": {"kind": "energy", "features": "random_convolutions", "filters": 2}},
    ],
    ids=lambda change: "-".join(str(value) for value in change.values()),
)
def test_and_so_they_do_with_every_switch(tmp_path, change):
    assert generators_are_equal(tmp_path, settings(change), method="ef_dpgan")


@pytest.mark.parametrize("signal", SIGNALS)
def test_real_releases_give_other_generators_on_other_data(tmp_path, signal):
    assert not generators_are_equal(tmp_path, settings(SIGNALS[signal]), sanitizer=Recorder)


class LatentsOfRecords(Trainer):
    """The fault: z = Encoder(x) of the drawn shards' images, the literal reading of an encoder in the loss of a generator."""

    def __init__(self, config, data, sanitizer, stages, device, seed):
        super().__init__(config, data, sanitizer, stages, device, seed)
        self.images = torch.from_numpy(data.images).float() / 255
        self.encoder = Encoders(data.info.shape, latent=config.encoder.latent, channels=2, count=1)
        self.states = ShardStates(stages, "encoders")

    def step(self):
        shards = self._sanitizer.sample_shards()
        self.encoder.load_state_dict(self.states.read(shards[:1]))
        with torch.no_grad():
            z = self.encoder(self.images[None, : self._config.generator_batch])[0][0]
        labels, generator = self._labels(self._step), self._network.generator
        images = generator(z, labels, torch_coins(self._seed, "noise_injection", self._step))
        release = self._release(shards, images.detach(), labels)
        self._network.update((images * release).sum(), decay=0.5)
        self._step += 1
        return {}


class LabelsOfRecords(Trainer):
    """The fault: generated images take their labels from records."""

    def __init__(self, config, data, sanitizer, stages, device, seed):
        super().__init__(config, data, sanitizer, stages, device, seed)
        self.labels = torch.from_numpy(data.labels)

    def _labels(self, step):
        return self.labels[: self._config.generator_batch]


class LatentsOfCoins(LatentsOfRecords):
    """The same step with public latents: what is caught above is z."""

    def __init__(self, config, data, sanitizer, stages, device, seed):
        super().__init__(config, data, sanitizer, stages, device, seed)
        self.encoder.forward = lambda images: (torch.rand(1, images.shape[1], 3, generator=torch_coins(0, "z", self._step)),)


@pytest.mark.parametrize("networks", [{}, PUBLISHED_NETWORKS], ids=["small", "resnet"])
@pytest.mark.parametrize(("trainer", "caught"), [(LatentsOfRecords, True), (LabelsOfRecords, True), (LatentsOfCoins, False)])
def test_inputs_that_depend_on_records_are_caught(tmp_path, trainer, caught, networks):
    config = settings(SIGNALS["critic and reconstruction"], networks)
    assert generators_are_equal(tmp_path, config, trainer=trainer) is not caught
