"""The sweep files that come with the project are sweeps, of the size that they say."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.expand import expand
from harness.spec import load_sweep

SWEEPS = Path(__file__).parents[1] / "sweeps"
TRIALS = {
    "quickstart": 4,
    "energy": 12,
    "grid_recon": 25,
    "grid_recon_cpu": 24,
    "table1_baselines": 84,
    "table1_cpu": 84,
    "table3_noise": 9,
    "table3_noise_cpu": 21,
    "table4_reconstruction": 6,
    "table4_reconstruction_cpu": 21,
    "feedback": 48,
    "feedback_cpu": 48,
    "strict_epsilon": 30,
    "strict_epsilon_cpu": 30,
    "published_noise": 6,
    "resolution": 12,
    "resolution_cpu": 9,
    "audit_cpu": 2,
    "random_best_cpu": 12,  # settings that its one selection draws from
}


@pytest.mark.parametrize("path", sorted(SWEEPS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_file_expands_to_the_trials_that_its_comment_promises(path: Path) -> None:
    sweep = load_sweep(path)
    assert sweep.spec.name == path.stem
    trials = {(t.method, t.config_key, t.data.model_dump_json(), t.privacy.model_dump_json(), t.seed) for t in expand(sweep)}
    assert len(trials) == TRIALS[path.stem]


def test_the_two_grids_share_their_axes() -> None:
    full, small = (
        {axis: set(values) for axis, values in load_sweep(SWEEPS / f"{name}.yaml").spec.axes.items()}
        for name in ("grid_recon", "grid_recon_cpu")
    )
    assert full.keys() == small.keys()
    assert all(small[name] <= full[name] for name in full), "a cell of the small grid is a cell of the full one"
