"""One driver a sweep: ``driver.lock`` holds host, pid and a heartbeat."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
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

    Raises ``Locked`` with the holder's host and pid.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._record = {"host": socket.gethostname(), "pid": os.getpid(), "started": _started(os.getpid())}
        self._released = threading.Event()
        self._heart = threading.Thread(target=self._beat, daemon=True, name="driver-lock")

    def __enter__(self) -> DriverLock:
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
        if self._is_ours():
            self._path.unlink(missing_ok=True)

    def _clear_if_dead(self) -> None:
        """Remove the lock of a holder that is gone; raise ``Locked`` if it lives. Two that try this remove it once."""
        try:
            found = json.loads(self._path.read_text())
        except FileNotFoundError:
            return
        if _alive(self._path, found):
            raise Locked(
                f"{self._path.parent} is being run by process {found['pid']} on {found['host']}; wait for it, or stop it "
                f"first. If it is gone, delete {self._path}"
            )
        aside = self._path.with_name(f".{self._path.name}.{uuid.uuid4().hex}")
        with suppress(FileNotFoundError):
            self._path.rename(aside)
            if json.loads(aside.read_text()) != found:  # another process took it over between our look and our rename
                with suppress(FileExistsError):
                    os.link(aside, self._path)
            aside.unlink()

    def _beat(self) -> None:
        while not self._released.wait(HEARTBEAT_S):
            if not self._is_ours():  # taken over while this process was suspended; the attempts' fences stop its trials
                return
            os.utime(self._path)

    def _is_ours(self) -> bool:
        try:
            return bool(json.loads(self._path.read_text()) == self._record)
        except FileNotFoundError:
            return False


def holder(path: Path) -> Mapping[str, Any] | None:
    """Host and pid of the living holder of a lock; None if nobody holds it."""
    try:
        found = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return None
    return found if _alive(path, found) else None


def _alive(path: Path, record: Mapping[str, Any]) -> bool:
    """Whether the holder of a lock lives: its process here, or elsewhere a heartbeat in the last two minutes."""
    if record["host"] == socket.gethostname():
        return _started(record["pid"]) == record["started"]
    try:
        return time.time() - path.stat().st_mtime < STALE_S
    except FileNotFoundError:
        return False


def _started(pid: int) -> str | None:
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
