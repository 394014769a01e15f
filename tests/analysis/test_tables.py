"""Tables: what is written reads back as it was, numbers are those of the trials, marks follow from tests."""

from __future__ import annotations

import math
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from analysis import grid, tables
from analysis.results import Results, load
from analysis.table import BEST, BETTER, NOTHING, WORSE, Table, epsilon_text, mean_and_spread

# ruff: noqa: RUF001 (typographic signs are what is written and read back)

COMMANDS = {
    r"\textbackslash{}": "\\",
    r"\textasciitilde{}": "~",
    r"\textasciicircum{}": "^",
    r"\S{}": "§",
    r"$\pm$": "±",
    r"$\times$": "×",
    r"$\dagger$": "†",
    r"$\ddagger$": "‡",
    r"$\star$": "★",
    r"$\bigtriangleup$": "▲",
    r"$\bigtriangledown$": "▼",
    r"$\uparrow$": "↑",
    r"$\downarrow$": "↓",
    r"$\infty$": "∞",
    r"$\varepsilon$": "ε",
    r"$\sigma$": "σ",
    r"$\gamma$": "γ",
    "$<$": "<",
    "$>$": ">",
    "$|$": "|",
    r"\textendash{}": "–",
    r"\textasciigrave{}": "`",
    "{[}": "[",
    "{*}": "*",
    "-{}-": "--",
    **{f"\\{character}": character for character in "&%$#_{}"},
}
"""What LaTeX makes of a command, written down apart from the module's own list."""

CELLS = st.text(alphabet="ab_%&#${}\\~^<>|*`[-±†‡★▲▼↑↓εσγ§∞ .19", min_size=0, max_size=12).map(str.strip)


@pytest.fixture(scope="module")
def results(small_sweep: Path) -> Results:
    return load(small_sweep)


@pytest.fixture(scope="module")
def every(results: Results) -> list[Table]:
    return all_tables(results)


def all_tables(results: Results) -> list[Table]:
    metric = results.main_metric()
    return [
        *tables.paper_tables(results),
        tables.baselines(results),
        tables.cells_table(results),
        tables.effects_table(results, metric),
        tables.neighbours_table(results, grid.best(results, metric)),
        tables.importance_table(results, metric),
        tables.pareto_table(results, metric),
    ]


def changed(results: Results, change: Callable[[pd.DataFrame], pd.DataFrame]) -> Results:
    return replace(results, trials=change(results.trials.copy()))


def expected(table: Table) -> list[list[str]]:
    return [list(table.shown), *([text or NOTHING for text in row] for row in table.shown.to_numpy())]


def of_markdown(text: str) -> list[list[str]]:
    """Cells of the pipe table as GitHub reads them: a backslash takes the next character as it is."""
    rows = []
    for line in text.splitlines():
        if line.startswith("| "):
            cells, place = [""], 1
            while place < len(line):
                if line[place] == "\\":
                    place += 1
                    cells[-1] += line[place]
                elif line[place] == "|":
                    cells.append("")
                else:
                    cells[-1] += line[place]
                place += 1
            rows.append([cell.strip() for cell in cells[:-1]])
    return [rows[0], *rows[2:]]


def of_latex(text: str) -> list[list[str]]:
    """Cells between the rules, commands undone."""
    body = text[text.index("\\toprule\n") : text.index("\\bottomrule")].removeprefix("\\toprule\n").replace("\\midrule\n", "")
    token = re.compile("|".join(re.escape(command) for command in sorted(COMMANDS, key=len, reverse=True)) + "|(?s:.)")
    rows = []
    for line in body.removesuffix("\n").split("\n"):
        cells = [""]
        for found in token.findall(line.removesuffix(r"\\")):
            if found == "&":
                cells.append("")
            else:
                assert found in COMMANDS or found not in "\\${}%#_^~", f"{found!r} is not escaped in {line}"
                cells[-1] += COMMANDS.get(found, found)
        rows.append([cell.strip() for cell in cells])
    return rows


@settings(deadline=None)
@given(
    st.lists(st.lists(CELLS, min_size=2, max_size=2), min_size=1, max_size=4),
    st.lists(CELLS, min_size=2, max_size=2, unique=True),
)
@example([["a\\", "|b"], ["--", "[x"]], ["{", "`|*"])
def test_text_survives_markdown_and_latex(rows: list[list[str]], names: list[str]) -> None:
    shown = pd.DataFrame(rows, columns=[f"{name}c" for name in names])
    table = Table("any", "Any & all_of 100 %", pd.DataFrame(), shown, ("a note_1 | †",))
    assert of_markdown(table.markdown()) == expected(table)
    assert of_latex(table.latex()) == expected(table)


def test_every_table_reads_back_as_it_is_shown(every: list[Table], tmp_path: Path) -> None:
    for table in every:
        paths = {path.suffix: path for path in table.write(tmp_path)}
        assert of_markdown(paths[".md"].read_text()) == expected(table), table.name
        latex = paths[".tex"].read_text()
        assert of_latex(latex) == expected(table), table.name
        assert latex.isascii(), f"{table.name}: a plain article would not take it"
        for note in table.notes:
            assert note in re.sub(r"\\(.)", r"\1", paths[".md"].read_text())


def test_csv_files_have_numbers_in_columns_of_numbers(every: list[Table], tmp_path: Path) -> None:
    for table in every:
        csv = next(path for path in table.write(tmp_path) if path.suffix == ".csv")
        back = pd.read_csv(csv)
        assert list(back) == list(table.data)
        assert len(back) == len(table.data)
        for name, values in table.data.items():
            if pd.api.types.is_numeric_dtype(values.dtype) and values.notna().any():
                assert pd.api.types.is_numeric_dtype(back[name].dtype), f"{table.name}.{name}"
                np.testing.assert_allclose(back[name].to_numpy(float), values.to_numpy(float, na_value=np.nan))


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex here")
def test_latex_compiles_in_a_plain_article(every: list[Table], tmp_path: Path) -> None:
    inputs = "\n".join(
        rf"\input{{{path.name}}}\clearpage" for table in every for path in table.write(tmp_path) if path.suffix == ".tex"
    )
    (tmp_path / "all.tex").write_text(
        "\n".join([r"\documentclass{article}", r"\usepackage{booktabs}", r"\begin{document}", inputs, r"\end{document}"])
    )
    found = subprocess.run(["pdflatex", "-halt-on-error", "all.tex"], cwd=tmp_path, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout[-2000:]


def test_cells_are_means_over_seeds(results: Results) -> None:
    table = tables.cells_table(results)
    by_cell = results.trials.groupby("cell", observed=True)
    for name, metric in results.metrics.items():
        means = table.data.set_index("cell")[name]
        np.testing.assert_allclose(means, by_cell[name].mean().reindex(means.index))
        heading = tables.heading(metric)
        texts = table.shown[heading].iloc[: len(means)]
        for text, mean, sd in zip(texts, means, by_cell[name].std().reindex(means.index), strict=True):
            assert text.removesuffix(f" {BEST}") == mean_and_spread(metric.text(mean), sd, 2)
        marked = texts.str.contains(BEST).to_numpy()
        assert marked.tolist() == (metric.sign * means == (metric.sign * means).max()).tolist()
    last = table.shown.iloc[-1]
    assert last["cell"] == "real images"
    assert last["gen2real CNN ↑"] == f"{results.real['gen2real_cnn'].iloc[0]:.3f}"


def test_one_seed_has_no_spread_and_says_one(results: Results) -> None:
    single = changed(results, lambda trials: trials[trials["seed"] == 0])
    shown = tables.cells_table(single).shown.iloc[:-1]
    assert shown["seeds"].eq("1").all()
    assert not shown.map(lambda text: "±" in text).any(axis=None)
    assert not tables.effects_table(single, "gen2real_cnn").shown["difference"].str.contains(f"[{BETTER}{WORSE}]").any()


def test_a_failed_trial_is_no_seed(results: Results) -> None:
    def fail(trials: pd.DataFrame) -> pd.DataFrame:
        trials.loc[trials.index[0], list(results.metrics)] = math.nan
        return trials

    table = tables.cells_table(changed(results, fail))
    assert sorted(table.shown["seeds"].iloc[:-1]) == ["1", "2", "2", "2"]
    assert any(note.startswith(f"1 of {len(results.trials)} trials have no metrics") for note in table.notes)


def test_a_cell_is_proven_where_all_its_trials_are(results: Results) -> None:
    """Whichever metrics the unproven one has."""

    def lose(trials: pd.DataFrame) -> pd.DataFrame:
        trials.loc[trials.index[0], "epsilon"] = math.nan
        trials.loc[trials.index[0], list(results.metrics)[1:]] = math.nan
        trials.loc[trials.index[2], "epsilon"] = 12.001
        trials.loc[trials.index[2], next(iter(results.metrics))] = math.nan
        return trials

    table = tables.cells_table(changed(results, lose))
    assert table.shown["ε"].iloc[:2].tolist() == ["not proven", "12.1"]


def test_cells_of_other_budgets_do_not_compete(results: Results) -> None:
    def cheaper(trials: pd.DataFrame) -> pd.DataFrame:
        first = trials["axis.noise_injection"] == 0
        untied = {name: trials[name] + 1e-7 * trials.index for name in results.metrics}  # accuracies of few images can be equal
        return trials.assign(target_epsilon=trials["target_epsilon"].where(~first, 1.0), **untied)

    shown = tables.cells_table(changed(results, cheaper)).shown
    for name in results.metrics:
        assert shown[tables.heading(results.metrics[name])].str.contains(BEST).sum() == 2


@pytest.mark.parametrize(("metric", "planted"), [("gen2real_cnn", 0.5), ("fd_dataset_classifier", -500.0)])
def test_an_effect_is_marked_in_the_direction_of_the_metric(results: Results, metric: str, planted: float) -> None:
    rng = np.random.default_rng(0)
    for size, mark in ((planted, BETTER), (-planted, WORSE), (0.0, "")):

        def plant(trials: pd.DataFrame, size: float = size) -> pd.DataFrame:
            noise = abs(planted) / 100 * rng.normal(size=len(trials))
            return trials.assign(**{metric: 600 + noise + size * (trials["axis.reconstruction"] == 1)})

        shown = tables.effects_table(changed(results, plant), metric).shown
        average = shown[(shown["effect"] == "average") & (shown["setting"] == "reconstruction")]["difference"].iloc[0]
        assert average.endswith(mark)
        assert (BETTER in average, WORSE in average) == (mark == BETTER, mark == WORSE)
        assert average.startswith("+" if size > 0 else "-") or not size


def test_neighbours_and_front_are_those_of_the_grid(results: Results) -> None:
    best = grid.best(results, "gen2real_cnn")
    table = tables.neighbours_table(results, best)
    assert table.shown["neighbour"].tolist() == best.neighbours["neighbour"].tolist()
    assert best.sentence not in table.notes, "it stands above the table"
    assert "hold for all pairs of the 4 cells at once" in table.notes[-1]
    front = grid.pareto(results, "gen2real_cnn")
    shown = tables.pareto_table(results, "gen2real_cnn").shown
    assert set(shown.loc[shown["on the front"] == BEST, "cell"]) == set(front.loc[front["on_front"], "cell"])


def test_private_metrics_are_in_no_table_of_a_publication(results: Results) -> None:
    closed = replace(results, sweeps=tuple(replace(sweep, document={}) for sweep in results.sweeps)).for_publication()
    private = {name for name, metric in results.metrics.items() if metric.private}
    assert private
    headings = {results.metrics[name].heading for name in private}
    for table in all_tables(closed):
        assert not {name for name in table.data if name.startswith(tuple(private))}
        assert not {name for name in table.shown if name.startswith(tuple(headings))}
        if "column" in table.data:
            of_ours = table.data[table.data.get("source", table.data.get("protocol")).isin(["ours", "real"])]
            assert not set(of_ours["column"]) & private
    assert not set(tables.trials_table(closed)) & (private | {"message", "train_seconds", "peak_memory_mb"})
    assert "real images" not in set(tables.cells_table(closed).shown["cell"])


def test_the_table_of_trials_keeps_numbers_and_order(results: Results) -> None:
    table = tables.trials_table(results)
    assert len(table) == len(results.trials)
    assert table["seed"].tolist() == [0, 1] * 4
    assert pd.api.types.is_numeric_dtype(table["gen2real_cnn"].dtype)
    assert not table.isna().all().any()


@given(st.floats(1e-4, 1e5))
@example(9.7189)
@example(10.0)
@example(999.5)
def test_epsilon_is_never_shown_smaller_than_it_is(epsilon: float) -> None:
    shown = float(epsilon_text(epsilon))
    assert epsilon * (1 - 1e-6) <= shown <= epsilon * 1.0101


def test_epsilon_without_proof_or_bound() -> None:
    assert [epsilon_text(value) for value in (None, math.nan, math.inf, 0.0)] == ["not proven", "not proven", "∞", "0"]
