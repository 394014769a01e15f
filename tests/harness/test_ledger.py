"""Attempts, their reservations and what these add up to, on a real file system."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from harness.account_files import LedgerError, read_account
from harness.attempts import Attempt, Fenced, close_from_outside, fence_off, read_attempts, read_trial_attempts
from harness.folders import Folders
from harness.ledger import check_account, lineage_accounts, sweep_accounts, trial_account
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
    account = trial_account(folders, TRIAL)
    return list(account.executed) if account else [0, 0]


def test_a_reservation_counts_whole_until_the_attempt_says_what_it_drew(folders: Folders, phases: tuple[Phase, ...]) -> None:
    attempt = open_attempt(folders, phases)
    attempt.reserve(0, 5)
    assert spent(folders) == [3, 2]
    attempt.reserve(5, 10)
    assert spent(folders) == [3, 7]
    attempt.settle([3, 4], stopped=False)
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
    assert read_account(account).executed == (2, 0)


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
    assert [account.executed for account in lineage_accounts(folders.root, "digits")] == [(3, 7)]
    assert spent(folders) == [3, 7], "the trial has paid for them too"
    assert open_attempt(folders, phases).number == 2, "its account is another file, not the old one again"
    assert spent(folders) == [3, 7]


def test_an_evaluation_has_no_account(folders: Folders) -> None:
    plan = folders.launches / "a" / "plan.json"
    Attempt.open(folders, TRIAL, kind="evaluate", lineage="digits", phases=(), plan=plan)
    assert spent(folders) == [0, 0]
    assert lineage_accounts(folders.root, "digits") == []


def test_a_data_set_that_was_renamed_keeps_the_trials_account(folders: Folders, phases: tuple[Phase, ...]) -> None:
    open_attempt(folders, phases).reserve(0, 3)
    (folders.ledger / "digits").rename(folders.ledger / "mine")
    assert open_attempt(folders, phases).number == 2
    assert spent(folders) == [3, 0]
    assert sweep_accounts(folders)[TRIAL].executed == (3, 0)


def test_who_stops_a_trial_may_have_looked_so_its_plan_is_charged(folders: Folders, phases: tuple[Phase, ...]) -> None:
    attempt = open_attempt(folders, phases)
    attempt.reserve(0, 5)
    attempt.settle([3, 2], stopped=True)
    account = trial_account(folders, TRIAL)
    assert account is not None
    assert (account.executed, account.charged) == ((3, 2), (3, 7))
    again = open_attempt(folders, phases)
    again.reserve(5, 7)
    account = trial_account(folders, TRIAL)
    assert account is not None
    assert (account.executed, account.charged) == ((3, 4), (3, 4)), "it goes on: what runs is what counts"


def test_an_attempt_that_takes_no_step_does_not_undo_the_stop_before_it(folders: Folders, phases: tuple[Phase, ...]) -> None:
    attempt = open_attempt(folders, phases)
    attempt.reserve(0, 5)
    attempt.settle([3, 2], stopped=True)
    open_attempt(folders, phases).settle([0, 0], stopped=False)  # failed before its first step
    open_attempt(folders, phases)  # killed before it
    account = trial_account(folders, TRIAL)
    assert account is not None
    assert (account.executed, account.charged) == ((3, 2), (3, 7))
    assert sweep_accounts(folders)[TRIAL] == account


def test_an_account_that_is_missing_or_spoilt_is_one_sentence(folders: Folders, phases: tuple[Phase, ...]) -> None:
    open_attempt(folders, phases).reserve(0, 2)
    (path,) = folders.ledger.glob("*/*/*.jsonl")
    path.write_text("")
    with pytest.raises(LedgerError, match=f"{path} cannot be read"):
        trial_account(folders, TRIAL)


def test_what_one_account_has_lost_is_not_hidden_by_what_another_reserves(folders: Folders, phases: tuple[Phase, ...]) -> None:
    first = open_attempt(folders, phases)
    first.reserve(0, 4)
    first.settle([3, 1], stopped=False)
    first.close("lost", executed=[3, 1])
    open_attempt(folders, phases).reserve(0, 10)
    records = read_attempts(folders)[TRIAL]
    check_account(folders, records, trial_account(folders, TRIAL))
    path = folders.root / first_account(folders)
    path.write_text(path.read_text().splitlines(keepends=True)[0])  # the header alone, as an older backup has it
    with pytest.raises(LedgerError, match=r"counts \[0, 0\] steps a phase, and attempt 1 .* took \[3, 1\]"):
        check_account(folders, records, trial_account(folders, TRIAL))


def first_account(folders: Folders) -> str:
    account: str = read_attempts(folders)[TRIAL][0].start["account"]
    return account


def test_attempts_with_other_noise_are_not_added_up(folders: Folders, phases: tuple[Phase, ...]) -> None:
    from trainables.privacy.mechanism import scale_noise

    open_attempt(folders, phases).reserve(0, 2)
    open_attempt(folders, scale_noise(phases, 2.0)).reserve(0, 2)
    with pytest.raises(LedgerError, match="other mechanisms"):
        trial_account(folders, TRIAL)


def test_half_a_record_is_no_reservation(folders: Folders, phases: tuple[Phase, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fills up takes part of a line and says so only by the count."""
    attempt = open_attempt(folders, phases)
    attempt.reserve(0, 2)
    whole = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: whole(descriptor, data[:10]))
    with pytest.raises(OSError, match="is the disk full"):
        attempt.reserve(2, 4)
    monkeypatch.undo()
    assert spent(folders) == [2, 0]
    attempt.reserve(2, 3)
    assert spent(folders) == [3, 0]
