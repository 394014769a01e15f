"""What varies in a sweep: every axis resolved to the setting it names, and the steps that are crossed."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from .cases import Case
from .document import Document, InputError, Place, Problem, dotted, nearest
from .folders import canonical_json
from .overrides import edits_of_axis
from .spec import CheckpointSpec, DataSpec, EvaluateSpec, PrivacySpec, ResourcesSpec, Sweep
from .validation import accepts, leaves

SECTIONS: dict[str, type[BaseModel]] = {
    "data": DataSpec,
    "privacy": PrivacySpec,
    "evaluate": EvaluateSpec,
    "checkpoint": CheckpointSpec,
    "resources": ResourcesSpec,
}
"""Sections of the file that every trial has one of, beside ``train``."""
SECTION_LEAVES = tuple(leaf for section, model in SECTIONS.items() for leaf in leaves(model, f"{section}."))


@dataclass(frozen=True, kw_only=True)
class Axis:
    name: str
    place: Place
    """Of its list of values in the file."""
    target: tuple[str, ...]
    """What it sets: ``("train", "critic", "kind")``."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    axis: Axis
    index: int
    value: Any


def find_dimensions(sweep: Sweep, cases: Sequence[Case]) -> list[list[tuple[Choice, ...]]]:
    """What is crossed: a list of steps for every axis and every zip group; a step sets one value of each of its axes."""
    document = sweep.document
    groups: list[tuple[Place, dict[str, list[Any]]]] = [(("axes",), {name: values}) for name, values in sweep.spec.axes.items()]
    groups += [(("zip", index), group) for index, group in enumerate(sweep.spec.zip)]
    problems: list[Problem] = []
    dimensions: list[list[tuple[Choice, ...]]] = []
    axes: list[Axis] = []
    for place, group in groups:
        steps: list[list[Choice]] = []
        for name, values in group.items():
            try:
                axis = Axis(name=name, place=(*place, name), target=_target(document, (*place, name), name, cases))
            except InputError as error:
                problems += error.problems
                continue
            axes.append(axis)
            steps.append([Choice(axis=axis, index=index, value=value) for index, value in enumerate(values)])
        problems += _uneven(document, place, group)
        dimensions.append(list(zip(*steps, strict=False)))
    problems += _conflicts(sweep, axes)
    if problems:
        raise InputError(*problems)
    return dimensions


def with_choices(base: Mapping[str, Any], section: str, choices: Sequence[Choice]) -> Mapping[str, Any]:
    """``base``, the settings of ``section``, with the choices that reach it put in."""
    for choice in choices:
        if choice.axis.target[0] == section:
            base = _put(base, choice.axis.target[1:], choice.value)
    return base


def _put(base: Any, keys: tuple[str, ...], value: Any) -> Any:
    """``base`` with ``value`` at the path ``keys``; a base that has no keys is left as it is, for the model to refuse."""
    if not keys:
        return value
    if not isinstance(base, Mapping | None):
        return base
    inside = base or {}
    return {**inside, keys[0]: _put(inside.get(keys[0]), keys[1:], value)}


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


def _target(document: Document, place: Place, name: str, cases: Sequence[Case]) -> tuple[str, ...]:
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
    elif parts[0] not in ("train", *SECTIONS) and any(accepts(case.module.Config, parts) for case in cases):
        parts = ("train", *parts)  # `critic.kind` as the method's own documentation calls it
    section, *keys = parts
    if section in SECTIONS and len(keys) == 1 and keys[0] in SECTIONS[section].model_fields:
        return parts
    takers = [case for case in cases if section == "train" and keys and accepts(case.module.Config, tuple(keys))]
    if not takers:
        raise InputError(_no_axis(document, place, name, known, cases))
    lacking = [case for case in cases if case not in takers]
    if lacking:
        raise InputError(*(_foreign(document, place, name, case, parts) for case in lacking))
    return parts


def _known(cases: Sequence[Case]) -> list[str]:
    """Dotted paths of everything that an axis may set."""
    trains = [leaf for case in cases for leaf in leaves(case.module.Config, "train.")]
    return list(dict.fromkeys((*trains, *SECTION_LEAVES)))


def _no_axis(document: Document, place: Place, name: str, known: Sequence[str], cases: Sequence[Case]) -> Problem:
    found = f"axis `{name}` names no setting"
    instead = {"seed": "write `seeds: 3`", "seeds": "write `seeds: 3`", "method": "write `cases:`", "preset": "write `cases:`"}
    if name in instead:
        return document.problem(place, found, fix=instead[name], key=True)
    ending = [path for path in known if path.endswith(f".{name}")]
    names = known if "." in name else [path.rpartition(".")[2] for path in known]
    fix = f"did you mean `{ending[0]}`?" if len(ending) == 1 else nearest(name, names)
    configs = {case.method: case.module.Config for case in cases}
    takes = [f"{method} takes: {', '.join(leaves(config))}" for method, config in configs.items()]
    others = [] if fix else [f"besides there are {', '.join(SECTION_LEAVES)}"]
    return document.problem(place, found, "; ".join(takes + others), fix, key=True)


def _foreign(document: Document, place: Place, name: str, case: Case, target: tuple[str, ...]) -> Problem:
    found = f"{case.who}axis `{name}` names no setting of {case.method}"
    near = nearest(dotted(target[1:]), leaves(case.module.Config))
    fix = f"{near} or give the case a sweep of its own" if near else "give the case a sweep of its own"
    return document.problem(place, found, f"{case.method} takes: {', '.join(leaves(case.module.Config))}", fix, key=True)


def _conflicts(sweep: Sweep, axes: Sequence[Axis]) -> Iterator[Problem]:
    document = sweep.document
    for first, second in itertools.combinations(axes, 2):
        shared = min(len(first.target), len(second.target))
        if first.target[:shared] == second.target[:shared]:
            found = f"axes `{first.name}` and `{second.name}` both set {dotted(second.target)}"
            yield document.problem(second.place, found, fix="remove one", key=True)
    for axis in axes:
        yield from edits_of_axis(document, axis.target, axis.place)
