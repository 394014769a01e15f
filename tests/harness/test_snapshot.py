"""The copy of the code that jobs of a queue import."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness import cluster, snapshot

LOOK = """
import json
from harness import cluster, profiles, snapshot
print(json.dumps([cluster.__file__, cluster.code_fingerprint(), snapshot.provenance(), profiles.profile_names()]))
"""


def test_a_copy_is_imported_in_place_of_what_is_edited_later(tmp_path: Path) -> None:
    copy = tmp_path / "code"
    snapshot.take(copy)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(copy), str(Path.cwd())])}
    look = [sys.executable, "-P", "-c", LOOK]
    said = subprocess.run(look, env=environment, cwd=Path.cwd(), capture_output=True, text=True, check=True).stdout
    file, code, provenance, profiles = json.loads(said)
    assert Path(file).is_relative_to(copy)
    assert code == cluster.code_fingerprint()
    assert provenance == snapshot.provenance()  # of when the copy was taken, though it lies in no repository
    assert "gpu" in profiles


def test_a_copy_whose_code_was_changed_is_known_by_its_fingerprint(tmp_path: Path) -> None:
    copy = tmp_path / "code"
    snapshot.take(copy)
    with (copy / "trainables" / "coins.py").open("a") as source:
        source.write("# another line\n")
    environment = {**os.environ, "PYTHONPATH": str(copy)}
    look = [sys.executable, "-P", "-c", LOOK]
    said = subprocess.run(look, env=environment, capture_output=True, text=True, check=True).stdout
    assert json.loads(said)[1] != cluster.code_fingerprint()


def test_a_machine_without_git_still_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert snapshot.provenance()["git"] is None
