"""What the tests give to submitit: nothing picklable is defined in a test module, which a job could not import."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

RECORDED = (signal.SIGTERM, signal.SIGUSR2, signal.SIGCONT)


def node() -> str:
    return os.environ["SLURMD_NODENAME"]


class Patient:
    """Waits until told to leave; then writes its word, and is handed in again, to end at once."""

    def __init__(self, folder: Path, *, told: bool = False) -> None:
        self.folder = folder
        self.told = told

    def __call__(self) -> str:
        (self.folder / "runs").open("a").write(f"{os.environ['SLURM_JOB_ID']} {os.environ.get('SLURM_RESTART_COUNT', '0')}\n")
        while not self.told:
            time.sleep(0.1)
        return "told"

    def checkpoint(self) -> Any:
        from submitit.helpers import DelayedSubmission

        (self.folder / "checkpoint").touch()
        return DelayedSubmission(Patient(self.folder, told=True))


class Family:
    """A job with processes of every kind that note the signals they get; submitit's own handlers stand in the first.

    child: its child. grandchild: that one's child, in a session of its own. orphan: in a session of its own, its parent gone.
    shielded: with SIGUSR2 ignored and SIGTERM blocked. heir: what the shielded one has started.
    """

    members = ("child", "grandchild", "orphan", "shielded", "heir")

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self) -> None:
        if os.environ.get("SLURM_RESTART_COUNT"):
            return
        for name in ("child", "shielded", "orphan"):
            subprocess.Popen([sys.executable, __file__, str(self.folder), name])
        while len(list(self.folder.glob("*.pid"))) < len(self.members):
            time.sleep(0.1)
        (self.folder / "ready").touch()
        while True:
            time.sleep(0.1)

    def checkpoint(self) -> Any:
        from submitit.helpers import DelayedSubmission

        (self.folder / "checkpoint").touch()
        return DelayedSubmission(self)


def record(folder: Path, name: str) -> None:
    """Be one of a `Family`: start the next, then append the name of each signal to the file NAME until killed."""

    def note(number: int, _: FrameType | None) -> None:
        with (folder / name).open("a") as notes:
            notes.write(f"{signal.Signals(number).name}\n")

    if name == "orphan":
        if os.fork():
            os._exit(0)
        os.setsid()
    following = {"child": "grandchild", "shielded": "heir"}.get(name)
    if name == "shielded":
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    elif name != "heir":
        for number in RECORDED:
            signal.signal(number, note)
    if following is not None:
        subprocess.Popen([sys.executable, __file__, str(folder), following], start_new_session=name == "child")
    (folder / f"{name}.pid").write_text(str(os.getpid()))
    while True:
        signal.pause()


if __name__ == "__main__":
    record(Path(sys.argv[1]), sys.argv[2])
