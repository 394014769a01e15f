"""Files that a disk has damaged: checkpoints, parts, generators, stages, records. What is used is what was written."""

from __future__ import annotations

import json
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from faulty import STEPS, TWO, Trap, assert_account_true, assert_complete, command, folders_of, spent

from harness import store, sweep
from harness.attempts import read_attempts
from harness.folders import Folders


def cut(path: Path) -> None:
    """Leave the first half."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    """Change one bit in the middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def interrupt(root: Path, *arguments: str, pattern: str = r"checkpoints/.*\.pt$", nth: int = 1) -> Folders:
    """Stop the sweep's trial by a stop file made when the ``nth`` file that ``pattern`` names is put in place."""
    folders = folders_of(root)

    def stop() -> None:
        (launch,) = folders.launches.iterdir()
        (launch / "stop").touch()

    Trap("os.rename", pattern, stop, nth)
    assert command(root, *arguments) == sweep.INTERRUPTED
    (launch,) = folders.launches.iterdir()
    (launch / "stop").unlink()  # the next launch of this process may begin in the same second and have the same name
    return folders


def flip_weight(path: Path) -> None:
    """Change one bit of the largest tensor in a checkpoint; between its entries there is padding, where it would not matter."""
    with zipfile.ZipFile(path) as archive:
        start = max(archive.infolist(), key=lambda entry: entry.file_size).header_offset
    content = bytearray(path.read_bytes())
    name, extra = struct.unpack("<HH", content[start + 26 : start + 30])
    content[start + 30 + name + extra] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("harm", [cut, flip_weight, lambda path: path.write_bytes(b"")], ids=["cut", "a bit", "emptied"])
def test_a_damaged_checkpoint_is_set_aside_and_the_trial_begins_again_within_its_budget(
    root: Path, drawn: list[int], harm: Callable[[Path], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.trial.STOP_INTERVAL_S", 0.0)
    folders = interrupt(root, "--set", "privacy.reserve=3")
    (checkpoint,) = folders.checkpoints.glob("*.pt")
    before = spent(folders)[checkpoint.stem]
    assert before == len(drawn) == 3
    harm(checkpoint)

    assert command(root, "--set", "privacy.reserve=3") == sweep.OK
    assert_complete(folders)
    assert_account_true(folders, len(drawn))
    (row,) = store.read(folders.sweep).trials.to_dict("records")
    assert row["releases"] == before + STEPS == len(drawn), "what was released before stays counted"
    assert "began again at step 0" in row["message"]
    assert "began again at step 0" in folders.log(row["trial_id"], 2).read_text()
    (aside,) = folders.checkpoints.iterdir()
    assert aside.name == f"{row['trial_id']}.2.damaged"


def test_without_a_reserve_the_trial_ends_early_and_says_budget(
    root: Path, drawn: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.trial.STOP_INTERVAL_S", 0.0)
    folders = interrupt(root)
    (checkpoint,) = folders.checkpoints.glob("*.pt")
    cut(checkpoint)
    assert command(root) == sweep.OK
    assert_complete(folders, statuses=("budget",))
    assert_account_true(folders, len(drawn))


def test_a_whole_generator_without_its_checkpoint_is_only_evaluated(root: Path, drawn: list[int]) -> None:
    folders = interrupt(root, pattern=r"generators/.*\.safetensors$")
    for checkpoint in folders.checkpoints.glob("*.pt"):
        flip_weight(checkpoint)
    assert command(root) == sweep.OK
    assert len(drawn) == STEPS
    assert_complete(folders)
    assert_account_true(folders, len(drawn))


@pytest.mark.parametrize(("table", "copied"), [("trials", True), ("trials", False), ("history", False), ("samples", True)])
def test_a_damaged_part_is_made_again_without_training(
    root: Path, drawn: list[int], table: str, copied: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = folders_of(root)
    assert command(root, *TWO) == sweep.OK
    before = store.read(folders.sweep)
    if not copied:
        shutil.rmtree(folders.compacted)
    victim, other = sorted(folders.table(table).glob("*.parquet"))
    flip(victim)
    other.unlink()
    if not copied:
        with pytest.raises(store.LedgerError, match="run the sweep's command again"):
            store.read(folders.sweep)

    capsys.readouterr()
    assert command(root, *TWO) == sweep.OK
    told = " ".join(capsys.readouterr().out.split())
    assert told.count("was missing or damaged") == 2
    assert len(drawn) == 2 * STEPS, "nothing is trained again"
    assert_complete(folders, 2)
    assert_account_true(folders, len(drawn))
    after = store.read(folders.sweep)
    assert list(after.trials.memorization_pixels) == list(before.trials.memorization_pixels)
    assert after.samples.image.astype(str).equals(before.samples.image.astype(str))
    assert len(after.history) == (0 if table == "history" and not copied else len(before.history))
    assert command(root, *TWO) == sweep.OK
    assert "missing or damaged" not in capsys.readouterr().out, "it is told once"


def test_the_row_of_a_trial_that_is_not_done_is_made_again(root: Path, drawn: list[int]) -> None:
    folders = interrupt(root, nth=2)
    shutil.rmtree(folders.compacted)
    (part,) = folders.table("trials").glob("*.parquet")
    cut(part)
    assert command(root, "--only", next(iter(read_attempts(folders)))) == sweep.OK
    assert_complete(folders)
    assert_account_true(folders, len(drawn))


@pytest.mark.parametrize("harm", [flip, Path.unlink], ids=["a bit", "deleted"])
def test_a_damaged_generator_is_not_evaluated_and_its_row_stays(
    root: Path, harm: Callable[[Path], object], capsys: pytest.CaptureFixture[str]
) -> None:
    folders = folders_of(root)
    assert command(root) == sweep.OK
    before = store.read(folders.sweep).trials
    (generator,) = folders.generators.glob("*.safetensors")
    content = generator.read_bytes()
    harm(generator)
    other = "--set", "evaluate.samples=30"
    assert command(root, *other) == sweep.FAILED
    told = " ".join(capsys.readouterr().out.split())
    assert "NoGenerator" in told
    assert "Traceback" not in told
    after = store.read(folders.sweep).trials
    assert after.memorization_pixels.equals(before.memorization_pixels)
    generator.write_bytes(content)
    assert command(root, *other, "--retry-failed") == sweep.OK
    assert_complete(folders)
    assert_account_true(folders)


@pytest.mark.parametrize(
    ("name", "harm"), [("memorization.safetensors", flip), ("reference.json", Path.unlink), ("stage.json", cut)]
)
def test_a_damaged_stage_is_computed_again(
    root: Path, drawn: list[int], name: str, harm: Callable[[Path], object], capsys: pytest.CaptureFixture[str]
) -> None:
    folders = folders_of(root)
    (stage,) = folders.stages.glob("reference-*")
    whole = {path.name: path.read_bytes() for path in stage.iterdir()}
    harm(stage / name)
    assert command(root) == sweep.OK
    assert "the stage is computed again" in " ".join(capsys.readouterr().out.split())
    assert {path.name: path.read_bytes() for path in stage.iterdir()} == whole, "the same settings and data give the same stage"
    assert_complete(folders)
    assert_account_true(folders, len(drawn))


def test_a_stage_damaged_while_trials_run_loses_no_trial(
    root: Path, drawn: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    folders = folders_of(root)
    (stage,) = folders.stages.glob("reference-*")
    Trap("os.rename", r"generators/.*\.safetensors$", lambda: cut(stage / "memorization.safetensors"))
    assert command(root) == sweep.FAILED
    told = capsys.readouterr()
    assert "Traceback" not in told.out + told.err
    (row,) = store.read(folders.sweep).trials.to_dict("records")
    assert row["status"] == "lost"
    assert "has changed; the same command computes the stage again" in row["message"]
    assert command(root) == sweep.OK
    assert len(drawn) == STEPS
    assert_complete(folders)
    assert_account_true(folders, len(drawn))


@pytest.mark.parametrize("name", ["1.start.json", "1.end.json"])
def test_a_damaged_record_is_refused_by_name(
    root: Path, drawn: list[int], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = folders_of(root)
    assert command(root) == sweep.OK
    (directory,) = (path for path in folders.attempts.iterdir() if path.is_dir())
    whole = (directory / name).read_bytes()
    cut(directory / name)
    capsys.readouterr()
    assert command(root) == sweep.BAD_INPUT
    told = capsys.readouterr().err
    assert f"{directory / name} is not the record that an attempt writes" in told
    assert told.count("\n") == 1
    if name == "1.start.json":
        (directory / name).write_bytes(whole)
    else:
        (directory / name).unlink()  # as the sentence says: it has no copy
    assert command(root) == sweep.OK
    assert len(drawn) == STEPS, "the generator is there: nothing is trained again"
    assert_complete(folders, history=name == "1.start.json")  # which parts the end record listed nobody knows any more
    assert_account_true(folders, len(drawn))


def test_a_damaged_plan_or_caches_are_no_traceback(root: Path, drawn: list[int]) -> None:
    folders = interrupt(root, nth=2)
    for path in (folders.calibrations, folders.fingerprints, folders.sweep / "sweep.json"):
        cut(path)
    assert command(root) == sweep.OK
    assert json.loads((folders.sweep / "sweep.json").read_text())["totals"]["trials"] == 1
    assert_complete(folders)
    assert_account_true(folders, len(drawn))
