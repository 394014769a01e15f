"""A sweep folder of any number of attempts, in exactly the form that trials leave: one trial runs, the others are copies of it.

Every copied trial has the id, the settings and the noise that the plan gives it, so the command takes the folder for its own.
What ``--status`` reads is all there; generators, samples and history are those of the one trial that ran.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from harness import store
from harness.documents import privacy_document
from harness.expand import expand
from harness.folders import Folders
from harness.plan import Plan, PlannedTrial, make_plan
from harness.spec import load_sweep
from harness.sweep import main as command

FILE = """
name: {name}
method: dp_energy
preset: digits
data: {{source: digits, public: true}}
privacy: {{accountant: pld}}
train: {{steps: 40, slots: 20, generator_channels: 4}}
axes: {axes}
seeds: {seeds}
evaluate: {{samples: 100}}
keep_samples: 10
"""
SEEDS, EPSILONS = 10, [10, 3]
ENDINGS = ("completed", "interrupted", "lost")
"""Of a trial's attempts, from the last one back."""


def make(root: Path, trials: int, each: int) -> tuple[Path, Folders, int]:
    """Make a sweep of about so many trials, with ``each`` attempts, under ``root/results``.

    Returns its file, its folders and the number of its trials, a little more than ``trials``.
    """
    cells = math.ceil(trials / SEEDS / len(EPSILONS))
    root_of_cells = math.isqrt(cells)
    side = min(range(root_of_cells // 2 + 1, root_of_cells + 1), key=lambda side: math.ceil(cells / side) * side)
    axes = {"privacy.epsilon": EPSILONS, "noise_injection": _values(side), "reconstruction": _values(math.ceil(cells / side))}
    root.mkdir(parents=True, exist_ok=True)
    one, many = root / "one.yaml", root / "many.yaml"
    one.write_text(FILE.format(name="one", axes={"privacy.epsilon": [10]}, seeds=1))
    many.write_text(FILE.format(name="many", axes=json.dumps(axes), seeds=SEEDS))
    results = root / "results"
    if command([str(one), "--on", "inline", "--results", str(results)]):
        raise SystemExit("the trial to copy from did not run")
    folders = Folders(results, "many")
    plan = make_plan(folders, expand(load_sweep(many)))
    os.fsync = lambda descriptor: None  # nothing here has to survive a crash
    template = _Template(Folders(results, "one"))
    for folder in (folders.attempts, folders.table("trials"), folders.table("history"), *_ledgers(plan)):
        folder.mkdir(parents=True, exist_ok=True)
    copies = [_settings(trial) for trial in plan.trials]
    with get_context("fork").Pool(2) as pool:
        pool.starmap(_copy, [(template, folders, copies[start::100], each) for start in range(100)])
    return many, folders, len(plan.trials)


def _settings(trial: PlannedTrial) -> dict[str, Any]:
    """What a copied trial has of its own: columns of its row, and the mechanism that its account begins with."""
    spec = trial.spec
    row = {"trial_id": trial.trial_id, "cell_id": trial.cell_id, "label": spec.label, "seed": spec.seed}
    row |= {"axes": json.dumps(dict(spec.axes)), "config": json.dumps(spec.config_json)}
    row["target_epsilon"] = spec.privacy.epsilon
    return {"row": row, "mechanism": privacy_document(trial)["mechanism"]}


class _Template:
    """What the one trial has left: its rows and its records as text."""

    def __init__(self, folders: Folders) -> None:
        (row,) = store.read_committed(folders, "trials").to_pylist()
        self.row: dict[str, Any] = row
        self.history = store.read_committed(folders, "history").to_pylist()
        directory = folders.attempts / row["trial_id"]
        self.start, self.end = (json.loads((directory / f"1.{name}.json").read_text()) for name in ("start", "end"))
        (account,) = (folders.ledger / row["lineage"] / folders.name).glob("*.jsonl")
        self.said = account.read_text().splitlines()[1:]
        """Reservations, and the true count, which an attempt that was lost has not said."""


def _copy(template: _Template, folders: Folders, copies: Sequence[Mapping[str, Any]], each: int) -> None:
    for settings in copies:
        trial_id = settings["row"]["trial_id"]
        directory = folders.attempts / trial_id
        directory.mkdir()
        for number in range(1, each + 1):
            identity = {"trial_id": trial_id, "attempt": number}
            status = ENDINGS[min(each - number, len(ENDINGS) - 1)]
            row = template.row | settings["row"] | identity | {"sweep": folders.name}
            rows = {"trials": [row], "history": [line | identity for line in template.history]}
            parts = [{"path": f"{table}/{trial_id}.{number}.parquet", "sha256": "0" * 64} for table in rows]
            if number == each:  # a command moves the parts of earlier attempts away
                parts = [store.write_part(folders, table, f"{trial_id}.{number}", found) for table, found in rows.items()]
            account = folders.ledger / template.row["lineage"] / folders.name / f"{trial_id}.{number}.jsonl"
            start = template.start | identity | {"account": str(account.relative_to(folders.root))}
            end = template.end | identity | {"status": status, "parts": parts}
            end |= {} if status == "completed" else {"evaluation_id": None, "message": f"{status}, as a benchmark has it"}
            (directory / f"{number}.start.json").write_text(json.dumps(start, indent=1))
            (directory / f"{number}.end.json").write_text(json.dumps(end, indent=1))
            header = json.dumps({**identity, "phases": settings["mechanism"]})
            said = template.said if status != "lost" else template.said[:-1]
            account.write_text("\n".join([header, *said]) + "\n")


def _ledgers(plan: Plan) -> list[Path]:
    return [plan.folders.ledger / lineage / plan.folders.name for lineage in {trial.data.lineage for trial in plan.trials}]


def _values(count: int) -> list[float]:
    return [round(0.01 * index, 2) for index in range(1, count + 1)]
