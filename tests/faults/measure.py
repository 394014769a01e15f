"""Every fault once, and how long until the work goes on: ``python tests/faults/measure.py`` prints a Markdown table.

Seconds count from the fault where the command mends it by itself, else from the moment that the same command is typed again,
until a trial has spent or finished something that it had not. Most of them are Python, torch and Ray being loaded.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import faulty
import pytest
import test_damage
import test_disk
import test_processes
import test_vanished
from faulty import Trap, command, folders_of
from test_processes import Command, running

from harness import store, sweep
from harness.folders import Folders

COMPLETED, EARLY = ("completed",), ("completed", "budget")


def marks(folders: Folders) -> int:
    """Grows whenever a trial spends or finishes something; an attempt that is closed as lost has not."""
    lines = sum(path.read_text().count("\n") for path in folders.ledger.rglob("*.jsonl"))
    ends = [path.read_text() for path in folders.attempts.glob("*/*.end.json")]
    return lines + sum('"status": "lost"' not in text for text in ends)


def goes_on(folders: Folders, process: subprocess.Popen[str], before: int, began: float) -> float:
    """Seconds from ``began`` until there are more marks than ``before``."""
    while marks(folders) <= before:
        if process.poll() is not None and marks(folders) <= before:
            raise RuntimeError(f"the command ended first: {process.stdout.read() if process.stdout else ''}")
        time.sleep(0.05)
    return time.monotonic() - began


def type_again(root: Path, temp: Path, statuses: tuple[str, ...], trials: int, on: str, *arguments: str) -> float:
    """Run the same command in a process of its own; check what it leaves, and return the seconds until work went on."""
    folders, before, began = folders_of(root), marks(folders_of(root)), time.monotonic()
    line = [sys.executable, "-m", "harness.sweep", str(root / "faults.yaml"), "--on", on, "--results", str(folders.root)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(temp)}
    process = subprocess.Popen(
        [*line, *arguments], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment
    )
    seconds = goes_on(folders, process, before, began)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == sweep.OK, output
    faulty.assert_complete(folders, trials, statuses, history=False)
    faulty.assert_account_true(folders)
    return seconds


# --- on a real Ray ------------------------------------------------------------------------------------------------------


def kill_trial(root: Path, temp: Path) -> float:
    driver, folders = started(root, temp), folders_of(root)
    (victim, *_) = running(folders)
    accounts = list(folders.ledger.rglob(f"{victim.trial_id}.*.jsonl"))
    os.kill(victim.start["pid"], signal.SIGKILL)
    began = time.monotonic()
    while not (more := set(folders.ledger.rglob(f"{victim.trial_id}.*.jsonl")) - set(accounts)) or not any(
        "reserved" in path.read_text() for path in more
    ):
        time.sleep(0.05)
    seconds = time.monotonic() - began
    output = driver.end(300)
    assert driver.process.returncode == sweep.OK, output
    driver.assert_nothing_is_left()
    faulty.assert_complete(folders, test_processes.TRIALS, EARLY)
    faulty.assert_account_true(folders)
    return seconds


def kill_driver(root: Path, temp: Path) -> float:
    driver = started(root, temp)
    driver.process.kill()
    driver.process.wait()
    driver.assert_nothing_is_left()
    return type_again(root, temp, EARLY, test_processes.TRIALS, "local")


def kill_ray(name: str) -> Callable[[Path, Path], float]:
    def fault(root: Path, temp: Path) -> float:
        driver = started(root, temp)
        driver.kill(name)
        driver.end()
        driver.assert_nothing_is_left()
        return type_again(root, temp, EARLY, test_processes.TRIALS, "local")

    return fault


def signals(*numbers: signal.Signals) -> Callable[[Path, Path], float]:
    def fault(root: Path, temp: Path) -> float:
        driver = started(root, temp)
        for number in numbers:
            driver.process.send_signal(number)
            time.sleep(0.3)
        driver.end()
        driver.assert_nothing_is_left()
        return type_again(root, temp, COMPLETED if len(numbers) == 1 else EARLY, test_processes.TRIALS, "local")

    return fault


def move_results(root: Path, temp: Path) -> float:
    driver, folders = started(root, temp), folders_of(root)
    folders.root.rename(root / "away")
    driver.end()
    driver.assert_nothing_is_left()
    shutil.rmtree(folders.root, ignore_errors=True)
    (root / "away").rename(folders.root)
    return type_again(root, temp, EARLY, test_processes.TRIALS, "local")


def started(root: Path, temp: Path) -> Command:
    """The command on a Ray of its own, once a trial has passed its first checkpoints."""
    (root / "faults.yaml").write_text(test_processes.FILE)
    driver = Command(root, temp)
    driver.wait_for(lambda: running(folders_of(root)))
    driver.processes()
    return driver


# --- in this process, then in another -----------------------------------------------------------------------------------


def run(root: Path, expected: int, *arguments: str) -> None:
    """The command in this process, quietly."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        status = command(root, *arguments)
    assert status == expected, status
    folders_of(root).lock.unlink(missing_ok=True)  # of a command that could not: this process lives


def disk_full(moment: str) -> Callable[[Path, Path], float]:
    def fault(root: Path, temp: Path) -> float:
        place = own_disk(root)
        try:
            pattern, nth = test_disk.MOMENTS[moment]
            Trap("open", pattern, lambda: faulty.fill(place), nth)
            run(root, sweep.BAD_INPUT)
            (place / "ballast").unlink()
            return type_again(root, temp, EARLY, 1, "inline")
        finally:
            unmount(place)

    return fault


def read_only(root: Path, temp: Path) -> float:
    place = own_disk(root)
    try:
        Trap("open", r"ledger/.*\.jsonl$", lambda: test_disk.close(place), 2)
        folders = folders_of(root)
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            assert command(root) == sweep.BAD_INPUT
        subprocess.run(["umount", str(place)], check=True)
        folders.lock.unlink()
        return type_again(root, temp, EARLY, 1, "inline")
    finally:
        unmount(place)


def own_disk(root: Path) -> Path:
    place, content = root / "results", root / "content"
    place.rename(content)
    place.mkdir()
    faulty.mount("-t", "tmpfs", "-o", "size=32m", "dpsweep-test", str(place))
    shutil.copytree(content, place, dirs_exist_ok=True)
    return place


def unmount(place: Path) -> None:
    while subprocess.run(["umount", "--lazy", str(place)], capture_output=True, check=False).returncode == 0:
        pass


def damaged_checkpoint(root: Path, temp: Path) -> float:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        folders = test_damage.interrupt(root)
    for checkpoint in folders.checkpoints.glob("*.pt"):
        test_damage.cut(checkpoint)
    return type_again(root, temp, EARLY, 1, "inline")


def damaged(pattern: str, harm: Callable[[Path], object], *again: str) -> Callable[[Path, Path], float]:
    """A finished sweep, one of whose files is harmed; ``again`` makes the next command use it."""

    def fault(root: Path, temp: Path) -> float:
        folders = folders_of(root)
        run(root, sweep.OK)
        shutil.rmtree(folders.compacted)
        (path,) = folders.root.glob(pattern)
        whole = path.read_bytes()
        harm(path)
        if "generators" in pattern or "ledger" in pattern:  # refused; what only a copy brings back comes back
            run(root, sweep.FAILED if again else sweep.BAD_INPUT, *again)
            path.write_bytes(whole)
            again_now = (*again, "--retry-failed") if again else ("--set", "evaluate.samples=30")
            return type_again(root, temp, COMPLETED, 1, "inline", *again_now)
        if "end.json" in pattern:
            run(root, sweep.BAD_INPUT)
            path.unlink()
        return type_again(root, temp, COMPLETED, 1, "inline", *again)

    return fault


def damaged_stage(root: Path, temp: Path) -> float:
    (reference,) = folders_of(root).stages.glob("reference-*/memorization.safetensors")
    test_damage.flip(reference)
    return type_again(root, temp, COMPLETED, 1, "inline")


def vanished_ledger(root: Path, temp: Path) -> float:
    folders = folders_of(root)
    Trap("open", r"ledger/.*\.jsonl$", lambda: folders.ledger.rename(root / "away"), 3)
    run(root, sweep.BAD_INPUT)
    run(root, sweep.BAD_INPUT)
    shutil.rmtree(folders.ledger, ignore_errors=True)
    (root / "away").rename(folders.ledger)
    return type_again(root, temp, EARLY, 1, "inline")


def two_commands(root: Path, temp: Path) -> float:
    folders = folders_of(root)
    folders.make_private()
    holder = [sys.executable, "-c", HOLDER, str(folders.lock)]
    process = subprocess.Popen(holder, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    with contextlib.redirect_stderr(io.StringIO()) as told:
        assert command(root) == sweep.BAD_INPUT
    assert f"process {process.pid}" in told.getvalue()
    process.kill()
    process.wait()
    return type_again(root, temp, COMPLETED, 1, "inline")


HOLDER = (
    "import pathlib, sys, time; from harness.lock import DriverLock; lock = DriverLock(pathlib.Path(sys.argv[1])); "
    "lock.__enter__(); print('held', flush=True); time.sleep(600)"
)


def diverges(root: Path, temp: Path) -> float:
    run(root, sweep.FAILED, "--set", "train.learning_rate=3.2e37")
    (row,) = store.read(folders_of(root).sweep).trials.to_dict("records")
    assert "the training has diverged" in row["message"]
    shutil.rmtree(folders_of(root).sweep)
    shutil.rmtree(folders_of(root).ledger)
    return type_again(root, temp, COMPLETED, 1, "inline")


FAULTS: dict[str, tuple[str, Callable[[Path, Path], float]]] = {
    "kill -9 of a trial": ("closed as lost and started again from its checkpoint by the same command", kill_trial),
    "kill -9 of the command": ("Ray and the trials end with it; the next one closes its attempts as lost", kill_driver),
    "kill -9 of the raylet": ("the command ends with a sentence, and all that it started", kill_ray("raylet")),
    "kill -9 of Ray's head (GCS)": ("the command ends with a sentence, and all that it started", kill_ray("gcs_server")),
    "Ctrl-C": ("trials write a checkpoint; no step is done twice", signals(signal.SIGINT)),
    "SIGTERM": ("as Ctrl-C", signals(signal.SIGTERM)),
    "Ctrl-C twice": ("ends at once; open reservations count whole", signals(signal.SIGINT, signal.SIGINT)),
    "results moved away": ("ends with a sentence; nothing is begun in a new folder", move_results),
    "disk full: a checkpoint": ("ends with a sentence; the attempt is lost, its reservations count", disk_full("a checkpoint")),
    "disk full: samples": ("the same; the training is not repeated", disk_full("the samples")),
    "disk full: the end record": ("the same; the training is not repeated", disk_full("the end record")),
    "results read-only": ("ends with a sentence; --status still works", read_only),
    "checkpoint damaged": ("set aside; begins at step 0 within what is left of its budget", damaged_checkpoint),
    "row damaged": ("the kept generator is evaluated again", damaged("faults/trials/*.parquet", test_damage.flip)),
    "samples damaged": ("drawn again from the kept generator", damaged("faults/samples/*.parquet", test_damage.flip)),
    "generator damaged": (
        "refused where it is needed; its row stays; goes on once a copy is back",
        damaged("faults/generators/*.safetensors", test_damage.flip, "--set", "evaluate.samples=30"),
    ),
    "stage damaged": ("set aside and computed again", damaged_stage),
    "end record damaged": (
        "refused by name; once deleted, the attempt counts as lost and its generator is evaluated",
        damaged("faults/attempts/*/1.end.json", test_damage.cut),
    ),
    "ledger damaged": (
        "refused by every command until a copy is back",
        damaged("ledger/*/faults/*.jsonl", lambda path: test_vanished.cut(path.parent, 1)),
    ),
    "ledger vanished": ("the trial stops; refused by every command until it is back", vanished_ledger),
    "two commands": ("the second is refused, and told who holds the sweep since when", two_commands),
    "NaN": ("the trial fails with a sentence and its releases stay counted; others go on", diverges),
}


def main() -> None:
    """Run every fault, or those named, in a folder of its own and print the table."""
    chosen = sys.argv[1:] or list(FAULTS)
    print("| fault | what happens | seconds until the work goes on |\n|---|---|---:|")
    with tempfile.TemporaryDirectory(prefix="f", dir="/tmp") as folder:
        temp = Path(folder)
        shared = temp / "shared"
        shared.mkdir()
        (shared / "faults.yaml").write_text(faulty.FILE)
        run(shared, sweep.OK)
        for name in ("faults", "ledger"):
            shutil.rmtree(shared / "results" / name)
        for number, name in enumerate(chosen):
            what, fault = FAULTS[name]
            root = temp / str(number)
            shutil.copytree(shared, root)
            try:
                seconds = f"{fault(root, temp):.1f}"
            except pytest.skip.Exception as reason:
                seconds = f"not tried: {reason}"
            Trap.armed.clear()
            print(f"| {name} | {what} | {seconds} |", flush=True)


if __name__ == "__main__":
    main()
