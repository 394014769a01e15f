"""A grid of 12 cells as one sweep, against 12 runs of their own that share nothing. Seconds on the processor, one thread.

    python tests/benchmarks/grid.py             # 4 of the 12 separate runs, times 3
    python tests/benchmarks/grid.py --runs 12   # all of them

The cells are noise injection x reconstruction on scikit-learn's digits: the paper's method with trained critics, small, so
that pretraining takes several times as long as a trial (in the published size it is 45 hours to 4). A separate run has a
results folder of its own and pays for pretrained critics and encoders, the evaluation's reference, the calibrated noise,
decoded images and the start of a process. All commands run their jobs in their own process, one after the other.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from processes import measure

from harness import store

FILE = """
name: grid
method: ef_dpgan
preset: cpu
data: {source: digits, public: true}
privacy: {epsilon: 10, accountant: pld}
train:
  steps: 10
  shards: 40
  shards_per_step: 4
  generator_batch: 20
  matching: latent
  encoder: {channels: 4, steps: 60}
  critic:
    {kind: wgan_gp, channels: 8, steps: 2, batch: 16, fakes: shared, learning_rate: 3.0e-3,
     pretraining: {steps: 30, critic_steps: 3, generator: small, learning_rate: 1.0e-3}}
axes:
  noise_injection: [0, 0.1, 1]
  reconstruction: [0.5, 1, 1.5, 2]
evaluate: {samples: 500}
keep_samples: 10
"""
IMPORTS = "import harness.trial, torch._dynamo, trainables.evaluation.evaluate, trainables.sharded_gan.training"
"""What the process of a trial imports (torch's optimizers import ``torch._dynamo``)."""
CELLS = [(noise, reconstruction) for noise in (0, 0.1, 1) for reconstruction in (0.5, 1, 1.5, 2)]


def main() -> None:
    command = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_argument("--runs", type=int, choices=(1, 2, 3, 4, 6, 12), default=4, help="separate runs (default: 4)")
    command.add_argument("--json", action="store_true", help="print rows for tests/benchmarks/bench.py")
    arguments = command.parse_args()
    with tempfile.TemporaryDirectory(prefix="grid-") as folder:
        row = run(Path(folder), arguments.runs)
    print(json.dumps([row]) if arguments.json else row)


def run(folder: Path, runs: int) -> dict[str, object]:
    """Both ways in ``folder``; a row of the table."""
    file = folder / "grid.yaml"
    file.write_text(FILE)
    one = [*_sweep(file, folder / "one")]
    taken = measure(one)
    together, clock = taken.processor_s, taken.clock_s
    tables = store.read(folder / "one" / "grid")
    assert len(tables.trials) == len(CELLS)
    assert set(tables.trials.status) == {"completed"}
    stages = len(list((folder / "one" / "stages").iterdir()))
    assert stages == 3, f"critics, encoders and reference once: {stages} stages"
    separate = 0.0
    for number in range(0, len(CELLS), len(CELLS) // runs):
        noise, reconstruction = CELLS[number]
        axes = ["--set", f"axes.noise_injection=[{noise}]", "--set", f"axes.reconstruction=[{reconstruction}]"]
        separate += measure([*_sweep(file, folder / f"run{number}"), *axes]).processor_s
    separate *= len(CELLS) / runs
    start = measure(["-c", IMPORTS]).processor_s
    trials = tables.trials.train_seconds.sum() + tables.trials.evaluate_seconds.sum()
    return {
        "name": "a grid of 12 cells: one sweep, 12 separate runs",
        "ours_s": together,
        "plain_s": separate,
        "ratio": separate / together,
        "aim": "at least 5",
        "bound": f"training and evaluating the cells, {100 * trials / clock:.0f} %; "
        f"{11 * start:.0f} s of what is saved are imports",
    }


def _sweep(file: Path, results: Path) -> list[str]:
    return ["-m", "harness.sweep", str(file), "--on", "inline", "--results", str(results)]


if __name__ == "__main__":
    main()
