"""Private selection: ``search: {strategy: random_best}`` runs a secret random number of trials and keeps the best one alone.

What makes the price of ``trainables.privacy.random_best`` true: the number of trials is drawn from the operating system's
entropy before the first begins, every trial draws its settings uniformly from the file's, and until the best is known all of
it (draws, scores, generators, logs) lies in ``ROOT/NAME/sealed``, which is deleted afterwards. Nothing on the way says how
many trials there are or how far they have come. What is left is one generator, one row, one entry in the ledger: the
selection. While it has not ended its trials are in the ledger one by one, as trials that anybody may have seen.
"""

from __future__ import annotations

import json
import math
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainables.evaluation.metrics import DETAILS, METRICS
from trainables.privacy import accounting, selection
from trainables.privacy.mechanism import Phase
from trainables.privacy.random_best import SHAPES, Repetitions

from . import store
from .accounts import Account
from .calibrations import Calibrations
from .document import InputError
from .documents import job_document
from .expand import TrialSpec
from .folders import Folders, create_json, sync_folder
from .ledger import (
    Attempt,
    LedgerError,
    read_attempts,
    read_trial_attempts,
    selection_name,
    sweep_accounts,
    trial_account,
)
from .lock import DriverLock, holder
from .plan import Plan, PlannedTrial, make_plan
from .planfile import write_plan
from .rows import trial_row
from .spec import SearchSpec, Sweep

if TYPE_CHECKING:
    from rich.console import Console

    from .jobs import Executor

_SEED_BITS = 48
_INTERRUPTED = "it was interrupted"


@dataclass(frozen=True, kw_only=True)
class Selection:
    """A selection as planned. Nothing here depends on the secret number of trials."""

    plan: Plan
    """Of one trial: the selection as a whole, whose budget is the file's."""
    settings: Sequence[TrialSpec]
    """What a trial may draw, at the budget of one trial."""
    phases: Sequence[tuple[Phase, ...]]
    """What a trial of each setting may release at most, its reserve included."""
    base_epsilon: float
    """The budget of one trial."""
    search: SearchSpec

    @property
    def folders(self) -> Folders:
        return self.plan.folders

    @property
    def trial(self) -> PlannedTrial:
        """The selection as a whole."""
        return self.plan.trials[0]

    @property
    def sealed(self) -> Folders:
        """Where its trials are while it has not ended, as a sweep of their own."""
        name = selection_name(self.folders.name, self.trial.trial_id)
        return Folders(self.folders.sealed / self.trial.trial_id, name)

    @property
    def repetitions(self) -> Repetitions:
        return Repetitions(shape=SHAPES[self.search.distribution], mean=self.search.mean_trials)


def plan_selection(folders: Folders, sweep: Sweep, specs: Sequence[TrialSpec]) -> Selection:
    """Plan the selection that a file with ``search`` asks for. Raises ``InputError`` where it would not be private."""
    search = sweep.spec.search
    assert search is not None
    _check(sweep, specs)
    whole = make_plan(folders, specs)
    _check_releases(sweep, whole)
    first = whole.trials[0]
    request = first.spec.privacy
    asked = {
        "mean_trials": search.mean_trials,
        "distribution": search.distribution,
        "target_epsilon": request.epsilon,
        "delta": request.delta,
        "accountant": request.accountant,
    }
    calibrations = Calibrations(folders.calibrations)
    parts = [(trial.account.phases, trial.account.reserve) for trial in whole.trials if trial.account]
    try:
        if not parts:
            raise accounting.InfeasibleBudget(first.problem or "no setting is within the budget")
        base = calibrations.base_epsilon(list(dict.fromkeys(parts)), **asked)
        settings, phases, account = _at_base(folders, specs, search, base, calibrations)
        base = settings[0].privacy.epsilon or base
    except accounting.InfeasibleBudget as error:
        raise InputError(sweep.document.problem(("search",), str(error), key=True)) from None
    calibrations.save()
    identity = {
        "search": search.model_dump(mode="json"),
        "cells": sorted({trial.cell_id for trial in whole.trials}),
        "seed": first.spec.seed,
    }
    planned = _planned(folders, replace(first, stages={}, account=account, problem=None), identity, len(whole.trials))
    notes = [*whole.notes, *_remarks(planned, search, base, len(whole.trials))]
    plan = Plan(
        folders=folders,
        trials=[planned],
        stages={},
        needs={},
        notes=notes,
        calibrations=calibrations,
        attempts=read_attempts(folders),
        accounts=sweep_accounts(folders),
        releases=whole.releases,
    )
    return Selection(plan=plan, settings=settings, phases=phases, base_epsilon=base, search=search)


def _at_base(
    folders: Folders, specs: Sequence[TrialSpec], search: SearchSpec, base: float, calibrations: Calibrations
) -> tuple[list[TrialSpec], list[tuple[Phase, ...]], Account]:
    """(specs, phases with reserve, account of the selection) with every trial at the budget ``base``."""
    request = specs[0].privacy
    assert request.epsilon is not None
    while True:
        settings = [replace(spec, privacy=request.model_copy(update={"epsilon": base})) for spec in specs]
        trials = make_plan(folders, settings).trials
        accounts = [trial.account for trial in trials]
        if not all(accounts):
            raise accounting.InfeasibleBudget(next(trial.problem for trial in trials if trial.problem) or "")
        phases = [selection.with_reserve(account.phases, account.reserve) for account in accounts if account]
        once = selection.selection_phase(phases, mean_trials=search.mean_trials, distribution=search.distribution)
        epsilons = {name: calibrations.epsilon([once], delta=request.delta, accountant=name) for name in ("pld", "rdp")}
        if epsilons[request.accountant] <= request.epsilon:
            account = Account(
                phases=(once,),
                reserve=0,
                epsilon_pld=epsilons["pld"],
                epsilon_rdp=epsilons["rdp"],
                epsilon_published=None,
                proof=accounting.proof([once], request.accountant),
            )
            return [trial.spec for trial in trials], phases, account
        base *= 0.9995  # the noise has four digits: what they round to may differ from what the search looked at


def _planned(folders: Folders, trial: PlannedTrial, identity: Mapping[str, Any], settings: int) -> PlannedTrial:
    from .plan import identifier

    trial_id = identifier(identity)
    records = read_trial_attempts(folders, trial_id)
    ended = records[-1].status if records and records[-1].end else None
    if ended == "completed":
        status, action = "completed", "done"
    elif ended == "failed":
        status, action = "failed", "lost_cause"
    else:
        held = holder(folders.lock)
        begun = "running" if held and held["pid"] != os.getpid() else "interrupted"
        status, action = (begun if (folders.sealed / trial_id).is_dir() else "planned"), "train"
    words = f"the best of a secret number of trials ({settings} setting{'s' if settings > 1 else ''})"
    spec = replace(trial.spec, case=None, axes={}, label=f"{words} seed={trial.spec.seed}")
    return replace(
        trial,
        spec=spec,
        trial_id=trial_id,
        cell_id=identifier({**identity, "seed": None}),
        release=None,
        status=status,
        action=action,
        spent=trial_account(folders, trial_id),
    )


def _remarks(trial: PlannedTrial, search: SearchSpec, base: float, settings: int) -> Iterator[str]:
    spread = Repetitions(shape=SHAPES[search.distribution], mean=search.mean_trials)
    yield (
        f"private selection: every trial draws one of {settings} settings and has epsilon {base:.4g}; how many there are is "
        f"secret ({search.distribution}, mean {search.mean_trials:g}: at most {spread.quantile(0.5)} in one of two cases, at "
        f"most {spread.quantile(0.99)} in 99 of 100); the best by {search.score} is all that is kept"
    )
    if trial.status == "interrupted":
        yield (
            "the selection was begun and has not ended. Until it does its trials are in the ledger one by one: if you do not "
            "mean to end it, delete its folder under `sealed`, and they stay there as trials that were seen"
        )


# What would make the price untrue -----------------------------------------------------------------------------------------


def _check(sweep: Sweep, specs: Sequence[TrialSpec]) -> None:
    search, document = sweep.spec.search, sweep.document
    assert search is not None
    problems = []

    def refuse(place: tuple[str, ...], found: str, fix: str) -> None:
        problems.append(document.problem(place, found, fix=fix))

    if len(sweep.spec.seed_list) > 1:
        refuse(("seeds",), "a selection has one seed: each of its trials draws its own", "write `seeds: 1`")
    privacy = specs[0].privacy
    if privacy.epsilon is None or privacy.noise_multiplier is not None or privacy.published_noise:
        refuse(("privacy",), "search keeps to a total budget, so the noise follows from it", "write `privacy: {epsilon: 10}`")
    for section in ("data", "privacy", "evaluate"):
        if any(getattr(spec, section) != getattr(specs[0], section) for spec in specs):
            refuse(
                ("search",),
                f"settings differ in `{section}`: the trials of a selection have one data set, one budget and one score",
                f"let only settings under `train` vary, or cases, and give `{section}` one value",
            )
    metric = METRICS.get(search.score)
    free = [name for name, found in METRICS.items() if not found.private and found.group in specs[0].evaluate.metrics]
    if metric is None:
        refuse(("search", "score"), f"search.score is {search.score}, which is no metric", f"write one of {', '.join(free)}")
    elif metric.private:
        refuse(
            ("search", "score"),
            f"search.score is {search.score}, which is computed from the private training set without noise: choosing by it is "
            "covered by no epsilon",
            f"write one of {', '.join(free)}",
        )
    elif search.score not in free:
        refuse(
            ("search", "score"),
            f"search.score is {search.score}, which evaluate.metrics does not ask for",
            f"add `{metric.group}` to evaluate.metrics",
        )
    elif "test set" in metric.reference and specs[0].data.test_set != "public":
        refuse(
            ("search", "score"),
            f"search.score is {search.score} on a test set that is private: choosing by it is covered by no epsilon",
            "write `data: {test_set: public}` if it is",
        )
    try:
        Repetitions(shape=SHAPES[search.distribution], mean=search.mean_trials)
    except ValueError as error:
        refuse(("search", "mean_trials"), str(error), "write `mean_trials: 30`")
    if problems:
        raise InputError(*problems)


def _check_releases(sweep: Sweep, plan: Plan) -> None:
    for trial in plan.trials:
        if trial.release:
            found = f"all that {trial.spec.method} makes of one release costs that release, however many are tried"
            raise InputError(sweep.document.problem(("search",), found, fix="leave `search` out", key=True))
        if trial.account and not any(phase.releases for phase in trial.account.phases):
            found = f"{trial.spec.method} releases nothing that a selection could pay for"
            raise InputError(sweep.document.problem(("search",), found, fix="leave it out of the cases", key=True))


# Running it ---------------------------------------------------------------------------------------------------------------


def run_sealed(chosen: Selection, on: str, *, max_concurrent: int | None, console: Console) -> str | None:
    """Run the trials of the selection as far as the machines let it; return why it has not ended, or None where it has.

    The holder of the sweep's lock calls it. Nothing is said of how many trials there are or how far they have come. Stages of
    every setting are computed before anything is drawn: those that are there would tell what was.
    """
    from .cluster import connect

    inner, folders = chosen.sealed, chosen.folders
    connected = closing(
        connect(on, results=folders.root, sweep=folders.name, max_concurrent=max_concurrent, say=lambda sentence: None)
    )
    with connected as executor:
        if why := _run_stages(chosen, executor, console):
            return why
        specs = _drawn(chosen)
        console.print("The selection runs. How many trials it has, and how far they are, is kept secret until it has ended.")
        if not specs:
            return None
        with DriverLock(inner.lock):
            return _run_trials(inner, specs, executor, console)


def _run_stages(chosen: Selection, executor: Executor, console: Console) -> str | None:
    """Compute what is missing of the stages that any setting needs; return why that was not possible, or None."""
    from .launch import new_launch, stage_jobs
    from .progress import Progress, stop_on_signals
    from .screen import failed_stages
    from .snapshot import provenance
    from .stages import set_aside_damaged

    plan = make_plan(chosen.folders, chosen.settings)
    for note in set_aside_damaged(chosen.folders, [name for needed in plan.needs.values() for name in needed]):
        console.print(note)
        plan = make_plan(chosen.folders, chosen.settings)
    jobs = stage_jobs(plan)
    if not jobs:
        return None
    path = new_launch(plan, provenance())
    with Progress(jobs, console) as progress, stop_on_signals(path.parent / "stop", progress.say):
        executor.run(jobs, path, progress.update, path.parent / "stop")
    failed = failed_stages(plan)
    if failed:
        return f"stage {failed[0]['stage']} failed: {failed[0]['message']} (log: {failed[0]['log']})"
    return _INTERRUPTED if (path.parent / "stop").exists() else None


def _run_trials(inner: Folders, specs: Sequence[TrialSpec], executor: Executor, console: Console) -> str | None:
    from .launch import new_launch, run_launch
    from .progress import stop_on_signals
    from .recovery import recover
    from .snapshot import provenance

    recover(inner)
    plan = make_plan(inner, specs)
    if not plan.to_do:
        return None
    path = new_launch(plan, provenance())
    with stop_on_signals(path.parent / "stop", console.print):
        run_launch(plan, path, executor, lambda event: None)
    if not make_plan(inner, specs).to_do:
        return None
    return _INTERRUPTED if (path.parent / "stop").exists() else "a machine or a process of it was lost"


def _drawn(chosen: Selection) -> list[TrialSpec]:
    """The trials of the selection, drawn now if it has not begun. Raises ``LedgerError`` where what was drawn is lost."""
    inner, record = chosen.sealed, chosen.sealed.root / "draws.json"
    if not record.exists():
        if chosen.trial.spent and any(chosen.trial.spent.executed):
            raise LedgerError(
                f"this selection has ended and is paid for ({chosen.folders.ledger}), and {chosen.folders.sweep} does not have "
                "it any more: bring it back from a copy. Drawing it again would cost as much again: another `seeds: [N]` is "
                "another selection, on top of this one"
            )
        if _spent_on(chosen):
            raise LedgerError(
                f"{record} is gone, and trials of this selection are in the ledger: what was drawn was deleted before the "
                "selection had ended. They stay charged one by one, whatever comes after; another `seeds: [N]` is another "
                "selection, on top of them"
            )
        _seal(chosen.folders, inner)
        count = chosen.repetitions.draw()
        draws = [{"setting": secrets.randbelow(len(chosen.settings)), "seed": seed} for seed in _seeds(count)]
        create_json(record, {"draws": draws})
    drawn = json.loads(record.read_text())["draws"]
    return [replace(chosen.settings[draw["setting"]], seed=draw["seed"]) for draw in drawn]


def _seeds(count: int) -> list[int]:
    """Distinct public seeds that say nothing of how many there are."""
    found: dict[int, None] = {}
    while len(found) < count:
        found[secrets.randbits(_SEED_BITS)] = None
    return list(found)


def _spent_on(chosen: Selection) -> list[Path]:
    """Accounts of the selection's trials, under whatever name the data have."""
    return sorted(chosen.folders.ledger.glob(f"*/{chosen.sealed.name}"))


def _seal(folders: Folders, inner: Folders) -> None:
    """Make the folder that nobody else can read, with the stages and the ledger that all sweeps share."""
    inner.root.mkdir(mode=0o700, parents=True, exist_ok=True)
    for folder in (folders.sealed, inner.root):
        folder.chmod(0o700)
    for name in ("stages", "ledger", "releases"):
        (folders.root / name).mkdir(mode=0o700, exist_ok=True)
        link = inner.root / name
        if not link.is_symlink():
            link.symlink_to(os.path.relpath(folders.root / name, inner.root))
    for path in (folders.calibrations, folders.fingerprints):
        if path.exists():
            shutil.copyfile(path, inner.root / path.name)


# Its end ------------------------------------------------------------------------------------------------------------------


def reveal(chosen: Selection) -> str:
    """Keep the best trial as what the selection is, delete all others, and return a sentence on it.

    Until the last record is written the sealed folder is there, so that the same command does this again after a crash; it
    reveals the same trial, which is paid for once.
    """
    from .snapshot import provenance

    inner, specs, folders = chosen.sealed, _drawn(chosen), chosen.folders
    best = _winner(chosen, make_plan(inner, specs)) if specs else None
    outer = job_document(chosen.plan, chosen.trial, provenance())
    job = outer if best is None else {**job_document(best[0], best[1], provenance()), **_whole(outer)}
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%f")
    path = folders.launches / f"{stamp}-{os.getpid()}" / "plan.json"
    write_plan(path, [(job["trial_id"], {**job, "kind": "train"})])
    assert chosen.trial.account is not None
    attempt = Attempt.open(
        folders,
        job["trial_id"],
        kind="train",
        lineage=job["data"]["lineage"],
        phases=chosen.trial.account.phases,
        plan=path,
    )
    before = trial_account(folders, job["trial_id"], before=attempt.number)
    begun = inner.root / "revealing.json"
    # A reveal of these draws that was cut off is counted already; whatever else is on record is another one.
    executed = [0 if begun.exists() and before and any(before.executed) else 1]
    if any(executed):
        with suppress(FileExistsError):
            create_json(begun, {})
        attempt.reserve(0, 1)
    attempt.settle(executed, stopped=False)
    paid = trial_account(folders, job["trial_id"])
    assert paid is not None
    status, message = ("failed", _nothing(chosen)) if best is None else ("completed", None)
    fields: dict[str, Any] = {}
    ending: dict[str, Any] = {"resumable": best is not None}
    parts = []
    if best is not None:
        fields, samples, ending["generator"] = _take(chosen, best[1], attempt)
        if samples:
            parts.append(store.write_part(folders, "samples", f"{attempt.trial_id}.{attempt.number}", samples))
    row = trial_row(
        {**job, "label": chosen.trial.spec.label if best is None else f"best of a selection: {_setting(best[1])}"},
        status=status,
        attempt=attempt.number,
        executed=paid.executed,
        kept_steps=None if best is None else 1,
        stopped=False,
        proven=True,
        exogenous=True,
        message=message,
        attempts=attempt.number,
        selection=_described(chosen),
    )
    parts.append(store.write_part(folders, "trials", f"{attempt.trial_id}.{attempt.number}", [row | fields]))
    evaluated = fields.get("evaluation_id")
    attempt.close(status, parts=parts, evaluation_id=evaluated, message=message, step=1, executed=executed, **ending)
    clear(chosen)
    return message or f"The best trial was kept; the others, and how many there were, are deleted. {_paid(chosen)}"


def clear(chosen: Selection) -> None:
    """Delete what the selection has left behind once it has ended: its trials, and then their accounts.

    In this order: as long as anything of a trial is there, so is what it has spent. Raises ``OSError`` where the disk does not
    let go of it; the same command tries again.
    """
    if chosen.sealed.root.is_dir():
        shutil.rmtree(chosen.sealed.root)
        sync_folder(chosen.folders.sealed)
    for path in _spent_on(chosen):
        shutil.rmtree(path)
        sync_folder(path.parent)
    with_others = chosen.folders.sealed
    if with_others.is_dir() and not any(with_others.iterdir()):
        with_others.rmdir()


def _winner(chosen: Selection, plan: Plan) -> tuple[Plan, PlannedTrial] | None:
    """``_best``, chosen once: written down before anything of it is revealed, and read from then on."""
    record = chosen.sealed.root / "winner.json"
    if not record.exists():
        found = _best(chosen, plan)
        create_json(record, {"trial_id": found[1].trial_id if found else None})
    trial_id = json.loads(record.read_text())["trial_id"]
    return None if trial_id is None else (plan, next(trial for trial in plan.trials if trial.trial_id == trial_id))


def _best(chosen: Selection, plan: Plan) -> tuple[Plan, PlannedTrial] | None:
    """The trial with the best score; one that failed has none. None where no trial has one.

    Between equals the operating system draws. A trial that took more steps than the price counts (its process was lost more
    often than its reserve holds), or has other noise than what is paid for, is taken for failed.
    """
    committed = store.read_committed(plan.folders, "trials", plan.attempts).to_pylist()
    rows = {row["trial_id"]: row for row in committed}
    most = {(spec.method, spec.config_key): phases for spec, phases in zip(chosen.settings, chosen.phases, strict=True)}
    sign = 1 if METRICS[chosen.search.score].direction == "higher" else -1
    scores: dict[str, float] = {}
    for trial in plan.trials:
        row, account = rows.get(trial.trial_id, {}), plan.accounts.get(trial.trial_id)
        score = row.get(chosen.search.score)
        whole = row.get("status") == "completed" and row.get("epsilon") is not None and account is not None
        if not whole or account is None or score is None or not math.isfinite(score):
            continue
        allowed = most[trial.spec.method, trial.spec.config_key]
        if all(
            done <= phase.steps and ran.mechanism == phase.mechanism
            for done, ran, phase in zip(account.executed, account.phases, allowed, strict=True)
        ):
            scores[trial.trial_id] = sign * score
    if not scores:
        return None
    equals = [trial for trial in plan.trials if scores.get(trial.trial_id) == max(scores.values())]
    return plan, secrets.choice(equals)


def _whole(outer: Mapping[str, Any]) -> dict[str, Any]:
    """What of the winner's job is that of the selection: its name, and what it costs."""
    return {key: outer[key] for key in ("trial_id", "cell_id", "sweep", "privacy", "release", "cut", "stages")}


def _take(chosen: Selection, best: PlannedTrial, attempt: Attempt) -> tuple[dict[str, Any], list[dict[str, Any]], str]:
    """(columns, samples, hash of the generator) of the best trial under the selection's name.

    Nothing is taken over that would tell of the others: no times, no number of an attempt, no id.
    """
    from safetensors.torch import load_file

    from .evaluate import keep_generator
    from .folders import file_hash

    inner, trial_id = chosen.sealed, chosen.trial.trial_id
    (row,) = store.read_committed(inner, "trials", {best.trial_id: read_trial_attempts(inner, best.trial_id)}).to_pylist()
    kept = ("per_class", "real", "evaluation_id", "evaluation_samples", "evaluation", "device", "versions")
    fields = {name: row[name] for name in (*METRICS, *DETAILS, *kept)}
    fields |= {"steps": row["steps"], "steps_planned": row["steps_planned"], "axes": row["axes"], "case": row["case"]}
    tensors = load_file(inner.generator(best.trial_id))
    metadata = {"trial_id": trial_id, "attempt": str(attempt.number), "steps": "1"}
    keep_generator(chosen.folders, trial_id, tensors, metadata)
    samples = store.read_samples(inner.sweep, [best.trial_id]).to_dict("records")
    for sample in samples:
        name = f"{trial_id}_{sample['label']}_{sample['index']}.png"
        sample |= {"trial_id": trial_id, "image": {**sample["image"], "path": name}}
    return fields, samples, file_hash(chosen.folders.generator(trial_id))


def _setting(trial: PlannedTrial) -> str:
    """The label of a trial without its seed."""
    return trial.spec.label.rpartition(" seed=")[0] or trial.spec.method


def _described(chosen: Selection) -> str:
    """The column ``selection``."""
    search = chosen.search.model_dump(mode="json")
    return json.dumps({**search, "settings": len(chosen.settings), "base_epsilon": chosen.base_epsilon})


def _nothing(chosen: Selection) -> str:
    empty = " (or there was none, which a Poisson number allows)" if math.isinf(chosen.repetitions.shape) else ""
    return f"no trial of the selection ended well{empty}: nothing is kept; one trial without `search` may tell why"


def _paid(chosen: Selection) -> str:
    request, account = chosen.trial.spec.privacy, chosen.trial.account
    assert account is not None
    return (
        f"Epsilon {account.epsilon(request.accountant):.4g} (delta {request.delta:g}) covers the choice; every trial had "
        f"{chosen.base_epsilon:.4g}."
    )
