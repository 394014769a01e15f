"""Two real sweeps side by side: what is matched, what is said of it, and what bad input gets."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from analysis.compare import BAD_INPUT, OK, main, parser, print_comparison
from analysis.comparison import Comparison, compare

Row = dict[str, Any]


def copied(folder: Path, tmp_path: Path, change: Callable[[Row], Mapping[str, Any]] = lambda row: {}) -> Path:
    """A copy of a sweep in which ``change`` has put other values in rows of the trials table."""
    target = Path(shutil.copytree(folder, tmp_path / "copies" / folder.name))
    shutil.rmtree(target / "compacted")  # a faster form of the same rows
    for part in (target / "trials").glob("*.parquet"):
        table = pq.read_table(part)
        rows = [row | change(row) for row in table.to_pylist()]
        pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), part)
    return target


def declared(folder: Path, **data: Any) -> None:
    """Say something else about the data in a copy's ``sweep.json``."""
    record = json.loads((folder / "sweep.json").read_text())
    record["sweep"]["data"] |= data
    (folder / "sweep.json").write_text(json.dumps(record))


def row(frame: pd.DataFrame, **wanted: Any) -> pd.Series:
    for column, value in wanted.items():
        frame = frame[frame[column] == value]
    assert len(frame) == 1
    return frame.iloc[0]


@pytest.fixture(scope="module")
def found(small_sweep: Path, fewer_steps: Path) -> Comparison:
    return compare(small_sweep, fewer_steps)


def test_a_setting_changed_for_the_whole_sweep_is_said_and_cells_still_find_each_other(found: Comparison) -> None:
    steps = row(found.settings, what="train.steps")
    assert (steps.a, steps.b) == (40, 20)
    assert row(found.settings, what="axes.reconstruction").b == [0.0, 2.0]
    slots = row(found.settings, what="train.slots")
    assert (slots.a, slots.b) == (40, 50), "the preset's, where a file says nothing"
    assert "train.noise_injection" not in set(found.settings["what"]), "an axis here, fixed there: the same in matched cells"
    assert set(found.cells["cell"]) == {"noise_injection=1 reconstruction=0"}
    assert len(found.only_a) == 3
    assert found.only_b == ["reconstruction=2"]


def test_means_and_differences_are_those_of_the_trials_paired_by_seed(
    found: Comparison, small_sweep: Path, fewer_steps: Path
) -> None:
    from scipy import stats

    from harness.store import read

    tables = [read(path).trials for path in (small_sweep, fewer_steps)]
    a, b = (
        table[(table["config.noise_injection"] == 1) & (table["config.reconstruction"] == 0)]
        .set_index("seed")
        .fd_dataset_classifier.sort_index()
        for table in tables
    )
    cell = row(found.cells, metric="fd_dataset_classifier")
    assert cell.n == len(a) == len(b) == 2
    assert cell.mean_a == pytest.approx(a.mean())
    assert cell.difference == pytest.approx(b.mean() - a.mean())
    test = stats.ttest_rel(b, a)
    assert cell.p == pytest.approx(test.pvalue)
    assert (cell.low, cell.high) == pytest.approx(tuple(test.confidence_interval()))
    over_all = row(found.overall, metric="fd_dataset_classifier")
    assert (over_all.cells, over_all.difference) == (1, pytest.approx(cell.difference))


def test_the_account_and_the_versions_of_both_are_there(found: Comparison) -> None:
    account = found.privacy.set_index("what")
    assert list(account.loc["epsilon asked for"]) == [10.0, 10.0]
    assert "8 trials" in account.at["epsilon of all generators", "a"]
    assert "4 trials" in account.at["epsilon of all generators", "b"]
    assert list(account.loc["proof"]) == ["gaussian", "gaussian"]
    versions = found.versions.set_index("what")
    assert versions.at["method VERSION", "a"] == versions.at["method VERSION", "b"]
    assert versions.at["method VERSION", "a"].startswith("dp_energy ")
    assert versions.at["torch", "a"]


def test_a_copy_is_the_same_runs(small_sweep: Path, tmp_path: Path) -> None:
    found = compare(small_sweep, copied(small_sweep, tmp_path))
    assert set(found.cells["verdict"]) == {"same runs"}
    assert found.settings.empty
    assert found.overall["cells"].eq(0).all()
    assert "8 trials are the same in both: one run that both folders have." in found.notes


def test_better_and_worse_know_which_way_a_metric_goes(small_sweep: Path, tmp_path: Path) -> None:
    def shifted(trial: Row) -> Row:
        hardly = 1e-4 * trial["seed"]
        return {
            "gen2real_cnn": trial["gen2real_cnn"] + 0.1 + hardly,
            "gen2real_mlp": trial["gen2real_mlp"] - 0.1 - hardly,
            "fd_dataset_classifier": trial["fd_dataset_classifier"] - 20 - hardly,
        }

    found = compare(small_sweep, copied(small_sweep, tmp_path, shifted))
    cells = found.cells.set_index("metric")
    assert set(cells.loc["gen2real_cnn", "verdict"]) == {"better"}
    assert set(cells.loc["gen2real_mlp", "verdict"]) == {"worse"}
    assert set(cells.loc["fd_dataset_classifier", "verdict"]) == {"better"}
    assert (cells.loc["gen2real_cnn", "p_holm"] > cells.loc["gen2real_cnn", "p"]).all(), "four cells are four chances"
    overall = found.overall.set_index("metric")
    assert overall.at["gen2real_cnn", "difference"] == pytest.approx(0.10005)
    assert overall.at["gen2real_cnn", "cells"] == 4
    assert overall.at["gen2real_mlp", "verdict"] == "worse"
    assert any(note.startswith("8 trials are the same by settings and seed, and ran in each") for note in found.notes)


def test_a_trial_without_a_metric_takes_its_other_half_along(small_sweep: Path, tmp_path: Path) -> None:
    def shifted(trial: Row) -> Row:
        first = trial["seed"] == 0 and trial["label"].startswith("noise_injection=0 reconstruction=0")
        return {"gen2real_cnn": None if first else trial["gen2real_cnn"] + 0.1}

    found = compare(small_sweep, copied(small_sweep, tmp_path, shifted), "gen2real_cnn")
    assert sorted(found.cells["n"]) == [1, 2, 2, 2]
    assert found.overall["difference"].tolist() == pytest.approx([0.1]), "means over the same trials of both"


def test_one_of_four_chances_is_no_finding(small_sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """p .03 (t = 20 with one degree of freedom) in one cell, 1 in the three others: Holm makes it .13."""

    def shifted(trial: Row) -> Row:
        sway = 2 * trial["seed"] - 1
        one = trial["label"].startswith("noise_injection=0 reconstruction=0")
        return {"gen2real_cnn": 0.5 + (0.1 + 0.005 * sway if one else 0.1 * sway)}

    def flat(trial: Row) -> Row:
        return {"gen2real_cnn": 0.5}

    a, b = copied(small_sweep, tmp_path / "a", flat), copied(small_sweep, tmp_path / "b", shifted)
    cells = compare(a, b, "gen2real_cnn").cells
    assert cells["p"].min() == pytest.approx(0.0318, abs=1e-4)
    assert cells["p_holm"].min() == pytest.approx(4 * 0.0318, abs=1e-3)
    assert set(cells["verdict"]) == {"cannot tell"}
    assert cells["seeds_needed"].isna().all(), "two seeds are enough for one test of that size: no more than there are"
    assert main([str(a), str(b), "--metric", "gen2real_cnn"]) == OK
    assert "reconstruction=0  0.500  0.600  +0.100" in capsys.readouterr().out, "A, B, then B - A"


def test_what_the_seeds_cannot_tell_is_said_with_how_many_could(small_sweep: Path, tmp_path: Path) -> None:
    def noisy(trial: Row) -> Row:
        return {"gen2real_cnn": trial["gen2real_cnn"] + (0.05 if trial["seed"] else -0.03)}

    cells = compare(small_sweep, copied(small_sweep, tmp_path, noisy), "gen2real_cnn").cells
    assert set(cells["metric"]) == {"gen2real_cnn"}
    assert set(cells["verdict"]) == {"cannot tell"}
    assert (cells["seeds_needed"] > 2).all()
    assert (cells["low"] < 0).all()
    assert (cells["high"] > 0).all()


def test_one_seed_gives_means_and_no_word(small_sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = copied(small_sweep, tmp_path, lambda trial: {"gen2real_cnn": 0.12345})  # which no share of test images is
    for part in (one / "trials").glob("*.parquet"):
        if pq.read_table(part)["seed"][0].as_py() == 1:
            shutil.rmtree(one / "attempts" / part.name.split(".")[0])
    cells = compare(small_sweep, one, "gen2real_cnn").cells
    assert set(cells["verdict"]) == {"cannot tell: 1 seed"}
    assert cells["p_holm"].isna().all()
    assert cells["difference"].notna().all()
    assert main([str(small_sweep), str(one)]) == OK
    assert "cannot tell: 1 seed" in capsys.readouterr().out


def test_what_makes_metrics_hard_to_compare_is_said(small_sweep: Path, tmp_path: Path) -> None:
    other = copied(
        small_sweep,
        tmp_path,
        lambda trial: {"evaluation_samples": 50, "data_fingerprint": "other", "is_dataset_classifier": None},
    )
    notes = " ".join(compare(small_sweep, other).notes)
    assert "The data differ" in notes
    assert "of 200 images in A and of 50 in B" in notes
    assert "Only A has is_dataset_classifier." in notes


def test_private_metrics_are_left_out_unless_the_data_are_public(small_sweep: Path, tmp_path: Path) -> None:
    private = copied(small_sweep, tmp_path)
    declared(private, public=False)
    found = compare(small_sweep, private)
    assert set(found.metrics) == {"gen2real_cnn", "gen2real_mlp", "gen2real_logreg"}
    assert any(note.startswith("B: ") and "not declared public" in note for note in found.notes)
    assert row(found.settings, what="data.public").b is False


def test_machines_and_unproven_trials_of_private_data_are_not_said(
    small_sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def change(trial: Row) -> Row:
        versions = json.dumps(json.loads(trial["versions"]) | {"platform": "Linux-of-the-clinic"})
        shift = {"gen2real_cnn": 0.999, "epsilon": None} if trial["seed"] == 0 else {"epsilon": 9.70812}
        return {"versions": versions, "host": "machine-of-the-clinic", **shift}

    private = copied(small_sweep, tmp_path, change)
    declared(private, public=False)
    for arguments in ([], ["--json"]):
        assert main([str(private), str(small_sweep), *arguments]) == OK
        said = capsys.readouterr().out
        assert "of-the-clinic" not in said
        assert "0.999" not in said
        assert "9.71" in said, "rounded up"
    cells = compare(private, small_sweep).cells
    assert set(cells["n"]) == {1}, "of seed 0 nothing is proven"
    assert cells["mean_a"].max() < 0.999


def test_two_versions_of_a_file_in_one_folder_are_kept_apart(small_sweep: Path, fewer_steps: Path, tmp_path: Path) -> None:
    both = copied(small_sweep, tmp_path)
    for table in ("trials", "attempts"):  # as when the same name is run with 20 steps after 40
        shutil.copytree(fewer_steps / table, both / table, dirs_exist_ok=True)
    found = compare(both, fewer_steps, "gen2real_cnn")
    assert set(found.cells["verdict"]) == {"same runs"}
    assert len(found.cells) == 2
    assert len(found.only_a) == 4


def test_sweeps_without_a_common_cell_still_show_what_changed(
    fewer_steps: Path, small_sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def elsewhere(trial: Row) -> Row:
        return {"config": json.dumps(json.loads(trial["config"]) | {"reconstruction": 7})}

    assert main([str(small_sweep), str(copied(fewer_steps, tmp_path, elsewhere))]) == OK
    printed = capsys.readouterr().out
    assert "No cell is in both" in printed
    assert "train.steps" in printed
    assert "only in A:" in printed


def test_the_command_prints_settings_cells_and_words(
    small_sweep: Path, fewer_steps: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(small_sweep), str(fewer_steps)]) == OK
    printed = capsys.readouterr().out
    for expected in (
        "train.steps",
        "gen2real CNN (higher is better)",
        "FD dataset classifier (lower is better)",
        "only in B:",
        "p (Holm)",
    ):
        assert expected in printed
    assert "significant" not in printed


def test_help_has_an_example_that_parses_and_the_exit_statuses(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    printed = capsys.readouterr().out
    (example,) = [line.split() for line in printed.splitlines() if line.strip().startswith("python -m analysis.compare")]
    assert parser().parse_args(example[3:]).metric == "gen2real_cnn"
    statuses = [line.split()[0] for line in printed.partition("exit status:")[2].splitlines() if line.strip()]
    assert statuses == [str(OK), str(BAD_INPUT)]


def test_of_very_many_cells_the_clearest_are_printed(found: Comparison, capsys: pytest.CaptureFixture[str]) -> None:
    many = pd.concat([found.cells.assign(cell=f"number {number:03d}", p=1 - number / 100) for number in range(100)])
    print_comparison(replace(found, cells=many))
    printed = capsys.readouterr().out
    assert "... the 60 with the smallest p of 100 cells" in printed
    assert "number 099" in printed
    assert "number 040" in printed
    assert "number 039" not in printed


def test_json_is_one_object_with_nulls_for_what_is_unknown(
    small_sweep: Path, fewer_steps: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(small_sweep), str(fewer_steps), "--json", "--metric", "gen2real_mlp"]) == OK

    def refuse(text: str) -> None:
        raise AssertionError(f"{text} is no JSON")

    document = json.loads(capsys.readouterr().out, parse_constant=refuse)
    assert [cell["metric"] for cell in document["cells"]] == ["gen2real_mlp"]
    assert document["a"]["statuses"] == {"completed": 8}
    assert len(document["only_a"]) == 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["{a}", "{a}"], "are the same folder"),
        (["{a}", "{empty}"], "holds no sweep"),
        (["{a}", "{b}", "--metric", "fid_inceptoin"], "no trial has the metric `fid_inceptoin`"),
    ],
    ids=["same", "empty", "metric"],
)
def test_bad_input_is_one_sentence(
    arguments: list[str], words: str, small_sweep: Path, fewer_steps: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = {"a": small_sweep, "b": fewer_steps, "empty": tmp_path}
    assert main([argument.format(**folders) for argument in arguments]) == BAD_INPUT
    printed = capsys.readouterr()
    assert words in printed.err
    assert printed.err.count("\n") == 1
    assert printed.out == ""


def test_no_heavy_library_is_imported(small_sweep: Path, fewer_steps: Path) -> None:
    program = (
        "import sys; from analysis.compare import main; main(sys.argv[1:]); "
        "print(sorted({'torch', 'ray', 'dp_accounting', 'sklearn'} & set(sys.modules)), file=sys.stderr)"
    )
    run = subprocess.run([sys.executable, "-c", program, small_sweep, fewer_steps], capture_output=True, text=True, check=True)
    assert run.stderr.splitlines()[-1] == "[]"
