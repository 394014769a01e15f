"""What planning 100,000 trials takes, from the start of the command to its end.

    python tests/benchmarks/planning.py

400 cells x 250 seeds of the paper's method on scikit-learn's digits, four budgets: a dry run as a table and as JSON,
with calibrated noise to be found first, and the plan that workers read.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from processes import measure

FILE = """
name: many
method: ef_dpgan
preset: cpu
train: {shards: 40, shards_per_step: 4}
data: {source: digits}
privacy: {accountant: pld}
axes:
  noise_injection: [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
  reconstruction: [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
  privacy.epsilon: [10, 5, 3, 1]
seeds: 250
"""
LAUNCH = """
import sys
from pathlib import Path
from harness.expand import expand
from harness.folders import Folders
from harness.launch import new_launch, trial_jobs
from harness.plan import make_plan
from harness.spec import load_sweep

plan = make_plan(Folders(Path(sys.argv[2]), "many"), expand(load_sweep(sys.argv[1])))
new_launch(plan, {})
assert len(trial_jobs(plan, plan.to_do)) == 100_000
"""


def main() -> None:
    command = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_argument("--json", action="store_true", help="print rows for tests/benchmarks/bench.py")
    arguments = command.parse_args()
    with tempfile.TemporaryDirectory(prefix="planning-") as folder:
        file, results = Path(folder) / "many.yaml", Path(folder) / "results"
        file.write_text(FILE)
        dry = ["-m", "harness.sweep", str(file), "--dry-run", "--results", str(results)]
        ways = {"--dry-run": dry, "--dry-run --json": [*dry, "--json"], "a launch": ["-c", LAUNCH, str(file), str(results)]}
        rows = [
            {
                "name": f"planning 100,000 trials: {name}",
                "ours_s": taken.processor_s,
                "ours_mb": taken.memory_mb,
                "plain_s": None,
                "ratio": None,
                "aim": "under 60 s and 2 GB",
                "bound": "Python: a hash of the settings a trial",
            }
            for name, taken in ((name, measure(way)) for name, way in ways.items())
        ]
    print(json.dumps(rows) if arguments.json else "\n".join(map(str, rows)))


if __name__ == "__main__":
    main()
