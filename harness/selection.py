"""Private selection: ``search: {strategy: random_best}`` runs a secret random number of trials and keeps the best one alone.

What makes the price of ``trainables.privacy.random_best`` true: the number of trials is drawn from the operating system's
entropy before the first begins, every trial draws its settings uniformly from the file's, and until the best is known all of
it (draws, scores, generators, logs) lies in ``ROOT/NAME/sealed``, which is deleted afterwards. Nothing on the way says how
many trials there are or how far they have come. What is left is one generator, one row, one entry in the ledger: the
selection. While it has not ended its trials are in the ledger one by one, as trials that anybody may have seen.

Here it is planned, and refused where its price would not be true; ``sealed`` runs it, and ``reveal`` keeps the best.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from trainables.evaluation.metrics import METRICS
from trainables.privacy import accounting, selection
from trainables.privacy.mechanism import Phase
from trainables.privacy.random_best import SHAPES, Repetitions

from .accounts import Account
from .attempts import read_attempts, read_trial_attempts
from .calibrations import Calibrations
from .document import InputError
from .expand import TrialSpec
from .folders import Folders
from .ledger import selection_name, sweep_accounts, trial_account
from .lock import holder
from .plan import Plan, PlannedTrial, make_plan
from .spec import SearchSpec, Sweep


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
