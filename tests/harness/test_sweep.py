"""The whole command on real digits, in this process: run, run again, widen, re-evaluate, fail, retry, interrupt."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from small_sweep import FILE, command, planned

from harness import store, sweep
from harness.attempts import Attempt, read_attempts
from harness.expand import expand
from harness.folders import Folders
from harness.launch import trial_jobs
from harness.plan import make_plan
from harness.spec import load_sweep


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results root with the two trials of ``FILE`` done, and the file beside it. Tests copy it."""
    root = tmp_path_factory.mktemp("finished")
    (root / "small.yaml").write_text(FILE)
    assert command(root) == sweep.OK
    return root


@pytest.fixture
def done(finished: Path, tmp_path: Path) -> Path:
    import shutil

    return Path(shutil.copytree(finished, tmp_path / "root"))


def trials(root: Path):
    return store.read(root / "results" / "small").trials.set_index("trial_id")


def attempts(root: Path) -> dict[str, list[str]]:
    folders = Folders(root / "results", "small")
    return {trial_id: [record.status for record in records] for trial_id, records in read_attempts(folders).items()}


def test_a_finished_sweep_has_a_row_a_trial_with_its_account_and_metrics(done: Path) -> None:
    table = trials(done)
    assert len(table) == 2
    assert set(table.status) == {"completed"}
    assert (table.epsilon <= 10).all()
    assert (table.epsilon > 9).all(), "nearly all of the budget is used"
    assert (table.epsilon == table.epsilon_pld).all()
    assert (table.epsilon_pld <= table.epsilon_rdp).all()
    assert (table.releases == 8).all()
    assert (table.steps == 8).all()
    assert table[["gen2real_cnn", "gen2real_mlp", "gen2real_logreg", "real2gen_cnn"]].gt(0).all(axis=None)
    assert list(table["config.noise_injection"]) == list(table["axis.noise_injection"])


def test_the_other_tables_belong_to_the_trials(done: Path) -> None:
    results = store.read(done / "results" / "small")
    assert set(results.samples.trial_id) == set(results.trials.trial_id)
    assert (results.samples.groupby(["trial_id", "label"]).size() == 2).all()
    assert results.samples.image.iloc[0]["bytes"].startswith(b"\x89PNG")
    for _, history in results.history.groupby("trial_id"):
        assert history.step.is_monotonic_increasing
        assert history.step.iloc[-1] == 8
        assert history.epsilon.is_monotonic_increasing
    assert (results.attempts.status == "completed").all()


def test_the_next_trials_are_packed_by_the_memory_that_these_took(done: Path) -> None:
    """A seed more of a cell asks for the cell's peak, a cell more for the method's; what the file declares goes before."""
    sweep_file, folders = done / "small.yaml", Folders(done / "results", "small")

    def asked(text: str) -> dict[str, int | None]:
        sweep_file.write_text(text)
        plan = make_plan(folders, expand(load_sweep(sweep_file)))
        labels = {trial.trial_id: trial.spec.label for trial in plan.to_do}
        return {labels[job.id]: job.memory for job in trial_jobs(plan, plan.to_do)}

    table = trials(done).set_index("axis.noise_injection")
    peaks = (table.peak_memory_mb * 1e6).astype(int)
    found = asked(FILE.replace("[0.0, 0.1]", "[0.0, 0.1, 0.2]") + "seeds: 2\n")
    assert found["noise_injection=0 seed=1"] == peaks[0.0]
    assert found["noise_injection=0.1 seed=1"] == peaks[0.1]
    assert found["noise_injection=0.2 seed=0"] == peaks.max()
    assert set(asked(FILE + "seeds: 2\nresources: {memory: 3 GB}\n").values()) == {3 * 10**9}


def test_duckdb_reads_the_same_files(done: Path) -> None:
    import duckdb

    count = duckdb.sql(f"select count(*), max(epsilon) from '{done}/results/small/trials/*.parquet'").fetchall()
    assert count == [(2, trials(done).epsilon.max())]


def test_what_a_person_gets_beside_the_tables(done: Path) -> None:
    folder = done / "results" / "small"
    assert (folder / "contact_sheet.png").stat().st_size > 1000
    record = json.loads((folder / "sweep.json").read_text())
    (seen,) = record["totals"]["compose"]
    assert seen["epsilon"] > 10, "two generators cost more than one"
    assert seen["trials"] == 2
    assert not list((folder / "scratch").glob("*"))


def test_real_images_are_the_last_line_of_what_a_person_reads(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (real,) = store.read(done / "results" / "small").real.to_dict("records")
    assert real["n"] == real["evaluation_samples"] == 100
    capsys.readouterr()
    for arguments in ((), ("--status",)):
        command(done, *arguments)
        lines = [line for line in capsys.readouterr().out.splitlines() if line.split()]
        (at,) = [number for number, line in enumerate(lines) if "real images (100)" in line]
        assert "seed=0  completed" in lines[at - 1]
        assert f"{real['gen2real_cnn']:.3f}" in lines[at].split()
        assert f"{real['fd_dataset_classifier']:.4g}" in lines[at].split()
    command(done, "--status", "--json")
    status = json.loads(capsys.readouterr().out)
    assert [row["gen2real_cnn"] for row in status["real"]] == [real["gen2real_cnn"]]
    found = {trial["trial_id"]: trial["metrics"]["gen2real_cnn"] for trial in status["trials"]}
    assert found == trials(done).gen2real_cnn.to_dict()


def test_real_images_are_shown_only_where_the_data_are_public(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from PIL import Image

    sheet, warning = done / "results" / "small" / "contact_sheet.png", "choosing a trial by them is covered by no epsilon"
    capsys.readouterr()
    widths = {}
    for public in ("true", "false"):
        assert command(done, "--set", f"data.public={public}") == sweep.OK
        widths[public] = Image.open(sheet).width
        assert (warning in " ".join(capsys.readouterr().out.split())) == (public == "false")
    assert widths["true"] > widths["false"], "a column more"


def test_the_status_says_as_well_what_private_numbers_are_no_basis_for(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def shown(*arguments: str) -> str:
        capsys.readouterr()
        command(done, "--status", "--set", "data.public=false", *arguments)
        return " ".join(capsys.readouterr().out.split())

    warning = "choosing a trial by them is covered by no epsilon"
    assert warning in shown()
    assert warning not in shown("--json")
    assert warning not in shown("--set", "train.steps=9"), "nothing is measured yet"


def test_the_same_command_again_does_nothing(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = attempts(done)
    assert command(done) == sweep.OK
    assert attempts(done) == before
    output = capsys.readouterr().out
    assert "2 done" in output
    assert "Nothing to do." in output


def test_a_widened_axis_runs_only_the_new_cells(done: Path) -> None:
    before = attempts(done)
    assert command(done, "--set", "axes.noise_injection=[0.0, 0.1, 0.2]") == sweep.OK
    after = attempts(done)
    assert {key: after[key] for key in before} == before
    assert len(after) == 3
    assert len(trials(done)) == 3


def test_another_evaluation_does_not_train(done: Path) -> None:
    before = trials(done)
    assert command(done, "--set", "evaluate.samples=150") == sweep.OK
    after = trials(done)
    assert set(after.evaluation_samples) == {150}
    assert after.releases.equals(before.releases)
    assert after.epsilon.equals(before.epsilon)
    assert len(after) == 2
    assert all(statuses == ["completed", "completed"] for statuses in attempts(done).values())


def test_only_one_trial(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = planned(done, capsys, "--set", "train.steps=4")
    chosen = document["trials"][1]["trial_id"]
    assert command(done, "--set", "train.steps=4", "--only", chosen) == sweep.OK
    assert set(attempts(done)) - {trial_id for trial_id in trials(done).index if trials(done).steps[trial_id] == 8} == {chosen}
    assert command(done, "--only", "nonsense") == sweep.BAD_INPUT
    assert "no trial of this sweep has that id" in capsys.readouterr().err


def test_only_leaves_the_record_of_the_whole_sweep(done: Path) -> None:
    sheet = (done / "results" / "small" / "contact_sheet.png").read_bytes()
    assert command(done, "--only", trials(done).index[0]) == sweep.OK
    assert (done / "results" / "small" / "contact_sheet.png").read_bytes() == sheet
    record = json.loads((done / "results" / "small" / "sweep.json").read_text())
    assert record["totals"]["trials"] == 2


def test_a_failed_look_again_leaves_the_row_as_it_was(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = trials(done)
    for path in (done / "results" / "small" / "generators").glob("*"):
        path.rename(path.with_suffix(".away"))
    assert command(done, "--set", "evaluate.samples=150") == sweep.FAILED
    assert "the trial has kept no generator" in capsys.readouterr().out
    after = trials(done)
    assert set(after.status) == {"completed"}
    assert after.gen2real_cnn.equals(before.gen2real_cnn)
    assert command(done) == sweep.OK, "as it was evaluated before, it is done"
    for path in (done / "results" / "small" / "generators").glob("*.away"):
        path.rename(path.with_suffix(".safetensors"))
    assert command(done, "--set", "evaluate.samples=150") == sweep.FAILED
    assert command(done, "--set", "evaluate.samples=150", "--retry-failed") == sweep.OK
    assert set(trials(done).evaluation_samples) == {150}


def test_trials_that_wait_for_a_stage_that_failed_are_not_started(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = "--set", "evaluate.samples=150"
    (identifier,) = planned(done, capsys, *other)["totals"]["stages"]
    in_the_way = done / "results" / "stages" / identifier
    in_the_way.touch()
    command(done, "--status", *other)
    assert "for stage" not in capsys.readouterr().out, "it was not tried yet"
    before = attempts(done)
    assert command(done, *other) == sweep.FAILED
    assert attempts(done) == before
    output = capsys.readouterr().out
    assert "stage reference: failed" in output
    reason = "2 trials wait for stage reference, which failed: NotADirectoryError"
    log = f"  log: {done}/results/small/logs/{identifier}.log"
    assert reason in output
    assert log in output.splitlines()
    command(done, "--status", *other)
    output = capsys.readouterr().out
    assert reason in output
    assert log in output.splitlines()
    in_the_way.unlink()
    assert command(done, *other) == sweep.OK
    assert "for stage" not in capsys.readouterr().out
    in_the_way.rename(done / "deleted")
    command(done, "--status", "--set", "evaluate.samples=150", "--set", "train.steps=9")
    assert "for stage" not in capsys.readouterr().out, "a stage that was there once has not failed"


def test_results_that_were_deleted_do_not_give_their_budget_back(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import shutil

    shutil.rmtree(done / "results" / "small")
    assert command(done) == sweep.OK
    assert "2 trials have releases on record whose results were deleted" in capsys.readouterr().out
    table = trials(done)
    assert set(table.status) == {"budget"}
    assert (table.releases == 9).all(), "the eight that were deleted, and the one in reserve"
    assert (table.epsilon <= 10).all()


@pytest.mark.parametrize("spoil", ["results/calibrations.json", "results/small/contact_sheet.png"])
def test_a_file_that_can_be_made_again_is(done: Path, spoil: str) -> None:
    (done / spoil).write_text("")
    assert command(done) == sweep.OK
    assert (done / spoil).stat().st_size > 10


@pytest.mark.parametrize("pattern", ["results/ledger/*/*/*.jsonl", "results/small/attempts/*/1.end.json"])
def test_a_record_that_cannot_be_made_again_is_asked_for(done: Path, capsys: pytest.CaptureFixture[str], pattern: str) -> None:
    path = next(done.glob(pattern))
    path.write_text("")
    assert command(done) == sweep.BAD_INPUT
    error = capsys.readouterr().err
    assert str(path) in error
    assert "Traceback" not in error


def test_results_that_are_no_folder_are_one_sentence(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (done / "file").touch()
    assert sweep.main([str(done / "small.yaml"), "--results", str(done / "file")]) == sweep.BAD_INPUT
    assert str(done / "file") in capsys.readouterr().err


def test_messages_are_printed_as_they_are(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Square brackets mean something to the library that prints; in a message they are text."""
    path = next((done / "results" / "small" / "attempts").glob("*/1.end.json"))
    record = json.loads(path.read_text())
    record |= {"status": "failed", "message": "OSError: [/gone] [red]x[/red]", "evaluation_id": None}
    path.write_text(json.dumps(record))
    assert command(done, "--status") == sweep.OK
    assert "OSError: [/gone] [red]x[/red]" in capsys.readouterr().out


def test_a_lost_process_is_counted_and_its_trial_goes_on_within_its_budget(
    done: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A trial of which every reservation but the first checkpoint interval is gone has no budget left to finish."""
    from trainables.privacy.mechanism import from_dict

    (trial, *_) = planned(done, capsys, "--set", "train.steps=10")["trials"]
    folders = Folders(done / "results", "small")
    plan = folders.launches / "killed" / "plan.json"
    phases = [from_dict(phase) for phase in trial["privacy"]["mechanism"]]
    from harness.documents import job_document
    from harness.expand import expand
    from harness.plan import make_plan
    from harness.planfile import write_plan
    from harness.spec import load_sweep

    specs = expand(load_sweep(done / "small.yaml", ["train.steps=10"]))
    real_plan = make_plan(folders, specs)
    write_plan(plan, ((t.trial_id, job_document(real_plan, t, {})) for t in real_plan.to_do))
    attempt = Attempt.open(folders, trial["trial_id"], kind="train", lineage="digits", phases=phases, plan=plan)
    attempt.reserve(0, 4)

    assert command(done, "--set", "train.steps=10") == sweep.OK
    table = trials(done)
    row = table.loc[trial["trial_id"]]
    assert row.releases <= 10 + trial["privacy"]["reserve"], "reserved releases are spent, whether or not they were drawn"
    assert row.status == "budget"
    assert row.epsilon <= 10
    assert row.steps == row.releases - 4
    assert row.epsilon_surviving < row.epsilon
    assert attempts(done)[trial["trial_id"]] == ["lost", "budget"]
    assert (table.index == trial["trial_id"]).sum() == 1


def test_status_and_the_account_of_the_data_set(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert command(done, "--status", "--json") == sweep.OK
    document = json.loads(capsys.readouterr().out)
    assert document["totals"] == {"completed": 2}
    (account,) = document["lineages"]["digits"]
    assert account["trials"] == 2
    assert account["epsilon"] > trials(done).epsilon.max()
    assert command(done, "--status") == sweep.OK
    assert "no command is running it" in capsys.readouterr().out
