"""The system's Chromium, and the report of a small sweep to open in it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

from analysis import report
from harness import sweep

GRID = """
name: small_grid
method: dp_energy
preset: digits
data: {source: digits, public: true}
privacy: {epsilon: 10, accountant: pld}
train: {steps: 10, slots: 20, generator_channels: 8}
axes: {noise_injection: [0.0, 1.0], reconstruction: [0.0, 1.0]}
seeds: 2
evaluate: {samples: 100}
checkpoint: {every: 5}
keep_samples: 80
"""


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.skip("no Chromium on this machine (Debian, Ubuntu: apt-get install chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def page_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of eight trials that ran."""
    root = tmp_path_factory.mktemp("sweep")
    (root / "small_grid.yaml").write_text(GRID)
    assert sweep.main([str(root / "small_grid.yaml"), "--on", "inline", "--results", str(root / "results")]) == sweep.OK
    assert report.main([str(root / "results" / "small_grid")]) == 0
    return root / "results" / "small_grid" / "report" / "report.html"


@pytest.fixture(scope="session")
def screenshots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where pictures of the page are kept: ``$DPSWEEP_SCREENSHOTS``, else a temporary folder."""
    folder = Path(os.environ.get("DPSWEEP_SCREENSHOTS") or tmp_path_factory.mktemp("screenshots"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder
