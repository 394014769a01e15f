"""From the ``data`` section of a sweep file to the arrays that a worker gets: the user's own images."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.document import InputError
from harness.documents import job_document
from harness.expand import expand
from harness.folders import Folders
from harness.job_data import load_data
from harness.plan import Plan, make_plan
from harness.spec import load_sweep

FILE = """\
name: own
method: dp_energy
data: {DATA}
privacy: {noise_multiplier: 0}
train: {steps: 2, sampling_rate: 0.5, slots: 20, features: pixels}
"""


@pytest.fixture
def npz(tmp_path: Path) -> Path:
    """20 + 10 colour images of 64x48 pixels in two classes."""
    coins = np.random.default_rng(0)
    images = coins.integers(0, 256, (30, 64, 48, 3), dtype=np.uint8)
    labels = np.arange(30) % 2
    train = {"train_images": images[:20], "train_labels": labels[:20]}
    np.savez(tmp_path / "own.npz", **train, test_images=images[20:], test_labels=labels[20:])
    return tmp_path / "own.npz"


def plan(root: Path, data: str, *overrides: str) -> Plan:
    (root / "a.yaml").write_text(FILE.replace("{DATA}", data))
    return make_plan(Folders(root, "own"), expand(load_sweep(root / "a.yaml", overrides)))


def message(root: Path, data: str, *overrides: str) -> str:
    with pytest.raises(InputError) as caught:
        plan(root, data, *overrides)
    return str(caught.value).replace(f"{root}/", "")


def test_a_worker_loads_what_was_planned(tmp_path: Path, npz: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(npz.parent)
    found = plan(tmp_path, "{source: npz, path: own.npz, resolution: 32, preparation: squeeze, lineage: mine}")
    (trial,) = found.trials
    assert trial.data.lineage == "mine"
    assert trial.data.info.shape == (3, 32, 32)
    job: dict[str, Any] = job_document(found, trial, {})
    monkeypatch.chdir("/")
    train, test = load_data(job["data"], found.folders)
    assert train.info == trial.data.info
    assert len(test.labels) == 10


def test_a_file_that_was_edited_in_place_does_not_pass_for_the_planned_one(tmp_path: Path, npz: Path) -> None:
    found = plan(tmp_path, f"{{source: npz, path: {npz}, resolution: 32, lineage: mine}}")
    job = job_document(found, found.trials[0], {})
    load_data(job["data"], found.folders)
    before, arrays = npz.stat(), dict(np.load(npz))
    arrays["train_images"][3, 20, 20] ^= 255
    np.savez(npz, **arrays)
    os.utime(npz, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert npz.stat().st_size == before.st_size
    again = plan(tmp_path, f"{{source: npz, path: {npz}, resolution: 32, lineage: mine}}")
    assert again.trials[0].trial_id == found.trials[0].trial_id, "planning goes by size and time"
    with pytest.raises(ValueError, match=r"files were edited, or differ between machines; .*fingerprints\.json and plan again"):
        load_data(job["data"], found.folders)


def test_your_own_images_need_a_name_in_the_ledger(tmp_path: Path, npz: Path) -> None:
    found = message(tmp_path, f"{{source: npz, path: {npz}, resolution: 32}}")
    assert found.startswith("a.yaml:3:7: data.lineage is missing; your own images need a name in the privacy ledger")
    assert found.endswith("write lineage: NAME")


def test_a_preparation_is_part_of_the_id_where_it_makes_a_difference(tmp_path: Path, npz: Path) -> None:
    data = f"{{source: npz, path: {npz}, resolution: 32, lineage: mine}}"
    default, crop, squeeze = (
        plan(tmp_path, data, *settings).trials[0].trial_id
        for settings in ([], ["data.preparation=crop"], ["data.preparation=squeeze"])
    )
    assert default == crop != squeeze


def test_enlarged_images_are_what_a_worker_gets_and_other_images_of_the_same_size_have_other_ids(tmp_path: Path) -> None:
    data = "{source: digits, size: 100, resolution: 32}"
    asked = [], ["data.enlarge=false"], ["data.enlarge=true"], ["data.enlarge=true", "data.resolution=64"]
    bordered, said, enlarged, large = (plan(tmp_path, data, *settings) for settings in asked)
    ids = [found.trials[0].trial_id for found in (bordered, enlarged, large)]
    assert len(set(ids)) == 3
    assert said.trials[0].trial_id == ids[0]
    train, test = load_data(job_document(large, large.trials[0], {})["data"], large.folders)
    assert train.info == large.trials[0].data.info
    assert train.images.shape[1:] == test.images.shape[1:] == (1, 64, 64)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("{source: digits, resolution: 64}",
         "a.yaml:3:36: data.resolution is 64; digits comes in 28 or 32 pixels, and with data.enlarge: true in 64"),
        ("{source: digits, enlarge: true}",
         "a.yaml:3:33: data.enlarge is true and data.resolution is missing: write 28, 32 or 64"),
        ("{source: digits, label: even}",
         "a.yaml:3:31: data.label is set, but digits does not take it (only celeba or parquet); leave it out"),
        ("{source: digits, preparation: squeeze}",
         "a.yaml:3:37: data.preparation is set, but digits does not take it (only celeba, image_folder, npz or parquet); "
         "leave it out"),
        ("{source: digits, preparation: stretch}",
         'a.yaml:3:37: `data.preparation` is the text "stretch"; expected crop or squeeze'),
        ("{source: image_folder, lineage: mine, path: nowhere}",
         "a.yaml:3:7: image_folder expects PATH/train/CLASS/*.png (or another of .png .jpg .jpeg .webp .bmp .gif .tif "
         ".tiff .pgm .ppm) and PATH/test/CLASS/*.png; nowhere does not exist"),
        ("{source: npz, lineage: mine, path: ~nobody_here/own.npz}",
         "a.yaml:3:7: npz expects data.path to be a .npz file with the arrays train_images, train_labels, test_images, "
         "test_labels (or x_train, y_train, x_test, y_test); ~nobody_here/own.npz does not exist"),
    ],
)  # fmt: skip
def test_a_setting_that_a_source_does_not_take_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: str, expected: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert message(tmp_path, data) == expected
