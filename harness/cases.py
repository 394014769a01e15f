"""The methods that a sweep compares: each found, checked against the contract, with its preset and settings merged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from pydantic import BaseModel

from trainables import registry

from .document import Document, InputError, Place, Problem, nearest
from .spec import Sweep
from .validation import submodels

_CONTRACT = ("VERSION", "Config", "PRESETS", "mechanism", "stages")


@dataclass(frozen=True, kw_only=True)
class Case:
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
    """preset < train < case.train, merged key by key."""

    @property
    def who(self) -> str:
        return f"case `{self.name}`: " if self.name else ""

    def place_of(self, path: Place) -> Place | None:
        """The place that decided the setting at ``path``, or the mapping it belongs to; axes are left aside."""
        inside = [(*self.place, *path)] if self.place and path[0] == "train" else []
        for place in (*inside, path):
            if _exists(self.document.data, place):
                return place
        if path[0] == "train" and _exists(self.preset, path[1:]) and self.preset:
            return self.preset_place
        return self.place_of(path[:-1]) if len(path) > 1 else None


def find_cases(sweep: Sweep) -> list[Case]:
    spec, document = sweep.spec, sweep.document
    problems: list[Problem] = []
    cases: list[Case] = []
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
            Case(
                document=document,
                name=name,
                method=str(method),
                module=module,
                place=place,
                preset_place=preset_place,
                preset=base,
                train=_merge(_merge(_merge(_inner_defaults(module.Config), base), spec.train), train),
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
    if missing or not (isinstance(config, type) and issubclass(config, BaseModel)):
        found = f"method `{name}` has no {', '.join(missing) or 'pydantic model Config'}"
        raise InputError(document.problem(where, found, "expected what trainables/base.py describes"))
    for model in (config, *_inner_models(config)):
        if model.model_config.get("extra") != "forbid":
            found = f"{model.__name__} of method `{name}` takes any key, so that misspelt settings would be lost"
            fix = 'give it model_config = ConfigDict(extra="forbid", frozen=True)'
            raise InputError(document.problem(where, found, fix=fix))
    return module


def _inner_models(model: type[BaseModel]) -> list[type[BaseModel]]:
    inner = [found for field in model.model_fields.values() for found in submodels(field.annotation)]
    return [found for nested in inner for found in (nested, *_inner_models(nested))]


def _inner_defaults(config: type[BaseModel]) -> dict[str, Any]:
    """Defaults that ``config`` gives to a model inside it, so that setting one of its keys leaves the others as they were."""
    defaults = {}
    for name, field in config.model_fields.items():
        default = field.get_default(call_default_factory=False)
        if isinstance(default, BaseModel) and len(submodels(field.annotation)) == 1:
            defaults[name] = default.model_dump(exclude_unset=True)
    return defaults


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
