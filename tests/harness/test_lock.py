"""One driver a sweep."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.lock import DriverLock, Locked


def test_a_second_driver_is_refused_and_told_who_holds_the_sweep(tmp_path: Path) -> None:
    path = tmp_path / "driver.lock"
    with DriverLock(path), pytest.raises(Locked, match=f"process {os.getpid()} on {socket.gethostname()}"):
        DriverLock(path).__enter__()
    assert not path.exists()


def test_the_lock_of_a_dead_process_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "driver.lock"
    code = (
        "import os, pathlib, sys; from harness.lock import DriverLock; "
        "DriverLock(pathlib.Path(sys.argv[1])).__enter__(); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=False, cwd=Path(__file__).parents[2])
    assert path.exists()
    with DriverLock(path):
        assert json.loads(path.read_text())["pid"] == os.getpid()


def test_a_pid_that_was_given_to_another_process_is_not_the_holder(tmp_path: Path) -> None:
    path = tmp_path / "driver.lock"
    path.write_text(json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "started": "1"}))
    with DriverLock(path):
        assert json.loads(path.read_text())["started"] != "1"


def test_the_lock_of_another_host_holds_while_its_heart_beats(tmp_path: Path) -> None:
    path = tmp_path / "driver.lock"
    path.write_text(json.dumps({"host": "elsewhere", "pid": 1, "started": "1"}))
    with pytest.raises(Locked, match="process 1 on elsewhere"):
        DriverLock(path).__enter__()
    os.utime(path, (0, 0))
    with DriverLock(path):
        assert json.loads(path.read_text())["host"] == socket.gethostname()


@pytest.mark.parametrize("wrong_by", [-3600, 3600])
def test_a_wrong_clock_here_takes_no_lock_and_keeps_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong_by: float
) -> None:
    right = time.time
    monkeypatch.setattr(time, "time", lambda: right() + wrong_by)
    path = tmp_path / "driver.lock"
    path.write_text(json.dumps({"host": "elsewhere", "pid": 1, "started": "1"}))
    with pytest.raises(Locked, match="process 1 on elsewhere"):
        DriverLock(path).__enter__()
    os.utime(path, (right() - 200, right() - 200))
    with DriverLock(path):
        assert json.loads(path.read_text())["host"] == socket.gethostname()
    assert not list(tmp_path.iterdir())
