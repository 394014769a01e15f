"""The memory of a step depends neither on which shards were drawn nor on the classes that they hold."""

from dataclasses import replace

import numpy as np
import pytest
from engine_runs import SIGNALS, Recorder, compute_stages, random_data, settings, start


@pytest.mark.parametrize("signal", SIGNALS)
def test_peak_of_a_step_is_the_same_for_all_shards_and_classes(signal, tmp_path, peak_memory):
    config = settings(SIGNALS[signal])
    mixed = random_data()
    one_class = replace(mixed, labels=np.zeros_like(mixed.labels))
    stages = compute_stages("gs_wgan", config, mixed, tmp_path)
    peaks = []
    for data, draw in ((mixed, [0, 1]), (mixed, [2, 5]), (one_class, [2, 5])):
        run = start(config, data, stages, sanitizer=Recorder, draws=[draw] * 2)
        run.advance(0, 1)  # the first one also makes what later ones find
        peaks.append(peak_memory(lambda run=run: run.advance(1, 2)))
    assert max(peaks) <= 1.01 * min(peaks), peaks
