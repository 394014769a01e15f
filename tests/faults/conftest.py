"""Fixtures of the tests of faults: a root with the shared stage, and the number of releases really made."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import faulty

from trainables.privacy.sanitizer import Sanitizer


@pytest.fixture(scope="session")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder that has only what trials share: it is computed once."""
    root = tmp_path_factory.mktemp("shared")
    (root / "faults.yaml").write_text(faulty.FILE)
    assert faulty.command(root) == 0
    shutil.rmtree(root / "results" / "faults")
    shutil.rmtree(root / "results" / "ledger")
    return root / "results"


@pytest.fixture
def root(stages: Path, tmp_path: Path) -> Path:
    """A folder with the sweep's file, and results in which nothing of it has run yet."""
    (tmp_path / "faults.yaml").write_text(faulty.FILE)
    shutil.copytree(stages, tmp_path / "results")
    return tmp_path


@pytest.fixture
def disk(root: Path) -> Iterator[Path]:
    """``root/results`` as a file system of 32 MB of its own."""
    place = root / "results"
    content = root / "content"
    place.rename(content)
    place.mkdir()
    faulty.mount("-t", "tmpfs", "-o", "size=32m", "dpsweep-test", str(place))
    try:
        shutil.copytree(content, place, dirs_exist_ok=True)
        yield place
    finally:
        while subprocess.run(["umount", "--lazy", str(place)], capture_output=True, check=False).returncode == 0:
            pass


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one a release whose noise was drawn in this process, whatever anybody writes down."""
    draws: list[int] = []
    draw = Sanitizer._noise

    def counted(self: Sanitizer) -> object:
        draws.append(1)
        return draw(self)

    monkeypatch.setattr(Sanitizer, "_noise", counted)
    return draws


@pytest.fixture(autouse=True)
def no_trap_is_left() -> Iterator[None]:
    yield
    faulty.Trap.armed.clear()
