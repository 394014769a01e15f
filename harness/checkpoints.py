"""Reading a trial's checkpoint back, whole or not at all."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

from .process import logger


def set_aside_damaged(path: Path, attempt: int) -> str | None:
    """Move a checkpoint that is damaged out of the way, and return a sentence on it; None where there is none that is."""
    if not path.exists():
        return None
    try:
        with zipfile.ZipFile(path) as archive:  # torch.load does not look at the checksums that torch.save writes
            damaged = archive.testzip()
        if damaged is not None:
            raise zipfile.BadZipFile(f"checksum of {damaged}")
    except (OSError, MemoryError):
        raise
    except Exception as error:
        aside = path.with_suffix(f".{attempt}.damaged")
        path.replace(aside)
        note = f"the checkpoint was damaged ({error}); the training began again at step 0 within what was left of its budget"
        logger.warning("%s; what was there is in %s", note, aside)
        return note
    return None


def read_checkpoint(path: Path) -> dict[str, Any] | None:
    """The state to go on from, on the CPU; None where there is none."""
    import torch

    if not path.exists():
        return None
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state
