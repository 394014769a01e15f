"""Copies of records and accounts: whatever happens after one is made, what is read is what the files say."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.account_files import LedgerError
from harness.attempts import Attempt, AttemptRecord, close_from_outside, fence_off, read_attempts, read_trial_attempts
from harness.folders import Folders
from harness.ledger import TrialAccount, check_account, compact, lineage_accounts, sweep_accounts
from trainables.privacy.mechanism import Phase, RecordMechanism, scale_noise

PHASES = (
    Phase(
        mechanism=RecordMechanism(sampling_rate=0.1, records=100, release_shape=(2, 3), noise_multiplier=1.0),
        steps=100,
    ),
)


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    """A sweep of two trials: one is completed, the other's process was lost with a reservation open. Both are in the copies."""
    folders = Folders(tmp_path, "sweep")
    done = begin(folders, "done")
    done.settle([5], stopped=False)
    done.close("completed", parts=[], evaluation_id="e")
    begin(folders, "lost")
    compact(folders)
    return folders


def begin(folders: Folders, trial_id: str, phases: tuple[Phase, ...] = PHASES, lineage: str = "digits") -> Attempt:
    """An attempt that has reserved ten steps."""
    plan = folders.launches / "a" / "plan.json"
    attempt = Attempt.open(folders, trial_id, kind="train", lineage=lineage, phases=phases, plan=plan)
    attempt.reserve(0, 10)
    return attempt


def account(folders: Folders, trial_id: str, number: int = 1) -> Path:
    return folders.ledger / "digits" / folders.name / f"{trial_id}.{number}.jsonl"


def spent(folders: Folders) -> dict[str, int]:
    return {trial_id: sum(found.executed) for trial_id, found in sweep_accounts(folders).items()}


def statuses(folders: Folders) -> dict[str, list[str]]:
    return {trial_id: [record.status for record in records] for trial_id, records in read_attempts(folders).items()}


def everything(folders: Folders) -> tuple[dict[str, list[AttemptRecord]], dict[str, TrialAccount], list[TrialAccount]]:
    return read_attempts(folders), sweep_accounts(folders), lineage_accounts(folders.root, "digits")


def without_copies(folders: Folders) -> tuple[dict[str, list[AttemptRecord]], dict[str, TrialAccount], list[TrialAccount]]:
    """What the files alone say."""
    aside = folders.sweep / "aside"
    folders.compacted.rename(aside)
    try:
        return everything(folders)
    finally:
        aside.rename(folders.compacted)


def test_copies_say_what_the_files_say(folders: Folders) -> None:
    assert everything(folders) == without_copies(folders)
    assert spent(folders) == {"done": 5, "lost": 10}
    assert statuses(folders) == {"done": ["completed"], "lost": ["running"]}


def test_records_are_read_from_the_copy(folders: Folders) -> None:
    """Seen by what the copy cannot see: a record edited in place, which no attempt does."""
    record = folders.attempts / "done" / "1.end.json"
    record.write_text(record.read_text().replace("completed", "edited"))
    assert statuses(folders)["done"] == ["completed"]
    assert read_trial_attempts(folders, "done")[0].status == "edited", "a trial reads its own records from their files"


def test_an_open_account_is_not_in_the_copy(folders: Folders) -> None:
    copy = (folders.compacted / "accounts.copy").read_bytes()
    assert b"done.1.jsonl" in copy
    assert b"lost.1.jsonl" not in copy


def test_what_is_reserved_after_the_copy_counts(folders: Folders) -> None:
    begin(folders, "lost")
    begin(folders, "done")
    begin(folders, "new")
    assert spent(folders) == {"done": 15, "lost": 20, "new": 10}
    assert statuses(folders) == {"done": ["completed", "running"], "lost": ["running", "running"], "new": ["running"]}


def test_a_line_appended_to_a_closed_account_counts(folders: Folders) -> None:
    with account(folders, "done").open("a") as file:
        file.write('{"executed": [90], "stopped": false}\n')
    assert spent(folders)["done"] == 90


def test_an_account_that_was_replaced_by_one_of_its_size_is_read_again(folders: Folders) -> None:
    path = account(folders, "done")
    replaced = path.read_text().replace('"executed": [5]', '"executed": [9]')
    assert len(replaced) == path.stat().st_size
    path.write_text(replaced)
    assert spent(folders)["done"] == 9


def test_an_attempt_that_is_closed_after_the_copy_is_closed(folders: Folders) -> None:
    (record,) = read_attempts(folders)["lost"]
    fence_off(folders, record)
    assert statuses(folders)["lost"] == ["running"], "a fence is no end"
    assert close_from_outside(folders, record, "lost", parts=[])
    assert statuses(folders)["lost"] == ["lost"]


@pytest.mark.parametrize("content", [b"", b"{", b'{"status": "\xff"}'])
def test_a_spoilt_record_is_named(folders: Folders, content: bytes) -> None:
    (record,) = read_attempts(folders)["lost"]
    close_from_outside(folders, record, "lost", parts=[])
    (folders.attempts / "lost" / "1.end.json").write_bytes(content)
    for _ in range(2):
        with pytest.raises(LedgerError, match=r"lost/1\.end\.json is not the record that an attempt writes"):
            read_attempts(folders)
        compact(folders)


def test_a_spoilt_record_that_was_deleted_is_closed_no_more(folders: Folders) -> None:
    (folders.attempts / "done" / "1.end.json").unlink()
    assert statuses(folders)["done"] == ["running"]


def test_deleted_results_are_paid_for_and_no_longer_there(folders: Folders) -> None:
    shutil.rmtree(folders.attempts / "done")
    assert statuses(folders) == {"lost": ["running"]}
    shutil.rmtree(folders.sweep)
    assert spent(folders) == {"done": 5, "lost": 10}


def test_a_trial_that_began_anew_under_the_same_names_is_read_anew(folders: Folders) -> None:
    shutil.rmtree(folders.attempts / "done")
    account(folders, "done").unlink()
    again = begin(folders, "done")
    again.settle([7], stopped=False)
    again.close("budget", parts=[])
    assert spent(folders)["done"] == 7
    assert statuses(folders)["done"] == ["budget"]


def test_an_account_that_vanished_is_missed(folders: Folders) -> None:
    account(folders, "done").unlink()
    records = read_attempts(folders)["done"]
    with pytest.raises(LedgerError, match=r"done\.1\.jsonl is missing"):
        check_account(folders, records, sweep_accounts(folders).get("done"))


def test_other_noise_is_seen_through_the_copy(folders: Folders) -> None:
    begin(folders, "done", phases=scale_noise(PHASES, 2.0)).settle([1], stopped=False)
    compact(folders)
    with pytest.raises(LedgerError, match="other mechanisms"):
        sweep_accounts(folders)


def test_a_lineage_that_was_renamed_is_read_from_its_files(folders: Folders) -> None:
    (folders.ledger / "digits").rename(folders.ledger / "mine")
    begin(folders, "done")
    assert spent(folders) == {"done": 15, "lost": 10}
    known = {folders.name: sweep_accounts(folders)}
    for lineage, expected in (("mine", [5, 10]), ("digits", [10])):
        assert [sum(a.executed) for a in lineage_accounts(folders.root, lineage, known)] == expected


def test_a_moved_folder_is_read_from_its_files(folders: Folders, tmp_path: Path) -> None:
    before = everything(folders)
    shutil.copytree(folders.root, tmp_path / "elsewhere")
    assert everything(Folders(tmp_path / "elsewhere", "sweep")) == before


SPOILERS: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "cut off": lambda content: content[: len(content) // 2],
    "one bit": lambda content: content[:-300] + bytes([content[-300] ^ 4]) + content[-299:],
    "another version": lambda content: content.replace(b"dpsweep copy 2", b"dpsweep copy 0", 1),
    "something else": lambda content: b"{}",
}


@pytest.mark.parametrize("how", SPOILERS)
def test_a_copy_that_cannot_be_trusted_is_as_good_as_none(folders: Folders, how: str) -> None:
    before = everything(folders)
    for path in folders.compacted.glob("*.copy"):
        path.write_bytes(SPOILERS[how](path.read_bytes()))
    assert everything(folders) == before
    compact(folders)
    assert (folders.compacted / "records.copy").read_bytes().startswith(b"dpsweep copy 2 "), "and it is made again"


def test_copies_are_for_the_owner_alone(folders: Folders) -> None:
    assert {path.name: path.stat().st_mode & 0o777 for path in folders.compacted.iterdir()} == {
        "accounts.copy": 0o600,
        "records.copy": 0o600,
    }


ACTIONS = st.sampled_from(["open", "reserve", "settle", "close", "fence", "compact", "delete results", "forget"])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(actions=st.lists(st.tuples(ACTIONS, st.sampled_from(["a", "b"])), max_size=25))
def test_whatever_happens_the_copies_change_nothing(
    actions: list[tuple[str, str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folders = Folders(tmp_path_factory.mktemp("root"), "sweep")
    running: dict[str, Attempt] = {}
    compact(folders)
    for action, trial_id in actions:
        attempt = running.get(trial_id)
        if action == "open":
            running[trial_id] = begin(folders, trial_id)
        elif action == "compact":
            compact(folders)
        elif action == "delete results":
            shutil.rmtree(folders.attempts / trial_id, ignore_errors=True)
            running.pop(trial_id, None)
        elif action == "forget":
            for path in folders.ledger.glob(f"*/*/{trial_id}.*.jsonl"):
                path.unlink()
            shutil.rmtree(folders.attempts / trial_id, ignore_errors=True)
            running.pop(trial_id, None)
        elif attempt is not None and action == "reserve":
            attempt.reserve(10, 20)
        elif attempt is not None and action == "settle":
            attempt.settle([3], stopped=False)
        elif attempt is not None and action == "fence":
            fence_off(folders, read_attempts(folders)[trial_id][-1])
            running.pop(trial_id)
        elif attempt is not None and action == "close":
            attempt.close("completed", parts=[])
            running.pop(trial_id)
        assert everything(folders) == without_copies(folders)
