"""The reference row through the whole command, beside the ceilings that the evaluation itself finds."""

import json
import math

import pytest

from harness import store, sweep

FILE = """
name: ceiling
method: real
data: {source: digits, public: true}
privacy: {epsilon: 3, accountant: pld}
train: {samples_a_class: 101}
evaluate: {samples: 1000}
keep_samples: 10
"""


def test_the_row_has_no_epsilon_and_the_metrics_of_real_images(tmp_path):
    (tmp_path / "ceiling.yaml").write_text(FILE)
    arguments = [str(tmp_path / "ceiling.yaml"), "--on", "inline", "--results", str(tmp_path / "results")]
    assert sweep.main(arguments) == sweep.OK
    (row,) = store.read(tmp_path / "results" / "ceiling").trials.to_dict("records")
    assert (row["status"], row["proof"], row["releases"]) == ("completed", "not_private", 0)
    assert math.isnan(row["epsilon"])
    ceilings = json.loads(row["real"])
    for metric in ("gen2real_cnn", "gen2real_logreg"):
        assert row[metric] == pytest.approx(ceilings[metric], abs=0.05)
    assert row["real2gen_cnn"] > 0.95
