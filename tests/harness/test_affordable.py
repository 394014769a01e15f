"""A budget and a noise, both given: a trial takes the steps that the budget buys, and no more."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from small_sweep import FILE, command, planned

from harness import store
from trainables.privacy import accounting
from trainables.privacy.mechanism import from_dict

GIVEN = FILE.replace("axes: {noise_injection: [0.0, 0.1]}\n", "")


def write(root: Path, privacy: str) -> None:
    (root / "small.yaml").write_text(GIVEN.replace("{epsilon: 10, accountant: pld}", privacy))


def test_the_budget_buys_so_many_steps_and_no_more(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, "{epsilon: 10, noise_multiplier: 2, accountant: pld}")
    (trial,) = planned(tmp_path, capsys)["trials"]
    (phase,) = (from_dict(document) for document in trial["privacy"]["mechanism"])
    assert phase.mechanism.noise_multiplier == 2
    assert 1 < phase.steps < 8
    assert trial["privacy"]["epsilon"] <= 10
    more = {**trial["privacy"]["mechanism"][0], "steps": phase.steps + 1}
    assert accounting.epsilon([from_dict(more)], delta=1e-5, accountant="pld") > 10
    assert command(tmp_path) == 0
    row = store.read(tmp_path / "results" / "small").trials.iloc[0]
    assert row.status == "budget"
    assert row.steps == row.releases == phase.steps
    assert row.epsilon == trial["privacy"]["epsilon"]
    assert row.message == trial["privacy"]["cut"]
    assert f"buys {phase.steps} of 8 steps with noise_multiplier 2" in row.message
    document = planned(tmp_path, capsys)
    assert row.message in document["notes"]
    assert document["trials"][0]["action"] == "done", "the same command again does nothing"


def test_enough_noise_for_all_steps_is_the_method_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, "{epsilon: 10, noise_multiplier: 50, accountant: pld}")
    (trial,) = planned(tmp_path, capsys)["trials"]
    assert trial["privacy"]["mechanism"][0]["steps"] == 8
    assert trial["privacy"]["cut"] is None
    assert trial["privacy"]["epsilon"] < 1


@pytest.mark.parametrize(("noise", "costs"), [("0.1", "one step costs epsilon"), ("0", "no step has a finite epsilon")])
def test_a_budget_that_buys_no_step_is_told_with_the_price_of_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], noise: str, costs: str
) -> None:
    write(tmp_path, f"{{epsilon: 10, noise_multiplier: {noise}, accountant: pld}}")
    assert command(tmp_path, "--dry-run") == 3
    said = " ".join(capsys.readouterr().out.split())
    assert f"epsilon 10 at delta 1e-05 is out of reach with noise_multiplier {noise}: {costs}" in said


def test_one_step_of_the_published_noise(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """That of GS-WGAN (1.07, 32 images, 1 of 1000 shards) costs 18.54 at once, where all of it is said to cost 10."""
    (tmp_path / "small.yaml").write_text(
        GIVEN.replace("dp_energy", "gs_wgan")
        .replace("preset: digits", "preset: published")
        .replace("{source: digits, public: true}", "{source: fashion_mnist}")
        .replace("train: {steps: 8, slots: 20, generator_channels: 4}\n", "")
        .replace("{epsilon: 10, accountant: pld}", "{epsilon: 10, noise_multiplier: 1.07, accountant: pld}")
    )
    (trial,) = planned(tmp_path, capsys)["trials"]
    assert trial["action"] == "infeasible"
    assert "one step costs epsilon 18.54" in trial["privacy"]["problem"]
    assert json.loads(json.dumps(trial))["privacy"]["epsilon"] is None


def test_a_budget_that_ends_in_an_earlier_phase(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Phases that it does not reach are none of the trial's; the same command again still reads what it began with."""
    text = GIVEN.replace("dp_energy", "dp_energy_guided").replace(
        "generator_channels: 4}", "generator_channels: 4, classifier: {steps: 3, sampling_rate: 1.0}}"
    )
    (tmp_path / "small.yaml").write_text(
        text.replace("{epsilon: 10, accountant: pld}", "{epsilon: 10, noise_multiplier: 1.1, accountant: pld}")
    )
    (before,) = planned(tmp_path, capsys)["trials"]
    assert "buys 1 of 11 steps" in before["privacy"]["cut"]
    assert command(tmp_path) == 0
    (after,) = planned(tmp_path, capsys)["trials"]
    assert (after["status"], after["action"]) == ("budget", "done")
    assert after["privacy"]["mechanism"] == before["privacy"]["mechanism"]
