"""The system's Chromium, and the report of a small sweep to open in it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

from analysis import report


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
def page_path(small_sweep: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of eight trials that ran."""
    output = tmp_path_factory.mktemp("report")
    assert report.main([str(small_sweep), "--output", str(output)]) == 0
    return output / "report.html"


@pytest.fixture(scope="session")
def screenshots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where pictures of the page are kept: ``$DPSWEEP_SCREENSHOTS``, else a temporary folder."""
    folder = Path(os.environ.get("DPSWEEP_SCREENSHOTS") or tmp_path_factory.mktemp("screenshots"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder
