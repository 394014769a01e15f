"""dpdm and dp_feta through the whole command: one tiny trial each, on digits."""

from pathlib import Path

import pytest

from harness import store, sweep

FILE = """
name: diffusion
cases:
  - name: plain
    method: dpdm
  - name: warmed_up
    method: dp_feta
    train: {warm_up: {steps: 3, batch: 8, releases: 2}}
data: {source: digits, public: true}
privacy: {noise_multiplier: 1.0, accountant: rdp}
train: {steps: 2, sampling_rate: 0.02, network: {channels: 4}, sampler: {steps: 2}}
evaluate: {samples: 100}
keep_samples: 10
"""


def test_a_trial_of_each_is_trained_accounted_and_measured(tmp_path: Path) -> None:
    (tmp_path / "diffusion.yaml").write_text(FILE)
    arguments = [str(tmp_path / "diffusion.yaml"), "--on", "inline", "--results", str(tmp_path / "results")]
    assert sweep.main(arguments) == sweep.OK
    table = store.read(tmp_path / "results" / "diffusion").trials.set_index("method")
    assert set(table.status) == {"completed"}
    assert table.releases.to_dict() == {"dpdm": 2, "dp_feta": 4}
    assert table.epsilon.between(0.01, 100).all()
    assert table.epsilon.dp_feta > table.epsilon.dpdm  # the means are paid for
    assert set(table.proof) == {"poisson_replace_profile_rdp"}
    assert table.gen2real_cnn.between(0, 1).all()
    assert sweep.main(arguments) == sweep.OK  # nothing is left to do
    again = store.read(tmp_path / "results" / "diffusion").trials.set_index("method")
    assert again.epsilon.to_dict() == pytest.approx(table.epsilon.to_dict())
