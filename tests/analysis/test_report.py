"""The report of real sweeps: what it says, what it must not say, and what is said where something is missing."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from analysis import report
from analysis.results import load
from analysis.statements import duration
from harness.lock import DriverLock
from trainables.evaluation.metrics import METRICS


@pytest.fixture
def copy(small_sweep: Path, tmp_path: Path) -> Path:
    """A copy of the small sweep that a test may change."""
    return Path(shutil.copytree(small_sweep, tmp_path / small_sweep.name))


@pytest.fixture(scope="module")
def page(small_sweep: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of the small sweep."""
    output = tmp_path_factory.mktemp("report")
    assert report.main([str(small_sweep), "--output", str(output)]) == 0
    return output / "report.html"


def declare(folder: Path, **data: object) -> None:
    path = folder / "sweep.json"
    document = json.loads(path.read_text())
    document["sweep"]["data"] |= data
    path.write_text(json.dumps(document))


def change(folder: Path, table: str, **columns: object) -> None:
    """Give every row of a table's parts other values."""
    shutil.rmtree(folder / "compacted", ignore_errors=True)
    for path in (folder / table).glob("*.parquet"):
        change_one(path, **columns)


def change_one(path: Path, **columns: object) -> None:
    part = pq.read_table(path)
    for name, value in columns.items():
        index = part.schema.get_field_index(name)
        field = part.schema.field(index)
        part = part.set_column(index, field, pa.array([value] * len(part), type=field.type))
    pq.write_table(part, path)


def text_of(html: str) -> str:
    """What a reader reads, on one line."""
    body = re.sub(r"<(style|script)>.*?</\1>", "", html, flags=re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", body))


def test_the_answer_comes_first(small_sweep: Path, page: Path) -> None:
    html = page.read_text()
    best = report.grid.best(load(small_sweep), "gen2real_cnn")
    answer = html[html.index('id="answer"') : html.index('id="grid"')]
    assert best.cell in answer
    assert f">{best.interval.mean:.3f}<" in answer
    assert "2 seeds" in answer
    composed = json.loads((small_sweep / "sweep.json").read_text())["totals"]["compose"][0]
    assert "epsilon of having seen all 8 generators" in answer
    assert f">{report.epsilon_text(composed['epsilon'])}<" in answer
    assert "Adaptive Gaussian" in answer or "poisson" in answer, "the theorem behind the proof is spelled out"
    assert "touches private data through the generators alone" in answer
    assert "Real test images" in answer


def test_every_section_is_there_in_order(page: Path) -> None:
    anchors = re.findall(r'<section id="(\w+)"', page.read_text())
    expected = "answer grid paper cells samples training trials failures privacy provenance"
    assert anchors == expected.split()


def test_the_page_is_one_file(page: Path) -> None:
    html = page.read_text()
    sources = re.findall(r'(?:src|href)="([^"]*)"', html)
    assert sources
    for source in sources:
        assert source.startswith(("data:", "#", "figures/", "tables/")), source
    assert not re.search(r"@import|url\((?!#)", html)
    used = {source for source in sources if source.startswith(("figures/", "tables/"))}
    assert used
    for source in used:
        assert (page.parent / source).is_file(), source


def test_ids_are_unique(page: Path) -> None:
    ids = re.findall(r'\bid="([^"]+)"', page.read_text())
    assert sorted(set(ids)) == sorted(ids)


def test_every_metric_and_table_is_written(small_sweep: Path, page: Path) -> None:
    written = {path.name for path in page.parent.rglob("*") if path.is_file()}
    for name in load(small_sweep).metrics:
        assert {f"heatmap_{name}.png", f"heatmap_{name}.svg"} <= written
    for name in ("cells", "table1", "table4", "baselines", "effects_gen2real_cnn", "neighbours_gen2real_cnn", "best_cell"):
        assert {f"{name}.csv", f"{name}.md", f"{name}.tex"} <= written
    assert "trials.csv" in written


def test_words_from_results_are_escaped(copy: Path, tmp_path: Path) -> None:
    change(copy, "trials", status="failed", message="<script>alert('x')</script> & more")
    assert report.main([str(copy), "--output", str(tmp_path / "out")]) == 0
    html = (tmp_path / "out" / "report.html").read_text()
    assert "<script>alert" not in html
    assert "&lt;script&gt;alert" in html


def test_failed_trials_are_named_with_their_log(copy: Path, tmp_path: Path) -> None:
    change(copy, "trials", status="oom", message="out of memory at step 12")
    assert report.main([str(copy), "--output", str(tmp_path / "out")]) == 0
    html = text_of((tmp_path / "out" / "report.html").read_text())
    assert "8 trials: 8 oom" in html
    assert "out of memory at step 12" in html
    trial = load(copy).trials.iloc[0]
    assert f"logs/{trial['trial_id']}.1.log" in html


def test_nothing_private_is_in_any_file(copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Values are planted in everything that is marked private; then every file that was written is searched for them."""
    public = tmp_path / "public"
    assert report.main([str(copy), "--output", str(public)]) == 0
    real_images = re.search(
        r'Real test images</figcaption>\s*<img class="montage" src="([^"]+)"', (public / "report.html").read_text()
    )
    assert real_images
    declare(copy, public=False)
    private = [name for name, metric in METRICS.items() if metric.private]
    planted = {name: 7654.125 + 1.5 * number for number, name in enumerate(private)}
    change(
        copy,
        "trials",
        **planted,
        real=json.dumps({"samples": 200, **dict.fromkeys(METRICS, 8321.625)}),
        data_fingerprint="f1d0" * 16,
        evaluation_id="e1d0e1d0e1d0",
        message="secret-message",
        host="secret-host",
        train_seconds=4321.0625,
        evaluate_seconds=3210.0625,
        peak_memory_mb=2109.0625,
    )
    change(copy, "history", fd_dataset_classifier=6543.375)
    change(copy, "attempts", host="secret-host", message="secret-message")
    trials = load(copy).trials
    capsys.readouterr()
    with DriverLock(copy / "driver.lock"):
        assert report.main([str(copy), "--output", str(tmp_path / "out")]) == 0
    said = capsys.readouterr()
    words = ["secret-host", "secret-message", "f1d0f1d0", "e1d0e1d0e1d0", real_images[1]]
    words += [*trials["trial_id"], *trials["cell_id"], f"{trials['ended'].iloc[0]:%Y-%m-%d}"]
    numbers = [*planted.values(), 8321.625, 6543.375, 4321.0625, 3210.0625, 2109.0625]
    beginnings = "|".join(str(int(number) + up) for number in numbers for up in (0, 1))  # to whatever digits it is rounded
    planted_number = re.compile(rf"(?<![\w.+/])(?:{beginnings})(?![\w+/])")  # not in the middle of another one, or of an image
    for path in [path for path in (tmp_path / "out").rglob("*") if path.is_file()]:
        text = path.read_bytes().decode("utf-8", "replace")
        for word in words:
            assert word not in text, f"{word} in {path.name}"
        assert not (found := planted_number.search(text)), f"{found} in {path.name}"
        assert not any(name in path.name for name in private), path.name
    for word in ("secret-host", *trials["trial_id"]):
        assert word not in said.out + said.err
    html = text_of((tmp_path / "out" / "report.html").read_text())
    assert "The data are not declared public" in html
    assert "No real images are shown" in html
    assert "gen2real CNN" in html, "what is free stays"


def test_a_private_test_set_is_said_to_cost_what_no_epsilon_covers(copy: Path, tmp_path: Path) -> None:
    change(copy, "trials", test_set="private")
    assert report.main([str(copy), "--output", str(tmp_path / "out")]) == 0
    html = text_of((tmp_path / "out" / "report.html").read_text())
    assert "the test set is not declared public" in html
    assert "Choosing by such a score is covered by no epsilon" in html


def test_prices_are_shown_without_knowing_their_form(copy: Path, tmp_path: Path) -> None:
    path = copy / "sweep.json"
    document = json.loads(path.read_text())
    document["totals"]["price"] = [{"name": "random_best", "epsilon": 12.341, "delta": 1e-05, "draws_at_most": 40}]
    path.write_text(json.dumps(document))
    assert report.main([str(copy), "--output", str(tmp_path / "out")]) == 0
    html = text_of((tmp_path / "out" / "report.html").read_text())
    assert "price of choosing: random_best" in html
    assert "12.4" in html
    assert "draws at most 40" in html


def test_a_metric_that_no_trial_has(small_sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report.main([str(small_sweep), "--metric", "fid_inception", "--output", str(tmp_path)]) == 0
    said = capsys.readouterr()
    assert "No trial has the metric `fid_inception`; there are gen2real_cnn" in said.err
    assert "Best by gen2real CNN" in said.out
    assert "No trial has the metric `fid_inception`" in (tmp_path / "report.html").read_text()


def test_another_metric_is_chosen_by(small_sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report.main([str(small_sweep), "--metric", "fd_dataset_classifier", "--output", str(tmp_path)]) == 0
    assert "Best by FD dataset classifier" in capsys.readouterr().out
    html = text_of((tmp_path / "report.html").read_text())
    assert "it is computed from the private training set" in html, "public data, but the score is one on private data"


@pytest.mark.parametrize("name", ["empty", "missing"])
def test_nothing_to_report_on(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    assert report.main([str(tmp_path / name)]) == 2
    said = capsys.readouterr()
    assert len(said.err.strip().splitlines()) == 1
    assert "holds no sweep" in said.err
    assert said.out == ""
    assert not (tmp_path / name / "report").exists()


def test_a_sweep_that_runs_is_reported_as_far_as_it_is(copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with DriverLock(copy / "driver.lock"):
        assert report.main([str(copy), "--output", str(tmp_path / "out")]) == 0
    assert "is still running" in capsys.readouterr().err
    assert "is still running" in (tmp_path / "out" / "report.html").read_text()


def test_one_seed_and_no_samples(copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for row in load(copy).trials.itertuples():
        if row.seed:
            shutil.rmtree(copy / "attempts" / row.trial_id)
        shutil.rmtree(copy / "compacted", ignore_errors=True)
        for end in (copy / "attempts" / row.trial_id).glob("*.end.json"):
            document = json.loads(end.read_text())
            document["parts"] = [part for part in document["parts"] if not part["path"].startswith(("samples", "history"))]
            end.write_text(json.dumps(document))
    assert report.main([str(copy), "--output", str(tmp_path / "out")]) == 0
    assert "Every cell has one seed" in capsys.readouterr().err
    html = text_of((tmp_path / "out" / "report.html").read_text())
    assert "one seed: no interval" in html
    assert "No trial has kept images" in html
    assert "so there are no curves to draw" in html


def test_trials_without_a_metric(copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(copy, "trials", **dict.fromkeys(METRICS), status="interrupted", real=None, per_class=None, epsilon=None)
    assert report.main([str(copy), "--metric", "gen2real_cnn", "--output", str(tmp_path / "out")]) == 0
    said = capsys.readouterr()
    assert "No trial has a metric yet" in said.out
    assert "No trial has the metric gen2real_cnn, nor any other." in said.err


def test_several_sweeps_are_joined(small_sweep: Path, small_baselines: Path, tmp_path: Path) -> None:
    assert report.main([str(small_sweep), str(small_baselines), "--output", str(tmp_path)]) == 0
    html = text_of((tmp_path / "report.html").read_text())
    assert "small_grid and small_baselines" in html
    assert html.count("Sweep file") == 2
    assert "epsilon of having seen all 8 generators, small_grid" in html


def test_only_proven_leaves_out_and_says_so(copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = sorted((copy / "trials").glob("*.parquet"))[0]
    shutil.rmtree(copy / "compacted", ignore_errors=True)
    part = pq.read_table(path)
    pq.write_table(part.set_column(part.schema.get_field_index("epsilon"), "epsilon", pa.array([None], pa.float64())), path)
    assert report.main([str(copy), "--only-proven", "--output", str(tmp_path / "out")]) == 0
    assert "1 without a proven epsilon" in capsys.readouterr().err
    assert len((tmp_path / "out" / "tables" / "trials.csv").read_text().splitlines()) == 1 + 7


def test_an_unproven_epsilon_is_said_to_be_none(copy: Path, tmp_path: Path) -> None:
    change(copy, "trials", epsilon=None, proof="not_private")
    assert report.main([str(copy), "--output", str(tmp_path / "out")]) == 0
    html = text_of((tmp_path / "out" / "report.html").read_text())
    assert "8 trials without a proven epsilon: nothing is promised" in html
    assert "so there is no account to draw" in html or "No step of any trial" in html or "Epsilon against steps" in html


def test_the_report_imports_no_heavy_library() -> None:
    code = "import sys, analysis.report; print(*({'torch', 'ray', 'dp_accounting', 'sklearn'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == ""


def test_durations_are_read_at_a_glance() -> None:
    assert [duration(seconds) for seconds in (0, 119, 120, 5399, 86400)] == ["0 s", "119 s", "2 min", "90 min", "24.0 h"]


def test_a_generator_picked_after_looking_is_not_promised_its_own_epsilon(page: Path) -> None:
    text = text_of(page.read_text())
    assert "picked after looking, by a score that is free, is promised the composed epsilon of all that were looked at" in text
    assert "named by its settings and seed before any was looked at is promised its own epsilon" in text


def test_an_earlier_report_leaves_nothing_behind(copy: Path, tmp_path: Path) -> None:
    """What was public yesterday may not be today; files that no report writes are left alone."""
    output = tmp_path / "out"
    assert report.main([str(copy), "--output", str(output)]) == 0
    assert (output / "figures" / "heatmap_fd_dataset_classifier.png").exists()
    (output / "figures" / "notes.txt").write_text("mine")
    declare(copy, public=False)
    assert report.main([str(copy), "--output", str(output)]) == 0
    assert not list(output.rglob("*fd_dataset_classifier*"))
    assert (output / "figures" / "notes.txt").exists()


def test_an_output_that_is_a_file_is_one_sentence(copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "taken"
    output.write_text("")
    assert report.main([str(copy), "--output", str(output)]) == 2
    assert capsys.readouterr().err == f"{output}: File exists; --output DIR writes elsewhere\n"


def test_cells_that_spread_unevenly_are_said_to(copy: Path, tmp_path: Path) -> None:
    """Tests pool the spread; one unsteady method among steady ones makes that wrong."""
    for path in (copy / "trials").glob("*.parquet"):
        row = pq.read_table(path).to_pylist()[0]
        unsteady = json.loads(row["axes"])["noise_injection"] == 1
        change_one(path, gen2real_cnn=0.6 + (0.2 if unsteady else 1e-5) * row["seed"])
    shutil.rmtree(copy / "compacted")
    assert report.main([str(copy), "--output", str(tmp_path / "out")]) == 0
    text = text_of((tmp_path / "out" / "report.html").read_text())
    assert "The cells do not spread alike (standard deviations 7.1e-06 to 0.14; Bartlett" in text


def test_cells_that_spread_alike_are_not_warned_of(page: Path) -> None:
    assert "do not spread alike" not in page.read_text()
