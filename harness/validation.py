"""From pydantic's errors to a person's: where the value was written, which name is nearest, what to type.

Used for the sweep file itself (``harness.spec``), for every method's ``Config`` (``harness.expand``) and for Slurm profiles
(``harness.profiles``), so that all complain alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from .document import Document, Place, Problem, describe, dotted, nearest

_PHRASES = {
    "a whole number": ("int_type", "int_parsing", "int_from_float", "int_parsing_size"),
    "a number": ("float_type", "float_parsing"),
    "true or false": ("bool_type", "bool_parsing"),
    "a list": ("list_type", "tuple_type", "set_type", "frozen_set_type"),
    "keys and values": ("dict_type", "model_type", "model_attributes_type", "mapping_type"),
    "a finite number": ("finite_number",),
}
_PHRASE_OF = {kind: phrase for phrase, kinds in _PHRASES.items() for kind in kinds}
_BOUNDS = {
    "greater_than": ("gt", "over"),
    "greater_than_equal": ("ge", "of at least"),
    "less_than": ("lt", "under"),
    "less_than_equal": ("le", "of at most"),
}
_OTHERS = ("string_type", "literal_error", "enum", "union_tag_invalid", "too_short")


@dataclass(frozen=True, kw_only=True)
class Origin:
    """How to speak of a value that is being validated: its name, and where each part of it was written."""

    document: Document
    place_of: Callable[[Place], Place] = lambda place: place
    """From a place inside the value to the place in the document that decided it."""
    root: Place = ()
    """The value's own path in messages: ``("train",)``."""
    takes: str = "a sweep file takes"
    """Who owns the names at the root of the value: ``dp_energy takes``."""
    when: str = ""
    """The values of axes that an error of the whole value may be due to: ``steps=3 slots=100``."""
    who: str = ""
    """Prefix of every message: ``case `guided`: ``."""
    elsewhere: tuple[str, ...] = ()
    """Dotted paths of further settings, for names that were put in the wrong place."""


def about(key: str, text: str) -> PydanticCustomError:
    """An error of a whole section that is shown at one of its keys."""
    return PydanticCustomError("about", "{text}", {"text": text, "key": key})


def validate(model: type[BaseModel], raw: Mapping[str, Any], origin: Origin) -> tuple[Any, list[Problem]]:
    """``model`` built from ``raw`` and no problem, or None and every problem found."""
    try:
        value = model.model_validate(raw)
    except ValidationError as error:
        return None, _problems(error, model, raw, origin)
    problems = [_wrong(origin, place, found, [phrase]) for place, found, phrase in _silent(raw, value, ())]
    return (None, problems) if problems else (value, [])


def _silent(raw: Any, kept: Any, place: Place) -> Iterator[tuple[Place, Any, str]]:
    """What pydantic lets through and nobody means: ``true`` as a number, and numbers that JSON cannot write."""
    if isinstance(raw, dict):
        for key, item in raw.items():
            inside = kept.get(key) if isinstance(kept, Mapping) else getattr(kept, key, None)
            yield from _silent(item, inside, (*place, key))
    elif isinstance(raw, list):
        alike = isinstance(kept, list | tuple) and len(kept) == len(raw)
        for index, item in enumerate(raw):
            yield from _silent(item, kept[index] if alike else None, (*place, index))
    elif isinstance(raw, bool) and isinstance(kept, int | float) and not isinstance(kept, bool):
        yield place, raw, "a number"
    elif isinstance(raw, float) and not math.isfinite(raw):
        yield place, raw, "a finite number"


# Problems ------------------------------------------------------------------------------------------------------------


def _problems(error: ValidationError, model: type[BaseModel], raw: Any, origin: Origin) -> list[Problem]:
    problems: list[Problem] = []
    expected: dict[Place, tuple[Any, list[str], list[str]]] = {}
    items = [(item, _existing(raw, item["loc"])) for item in error.errors(include_url=False)]
    for item, place in items:
        kind, context = item["type"], item.get("ctx", {})
        if kind == "extra_forbidden":
            problems.append(_unknown(model, place, origin))
        elif kind == "missing":
            problems.append(_missing(model, place, str(item["loc"][-1]), origin))
        elif kind in _PHRASE_OF or kind in _BOUNDS or kind in _OTHERS:
            found, phrases, choices = expected.setdefault(place, (_at(raw, place), [], []))
            if (phrase := _phrase(kind, context, found)) not in phrases:
                phrases.append(phrase)
            choices += _choices(context)
        else:
            problems.append(_statement(item, place, raw, origin))
    for place, (found, phrases, choices) in expected.items():
        # A union complains once for each of its members (the one that got furthest was meant), and a list whose items are
        # wrong complains that it is too short: what is wrong inside says it better.
        if not any(len(inner) > len(place) and inner[: len(place)] == place for _, inner in items):
            fix = nearest(found, choices) if isinstance(found, str) else ""
            problems.append(_wrong(origin, place, found, phrases, fix or _example(model, place, found, phrases)))
    return problems


def _existing(raw: Any, location: tuple[int | str, ...]) -> Place:
    """pydantic's location without what is not in the value: names of union members, keys that are missing."""
    place: Place = ()
    for part in location:
        if (isinstance(raw, dict) and part in raw) or (isinstance(raw, list) and isinstance(part, int) and part < len(raw)):
            raw, place = raw[part], (*place, part)  # type: ignore[index]
    return place


def _at(raw: Any, place: Place) -> Any:
    for part in place:
        raw = raw[part]
    return raw


def _phrase(kind: str, context: Mapping[str, Any], found: Any) -> str:
    if kind in _BOUNDS:
        key, words = _BOUNDS[kind]
        return f"a number {words} {context[key]:g}"
    if kind == "string_type":
        return f'text, in quotes: "{found}"' if isinstance(found, int | float) else "text"
    if choices := _choices(context):
        return " or ".join(filter(None, (", ".join(choices[:-1]), choices[-1])))
    if kind == "too_short":
        return f"a list of at least {context['min_length']}"
    return _PHRASE_OF[kind]


def _choices(context: Mapping[str, Any]) -> list[str]:
    """The values of a Literal, an Enum or a discriminator, out of pydantic's sentence "'a', 'b' or 'c'"."""
    sentence = context.get("expected") or context.get("expected_tags") or ""
    return [choice.strip().strip("'") for choice in str(sentence).replace(" or ", ", ").split(", ") if choice]


def _example(model: type[BaseModel], place: Place, found: Any, phrases: list[str]) -> str:
    """What to type where something with parts was expected."""
    if not place or not phrases[0].startswith(("a list", "keys and values")):
        return ""
    field = fields_at(model, place[:-1]).get(str(place[-1]))
    if field is not None and field.examples:
        return f"write `{place[-1]}: {field.examples[0]}`"
    return f"write `{place[-1]}: [{found}]`" if phrases == ["a list"] and isinstance(found, str | int | float) else ""


def _wrong(origin: Origin, place: Place, found: Any, phrases: list[str], fix: str = "") -> Problem:
    name = dotted((*origin.root, *place)) or "the file"
    expected = f"expected {' or '.join(phrases)}"
    return origin.document.problem(origin.place_of(place), f"{origin.who}`{name}` is {describe(found)}", expected, fix)


def _unknown(model: type[BaseModel], place: Place, origin: Origin) -> Problem:
    *parents, key = place
    key, above = str(key), (*origin.root, *parents)
    names = sorted(fields_at(model, tuple(parents)))
    owner = origin.takes if not parents else f"{dotted(above)} takes"
    prefix = "".join(f"{part}." for part in origin.root)
    known = dict.fromkeys((*origin.elsewhere, *leaves(model, prefix)))
    elsewhere = [leaf for leaf in known if leaf.rpartition(".")[2] == key]
    if ":" in key:
        fix = f"write a space after the colon: `{key.partition(':')[0]}: {key.partition(':')[2]}`"
    elif elsewhere:
        fix = f"did you mean {' or '.join(f'`{leaf}`' for leaf in elsewhere)}?"
    else:
        fix = nearest(key, names)
    where = f" in {dotted(above)}" if above else ""
    expected = f"{owner}: {', '.join(names)}" if names else ""
    return origin.document.problem(origin.place_of(place), f"{origin.who}unknown key `{key}`{where}", expected, fix, key=True)


def _missing(model: type[BaseModel], place: Place, key: str, origin: Origin) -> Problem:
    field = fields_at(model, place).get(key)
    above = (*origin.root, *place)
    where = f" in {dotted(above)}" if above else ""
    fix = f"write `{key}: {field.examples[0]}`" if field is not None and field.examples else f"add `{key}:` with a value"
    return origin.document.problem(origin.place_of(place), f"{origin.who}missing key `{key}`{where}", "", fix, key=True)


def _statement(item: Mapping[str, Any], place: Place, raw: Any, origin: Origin) -> Problem:
    """An error whose text says it all: a ``ValueError`` of a validator, or a kind that this module has no words for."""
    context = item.get("ctx", {})
    text = str(context["error"]) if item["type"] == "value_error" else str(item["msg"])
    name, found = dotted((*origin.root, *place)), _at(raw, place)
    if "key" in context:
        place = (*place, context["key"])
    elif not isinstance(found, dict):
        text = f"`{name}` is {describe(found)}; {text}"
    else:
        place = (*place, text.partition(" ")[0])  # such sentences begin with the setting they are about: "slots is 30; ..."
        text += f" ({origin.when})" if origin.when else ""
    return origin.document.problem(origin.place_of(place), f"{origin.who}{text}", key="key" in context)


# Models --------------------------------------------------------------------------------------------------------------


def submodels(annotation: Any) -> list[type[BaseModel]]:
    """The models that a field may hold: itself, a member of a union, the items of a list."""
    if isinstance(annotation, type) and get_origin(annotation) is None:
        return [annotation] if issubclass(annotation, BaseModel) else []
    return [model for argument in get_args(annotation) for model in submodels(argument)]


def fields_at(model: type[BaseModel], place: Place) -> dict[str, FieldInfo]:
    """Names and fields that may stand at ``place`` inside ``model``."""
    models = [model]
    for part in place:
        if isinstance(part, str):
            fields = [known.model_fields[part] for known in models if part in known.model_fields]
            models = [inner for field in fields for inner in submodels(field.annotation)]
    return {name: field for known in models for name, field in known.model_fields.items()}


def leaves(model: type[BaseModel], prefix: str = "") -> list[str]:
    """Dotted paths of all settings of ``model`` and of the models inside it."""
    found = []
    for name, field in model.model_fields.items():
        inner = submodels(field.annotation)
        found += [leaf for nested in inner for leaf in leaves(nested, f"{prefix}{name}.")] or [prefix + name]
    return list(dict.fromkeys(found))


def accepts(model: type[BaseModel], keys: tuple[str, ...]) -> bool:
    """Whether ``model`` has a setting at the path ``keys``; below a field that takes any mapping, every path is one."""
    for position, key in enumerate(keys):
        field = fields_at(model, keys[:position]).get(key)
        if field is None:
            return False
        if not submodels(field.annotation) and position < len(keys) - 1:
            return _takes_mapping(field.annotation)
    return True


def _takes_mapping(annotation: Any) -> bool:
    if annotation is Any or (get_origin(annotation) or annotation) in (dict, Mapping):
        return True
    return any(_takes_mapping(argument) for argument in get_args(annotation))
