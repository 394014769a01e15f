"""privacy.published_noise: what the published accounting believes decides the noise, and what is proven is reported."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from small_sweep import command, planned

from harness import store, sweep
from harness.document import InputError
from harness.documents import job_document
from harness.expand import expand
from harness.folders import Folders, canonical_json
from harness.plan import Plan, make_plan
from harness.spec import load_sweep
from trainables.privacy import accounting

FILE = """
name: small
method: gs_wgan
data: {source: digits, public: true}
privacy: {epsilon: 10, published_noise: true, accountant: pld}
train:
  steps: 6
  shards: 50
  shards_per_step: 5
  generator_batch: 20
  labels: balanced
  generator: small
  generator_channels: 4
  critic: {kind: energy}
evaluate: {samples: 100, metrics: [memorization]}
keep_samples: 10
"""
PUBLISHED_SETTINGS = {
    "steps: 6": "steps: 20000",
    "shards: 50\n  shards_per_step: 5\n": "shards: 1000\n  schedule: persistent\n  feedback: paper\n",
}
"""Those of Ma & Zhang 2026, with the energy critic."""


def plan(root: Path, text: str = FILE, *overrides: str) -> Plan:
    (root / "small.yaml").write_text(text)
    return make_plan(Folders(root, "small"), expand(load_sweep(root / "small.yaml", overrides)))


def refusal(root: Path, text: str, *overrides: str) -> str:
    with pytest.raises(InputError) as error:
        plan(root, text, *overrides)
    return str(error.value).replace(f"{root}/", "")


def test_the_noise_is_the_claimed_one_and_the_epsilon_the_proven_one(tmp_path: Path) -> None:
    found = plan(tmp_path)
    (trial,) = found.trials
    assert trial.account is not None
    (phase,) = trial.account.phases
    assert phase.steps == 6
    claimed = accounting.published_epsilon([phase], delta=1e-5)
    assert claimed is not None
    assert 9.9 < claimed <= 10
    assert trial.account.epsilon_published == claimed
    assert trial.account.epsilon_pld == accounting.epsilon([phase], delta=1e-5, accountant="pld") > 20
    assert trial.account.reserve == 0, "nothing is refused, so nothing is set aside"
    assert job_document(found, trial, {})["privacy"]["target_epsilon"] is None, "what the guard and the live screen are told"
    assert found.notes == [
        f"the published accounting claims epsilon 10 for this noise; proven is {trial.account.epsilon_pld:.4g} (delta 1e-05)"
    ]


def test_the_note_counts_every_trial_of_a_claim(tmp_path: Path) -> None:
    found = plan(tmp_path, FILE + "axes: {steps: [6, 12], privacy.published_noise: [false, true]}\nseeds: 2\n")
    assert [trial.spec.privacy.published_noise for trial in found.trials] == [False, False, True, True] * 2
    proven = sorted({t.account.epsilon_pld for t in found.trials if t.account and t.spec.privacy.published_noise})
    (note,) = found.notes
    assert f"claims epsilon 10 for this noise; proven is {proven[0]:.4g} to {proven[1]:.4g}" in note


def test_an_id_knows_of_it_only_where_it_is_true(tmp_path: Path) -> None:
    (published,) = plan(tmp_path).trials
    (false,) = plan(tmp_path, FILE.replace("published_noise: true", "published_noise: false")).trials
    (absent,) = plan(tmp_path, FILE.replace("published_noise: true, ", "")).trials
    (other,) = plan(tmp_path, FILE, "privacy.epsilon=5").trials
    settings = ("epsilon", "noise_multiplier", "delta", "accountant", "neighbours", "reserve")
    identity = {
        "method": "gs_wgan",
        "version": absent.spec.version,
        "config": absent.spec.config_json,
        "data": absent.data.fingerprint,
        "privacy": {name: getattr(absent.spec.privacy, name) for name in settings},
        "seed": 0,
    }
    before = hashlib.sha256(canonical_json(identity).encode()).hexdigest()[:12]
    assert absent.trial_id == false.trial_id == before, "trials older than the setting keep their ids"
    assert len({absent.trial_id, published.trial_id, other.trial_id}) == 3


@pytest.mark.parametrize("checkpoint", ["checkpoint.every=3", "checkpoint.every=6"])
def test_no_trial_is_said_to_end_early(tmp_path: Path, checkpoint: str) -> None:
    assert not any("status budget" in note for note in plan(tmp_path, FILE, checkpoint).notes)
    given = FILE.replace("epsilon: 10, published_noise: true", "noise_multiplier: 1")
    assert not any("status budget" in note for note in plan(tmp_path, given, checkpoint).notes)
    budgeted = FILE.replace("published_noise: true, ", "")
    assert any("status budget" in note for note in plan(tmp_path, budgeted, checkpoint).notes)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"epsilon: 10": "noise_multiplier: 1"},
         "small.yaml:5:32: privacy has both published_noise and noise_multiplier; keep one of them"),
        ({"epsilon: 10, ": ""}, "small.yaml:5:1: privacy has neither epsilon nor noise_multiplier; write `epsilon: 10`"),
        ({"method: gs_wgan": "method: dp_energy", FILE[FILE.index("train:") : FILE.index("evaluate:")]: ""},
         "small.yaml:5:41: published_noise is true for dp_energy, but the published accounting is that of critics on shards; "
         "poisson_records has no shards, so it claims nothing; write published_noise: false"),
        ({"published_noise: true": "published_noise: maybe"},
         'small.yaml:5:41: `privacy.published_noise` is the text "maybe"; expected true or false'),
    ],
)  # fmt: skip
def test_mistakes_are_one_message_with_its_place(tmp_path: Path, changes: dict[str, str], expected: str) -> None:
    text = FILE
    for old, new in changes.items():
        text = text.replace(old, new)
    assert refusal(tmp_path, text) == expected


def test_a_mistake_of_an_axis_is_at_the_axis(tmp_path: Path) -> None:
    text = FILE.replace("epsilon: 10, published_noise: true", "noise_multiplier: 1")
    found = refusal(tmp_path, text + "axes: {privacy.published_noise: [false, true]}\n")
    assert found.startswith("small.yaml:17:41: privacy has both published_noise and noise_multiplier")
    cases = "cases: [{name: shards, method: gs_wgan, train: {shards: 50}}, {name: records, method: dp_energy}]"
    text = FILE.replace(FILE[FILE.index("train:") : FILE.index("evaluate:")], "").replace("method: gs_wgan", cases)
    found = refusal(tmp_path, text + "axes: {privacy.published_noise: [true]}\n")
    assert "case `records`: published_noise is true for dp_energy" in found


def test_a_claim_out_of_reach_is_infeasible(tmp_path: Path) -> None:
    (trial,) = plan(tmp_path, FILE, "privacy.epsilon=0.001").trials
    assert trial.action == "infeasible"
    assert (trial.problem or "").startswith("by the published accounting epsilon 0.001 at delta 1e-05 is out of reach")


def test_no_number_of_a_dry_run_takes_the_claim_for_a_proof(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The paper's method in published settings: a proven epsilon over 1e5."""
    text = FILE
    for old, new in PUBLISHED_SETTINGS.items():
        text = text.replace(old, new)
    (tmp_path / "small.yaml").write_text(text + "axes: {privacy.published_noise: [false, true], privacy.epsilon: [10]}\n")
    document = planned(tmp_path, capsys)
    true, claimed = (trial["privacy"] for trial in document["trials"])
    assert (true["published_noise"], claimed["published_noise"]) == (False, True)
    assert true["target_epsilon"] == 10
    assert true["epsilon"] <= 10
    assert claimed["target_epsilon"] is None
    assert claimed["epsilon"] == claimed["epsilon_pld"] > 1e5
    assert claimed["proof"] == "shared_buffer_revealed"
    assert 9.9 < claimed["epsilon_published"] <= 10
    assert [trial["label"] for trial in document["trials"]] == [
        "published_noise=false epsilon=10 seed=0",
        "published_noise=true claimed_epsilon=10 seed=0",
    ]
    (composed,) = document["totals"]["compose"]
    assert composed["epsilon"] > claimed["epsilon"]

    command(tmp_path, "--dry-run")
    lines = capsys.readouterr().out.splitlines()
    (row,) = [line for line in lines if line.startswith("published_noise=true")]
    assert f"{claimed['epsilon']:.4g} ({claimed['epsilon_published']:.4g} claimed)" in row
    (note,) = [line for line in lines if line.startswith("note: the published")]
    assert note.endswith(f"claims epsilon 10 for this noise; proven is {claimed['epsilon']:.4g} (delta 1e-05)")


def test_a_trial_runs_as_planned_and_reports_what_is_proven(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "small.yaml").write_text(FILE)
    (before,) = planned(tmp_path, capsys)["trials"]
    proven, claimed = before["privacy"]["epsilon"], before["privacy"]["epsilon_published"]
    assert command(tmp_path) == sweep.OK
    output = capsys.readouterr().out
    assert "of 10" not in output

    folder = tmp_path / "results" / "small"
    results = store.read(folder)
    (row,) = results.trials.to_dict("records")
    assert (row["status"], row["steps"], row["steps_planned"]) == ("completed", 6, 6)
    assert row["epsilon"] == row["epsilon_surviving"] == proven > 2 * claimed
    assert row["epsilon_published"] == claimed
    assert results.trials.target_epsilon.isna().all()
    assert results.history.epsilon.max() == proven
    document = json.loads((folder / "sweep.json").read_text())
    assert document["sweep"]["privacy"]["published_noise"] is True
    assert f"claims epsilon 10 for this noise; proven is {proven:.4g}" in document["notes"][0]
    assert planned(tmp_path, capsys)["totals"]["done"] == 1
