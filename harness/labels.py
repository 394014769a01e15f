"""What a person reads of a cell: the axes that make it what it is, without those that nothing reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

from pydantic import BaseModel, ValidationError

from .axes import SECTIONS, Choice, with_choices
from .cases import Case
from .folders import canonical_json

Step = tuple[Choice, ...]
"""What one dimension of the sweep sets: the choice of an axis, or one of every axis of a zip group."""

# Of an axis's other values, how many are put in a cell's place to learn whether it reads the axis. One would nearly always
# do; more for settings that one value in particular makes matter (a schedule of which only one works on zero).
TRIED = 3
# An axis of more values than this is a search through numbers: two of them hardly ever mean the same, and none is needless.
FEW = 50


class Labels:
    """Says of every cell of a sweep which axes it reads, and in which words."""

    def __init__(self, dimensions: Sequence[Sequence[Step]]) -> None:
        distinct: dict[str, dict[str, Choice]] = {}
        self._codes: dict[tuple[str, int], int] = {}  # a number for every value of every axis, the same for equal ones
        for choice in (choice for dimension in dimensions for step in dimension for choice in step):
            name = choice.axis.name
            first = distinct.setdefault(name, {}).setdefault(canonical_json(choice.value), choice)
            self._codes[name, choice.index] = self._codes.get((name, first.index), len(self._codes))
        self._values = {name: list(values.values()) for name, values in distinct.items()}
        self._names = _short_names(list(distinct))
        self._known: dict[tuple[Any, ...], dict[str, Any] | None] = {}

    def unread(self, case: Case, steps: Sequence[Step], config: BaseModel, as_json: Mapping[str, Any]) -> frozenset[str]:
        """Names of the axes that do not decide anything in this cell. ``config`` is the cell's ``Config``.

        A method's ``Config`` resets what nothing reads, so an axis under ``train`` is unread where ``config`` holds another
        value than was written, or where another of its values makes the same ``config``.
        """
        choices = [choice for step in steps for choice in step if choice.axis.target[0] == "train"]
        return frozenset(c.axis.name for c in choices if _overruled(c, config) or self._moot(case, choices, c, as_json))

    def words(self, case: Case, steps: Sequence[Step], unread: frozenset[str], *, claimed: bool) -> list[str]:
        """``["guided", "epsilon=10"]``: the case and every axis that the cell reads.

        Of axes that go in step, those after the first are left out where they say what is so without them. ``claimed``: the
        target is what the published accounting claims, so the label does not call it epsilon.
        """
        words = [case.name] if case.name else []
        for step in steps:
            for choice in step:
                name = self._names[choice.axis.name]
                if choice.axis.name in unread or (choice is not step[0] and self._needless(case, steps, choice)):
                    continue
                if claimed and choice.axis.target == ("privacy", "epsilon"):
                    name = "claimed_epsilon"  # the label stands beside the epsilon that is proven
                words.append(f"{name}={value_label(choice.value)}")
        return words

    def _moot(self, case: Case, choices: Sequence[Choice], choice: Choice, config: Mapping[str, Any]) -> bool:
        """Whether another of the axis's values, put in place of ``choice``, makes the same ``config``."""
        values = self._values[choice.axis.name]
        if len(values) > FEW:
            return False
        code = self._code(choice)
        others = (value for value in values if self._code(value) != code)
        return any(
            self._settings(case, "train", [other if c is choice else c for c in choices]) == config
            for other in islice(others, TRIED)
        )

    def _needless(self, case: Case, steps: Sequence[Step], choice: Choice) -> bool:
        """Whether the settings are the same without ``choice``."""
        if len(self._values[choice.axis.name]) > FEW:
            return False
        section = choice.axis.target[0]
        choices = [c for step in steps for c in step if c.axis.target[0] == section]
        without = self._settings(case, section, [c for c in choices if c is not choice])
        return without is not None and without == self._settings(case, section, choices)

    def _settings(self, case: Case, section: str, choices: Sequence[Choice]) -> dict[str, Any] | None:
        """The settings of a section as JSON, or None where they are refused."""
        key = (section, case.name, *map(self._code, choices))
        if key not in self._known:
            model: type[BaseModel] = case.module.Config if section == "train" else SECTIONS[section]
            base = case.train if section == "train" else case.document.data.get(section) or {}
            try:
                self._known[key] = model.model_validate(with_choices(base, section, choices)).model_dump(mode="json")
            except ValidationError:
                self._known[key] = None
        return self._known[key]

    def _code(self, choice: Choice) -> int:
        return self._codes[choice.axis.name, choice.index]


def _overruled(choice: Choice, config: BaseModel) -> bool:
    """Whether ``config`` holds another plain value than ``choice`` has written; null leaves it to the method.

    The object is asked and not its JSON, which may leave a default out.
    """
    if choice.value is None or isinstance(choice.value, Mapping | list):
        return False
    held: Any = config
    for key in choice.axis.target[1:]:
        held = held.get(key) if isinstance(held, Mapping) else getattr(held, key, None)
    return bool(held != choice.value)


def _short_names(names: Sequence[str]) -> dict[str, str]:
    """The last part of every axis's name, or all of it where two end alike.

    >>> _short_names(["privacy.epsilon", "critic.steps", "classifier.steps"])
    {'privacy.epsilon': 'epsilon', 'critic.steps': 'critic.steps', 'classifier.steps': 'classifier.steps'}
    """
    ends = [name.rpartition(".")[2] for name in names]
    return {name: end if ends.count(end) == 1 else name for name, end in zip(names, ends, strict=True)}


def value_label(value: Any) -> str:
    """A value in a label.

    >>> value_label(1e-05), value_label(True), value_label({"kind": "energy"})
    ('1e-05', 'true', '{"kind":"energy"}')
    """
    if isinstance(value, str):
        return value
    return f"{value:g}" if isinstance(value, float) else canonical_json(value)
