"""A folder of a thousand trials, to time what reads one: rows of a sweep that ran, copied to other settings and seeds.

    python tests/benchmarks/many_trials.py results/grid_recon_cpu /tmp/many
    time python -m analysis.report /tmp/many/results/many

Epsilons and samples are those of the copied trials; metrics have noise and an effect of the settings added. Nothing was
trained.
"""

from __future__ import annotations

import hashlib
import json
import sys
from itertools import product
from pathlib import Path

import numpy as np

from harness import store
from harness.folders import Folders, create_json, write_json

CASES, VALUES, SEEDS = ("a", "b"), (0, 0.1, 0.2, 0.5, 1, 1.5, 2), 10  # 2 x 7 x 7 x 10 = 980 trials


def main(template: Path, root: Path) -> None:
    source, folders = store.folders_of(template), Folders(root / "results", "many")
    tables = {name: store.read_committed(source, name).to_pylist() for name in ("trials", "history", "samples")}
    rng = np.random.default_rng(0)
    document = json.loads((template / "sweep.json").read_text())
    document["sweep"] |= {"name": "many", "axes": {"noise_injection": list(VALUES), "reconstruction": list(VALUES)}, "zip": []}
    for number, (case, noise, reconstruction, seed) in enumerate(product(CASES, VALUES, VALUES, range(SEEDS))):
        trial = dict(tables["trials"][number % len(tables["trials"])])
        old, new = trial["trial_id"], hashlib.sha256(str(number).encode()).hexdigest()[:12]
        axes = {"noise_injection": noise, "reconstruction": reconstruction}
        cell = f"{case} noise_injection={noise} reconstruction={reconstruction}"
        trial |= {"trial_id": new, "cell_id": hashlib.sha256(cell.encode()).hexdigest()[:12], "sweep": "many", "case": case}
        trial |= {"label": f"{cell} seed={seed}", "seed": seed, "axes": json.dumps(axes)}
        trial["config"] = json.dumps(json.loads(trial["config"]) | axes)
        effect = 0.05 * (case == "b") + 0.03 * min(reconstruction, 1) + 0.01 * rng.normal()
        trial |= {name: trial[name] * (1 + effect) for name in trial if name.startswith("gen2real") and trial[name] is not None}
        rows = {
            "trials": [trial],
            **{
                name: [row | {"trial_id": new} for row in tables[name] if row["trial_id"] == old]
                for name in ("history", "samples")
            },
        }
        parts = [store.write_part(folders, name, f"{new}.1", found) for name, found in rows.items()]
        attempt = {"trial_id": new, "attempt": 1}
        start = {"kind": "train", "host": "nowhere", "pid": 1, "started": 1.7e9 + 60 * number, "plan": "", "account": None}
        create_json(folders.attempts / new / "1.start.json", attempt | start)
        create_json(
            folders.attempts / new / "1.end.json",
            attempt | {"status": "completed", "message": None, "ended": 1.7e9 + 60 * number + 55, "parts": parts},
        )
    document["totals"] |= {"trials": number + 1, "done": number + 1}
    write_json(folders.sweep / "sweep.json", document)
    store.compact(folders)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python tests/benchmarks/many_trials.py results/NAME NEW_FOLDER")
    main(Path(sys.argv[1]), Path(sys.argv[2]))
