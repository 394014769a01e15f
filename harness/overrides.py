"""``--set path=value``: edits of a document before it is validated."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from .document import Document, InputError, Mark, Override, Place, Problem, Reader, describe, dotted


def apply_overrides(document: Document, overrides: Sequence[str]) -> Document:
    """The document with every ``path=value`` put in; values are YAML. Later ones win; ``document`` is left as it was.

    Paths are dotted (``train.critic.kind``, ``cases.0.train.steps``); under ``axes`` and ``zip`` the rest of the path is one
    name (``axes.privacy.epsilon=[1, 10]``). What was put in is marked as ``--set path=value``. Raises ``InputError``, also
    for an edit of what an axis sets: its values would win.
    """
    for text in overrides:
        document = _apply(document, text)
    axes, groups = document.data.get("axes"), document.data.get("zip")
    written: list[Place] = [("axes", name) for name in axes] if isinstance(axes, dict) else []
    for index, group in enumerate(groups if isinstance(groups, list) else ()):
        written += [("zip", index, name) for name in group] if isinstance(group, dict) else []
    problems: list[Problem] = []
    for place in written:
        name = str(place[-1])
        for target in (name, f"train.{name}"):
            problems += edits_of_axis(document, tuple(target.split(".")), place)
    if problems:
        raise InputError(*problems)
    return document


def edits_of_axis(document: Document, target: Place, place: Place) -> Iterator[Problem]:
    """A problem for every override of ``target`` itself, which would be lost where the axis at ``place`` sets it."""
    for override in document.overrides:
        edited = override.place[2:] if override.place[0] == "cases" else override.place
        if edited[: len(target)] == target:
            value = override.text.partition("=")[2].strip()
            found = f"{dotted(target)} is an axis of this sweep, and its values would win"
            fix = f"write --set {dotted(place)}={value if value.startswith('[') else f'[{value}]'}"
            yield document.problem(override.place, found, fix=fix)


def _apply(document: Document, text: str) -> Document:
    mark = Mark(f"--set {text}")
    path, equals, value_text = text.partition("=")
    place = _split(path.strip())
    if not equals or "" in place:
        raise InputError(Problem(mark, "is not an edit", fix="write --set path=value, such as --set train.steps=50"))
    try:
        value = Reader(mark.file, {}, {}).read(value_text)
    except InputError as error:
        raise InputError(*(replace(problem, mark=mark) for problem in error.problems)) from None
    *parents, last = place
    data = dict(document.data)
    node: Any = data
    walked: Place = ()
    made: dict[Place, Mark] = {}
    for parent in parents:
        parent = _index(node, parent, walked, mark)
        child = node.get(parent) if isinstance(node, dict) else node[parent]
        walked = (*walked, parent)
        if child is None:
            made[walked] = mark
        if child is not None and not isinstance(child, dict | list):
            raise InputError(Problem(mark, f"`{dotted(walked)}` is {describe(child)}, which has no keys"))
        node[parent] = dict(child or {}) if not isinstance(child, list) else list(child)
        node = node[parent]
    last = _index(node, last, walked, mark)
    place = (*walked, last)
    node[last] = value
    made[place] = mark
    keys = {known: at for known, at in document.keys.items() if known[: len(place)] != place} | made
    values = {known: at for known, at in document.values.items() if known[: len(place)] != place} | made
    override = Override(place=place, text=text)
    return replace(document, data=data, keys=keys, values=values, overrides=(*document.overrides, override))


def _split(path: str) -> Place:
    """Axis names hold dots, so below ``axes`` and ``zip.0`` the rest is one key."""
    parts = path.split(".")
    named = {"axes": 1, "zip": 2}.get(parts[0], len(parts))
    return (*parts[:named], ".".join(parts[named:])) if len(parts) > named else tuple(parts)


def _index(node: Any, part: str | int, walked: Place, mark: Mark) -> str | int:
    """``part`` as a key of ``node``: a position where it is a list."""
    if not isinstance(node, list):
        return part
    if str(part).isdecimal() and int(part) < len(node):
        return int(part)
    found = f"`{dotted(walked)}` has no item {part}"
    raise InputError(Problem(mark, found, f"it is a list of {len(node)}", f"write {dotted(walked)}.0 for the first"))
