"""Ids, noise and what is left to do, without running anything."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from harness.accounts import default_reserve
from harness.attempts import Attempt, AttemptRecord
from harness.document import InputError
from harness.documents import job_document, plan_document
from harness.expand import expand
from harness.folders import Folders
from harness.launch import stage_jobs
from harness.plan import Plan, make_plan, status_of
from harness.spec import load_sweep
from trainables.privacy import accounting

FILE = """
name: planned
method: dp_energy
data: {source: digits}
privacy: {epsilon: 10, accountant: pld}
train: {steps: 40, sampling_rate: 0.2}
"""


def plan(root: Path, text: str = FILE, *overrides: str) -> Plan:
    (root / "planned.yaml").write_text(text)
    return make_plan(Folders(root, "planned"), expand(load_sweep(root / "planned.yaml", overrides)))


def only_id(root: Path, text: str = FILE, *overrides: str) -> str:
    (trial,) = plan(root, text, *overrides).trials
    return trial.trial_id


def test_an_id_does_not_depend_on_how_the_file_is_written(tmp_path: Path) -> None:
    expected = only_id(tmp_path)
    assert only_id(tmp_path, FILE.replace("steps: 40, sampling_rate: 0.2", "sampling_rate: 2e-1, steps: 40")) == expected
    assert only_id(tmp_path, FILE + "axes: {steps: [40]}\n") == expected, "an axis of one value is a setting"
    assert only_id(tmp_path, FILE, "train.slots=200") == expected, "a default written out is the default"


@pytest.mark.parametrize(
    "override",
    ["name=other", "evaluate.samples=50", "resources.cpu=2", "data.public=true", "data.lineage=mine", "checkpoint.every=3"],
)
def test_an_id_does_not_depend_on_what_does_not_train(tmp_path: Path, override: str) -> None:
    assert only_id(tmp_path, FILE, override) == only_id(tmp_path)


@pytest.mark.parametrize(
    "override",
    [
        "train.steps=41",
        "privacy.epsilon=9",
        "privacy.delta=1e-6",
        "privacy.accountant=rdp",
        "privacy.neighbours=add_remove",
        "privacy.reserve=0",
        "data.size=1000",
        "data.resolution=32",
        "data.channels=3",
    ],
)
def test_an_id_changes_with_whatever_does(tmp_path: Path, override: str) -> None:
    assert only_id(tmp_path, FILE, override) != only_id(tmp_path)


def test_seeds_are_trials_of_one_cell(tmp_path: Path) -> None:
    trials = plan(tmp_path, FILE + "seeds: 3\n").trials
    assert len({trial.trial_id for trial in trials}) == 3
    assert len({trial.cell_id for trial in trials}) == 1
    assert len({id(trial.account) for trial in trials}) == 1, "calibrated once"


def test_noise_leaves_room_to_do_one_checkpoint_interval_again(tmp_path: Path) -> None:
    (trial,) = plan(tmp_path).trials
    assert trial.account is not None
    (phase,) = trial.account.phases
    assert trial.account.reserve == default_reserve([phase]) == 2
    from dataclasses import replace

    longer = replace(phase, steps=phase.steps + 2)
    too_long = replace(phase, steps=phase.steps + 3)
    assert trial.account.epsilon_pld < accounting.epsilon([longer], delta=1e-5, accountant="pld") <= 10
    assert accounting.epsilon([too_long], delta=1e-5, accountant="pld") > 10


def test_a_job_knows_epsilon_at_its_checkpoints(tmp_path: Path) -> None:
    found = plan(tmp_path)
    job = job_document(found, found.trials[0], {})
    curve = job["privacy"]["known"]["pld"]
    assert list(curve) == [str(step) for step in range(2, 41, 2)]
    assert list(curve.values()) == sorted(curve.values())
    account = found.trials[0].account
    assert account is not None
    for step in (2, 20, 40):
        from dataclasses import replace

        phase = replace(account.phases[0], steps=step)
        assert curve[str(step)] == pytest.approx(accounting.epsilon([phase], delta=1e-5, accountant="pld"), rel=2e-3)


def test_calibrations_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = plan_document(plan(tmp_path))

    def refuse(*arguments: object, **options: object) -> float:
        raise AssertionError("computed again")

    for name in ("calibrate", "epsilon"):
        monkeypatch.setattr(accounting, name, refuse)
    assert plan_document(plan(tmp_path)) == before


def test_two_cases_with_the_same_settings_are_one_trial(tmp_path: Path) -> None:
    text = FILE.replace("method: dp_energy", "cases: [{name: a, method: dp_energy}, {name: b, method: dp_energy}]")
    found = plan(tmp_path, text)
    assert len(found.trials) == 1
    assert "1 trials have the same settings" in found.notes[0]


def test_a_delta_that_would_allow_publishing_a_record_is_noted(tmp_path: Path) -> None:
    assert any("exceeds 1/N" in note for note in plan(tmp_path, FILE, "privacy.delta=1e-3").notes)
    assert not plan(tmp_path).notes


def test_a_budget_out_of_reach_is_infeasible_and_the_rest_is_planned(tmp_path: Path) -> None:
    found = plan(tmp_path, FILE.replace("{epsilon: 10", "{delta: 1e-12") + "axes: {privacy.epsilon: [1e-9, 10]}\n")
    assert [trial.action for trial in found.trials] == ["infeasible", "train"]
    assert "out of reach" in (found.trials[0].problem or "")


def record(kind: str, status: str | None, **end: object) -> AttemptRecord:
    ended = None if status is None else {"status": status, "step": 5, "evaluation_id": None, **end}
    return AttemptRecord(trial_id="a", number=1, start={"kind": kind}, end=ended)


@pytest.mark.parametrize(
    ("records", "retry", "expected"),
    [
        ([], False, ("planned", "train")),
        ([record("train", None)], False, ("running", "running")),
        ([record("train", "completed", evaluation_id="e")], False, ("completed", "done")),
        ([record("train", "completed", evaluation_id="old")], False, ("completed", "evaluate")),
        ([record("train", "budget", evaluation_id="e")], False, ("budget", "done")),
        ([record("train", "budget", step=0)], False, ("budget", "done")),
        ([record("train", "interrupted")], False, ("interrupted", "train")),
        ([record("train", "lost")], False, ("lost", "train")),
        ([record("train", "failed")], False, ("failed", "failed")),
        ([record("train", "failed")], True, ("failed", "train")),
        ([record("train", "oom")], True, ("oom", "train")),
        ([record("train", "failed", resumable=False)], True, ("failed", "lost_cause")),
        ([record("train", "completed", evaluation_id="old"), record("evaluate", "lost")], False, ("completed", "evaluate")),
        ([record("train", "completed", evaluation_id="old"), record("evaluate", "failed")], True, ("failed", "evaluate")),
        ([record("train", "completed", evaluation_id="old"), record("evaluate", "failed")], False, ("failed", "failed")),
        ([record("train", "completed", evaluation_id="e"), record("evaluate", "failed")], False, ("completed", "done")),
        ([record("train", "failed"), record("train", "completed", evaluation_id="e")], False, ("completed", "done")),
    ],
)
def test_what_is_left_to_do(records: list[AttemptRecord], retry: bool, expected: tuple[str, str]) -> None:
    assert status_of(records, "e", retry, driven=True) == expected


def test_an_attempt_that_nobody_drives_is_lost() -> None:
    assert status_of([record("train", None)], "e", False, driven=False) == ("lost", "train")
    trained = record("train", "completed", evaluation_id="e")
    assert status_of([trained, record("evaluate", None)], "e", False, driven=False) == ("completed", "done")
    assert status_of([trained, record("evaluate", None)], "new", False, driven=False) == ("completed", "evaluate")


def begin(found: Plan, steps: int) -> Attempt:
    """An attempt of the only trial of a plan that has spent so many steps."""
    (trial,) = found.trials
    assert trial.account is not None
    where = {"lineage": trial.data.lineage, "plan": found.folders.launches / "a" / "plan.json"}
    attempt = Attempt.open(found.folders, trial.trial_id, kind="train", phases=trial.account.phases, **where)
    attempt.reserve(0, steps)
    return attempt


def test_a_trial_that_has_begun_keeps_its_noise_whatever_is_calibrated_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = plan(tmp_path)
    begin(before, 4)
    monkeypatch.setattr("harness.accounts.CHECKPOINTS_A_TRIAL", 2)
    assert plan(tmp_path).trials[0].account.phases == before.trials[0].account.phases
    for folder in ("ledger", "planned"):
        (tmp_path / folder).rename(tmp_path / f"former_{folder}")
    assert plan(tmp_path).trials[0].account.phases != before.trials[0].account.phases, "more reserve needs more noise"


def test_results_that_were_deleted_are_still_paid_for(tmp_path: Path) -> None:
    found = plan(tmp_path)
    begin(found, 4)
    shutil.rmtree(found.folders.sweep)
    again = plan(tmp_path)
    assert again.trials[0].spent.executed == (4,)
    assert any("1 trials have releases on record whose results were deleted" in note for note in again.notes)


def test_the_price_of_the_sweep_counts_what_was_drawn_and_not_only_what_was_planned(tmp_path: Path) -> None:
    found = plan(tmp_path)
    (planned,) = found.compositions
    for _ in range(2):
        begin(found, 35)
    (spent,) = plan(tmp_path).compositions
    assert spent.epsilon > planned.epsilon
    begin(plan(tmp_path, FILE, "train.slots=100"), 10)
    (wider,) = plan(tmp_path).compositions
    assert wider.trials == 2, "a trial that the file no longer names was seen all the same"
    assert wider.epsilon > spent.epsilon


def test_relations_are_never_added_up(tmp_path: Path) -> None:
    found = plan(tmp_path, FILE + "axes: {privacy.neighbours: [replace_one, add_remove]}\n")
    assert [part.neighbours for part in found.compositions] == ["add_remove", "replace_one"]


def test_a_checkpoint_interval_over_the_reserve_is_noted(tmp_path: Path) -> None:
    assert any("checkpoint.every is 20" in note for note in plan(tmp_path, FILE, "checkpoint.every=20").notes)


SHARDS = """
name: planned
method: gs_wgan
data: {source: digits}
privacy: {epsilon: 10}
train: {steps: 10, shards: 100, generator: small, critic: {pretraining: {shards_per_job: 40}}}
axes: {noise_injection: [0, 0.1]}
seeds: 2
"""


def test_trials_share_their_stages_and_each_is_several_jobs(tmp_path: Path) -> None:
    found = plan(tmp_path, SHARDS)
    assert sorted(stage.name for stage, _ in found.stages.values()) == [
        "critics-000000",
        "critics-000040",
        "critics-000080",
        "reference",
    ]
    assert len(found.trials) == 4
    assert len({tuple(sorted(needed)) for needed in found.needs.values()}) == 1


def test_the_jobs_of_stages_ask_for_the_memory_that_the_file_declares(tmp_path: Path) -> None:
    assert {job.memory for job in stage_jobs(plan(tmp_path, SHARDS))} == {None}
    declared = plan(tmp_path, SHARDS, "resources.memory=3 GB")
    assert {job.memory for job in stage_jobs(declared)} == {3 * 10**9}


RECORDS_WITH_A_STAGE = """
from trainables.base import Stage
from trainables.dp_energy.method import Config, NAME, PRESETS, VERSION, mechanism
def stages(config, data):
    return (Stage(name="peek", config={}, compute="anywhere:peek"),)
"""


def test_what_private_data_have_taught_is_no_input_of_a_release_of_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "peeking" / "method_with_a_stage"
    package.mkdir(parents=True)
    (package / "method.py").write_text(RECORDS_WITH_A_STAGE)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(InputError, match=r"releases records' contributions and asks for the stage peek"):
        plan(tmp_path, FILE.replace("dp_energy", "peeking.method_with_a_stage"))
