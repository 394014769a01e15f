"""Inputs that several trials share, computed once and found again by their content.

A stage lives in ``ROOT/stages/<name>-<12 hex>/``; the hex is a hash of its settings, its code's name and the data
fingerprint. The folder appears by one rename when it is complete, so a folder that exists can be used. Stages see private
data and are never released: they stay with the data owner, and only the user who computed one can read it.
"""

from __future__ import annotations

import hashlib
import importlib
import shutil
from pathlib import Path
from typing import Any

from trainables.base import Dataset, Stage

from .folders import Folders, canonical_json, sync_folder, write_json


def stage_id(stage: Stage, fingerprint: str) -> str:
    """The folder name of a stage on the data with this fingerprint."""
    identity = {"name": stage.name, "config": dict(stage.config), "compute": stage.compute, "data": fingerprint}
    return f"{stage.name}-{hashlib.sha256(canonical_json(identity).encode()).hexdigest()[:12]}"


def failure(folders: Folders, identifier: str) -> str | None:
    """The last words of this sweep's log of a stage that was tried and is not there; None where it is, or was not tried.

    Means something only while nothing of the sweep runs.
    """
    log = folders.stage_log(identifier)
    if (folders.stages / identifier).is_dir() or not log.is_file():
        return None
    words = log.read_text(errors="replace").strip().rpartition("\n")[2]
    if words.endswith("INFO completed"):  # it was there once
        return None
    return words or "its process was lost"


def compute_stage(folders: Folders, identifier: str, stage: Stage, train: Dataset, test: Dataset, device: Any) -> Path:
    """Compute a stage and put its folder in place; return the folder. One that is there already is left as it is."""
    target = folders.stages / identifier
    if target.is_dir():
        return target
    module, _, function = stage.compute.partition(":")
    temporary = folders.temporary()
    temporary.mkdir(mode=0o700)
    try:
        getattr(importlib.import_module(module), function)({**stage.config, **stage.paths}, train, test, temporary, device)
        write_json(temporary / "stage.json", {"name": stage.name, "config": dict(stage.config), "compute": stage.compute})
        try:
            temporary.rename(target)
        except OSError:
            if not target.is_dir():  # otherwise another sweep computed it at the same time; equal content, theirs is kept
                raise
        sync_folder(folders.stages)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target
