"""What the command prints and leaves beside the tables: plan, status, results, contact sheet, ``sweep.json``."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from trainables.evaluation.metrics import METRICS

from .compacted import uncollected
from .composition import Composition, compose
from .documents import WAYS, finite, plan_summary, price_entries
from .folders import write_json
from .ledger import lineage_accounts, unfinished_selections
from .lock import holder
from .plan import Plan, PlannedTrial
from .snapshot import provenance
from .stages import failure
from .totals import with_releases

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from .audit_rows import AuditRow
    from .spec import Sweep

MOST_ROWS = 60
STATUS_METRICS = ("gen2real_cnn", "fd_dataset_classifier", "is_dataset_classifier", "fid_inception")
"""What --status has room for beside a trial's label; the closing table and the JSON have all."""


def as_wide_as_needed(console: Console) -> Console:
    """``console``, but where the output is no terminal one that cuts no line."""
    from rich.console import Console

    if console.is_terminal:
        return console
    return Console(file=console.file, width=200, color_system=None, markup=False, emoji=False, highlight=False)


def _print_whole(table: Table, console: Console) -> None:
    """Print ``table`` and cut no digit: where its columns need more than the terminal has, the terminal breaks the lines."""
    from rich.console import Console

    needed = 0
    for column in table.columns:
        lines = [line for text in (column.header, *column.cells) for line in str(text).splitlines()]
        width = max(map(len, lines))
        needed += (width if column.no_wrap else min(width, 6)) + 2
    if needed > console.width:
        console = Console(file=console.file, width=needed, color_system=None, markup=False, emoji=False, highlight=False)
    console.print(table)


def print_plan(plan: Plan, console: Console) -> None:
    """A row a cell: seeds, how many are done, noise, epsilon and its proof, estimated time and memory; then the totals."""
    from rich.table import Table

    console = as_wide_as_needed(console)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name, justify in _PLAN_COLUMNS.items():
        table.add_column(name, justify=justify, overflow="fold", no_wrap=name not in ("cell", "proof"))
    cells: dict[str, list[PlannedTrial]] = {}
    for trial in plan.trials:
        cells.setdefault(trial.cell_id, []).append(trial)
    for trials in list(cells.values())[:MOST_ROWS]:
        table.add_row(*_plan_row(plan, trials))
    console.print(f"sweep {plan.folders.name}")
    _print_whole(table, console)
    if len(cells) > MOST_ROWS:
        console.print(f"... and {len(cells) - MOST_ROWS} more cells; --dry-run --json prints all of them")
    counts = Counter(trial.action for trial in plan.trials)
    words = {
        "train": "to train",
        "evaluate": "to evaluate again",
        "left": "left out by --only",
        "running": "running",
        "done": "done",
        "failed": "failed (--retry-failed runs them again)",
        "lost_cause": "failed for good (their privacy account was violated)",
        "infeasible": "infeasible",
    }
    total = ", ".join(f"{counts[action]} {text}" for action, text in words.items() if counts[action])
    stages = f"; {_count(len(plan.stages), 'shared stage')} to compute" if plan.stages else ""
    console.print(f"{_count(len(plan.trials), 'trial')}: {total}{stages}.")
    for seen in plan.compositions:
        if seen.trials > 1 or len(plan.compositions) > 1:
            console.print(f"Whoever sees all {seen.trials} generators has seen {_composed(seen)}.")
    for trial in plan.trials:
        if trial.problem:
            console.print(f"infeasible: {trial.spec.label}: {trial.problem}")
    for note in plan.notes:
        console.print(f"note: {note}")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' if number != 1 else ''}"


def _composed(seen: Composition) -> str:
    epsilon = f"{seen.epsilon:.4g}" if finite(seen.epsilon) is not None else "unbounded"
    return f"epsilon {epsilon} (delta {seen.delta:g}, {seen.neighbours}, {seen.accountant}, by composition)"


_PLAN_COLUMNS: dict[str, Any] = {
    "cell": "left",
    "seeds": "right",
    "done": "right",
    "noise\nmultiplier": "right",
    "effective": "right",
    "epsilon": "right",
    "proof": "left",
    "minutes": "right",
    "memory": "right",
}


def _plan_row(plan: Plan, trials: Sequence[PlannedTrial]) -> list[str]:
    first = trials[0]
    done = sum(trial.action == "done" for trial in trials)
    label = first.spec.label if first.control else first.spec.label.rpartition(" seed=")[0] or first.spec.label
    row = [label, str(len(trials)), str(done)]
    if first.account is None:
        return [*row, "-", "-", "infeasible", "-", "-", "-"]
    mechanisms = [phase.mechanism for phase in first.account.phases if phase.releases]
    request = first.spec.privacy
    epsilon = first.account.epsilon(request.accountant)
    spent = f"{epsilon:.4g}" if finite(epsilon) is not None else "none"
    bounded = request.target_epsilon is not None and mechanisms
    target = f" of {request.target_epsilon:g}" if bounded else ""
    claim = f" ({first.account.epsilon_published:.4g} claimed)" if request.published_noise else ""
    estimates = [plan.estimates.of(trial) for trial in trials if trial.action in ("train", "evaluate")]
    seconds = [estimate["seconds"] for estimate in estimates]
    memory = [estimate["memory_mb"] for estimate in estimates if estimate["memory_mb"]]
    known = [value for value in seconds if value is not None]
    minutes = f"{sum(known) / 60:.1f}" if len(known) == len(seconds) else "unknown"
    return [
        *row,
        " + ".join(f"{mechanism.noise_multiplier:.4g}" for mechanism in mechanisms) or "-",
        " + ".join(f"{mechanism.effective_noise_multiplier:.4g}" for mechanism in mechanisms) or "-",
        spent + target + claim,
        first.account.proof,
        minutes,
        f"{max(memory):.0f} MB" if memory else ("-" if not estimates else "unknown"),
    ]


@uncollected()
def status_document(plan: Plan, *, metrics_of: int | None = None) -> dict[str, Any]:
    """How far the sweep is: a status a trial, counts, and what the data set has paid in all sweeps under the root.

    Metrics are those of the first ``metrics_of`` trials, or of all: a row that is not in the compacted copy is a file.
    """
    from . import store

    rows = _rows(plan, plan.trials[:metrics_of])
    trials = []
    for trial in plan.trials:
        records = plan.attempts.get(trial.trial_id, ())
        end = records[-1].end if records else None
        message = (end or {}).get("message")
        log = str(plan.folders.log(trial.trial_id, records[-1].number)) if records else None
        trials.append(
            {
                "trial_id": trial.trial_id,
                "label": trial.spec.label,
                "status": trial.status,
                "action": trial.action,
                "attempts": len(records),
                "message": message,
                "log": log,
                "metrics": {name: rows.get(trial.trial_id, {}).get(name) for name in METRICS},
            }
        )
    lineages = {trial.data.lineage for trial in plan.trials}
    running = holder(plan.folders.lock) is not None
    return {
        "sweep": plan.folders.name,
        "trials": trials,
        "real": store.real_rows(rows.values()),
        "failed_stages": [] if running else failed_stages(plan),
        "totals": dict(Counter(trial["status"] for trial in trials)),
        "driver": _driver(plan),
        "lineages": {
            lineage: [{**asdict(part), "epsilon": finite(part.epsilon)} for part in lineage_account(plan, lineage)]
            for lineage in sorted(lineages)
        },
        "unfinished_selections": {
            lineage: len(unfinished_selections(plan.folders.root, lineage)) for lineage in sorted(lineages)
        },
    }


def failed_stages(plan: Plan) -> list[dict[str, Any]]:
    """Stages that could not be computed, with the trials that wait for them; for when no command is running any job."""
    found = []
    for identifier, (stage, _) in plan.stages.items():
        message = failure(plan.folders, identifier)
        if message is not None:
            waiting = [trial_id for trial_id, needed in plan.needs.items() if identifier in needed]
            log = str(plan.folders.stage_log(identifier))
            found.append({"stage": stage.name, "id": identifier, "message": message, "log": log, "waiting": waiting})
    return found


def _print_audits(audits: Sequence[AuditRow], console: Console) -> None:
    """A row a cell and score, and what each says; nothing where no trial was audited."""
    from rich.table import Table

    if not audits:
        return
    first = audits[0]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name, justify in (("cell", "left"), ("score", "left"), *((name, "right") for name in _AUDIT_COLUMNS)):
        table.add_column(name, justify=justify, no_wrap=name != "cell")  # type: ignore[arg-type]
    for row in audits[:MOST_ROWS]:
        table.add_row(
            row.cell,
            row.score,
            "none" if row.epsilon is None else f"{row.epsilon:.4g}",
            ", ".join(map(str, row.right)),
            ", ".join(f"{bound:.3g}" for bound in row.bounds),
            f"{row.highest:.3g}",
            "" if row.control is None else f"{row.control:.3g}",
        )
    console.print(
        f"\nAudit: lower bounds on epsilon at {first.confidence:.0%} confidence each, from {first.guesses} guesses at "
        f"{first.canaries} canaries (for the owner of the data alone)",
        soft_wrap=True,
    )
    _print_whole(table, console)
    for row in audits[:MOST_ROWS]:
        console.print(f"{row.cell}, {row.score}: {row.verdict}", soft_wrap=True)


_AUDIT_COLUMNS = ("epsilon", "right", "bound", "at most", "control")


def _print_failed_stages(failed: Sequence[Mapping[str, Any]], console: Console) -> None:
    for stage in failed:
        trials = "1 trial waits" if len(stage["waiting"]) == 1 else f"{len(stage['waiting'])} trials wait"
        reason = f"{trials} for stage {stage['stage']}, which failed: {stage['message']}"
        console.print(f"{reason}\n  log: {stage['log']}", soft_wrap=True)


def lineage_account(plan: Plan, lineage: str) -> list[Composition]:
    """What all attempts of all sweeps under the root have spent on a data set, an entry a neighbouring relation.

    Without the trials of private selections that have not ended, of which nobody is to know how many there are.
    """
    root = plan.folders.root
    accounts = lineage_accounts(root, lineage, {plan.folders.name: plan.accounts}, without=unfinished_selections(root, lineage))
    delta = min(trial.spec.privacy.delta for trial in plan.trials)
    found = compose(plan.calibrations, with_releases(accounts, plan.releases), delta=delta, accountant="pld")
    plan.calibrations.save()
    return found


def print_status(plan: Plan, document: Mapping[str, Any], console: Console) -> None:
    """The status as a table with what is measured so far, real images last; failures with the place of their log."""
    from rich.table import Table

    from .progress import METRIC_HEADINGS, metric_text

    console = as_wide_as_needed(console)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("trial", "label", "status", "attempts"):
        table.add_column(name)
    measured = [trial["metrics"] for trial in document["trials"]]
    shown = [name for name in STATUS_METRICS if any(metrics[name] is not None for metrics in measured)]
    for name in shown:
        table.add_column(METRIC_HEADINGS[name], justify="right")

    def cells(metrics: Mapping[str, Any]) -> list[str]:
        return ["" if metrics[name] is None else metric_text(name, metrics[name]) for name in shown]

    console.print(f"sweep {document['sweep']}")
    for trial in document["trials"][:MOST_ROWS]:
        words = trial["trial_id"], trial["label"], trial["status"], str(trial["attempts"])
        table.add_row(*words, *cells(trial["metrics"]))
    for real in document["real"]:
        table.add_row("", real_label(real, document["real"]), "", "", *cells(real))
    console.print(table)
    _print_private_note(plan, shown, document["real"], console)
    if len(document["trials"]) > MOST_ROWS:
        console.print(f"... and {len(document['trials']) - MOST_ROWS} more; --status --json prints all of them")
    console.print(", ".join(f"{count} {status}" for status, count in document["totals"].items()) + f"; {document['driver']}")
    for trial in document["trials"]:
        if trial["status"] in ("failed", "oom", "lost"):
            console.print(f"{trial['status']}: {trial['label']}: {trial['message']}\n  log: {trial['log']}")
    _print_failed_stages(document["failed_stages"], console)
    for lineage, parts in document["lineages"].items():
        for part in parts:
            epsilon = "unbounded" if part["epsilon"] is None else f"{part['epsilon']:.4g}"
            trials = _count(part["trials"], "trial")
            spent = f"{trials} on record {'has' if part['trials'] == 1 else 'have'} spent epsilon {epsilon} in all"
            console.print(f"Data set {lineage}: {spent} (delta {part['delta']:g}, {part['neighbours']}).")
        selections = document["unfinished_selections"][lineage]
        if not parts and not selections:
            console.print(f"Data set {lineage}: nothing has been spent on it yet.")
        if selections:
            begun = f"{_count(selections, 'private selection')} not ended"
            more = " and comes on top of that" if parts else ""
            console.print(f"Data set {lineage}: {begun}; what its trials have spent so far is kept secret{more}.")


def _print_private_note(plan: Plan, shown: Sequence[str], real: Sequence[Any], console: Console) -> None:
    """What a reader of a table with these columns and rows of real images has to know before choosing by them."""
    if all(trial.data.public for trial in plan.trials) or not (real or any(METRICS[name].private for name in shown)):
        return
    console.print(
        "real2gen, fd, fid, kid, the is of the data set's classifier and the row of real images are measured with the "
        "private training set, without noise: choosing a trial by them is covered by no epsilon; gen2real is free if the "
        "test set is public."
    )


def _print_prices(plan: Plan, console: Console) -> None:
    """What choosing the best of the trials costs; nothing while trials are left to do, or where there is no choice."""
    if plan.to_do or not plan.prices:
        return
    from rich.table import Table

    first = plan.prices[0]
    target = first["target_epsilon"]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(f"price of choosing from {first['trials']:g} (delta {first['delta']:g}, {first['accountant']})")
    table.add_column("epsilon", justify="right")
    if target is not None:
        table.add_column(f"each trial at, to keep it at {target:g}", justify="right")
    relations = {price["neighbours"] for price in plan.prices}
    for price in plan.prices:
        words = WAYS[price["way"]]
        many = f"{words} ({price['trials']:g} trials, {price['neighbours']})"
        row = [many if len(relations) > 1 else words, f"{price['epsilon']:.4g}"]
        table.add_row(*row, *([f"{price['base_epsilon']:.4g}"] if target is not None else []))
    console.print()
    as_wide_as_needed(console).print(table)
    console.print(
        "A generator that was named before any was seen has its own epsilon. All of this sweep can be seen: choosing from it "
        "costs the first line. The others are what `search: {strategy: random_best}` would have cost, at a mean of as many.",
        soft_wrap=True,
    )


def real_label(real: Mapping[str, Any], among: Sequence[Mapping[str, Any]]) -> str:
    """``real images (10,000)``, with the source where there are several."""
    several = len({row["data_fingerprint"] for row in among}) > 1
    return f"real images ({real['n']:,})" + (f" of {real['data_source']}" if several else "")


def _rows(plan: Plan, trials: Sequence[PlannedTrial]) -> dict[str, dict[str, Any]]:
    """Trial id -> row of the trials table, of those ``trials`` that have one."""
    from . import store

    attempts = {trial.trial_id: plan.attempts[trial.trial_id] for trial in trials if trial.trial_id in plan.attempts}
    return {row["trial_id"]: row for row in store.read_committed(plan.folders, "trials", attempts).to_pylist()}


def _driver(plan: Plan) -> str:
    found = holder(plan.folders.lock)
    return f"process {found['pid']} on {found['host']} is running it" if found else "no command is running it"


def write_sweep_record(plan: Plan, sweep: Sweep) -> None:
    """``sweep.json``: the file as resolved, what changed it, the plan's totals with the price of composition, provenance.

    Once nothing is left to do, also the price of choosing (``totals.price``).
    """
    summary = plan_summary(plan)
    if not plan.to_do:
        summary["totals"]["price"] = price_entries(plan)
    planted = {trial.data.audit["coins"]: trial.data.fingerprint for trial in plan.trials if trial.data.audit}
    write_json(
        plan.folders.sweep / "sweep.json",
        {
            "sweep": sweep.spec.model_dump(mode="json"),
            "file": sweep.document.file,
            "set": [override.text for override in sweep.document.overrides],
            **summary,
            "provenance": provenance(),
            **({"audits": planted} if planted else {}),
        },
    )


def print_results(plan: Plan, console: Console) -> None:
    """Summary table, failures, contact sheet, and the path of everything written."""
    from . import store
    from .pictures import write_contact_sheet
    from .progress import summary

    rows = _rows(plan, plan.trials)
    ids = [trial.trial_id for trial in plan.trials]
    shown = []
    for trial in plan.trials:
        row = rows.get(trial.trial_id, {"label": trial.spec.label})
        seconds = sum(row.get(name) or 0.0 for name in ("train_seconds", "evaluate_seconds"))
        shown.append({**row, "status": trial.status, "seconds": seconds or None})
    real = store.real_rows(rows.values())
    shown += [{"label": real_label(row, real), "status": "", **row} for row in real]
    console.print()
    summary(shown, console)
    _print_private_note(plan, [name for name in METRICS if any(row.get(name) is not None for row in shown)], real, console)
    _print_audits(store.audit_rows(rows.values()), console)
    _print_failed_stages(failed_stages(plan), console)
    _print_prices(plan, console)
    folder = plan.folders.sweep
    sheet = write_contact_sheet(plan, [row for row in map(rows.get, ids) if row])
    written = {"tables": f"{folder}/{{trials,history,samples,attempts}}/*.parquet", "generators": str(folder / "generators")}
    written |= {"contact sheet": str(sheet)} if sheet else {}
    written |= {"report": f"python -m analysis.report {shlex.quote(str(folder))}"}
    written |= {"in Python": f'from harness.store import read; read("{folder}").trials'}
    console.print()
    for name, place in written.items():
        console.print(f"{name:>14}: {place}", soft_wrap=True, highlight=False)
