"""A tiny trial through the whole command."""

import pytest

from harness import store, sweep
from trainables.base import DataInfo
from trainables.dp_sinkhorn import method
from trainables.privacy.accounting import epsilon
from trainables.privacy.mechanism import scale_noise

FILE = """
name: sinkhorn
method: dp_sinkhorn
data: {source: digits}
privacy: {epsilon: 3, accountant: pld}
train: {steps: 5, real_batch: 40, generator_channels: 8}
evaluate: {samples: 100}
keep_samples: 10
"""


def test_a_trial_releases_what_its_epsilon_counts(tmp_path):
    (tmp_path / "sinkhorn.yaml").write_text(FILE)
    arguments = [str(tmp_path / "sinkhorn.yaml"), "--on", "inline", "--results", str(tmp_path / "results")]
    assert sweep.main(arguments) == sweep.OK
    (row,) = store.read(tmp_path / "results" / "sinkhorn").trials.to_dict("records")
    assert (row["status"], row["releases"], row["proof"]) == ("completed", 5, "poisson_replace_profile")
    assert row["noise_multiplier"] == 2 * row["effective_noise_multiplier"]
    info = DataInfo(size=1437, channels=1, height=8, width=8, classes=10)
    config = method.Config(steps=5, real_batch=40, generator_channels=8)
    phases = scale_noise(method.mechanism(config, info, "replace_one"), row["noise_multiplier"])
    assert row["epsilon"] == pytest.approx(epsilon(phases, delta=row["delta"], accountant="pld"))
    assert 2 < row["epsilon"] <= 3
    assert 0 <= row["gen2real_logreg"] <= 1
