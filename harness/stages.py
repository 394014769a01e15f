"""Inputs that several trials share, computed once and found again by their content.

A stage lives in ``ROOT/stages/<name>-<12 hex>/``; the hex is a hash of its settings, its code's name and the data
fingerprint. The folder appears by one rename when it is complete, so a folder that exists can be used. Stages see private
data and are never released: they stay with the data owner, and only the user who computed one can read it.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import shutil
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainables.base import Dataset, Stage
from trainables.privacy.mechanism import Phase, to_dict

from .folders import Folders, canonical_json, file_hash, sync_folder, write_json

if TYPE_CHECKING:
    from trainables.privacy.sanitizer import Sanitizer


CANARY_SCORES = "canaries.pt"
"""In the folder of a release on planted data: what it says of the canaries."""


def stage_id(stage: Stage, fingerprint: str, release: Phase | None = None) -> str:
    """The folder name of a stage on the data with this fingerprint; that of a release depends on its calibrated noise."""
    identity = {"name": stage.name, "config": dict(stage.config), "compute": stage.compute, "data": fingerprint}
    if release is not None:
        identity["release"] = to_dict(release)
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


def compute_stage(
    folders: Folders,
    identifier: str,
    stage: Stage,
    train: Dataset,
    test: Dataset,
    device: Any,
    sanitizer: Sanitizer | None = None,
) -> Path:
    """Compute a stage and put its folder in place; return the folder. One that is there already is left as it is.

    A release goes through ``sanitizer``, whose one step it is; it appears only if it has released what was declared. What it
    says of planted records is kept beside it.
    """
    target = folders.stages / identifier
    if target.is_dir():
        return target
    module, _, function = stage.compute.partition(":")
    temporary = folders.temporary()
    temporary.mkdir(mode=0o700)
    try:
        compute = getattr(importlib.import_module(module), function)
        if stage.release:
            assert sanitizer is not None
            sanitizer.open_step(0, 0)
            compute(dict(stage.config), train, sanitizer, temporary, device)
            sanitizer.close_step()
            if sanitizer.canaries is not None:
                import torch

                torch.save(sanitizer.canaries.state_dict(), temporary / CANARY_SCORES)
        else:
            compute({**stage.config, **stage.paths}, train, test, temporary, device)
        description = {"name": stage.name, "config": dict(stage.config), "compute": stage.compute}
        write_json(temporary / "stage.json", {**description, "files": _files(temporary)})
        try:
            temporary.rename(target)
        except OSError:
            if not target.is_dir():  # otherwise another sweep computed it at the same time; equal content, theirs is kept
                raise
        sync_folder(folders.stages)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def damage(folder: Path) -> str | None:
    """What is wrong with a stage's folder, in a few words; None where its files are those that were computed.

    Reads all of them. Raises ``OSError`` where the disk, not the stage, is at fault.
    """
    record = folder / "stage.json"
    try:
        files = json.loads(record.read_text()).get("files", {})  # a stage of an older version has no hashes to hold it to
        return next(
            (f"{folder / name} has changed" for name, digest in files.items() if file_hash(folder / name) != digest), None
        )
    except FileNotFoundError as error:
        return f"{error.filename} is missing"
    except (ValueError, AttributeError):
        return f"{record} cannot be read"


def set_aside_damaged(folders: Folders, identifiers: Iterable[str]) -> list[str]:
    """Move stages whose files have changed out of the way, so that they are computed again; return a sentence on each.

    A stage is a function of its settings and the data: what is computed again is what was there. Not so a release: drawing it
    again needs the budget of another draw. The lock holder calls it.
    """
    told = []
    for identifier in sorted(set(identifiers)):
        folder = folders.stages / identifier
        if folder.is_dir() and (found := damage(folder)):
            aside = folder.with_name(f".damaged-{identifier}-{uuid.uuid4().hex[:8]}")
            folder.rename(aside)
            again = "the stage is computed again"
            if is_release(folders, identifier):
                again = "it was released once, and another draw has no budget: bring it back from a copy"
            told.append(f"{found}: {again}; what was there is in {aside}")
    return told


def is_release(folders: Folders, identifier: str) -> bool:
    """Whether a stage is a release, whose draws have an account (``releases``)."""
    return any(folders.ledger.glob(f"*/releases/{identifier}.*.jsonl"))


def _files(folder: Path) -> dict[str, str]:
    """Hashes of a new stage's files by their paths in it; each file is on the disk when this returns."""
    hashes = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            os.fsync(file.fileno())
        hashes[path.relative_to(folder).as_posix()] = file_hash(path)
    return hashes
