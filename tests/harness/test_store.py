"""Tables on disk: fixed columns, parts that count, schemas that do not fit."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from harness import store
from harness.account_files import LedgerError
from harness.attempts import Attempt
from harness.folders import Folders
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
    store.compact(folders)
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
    with pytest.raises(LedgerError, match="has schema 999; this dpsweep reads schemas 1 to 3"):
        store.read(folders.sweep)


def test_a_part_of_the_first_schema_is_read_with_nulls_where_it_had_no_column(folders: Folders) -> None:
    """As they were written: without ``evaluation``, and the metrics of prior work at the end of the metrics."""
    old, new = commit(folders, "a", gen2real_cnn=0.5, fid_inception=None), commit(folders, "b", gen2real_mlp_sklearn=0.7)
    path = folders.table("trials") / f"{old}.parquet"
    table = pq.read_table(path).drop_columns(["evaluation", "gen2real_mlp_sklearn"])
    table = table.select([*table.column_names[1:], "trial_id"])
    pq.write_table(table.replace_schema_metadata({"dpsweep.schema": "1"}), path)
    frame = store.read(folders.sweep).trials.set_index("trial_id")
    assert frame.loc["a", "gen2real_cnn"] == 0.5
    assert frame[["evaluation", "gen2real_mlp_sklearn"]].isna().loc["a"].all()
    assert frame.loc["b", "gen2real_mlp_sklearn"] == 0.7
    both = store.read_table("trials", [path, folders.table("trials") / f"{new}.parquet"])
    assert both.schema.names == store.TRIALS.names


def test_real_images_are_a_row_a_data_set_and_evaluation(folders: Folders) -> None:
    digits = {"data_source": "digits", "data_fingerprint": "d", "evaluation_id": "e", "evaluation_samples": 100}
    real = json.dumps({"samples": 90, "gen2real_cnn": 0.9})
    for seed in range(2):
        commit(folders, f"a{seed}", real=real, **digits)
    commit(folders, "b", real=json.dumps({"samples": 100, "fid_inception": 3.5}), **{**digits, "evaluation_id": "f"})
    commit(folders, "c", real=real, **{**digits, "data_source": "mnist", "data_fingerprint": "m"})
    commit(folders, "d", **digits)  # trained, never evaluated
    frame = store.read(folders.sweep).real
    assert list(frame.columns) == [*store.REAL_KEYS, "n", *METRICS]
    found = frame.set_index(["data_source", "evaluation_id"])
    assert sorted(found.index) == [("digits", "e"), ("digits", "f"), ("mnist", "e")]
    assert found.n.to_dict() == {("digits", "e"): 90, ("digits", "f"): 100, ("mnist", "e"): 90}
    assert found.loc[("digits", "e"), "gen2real_cnn"] == 0.9
    assert found.loc[("digits", "f"), "fid_inception"] == 3.5
    assert found.loc[("digits", "f")].isna()["gen2real_cnn"]


def test_a_folder_that_is_no_sweep_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no sweep"):
        store.read(tmp_path)


def test_an_empty_sweep_reads_as_empty_frames_with_all_columns(folders: Folders) -> None:
    folders.attempts.mkdir(parents=True)
    results = store.read(folders.sweep)
    assert len(results.trials) == 0
    assert set(store.TRIALS.names) <= set(results.trials.columns)
    assert len(results.real) == 0
    assert set(METRICS) <= set(results.real.columns)


def test_a_compacted_copy_reads_like_the_parts(folders: Folders) -> None:
    """The copy serves the parts that it is made of, whatever becomes of their files; newer ones come from their own."""
    first = commit(folders, "a", gen2real_cnn=0.1)
    commit(folders, "b", gen2real_cnn=0.2)
    before = store.read(folders.sweep).trials
    store.compact(folders)
    pd.testing.assert_frame_equal(store.read(folders.sweep).trials, before)
    (folders.table("trials") / f"{first}.parquet").unlink()
    commit(folders, "b", gen2real_cnn=0.3)
    commit(folders, "c", gen2real_cnn=0.4)
    found = store.read(folders.sweep).trials.set_index("trial_id").gen2real_cnn
    assert found.to_dict() == {"a": 0.1, "b": 0.3, "c": 0.4}
    (folders.compacted / "trials.parquet").write_bytes(b"half a file")
    with pytest.raises(LedgerError, match=first):
        store.read(folders.sweep)
    sentences: list[str] = []
    assert set(store.read(folders.sweep, skip=sentences.append).trials.trial_id) == {"b", "c"}
    assert len(sentences) == 1
    assert first in sentences[0]
