"""How long the harness takes where there is much of everything. Prints seconds and ratios; asserts what must be so anyhow.

    python tests/benchmarks/scale.py --attempts 100000             # what reads a sweep of 33,334 trials x 3 attempts
    python tests/benchmarks/scale.py --attempts 100000 --each 1
    python tests/benchmarks/scale.py --trials 1000                 # 1,000 jobs that do nothing on 64 virtual GPUs

Not a test: it takes minutes, some gigabytes of disk under ``--folder``, and a quiet machine.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import sweep_folder

from harness import ledger, store
from harness.expand import expand
from harness.folders import Folders
from harness.launch import new_launch, trial_jobs
from harness.lock import DriverLock
from harness.plan import make_plan
from harness.planfile import read_job
from harness.recovery import close_orphans, recover
from harness.screen import write_sweep_record
from harness.spec import load_sweep


def main() -> None:
    command = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = command.add_mutually_exclusive_group(required=True)
    what.add_argument("--attempts", type=int, metavar="N", help="a sweep folder of at least N attempts")
    what.add_argument("--trials", type=int, metavar="N", help="N trials that do nothing, through Ray")
    command.add_argument("--each", type=int, default=3, metavar="N", help="attempts a trial (default: 3)")
    command.add_argument(
        "--folder", type=Path, default=Path(tempfile.gettempdir()), help="where to work (default: the temp dir)"
    )
    arguments = command.parse_args()
    with tempfile.TemporaryDirectory(prefix="scale-", dir=arguments.folder) as folder:
        if arguments.attempts:
            read_a_large_sweep(Path(folder), arguments.attempts, arguments.each)
        else:
            from many_jobs import run_many_jobs

            run_many_jobs(Path(folder), arguments.trials, partial(print, flush=True))


def read_a_large_sweep(root: Path, attempts: int, each: int) -> None:
    """Make a sweep folder, then time the steps of a command that has nothing to do, and ``--status`` before and after it."""
    with timed("the folder made"):
        file, folders, trials = sweep_folder.make(root, -(-attempts // each), each)
    print(f"{trials} trials, {trials * each} attempts")
    before = status(file, folders, "--status, no command has ended yet")
    sweep = load_sweep(file)
    with DriverLock(folders.lock):
        step("recover", recover, folders)
        plan = step("make_plan", make_plan, folders, step("expand", expand, sweep))
        step("write_sweep_record", write_sweep_record, plan, sweep)
        step("close_orphans", close_orphans, folders)
        step("ledger.compact", ledger.compact, folders)
        step("store.tidy", store.tidy, folders)
        step("store.compact", store.compact, folders)
        step("make_plan, with copies", make_plan, folders, expand(sweep))
        step("store.compact, with copies", store.compact, folders)
    after = status(file, folders, "--status, after a command has ended")
    assert after == before, "copies change nothing"
    status(file, folders, "--status --json, after a command has ended", "--json")
    plan_from_nothing(root, file)


def plan_from_nothing(root: Path, file: Path) -> None:
    """Time a launch of all trials of the file up to where the executor takes over, and what a worker reads of it."""
    plan = step("make_plan, of a new sweep", make_plan, Folders(root / "new", "many"), expand(load_sweep(file)))
    path = step("new_launch", new_launch, plan, {})
    jobs = step("trial_jobs", trial_jobs, plan, plan.to_do)
    step("read_job, in a worker", read_job, path, jobs[len(jobs) // 2].id)


def status(file: Path, folders: Folders, name: str, *options: str) -> str:
    """What ``--status`` prints, timed from the start of its process to its end."""
    command = [sys.executable, "-m", "harness.sweep", str(file), "--status", "--results", str(folders.root), *options]
    with timed(name):
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    if "--json" in options:
        assert json.loads(done.stdout)["trials"]
    return done.stdout


def step(name: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function and print its time."""
    with timed(name):
        return function(*arguments)


@contextmanager
def timed(name: str) -> Iterator[None]:
    """Print how long a block took: by the clock, and on the processor in this process and its children."""
    began, used = time.perf_counter(), os.times()
    yield
    now = os.times()
    processor = sum(now[:4]) - sum(used[:4])
    print(f"{name:45s} {time.perf_counter() - began:9.3f} s  ({processor:.2f} s on the processor)", flush=True)


if __name__ == "__main__":
    main()
