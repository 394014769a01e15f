"""A copy of dpsweep's code in a run's folder, which its jobs import: what is edited while they wait in a queue is not run.

Methods of your own are no part of it; they are imported from where the command runs.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("harness", "trainables", "slurm")
_ROOT = Path(__file__).parents[1]
_PROVENANCE = "provenance.json"


def take(folder: Path) -> None:
    """Copy the code that this process runs, and where it comes from, to ``folder``, which must not exist."""
    for package in PACKAGES:
        shutil.copytree(_ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__", "*.md"))
    (folder / _PROVENANCE).write_text(json.dumps(provenance()))


def provenance() -> dict[str, str | None]:
    """dpsweep's version, and the git state of its folder: for a copy, those of when it was taken."""
    kept = _ROOT / _PROVENANCE
    if kept.is_file():
        found: dict[str, str | None] = json.loads(kept.read_text())
        return found
    try:
        own: str | None = version("dpsweep")
    except PackageNotFoundError:
        own = None
    describe = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        git = subprocess.run(describe, cwd=_ROOT, capture_output=True, text=True, check=False).stdout.strip()
    except FileNotFoundError:
        git = ""  # there is no git on this machine
    return {"dpsweep": own, "git": git or None}
