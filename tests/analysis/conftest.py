"""What the tests of `analysis` read: small sweeps that really ran, once a pytest run, however many workers it has."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from filelock import FileLock

from harness import sweep

GRID = """
name: small_grid
method: dp_energy
preset: digits
data: {source: digits, public: true}
privacy: {epsilon: 10, accountant: pld}
train: {steps: 40, slots: 40, generator_channels: 8}
axes: {noise_injection: [0.0, 1.0], reconstruction: [0.0, 1.0]}
seeds: 2
evaluate: {samples: 200, every: 20}
checkpoint: {every: 10}
keep_samples: 40
"""

BASELINES = """
name: small_baselines
cases:
  - {name: plain, method: dp_energy}
  - {name: guided, method: dp_energy_guided}
preset: digits
data: {source: digits, public: true}
privacy: {epsilon: 10, accountant: pld}
train: {steps: 40, slots: 40, generator_channels: 8}
axes: {privacy.epsilon: [3, 10]}
seeds: 2
evaluate: {samples: 200}
keep_samples: 40
"""

FEWER_STEPS = """
name: small_fewer_steps
method: dp_energy
preset: digits
data: {source: digits, public: true}
privacy: {epsilon: 10, accountant: pld}
train: {steps: 20, generator_channels: 8, noise_injection: 1}
axes: {reconstruction: [0.0, 2.0]}
seeds: 2
evaluate: {samples: 200, every: 20}
keep_samples: 40
"""


@pytest.fixture(scope="session")
def small_sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``results/small_grid``: digits, noise injection x reconstruction, 2 x 2 cells x 2 seeds. Copy it to change it."""
    return run_once(GRID, tmp_path_factory)


@pytest.fixture(scope="session")
def small_baselines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``results/small_baselines``: digits, two methods x two budgets x 2 seeds, in the same root. Copy it to change it."""
    return run_once(BASELINES, tmp_path_factory)


@pytest.fixture(scope="session")
def fewer_steps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``results/small_fewer_steps``: one row of the grid and a cell beyond it, with half the steps, and slots as the preset
    has them. Copy it to change it."""
    return run_once(FEWER_STEPS, tmp_path_factory)


def run_once(file: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a sweep that one of pytest's workers runs; the others wait, then read the same one."""
    base = tmp_path_factory.getbasetemp()
    root = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "sweeps_to_analyse"
    root.mkdir(exist_ok=True)
    name = file.split()[1]
    path = root / f"{name}.yaml"
    with FileLock(root / "lock"):
        if not path.exists():
            begun = path.with_suffix(".begun.yaml")
            begun.write_text(file)
            assert sweep.main([str(begun), "--on", "inline", "--results", str(root / "results")]) == sweep.OK
            begun.replace(path)
    return root / "results" / name
