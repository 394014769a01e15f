"""The lifecycle of one trial on real digits: resume, stop, violation, overtaking; noise injected where runs are compared."""

from __future__ import annotations

import json
import math
import shutil
import stat
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from harness import store
from harness.account_files import read_account
from harness.attempts import Attempt, Fenced, read_trial_attempts
from harness.documents import job_document
from harness.expand import expand
from harness.folders import Folders
from harness.job_data import load_data
from harness.ledger import trial_account, violated
from harness.plan import make_plan
from harness.planfile import write_plan
from harness.process import logging_to
from harness.recovery import close_lost
from harness.rows import phases_of
from harness.spec import load_sweep
from harness.stages import compute_stage
from harness.trial import run_trial

FILE = """
name: one
method: dp_energy_guided
data: {source: digits}
privacy: {epsilon: 10, accountant: pld}
train:
  steps: 6
  slots: 20
  generator_channels: 4
  features: pixels
  sampling_rate: 0.5
  classifier: {steps: 4, sampling_rate: 0.5}
evaluate: {samples: 100}
checkpoint: {every: 2}
keep_samples: 10
"""


@pytest.fixture(scope="module")
def stages_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with the shared reference stage, computed once."""
    root = tmp_path_factory.mktemp("stages")
    folders, job, _ = prepare(root)
    plan = make_plan(folders, expand(load_sweep(root / "one.yaml")))
    train, test = load_data(job["data"], folders)
    for identifier, (stage, _) in plan.stages.items():
        compute_stage(folders, identifier, stage, train, test, torch.device("cpu"))
    return root


@pytest.fixture
def root(stages_root: Path, tmp_path: Path) -> Path:
    (tmp_path / "stages").symlink_to(stages_root / "stages")
    return tmp_path


def prepare(root: Path, text: str = FILE) -> tuple[Folders, dict[str, Any], Path]:
    """(folders, the trial's job, the launch's plan file) of the one trial of ``text``."""
    (root / "one.yaml").write_text(text)
    folders = Folders(root, "one")
    plan = make_plan(folders, expand(load_sweep(root / "one.yaml")))
    (trial,) = plan.trials
    job = {**job_document(plan, trial, {}), "kind": "train"}
    path = folders.launches / "test" / "plan.json"
    write_plan(path, [(trial.trial_id, job)])
    return folders, job, path


def ignore(progress: object) -> None:
    """A report that nobody reads."""


def run(prepared: tuple[Folders, dict[str, Any], Path], **arguments: Any) -> dict[str, Any]:
    folders, job, path = prepared
    return run_trial(folders, job, arguments.pop("report", ignore), plan=path, **arguments)


def row(folders: Folders) -> Any:
    (found,) = store.read(folders.sweep).trials.to_dict("records")
    return found


def executed(folders: Folders, job: dict[str, Any]) -> tuple[int, ...]:
    account = trial_account(folders, job["trial_id"])
    assert account is not None
    return account.executed


class StopAfter:
    """A report that asks for a stop once the trial has done so many steps; no pause between looks."""

    def __init__(self, steps: int, path: Path) -> None:
        self.steps, self.stop_file = steps, path.parent / "stop"

    def __call__(self, progress: Any) -> None:
        if progress["step"] >= self.steps:
            self.stop_file.touch()


@pytest.mark.parametrize("steps", [3, 4, 7])
def test_a_trial_that_was_stopped_and_resumed_equals_one_that_was_not(
    root: Path, tmp_path_factory: pytest.TempPathFactory, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.trial.STOP_INTERVAL_S", 0.0)
    whole = prepare(root)
    assert run(whole, injected_seed=5)["status"] == "completed"

    other = tmp_path_factory.mktemp("stopped")
    (other / "stages").symlink_to((root / "stages").resolve())
    parts = prepare(other)
    folders, job, path = parts
    assert run(parts, injected_seed=5, report=StopAfter(steps, path))["status"] == "interrupted"
    (path.parent / "stop").unlink()
    stopped = row(folders)
    assert stopped["status"] == "interrupted"
    assert stopped["releases"] == sum(executed(folders, job)) < 10
    assert run(parts, injected_seed=5)["status"] == "completed"

    expected, found = (load_file(f.generator(job["trial_id"])) for f in (whole[0], folders))
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert executed(folders, job) == (4, 6), "nothing was done twice"
    assert list(store.read(folders.sweep).history.step) == sorted(set(store.read(folders.sweep).history.step))


def test_a_resume_counts_what_ran_before_even_if_its_records_were_deleted(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.trial.STOP_INTERVAL_S", 0.0)
    folders, _, path = prepared = prepare(root)
    run(prepared, report=StopAfter(6, path))
    (path.parent / "stop").unlink()
    shutil.rmtree(folders.attempts)
    assert run(prepared)["status"] == "completed"
    found = row(folders)
    assert found["releases"] == found["steps"] == 10
    assert found["epsilon"] == found["epsilon_surviving"]


def test_a_trial_that_was_stopped_is_charged_its_plan(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.trial.STOP_INTERVAL_S", 0.0)
    folders, job, path = prepared = prepare(root)
    run(prepared, report=StopAfter(6, path))
    found = row(folders)
    assert found["status"] == "interrupted"
    assert found["epsilon"] == job["privacy"]["known"]["pld"]["4,6"]
    assert found["releases"] < 10
    assert found["steps"] != found["steps"], "no generator was kept"


def test_a_stopped_trial_stays_charged_when_what_follows_takes_no_step(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.trial.STOP_INTERVAL_S", 0.0)
    folders, job, path = prepared = prepare(root)
    run(prepared, report=StopAfter(6, path))
    (path.parent / "stop").unlink()
    whole = job["privacy"]["known"]["pld"]["4,6"]
    fingerprint, job["data"]["fingerprint"] = job["data"]["fingerprint"], "0" * 64
    assert run(prepared)["status"] == "failed"
    assert row(folders)["epsilon"] == whole
    folders.make_private()
    Attempt.open(folders, job["trial_id"], kind="train", lineage="digits", phases=phases_of(job), plan=path)
    assert close_lost(folders, read_trial_attempts(folders, job["trial_id"]))
    assert (row(folders)["status"], row(folders)["epsilon"]) == ("lost", whole)
    job["data"]["fingerprint"] = fingerprint
    assert run(prepared)["status"] == "completed"
    assert (row(folders)["releases"], row(folders)["epsilon"]) == (10, whole)


def test_steps_lost_by_a_failure_are_charged_to_what_survives(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was released may have made it fail, so what is kept was chosen by what was not."""
    monkeypatch.syspath_prepend(str(root))
    (root / "defect.py").write_text(
        'faults = iter([ValueError("a defect")])\ndef strike():\n    for fault in faults: raise fault'
    )
    text = planted(root, "once", "import defect; defect.strike()")
    folders, job, _ = prepared = prepare(root, text.replace("epsilon: 10,", "epsilon: 10, reserve: 2,"))
    assert [run(prepared)["status"] for _ in range(2)] == ["failed", "completed"]
    found = row(folders)
    assert executed(folders, job) == (7,)
    assert (found["steps"], found["releases"]) == (6, 7)
    assert found["epsilon_surviving"] == found["epsilon"] > job["privacy"]["known"]["pld"]["6"]


def test_a_checkpoint_of_steps_that_the_ledger_does_not_know_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.trial.STOP_INTERVAL_S", 0.0)
    folders, job, path = prepared = prepare(root)
    run(prepared, report=StopAfter(6, path))
    (path.parent / "stop").unlink()
    shutil.rmtree(folders.attempts)
    shutil.rmtree(folders.ledger)
    outcome = run(prepared)
    assert outcome["status"] == "failed"
    assert "the ledger knows of [0, 0] only" in outcome["message"]
    assert executed(folders, job) == (0, 0)


def test_quick_metrics_are_taken_at_the_checkpoints_asked_for(root: Path) -> None:
    folders, _, _ = prepared = prepare(root, FILE.replace("{samples: 100}", "{samples: 100, every: 4}"))
    run(prepared)
    history = store.read(folders.sweep).history.set_index("step")
    assert list(history.index) == [2, 4, 6, 8, 10]
    assert list(history.index[history.gen2real_logreg.notna()]) == [4, 8]
    assert list(history.index[history.fd_dataset_classifier.notna()]) == [4, 8]
    assert set(history.evaluation_samples.dropna()) == {100}


def test_a_gpu_that_is_not_there_is_one_sentence(root: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    folders, job, path = prepare(root)
    outcome = run((folders, {**job, "resources": {"cpu": 1, "gpu": 1}}, path))
    assert outcome["status"] == "failed"
    assert "set resources.gpu to 0" in outcome["message"]
    assert executed(folders, job) == (0, 0)


def test_injected_noise_is_never_given_an_epsilon(root: Path) -> None:
    prepared = prepare(root)
    run(prepared, injected_seed=5)
    found = row(prepared[0])
    assert found["proof"] == "none: the noise was injected by a test"
    assert found["epsilon"] is None or found["epsilon"] != found["epsilon"]


def test_what_was_made_with_injected_noise_gets_no_epsilon_later_either(root: Path) -> None:
    folders, job, path = prepared = prepare(root)
    run(prepared, injected_seed=5)
    assert run((folders, {**job, "kind": "evaluate"}, path))["status"] == "completed"
    assert row(folders)["attempt"] == 2
    assert math.isnan(row(folders)["epsilon"])
    attempt = Attempt.open(
        folders, job["trial_id"], kind="train", lineage="digits", phases=phases_of(job), plan=path, injected=True
    )
    assert attempt.number == 3
    assert close_lost(folders, read_trial_attempts(folders, job["trial_id"]))
    assert row(folders)["status"] == "lost"
    assert row(folders)["proof"] == "none: the noise was injected by a test"


def test_what_was_begun_with_injected_noise_is_not_finished_with_real_noise(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.trial.STOP_INTERVAL_S", 0.0)
    folders, _, path = prepared = prepare(root)
    run(prepared, injected_seed=5, report=StopAfter(6, path))
    (path.parent / "stop").unlink()
    outcome = run(prepared)
    assert outcome["status"] == "failed"
    assert "would have no proof" in outcome["message"]
    assert not folders.generator(prepared[1]["trial_id"]).exists()


def test_without_noise_a_row_says_that_nothing_is_private(root: Path) -> None:
    folders, job, _ = prepared = prepare(root, FILE.replace("epsilon: 10, ", "noise_multiplier: 0, "))
    assert run(prepared)["status"] == "completed"
    found = row(folders)
    assert found["epsilon"] == found["epsilon_surviving"] == float("inf")
    assert found["proof"] == "not_private"
    assert found["noise_multiplier"] == 0
    assert job["privacy"]["target_epsilon"] is None


def test_two_runs_with_real_noise_differ(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("again")
    (other / "stages").symlink_to((root / "stages").resolve())
    generators = []
    for place in (root, other):
        prepared = prepare(place)
        run(prepared)
        generators.append(load_file(prepared[0].generator(prepared[1]["trial_id"])))
    assert not all(torch.equal(generators[0][name], generators[1][name]) for name in generators[0])


def test_every_release_is_reserved_before_and_counted_after(root: Path) -> None:
    folders, job, _ = prepared = prepare(root)
    run(prepared)
    (account,) = (folders.ledger / "digits" / "one").glob("*.jsonl")
    lines = [json.loads(line) for line in account.read_text().splitlines()]
    reserved = [line["steps"] for line in lines if "steps" in line]
    assert reserved == [[0, 2], [2, 4], [4, 6], [6, 8], [8, 10]]
    assert lines[-1] == {"executed": [4, 6], "stopped": False}
    assert [phase.steps for phase in read_account(account).phases] == [4, 6]
    found = row(folders)
    assert found["releases"] == 10
    assert found["epsilon"] == found["epsilon_surviving"] <= 10
    assert found["epsilon"] == job["privacy"]["known"]["pld"]["4,6"]


def test_the_guard_stops_a_trial_whose_budget_is_spent(root: Path) -> None:
    folders, job, path = prepared = prepare(root)
    for _ in range(2):
        lost = Attempt.open(folders, job["trial_id"], kind="train", lineage="digits", phases=phases_of(job), plan=path)
        lost.reserve(0, 2)
    assert run(prepared)["status"] == "budget"
    found = row(folders)
    assert found["epsilon"] <= 10
    assert found["steps"] < 10
    assert found["releases"] == found["steps"] + 4
    assert found["gen2real_cnn"] > 0, "what was trained within the budget is kept and measured"


IN_TURN = """
name: one
method: gs_wgan
data: {source: digits, public: true}
privacy: {noise_multiplier: 5.0, accountant: pld}
train: {steps: 10, shards: 20, generator_batch: 10, schedule: round_robin, labels: balanced, generator: small,
  generator_channels: 4, z_dim: 3, critic: {kind: energy}}
evaluate: {samples: 100}
"""


def test_steps_that_survive_of_a_round_robin_order_are_charged_as_all_of_them(root: Path) -> None:
    """The order goes on over lost steps, so the ten that are kept visit some shard twice where ten in a row visit each once."""
    folders, job, path = prepared = prepare(root, IN_TURN)
    for steps in (10, 1):
        lost = Attempt.open(folders, job["trial_id"], kind="train", lineage="digits", phases=phases_of(job), plan=path)
        lost.reserve(0, steps)
    assert run(prepared)["status"] == "completed"
    found = row(folders)
    assert (found["steps"], found["releases"]) == (10, 21)
    once = job["privacy"]["known"]["pld"]["10"]
    assert found["epsilon_surviving"] == found["epsilon"] > once


def test_a_checkpoint_holds_no_random_state(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.trial.STOP_INTERVAL_S", 0.0)
    folders, job, path = prepared = prepare(root)
    run(prepared, report=StopAfter(6, path))
    state = torch.load(folders.checkpoint(job["trial_id"]), weights_only=True)

    def tensors(value: Any) -> list[torch.Tensor]:
        if isinstance(value, dict):
            return [tensor for item in value.values() for tensor in tensors(item)]
        if isinstance(value, list | tuple):
            return [tensor for item in value for tensor in tensors(item)]
        return [value] if isinstance(value, torch.Tensor) else []

    assert tensors(state)
    assert not any(tensor.dtype == torch.uint8 for tensor in tensors(state)), "torch keeps random states as bytes"


METHOD = """
from trainables.dp_energy.method import *
NAME = "{name}"
"""

TRAINING = """
from trainables.dp_energy.training import Trainer as Base, load_sampler

class Trainer(Base):
    def step(self):
        if self.steps_done == 2:
            {fault}
        return super().step()
"""


def planted(folder: Path, name: str, fault: str) -> str:
    """A method of the user's own, in ``folder``, that goes wrong in its third step; returns a sweep file for it."""
    package = folder / f"planted_{name}" / "broken"
    package.mkdir(parents=True)
    for place in (package, package.parent):
        (place / "__init__.py").touch()
    (package / "method.py").write_text(METHOD.format(name=name))
    (package / "training.py").write_text(TRAINING.format(fault=fault))
    own = FILE.replace("dp_energy_guided", f"planted_{name}.broken")
    return own.replace("  classifier: {steps: 4, sampling_rate: 0.5}\n", "")


HIDDEN = """
            try:
                self._sanitizer.sample_records(), self._sanitizer.sample_records()
            except Exception:
                raise MemoryError
"""
"""A violation that another error, of a machine, follows."""


@pytest.mark.parametrize(
    ("name", "fault", "status", "resumable"),
    [
        ("error", 'raise ValueError("a defect")', "failed", True),
        ("memory", "raise MemoryError", "oom", True),
        ("calls", "super().step()", "failed", False),
        ("draws", "self._sanitizer.sample_records()", "failed", False),
        ("hidden", HIDDEN, "failed", False),
    ],
)
def test_a_failure_is_recorded_with_what_it_released(
    root: Path, monkeypatch: pytest.MonkeyPatch, name: str, fault: str, status: str, resumable: bool
) -> None:
    monkeypatch.syspath_prepend(str(root))
    folders, job, _ = prepared = prepare(root, planted(root, name, fault))
    outcome = run(prepared)
    assert outcome["status"] == status
    (record,) = read_trial_attempts(folders, job["trial_id"])
    assert record.status == status
    assert record.end is not None
    assert record.end["resumable"] is resumable
    assert executed(folders, job) == (3,), "the step that failed may have released"
    assert violated(folders, record) is not resumable
    assert "Traceback" in Path(outcome["log"]).read_text()
    assert "\n" not in outcome["message"]
    assert not folders.generator(job["trial_id"]).exists()
    (trial,) = make_plan(folders, expand(load_sweep(root / "one.yaml")), retry_failed=True).trials
    assert trial.action == ("train" if resumable else "lost_cause")
    (trial,) = make_plan(folders, expand(load_sweep(root / "one.yaml"))).trials
    assert trial.action == ("failed" if resumable else "lost_cause")


def test_memory_that_runs_out_while_a_trial_is_closed_is_said_to_have(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So the job is tried again with more; until then its attempt is open, and what it reserved counts whole."""

    def without_memory(*arguments: Any, **named: Any) -> None:
        raise MemoryError

    folders, job, _ = prepared = prepare(root)
    with monkeypatch.context() as short:
        short.setattr("pyarrow.parquet.write_table", without_memory)
        outcome = run(prepared)
    assert outcome["status"] == "oom"
    assert "could not be closed" in Path(outcome["log"]).read_text()
    (record,) = read_trial_attempts(folders, job["trial_id"])
    assert record.end is None
    assert run(prepared)["status"] == "completed"


def test_an_overtaken_attempt_leaves_everything_to_the_later_one(root: Path) -> None:
    folders, job, path = prepared = prepare(root)

    def overtake(progress: Any) -> None:
        if len(read_trial_attempts(folders, job["trial_id"])) == 1:
            Attempt.open(folders, job["trial_id"], kind="train", lineage="digits", phases=phases_of(job), plan=path)

    with pytest.raises(Fenced):
        run(prepared, report=overtake)
    first, second = read_trial_attempts(folders, job["trial_id"])
    assert first.end is None
    assert second.end is None
    assert not folders.generator(job["trial_id"]).exists()


OVERTAKEN = """
    def sample(self, labels, rng):
        __import__("hook").overtake()
        return super().sample(labels, rng)
"""


def test_an_attempt_that_is_overtaken_while_it_measures_writes_no_checkpoint(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its quick metrics may take minutes, and the checkpoint has one name for all attempts."""
    monkeypatch.syspath_prepend(str(root))
    (root / "hook.py").write_text("def overtake():\n    pass")
    text = planted(root, "measured", "pass")
    with (root / "planted_measured" / "broken" / "training.py").open("a") as file:
        file.write(OVERTAKEN)
    folders, job, path = prepared = prepare(root, text.replace("{samples: 100}", "{samples: 100, every: 4}"))

    def overtake() -> None:
        if len(read_trial_attempts(folders, job["trial_id"])) == 1:
            kept.append(folders.checkpoint(job["trial_id"]).read_bytes())
            Attempt.open(folders, job["trial_id"], kind="train", lineage="digits", phases=phases_of(job), plan=path)

    kept: list[bytes] = []
    monkeypatch.setattr("hook.overtake", overtake)
    with pytest.raises(Fenced):
        run(prepared)
    assert kept == [folders.checkpoint(job["trial_id"]).read_bytes()]


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_log_is_closed_to_others_from_its_first_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has opened a file goes on reading it after its mode has changed."""
    monkeypatch.setattr(Path, "chmod", lambda path, mode: None)
    with logging_to(tmp_path / "log"):
        assert mode(tmp_path / "log") == 0o600


def test_private_models_are_the_owners_alone(root: Path, stages_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.trial.STOP_INTERVAL_S", 0.0)
    folders, job, path = prepared = prepare(root)
    folders.checkpoints.mkdir(mode=0o755)  # as an earlier version left it
    folders.checkpoints.chmod(0o755)
    assert run(prepared, report=StopAfter(3, path))["status"] == "interrupted"
    assert mode(folders.checkpoint(job["trial_id"])) == 0o600
    assert mode(folders.log(job["trial_id"], 1)) == 0o600
    assert {mode(folder) for folder in (folders.checkpoints, folders.stages, folders.scratch)} == {0o700}
    assert {mode(stage) for stage in (stages_root / "stages").iterdir()} == {0o700}


def test_data_other_than_planned_are_refused(root: Path) -> None:
    folders, job, path = prepare(root)
    job = {**job, "data": {**job["data"], "fingerprint": "0" * 64}}
    outcome = run((folders, job, path))
    assert outcome["status"] == "failed"
    assert "the plan was made for 000000000000" in outcome["message"]
    assert executed(folders, job) == (0, 0)


def test_a_violation_is_found_behind_other_errors_and_a_circle_of_errors_ends() -> None:
    from harness.failures import is_violation
    from trainables.privacy.sanitizer import PrivacyViolation

    first, second = OSError("disk"), ValueError("step")
    first.__cause__, second.__context__ = second, first
    assert not is_violation(first)
    second.__cause__ = PrivacyViolation("a row more")
    assert is_violation(first)


def test_the_live_screen_shows_what_earlier_attempts_have_spent(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the first word of an attempt on: it is no new trial."""
    monkeypatch.setattr("harness.trial.STOP_INTERVAL_S", 0.0)
    folders, _, path = prepared = prepare(root)
    run(prepared, report=StopAfter(10, path))
    (path.parent / "stop").unlink()
    told: list[Any] = []
    run(prepared, report=told.append)
    assert told
    assert {progress["epsilon"] for progress in told} == {row(folders)["epsilon"]}
