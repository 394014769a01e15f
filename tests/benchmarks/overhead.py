"""What the harness adds to a trial: a sweep of real trials, against the same trials through Ray Tune alone.

    python tests/benchmarks/overhead.py

Both commands start a Ray of their own, give every trial a fresh process of one core, and train and evaluate the same private
generators of scikit-learn's digits from the same shared files: seconds, so that what is around them is seen. The plain one is
the script that one would write without the harness: settings in, metrics out, Tune's own loggers off. It keeps no account,
checkpoint, generator, log or image, and nothing of it can be resumed. Seconds are those of the clock, commands in turn.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

STEPS, SAMPLES, AT_ONCE = 20, 500, 2
FILE = f"""
name: overhead
method: dp_energy
preset: digits
data: {{source: digits, public: true}}
privacy: {{epsilon: 10, accountant: pld}}
train: {{steps: {STEPS}}}
evaluate: {{samples: {SAMPLES}}}
seeds: [0]
"""


def main() -> None:
    command = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_argument("--trials", type=int, default=10, metavar="N", help="of each command (default: 10)")
    command.add_argument("--rounds", type=int, default=2, metavar="N", help="commands of each kind (default: 2)")
    command.add_argument("--json", action="store_true", help="print rows for tests/benchmarks/bench.py")
    arguments = command.parse_args()
    with tempfile.TemporaryDirectory(prefix="overhead-") as folder:
        row = measured(Path(folder), arguments.trials, arguments.rounds)
    print(json.dumps([row]) if arguments.json else row)


def measured(folder: Path, trials: int, rounds: int) -> dict[str, Any]:
    """Seconds a trial on both sides, as a row of the table."""
    file, results = folder / "overhead.yaml", folder / "results"
    file.write_text(FILE)
    timed(sweep(file, results))  # the stage and the calibrated noise, which both sides then find
    sides: dict[str, list[float]] = {"harness": [], "plain": []}
    for number in range(rounds):
        seeds = list(range(1 + number * trials, 1 + (number + 1) * trials))
        of_one = ["--set", f"seeds={seeds}", "--max-concurrent", str(AT_ONCE)]
        sides["harness"].append(timed([*sweep(file, results), *of_one]) / trials)
        script = str(Path(__file__).parent / "plain_tune.py")
        plain = [script, str(results), str(folder / f"tune{number}"), str(SAMPLES), json.dumps(seeds)]
        sides["plain"].append(timed(plain) / trials)
    ours, plain_s = (statistics.median(sides[name]) for name in ("harness", "plain"))
    inside = trained(results)
    return {
        "name": f"a trial of {inside:.1f} s: one of {trials} in a sweep, through Ray Tune alone",
        "ours_s": ours,
        "plain_s": plain_s,
        "ratio": ours / plain_s,
        "aim": "at most 1.1",
        "bound": "starts of processes and imports",
    }


def sweep(file: Path, results: Path) -> list[str]:
    return ["-m", "harness.sweep", str(file), "--results", str(results)]


def trained(results: Path) -> float:
    """Seconds that a trial trains and is evaluated, the median of all trials."""
    from harness import store

    trials = store.read(results / "overhead").trials
    assert set(trials.status) == {"completed"}
    return float((trials.train_seconds + trials.evaluate_seconds).median())


def timed(command: list[str]) -> float:
    """Seconds that Python takes with these arguments, one thread a process."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *command], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"python {' '.join(command)} ended with {done.returncode}:\n{done.stdout}")
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
