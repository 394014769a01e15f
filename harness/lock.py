"""One driver a sweep: ``driver.lock`` holds host, pid and a heartbeat."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from pathlib import Path
from types import TracebackType

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
        self._released = threading.Event()
        self._heart = threading.Thread(target=self._beat, daemon=True, name="driver-lock")

    def __enter__(self) -> DriverLock:
        record = {"host": socket.gethostname(), "pid": os.getpid(), "started": _started(os.getpid())}
        for _ in range(2):
            try:
                create_json(self._path, record)
                break
            except FileExistsError:
                holder = _holder(self._path)
                if holder is not None:
                    raise Locked(
                        f"{self._path.parent} is being run by process {holder['pid']} on {holder['host']}; wait for it, or "
                        f"stop it first. If it is gone, delete {self._path}"
                    ) from None
                self._path.unlink(missing_ok=True)
        else:
            raise Locked(f"{self._path} was taken by another process just now; try again")
        self._heart.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._released.set()
        self._heart.join()
        self._path.unlink(missing_ok=True)

    def _beat(self) -> None:
        while not self._released.wait(HEARTBEAT_S):
            try:
                os.utime(self._path)
            except FileNotFoundError:
                return


def _holder(path: Path) -> dict | None:
    """The living holder of a lock, or None if it is gone: no such process here, or no heartbeat for two minutes."""
    try:
        record, age = json.loads(path.read_text()), time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return None
    if record["host"] == socket.gethostname():
        return record if _started(record["pid"]) == record["started"] else None
    return record if age < STALE_S else None


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
