"""The notebooks: stored clean, and every cell runs on results that a sweep has just made."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from harness.store import read

ROOT = Path(__file__).parents[2]
NOTEBOOKS = ROOT / "analysis" / "notebooks"
MOST_CELLS = 12


def executed(name: str, folders: Path | str, monkeypatch: pytest.MonkeyPatch) -> list[nbformat.NotebookNode]:
    """The code cells after a run in the folder that Jupyter would run them in. A cell that raises fails the test."""
    monkeypatch.setenv("DPSWEEP_RESULTS", str(folders))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(NOTEBOOKS)}}).execute()
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def shown(cell: nbformat.NotebookNode, kind: str) -> list[str]:
    """What a cell shows of a MIME type."""
    return [output.data[kind] for output in cell.outputs if kind in output.get("data", {})]


def containing(cells: list[nbformat.NotebookNode], source: str) -> nbformat.NotebookNode:
    (cell,) = [cell for cell in cells if source in cell.source]
    return cell


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_notebooks_are_stored_short_and_without_what_a_run_leaves(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert len(notebook.cells) <= MOST_CELLS
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert not any(f"{place}/" in path.read_text() for place in (ROOT, Path.home(), tempfile.gettempdir(), sys.prefix))


def test_there_are_the_two_notebooks() -> None:
    assert {path.stem for path in NOTEBOOKS.glob("*.ipynb")} == {"grid", "baselines"}


def test_the_grid_notebook_runs_and_three_readers_agree(small_sweep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = executed("grid", small_sweep, monkeypatch)
    (table,) = shown(containing(cells, "duckdb.sql"), "text/html")
    rows = re.findall(r"<td>([^<]*)</td>" * 5, re.sub(r"\s*\n\s*", "", table))
    means = {axes: [float(value) for value in found] for _, axes, *found in rows}
    trials = read(small_sweep).trials
    expected = trials.groupby(trials["axes"])["gen2real_cnn"].mean()
    assert set(means) == set(expected.index)
    for axes, found in means.items():
        assert found == pytest.approx([expected[axes]] * 3, abs=1e-6), axes
    (neighbours,) = shown(containing(cells, "neighbours_table"), "text/markdown")
    assert "has the best mean gen2real CNN" in neighbours
    (effects,) = shown(containing(cells, "effects_table"), "text/markdown")
    assert "reconstruction" in effects
    for source in ("figures.heatmaps", "figures.effects_plot"):
        assert len(shown(containing(cells, source), "image/png")) == 1, source
    assert len(shown(containing(cells, "sheets.sample_sheet"), "image/png")) == 2, "methods by class, and the grid"


def test_the_baselines_notebook_runs_on_two_methods(small_baselines: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = executed("baselines", small_baselines, monkeypatch)
    (table,) = shown(containing(cells, "cells_table"), "text/markdown")
    assert all(name in table for name in ("plain", "guided", "real images"))
    papers = shown(containing(cells, "paper_tables"), "text/markdown")
    assert [f"Table {number}" in text for number, text in enumerate(papers, 1)] == [True] * 4
    (beside,) = shown(containing(cells, "tables.baselines"), "text/markdown")
    assert beside.count("dp_energy_guided (guided)") == 2, "a row a budget"
    front = containing(cells, "figures.pareto_plot")
    assert len(shown(front, "image/png")) == 1
    assert "on the front" in shown(front, "text/markdown")[0]


def test_a_notebook_reads_several_sweeps_as_one(
    small_sweep: Path, small_baselines: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = executed("baselines", f"{small_sweep}{os.pathsep}{small_baselines}", monkeypatch)
    (table,) = shown(containing(cells, "cells_table"), "text/markdown")
    assert all(name in table for name in ("noise_injection=1 reconstruction=0", "guided epsilon=3"))
