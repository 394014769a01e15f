"""YAML that remembers where everything stands, and the one error that bad input raises.

A document is plain Python (dicts, lists, text, numbers, true, false, null) beside a mark for every key and value, so that
whoever finds a mistake later can say in which line and column it is. The scalars are those of YAML 1.2's core schema:
``1e-5`` is a number, ``yes`` and ``12:30`` are text (PyYAML's 1.1 reads them as text, a boolean and 750).
"""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

Place = tuple[str | int, ...]
"""Keys and list positions from the root: ``("axes", "privacy.epsilon", 1)``."""

_MOST_LISTED = 20

LEAST = "name, method, data and privacy"
"""What a sweep file cannot do without."""


@dataclass(frozen=True)
class Mark:
    """Where something was written. Line and column count from 1; None where only the source is known (``--set``)."""

    file: str
    line: int | None = None
    column: int | None = None

    @property
    def order(self) -> tuple[int, int]:
        """Sorts marks as a reader meets them."""
        return (self.line or 0, self.column or 0)

    def __str__(self) -> str:
        return ":".join(str(part) for part in (self.file, self.line, self.column) if part is not None)


@dataclass(frozen=True)
class Problem:
    """One mistake: what was found, what was expected, and what to type in its place (either may be empty).

    >>> print(Problem(Mark("a.yaml", 7, 3), "unknown key `step` in train", "dp_energy takes: steps", "did you mean `steps`?"))
    a.yaml:7:3: unknown key `step` in train; did you mean `steps`? (dp_energy takes: steps)
    """

    mark: Mark
    found: str
    expected: str = ""
    fix: str = ""

    def __str__(self) -> str:
        text = f"{self.mark}: {self.found}"
        if self.fix:
            return f"{text}; {self.fix}" + (f" ({self.expected})" if self.expected else "")
        return f"{text}; {self.expected}" if self.expected else text


class InputError(Exception):
    """Something a person typed cannot be used. Holds every problem found in one go; ``str()`` gives a line for each."""

    def __init__(self, *problems: Problem) -> None:
        self.problems = tuple(sorted(dict.fromkeys(problems), key=lambda problem: problem.mark.order))
        super().__init__(*self.problems)

    @property
    def mark(self) -> Mark:
        """Where the first problem is."""
        return self.problems[0].mark

    def __str__(self) -> str:
        lines = [str(problem) for problem in self.problems[:_MOST_LISTED]]
        if len(self.problems) > _MOST_LISTED:
            lines.append(f"... and {len(self.problems) - _MOST_LISTED} more like these")
        return "\n".join(lines)


@dataclass(frozen=True, kw_only=True)
class Override:
    """One ``--set path=value``: the place it edits, and the text as it was typed."""

    place: Place
    text: str


@dataclass(frozen=True, kw_only=True)
class Document:
    """A parsed file. Treat ``data`` as frozen: ``apply_overrides`` returns a new document."""

    file: str
    data: dict[str, Any]
    keys: Mapping[Place, Mark]
    values: Mapping[Place, Mark]
    overrides: tuple[Override, ...] = ()

    def mark(self, place: Place, *, key: bool = False) -> Mark:
        """The mark of the value at ``place`` (of its key, with ``key``), or of the nearest thing around it that exists."""
        for known in (self.keys, self.values) if key else (self.values, self.keys):
            if place in known:
                return known[place]
        return self.mark(place[:-1], key=True) if place else Mark(self.file, 1, 1)

    def problem(self, place: Place, found: str, expected: str = "", fix: str = "", *, key: bool = False) -> Problem:
        """A problem at ``place``."""
        return Problem(self.mark(place, key=key), found, expected, fix)


def nearest(name: str, names: Iterable[str]) -> str:
    """``did you mean `...`?``, or nothing where no name is near.

    >>> nearest("nosie_injection", ["steps", "noise_injection"])
    'did you mean `noise_injection`?'
    """
    by_lower = {known.lower(): known for known in names}
    close = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.65)
    return f"did you mean `{by_lower[close[0]]}`?" if close else ""


def dotted(place: Place) -> str:
    """A place as a person types it.

    >>> dotted(("cases", 0, "train"))
    'cases.0.train'
    """
    return ".".join(map(str, place))


def read_document(path: str | Path, *, least: str = LEAST) -> Document:
    """Read a sweep file, or another that needs ``least``. Raises ``InputError`` if it is not one mapping of keys to values."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputError(Problem(Mark(str(path)), "no such file", _neighbours(path.parent, path.name))) from None
    except IsADirectoryError:
        raise InputError(Problem(Mark(str(path)), "is a folder", _neighbours(path) or "expected a YAML file")) from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise InputError(Problem(Mark(str(path), line), "is not UTF-8 text", fix="save the file as UTF-8")) from None
    except OSError as error:
        raise InputError(Problem(Mark(str(path)), f"cannot be read: {error.strerror}")) from None
    return parse(text, str(path), least=least)


def _neighbours(folder: Path, name: str = "") -> str:
    """The YAML files beside a path that could not be read, those with a similar name first."""
    if not folder.is_dir():
        return ""
    found = sorted((*folder.glob("*.yaml"), *folder.glob("*.yml")))
    found.sort(key=lambda path: -difflib.SequenceMatcher(None, name, path.name).ratio() if name else 0)
    return f"YAML files there: {', '.join(str(path) for path in found[:5])}" if found else ""


def parse(text: str, file: str, *, least: str = LEAST) -> Document:
    """Parse ``text``; ``file`` is the name that messages use, ``least`` what an empty file lacks."""
    keys: dict[Place, Mark] = {}
    values: dict[Place, Mark] = {}
    data = Reader(file, keys, values).read(text)
    if data is None:
        raise InputError(Problem(Mark(file, 1, 1), "the file is empty", f"expected at least {least}"))
    if not isinstance(data, dict):
        raise InputError(Problem(values[()], f"the file holds {describe(data)}", f"expected keys and values, at least {least}"))
    return Document(file=file, data=data, keys=keys, values=values)


def describe(value: Any) -> str:
    """A value as a message shows it: short, and clearly text where it is text.

    >>> describe("10"), describe(10), describe(True), describe(None), describe([1, 2])
    ('the text "10"', '10', 'true', 'empty', 'the list [1, 2]')
    """
    if value is None:
        return "empty"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and not math.isfinite(value):
        return f".{value}" if value > 0 or value != value else "-.inf"
    if isinstance(value, str):
        return f'the text "{_short(value)}"'
    if isinstance(value, dict):
        return f"the mapping {{{_short(', '.join(map(str, value)))}}}"
    if isinstance(value, list | tuple):
        return f"the list {_short(json.dumps(value, default=str))}"
    return _short(str(value))


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."


# Scalars -------------------------------------------------------------------------------------------------------------


_CORE = "tag:yaml.org,2002:"


class _Loader(yaml.SafeLoader):
    """Composes nodes with the scalars of YAML 1.2's core schema; refuses anchors, aliases and tags."""

    # Empty at first, so that none of PyYAML's own (yes, on, 12:30, dates) are inherited.
    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 (PyYAML's own class attribute)

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            sign = "*" if isinstance(event, yaml.AliasEvent) else "&"
            raise yaml.MarkedYAMLError(problem=f"anchor `{sign}{event.anchor}`", problem_mark=event.start_mark)
        if getattr(event, "tag", None) is not None:
            tag = event.tag.replace(_CORE, "!!")
            raise yaml.MarkedYAMLError(problem=f"tag `{tag}`", problem_mark=event.start_mark)
        return super().compose_node(parent, index)


_NUMBER = "-+.0123456789"
for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(?:[0-9]{1,3}(?:_[0-9]{3})+|[0-9]+)", list(_NUMBER)),  # 60_000 too, as Python writes it
    ("float", r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", list(_NUMBER)),
    ("float", r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)", list(_NUMBER)),
):
    _Loader.add_implicit_resolver(_CORE + _tag, re.compile(f"^(?:{_pattern})$"), _first)


def _scalar(node: yaml.ScalarNode) -> Any:
    kind = node.tag.rpartition(":")[2]
    if kind == "null":
        return None
    if kind == "bool":
        return node.value.lower() == "true"
    if kind == "int":
        return int(node.value.replace("_", ""))
    if kind == "float":
        return float(node.value.lower().replace(".inf", "inf").replace(".nan", "nan"))
    return node.value


class Reader:
    """Turns one text into data, noting the mark of every key and value."""

    def __init__(self, file: str, keys: dict[Place, Mark], values: dict[Place, Mark]) -> None:
        self.file, self.keys, self.values = file, keys, values

    def read(self, text: str) -> Any:
        loader = None
        try:
            loader = _Loader(text)
            node = loader.get_single_node()
            return None if node is None else self._value(node, ())
        except yaml.MarkedYAMLError as error:
            raise InputError(self._syntax(error, text)) from None
        except yaml.reader.ReaderError as error:
            line = text[: error.position].count("\n") + 1
            found = f"character {chr(error.character)!r} is not allowed in YAML"
            raise InputError(Problem(Mark(self.file, line), found, fix="remove it")) from None
        except RecursionError:
            raise InputError(Problem(Mark(self.file), "brackets are nested too deeply")) from None
        finally:
            if loader is not None:
                loader.dispose()

    def _mark(self, mark: Any) -> Mark:
        return Mark(self.file, mark.line + 1, mark.column + 1)

    def _value(self, node: yaml.Node, place: Place) -> Any:
        self.values[place] = self._mark(node.start_mark)
        if isinstance(node, yaml.ScalarNode):
            return _scalar(node)
        if isinstance(node, yaml.SequenceNode):
            return [self._value(item, (*place, index)) for index, item in enumerate(node.value)]
        return self._mapping(node, place)

    def _mapping(self, node: yaml.Node, place: Place) -> dict[str, Any]:
        data: dict[str, Any] = {}
        for key_node, value_node in node.value:
            mark = self._mark(key_node.start_mark)
            key = _scalar(key_node) if isinstance(key_node, yaml.ScalarNode) else None
            if not isinstance(key, str):
                what = f"`{key_node.value}`" if isinstance(key_node, yaml.ScalarNode) else "a list or mapping"
                raise InputError(Problem(mark, f"the key {what} is not text", "expected a name"))
            if key in data:
                first = self.keys[(*place, key)]
                raise InputError(
                    Problem(mark, f"key `{key}` is there twice (first in line {first.line})", fix="remove one of the two")
                )
            self.keys[(*place, key)] = mark
            data[key] = self._value(value_node, (*place, key))
        return data

    def _syntax(self, error: yaml.MarkedYAMLError, text: str) -> Problem:
        mark = self._mark(error.problem_mark) if error.problem_mark else Mark(self.file, 1, 1)
        found = error.problem or "this is not YAML"
        lines = text.splitlines()
        line = lines[mark.line - 1] if mark.line and mark.line <= len(lines) else ""
        indentation = line[: len(line) - len(line.lstrip())]
        if "\t" in indentation or "'\\t'" in found:
            column = line.index("\t") + 1 if "\t" in line else mark.column
            return Problem(Mark(self.file, mark.line, column), "a tab", "YAML takes spaces only", "replace the tab by spaces")
        opened = self._mark(error.context_mark) if error.context_mark else None
        if "expected ',' or" in found and opened:
            missing = "]" if "']'" in found else "}"
            found = f"the bracket opened at {opened.line}:{opened.column} is not closed"
            return Problem(mark, found, fix=f"add `,` or `{missing}`")
        if found.startswith("anchor"):
            return Problem(mark, found, "anchors are not read", "write the value out; `train:` is shared by all cases")
        if found.startswith("tag"):
            return Problem(mark, found, "tags are not read", "write the plain value, in quotes if it starts with `!`")
        if "mapping values are not allowed" in found:
            return Problem(mark, "a second `: ` in one value", fix="check the indentation, or put the value in quotes")
        if "could not find expected ':'" in found:
            return Problem(opened or mark, "this is neither `key: value` nor a list item", fix="write `key: value`")
        if "expected <block end>" in found:
            found = "this line does not fit the lines above it"
            return Problem(mark, found, fix="give all keys of one block the same indentation")
        if "expected a single document" in str(error.context):
            return Problem(mark, "a second document (`---`)", "a file holds one", "put it in a file of its own")
        if "end of stream" in found and opened:
            return Problem(opened, "this quote or bracket is never closed", fix="close it")
        return Problem(mark, found, "this is not YAML")
