"""What an evaluation asks for, from the sweep file to the row: groups of metrics and the Inception weights."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from harness import store, sweep
from harness.document import InputError
from harness.documents import job_document
from harness.expand import expand
from harness.folders import Folders
from harness.job_data import load_data
from harness.plan import Plan, make_plan
from harness.planfile import write_plan
from harness.spec import load_sweep
from harness.stages import compute_stage, stage_id
from harness.trial import run_trial
from trainables.evaluation import weights
from trainables.evaluation.metrics import DETAILS, METRICS, columns, reference_stage
from trainables.evaluation.weights import InceptionWeights

FILE = """
name: one
method: dp_energy
data: {source: digits, size: 14}
privacy: {epsilon: 10, delta: 0.01, accountant: pld}
train: {steps: 2, slots: 20, generator_channels: 4, features: pixels}
evaluate: {samples: 10}
keep_samples: 0
"""


@pytest.fixture(autouse=True)
def no_weights_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(weights.VARIABLE, raising=False)


def plan(root: Path, *overrides: str) -> Plan:
    (root / "one.yaml").write_text(FILE)
    return make_plan(Folders(root, "one"), expand(load_sweep(root / "one.yaml", overrides)))


def evaluation_id(root: Path, *overrides: str) -> str:
    (trial,) = plan(root, *overrides).trials
    return trial.evaluation_id


def refusal(root: Path, *overrides: str) -> str:
    with pytest.raises(InputError) as caught:
        plan(root, *overrides)
    return str(caught.value)


def test_the_groups_are_part_of_an_evaluation_and_their_order_is_not(tmp_path: Path) -> None:
    default = evaluation_id(tmp_path)
    assert evaluation_id(tmp_path, "evaluate.metrics=[standard]") == default
    both = evaluation_id(tmp_path, "evaluate.metrics=[standard, prior_work]")
    assert both not in (default, evaluation_id(tmp_path, "evaluate.metrics=[prior_work]"))
    assert evaluation_id(tmp_path, "evaluate.metrics=[prior_work, standard, prior_work]") == both


def test_weights_that_are_not_there_are_refused_in_the_plan(tmp_path: Path) -> None:
    text = refusal(tmp_path, "evaluate.metrics=[inception]")
    assert text.startswith("--set evaluate.metrics=[inception]: metrics has `inception`, which needs the weights")
    assert weights.URL in text
    assert "`standard` measures distances" in text, "what can be done without them"
    assert "`efficientnet` on an ImageNet network" in text
    text = refusal(tmp_path, "evaluate.metrics=[inception]", "evaluate.inception_weights=/nowhere.pth")
    assert text.startswith("--set evaluate.inception_weights=/nowhere.pth: inception_weights is /nowhere.pth, which cannot be")


def test_other_weights_are_refused_in_the_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / weights.FILE
    path.write_bytes(b"other weights")
    monkeypatch.setenv(weights.VARIABLE, str(path))
    assert "numbers from other weights are no FID" in refusal(tmp_path, "evaluate.metrics=[inception]")
    assert plan(tmp_path).trials[0].inception is None, "the weights are looked at only where they are needed"


def test_weights_without_their_metrics_are_noted(tmp_path: Path) -> None:
    (note,) = plan(tmp_path, "evaluate.inception_weights=/nowhere.pth").notes
    assert note.startswith("evaluate.inception_weights is not used")


def test_a_missing_package_and_too_few_images_are_refused_in_the_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (note,) = plan(tmp_path, "evaluate.metrics=[efficientnet]").notes
    assert note.startswith("EfficientNet metrics without a GPU")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    text = refusal(tmp_path, "evaluate.metrics=[efficientnet]")
    assert "is not installed: type `pip install 'dpsweep[efficientnet]'`" in text
    text = refusal(tmp_path, "evaluate.metrics=[diversity]", "evaluate.samples=90")
    assert "set evaluate.samples to 100 or more (it is 90)" in text


def test_weights_on_the_command_line_are_those_of_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "sweep.yaml").write_text(FILE)
    path = tmp_path / "my weights #1.pth"
    words = [str(tmp_path / "sweep.yaml"), "--results", str(tmp_path / "results"), "--dry-run"]
    asked = ["--set", "evaluate.metrics=[inception]", "--inception-weights", str(path)]
    assert sweep.main([*words, *asked]) == sweep.BAD_INPUT
    assert f"inception_weights is {path}, which cannot be read (No such file or directory)" in capsys.readouterr().err
    path.write_bytes(b"other weights")
    assert sweep.main([*words, *asked]) == sweep.BAD_INPUT
    assert "numbers from other weights are no FID" in capsys.readouterr().err


def test_images_that_are_too_small_are_refused_in_the_plan(tmp_path: Path) -> None:
    images, labels = np.zeros((20, 16, 16), np.uint8), np.arange(20) % 10
    small = {"train_images": images, "train_labels": labels, "test_images": images, "test_labels": labels}
    np.savez(tmp_path / "small.npz", **small)
    data = f"data={{source: npz, path: {tmp_path}/small.npz, lineage: mine}}"
    assert plan(tmp_path, data).trials[0].data.info.height == 16
    text = refusal(tmp_path, "evaluate.metrics=[standard, prior_work]", data)
    assert "need images of at least 18 pixels a side; these have 16 x 16" in text


def test_diversity_and_memorization_reach_the_row_with_their_details(tmp_path: Path) -> None:
    made = plan(tmp_path, "evaluate.metrics=[diversity, memorization]", "evaluate.samples=100", "data.size=40")
    (trial,) = made.trials
    job: dict[str, Any] = {**job_document(made, trial, {}), "kind": "train"}
    path = made.folders.launches / "test" / "plan.json"
    write_plan(path, [(trial.trial_id, job)])
    compute_stage(
        made.folders, job["evaluation"]["stage"], trial.reference, *load_data(job["data"], made.folders), torch.device("cpu")
    )
    assert run_trial(made.folders, job, lambda progress: None, plan=path)["status"] == "completed"
    results = store.read(made.folders.sweep)
    (row,) = results.trials.to_dict("records")
    asked = columns(["diversity", "memorization"])
    assert [name for name in METRICS if row[name] == row[name]] == asked
    assert row["memorization_pixels_low"] < row["memorization_pixels"] < row["memorization_pixels_high"]
    ratio = row["sharpness_ratio_laplacian"]
    assert row["sharpness_match_laplacian"] == min(ratio, 1 / ratio)
    assert json.loads(row["per_class"]) == {}
    assert results.real[asked].notna().all(axis=None)
    schema = pq.read_schema(next(made.folders.table("trials").glob("*.parquet")))
    assert all(schema.field(name).metadata[b"private"] == b"true" for name in DETAILS)


def test_inception_metrics_and_their_weights_reach_the_row(tmp_path: Path, inception_file: Path) -> None:
    """From the job on; the plan itself would refuse these random weights."""
    given = InceptionWeights(path=str(inception_file), sha256=hashlib.sha256(inception_file.read_bytes()).hexdigest())
    groups = ["inception"]
    made = plan(tmp_path)
    reference = reference_stage(10, groups, given)
    trial = dataclasses.replace(made.trials[0], reference=reference, inception=given)
    job: dict[str, Any] = {**job_document(made, trial, {}), "kind": "train"}
    path = made.folders.launches / "test" / "plan.json"
    write_plan(path, [(trial.trial_id, job)])
    train, test = load_data(job["data"], made.folders)
    few = dataclasses.replace(test, images=test.images[:10], labels=test.labels[:10])
    identifier = stage_id(reference, trial.data.fingerprint)
    assert job["evaluation"]["stage"] == identifier
    directory = compute_stage(made.folders, identifier, reference, train, few, torch.device("cpu"))

    assert run_trial(made.folders, job, lambda progress: None, plan=path)["status"] == "completed"
    (row,) = store.read(made.folders.sweep).trials.to_dict("records")
    assert json.loads(row["evaluation"])["inception_sha256"] == given.sha256
    measured = [name for name in METRICS if row[name] == row[name]]
    assert measured == columns(groups)
    (real,) = store.read(made.folders.sweep).real.to_dict("records")
    assert real["n"] == 10
    assert real["fid_inception"] == json.loads((directory / "reference.json").read_text())["real"]["fid_inception"]
