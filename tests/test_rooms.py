"""Who may know whom: the imports of every module, read from its source."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from trainables.registry import METHODS

ROOT = Path(__file__).parents[1]
HEAVY = {"torch", "torchvision", "ray", "dp_accounting", "pandas", "sklearn", "matplotlib"}


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imports(path: Path, *, top_level_only: bool = False) -> set[str]:
    """Absolute names of the modules that a file imports; imports for type checkers alone do not count."""
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    tree = ast.parse(path.read_text())
    typing_only = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and isinstance(block.test, ast.Name) and block.test.id == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    found: set[str] = set()
    for node in tree.body if top_level_only else ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            name = ".".join(part for part in (base, node.module or "") if part)
            found |= {name} | {f"{name}.{alias.name}" for alias in node.names}
    return found


def roots(names: set[str]) -> set[str]:
    return {name.split(".")[0] for name in names}


@pytest.mark.parametrize("path", modules("trainables"), ids=str)
def test_the_science_knows_nothing_above_it(path: Path) -> None:
    assert not roots(imports(path)) & {"harness", "analysis", "slurm", "ray"}


@pytest.mark.parametrize("path", modules("harness"), ids=str)
def test_only_the_executor_and_the_cluster_know_ray(path: Path) -> None:
    if path.name not in ("ray_tune.py", "feed.py", "cluster.py", "connection.py"):
        assert "ray" not in roots(imports(path))


@pytest.mark.parametrize(
    "path",
    [
        *(path for path in modules("harness") if path.name not in ("ray_tune.py", "feed.py")),
        *(path for path in modules("trainables") if path.name in ("method.py", "base.py", "coins.py", "registry.py")),
        *(ROOT / "trainables" / "privacy" / f"{name}.py" for name in ("mechanism", "accounting", "budget", "selection")),
        *(ROOT / "trainables" / "evaluation" / f"{name}.py" for name in ("metrics", "weights")),
        *modules("trainables/data"),
    ],
    ids=str,
)
def test_planning_stays_light(path: Path) -> None:
    assert not roots(imports(path, top_level_only=True)) & HEAVY


@pytest.mark.parametrize("path", modules("analysis"), ids=str)
def test_the_analysis_reads_tables_and_nothing_else_of_ours(path: Path) -> None:
    ours = {name for name in imports(path) if roots({name}) & {"harness", "trainables", "slurm"}}
    assert not {name for name in ours if not name.startswith(("harness.store", "harness.contact_sheet"))} - {"harness"}
    assert not roots(imports(path)) & {"torch", "torchvision", "ray", "dp_accounting", "sklearn"}


@pytest.mark.parametrize("path", [*modules("harness"), *modules("trainables"), *modules("slurm")], ids=str)
def test_nobody_knows_the_analysis(path: Path) -> None:
    assert "analysis" not in roots(imports(path))


@pytest.mark.parametrize("path", modules("harness"), ids=str)
def test_the_harness_does_not_know_what_a_generator_is(path: Path) -> None:
    rooms = tuple(f"trainables.{name}" for name in (*METHODS, "sharded_gan", "networks"))
    assert not [name for name in imports(path) if name.startswith(rooms)]


@pytest.mark.parametrize("path", [*modules("harness"), *modules("trainables")], ids=str)
def test_privacy_noise_and_secret_draws_have_one_room(path: Path) -> None:
    """Entropy of the operating system is read by the sanitizer alone; everything else random is a public coin."""
    source = path.read_text()
    if path.relative_to(ROOT).parts[:2] != ("trainables", "privacy"):
        assert "urandom" not in source
        assert "secrets" not in roots(imports(path)) or path.parts[-2] == "harness", "secrets may make tokens, not draws"


@pytest.mark.parametrize("path", [*modules("harness"), *modules("trainables"), *modules("analysis")], ids=str)
def test_packages_are_marked_by_empty_files(path: Path) -> None:
    if path.name == "__init__.py":
        assert path.read_text() == ""
