"""The copy of the code that jobs of a queue import."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

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
    assert not list(copy.rglob("__pycache__/*.py"))

    (copy / "harness" / "jobs.py").write_text("EDITED = True\n")
    said = subprocess.run(look, env=environment, cwd=Path.cwd(), capture_output=True, text=True, check=False)
    assert said.returncode or json.loads(said.stdout)[1] != code
