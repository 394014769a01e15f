"""One driver a sweep: ``driver.lock`` says which process on which host holds it and since when; its mtime is a heartbeat."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from .folders import create_json

HEARTBEAT_S = 10.0
STALE_S = 120.0


class Locked(RuntimeError):
    """Another driver holds the sweep."""


class DriverLock:
    """Context manager that holds a sweep for this process; a lock whose holder is gone is taken over.

    ``patience`` is how many seconds a holder is waited for. Raises ``Locked`` with the holder's host and pid, and since when it
    holds the sweep.
    """

    def __init__(self, path: Path, *, patience: float = 0.0) -> None:
        self._path, self._patience = path, patience
        self._record = {**_identity(), "since": time.time()}
        self._released = threading.Event()
        self._heart = threading.Thread(target=self._beat, daemon=True, name="driver-lock")

    def __enter__(self) -> DriverLock:
        end = time.monotonic() + self._patience
        while True:
            try:
                return self._take()
            except Locked:
                if time.monotonic() > end:
                    raise
                time.sleep(1)

    def _take(self) -> DriverLock:
        record = self._record
        for _ in range(3):
            try:
                create_json(self._path, record)
                break
            except FileExistsError:
                self._clear_if_dead()
        else:
            raise Locked(f"{self._path} was taken by another process just now; try again")
        self._heart.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._released.set()
        self._heart.join()
        with suppress(OSError):  # the folder may be gone or read-only by now: a lock whose process is gone holds nobody up
            if _record(self._path) == self._record:
                self._path.unlink(missing_ok=True)

    def _clear_if_dead(self) -> None:
        """Remove the lock of a holder that is gone; raise ``Locked`` if it lives. Two that try this remove it once."""
        try:
            found = _record(self._path)
        except FileNotFoundError:
            return
        if found is None:
            raise Locked(f"{self._path} is not what a command writes; if no command runs this sweep, delete it")
        if _alive(self._path, found, _clock_of(self._path.parent)):
            raise Locked(
                f"{self._path.parent} is being run by process {found['pid']} on {found['host']}{_since(found)}; wait for it, "
                f"or end it by the same command with --stop. If it is gone, delete {self._path}"
            )
        aside = self._path.with_name(f".{self._path.name}.{uuid.uuid4().hex}")
        with suppress(FileNotFoundError):
            self._path.rename(aside)
            if _record(aside) != found:  # another process took it over between our look and our rename
                with suppress(FileExistsError):
                    os.link(aside, self._path)
            aside.unlink()

    def _beat(self) -> None:
        while not self._released.wait(HEARTBEAT_S):
            with suppress(OSError):  # a folder that is away, or read-only, may come back; ``require_held`` says if it is lost
                if _record(self._path) == self._record:  # else taken over while this process was suspended: fences hold
                    os.utime(self._path)


def require_held(path: Path) -> None:
    """Check that this process holds the lock at ``path``. Raises ``Locked`` with a sentence where it has been lost.

    To be asked before records of other processes are judged: a results folder that was moved or deleted looks like one in
    which nothing has ever run.
    """
    try:
        found = _record(path)
    except OSError:
        found = None
    if found is None or {**found, **_identity()} != found:
        raise Locked(
            f"{path} is gone or another command's: {path.parent} was moved, deleted or taken over while this command ran. Put "
            "the folder back where it was and run the same command: what its trials have spent is recorded there"
        )


def holder(path: Path) -> Mapping[str, Any] | None:
    """Host and pid of the living holder of a lock; None if nobody holds it."""
    try:
        found = _record(path)
    except FileNotFoundError:
        return None
    return found if found and _alive(path, found) else None


def _identity() -> dict[str, Any]:
    """What tells this process from every other."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "started": started(os.getpid())}


def _record(path: Path) -> dict[str, Any] | None:
    """What a lock says of its holder; None where it was cut off or spoilt. Raises ``OSError`` where there is none."""
    try:
        found = json.loads(path.read_text())
    except ValueError:
        return None
    return found if isinstance(found, dict) and {"host", "pid", "started"} <= set(found) else None


def _since(record: Mapping[str, Any]) -> str:
    """`` since 2026-11-22 11:37 UTC``; nothing for the lock of an older version, which does not say."""
    if "since" not in record:
        return ""
    return f" since {datetime.fromtimestamp(record['since'], UTC):%Y-%m-%d %H:%M:%S} UTC"


def _clock_of(folder: Path) -> float:
    """What time it is for the file system of ``folder``, in s: heartbeats are in its time, whatever the clock here says."""
    trial = folder / f".clock.{uuid.uuid4().hex}"
    trial.touch()
    try:
        return trial.stat().st_mtime
    finally:
        trial.unlink()


def _alive(path: Path, record: Mapping[str, Any], now: float | None = None) -> bool:
    """Whether the holder of a lock lives: its process here, or elsewhere a heartbeat in the two minutes before ``now``.

    ``now`` is the clock of this machine where none is given: whoever only reads may not write to ask for another.
    """
    if record["host"] == socket.gethostname():
        return started(record["pid"]) == record["started"]
    try:
        return (time.time() if now is None else now) - path.stat().st_mtime < STALE_S
    except FileNotFoundError:
        return False


def started(pid: int) -> str | None:
    """When a process of this machine began, in the kernel's terms: a pid alone may have been given to another process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except FileNotFoundError:
        if Path("/proc").is_dir():
            return None
    try:  # systems without /proc: the pid must do
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    return "alive"
