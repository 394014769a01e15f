"""Which jobs are started once more, on attempts that really lie on the disk; what they have released stays counted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from small_sweep import FILE

from harness import store
from harness.account_files import LedgerError
from harness.attempts import Attempt, Fenced, read_trial_attempts
from harness.documents import job_document
from harness.expand import expand
from harness.folders import Folders
from harness.jobs import Job
from harness.ledger import trial_account
from harness.lock import DriverLock
from harness.plan import make_plan
from harness.planfile import write_plan
from harness.retries import MOST, MOST_WITHOUT_PROGRESS, UNKNOWN_MEMORY, Retries
from harness.rows import phases_of
from harness.spec import load_sweep

LOST = {"status": "lost", "cause": "process", "message": "the process died"}
MACHINE = {**LOST, "cause": "machine"}
GB = 10**9


class Launch:
    """A launch of one trial of eight steps, whose attempts the tests make."""

    def __init__(self, root: Path, name: str = "now") -> None:
        (root / "small.yaml").write_text(FILE.replace("axes: {noise_injection: [0.0, 0.1]}", ""))
        self.folders = Folders(root / "results", "small")
        self.folders.make_private()
        plan = make_plan(self.folders, expand(load_sweep(root / "small.yaml")))
        (trial,) = plan.trials
        self.document = {**job_document(plan, trial, {}), "kind": "train"}
        self.path = self.folders.launches / name / "plan.json"
        write_plan(self.path, [(trial.trial_id, self.document)])
        self.job = Job(id=trial.trial_id, kind="train", label="trial", memory=GB)
        self.again = Retries(self.folders, self.path)

    def begin(self, steps: int) -> Attempt:
        """An attempt that has reserved ``steps`` steps."""
        phases = phases_of(self.document)
        attempt = Attempt.open(self.folders, self.job.id, kind="train", lineage="digits", phases=phases, plan=self.path)
        attempt.reserve(0, steps)
        return attempt

    def end(self, attempt: Attempt, status: str, steps: int, **fields: Any) -> dict[str, Any]:
        """Close ``attempt`` as a trial does after so many steps; what the trial then tells."""
        attempt.settle([steps], stopped=status == "interrupted")
        attempt.close(status, parts=[], message=None, evaluation_id=None, resumable=True, executed=[steps], **fields)
        return {"status": status, **fields}

    def statuses(self) -> list[str]:
        return [record.status for record in read_trial_attempts(self.folders, self.job.id)]

    def spent(self) -> int:
        account = trial_account(self.folders, self.job.id)
        assert account is not None
        return sum(account.executed)


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Launch]:
    made = Launch(tmp_path)
    with DriverLock(made.folders.lock):
        yield made


@pytest.mark.parametrize("cause", ["process", "machine", "silence"])
def test_after_a_loss_a_trial_starts_again_as_often_as_its_cause_allows(launch: Launch, cause: str) -> None:
    outcome = {**LOST, "cause": cause}
    for number in range(1, MOST[cause] + 2):
        launch.begin(2)
        following = launch.again(launch.job, outcome)
        assert following == (launch.job if number <= MOST[cause] else None)
        assert launch.statuses() == ["lost"] * number
        assert launch.spent() == 2 * number, "what was reserved may have been released"
    (row,) = store.read(launch.folders.sweep).trials.to_dict("records")
    assert (row["status"], row["releases"]) == ("lost", launch.spent())
    assert "the process died" in row["message"]


def test_causes_are_counted_apart(launch: Launch) -> None:
    for outcome in (LOST, MACHINE, MACHINE, MACHINE):
        launch.begin(1)
        assert launch.again(launch.job, outcome) == launch.job
    for outcome in (LOST, MACHINE):
        launch.begin(1)
        assert launch.again(launch.job, outcome) is None
    assert launch.spent() == 6


@pytest.mark.parametrize("told", [True, False])
def test_out_of_memory_is_tried_once_more_with_twice_the_memory(launch: Launch, told: bool) -> None:
    """The trial has told it, or Ray has ended its process."""
    for number in (1, 2):
        attempt = launch.begin(2)
        outcome = {"status": "oom", "message": "Ray ended the process"}
        if told:
            outcome = launch.end(attempt, "oom", 1, step=0)
        following = launch.again(launch.job, outcome)
        assert (following.memory if following else None) == (2 * GB if number == 1 else None)
        assert launch.statuses() == ["oom"] * number
        assert launch.spent() == (number if told else 2 * number)


@pytest.mark.parametrize(("gpu", "larger"), [(0.0, 0.0), (0.25, 0.5), (0.75, 1.0), (1.0, 1.0), (2.0, 2.0)])
def test_out_of_memory_doubles_a_part_of_a_gpu(launch: Launch, gpu: float, larger: float) -> None:
    launch.begin(1)
    following = launch.again(Job(id=launch.job.id, kind="train", label="trial", gpu=gpu), {"status": "oom"})
    assert following is not None
    assert (following.gpu, following.memory) == (larger, 2 * UNKNOWN_MEMORY)


def test_a_trial_sent_away_starts_again_as_long_as_it_comes_further(launch: Launch) -> None:
    for step in range(1, 6):
        outcome = launch.end(launch.begin(2), "interrupted", 1, step=step)
        assert launch.again(launch.job, outcome) == launch.job
    for number in range(2, MOST_WITHOUT_PROGRESS + 2):
        outcome = launch.end(launch.begin(1), "interrupted", 0, step=5)
        assert launch.again(launch.job, outcome) == (launch.job if number <= MOST_WITHOUT_PROGRESS else None)
    assert launch.spent() == 5, "an interruption counts what was released and no more"


def test_one_that_never_begins_to_train_is_not_sent_away_for_ever(launch: Launch) -> None:
    following = []
    for _ in range(MOST_WITHOUT_PROGRESS + 1):
        following.append(launch.again(launch.job, launch.end(launch.begin(1), "interrupted", 0, step=0)))
    assert following == [launch.job] * MOST_WITHOUT_PROGRESS + [None]


@pytest.mark.parametrize(
    ("status", "again"), [("interrupted", True), ("oom", True), ("completed", False), ("budget", False), ("failed", False)]
)
def test_what_an_attempt_has_written_counts_where_its_word_was_lost(launch: Launch, status: str, again: bool) -> None:
    """The machine was gone between the attempt's end record and what its process told."""
    launch.end(launch.begin(4), status, 3, step=3)
    following = launch.again(launch.job, MACHINE)
    assert (following is not None) is again
    assert launch.statuses() == [status]
    assert launch.spent() == 3


def test_jobs_of_a_sweep_that_another_command_has_taken_over_are_its_own(launch: Launch) -> None:
    """Started once more here they would overtake the other's, which would overtake them in turn."""
    attempt = launch.begin(4)
    launch.folders.lock.write_text(json.dumps({"host": "elsewhere", "pid": 1, "started": "1"}))
    assert launch.again(launch.job, LOST) is None
    assert read_trial_attempts(launch.folders, launch.job.id)[-1].end is None, f"attempt {attempt.number} is not judged"


def test_a_lost_attempt_is_fenced_before_its_account_is_read(launch: Launch) -> None:
    attempt = launch.begin(2)
    launch.path.rename(launch.path.with_name("away.json"))
    with pytest.raises(LedgerError, match="does not hold job"):
        launch.again(launch.job, LOST)
    with pytest.raises(Fenced):  # it lives after all, and its driver has come no further
        attempt.reserve(2, 4)


def test_a_violation_is_final_though_its_process_was_killed_before_it_was_recorded(launch: Launch) -> None:
    launch.begin(4).settle([3], stopped=False, violated=True)
    assert launch.again(launch.job, LOST) is None
    (record,) = read_trial_attempts(launch.folders, launch.job.id)
    assert record.status == "failed"
    assert record.end is not None
    assert record.end["resumable"] is False
    assert launch.spent() == 3


def test_a_process_that_dies_before_its_attempt_begins_is_started_again(launch: Launch) -> None:
    assert launch.again(launch.job, MACHINE) == launch.job
    assert launch.again(launch.job, launch.end(launch.begin(4), "interrupted", 3, step=3)) == launch.job
    assert launch.again(launch.job, LOST) == launch.job, "the attempt that was interrupted is not this start's"
    assert launch.again(launch.job, LOST) is None
    assert launch.statuses() == ["interrupted"]
    assert launch.spent() == 3


@pytest.mark.parametrize("status", ["completed", "failed"])
def test_attempts_of_earlier_launches_say_nothing_of_this_one(launch: Launch, tmp_path: Path, status: str) -> None:
    launch.end(launch.begin(4), status, 3, step=3)
    later = Launch(tmp_path, "later")
    assert later.again(later.job, MACHINE) == later.job
    assert later.statuses() == [status]


def test_a_stage_has_no_attempts_and_starts_again(launch: Launch) -> None:
    stage = Job(id="reference-0123", kind="stage", label="stage reference")
    assert [launch.again(stage, LOST) for _ in range(2)] == [stage, None]
    assert [launch.again(stage, MACHINE) for _ in range(4)] == [stage, stage, stage, None]


@pytest.mark.parametrize("status", ["completed", "budget", "failed"])
def test_a_trial_that_has_told_its_end_is_over(launch: Launch, status: str) -> None:
    assert launch.again(launch.job, launch.end(launch.begin(8), status, 8, step=8)) is None
    assert launch.statuses() == [status]
