"""Tables on disk: fixed columns, parts that count, schemas that do not fit."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from harness import store
from harness.folders import Folders
from harness.ledger import Attempt, LedgerError
from trainables.evaluation.metrics import METRICS


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    return Folders(tmp_path, "sweep")


def commit(folders: Folders, trial_id: str, **row: object) -> str:
    """An evaluation attempt that leaves one row; returns the name of its part."""
    plan = folders.launches / "a" / "plan.json"
    attempt = Attempt.open(folders, trial_id, kind="evaluate", lineage="digits", phases=(), plan=plan)
    name = f"{trial_id}.{attempt.number}"
    part = store.write_part(folders, "trials", name, [{"trial_id": trial_id, **row}])
    attempt.close("completed", parts=[part], evaluation_id=None)
    return name


def test_a_column_that_the_table_does_not_have_is_refused(folders: Folders) -> None:
    with pytest.raises(ValueError, match="table trials has no column epsilom"):
        store.write_part(folders, "trials", "a", [{"epsilom": 1.0}])


def test_a_part_says_what_its_columns_are_and_which_are_private(folders: Folders) -> None:
    part = store.write_part(folders, "trials", "a", [{"trial_id": "a"}])
    path = folders.sweep / part["path"]
    assert hashlib.sha256(path.read_bytes()).hexdigest() == part["sha256"]
    schema = pq.read_schema(path)
    assert schema.metadata[b"dpsweep.schema"] == str(store.SCHEMA_VERSION).encode()
    for name, metric in METRICS.items():
        assert schema.field(name).metadata[b"private"] == str(metric.private).lower().encode()
    assert all(field.metadata[b"description"] and field.metadata[b"private"] in (b"true", b"false") for field in schema)
    assert schema.field("data_fingerprint").metadata[b"private"] == b"true"


def test_the_latest_closed_attempt_counts_and_superseded_parts_are_set_aside(folders: Folders) -> None:
    first = commit(folders, "a", gen2real_cnn=0.1)
    second = commit(folders, "a", gen2real_cnn=0.2)
    store.write_part(folders, "trials", "a.3", [{"trial_id": "a", "gen2real_cnn": 0.9}])  # of an attempt that never ended
    store.compact_attempts(folders)
    assert list(store.read(folders.sweep).trials.gen2real_cnn) == [0.2]
    assert store.tidy(folders) == 2
    assert [path.stem for path in folders.table("trials").glob("*.parquet")] == [second]
    assert (folders.set_aside / "trials" / f"{first}.parquet").exists(), "superseded, not lost"
    assert list(store.read(folders.sweep).trials.gen2real_cnn) == [0.2]


def test_configs_that_differ_are_read_as_one_frame(folders: Folders) -> None:
    commit(folders, "a", config='{"steps": 3, "classifier": {"weight": 0.5}}', axes="{}")
    commit(folders, "b", config='{"steps": 4}', axes='{"privacy.epsilon": 10}')
    frame = store.read(folders.sweep).trials.set_index("trial_id")
    assert frame["config.steps"].to_dict() == {"a": 3, "b": 4}
    assert frame["config.classifier.weight"].isna().to_dict() == {"a": False, "b": True}
    assert frame.loc["b", "axis.privacy.epsilon"] == 10


def test_a_part_of_another_schema_is_refused_with_both_numbers(folders: Folders) -> None:
    path = folders.sweep / f"{commit(folders, 'a')}.parquet"
    path = folders.table("trials") / path.name
    table = pq.read_table(path)
    pq.write_table(table.replace_schema_metadata({"dpsweep.schema": "999"}), path)
    with pytest.raises(LedgerError, match="has schema 999; this dpsweep reads schemas 1 to 2"):
        store.read(folders.sweep)


def test_a_folder_that_is_no_sweep_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no sweep"):
        store.read(tmp_path)


def test_an_empty_sweep_reads_as_empty_frames_with_all_columns(folders: Folders) -> None:
    folders.attempts.mkdir(parents=True)
    results = store.read(folders.sweep)
    assert len(results.trials) == 0
    assert set(store.TRIALS.names) <= set(results.trials.columns)
