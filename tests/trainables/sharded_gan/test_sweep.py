"""Both methods through the whole command: stages in jobs of their own, trials that share them, the row of an account."""

import json
from pathlib import Path

import pytest

from harness import store, sweep
from harness.attempts import read_attempts
from harness.folders import Folders
from trainables.privacy.published import published_epsilon

FILE = """
name: shards
cases:
  - name: trained
    method: gs_wgan
    train: {critic: {kind: wgan_gp, channels: 4, steps: 1, batch: 8, pretraining:
      {steps: 1, critic_steps: 1, generator: small, hidden: 4, shards_per_job: 10}}}
  - name: closed
    method: ef_dpgan
    train: {critic: {kind: energy}, matching: latent, encoder: {steps: 1, channels: 2, latent: 2, shards_per_job: 10}}
data: {source: digits, public: true}
privacy: {noise_multiplier: 5.0, accountant: pld}
train: {steps: 4, shards: 20, shards_per_step: 2, generator_batch: 10, labels: balanced,
  generator: small, generator_channels: 4, z_dim: 3}
axes: {noise_injection: [0.0, 0.1]}
evaluate: {samples: 100, metrics: [memorization]}
keep_samples: 10
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("shards")
    (root / "shards.yaml").write_text(FILE)
    assert command(root) == sweep.OK
    return root


def command(root: Path, *arguments: str) -> int:
    return sweep.main([str(root / "shards.yaml"), "--on", "inline", "--results", str(root / "results"), *arguments])


def test_every_trial_has_its_account_beside_the_published_one(root: Path) -> None:
    table = store.read(root / "results" / "shards").trials
    assert sorted(zip(table.method, table["axis.noise_injection"], strict=True)) == [
        ("ef_dpgan", 0.0),
        ("ef_dpgan", 0.1),
        ("gs_wgan", 0.0),
        ("gs_wgan", 0.1),
    ]
    assert set(table.status) == {"completed"}
    assert set(table.proof) == {"wor_profile"}
    assert (table.releases == 4).all()
    assert table.epsilon.gt(0).all()
    expected = published_epsilon([(5.0, 2 / 20, 4 * 10)], 1e-5)
    assert table.epsilon_published.tolist() == pytest.approx([expected] * 4)
    assert (table.effective_noise_multiplier - 5.0 / 10**0.5).abs().max() < 1e-9


def test_trials_that_differ_in_noise_injection_share_their_stages(root: Path) -> None:
    stages = sorted(path.name.rpartition("-")[0] for path in (root / "results" / "stages").iterdir())
    assert stages == ["critics-000000", "critics-000010", "encoders-000000", "encoders-000010", "reference"]


def test_the_same_command_again_does_nothing(root: Path) -> None:
    def made() -> dict[str, int]:
        folders = (root / "results" / "shards" / "generators", root / "results" / "stages")
        return {str(path): path.stat().st_mtime_ns for folder in folders for path in folder.rglob("*")}

    before, attempts = made(), read_attempts(Folders(root / "results", "shards"))
    assert command(root) == sweep.OK
    assert made() == before
    assert read_attempts(Folders(root / "results", "shards")) == attempts


def test_a_dry_run_prices_the_published_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "shards.yaml").write_text(
        "name: published\nmethod: gs_wgan\ndata: {source: digits}\nprivacy: {noise_multiplier: 1.07, accountant: pld}\n"
        "train: {shards: 1000, steps: 20000, generator_batch: 32}\n"
    )
    assert command(tmp_path, "--dry-run", "--json") == sweep.OK
    (trial,) = json.loads(capsys.readouterr().out)["trials"]
    assert 343 <= trial["privacy"]["epsilon"] <= 351
    assert round(trial["privacy"]["epsilon_published"], 2) == 9.99
