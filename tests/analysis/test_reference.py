"""A report of a sweep with real images among its methods: they are what others are held against, and no candidates."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from analysis import report
from analysis.results import ResultsError, load
from harness import store, sweep

FILE = """
name: mix
cases:
  - {name: real, method: real}
  - {name: dp_merf, method: dp_merf, preset: digits, train: {steps: 3, features: 50, batch: 20}}
data: {source: digits, public: true}
privacy: {epsilon: 10, accountant: pld}
seeds: 2
evaluate: {samples: 100}
keep_samples: 20
"""


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("mixed")
    (root / "mix.yaml").write_text(FILE)
    assert sweep.main([str(root / "mix.yaml"), "--on", "inline", "--results", str(root / "results")]) == sweep.OK
    return root / "results" / "mix"


def test_real_images_are_no_candidates(mixed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = store.read(mixed).trials
    real = rows[rows.method == "real"]
    assert len(real) == 2
    assert real.epsilon.isna().all()
    assert real.gen2real_cnn.min() > rows[rows.method != "real"].gen2real_cnn.max(), "or nothing is shown here"
    results = load(mixed)
    assert set(results.trials["method"]) == {"dp_merf"}
    assert len(results.real) == 1
    assert any("2 trials are of real images" in note for note in results.notes)
    assert report.main([str(mixed), "--output", str(mixed / "report")]) == 0
    assert "Best by gen2real CNN: dp_merf" in capsys.readouterr().out
    cells = (mixed / "report" / "tables" / "cells.md").read_text()
    assert "| dp_merf " in cells
    assert "| real images |" in cells
    assert "gaussian" in cells


def test_the_price_counts_generators_and_pays_for_releases(mixed: Path) -> None:
    (price,) = json.loads((mixed / "sweep.json").read_text())["totals"]["compose"]
    assert price["trials"] == 2, "two generators of one release; real images are none"
    assert 9.9 < price["epsilon"] <= 10


def test_nothing_but_real_images_is_no_report(tmp_path: Path) -> None:
    (tmp_path / "mix.yaml").write_text("\n".join(line for line in FILE.splitlines() if "dp_merf" not in line))
    assert sweep.main([str(tmp_path / "mix.yaml"), "--on", "inline", "--results", str(tmp_path / "results")]) == sweep.OK
    with pytest.raises(ResultsError, match="of real images"):
        load(tmp_path / "results" / "mix")


def test_real_images_of_data_that_are_not_public_any_more_are_not_shown(mixed: Path, tmp_path: Path) -> None:
    root = shutil.copytree(mixed.parents[1], tmp_path / "copy")
    sheet = root / "results" / "mix" / "contact_sheet.png"
    with Image.open(sheet) as image:
        before = image.width
    (root / "mix.yaml").write_text(FILE.replace("public: true", "public: false"))
    assert sweep.main([str(root / "mix.yaml"), "--on", "inline", "--results", str(root / "results")]) == sweep.OK
    with Image.open(sheet) as image:
        assert image.width < 0.7 * before, "two columns of generated images are left of five"
