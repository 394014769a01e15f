"""A sweep of two tiny trials on digits, and the command on it in this process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness import sweep

FILE = """
name: small
method: dp_energy
preset: digits
data: {source: digits, public: true}
privacy: {epsilon: 10, accountant: pld}
train: {steps: 8, slots: 20, generator_channels: 4}
axes: {noise_injection: [0.0, 0.1]}
evaluate: {samples: 100}
keep_samples: 20
"""


def command(root: Path, *arguments: str) -> int:
    return sweep.main([str(root / "small.yaml"), "--on", "inline", "--results", str(root / "results"), *arguments])


def planned(root: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> dict:
    capsys.readouterr()
    command(root, "--dry-run", "--json", *arguments)
    return json.loads(capsys.readouterr().out)
