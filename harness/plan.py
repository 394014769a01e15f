"""From a sweep to its trials: ids, calibrated noise, cost, and what is left to do.

A pure function of the file, the data fingerprint and the ledger: planning writes nothing but the caches
(``calibrations.json``, ``fingerprints.json``). Imports neither torch nor Ray.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from trainables import registry
from trainables.base import Stage
from trainables.data.base import DataError
from trainables.evaluation import metrics, weights
from trainables.evaluation.metrics import reference_stage
from trainables.evaluation.weights import InceptionWeights
from trainables.privacy.mechanism import Phase, RecordMechanism

from . import audits, releases
from .accounts import Account, Accounts, checkpoint_interval
from .attempts import AttemptRecord, read_attempts
from .calibrations import Calibrations
from .compacted import uncollected
from .composition import Composition, composed, prices
from .data import Data, prepare
from .document import InputError, Mark, Problem
from .estimates import Estimates
from .expand import TrialSpec
from .folders import Folders, canonical_json
from .ledger import TrialAccount, abandoned_selections, check_account, sweep_accounts
from .lock import holder
from .stages import stage_id


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
    release: str | None
    """The folder of the stage among them that makes the trial's first phase, shared with others; None where there is none."""
    reference: Stage
    """The stage that the evaluation needs; its settings, with the data, are the evaluation's identity."""
    inception: InceptionWeights | None
    """What the Inception metrics are computed with; None where the evaluation does not ask for them."""
    status: str
    action: str
    """train, evaluate, or why there is nothing to do: done, running (another command has it), failed (asks for
    --retry-failed), lost_cause, infeasible, left (not the one that --only names)."""
    spent: TrialAccount | None
    """What the ledger knows of the trial."""

    @property
    def control(self) -> bool:
        """Whether it is the control of an audit: trained without noise, and kept from everyone."""
        return self.spec.control

    @property
    def checkpoint_every(self) -> int:
        """Steps between checkpoints."""
        assert self.account is not None
        return self.spec.checkpoint.every or checkpoint_interval(self.account.phases)


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
    attempts: Mapping[str, Sequence[AttemptRecord]] = field(repr=False)
    """Trial id -> its attempts, of every trial that ever ran in this sweep and whose results still exist."""
    accounts: Mapping[str, TrialAccount] = field(repr=False)
    """Trial id -> what it has spent, of every trial that ever ran in this sweep."""
    releases: Mapping[str, TrialAccount] = field(repr=False)
    """Stage folder -> what it has spent, of every shared release under the root."""

    @property
    def to_do(self) -> list[PlannedTrial]:
        return [trial for trial in self.trials if trial.action in ("train", "evaluate")]

    @cached_property
    def estimates(self) -> Estimates:
        return Estimates(self.folders, self.attempts)

    @property
    def _candidates(self) -> list[PlannedTrial]:
        return [trial for trial in self.trials if not trial.control]

    @cached_property
    def compositions(self) -> list[Composition]:
        """What looking at every generator costs (``composition.composed``); controls of audits are left out, for nobody gets
        to see theirs."""
        ran = {**abandoned_selections(self.folders), **self.accounts}
        accounts = {trial_id: account for trial_id, account in ran.items() if not account.control}
        return composed(self.calibrations, self._candidates, accounts, self.releases)

    @cached_property
    def prices(self) -> list[dict[str, Any]]:
        """What choosing the best of the trials costs (``composition.prices``)."""
        found = prices(self.calibrations, self._candidates, self.compositions)
        self.calibrations.save()
        return found


@uncollected()
def make_plan(folders: Folders, specs: Sequence[TrialSpec], *, retry_failed: bool = False, only: str | None = None) -> Plan:
    """Plan the trials of a sweep. Raises ``InputError`` for data that are missing or settings that the data rule out."""
    calibrations = Calibrations(folders.calibrations)
    attempts, accounts = read_attempts(folders), sweep_accounts(folders)
    for trial_id, records in attempts.items():
        check_account(folders, records, accounts.get(trial_id))
    planner = _Planner(folders, calibrations, attempts, accounts)
    trials: dict[str, PlannedTrial] = {}
    merged = 0
    for spec in specs:
        trial = planner.plan(spec, retry_failed)
        if trial.trial_id in trials:
            merged += 1
        else:
            trials[trial.trial_id] = trial
    trials = {trial_id: trial for trial_id, trial in trials.items() if not (trial.control and _releases_nothing(trial))}
    notes = list(planner.notes)
    if merged:
        notes.append(f"{merged} trials have the same settings as another one of the sweep and are one trial with it")
    if only is not None:
        if only not in trials:
            found = "no trial of this sweep has that id"
            raise InputError(Problem(Mark(f"--only {only}"), found, fix="`--dry-run --json` lists them"))
        trials = {
            trial_id: trial if trial_id == only or trial.action not in ("train", "evaluate") else replace(trial, action="left")
            for trial_id, trial in trials.items()
        }
    planned = list(trials.values())
    notes += [*_claims(planned), *_shared(planned), *_controls(planned)]
    notes += dict.fromkeys(trial.account.cut for trial in planned if trial.account and trial.account.cut)
    deleted = sum(trial.spent is not None and trial.trial_id not in attempts for trial in planned)
    if deleted:
        notes.append(
            f"{deleted} trials have releases on record whose results were deleted; these count against their budgets. Other "
            f"seeds start with whole ones; if nobody has seen those generators, delete {folders.ledger}/*/{folders.name}"
        )
    stages: dict[str, tuple[Stage, PlannedTrial]] = {}
    needs: dict[str, Sequence[str]] = {}
    for trial in planned:
        if trial.action in ("train", "evaluate"):
            needed = planner.stages_of(trial)
            needs[trial.trial_id] = tuple(needed)
            stages |= {folder: (stage, trial) for folder, stage in needed.items() if folder not in stages}
    stages = {folder: needed for folder, needed in stages.items() if not (folders.stages / folder).is_dir()}
    calibrations.save()
    return Plan(
        folders=folders,
        trials=planned,
        stages=stages,
        needs=needs,
        notes=notes,
        calibrations=calibrations,
        attempts=attempts,
        accounts=accounts,
        releases=releases.accounts(folders),
    )


def status_of(records: Sequence[AttemptRecord], evaluation_id: str, retry_failed: bool, *, driven: bool) -> tuple[str, str]:
    """(status, action) of a trial from its attempts. ``driven``: a command holds the sweep, so an open attempt runs.

    A trial whose training is over but whose evaluation is another one than asked for is only evaluated again.
    """
    if not records:
        return "planned", "train"
    last = records[-1]
    if last.end is None and driven:
        return "running", "running"
    if last.end is None and last.start["kind"] == "train":
        return "lost", "train"
    if last.end is None:  # a look again that was lost leaves what was there
        return status_of(records[:-1], evaluation_id, retry_failed, driven=False)
    trained = [r for r in records if r.end and r.start["kind"] == "train" and r.status in ("completed", "budget")]
    evaluated = [r.end["evaluation_id"] for r in records if r.end and r.end["evaluation_id"]]
    if trained and (not (trained[-1].end or {})["step"] or (evaluated and evaluated[-1] == evaluation_id)):
        return trained[-1].status, "done"
    if last.status in ("failed", "oom"):
        if not last.end.get("resumable", True):
            return last.status, "lost_cause"
        if not retry_failed:
            return last.status, "failed"
    if not trained:
        return last.status, "train"
    return (trained[-1].status if last.status not in ("failed", "oom") else last.status), "evaluate"


class _Planner:
    """Plans specs one by one; whatever trials share is computed once."""

    def __init__(
        self,
        folders: Folders,
        calibrations: Calibrations,
        attempts: Mapping[str, Sequence[AttemptRecord]],
        accounts: Mapping[str, TrialAccount],
    ) -> None:
        self._folders, self._accounts = folders, Accounts(calibrations)
        self._attempts, self._ledger = attempts, accounts
        self._driver = holder(folders.lock)
        self._data: dict[tuple[str, int], Data] = {}
        self._mechanisms: dict[tuple[str, str, str, str], tuple[tuple[Phase, ...], tuple[Stage, ...]]] = {}
        self._cells: dict[tuple[str, str, str, str], str] = {}
        self._evaluations: dict[tuple[Any, ...], tuple[Stage, str]] = {}
        self._weights: dict[str | None, InceptionWeights] = {}
        self._efficientnet: Path | None = None
        self._remarked: set[tuple[Any, ...]] = set()
        self.notes: dict[str, None] = {}

    def plan(self, spec: TrialSpec, retry_failed: bool) -> PlannedTrial:
        data = self._prepare_data(spec)
        relative, stages = self._mechanism(spec, data)
        self._remark(spec, data)
        privacy = spec.privacy
        request = {
            "epsilon": privacy.epsilon,
            "noise_multiplier": privacy.noise_multiplier,
            "delta": privacy.delta,
            "accountant": privacy.accountant,
            "neighbours": privacy.neighbours,
            "reserve": privacy.reserve,
        }
        if privacy.published_noise:  # ids of other trials are older than this setting
            request["published_noise"] = True
        if spec.control:
            request["control"] = True
        identity = {
            "method": spec.method,
            "version": spec.version,
            "config": spec.config_json,
            "data": data.fingerprint,
            "privacy": request,
        }
        inception = self._inception(spec, data)
        reference, evaluation_id = self._evaluation(spec, data, inception)
        trial_id = identifier({**identity, "seed": spec.seed})
        if privacy.delta > 1 / data.info.size:
            fair = f"1/N = {1 / data.info.size:.2g}"
            self.notes[f"delta {privacy.delta:g} exceeds {fair}: it would allow a record to be published outright"] = None
        records, spent = self._attempts.get(trial_id, ()), self._ledger.get(trial_id)
        status, action = status_of(records, evaluation_id, retry_failed, driven=self._driver is not None)
        if spec.control and action == "evaluate":  # its generator is not kept
            action = "train"
        # A trial that has begun keeps the noise it began with: calibrations may change, what was released does not.
        account, problem = self._accounts.of(spec, relative, spent.phases if spent else None)
        bounded = account and privacy.target_epsilon is not None  # where the noise is given no trial ends early
        if account and bounded and spec.checkpoint.every and spec.checkpoint.every > account.reserve:
            every = f"checkpoint.every is {spec.checkpoint.every} and privacy.reserve {account.reserve} steps"
            self.notes[f"{every}: a crash that loses more than the reserve ends a trial early, with status budget"] = None
        if account is None:
            status, action = "infeasible", "infeasible"
        folders = {stage.name: self._folder(stage, data, account) for stage in stages}
        return PlannedTrial(
            spec=spec,
            trial_id=trial_id,
            cell_id=self._cell_id(spec, data, identity),
            evaluation_id=evaluation_id,
            data=data,
            account=account,
            problem=problem,
            stages=folders,
            release=next((folders[stage.name] for stage in stages if stage.release), None),
            reference=reference,
            inception=inception,
            status=status,
            action=action,
            spent=spent,
        )

    def stages_of(self, trial: PlannedTrial) -> dict[str, Stage]:
        """Folder -> stage, of all that what is left of the trial needs: the method's stages, the evaluation's reference."""
        own = self._mechanism(trial.spec, trial.data)[1] if trial.action == "train" else ()
        return {
            **{trial.stages[stage.name]: stage for stage in own},
            stage_id(trial.reference, trial.data.fingerprint): trial.reference,
        }

    def _folder(self, stage: Stage, data: Data, account: Account | None) -> str:
        return stage_id(stage, data.fingerprint, account.phases[0] if account and stage.release else None)

    def _cell_id(self, spec: TrialSpec, data: Data, identity: Mapping[str, Any]) -> str:
        key = spec.method, spec.config_key, data.fingerprint, canonical_json(identity["privacy"])
        if key not in self._cells:
            self._cells[key] = identifier(identity)
        return self._cells[key]

    def _evaluation(self, spec: TrialSpec, data: Data, inception: InceptionWeights | None) -> tuple[Stage, str]:
        """The stage that the evaluation needs, and the evaluation's id."""
        audited = audits.evaluation(spec.audit) if spec.audit else None
        key = (
            spec.evaluate.samples,
            tuple(spec.evaluate.metrics),
            inception,
            data.fingerprint,
            canonical_json(audited),
            spec.control,
        )
        if key not in self._evaluations:
            reference = reference_stage(spec.evaluate.samples, spec.evaluate.metrics, inception)
            measured = {"samples": spec.evaluate.samples} if spec.control else reference.config
            identity = {**measured, "data": data.fingerprint, **({"audit": audited} if audited else {})}
            self._evaluations[key] = reference, identifier(identity)
        return self._evaluations[key]

    def _prepare_data(self, spec: TrialSpec) -> Data:
        samples = spec.evaluate.samples if spec.audit else 0
        key = spec.data.model_dump_json(), samples
        if key not in self._data:
            section = "data"
            try:
                data = prepare(spec.data, self._folders.fingerprints)
                if spec.audit:
                    section = "audit"
                    data = audits.planted(data, spec.audit, samples, self._folders)
            except DataError as error:
                raise InputError(spec.problem(section, str(error))) from None
            self._data[key] = data
        return self._data[key]

    def _inception(self, spec: TrialSpec, data: Data) -> InceptionWeights | None:
        """The weights that the evaluation needs. Raises ``InputError`` where it asks for what cannot be measured."""
        settings = spec.evaluate
        try:
            metrics.check(settings.metrics, data.info, settings.samples)
            if "efficientnet" in settings.metrics:
                self._efficientnet = self._efficientnet or weights.find_efficientnet()
                if not spec.resources.gpu:
                    minutes = metrics.EFFICIENTNET_CPU_SECONDS * min(settings.samples, metrics.EFFICIENTNET_COMPARED) / 60
                    without = "EfficientNet metrics without a GPU (resources.gpu) take about"
                    self.notes[f"{without} {minutes:.1f} minutes a trial and, once, twice that for real images"] = None
            if "inception" not in settings.metrics:
                if settings.inception_weights:
                    self.notes["evaluate.inception_weights is not used: evaluate.metrics does not list `inception`"] = None
                return None
            if not spec.resources.gpu:
                minutes = metrics.INCEPTION_CPU_SECONDS * settings.samples / 60
                whole = metrics.INCEPTION_CPU_SECONDS * data.info.size / 60
                self.notes[
                    f"Inception metrics without a GPU (resources.gpu) take about {minutes:.0f} minutes a trial and, once, "
                    f"{whole:.0f} minutes for the training set"
                ] = None
            if settings.inception_weights not in self._weights:
                self._weights[settings.inception_weights] = weights.find(settings.inception_weights)
            return self._weights[settings.inception_weights]
        except ValueError as error:
            raise InputError(spec.problem("evaluate", str(error))) from None

    def _remark(self, spec: TrialSpec, data: Data) -> None:
        """Note what the method itself has to say about the settings (``trainables.base``)."""
        target, delta = spec.privacy.target_epsilon, spec.privacy.delta
        key = spec.method, spec.config_key, data.fingerprint, target, delta
        remarks = getattr(registry.method(spec.method), "remarks", None)
        if remarks is not None and target is not None and key not in self._remarked:
            self._remarked.add(key)
            self.notes |= dict.fromkeys(remarks(spec.config, data.info, target_epsilon=target, delta=delta))

    def _mechanism(self, spec: TrialSpec, data: Data) -> tuple[tuple[Phase, ...], tuple[Stage, ...]]:
        """The method's phases and stages."""
        key = (spec.method, spec.config_key, data.fingerprint, spec.privacy.neighbours)
        if key not in self._mechanisms:
            module = registry.method(spec.method)
            try:
                phases = tuple(module.mechanism(spec.config, data.info, spec.privacy.neighbours))
                stages = tuple(module.stages(spec.config, data.info))
                check_stages(spec.method, phases, stages)
            except ValueError as error:
                raise InputError(spec.problem("train", str(error))) from None
            self._mechanisms[key] = phases, stages
        return self._mechanisms[key]


def check_stages(method: str, phases: Sequence[Phase], stages: Sequence[Stage]) -> None:
    """Raise ``ValueError`` for stages that would make the method's account untrue."""
    releases, private = ([stage.name for stage in stages if stage.release is made] for made in (True, False))
    if private and any(isinstance(phase.mechanism, RecordMechanism) for phase in phases):
        raise ValueError(
            f"{method} releases records' contributions and asks for the stage {private[0]}: what a stage "
            "has learnt from private data would make them depend on other records"
        )
    if releases and (len(releases) > 1 or not phases[0].releases or phases[0].steps != 1):
        raise ValueError(
            f"{method} leaves its first phase to the stage {' and '.join(releases)}; expected one stage, and a first phase of "
            "one step that releases"
        )


def _claims(trials: Sequence[PlannedTrial]) -> list[str]:
    """A sentence on every epsilon that is claimed for published noise, with the proven ones."""
    proven: dict[tuple[str, str], set[float]] = {}
    for trial in trials:
        if trial.account is not None and trial.spec.privacy.published_noise:
            request = trial.spec.privacy
            claim = f"{request.epsilon:g}", f"{request.delta:g}"
            proven.setdefault(claim, set()).add(trial.account.epsilon(request.accountant))
    return [
        f"the published accounting claims epsilon {claimed} for this noise; proven is "
        + " to ".join(f"{epsilon:.4g}" for epsilon in sorted({min(found), max(found)}))
        + f" (delta {delta})"
        for (claimed, delta), found in proven.items()
    ]


def _releases_nothing(trial: PlannedTrial) -> bool:
    """Whether the trial's method has no noise that could be switched off (``real``)."""
    return trial.account is not None and not any(phase.releases for phase in trial.account.phases)


def _controls(trials: Sequence[PlannedTrial]) -> list[str]:
    """A sentence on the controls of audits."""
    count = sum(trial.control for trial in trials)
    if not count:
        return []
    noun = "1 control of the audit is" if count == 1 else f"{count} controls of the audit are"
    return [
        f"{noun} trained without noise: only the owner of the data may see the result, and nothing of it may leave. No images "
        "and no generator are kept, and no composition counts it"
    ]


def _shared(trials: Sequence[PlannedTrial]) -> list[str]:
    """A sentence on every release that several trials share."""
    counts = Counter(trial.release for trial in trials if trial.release)
    return [
        f"{count} trials share the release {release}: it is drawn and paid for once, whatever is made of it"
        for release, count in counts.items()
        if count > 1
    ]


def identifier(value: Any) -> str:
    """The first 12 hex digits of the SHA-256 of ``value`` as canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:12]
