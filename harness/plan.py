"""From a sweep to its trials: ids, calibrated noise, cost, and what is left to do.

A pure function of the file, the data fingerprint and the ledger: planning writes nothing but the caches
(``calibrations.json``, ``fingerprints.json``). Imports neither torch nor Ray.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from trainables import registry
from trainables.base import DataInfo, Stage
from trainables.data import sources
from trainables.evaluation.metrics import EVALUATION_VERSION, reference_stage
from trainables.privacy import accounting
from trainables.privacy.accounting import Accountant
from trainables.privacy.mechanism import Phase, scale_noise

from .calibrations import Calibrations
from .document import InputError, Mark, Problem
from .estimates import Estimates
from .expand import TrialSpec
from .folders import Folders, canonical_json
from .ledger import AttemptRecord, read_attempts
from .stages import stage_id

# A checkpoint (and so a reservation) every twentieth of the steps, and one more such block in the noise: redoing one
# after a crash then costs 5 % more releases rather than the trial.
CHECKPOINTS_A_TRIAL = 20


@dataclass(frozen=True, kw_only=True)
class Data:
    """A prepared data set: how to load it and what is declared about it."""

    source: str
    path: str | None
    size: int | None
    resolution: int | None
    lineage: str
    test_set: str
    public: bool
    fingerprint: str
    info: DataInfo


@dataclass(frozen=True, kw_only=True)
class Account:
    """What a trial may release and what that costs; the same object for all trials that share a mechanism and a request."""

    phases: tuple[Phase, ...]
    """Calibrated."""
    reserve: int
    epsilon_pld: float
    epsilon_rdp: float
    epsilon_published: float | None
    proof: str


@dataclass(frozen=True, kw_only=True)
class PlannedTrial:
    """A trial of the sweep, whether or not it is done."""

    spec: TrialSpec
    trial_id: str
    cell_id: str
    evaluation_id: str
    data: Data
    account: Account | None
    """None where the budget is infeasible; ``problem`` says why."""
    problem: str | None
    stages: Mapping[str, str]
    """The method's stages: name -> folder."""
    status: str
    action: str
    """train, evaluate, or why there is nothing to do: done, failed (asks for --retry-failed), lost_cause, infeasible."""

    @property
    def checkpoint_every(self) -> int:
        """Steps between checkpoints."""
        assert self.account is not None
        return self.spec.checkpoint.every or default_reserve(self.account.phases)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All trials of a sweep, the stages they need, and notes for the reader."""

    folders: Folders
    trials: Sequence[PlannedTrial]
    stages: Mapping[str, tuple[Stage, PlannedTrial]]
    """Stage folder -> (stage, one trial that needs it), for what is missing of what the trials to run need."""
    needs: Mapping[str, Sequence[str]]
    """Trial id -> stage folders, of the trials that are to run."""
    notes: Sequence[str]
    calibrations: Calibrations = field(repr=False)

    @property
    def to_do(self) -> list[PlannedTrial]:
        return [trial for trial in self.trials if trial.action in ("train", "evaluate")]

    @cached_property
    def estimates(self) -> Estimates:
        return Estimates(self.folders)

    @cached_property
    def composition(self) -> tuple[float, float, Accountant] | None:
        """(epsilon, delta, accountant) of looking at every generator of the sweep; None if none can be trained."""
        accounts = Counter(trial.account for trial in self.trials if trial.account is not None)
        if not accounts:
            return None
        privacy = [trial.spec.privacy for trial in self.trials]
        delta = min(request.delta for request in privacy)
        accountant: Accountant = "pld" if all(request.accountant == "pld" for request in privacy) else "rdp"
        parts: Counter[tuple[Phase, ...]] = Counter()
        for account, count in accounts.items():
            parts[account.phases] += count
        epsilon = self.calibrations.composition(list(parts.items()), delta=delta, accountant=accountant)
        return epsilon, delta, accountant


def default_reserve(phases: Sequence[Phase]) -> int:
    """Steps of one checkpoint interval: a twentieth of all steps, rounded up."""
    return -(-sum(phase.steps for phase in phases) // CHECKPOINTS_A_TRIAL)


def make_plan(
    folders: Folders, specs: Sequence[TrialSpec], *, retry_failed: bool = False, only: str | None = None
) -> Plan:
    """Plan the trials of a sweep. Raises ``InputError`` for data that are missing or settings that the data rule out."""
    calibrations = Calibrations(folders.calibrations)
    attempts = read_attempts(folders)
    planner = _Planner(folders, calibrations)
    trials: dict[str, PlannedTrial] = {}
    merged = 0
    for spec in specs:
        trial = planner.plan(spec, attempts, retry_failed)
        if trial.trial_id in trials:
            merged += 1
        else:
            trials[trial.trial_id] = trial
    notes = list(planner.notes)
    if merged:
        notes.append(f"{merged} trials have the same settings as another one of the sweep and are one trial with it")
    if only is not None:
        if only not in trials:
            found = "no trial of this sweep has that id"
            raise InputError(Problem(Mark(f"--only {only}"), found, fix="`--dry-run --json` lists them"))
        trials = {only: trials[only]}
    planned = list(trials.values())
    stages: dict[str, tuple[Stage, PlannedTrial]] = {}
    needs: dict[str, Sequence[str]] = {}
    for trial in planned:
        if trial.action in ("train", "evaluate"):
            needed = planner.stages_of(trial)
            needs[trial.trial_id] = tuple(needed)
            stages |= {folder: (stage, trial) for folder, stage in needed.items() if not (folders.stages / folder).is_dir()}
    calibrations.save()
    return Plan(folders=folders, trials=planned, stages=stages, needs=needs, notes=notes, calibrations=calibrations)


def status_of(records: Sequence[AttemptRecord], evaluation_id: str, retry_failed: bool) -> tuple[str, str]:
    """(status, action) of a trial from its attempts. Open attempts count as running; the lock holder closes orphans first.

    A trial whose training is over but whose evaluation is another one than asked for is only evaluated again.
    """
    if not records:
        return "planned", "train"
    last = records[-1]
    if last.end is None:
        return "running", "done"
    if last.status in ("failed", "oom"):
        if not last.end.get("resumable", True):
            return last.status, "lost_cause"
        if not retry_failed:
            return last.status, "failed"
    ended = [record for record in records if record.end and record.start["kind"] == "train"]
    trained = [record for record in ended if record.status in ("completed", "budget")]
    if not trained:
        return last.status, "train"
    nothing_kept = not (trained[-1].end or {})["step"]
    evaluated = last.status in ("completed", "budget") and last.end["evaluation_id"] == evaluation_id
    return last.status, "done" if evaluated or nothing_kept else "evaluate"


class _Planner:
    """Plans specs one by one; whatever trials share is computed once."""

    def __init__(self, folders: Folders, calibrations: Calibrations) -> None:
        self._folders, self._calibrations = folders, calibrations
        self._data: dict[str, Data] = {}
        self._mechanisms: dict[tuple[str, str, str, str], tuple[tuple[Phase, ...], tuple[Stage, ...]]] = {}
        self._accounts: dict[tuple[Any, ...], tuple[Account | None, str | None]] = {}
        self.notes: dict[str, None] = {}

    def plan(self, spec: TrialSpec, attempts: Mapping[str, Sequence[AttemptRecord]], retry_failed: bool) -> PlannedTrial:
        data = self._prepare_data(spec)
        relative, stages = self._mechanism(spec, data)
        account, problem = self._account(spec, relative)
        privacy = spec.privacy
        request = {
            "epsilon": privacy.epsilon,
            "noise_multiplier": privacy.noise_multiplier,
            "delta": privacy.delta,
            "accountant": privacy.accountant,
            "neighbours": privacy.neighbours,
            "reserve": privacy.reserve,
        }
        identity = {
            "method": spec.method,
            "version": spec.version,
            "config": spec.config_json,
            "data": data.fingerprint,
            "privacy": request,
        }
        evaluation = {"samples": spec.evaluate.samples, "version": EVALUATION_VERSION, "data": data.fingerprint}
        trial_id, evaluation_id = _hash({**identity, "seed": spec.seed}), _hash(evaluation)
        if privacy.delta > 1 / data.info.size:
            fair = f"1/N = {1 / data.info.size:.2g}"
            self.notes[f"delta {privacy.delta:g} exceeds {fair}: it would allow a record to be published outright"] = None
        status, action = status_of(attempts.get(trial_id, ()), evaluation_id, retry_failed)
        if account is None:
            status, action = "infeasible", "infeasible"
        return PlannedTrial(
            spec=spec,
            trial_id=trial_id,
            cell_id=_hash(identity),
            evaluation_id=evaluation_id,
            data=data,
            account=account,
            problem=problem,
            stages={stage.name: stage_id(stage, data.fingerprint) for stage in stages},
            status=status,
            action=action,
        )

    def stages_of(self, trial: PlannedTrial) -> dict[str, Stage]:
        """Folder -> stage, of everything the trial needs: the method's stages and the evaluation's reference."""
        _, own = self._mechanism(trial.spec, trial.data)
        needed = (*own, reference_stage(trial.spec.evaluate.samples))
        return {stage_id(stage, trial.data.fingerprint): stage for stage in needed}

    def _prepare_data(self, spec: TrialSpec) -> Data:
        settings = spec.data
        key = settings.model_dump_json()
        if key not in self._data:
            # Absolute, since the workers of another machine start in another folder.
            path = str(Path(settings.path).absolute()) if settings.path else None
            arguments: dict[str, Any] = {"path": path, "size": settings.size, "resolution": settings.resolution}
            try:
                self._data[key] = Data(
                    source=settings.source,
                    **arguments,
                    lineage=settings.lineage or settings.source,
                    test_set=settings.test_set,
                    public=settings.public,
                    info=sources.describe(settings.source, **arguments),
                    fingerprint=sources.fingerprint(settings.source, cache_file=self._folders.fingerprints, **arguments),
                )
            except sources.DataError as error:
                raise InputError(spec.problem("data", str(error))) from None
        return self._data[key]

    def _mechanism(self, spec: TrialSpec, data: Data) -> tuple[tuple[Phase, ...], tuple[Stage, ...]]:
        key = (spec.method, spec.config_key, data.fingerprint, spec.privacy.neighbours)
        if key not in self._mechanisms:
            module = registry.method(spec.method)
            try:
                self._mechanisms[key] = (
                    tuple(module.mechanism(spec.config, data.info, spec.privacy.neighbours)),
                    tuple(module.stages(spec.config, data.info)),
                )
            except ValueError as error:
                raise InputError(spec.problem("train", str(error))) from None
        return self._mechanisms[key]

    def _account(self, spec: TrialSpec, relative: tuple[Phase, ...]) -> tuple[Account | None, str | None]:
        privacy = spec.privacy
        reserve = default_reserve(relative) if privacy.reserve is None else privacy.reserve
        key = (relative, privacy.epsilon, privacy.noise_multiplier, privacy.delta, privacy.accountant, reserve)
        if key not in self._accounts:
            self._accounts[key] = self._calibrate(spec, relative, reserve)
        return self._accounts[key]

    def _calibrate(self, spec: TrialSpec, relative: tuple[Phase, ...], reserve: int) -> tuple[Account | None, str | None]:
        privacy, cache = spec.privacy, self._calibrations
        factor = privacy.noise_multiplier
        if factor is None:
            assert privacy.epsilon is not None  # spec: one of the two is there
            try:
                factor = cache.factor(
                    relative,
                    target_epsilon=privacy.epsilon,
                    delta=privacy.delta,
                    accountant=privacy.accountant,
                    reserve=reserve,
                )
            except accounting.InfeasibleBudget as error:
                return None, str(error)
        phases = scale_noise(relative, factor)
        return (
            Account(
                phases=phases,
                reserve=reserve,
                epsilon_pld=cache.epsilon(phases, delta=privacy.delta, accountant="pld"),
                epsilon_rdp=cache.epsilon(phases, delta=privacy.delta, accountant="rdp"),
                epsilon_published=cache.published_epsilon(phases, delta=privacy.delta),
                proof=accounting.proof(phases, privacy.accountant),
            ),
            None,
        )


def _hash(value: Any) -> str:
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:12]
