"""Where a sweep keeps its files, and how a file comes to be: whole or not at all.

``ROOT`` (``--results``) holds what sweeps share: ``stages/``, ``ledger/``, ``calibrations.json``, ``fingerprints.json``.
``ROOT/NAME`` holds one sweep. The table folders (``attempts``, ``trials``, ``history``, ``samples``) contain nothing but
their parts, so that any reader of ``ROOT/NAME/trials/*.parquet`` sees the table; temporary files are made in ``scratch``
and parts that an attempt left uncommitted or superseded are moved to ``set_aside``. Checkpoints and stages hold models and
statistics of private data that no noise protects: their folders, and ``scratch`` where they are written, are the owner's.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import uuid
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

STORAGE_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE})
"""What the system says where it is the disk that failed, not who writes to it."""


OWN = 0o755
"""Mode of new folders above the code of jobs: nobody else may write there, even where the umask (002) would let a group."""


@dataclass(frozen=True)
class Folders:
    """The paths of sweep ``name`` under ``root``. Nothing is created by asking for a path."""

    root: Path
    name: str

    @property
    def sweep(self) -> Path:
        return self.root / self.name

    @property
    def attempts(self) -> Path:
        """``<trial_id>/<n>.start.json`` and ``<n>.end.json``; ``attempts.parquet`` once compacted."""
        return self.sweep / "attempts"

    @property
    def checkpoints(self) -> Path:
        return self.sweep / "checkpoints"

    @property
    def generators(self) -> Path:
        return self.sweep / "generators"

    @property
    def logs(self) -> Path:
        return self.sweep / "logs"

    @property
    def compacted(self) -> Path:
        """What counted at the end of the last command, copied to be quick to read: tables, and records and accounts."""
        return self.sweep / "compacted"

    @property
    def real_samples(self) -> Path:
        """Real test images beside the generated ones, where the data are declared public."""
        return self.sweep / "real_samples"

    @property
    def scratch(self) -> Path:
        return self.sweep / "scratch"

    @property
    def sealed(self) -> Path:
        """``<trial_id>/``: the trials of a private selection that has not ended (``selection``); the owner's alone."""
        return self.sweep / "sealed"

    @property
    def set_aside(self) -> Path:
        return self.sweep / "set_aside"

    @property
    def launches(self) -> Path:
        return self.sweep / "launches"

    @property
    def lock(self) -> Path:
        return self.sweep / "driver.lock"

    @property
    def stages(self) -> Path:
        return self.root / "stages"

    @property
    def ledger(self) -> Path:
        return self.root / "ledger"

    @property
    def audits(self) -> Path:
        """Secret coins of audits (``audits``)."""
        return self.root / "audits"

    @property
    def calibrations(self) -> Path:
        return self.root / "calibrations.json"

    @property
    def fingerprints(self) -> Path:
        return self.root / "fingerprints.json"

    def table(self, name: str) -> Path:
        """The folder of a table's parts."""
        return self.sweep / name

    def generator(self, trial_id: str) -> Path:
        return self.generators / f"{trial_id}.safetensors"

    def canary_scores(self, trial_id: str) -> Path:
        """What an audited trial keeps of its releases, beside the checkpoints since it is as private."""
        return self.checkpoints / f"{trial_id}.canaries.pt"

    def checkpoint(self, trial_id: str) -> Path:
        return self.checkpoints / f"{trial_id}.pt"

    def log(self, trial_id: str, attempt: int) -> Path:
        return self.logs / f"{trial_id}.{attempt}.log"

    def make_private(self) -> None:
        """Make the folders of what is never released, and close them to everyone but their owner.

        Those that are there already are closed as well, except where they are another user's: that is theirs to decide.
        """
        for folder in (self.root, self.sweep):
            if folder.is_file():
                raise NotADirectoryError(errno.ENOTDIR, "is a file; name a folder with --results", str(folder))
            folder.mkdir(mode=OWN, parents=True, exist_ok=True)
        for folder in (self.checkpoints, self.stages, self.scratch):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if folder.stat().st_uid == os.getuid():
                folder.chmod(0o700)

    def stage_log(self, identifier: str) -> Path:
        return self.logs / f"{identifier}.log"

    def temporary(self) -> Path:
        """A path in ``scratch`` that nobody else uses; rename what is written there to where it belongs.

        The private folders are there and closed from then on.
        """
        self.make_private()
        return self.scratch / f"{uuid.uuid4().hex}.tmp"

    def write(self, path: Path, write: Callable[[IO[bytes]], object], *, private: bool = False) -> str:
        """Make ``path`` of what ``write`` puts into a file, durably and whole or not at all; return its SHA-256.

        ``private`` makes it readable by the owner only. Raises ``OSError`` where the disk does not take it.
        """
        temporary = self.temporary()
        try:
            temporary.touch(0o600 if private else 0o666, exist_ok=False)
            with temporary.open("r+b") as file:
                try:
                    write(file)
                except Exception as error:
                    raise storage_error(error) or error from error  # torch tells of a full disk in words of its own
                file.flush()
                os.fsync(file.fileno())
                file.seek(0)
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            path.parent.mkdir(exist_ok=True)
            temporary.replace(path)
        except BaseException:
            _discard(temporary)
            raise
        sync_folder(path.parent)
        return digest


def canonical_json(value: Any) -> str:
    """One text for equal values, whatever the order of keys; the form that ids are hashed from.

    >>> canonical_json({"b": 1, "a": [1.0, None]})
    '{"a":[1.0,null],"b":1}'
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=True)


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` durably by rename: a reader sees the old file or the new one, never a part."""
    write_text(path, json.dumps(value, indent=1))


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as ``write_json`` does."""
    write_texts(path, (text,))


def write_texts(path: Path, texts: Iterable[str]) -> None:
    """Write ``texts``, one after the other, as ``write_json`` does; never all of them in memory."""
    path.parent.mkdir(mode=OWN, parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("w") as file:
            file.writelines(texts)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        _discard(temporary)
        raise
    sync_folder(path.parent)


def create_json(path: Path, value: Mapping[str, Any], *, private: bool = False) -> None:
    """Write ``value`` durably under a name that nobody has taken, whole. Raises ``FileExistsError`` if it is taken.

    ``private`` makes the file readable by the owner only.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        temporary.touch(0o600 if private else 0o666, exist_ok=False)
        with temporary.open("r+") as file:
            json.dump(value, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        os.link(temporary, path)  # fails if the name is taken, unlike rename
    finally:
        _discard(temporary)
    sync_folder(path.parent)


def _discard(temporary: Path) -> None:
    with suppress(OSError):  # a disk that took nothing may give nothing back; what it said first is what counts
        temporary.unlink()


def read_small_text(path: str | Path) -> str:
    """The text of a small file, in half the time that ``Path.read_text`` takes: there may be 300,000 of them."""
    with io.FileIO(path) as file:
        return file.readall().decode()


def file_hash(path: Path) -> str:
    """SHA-256 of a file. Raises ``OSError`` where it cannot be read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def storage_error(error: BaseException) -> OSError | None:
    """The ``OSError`` of ``STORAGE_ERRORS`` that ``error`` is or came from; None where it is about something else."""
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, OSError) and found.errno in STORAGE_ERRORS:
            return found
        found = found.__cause__ or found.__context__
    return None


def sync_folder(folder: Path) -> None:
    """Make renames and new names in ``folder`` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
