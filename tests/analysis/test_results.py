"""Frames of real sweeps: what is in them, what is left out only when told, and what is said of it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from analysis import grid
from analysis.results import Results, ResultsError, load
from harness import store, sweep
from harness.lock import DriverLock


@pytest.fixture
def copy(small_sweep: Path, tmp_path: Path) -> Path:
    """A copy of the small sweep that a test may change."""
    return Path(shutil.copytree(small_sweep, tmp_path / small_sweep.name))


def edit_record(folder: Path, **data: object) -> None:
    path = folder / "sweep.json"
    document = json.loads(path.read_text())
    document["sweep"]["data"] |= data
    path.write_text(json.dumps(document))


def change_part(folder: Path, path: Path, version: int | None = None, **columns: object) -> None:
    """Rewrite a part as another run would have written it."""
    shutil.rmtree(folder / "compacted", ignore_errors=True)
    part = pq.read_table(path)
    for name, value in columns.items():
        index = part.schema.get_field_index(name)
        field = part.schema.field(index)
        part = part.set_column(index, field, pa.array([value] * len(part), type=field.type))
    if version is not None:
        part = part.replace_schema_metadata({b"dpsweep.schema": str(version).encode()})
    pq.write_table(part, path)


def trial_parts(folder: Path) -> list[Path]:
    return sorted((folder / "trials").glob("*.parquet"))


def test_frames_are_tidy(small_sweep: Path) -> None:
    results = load(small_sweep)
    assert results.notes == ()
    assert list(results.trials["cell"].cat.categories) == [
        f"noise_injection={noise} reconstruction={recon}" for noise in (0, 1) for recon in (0, 1)
    ], "in the order of the sweep file"
    assert results.trials.groupby("cell", observed=True)["seed"].apply(list).tolist() == [[0, 1]] * 4
    assert isinstance(results.trials["status"].dtype, pd.CategoricalDtype)
    assert str(results.trials["steps"].dtype) == "Int64"
    assert list(results.metrics) == [name for name in results.metrics if results.trials[name].notna().any()]
    assert results.metrics["fd_dataset_classifier"].better == "lower"
    assert results.metrics["fd_dataset_classifier"].private
    assert not results.metrics["gen2real_cnn"].private
    assert results.main_metric() == "gen2real_cnn"
    assert results.columns.loc["train_seconds", "unit"] == "s"
    assert set(results.columns.index) == set(store.TRIALS.names)
    steps = results.history.groupby("trial_id")["step"].apply(list)
    assert set(map(tuple, steps)) == {(10, 20, 30, 40)}
    assert results.history["metric.release_norm"].notna().all()
    assert set(results.history["cell"]) == set(results.trials["cell"])
    assert results.attempts["status"].tolist() == ["completed"] * 8
    assert results.real["n"].tolist() == [200]


def test_samples_are_read_on_demand(small_sweep: Path) -> None:
    results = load(small_sweep)
    first = results.trials["trial_id"][0]
    images = results.samples([first], classes=[0, 3], per_class=2)
    assert images[["label", "index"]].to_numpy().tolist() == [[0, 0], [0, 1], [3, 0], [3, 1]]
    assert set(images["trial_id"]) == {first}
    assert all(image.startswith(b"\x89PNG") for image in images["image"])
    assert len(results.samples()) == 8 * 40
    real = results.real_samples()
    assert real.groupby("label").size().tolist() == [10] * 10
    assert set(real["trial_id"]) == set(results.trials["data_fingerprint"])


def test_sweeps_are_joined(small_sweep: Path, small_baselines: Path) -> None:
    both = load([small_sweep, small_baselines])
    assert len(both.trials) == 16
    assert both.trials["cell"].nunique() == 8
    assert both.trials["axis.privacy.epsilon"].tolist() == both.trials["target_epsilon"].tolist(), "10 where nothing varied it"
    assert both.trials["axis.reconstruction"].tolist() == both.trials["config.reconstruction"].tolist()
    assert [sweep.name for sweep in both.sweeps] == ["small_grid", "small_baselines"]
    assert len(both.real_samples()) == 100, "one data set"


def test_trials_that_several_folders_hold_count_once(small_sweep: Path, copy: Path) -> None:
    both = load([small_sweep, copy])
    assert len(both.trials) == 8
    assert len(both.real) == 1, "one data set, evaluated alike"
    assert both.notes == ("8 trials are in several of these folders; each counts once, as the first folder has it.",)


def test_cells_that_only_a_changed_file_tells_apart_have_names_of_their_own(copy: Path) -> None:
    """The same axes with other settings: labels have the axes alone."""
    first, second, third, *_ = trial_parts(copy)
    config = json.loads(pq.read_table(first)["config"][0].as_py())
    for part in (first, second):
        label = pq.read_table(third)["label"][0].as_py().rpartition(" seed=")[0]
        seed = pq.read_table(part)["seed"][0].as_py()
        change_part(copy, part, cell_id="other", label=f"{label} seed={seed}", config=json.dumps(config | {"slots": 41}))
    trials = load(copy).trials
    assert trials.groupby("cell", observed=True)["cell_id"].nunique().eq(1).all()
    assert trials.loc[trials["cell_id"] == "other", "cell"].str.contains("slots=41").all()


def test_nothing_to_read_is_one_sentence(tmp_path: Path, copy: Path) -> None:
    with pytest.raises(ResultsError, match="holds no sweep; expected a folder made by"):
        load(tmp_path)
    shutil.rmtree(copy / "attempts")
    (copy / "attempts").mkdir()
    with pytest.raises(ResultsError, match="has no trial that has ended; run the sweep again"):
        load(copy)


def test_failed_and_unproven_rows_are_left_out_only_when_told(copy: Path) -> None:
    first, second, *_ = trial_parts(copy)
    change_part(copy, first, status="failed", gen2real_cnn=None)
    change_part(copy, second, epsilon=None)
    results = load(copy)
    assert len(results.trials) == 8
    kept = results.only_proven()
    assert len(kept.trials) == 6
    assert kept.notes[-1] == "Left out of 8 trials, as asked: 1 not finished or failed and 1 without a proven epsilon."
    assert set(kept.history["trial_id"]) == set(kept.trials["trial_id"])
    assert kept.only_proven() is kept


def test_a_part_that_cannot_be_read_is_left_out_and_named(copy: Path) -> None:
    shutil.rmtree(copy / "compacted")
    broken, newer = trial_parts(copy)[0], max((copy / "history").glob("*.parquet"))
    broken.write_bytes(b"not a table")
    change_part(copy, newer, version=store.SCHEMA_VERSION + 1)
    results = load(copy)
    assert len(results.trials) == 7
    assert len([note for note in results.notes if broken.name in note]) == 1
    assert len([note for note in results.notes if newer.name in note and f"schema {store.SCHEMA_VERSION + 1}" in note]) == 1
    assert any("is not complete: 7 of 8 trials have a row" in note for note in results.notes)


def test_an_older_schema_is_read_and_said(copy: Path) -> None:
    change_part(copy, trial_parts(copy)[0], version=1)
    results = load(copy)
    assert len(results.trials) == 8
    assert results.notes == ("small_grid has rows of the older schema 1 (now 3); columns they lack are empty.",)


def test_a_sweep_that_runs_is_said_to(copy: Path) -> None:
    with DriverLock(copy / "driver.lock"):
        (note,) = load(copy).notes
    assert note.startswith(f"small_grid is still running (process {os.getpid()} on ")
    assert "8 of 8 trials have ended" in note


def test_one_seed_is_said(copy: Path) -> None:
    for part in trial_parts(copy):
        if pq.read_table(part)["seed"][0].as_py() == 1:
            shutil.rmtree(copy / "attempts" / part.name.partition(".")[0])
    results = load(copy)
    assert any("one seed" in note for note in results.notes)


def test_an_unknown_metric_is_answered_with_those_there_are(small_sweep: Path) -> None:
    results = load(small_sweep)
    with pytest.raises(ResultsError, match="no trial has the metric `fid_inception`; there are gen2real_cnn, "):
        results.main_metric("fid_inception")


def private_words(results: Results) -> set[str]:
    frames = (results.trials, results.history, results.attempts, results.real)
    return {name for frame in frames for name in frame if name in ("real", "host", "pid", "train_seconds", "message")}


def test_what_is_private_is_gone_unless_the_data_are_public(copy: Path) -> None:
    public = load(copy)
    assert public.for_publication() is public
    edit_record(copy, public=False)
    owner = load(copy)
    assert not owner.public
    assert "fd_dataset_classifier" in owner.metrics, "the owner sees all"
    shown = owner.for_publication()
    assert list(shown.metrics) == ["gen2real_cnn", "gen2real_mlp", "gen2real_logreg"]
    assert not private_words(shown)
    assert "fd_dataset_classifier" not in shown.trials
    assert "fd_dataset_classifier" not in shown.history
    assert len(shown.real) == 0
    assert len(shown.real_samples()) == 0
    assert "FD dataset classifier" in shown.notes[-1]


def test_accuracies_on_a_private_test_set_are_private(copy: Path) -> None:
    edit_record(copy, public=False)
    for said in ("private", None):
        for part in trial_parts(copy):
            change_part(copy, part, test_set=said)
        shown = load(copy).for_publication()
        assert not shown.metrics
        assert not {"gen2real_cnn", "per_class"} & set(shown.trials)
        assert not any("gen2real" in name for name in shown.history)


def test_one_private_sweep_makes_what_it_is_joined_with_private(copy: Path, small_baselines: Path) -> None:
    edit_record(copy, public=False)
    for folders in ([copy, small_baselines], [small_baselines, copy]):
        shown = load(folders).for_publication()
        assert not any(metric.private for metric in shown.metrics.values())
        assert not private_words(shown)


def test_unproven_trials_of_private_data_are_not_shown(copy: Path) -> None:
    """No noise has an infinite epsilon, injected noise none: what such a generator draws may be a record."""
    edit_record(copy, public=False)
    for part, epsilon in zip(trial_parts(copy), (None, float("inf")), strict=False):
        change_part(copy, part, epsilon=epsilon)
    owner = load(copy)
    shown = owner.for_publication()
    gone = set(owner.trials["trial_id"]) - set(shown.trials["trial_id"])
    assert len(gone) == 2
    assert not gone & {*shown.history["trial_id"], *shown.samples()["trial_id"]}
    assert len(shown.samples()) == 6 * 40
    assert any(
        note.startswith("2 of 8 trials are left out, with their images: their epsilon is not proven") for note in shown.notes
    )
    assert len(owner.only_proven().trials) == 6
    for part in trial_parts(copy):
        change_part(copy, part, epsilon=None)
    with pytest.raises(ResultsError, match=r"8 of 8 trials are left out.*Nothing is left to show"):
        load(copy).for_publication()
    with pytest.raises(ResultsError, match="Nothing is left to show"):
        load(copy).only_proven()


def test_trials_of_an_earlier_file_on_other_data_are_not_public(copy: Path) -> None:
    change_part(copy, trial_parts(copy)[0], lineage="hospital", data_source="npz")
    results = load(copy)
    assert "small_grid has trials on hospital, of an earlier file: they are not taken for public." in results.notes
    assert not results.public
    assert len(results.real_samples()) == 0
    edit_record(copy, lineage="hospital")
    for part in trial_parts(copy)[1:]:
        change_part(copy, part, lineage="hospital")
    assert load(copy).public, "a file may name its data"
    change_part(copy, trial_parts(copy)[0], lineage="digits")
    assert not load(copy).public, "another lineage, though of the same source"


def test_real_images_of_data_that_are_public_no_more_are_deleted(copy: Path, small_sweep: Path) -> None:
    file = small_sweep.parents[1] / "small_grid.yaml"
    arguments = [str(file), "--on", "inline", "--results", str(copy.parent)]
    assert len(load(copy).real_samples()) == 100
    for shared in ("ledger", "calibrations.json", "fingerprints.json", "stages"):
        source = small_sweep.parent / shared
        (shutil.copytree if source.is_dir() else shutil.copy)(source, copy.parent / shared)
    assert sweep.main([*arguments, "--set", "data.public=false"]) == sweep.OK
    assert not list((copy / "real_samples").glob("*.parquet"))
    assert sweep.main(arguments) == sweep.OK
    assert len(load(copy).real_samples()) == 100


def test_reading_needs_neither_torch_nor_ray(small_sweep: Path) -> None:
    code = (
        f"import sys; from analysis.results import load; load({str(small_sweep)!r}).samples(); "
        "print(sorted({'torch', 'ray', 'dp_accounting', 'sklearn'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


@pytest.mark.parametrize("text", ['{"sweep": {"name": "sma', "[1, 2]"])
def test_a_record_that_is_not_whole_is_said_and_the_rest_is_read(copy: Path, text: str) -> None:
    (copy / "sweep.json").write_text(text)
    results = load(copy)
    assert len(results.trials) == 8
    assert not results.public
    assert [note for note in results.notes if f"{copy / 'sweep.json'} cannot be read" in note]
    assert [note for note in results.notes if "no sweep.json that can be read" in note]


def test_however_many_parts_are_missing_a_table_has_one_sentence(copy: Path) -> None:
    shutil.rmtree(copy / "history")
    shutil.rmtree(copy / "compacted")
    results = load(copy)
    assert results.history.empty
    (said,) = [note for note in results.notes if note.startswith("history: ")]
    assert ".parquet is missing; bring it back from a copy" in said
    assert said.endswith("; it is left out. So are 7 more of its parts.")


def test_an_attempt_that_cannot_be_read_is_one_sentence(copy: Path) -> None:
    path = sorted(copy.glob("attempts/*/1.end.json"))[0]
    path.write_text("{")
    with pytest.raises(ResultsError, match=f"{path} is not the record that an attempt writes"):
        load(copy)


def test_the_folder_of_all_results_names_a_sweep_to_type(copy: Path) -> None:
    with pytest.raises(ResultsError, match=f"expected a folder made by .*, such as {copy}$"):
        load(copy.parent)


def test_intervals_stay_within_what_a_metric_can_be(copy: Path) -> None:
    """Two seeds far apart have a wide interval; no accuracy is below 0 or above 1 for that."""
    for part in trial_parts(copy):
        seed = pq.read_table(part)["seed"][0].as_py()
        change_part(copy, part, gen2real_cnn=0.2 + 0.7 * seed, fd_dataset_classifier=5.0 + 90 * seed)
    cells = grid.cells(load(copy)).set_index("metric")
    assert (cells.loc["gen2real_cnn", "low"] == 0).all()
    assert (cells.loc["gen2real_cnn", "high"] == 1).all()
    assert (cells.loc["fd_dataset_classifier", "low"] == 0).all()
    assert (cells.loc["fd_dataset_classifier", "high"] > 200).all()


def test_changing_an_answer_does_not_change_the_next(small_sweep: Path) -> None:
    results = load(small_sweep)
    cells = grid.cells(results)
    cells["mean"] = 0.0
    grid.factors(results).clear()
    assert (grid.cells(results)["mean"] > 0).all()
    assert grid.factors(results) == ["axis.noise_injection", "axis.reconstruction"]


def test_images_that_cannot_be_read_are_warned_of(copy: Path) -> None:
    first = load(copy).trials["trial_id"][0]
    (copy / "samples" / f"{first}.1.parquet").write_bytes(b"cut off")
    with pytest.warns(UserWarning, match=rf"{first}.1.parquet cannot be read .* it is left out"):
        assert len(load(copy).samples()) == 7 * 40
