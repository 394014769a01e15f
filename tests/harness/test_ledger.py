"""Attempts and reservations on a real file system."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.folders import Folders
from harness.ledger import (
    Attempt,
    Fenced,
    close_from_outside,
    executed_steps,
    fence_off,
    lineage_accounts,
    read_account,
    read_attempts,
    read_trial_attempts,
)
from trainables.privacy.mechanism import Phase, RecordMechanism

TRIAL = "0123456789ab"


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    return Folders(tmp_path, "sweep")


@pytest.fixture
def phases() -> tuple[Phase, ...]:
    mechanism = RecordMechanism(sampling_rate=0.1, records=100, release_shape=(2, 3), noise_multiplier=1.0)
    return (Phase(mechanism=mechanism, steps=3), Phase(mechanism=mechanism, steps=7))


def open_attempt(folders: Folders, phases: tuple[Phase, ...]) -> Attempt:
    plan = folders.launches / "a" / "plan.json"
    return Attempt.open(folders, TRIAL, kind="train", lineage="digits", phases=phases, plan=plan)


def spent(folders: Folders) -> list[int]:
    return executed_steps(folders, read_trial_attempts(folders, TRIAL), 2)


def test_a_reservation_counts_whole_until_the_attempt_says_what_it_drew(folders: Folders, phases: tuple[Phase, ...]) -> None:
    attempt = open_attempt(folders, phases)
    attempt.reserve(0, 5)
    assert spent(folders) == [3, 2]
    attempt.reserve(5, 10)
    assert spent(folders) == [3, 7]
    attempt.settle([3, 4])
    assert spent(folders) == [3, 4]


def test_attempts_add_up(folders: Folders, phases: tuple[Phase, ...]) -> None:
    for _ in range(2):
        open_attempt(folders, phases).reserve(0, 4)
    assert spent(folders) == [6, 2]
    assert [record.number for record in read_attempts(folders)[TRIAL]] == [1, 2]


def test_a_reservation_is_on_the_disk_when_reserve_returns(folders: Folders, phases: tuple[Phase, ...]) -> None:
    open_attempt(folders, phases).reserve(2, 4)
    (account,) = (folders.ledger / "digits" / "sweep").glob("*.jsonl")
    assert json.loads(account.read_text().splitlines()[-1]) == {"reserved": [1, 1], "steps": [2, 4]}


def test_a_torn_last_line_is_not_a_reservation(folders: Folders, phases: tuple[Phase, ...]) -> None:
    open_attempt(folders, phases).reserve(0, 2)
    (account,) = (folders.ledger / "digits" / "sweep").glob("*.jsonl")
    with account.open("a") as file:
        file.write('{"reserved": [1, ')
    assert read_account(account)[1] == [2, 0]


def test_a_later_attempt_stops_an_earlier_one_before_it_releases(folders: Folders, phases: tuple[Phase, ...]) -> None:
    first = open_attempt(folders, phases)
    open_attempt(folders, phases)
    with pytest.raises(Fenced):
        first.reserve(0, 1)
    assert spent(folders) == [1, 0], "what it has written before it saw the fence is counted all the same"


def test_a_closed_attempt_cannot_go_on_or_close_itself(folders: Folders, phases: tuple[Phase, ...]) -> None:
    attempt = open_attempt(folders, phases)
    (record,) = read_trial_attempts(folders, TRIAL)
    assert close_from_outside(folders, record, "lost", parts=[])
    assert not close_from_outside(folders, record, "lost", parts=[])
    with pytest.raises(Fenced):
        attempt.check_fence(force=True)
    with pytest.raises(Fenced):
        attempt.close("completed", parts=[])
    assert read_trial_attempts(folders, TRIAL)[0].status == "lost"


def test_a_fence_stops_an_attempt_before_its_account_is_read(folders: Folders, phases: tuple[Phase, ...]) -> None:
    attempt = open_attempt(folders, phases)
    fence_off(folders, read_trial_attempts(folders, TRIAL)[0])
    with pytest.raises(Fenced):
        attempt.reserve(0, 1)


def test_deleting_a_sweep_does_not_delete_what_the_data_set_has_paid(folders: Folders, phases: tuple[Phase, ...]) -> None:
    import shutil

    open_attempt(folders, phases).reserve(0, 10)
    shutil.rmtree(folders.sweep)
    assert [counts for _, counts in lineage_accounts(folders.root, "digits")] == [[3, 7]]
    assert open_attempt(folders, phases).number == 2, "its account is another file, not the old one again"
    assert [counts for _, counts in lineage_accounts(folders.root, "digits")] == [[3, 7], [0, 0]]


def test_an_evaluation_has_no_account(folders: Folders) -> None:
    plan = folders.launches / "a" / "plan.json"
    Attempt.open(folders, TRIAL, kind="evaluate", lineage="digits", phases=(), plan=plan)
    assert spent(folders) == [0, 0]
    assert lineage_accounts(folders.root, "digits") == []
