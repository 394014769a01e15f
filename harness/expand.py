"""From a checked sweep file to its trials: cases x axes x zip groups x seeds, every setting checked by the method's own model.

Precedence: preset < ``train`` < the case's ``train`` < axes. Mappings are merged key by key up to the axes; an axis replaces
what stands at its path. Cases vary slowest, then the axes as the file lists them, then the zip groups, seeds fastest.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import BaseModel

from .axes import SECTION_LEAVES, SECTIONS, Choice, find_dimensions, with_choices
from .cases import Case, find_cases
from .document import InputError, Place, Problem
from .folders import canonical_json
from .labels import Labels, value_label
from .spec import AuditSpec, CheckpointSpec, DataSpec, EvaluateSpec, PrivacySpec, ResourcesSpec, Sweep
from .validation import Origin, validate

MOST_TRIALS = 100_000

CONTROL = "control: no noise"
"""How the labels of an audit's controls end."""


@dataclass(frozen=True, kw_only=True)
class TrialSpec:
    """One trial as the file asks for it. Trials that share settings share the objects: treat all of them as frozen."""

    case: str | None
    """Name of the case, None where the sweep has one method."""
    method: str
    """As the file names it; ``trainables.registry`` finds it."""
    version: int
    """The method's ``VERSION``."""
    config: Any
    """The method's validated ``Config``."""
    config_json: Mapping[str, Any]
    """``config`` as JSON, defaults included."""
    config_key: str
    """Canonical text of ``config_json``, for looking things up."""
    data: DataSpec
    privacy: PrivacySpec
    evaluate: EvaluateSpec
    checkpoint: CheckpointSpec
    resources: ResourcesSpec
    keep_samples: int
    seed: int
    axes: Mapping[str, Any]
    """Axis name, as the file writes it, -> this trial's value; None where nothing reads it."""
    label: str
    """What a person reads: ``guided epsilon=10 noise_injection=0.1 seed=0``, without what nothing reads."""
    origin: _Cell = field(repr=False, compare=False)
    audit: AuditSpec | None = None
    control: bool = False
    """Whether it is the control of an audit: the noise is off, and nothing but the audit's result is kept."""

    def problem(self, path: str, found: str, expected: str = "", fix: str = "") -> Problem:
        """A problem with the setting at the dotted ``path`` (``data``, ``privacy.epsilon``), at whatever decided it."""
        place = tuple(path.split("."))
        if len(place) == 1:
            # Sentences of methods and sources begin with the setting they are about: "slots is 30; ...".
            named = found.partition(" ")[0].removeprefix(f"{path}.")
            values = self.origin.values_of(path)
            found, place = found + (f" ({values})" if values else ""), (path, named)
        who = self.origin.case.who
        return self.origin.case.document.problem(self.origin.place_of(place), f"{who}{found}", expected, fix)


def expand(sweep: Sweep) -> list[TrialSpec]:
    """All trials of ``sweep``, in the order described above. Raises ``InputError`` that lists every problem found."""
    cases = find_cases(sweep)
    dimensions = find_dimensions(sweep, cases)
    repeats = sweep.spec.seeds if isinstance(sweep.spec.seeds, int) else len(sweep.spec.seeds)
    count = len(cases) * math.prod(map(len, dimensions)) * repeats
    if count > MOST_TRIALS:
        problem = sweep.document.problem((), f"the file asks for {count:,} trials", f"expected at most {MOST_TRIALS:,}")
        raise InputError(problem)
    labels = Labels(dimensions)
    seeds = sweep.spec.seed_list
    checker = _Checker()
    trials: list[TrialSpec] = []
    controls: dict[str, TrialSpec] = {}
    for case in cases:
        for steps in itertools.product(*dimensions):
            cell = _Cell(case=case, choices=tuple(itertools.chain.from_iterable(steps)))
            settings = checker.settings(cell)
            if settings is None:
                continue
            unread = labels.unread(case, steps, settings["config"], settings["config_json"])
            axes = {c.axis.name: None if c.axis.name in unread else c.value for c in cell.choices}
            words = labels.words(case, steps, unread, claimed=settings["privacy"].published_noise)
            trials += [
                TrialSpec(
                    **settings,
                    case=case.name,
                    method=case.method,
                    version=case.module.VERSION,
                    keep_samples=sweep.spec.keep_samples,
                    seed=seed,
                    axes=axes,
                    label=" ".join((*words, f"seed={seed}")),
                    origin=cell,
                    audit=sweep.spec.audit,
                )
                for seed in seeds
            ]
            if sweep.spec.audit and sweep.spec.audit.control and settings["privacy"].noise_multiplier != 0:
                budget = {choice.axis.name for choice in cell.choices if choice.axis.target[0] == "privacy"}
                words = labels.words(case, steps, unread | budget, claimed=False)
                control = _control(trials[-len(seeds)], words, budget)
                # Cells that differ in their budgets alone have one control.
                key = control.method, control.config_key, control.data.model_dump_json(), control.privacy.model_dump_json()
                controls.setdefault(canonical_json(key), control)
    if checker.problems:
        raise InputError(*checker.problems)
    return [*trials, *controls.values()]


def _control(trial: TrialSpec, words: Sequence[str], budget: Collection[str]) -> TrialSpec:
    """The control of an audited ``trial``: the same without noise. ``budget`` are the axes of its ``privacy`` section."""
    return replace(
        trial,
        privacy=trial.privacy.model_copy(
            update={"epsilon": None, "noise_multiplier": 0.0, "published_noise": False, "reserve": None}
        ),
        evaluate=trial.evaluate.model_copy(update={"every": None}),
        keep_samples=0,
        axes={name: None if name in budget else value for name, value in trial.axes.items()},
        label=" ".join((*words, f"seed={trial.seed}", CONTROL)),
        control=True,
    )


# Cells ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Cell:
    """One case with one value of every axis."""

    case: Case
    choices: tuple[Choice, ...]

    def place_of(self, path: Place) -> Place:
        """The place that decided the setting at ``path``: an axis's value where one reaches it."""
        varied = [choice for choice in self.choices if choice.axis.target[0] == path[0]]
        for choice in varied:
            target = choice.axis.target
            if path[: len(target)] == target:
                return (*choice.axis.place, choice.index, *path[len(target) :])
        if place := self.case.place_of(path):
            return place
        return (*varied[0].axis.place, varied[0].index) if varied else (*self.case.place, "method")

    def values_of(self, section: str) -> str:
        """``steps=3 slots=100``: this cell's values of the axes in ``section``."""
        mine = [choice for choice in self.choices if choice.axis.target[0] == section]
        return " ".join(f"{choice.axis.target[-1]}={value_label(choice.value)}" for choice in mine)

    def raw(self, section: str, base: Mapping[str, Any]) -> Mapping[str, Any]:
        """``base``, the settings of ``section``, with this cell's values put in."""
        return with_choices(base, section, self.choices)


class _Checker:
    """Validates the settings of cells, each distinct one once, and gathers what is wrong with them."""

    def __init__(self) -> None:
        self._known: dict[tuple[Any, ...], dict[str, Any] | None] = {}
        self._seen: set[Problem] = set()
        self.problems: list[Problem] = []

    def settings(self, cell: _Cell) -> dict[str, Any] | None:
        """Fields of the cell's ``TrialSpec``, or None if any of them is wrong."""
        settings: dict[str, Any] = {}
        complete = True
        for section in ("train", *SECTIONS):
            case = cell.case.name if section == "train" else None
            key = (section, case, *(choice.index for choice in cell.choices if choice.axis.target[0] == section))
            if key not in self._known:
                self._known[key] = self._train(cell) if section == "train" else self._section(section, cell)
            fields = self._known[key]
            settings |= fields or {}
            complete = complete and fields is not None
        return settings if complete else None

    def _train(self, cell: _Cell) -> dict[str, Any] | None:
        case = cell.case
        origin = Origin(
            document=case.document,
            place_of=lambda place: cell.place_of(("train", *place)),
            root=("train",),
            takes=f"{case.method} takes",
            when=cell.values_of("train"),
            who=case.who,
            elsewhere=SECTION_LEAVES,
        )
        config, problems = validate(case.module.Config, cell.raw("train", case.train), origin)
        self._gather(problems, origin)
        return None if problems else _config_fields(config)

    def _section(self, section: str, cell: _Cell) -> dict[str, Any] | None:
        document = cell.case.document
        origin = Origin(
            document=document,
            place_of=lambda place: cell.place_of((section, *place)),
            root=(section,),
            takes=f"{section} takes",
            when=cell.values_of(section),
        )
        value, problems = validate(SECTIONS[section], cell.raw(section, document.data.get(section) or {}), origin)
        if isinstance(value, PrivacySpec) and value.epsilon is None and value.noise_multiplier is None:
            found = "privacy has neither epsilon nor noise_multiplier"
            problems = [document.problem(("privacy",), found, fix="write `epsilon: 10`", key=True)]
        self._gather(problems, origin)
        return None if problems else {section: value}

    def _gather(self, problems: Sequence[Problem], origin: Origin) -> None:
        for problem in problems:
            everywhere = replace(problem, found=problem.found.removesuffix(f" ({origin.when})"))
            if everywhere not in self._seen:  # what many cells have in common is said once, of the first
                self._seen.add(everywhere)
                self.problems.append(problem)


def _config_fields(config: BaseModel) -> dict[str, Any]:
    as_json = config.model_dump(mode="json")
    return {"config": config, "config_json": as_json, "config_key": canonical_json(as_json)}
