"""``sample.py``: one readable file that draws images with torch and safetensors alone.

It is made of the code that the harness itself runs: the definitions that a network's class needs, found by their names and
copied with their comments and docstrings, whatever modules they come from. Nothing is rewritten, so it draws the same images.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from types import ModuleType

from . import runtime
from .recipe import Recipe

ALLOWED = frozenset({"torch", "safetensors"}) | sys.stdlib_module_names
"""What a released sampler may import."""

Place = tuple[str, str]
"""(module, name) of a definition."""


class NotStandalone(ValueError):
    """A network's code cannot be copied into one file; the message says what stands in the way."""


@dataclass(frozen=True)
class _Code:
    """A module's source: definitions at its top, and what its names are imported as."""

    definitions: dict[str, ast.stmt]
    imports: dict[str, tuple[str, str | None]]
    """Name -> (module, name there), or (module, None) for a module itself."""
    spans: dict[str, tuple[int, int]]
    """Name -> first and last line of its definition, with the comment above and the docstring below."""
    lines: list[str]


def sampler_source(recipe: Recipe, *, shape: tuple[int, int, int], classes: int) -> str:
    """The text of ``sample.py`` for images ``shape`` (C, H, W). Raises ``NotStandalone``."""
    arguments = "".join(f"\n        {name}={_literal(value, 8)}," for name, value in recipe.arguments.items())
    roots = [(recipe.network.__module__, recipe.network.__qualname__)]
    roots += [(runtime.__name__, name) for name in ("Generate", "load_into", "main")]
    body, imports = _copied(roots)
    size = ", ".join(map(str, shape))
    return f'''"""Draws images from the generator beside this file, with torch and safetensors alone.

    from sample import load
    generate = load()
    images = generate([0, 1, 2], seed=0)  # float [3, {size}] in [0, 1], for labels from 0 to {classes - 1}

or: python sample.py --per-class 10 --out images/
"""

# Code of dpsweep. SPDX-License-Identifier: MIT

{imports}
{_gap(body)}{body}


CLASSES = {classes}


def load(file: str | Path = Path(__file__).with_name("generator.safetensors"), device: str = "cpu") -> Generate:
    """``generate(labels, seed=0)``: float images ``[n, {size}]`` in [0, 1] for n labels from 0 to {classes - 1}."""
    network = {recipe.network.__qualname__}({arguments}
    )
    return load_into(network, {_literal(recipe.prefix, 4)}, CLASSES, file, device)


if __name__ == "__main__":
    main(load, CLASSES)
'''


def _gap(text: str) -> str:
    """Blank lines between the imports and ``text``: two before a definition, one before a constant."""
    return "\n\n" if text.startswith(("def ", "class ", "@")) else "\n"


def _literal(value: object, indent: int) -> str:
    """``value`` as source. Raises ``NotStandalone`` for what has no such form."""
    if isinstance(value, Mapping):
        inner = " " * (indent + 4)
        items = "".join(f"\n{inner}{_literal(key, 0)}: {_literal(item, indent + 4)}," for key, item in value.items())
        return f"{{{items}\n{' ' * indent}}}"
    if isinstance(value, tuple):
        items = ", ".join(_literal(item, indent) for item in value)
        return f"({items},)" if len(value) == 1 else f"({items})"
    if isinstance(value, str):
        return json.dumps(value)
    if value is None or isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return repr(value)
    raise NotStandalone(f"{value!r} is no number, text, tuple or dictionary, as arguments of a network's recipe have to be")


def _copied(roots: list[Place]) -> tuple[str, str]:
    """(definitions that ``roots`` need, import statements that these need)."""
    found: dict[Place, None] = {}
    imported: dict[str, tuple[str, str | None]] = {}
    waiting = list(roots)
    own = {module.partition(".")[0] for module, _ in roots}
    for module, name in waiting:  # grows while it is read
        code = _code(module)
        if (module, name) in found:
            continue
        if name not in code.definitions:
            raise NotStandalone(f"{module} does not define {name} at its top, by def, class or =")
        found[module, name] = None
        for used in _names(code.definitions[name]):
            if used in code.definitions:
                waiting.append((module, used))
            elif used in code.imports:
                origin, there = code.imports[used]
                package = origin.partition(".")[0]
                if package in own:
                    if there is None or _is_module(origin, there):
                        raise NotStandalone(f"{module} uses {used} as a module; import names from it, as in `from x import y`")
                    if there != used:
                        raise NotStandalone(f"{module} imports {there} as {used}; call it {there}")
                    waiting.append((origin, there))
                elif package not in ALLOWED:
                    raise NotStandalone(f"{module} uses {used} of {package}; a sampler that leaves imports torch alone")
                elif imported.setdefault(used, (origin, there)) != (origin, there):
                    raise NotStandalone(f"two modules import different things as {used}")
    taken = {name: f"an import of {module}" for name, (module, _) in imported.items()}
    for module, name in found:
        if taken.setdefault(name, module) != module:
            raise NotStandalone(f"{module} and {taken[name]} both have a {name}, and one file has room for one: rename it")
    return "\n\n\n".join(_sections(found)), _import_lines(imported)


def _sections(found: dict[Place, None]) -> Iterator[str]:
    """The definitions module by module, those that others import first, each in the order of its source."""
    for module in _ordered({module for module, _ in found}):
        code = _code(module)
        spans = sorted({code.spans[name] for place, name in found if place == module})
        text = ""
        for index, (first, last) in enumerate(spans):
            block = "\n".join(code.lines[first - 1 : last])
            compound = "\ndef " in f"\n{block}" or "\nclass " in f"\n{block}"
            text += ("" if not index else "\n\n\n" if compound else "\n\n") + block
        yield text


def _ordered(modules: set[str]) -> list[str]:
    done: list[str] = []

    def visit(module: str) -> None:
        if module not in done:
            for origin, _ in _code(module).imports.values():
                if origin in modules:
                    visit(origin)
            done.append(module)

    for module in sorted(modules):
        visit(module)
    return done


def _import_lines(imported: dict[str, tuple[str, str | None]]) -> str:
    """Import statements, in the order of the project's own files: the standard library, then the rest."""
    plain: dict[str, set[str]] = {}
    lines: list[tuple[bool, bool, str]] = []
    for name, (module, there) in imported.items():
        third = module.partition(".")[0] not in sys.stdlib_module_names
        if there is None:
            lines.append((third, False, f"import {module}" + (f" as {name}" if name != module.partition(".")[0] else "")))
        else:
            plain.setdefault(module, set()).add(there if there == name else f"{there} as {name}")
    for module, names in plain.items():
        third = module.partition(".")[0] not in sys.stdlib_module_names
        lines.append((third, True, f"from {module} import {', '.join(sorted(names))}"))
    own, others = ([text for *_, text in sorted(line for line in lines if line[0] is third)] for third in (False, True))
    return "\n\n".join(["from __future__ import annotations", "\n".join(own), "\n".join(others)])


@cache
def _code(name: str) -> _Code:
    module = importlib.import_module(name)
    try:
        lines = inspect.getsource(module).splitlines()
    except OSError as error:
        raise NotStandalone(f"the source of {name} is not there: {error}") from error
    definitions: dict[str, ast.stmt] = {}
    imports: dict[str, tuple[str, str | None]] = {}
    spans: dict[str, tuple[int, int]] = {}
    body = ast.parse("\n".join(lines)).body
    for index, statement in enumerate(body):
        following = body[index + 1] if index + 1 < len(body) else None
        if isinstance(statement, ast.Import):
            for alias in statement.names:
                imports[alias.asname or alias.name.partition(".")[0]] = (alias.name, None)
        elif isinstance(statement, ast.ImportFrom):
            origin = _absolute(module, statement)
            imports |= {alias.asname or alias.name: (origin, alias.name) for alias in statement.names}
        for defined in _defined(statement):
            definitions[defined] = statement
            spans[defined] = _span(statement, following, lines)
    return _Code(definitions, imports, spans, lines)


def _absolute(module: ModuleType, statement: ast.ImportFrom) -> str:
    if not statement.level:
        return statement.module or ""
    package = (module.__package__ or "").split(".")
    return ".".join([*package[: len(package) - statement.level + 1], *([statement.module] if statement.module else [])])


def _defined(statement: ast.stmt) -> list[str]:
    """The names that a statement at the top of a module defines, where it is one that can be copied."""
    if isinstance(statement, ast.FunctionDef | ast.ClassDef):
        return [statement.name]
    targets = statement.targets if isinstance(statement, ast.Assign) else []
    if isinstance(statement, ast.AnnAssign) and statement.value is not None:
        targets = [statement.target]
    return [name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)]


def _span(statement: ast.stmt, following: ast.stmt | None, lines: list[str]) -> tuple[int, int]:
    """First and last line of a definition, with decorators, the comment right above and the docstring right below."""
    first = min([statement.lineno, *(node.lineno for node in getattr(statement, "decorator_list", []))])
    while first > 1 and lines[first - 2].startswith("#"):
        first -= 1
    assert statement.end_lineno is not None
    last = statement.end_lineno
    value = following.value if isinstance(following, ast.Expr) else None
    is_text = isinstance(value, ast.Constant) and isinstance(value.value, str)
    if following is not None and following.lineno == last + 1 and is_text and not isinstance(statement, ast.FunctionDef):
        assert following.end_lineno is not None
        last = following.end_lineno
    return first, last


def _names(statement: ast.stmt) -> list[str]:
    """Names that a definition reads, its annotations included, in order of appearance."""
    read = (node.id for node in ast.walk(statement) if isinstance(node, ast.Name))
    return list(dict.fromkeys(read))


def _is_module(origin: str, name: str) -> bool:
    return isinstance(getattr(importlib.import_module(origin), name, None), ModuleType)
