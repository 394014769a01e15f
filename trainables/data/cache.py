"""What is remembered of a data set: its fingerprint in the results folder, and its decoded images in the user's cache.

Decoding a hundred thousand image files takes minutes, inflating Fashion-MNIST half a second and 140 MB, and every worker
needs the arrays. So they are left in ``~/.cache/dpsweep/decoded/<hash of request and files>/`` (or below
``$XDG_CACHE_HOME``), readable by the owner alone, and later processes map them: those of one machine share the memory. They
are private data like the files that they come from; the folder can be deleted at any time.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np

from trainables.base import Dataset

from .base import cache_root

_HASH = "content_hash"
_LEFT_AFTER_S = 24 * 3600.0
"""Age from which a folder that is not finished counts as left by a process that was killed."""


def decoded(
    key: str, make: Callable[[], tuple[Dataset, Dataset]], content_hash: Callable[[Dataset, Dataset], str]
) -> tuple[Dataset, Dataset]:
    """(training, test) from the cache under ``key``, or made and left there; images are memory-mapped, copied on write.

    What is read back has the content hash it was written with, so a damaged entry is made anew. A cache that cannot be
    written to (a full disk, somebody else's folder) costs time and nothing else.
    """
    folder = cache_root() / "decoded" / key
    found = _read(folder, content_hash)
    if found is not None:
        return found
    made = make()
    with suppress(OSError):
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.parent.chmod(0o700)
        _remove_leftovers(folder.parent)
        _write(folder, made, content_hash)
        return _read(folder, content_hash) or made
    return made


def _read(folder: Path, content_hash: Callable[[Dataset, Dataset], str]) -> tuple[Dataset, Dataset] | None:
    try:
        expected = json.loads((folder / "about.json").read_text())
        splits = []
        for split in ("train", "test"):
            images = np.asarray(np.load(folder / f"{split}_images.npy", mmap_mode="c", allow_pickle=False))
            labels = np.load(folder / f"{split}_labels.npy", allow_pickle=False)
            splits.append(Dataset(images=images, labels=labels, classes=expected["classes"]))
        train, test = splits
        return (train, test) if content_hash(train, test) == expected[_HASH] else None
    except (OSError, ValueError, KeyError, TypeError, EOFError):
        return None


def _write(folder: Path, splits: tuple[Dataset, Dataset], content_hash: Callable[[Dataset, Dataset], str]) -> None:
    part = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f"{folder.name[:12]}.", suffix=".part"))  # mode 0700
    try:
        for split, data in zip(("train", "test"), splits, strict=True):
            np.save(part / f"{split}_images.npy", data.images)
            np.save(part / f"{split}_labels.npy", data.labels)
        (part / "about.json").write_text(json.dumps({_HASH: content_hash(*splits), "classes": splits[0].classes}))
        try:
            part.rename(folder)
        except OSError:  # another process was faster, and others may use its files by now; or the entry is damaged
            if _read(folder, content_hash) is None:
                shutil.rmtree(folder)
                part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _remove_leftovers(parent: Path) -> None:
    for part in parent.glob("*.part"):
        if part.stat().st_mtime < time.time() - _LEFT_AFTER_S:
            shutil.rmtree(part, ignore_errors=True)


def read_fingerprints(file: Path) -> dict[str, str]:
    """The fingerprints that ``file`` remembers; none where it cannot be read."""
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def write_fingerprints(file: Path, content: dict[str, str]) -> None:
    """Replace ``file`` in one step."""
    with suppress(OSError):  # a cache: results that cannot be written to can still be looked at
        file.parent.mkdir(mode=0o755, parents=True, exist_ok=True)  # whatever the umask: no folder for others to write
        with tempfile.NamedTemporaryFile("w", dir=file.parent, prefix=file.name, suffix=".part", delete=False) as part:
            json.dump(content, part, indent=1)
        Path(part.name).replace(file)
