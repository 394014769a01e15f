"""The memory of a step does not depend on what was drawn: running out of it speaks of the machine, not of the records."""

import numpy as np
import pytest
import torch

from trainables import registry
from trainables.base import Dataset, phase_of
from trainables.privacy.mechanism import scale_noise
from trainables.privacy.sanitizer import Sanitizer

RECORDS, CLASSES = 12_000, 10
INDEX_BYTES = 64
"""Bytes a drawn record may add: its index, class and place in a micro-batch. Its features alone have 3136 at 784 pixels."""

SETTINGS = {"generator_channels": 6, "z_dim": 3, "steps": 4, "slots": 20, "filters": 3}


def images_of(one_class: bool) -> Dataset:
    rng = np.random.default_rng(0)
    labels = np.zeros(RECORDS, dtype=np.int64) if one_class else rng.integers(0, CLASSES, RECORDS)
    images = rng.integers(0, 256, (RECORDS, 1, 28, 28), dtype=np.uint8)
    return Dataset(images=images, labels=labels, classes=CLASSES)


@pytest.mark.parametrize("one_class", [False, True])
@pytest.mark.parametrize("method", ["dp_energy", "dp_energy_guided"])
def test_a_draw_of_all_records_takes_the_memory_of_a_usual_one(method, one_class, peak_memory):
    data = images_of(one_class)
    peaks = {}
    for rate in (1e-9, 0.25, 1.0):  # nothing, as much as planned, everything
        settings = {**SETTINGS, "sampling_rate": rate}
        if method == "dp_energy_guided":
            settings["classifier"] = {"steps": 3, "sampling_rate": rate}
        package = registry.method(method)
        config = package.Config(**settings)
        phases = scale_noise(package.mechanism(config, data.info, "replace_one"), 1.0)
        sanitizer = Sanitizer(phases, injected_seed=5)
        trainer = registry.training(method).Trainer(config, data, sanitizer, {}, torch.device("cpu"), 0)

        def step(number, phases=phases, sanitizer=sanitizer, trainer=trainer):
            sanitizer.open_step(number, phase_of(number, [phase.steps for phase in phases]))
            trainer.step()
            sanitizer.close_step()

        step(0)  # the first one also makes what later ones find
        peaks[rate] = peak_memory(lambda step=step: step(1))
    more_records = 0.75 * RECORDS
    assert peaks[1.0] - peaks[0.25] < INDEX_BYTES * more_records
    assert peaks[1e-9] <= peaks[0.25]
