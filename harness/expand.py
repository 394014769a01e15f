"""From a checked sweep file to its trials: cases x axes x zip groups x seeds, every setting checked by the method's own model.

Precedence: preset < ``train`` < the case's ``train`` < axes. Mappings are merged key by key up to the axes; an axis replaces
what stands at its path. Cases vary slowest, then the axes as the file lists them, then the zip groups, seeds fastest.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import ModuleType
from typing import Any

from pydantic import BaseModel

from trainables import registry

from .document import Document, InputError, Place, Problem, dotted, nearest
from .folders import canonical_json
from .spec import CheckpointSpec, DataSpec, EvaluateSpec, PrivacySpec, ResourcesSpec, Sweep
from .validation import Origin, accepts, leaves, validate

MOST_TRIALS = 100_000

_SECTIONS: dict[str, type[BaseModel]] = {
    "data": DataSpec,
    "privacy": PrivacySpec,
    "evaluate": EvaluateSpec,
    "checkpoint": CheckpointSpec,
    "resources": ResourcesSpec,
}
_SECTION_LEAVES = tuple(leaf for section, model in _SECTIONS.items() for leaf in leaves(model, f"{section}."))
_CONTRACT = ("VERSION", "Config", "PRESETS", "mechanism", "stages")


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
    """Axis name, as the file writes it, -> this trial's value."""
    label: str
    """What a person reads: ``guided epsilon=10 noise_injection=0.1 seed=0``."""
    origin: _Cell = field(repr=False, compare=False)

    def problem(self, path: str, found: str, expected: str = "", fix: str = "") -> Problem:
        """A problem with the setting at the dotted ``path`` (``data``, ``privacy.epsilon``), at whatever decided it."""
        place = tuple(path.split("."))
        if len(place) == 1:
            # Sentences of methods and sources begin with the setting they are about: "slots is 30; ...".
            named = found.split()[0].removeprefix(f"{path}.")
            values = self.origin.values_of(path)
            found, place = found + (f" ({values})" if values else ""), (path, named)
        who = self.origin.case.who
        return self.origin.case.document.problem(self.origin.place_of(place), f"{who}{found}", expected, fix)


def expand(sweep: Sweep) -> list[TrialSpec]:
    """All trials of ``sweep``, in the order described above. Raises ``InputError`` that lists every problem found."""
    cases = _cases(sweep)
    dimensions = _dimensions(sweep, cases)
    repeats = sweep.spec.seeds if isinstance(sweep.spec.seeds, int) else len(sweep.spec.seeds)
    count = len(cases) * math.prod(map(len, dimensions)) * repeats
    if count > MOST_TRIALS:
        problem = sweep.document.problem((), f"the file asks for {count:,} trials", f"expected at most {MOST_TRIALS:,}")
        raise InputError(problem)
    names = _short_names([choice.axis.name for dimension in dimensions for choice in dimension[0]])
    seeds = sweep.spec.seed_list
    checker = _Checker()
    trials: list[TrialSpec] = []
    for case in cases:
        for choices in itertools.product(*dimensions):
            cell = _Cell(case=case, choices=tuple(itertools.chain.from_iterable(choices)))
            axes = {choice.axis.name: choice.value for choice in cell.choices}
            words = [case.name] if case.name else []
            words += [f"{names[name]}={_value_label(value)}" for name, value in axes.items()]
            settings = checker.settings(cell)
            if settings is None:
                continue
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
                )
                for seed in seeds
            ]
    if checker.problems:
        raise InputError(*checker.problems)
    return trials


# Cases ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Case:
    """One method with its settings before the axes."""

    document: Document
    name: str | None
    method: str
    module: ModuleType
    place: Place
    """Where it is written: ``("cases", 1)``, or the root."""
    preset_place: Place
    preset: Mapping[str, Any]
    train: Mapping[str, Any]
    """preset < train < case.train."""

    @property
    def who(self) -> str:
        return f"case `{self.name}`: " if self.name else ""

    def place_of(self, path: Place) -> Place:
        """The place that decided the setting at ``path``, the axes left aside."""
        inside = [(*self.place, *path)] if self.place and path[0] == "train" else []
        for place in (*inside, path):
            if _exists(self.document.data, place):
                return place
        if path[0] == "train" and _exists(self.preset, path[1:]) and self.preset:
            return self.preset_place
        return self.place_of(path[:-1]) if len(path) > 1 else (*self.place, "method")


def _cases(sweep: Sweep) -> list[_Case]:
    spec, document = sweep.spec, sweep.document
    problems: list[Problem] = []
    cases: list[_Case] = []
    written: list[tuple[Place, str | None, str | None, str | None, Mapping[str, Any]]] = [
        (("cases", index), case.name, case.method, case.preset, case.train) for index, case in enumerate(spec.cases or ())
    ]
    for place, name, method, preset, train in written or [((), None, spec.method, None, {})]:
        try:
            module = _method(document, place, str(method))
            preset_place: Place = (*place, "preset") if preset is not None else ("preset",)
            base = _preset(document, preset_place, str(method), module, preset if preset is not None else spec.preset, name)
        except InputError as error:
            problems += error.problems
            continue
        cases.append(
            _Case(
                document=document,
                name=name,
                method=str(method),
                module=module,
                place=place,
                preset_place=preset_place,
                preset=base,
                train=_merge(_merge(base, spec.train), train),
            )
        )
    if problems:
        raise InputError(*problems)
    return cases


def _method(document: Document, place: Place, name: str) -> ModuleType:
    where: Place = (*place, "method")
    try:
        module = registry.method(name)
    except registry.UnknownMethod as error:
        if "." in name:
            raise InputError(document.problem(where, str(error))) from error
        ours = f"ours are: {', '.join(registry.METHODS)}; a method of your own is written package.module"
        found = f"method `{name}` is not known"
        raise InputError(document.problem(where, found, ours, nearest(name, registry.METHODS))) from None
    except Exception as error:
        found = f"method `{name}` cannot be imported: {type(error).__name__}: {error}"
        raise InputError(document.problem(where, found)) from error
    missing = [part for part in _CONTRACT if not hasattr(module, part)]
    config = getattr(module, "Config", None)
    strict = isinstance(config, type) and issubclass(config, BaseModel) and config.model_config.get("extra") == "forbid"
    if missing or not strict:
        found = f"method `{name}` has no {', '.join(missing)}" if missing else f"Config of method `{name}` takes any key"
        expected = "expected what trainables/base.py describes; Config is a pydantic model with extra='forbid'"
        raise InputError(document.problem(where, found, expected))
    return module


def _preset(
    document: Document, place: Place, method: str, module: ModuleType, name: str | None, case: str | None
) -> Mapping[str, Any]:
    if name is None:
        return {}
    if name not in module.PRESETS:
        known = f"{method} has: {', '.join(module.PRESETS)}" if module.PRESETS else f"{method} has none"
        found = f"case `{case}`: preset `{name}` is not known" if case else f"preset `{name}` is not known"
        raise InputError(document.problem(place, found, known, nearest(name, module.PRESETS)))
    return module.PRESETS[name]


def _merge(below: Any, above: Any) -> Any:
    """``above`` over ``below``; where both are mappings, key by key."""
    if not (isinstance(below, Mapping) and isinstance(above, Mapping)):
        return above
    return {**below, **{key: _merge(below[key], value) if key in below else value for key, value in above.items()}}


def _exists(data: Any, place: Place) -> bool:
    for part in place:
        if isinstance(part, int):
            inside = isinstance(data, list) and part < len(data)
        else:
            inside = isinstance(data, Mapping) and part in data
        if not inside:
            return False
        data = data[part]
    return True


# Axes ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Axis:
    name: str
    place: Place
    """Of its list of values in the file."""
    target: tuple[str, ...]
    """What it sets: ``("train", "critic", "kind")``."""


@dataclass(frozen=True, kw_only=True)
class _Choice:
    axis: _Axis
    index: int
    value: Any


@dataclass(frozen=True, kw_only=True)
class _Cell:
    """One case with one value of every axis."""

    case: _Case
    choices: tuple[_Choice, ...]

    def place_of(self, path: Place) -> Place:
        """The place that decided the setting at ``path``: an axis's value where one reaches it."""
        place = self.case.place_of(path)
        for choice in self.choices:
            target = choice.axis.target
            if path[: len(target)] == target:
                return (*choice.axis.place, choice.index, *path[len(target) :])
            if place[-1:] == ("method",) and target[0] == path[0]:  # the section is in no other part of the file
                place = (*choice.axis.place, choice.index)
        return place

    def values_of(self, section: str) -> str:
        """``steps=3 slots=100``: this cell's values of the axes in ``section``."""
        mine = [choice for choice in self.choices if choice.axis.target[0] == section]
        return " ".join(f"{choice.axis.target[-1]}={_value_label(choice.value)}" for choice in mine)

    def raw(self, section: str, base: Mapping[str, Any]) -> Mapping[str, Any]:
        """``base``, the settings of ``section``, with this cell's values put in."""
        for choice in self.choices:
            if choice.axis.target[0] == section:
                base = _put(base, choice.axis.target[1:], choice.value)
        return base


def _put(base: Any, keys: tuple[str, ...], value: Any) -> Any:
    if not keys:
        return value
    inside = base if isinstance(base, Mapping) else {}
    return {**inside, keys[0]: _put(inside.get(keys[0]), keys[1:], value)}


def _dimensions(sweep: Sweep, cases: Sequence[_Case]) -> list[list[tuple[_Choice, ...]]]:
    """What is crossed: a list of steps for every axis and every zip group; a step sets one value of each of its axes."""
    document = sweep.document
    groups: list[tuple[Place, dict[str, list[Any]]]] = [(("axes",), {name: values}) for name, values in sweep.spec.axes.items()]
    groups += [(("zip", index), group) for index, group in enumerate(sweep.spec.zip)]
    problems: list[Problem] = []
    dimensions: list[list[tuple[_Choice, ...]]] = []
    axes: list[_Axis] = []
    for place, group in groups:
        steps: list[list[_Choice]] = []
        for name, values in group.items():
            try:
                axis = _Axis(name=name, place=(*place, name), target=_target(document, (*place, name), name, cases))
            except InputError as error:
                problems += error.problems
                continue
            axes.append(axis)
            steps.append([_Choice(axis=axis, index=index, value=value) for index, value in enumerate(values)])
        problems += _uneven(document, place, group)
        dimensions.append(list(zip(*steps, strict=False)))
    problems += _conflicts(sweep, axes)
    if problems:
        raise InputError(*problems)
    return dimensions


def _uneven(document: Document, place: Place, group: Mapping[str, list[Any]]) -> Iterator[Problem]:
    if not group:
        yield document.problem(place, "a zip group is empty", fix="write axes of equal length into it, or remove it")
    for name, values in group.items():
        if not values:
            yield document.problem((*place, name), f"axis `{name}` has no values", fix="give it some, or remove it")
    lengths = {name: len(values) for name, values in group.items()}
    if len(set(lengths.values())) > 1:
        found = "axes that go in step differ in length: " + ", ".join(f"{name} has {count}" for name, count in lengths.items())
        yield document.problem(place, found, fix="give them equally many values")
    if place == ("axes",):
        for name, values in group.items():
            texts = [canonical_json(value) for value in values]
            for index, text in enumerate(texts):
                if text in texts[:index]:
                    found = f"axis `{name}` lists {text} twice"
                    yield document.problem((*place, name, index), found, fix="remove one; repetitions are written `seeds: 3`")


def _target(document: Document, place: Place, name: str, cases: Sequence[_Case]) -> tuple[str, ...]:
    """What the axis ``name`` sets. Raises ``InputError`` with the nearest names."""
    known = _known(cases)
    parts = tuple(name.split("."))
    if len(parts) == 1:
        own: tuple[str, ...] = ("train", name)
        if not any(accepts(case.module.Config, (name,)) for case in cases):
            named = [path for path in known if path.rpartition(".")[2] == name]
            if len(named) > 1:
                found = f"axis `{name}` could be {' or '.join(f'`{path}`' for path in named)}"
                raise InputError(document.problem(place, found, fix="write one of them", key=True))
            own = tuple(named[0].split(".")) if named else own
        parts = own
    section, *keys = parts
    if section in _SECTIONS and len(keys) == 1 and keys[0] in _SECTIONS[section].model_fields:
        return parts
    takers = [case for case in cases if section == "train" and keys and accepts(case.module.Config, tuple(keys))]
    if not takers:
        raise InputError(_no_axis(document, place, name, known, cases))
    lacking = [case for case in cases if case not in takers]
    if lacking:
        raise InputError(*(_foreign(document, place, name, case, parts) for case in lacking))
    return parts


def _known(cases: Sequence[_Case]) -> list[str]:
    """Dotted paths of everything that an axis may set."""
    trains = [leaf for case in cases for leaf in leaves(case.module.Config, "train.")]
    return list(dict.fromkeys((*trains, *_SECTION_LEAVES)))


def _no_axis(document: Document, place: Place, name: str, known: Sequence[str], cases: Sequence[_Case]) -> Problem:
    found = f"axis `{name}` names no setting"
    instead = {"seed": "write `seeds: 3`", "seeds": "write `seeds: 3`", "method": "write `cases:`", "preset": "write `cases:`"}
    if name in instead:
        return document.problem(place, found, fix=instead[name], key=True)
    ending = [path for path in known if path.endswith(f".{name}")]
    names = known if "." in name else [path.rpartition(".")[2] for path in known]
    fix = f"did you mean `{ending[0]}`?" if len(ending) == 1 else nearest(name, names)
    configs = {case.method: case.module.Config for case in cases}
    takes = [f"{method} takes: {', '.join(leaves(config))}" for method, config in configs.items()]
    others = [] if fix else [f"besides there are {', '.join(_SECTION_LEAVES)}"]
    return document.problem(place, found, "; ".join(takes + others), fix, key=True)


def _foreign(document: Document, place: Place, name: str, case: _Case, target: tuple[str, ...]) -> Problem:
    found = f"{case.who}axis `{name}` names no setting of {case.method}"
    near = nearest(dotted(target[1:]), leaves(case.module.Config))
    fix = f"{near} or give the case a sweep of its own" if near else "give the case a sweep of its own"
    return document.problem(place, found, f"{case.method} takes: {', '.join(leaves(case.module.Config))}", fix, key=True)


def _conflicts(sweep: Sweep, axes: Sequence[_Axis]) -> Iterator[Problem]:
    document = sweep.document
    for first, second in itertools.combinations(axes, 2):
        shared = min(len(first.target), len(second.target))
        if first.target[:shared] == second.target[:shared]:
            found = f"axes `{first.name}` and `{second.name}` both set {dotted(second.target)}"
            yield document.problem(second.place, found, fix="remove one", key=True)
    for override in document.overrides:
        edited = override.place[2:] if override.place[0] == "cases" else override.place
        for axis in axes:
            if edited[: len(axis.target)] == axis.target:
                found = f"{dotted(axis.target)} is an axis of this sweep, and its values would win"
                value = override.text.partition("=")[2].strip()
                values = value if value.startswith("[") else f"[{value}]"
                yield document.problem(override.place, found, fix=f"write --set {dotted(axis.place)}={values}")
    varied = {axis.target: axis for axis in axes if axis.target[0] == "privacy"}
    for mine, other in (("epsilon", "noise_multiplier"), ("noise_multiplier", "epsilon")):
        own = varied.get(("privacy", mine))
        if own and ("privacy", other) not in varied and getattr(sweep.spec.privacy, other) is not None:
            line = document.mark(("privacy", other), key=True)
            found = f"axis `{own.name}` and privacy.{other} (at {line}) would both set the budget of a trial"
            yield document.problem(own.place, found, fix="remove one of them", key=True)


# Cells ---------------------------------------------------------------------------------------------------------------


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
        for section in ("train", *_SECTIONS):
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
            elsewhere=_SECTION_LEAVES,
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
        value, problems = validate(_SECTIONS[section], cell.raw(section, document.data.get(section) or {}), origin)
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


# Labels --------------------------------------------------------------------------------------------------------------


def _short_names(names: Sequence[str]) -> dict[str, str]:
    """The last part of every axis's name, or all of it where two end alike.

    >>> _short_names(["privacy.epsilon", "critic.steps", "classifier.steps"])
    {'privacy.epsilon': 'epsilon', 'critic.steps': 'critic.steps', 'classifier.steps': 'classifier.steps'}
    """
    ends = [name.rpartition(".")[2] for name in names]
    return {name: end if ends.count(end) == 1 else name for name, end in zip(names, ends, strict=True)}


def _value_label(value: Any) -> str:
    """A value in a label.

    >>> _value_label(1e-05), _value_label(True), _value_label({"kind": "energy"})
    ('1e-05', 'true', '{"kind":"energy"}')
    """
    if isinstance(value, str):
        return value
    return f"{value:g}" if isinstance(value, float) else canonical_json(value)
