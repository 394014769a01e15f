"""Private selection, run for real on digits: one row, one price, and nothing that tells how many trials there were."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness import cluster, ledger, reveal, sealed, store, sweep
from harness.attempts import Attempt
from harness.expand import expand
from harness.folders import Folders, create_json
from harness.jobs import Job
from harness.ledger import lineage_accounts, sweep_accounts
from harness.plan import make_plan
from harness.selection import Selection, plan_selection
from harness.spec import load_sweep
from trainables.privacy import accounting
from trainables.privacy.mechanism import with_steps

FILE = """
name: pick
method: dp_energy
preset: digits
data: {source: digits, public: true}
privacy: {epsilon: 10, accountant: pld}
train: {steps: 6, slots: 20, generator_channels: 4}
axes: {noise_injection: [0.0, 0.1]}
search: {strategy: random_best, mean_trials: 2, score: gen2real_logreg}
evaluate: {samples: 100}
keep_samples: 10
"""


def write(root: Path, **changes: str) -> Path:
    """``FILE`` with some of its lines replaced."""
    lines = dict(line.split(": ", 1) for line in FILE.strip().splitlines()) | changes
    (root / "pick.yaml").write_text("".join(f"{key}: {value}\n" for key, value in lines.items() if value))
    return root / "pick.yaml"


def command(root: Path, *arguments: str) -> int:
    return sweep.main([str(root / "pick.yaml"), "--on", "inline", "--results", str(root / "results"), *arguments])


def planned(root: Path) -> Selection:
    loaded = load_sweep(root / "pick.yaml")
    return plan_selection(Folders(root / "results", "pick"), loaded, expand(loaded))


def begin(root: Path, settings: list[int]) -> Selection:
    """A selection whose secret draws are these."""
    chosen = planned(root)
    chosen.folders.make_private()
    sealed._seal(chosen.folders, chosen.sealed)
    draws = [{"setting": setting, "seed": 100 + index} for index, setting in enumerate(settings)]
    create_json(chosen.sealed.root / "draws.json", {"draws": draws})
    return chosen


def run_one(chosen: Selection) -> None:
    """Run the first of the drawn trials that is left, as an executor would that is stopped after it."""
    from harness.launch import new_launch, stage_jobs, trial_jobs
    from harness.lock import DriverLock
    from harness.worker import run_job

    with DriverLock(chosen.sealed.lock):
        plan = make_plan(chosen.sealed, sealed.drawn_trials(chosen))
        path = new_launch(plan, {})
        jobs: list[Job] = [*stage_jobs(plan), trial_jobs(plan, plan.to_do)[0]]
        for job in jobs:
            assert run_job(path, job.id, lambda data: None)["status"] == "completed"


def rows(root: Path):
    return store.read(root / "results" / "pick").trials


def holds(folder: Path, text: str) -> list[Path]:
    return [path for path in folder.rglob("*") if text in path.name or (path.is_file() and text.encode() in path.read_bytes())]


@pytest.fixture
def root(ended: tuple[Path, list[str], list[float]], tmp_path: Path) -> Path:
    """A folder whose results hold what all sweeps on these data share, and nothing else."""
    import shutil

    results = ended[0] / "results"
    shutil.copytree(results / "stages", tmp_path / "results" / "stages")
    for name in ("calibrations.json", "fingerprints.json"):
        shutil.copy(results / name, tmp_path / "results" / name)
    return tmp_path


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str], list[float]]:
    """(root, ids and scores of the trials) of a selection of three trials that has ended."""
    root = tmp_path_factory.mktemp("ended")
    write(root)
    chosen = begin(root, [0, 1, 1])
    with_console = sweep_console()
    assert sealed.run_sealed(chosen, "inline", max_concurrent=None, console=with_console) is None
    table = store.read_committed(chosen.sealed, "trials").to_pylist()
    assert len(table) == 3, "two draws of one setting are two trials"
    assert command(root) == sweep.OK
    return root, [row["trial_id"] for row in table], [row["gen2real_logreg"] for row in table]


def sweep_console():
    from rich.console import Console

    return Console(quiet=True)


def test_the_best_trial_is_the_only_row(ended) -> None:
    root, _, scores = ended
    (row,) = rows(root).to_dict("records")
    assert row["gen2real_logreg"] == max(scores)
    assert row["status"] == "completed"
    assert row["steps"] == 6
    assert 9.9 < row["epsilon"] <= 10
    assert row["proof"] == "random_best+gaussian"
    assert json.loads(row["selection"])["base_epsilon"] < 9
    folders = Folders(root / "results", "pick")
    assert [path.stem for path in folders.generators.iterdir()] == [row["trial_id"]]
    assert set(store.read_samples(folders.sweep).trial_id) == {row["trial_id"]}


def test_what_is_paid_for_is_the_selection(ended) -> None:
    root, _, _ = ended
    (row,) = rows(root).to_dict("records")
    (account,) = lineage_accounts(root / "results", "digits")
    assert account.executed == (1,)
    (mechanism,) = json.loads(row["mechanism"])
    assert mechanism["kind"] == "random_best"
    assert mechanism["mean_trials"] == 2
    again = accounting.epsilon(with_steps(account.phases, account.executed), delta=1e-5, accountant="pld")
    assert again == pytest.approx(row["epsilon"], rel=1e-9)
    # Every trial was calibrated with its reserve, and that is what the price counts.
    (candidate,) = account.phases[0].mechanism.candidates
    assert sum(phase.steps for phase in candidate) == 7


def test_nothing_tells_how_many_trials_there_were(ended, capsys: pytest.CaptureFixture[str]) -> None:
    root, trial_ids, _ = ended
    folders = Folders(root / "results", "pick")
    assert not folders.sealed.exists()
    for trial_id in trial_ids:
        assert holds(root / "results", trial_id) == []
    assert holds(root / "results", "selection.") == []
    (row,) = rows(root).to_dict("records")
    # A time would tell: trials ran one after the other.
    assert row["attempts"] == 1
    assert rows(root)[["train_seconds", "evaluate_seconds", "peak_memory_mb"]].isna().all(axis=None)
    capsys.readouterr()
    assert command(root) == sweep.OK
    assert "Nothing to do." in capsys.readouterr().out
    assert len(rows(root)) == 1


def test_until_it_has_ended_its_trials_are_charged_and_not_shown(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(root)
    chosen = begin(root, [0, 1])
    run_one(chosen)
    results = root / "results"
    (inner,) = lineage_accounts(results, "digits")
    assert inner.executed == (6,)
    assert (chosen.folders.sealed.stat().st_mode & 0o777) == 0o700
    capsys.readouterr()
    assert command(root, "--status", "--json") == sweep.OK
    document = json.loads(capsys.readouterr().out)
    assert [trial["status"] for trial in document["trials"]] == ["interrupted"]
    assert document["lineages"] == {"digits": []}
    assert document["unfinished_selections"] == {"digits": 1}
    assert command(root, "--status") == sweep.OK
    assert "1 private selection not ended" in capsys.readouterr().out

    assert command(root) == sweep.OK
    (account,) = lineage_accounts(results, "digits")
    assert account.phases[0].mechanism.kind == "random_best"
    assert account.executed == (1,)


def test_what_was_drawn_and_deleted_is_not_drawn_again(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import shutil

    write(root)
    chosen = begin(root, [0, 1])
    run_one(chosen)
    shutil.rmtree(chosen.folders.sealed)
    assert command(root) == sweep.BAD_INPUT
    assert "was deleted before the selection had ended" in capsys.readouterr().err
    assert command(root, "--status") == sweep.OK
    assert "1 trial on record has spent epsilon" in capsys.readouterr().out


def test_a_reveal_that_was_cut_off_is_paid_for_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(root)
    chosen = begin(root, [0])
    assert sealed.run_sealed(chosen, "inline", max_concurrent=None, console=sweep_console()) is None
    with monkeypatch.context() as patched:

        def killed(*_: object, **__: object) -> None:
            raise KeyboardInterrupt

        patched.setattr(Attempt, "close", killed)
        with pytest.raises(KeyboardInterrupt):
            reveal.reveal(chosen)
    assert chosen.sealed.root.is_dir()
    assert command(root) == sweep.OK
    (account,) = sweep_accounts(chosen.folders).values()
    assert account.executed == (1,)
    (row,) = rows(root).to_dict("records")
    assert row["status"] == "completed"
    assert row["epsilon"] <= 10


def test_a_trial_that_failed_is_never_the_best(root: Path) -> None:
    write(root, axes="{learning_rate: [1.0e+60, 0.001]}")
    begin(root, [0, 1, 0])
    assert command(root) == sweep.OK
    (row,) = rows(root).to_dict("records")
    assert row["axis.learning_rate"] == 0.001


def test_where_none_ended_well_nothing_is_kept_and_the_selection_is_paid(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(root, axes="{learning_rate: [1.0e+60]}")
    begin(root, [0])
    assert command(root) == sweep.FAILED
    assert "no trial of the selection ended well" in capsys.readouterr().out
    (row,) = rows(root).to_dict("records")
    assert row["status"] == "failed"
    assert 9.9 < row["epsilon"] <= 10
    assert not Folders(root / "results", "pick").sealed.exists()
    assert command(root) == sweep.FAILED
    assert len(lineage_accounts(root / "results", "digits")) == 1, "it is not drawn again"


def test_a_poisson_number_may_be_none(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(root, search="{strategy: random_best, mean_trials: 1, distribution: poisson}")
    begin(root, [])
    assert command(root) == sweep.FAILED
    assert "which a Poisson number allows" in capsys.readouterr().out
    (row,) = rows(root).to_dict("records")
    assert row["status"] == "failed"


def test_more_steps_than_the_price_counts_are_a_failure(root: Path) -> None:
    """A trial whose process was lost again and again: what it drew is beyond the reserve, whatever its generator is like."""
    write(root)
    chosen = begin(root, [0, 1])
    assert sealed.run_sealed(chosen, "inline", max_concurrent=None, console=sweep_console()) is None
    plan = make_plan(chosen.sealed, sealed.drawn_trials(chosen))
    best, other = sorted(
        plan.trials,
        key=lambda trial: (
            -store.read_committed(chosen.sealed, "trials", {trial.trial_id: plan.attempts[trial.trial_id]}).to_pylist()[0][
                "gen2real_logreg"
            ]
        ),
    )
    path = next(chosen.sealed.ledger.glob(f"*/{chosen.sealed.name}/{best.trial_id}.1.jsonl"))
    with path.open("a") as file:
        file.write(json.dumps({"executed": [8], "stopped": False}) + "\n")
    assert ledger.trial_account(chosen.sealed, best.trial_id).executed == (8,)
    found = reveal._best(chosen, make_plan(chosen.sealed, sealed.drawn_trials(chosen)))
    assert found is not None
    assert found[1].trial_id == other.trial_id


def test_deleting_the_results_buys_no_second_selection(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import shutil

    write(root)
    begin(root, [0])
    assert command(root) == sweep.OK
    shutil.rmtree(root / "results" / "pick")
    capsys.readouterr()
    assert command(root) == sweep.BAD_INPUT
    assert "has ended and is paid for" in capsys.readouterr().err
    (account,) = lineage_accounts(root / "results", "digits")
    assert account.executed == (1,)


def test_what_is_on_record_pays_for_no_other_draws(root: Path) -> None:
    """The selection's account without the sealed folder that it belongs to: a reveal is charged on top of it."""
    write(root)
    chosen = begin(root, [0])
    phases = chosen.trial.account.phases
    plan = chosen.folders.launches / "other" / "plan.json"
    attempt = Attempt.open(chosen.folders, chosen.trial.trial_id, kind="train", lineage="digits", phases=phases, plan=plan)
    attempt.reserve(0, 1)
    attempt.settle([1], stopped=False)
    attempt.close("lost", parts=[], evaluation_id=None, message=None, resumable=True, step=0)
    assert sealed.run_sealed(chosen, "inline", max_concurrent=None, console=sweep_console()) is None
    reveal.reveal(chosen)
    (account,) = sweep_accounts(chosen.folders).values()
    assert account.executed == (2,)
    twice = accounting.epsilon(with_steps(account.phases, account.executed), delta=1e-5, accountant="pld")
    assert twice > 14
    (row,) = rows(root).to_dict("records")
    assert row["epsilon"] == pytest.approx(twice), "the row says what both cost"


def test_trials_of_a_selection_that_was_given_up_count_as_seen(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import shutil

    from harness import release

    write(root)
    given_up = begin(root, [0, 1])
    run_one(given_up)
    write(root, seeds="[1]")
    begin(root, [0])
    assert command(root) == sweep.OK
    (row,) = rows(root).to_dict("records")
    bundle = [str(root / "results" / "pick"), row["trial_id"], str(root / "bundle")]
    capsys.readouterr()
    assert release.main(bundle) == release.REFUSED
    assert "a private selection of pick has not ended" in capsys.readouterr().err
    shutil.rmtree(given_up.folders.sealed)
    assert release.main(bundle) == release.OK
    said = json.loads((root / "bundle" / "privacy.json").read_text())
    assert said["headline"]["epsilon"] > 11, "the trial that was looked at comes on top of the selection"
    assert "both generators" in said["headline"]["against"]
    (composed,) = planned(root).plan.compositions
    assert composed.trials == 2
    assert composed.epsilon > 11


def test_equal_scores_are_drawn_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(root)
    chosen = begin(root, [0, 1, 0, 1])
    assert sealed.run_sealed(chosen, "inline", max_concurrent=None, console=sweep_console()) is None
    plan = make_plan(chosen.sealed, sealed.drawn_trials(chosen))
    table = store.read_committed(chosen.sealed, "trials").to_pylist()
    monkeypatch.setattr(
        store, "read_committed", lambda *_: store.pa.Table.from_pylist([row | {"gen2real_logreg": 0.5} for row in table])
    )
    found = {reveal._winner(chosen, plan)[1].trial_id for _ in range(20)}
    assert len(found) == 1
    assert len({reveal._best(chosen, plan)[1].trial_id for _ in range(60)}) > 1, "as the operating system draws"


def test_the_trials_go_before_their_accounts(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    write(root)
    chosen = begin(root, [0])
    run_one(chosen)

    def stuck(*_: object, **__: object) -> None:
        raise OSError("the disk does not let go")

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", stuck)
        with pytest.raises(OSError, match="let go"):
            sealed.clear(chosen)
    assert chosen.sealed.root.is_dir()
    assert len(lineage_accounts(root / "results", "digits")) == 1
    sealed.clear(chosen)
    assert not chosen.folders.sealed.exists()
    assert lineage_accounts(root / "results", "digits") == []


def test_stages_of_every_setting_are_there_whatever_was_drawn(tmp_path: Path) -> None:
    text = {
        "method": "gs_wgan",
        "preset": "",
        "axes": "{critic.channels: [2, 3]}",
        "train": "{steps: 2, shards: 4, generator: small, generator_channels: 4, generator_batch: 10, "
        "critic: {batch: 4, steps: 1, pretraining: {steps: 1, critic_steps: 1, generator: small}}}",
    }
    write(tmp_path, **text)
    (tmp_path / "results").mkdir()
    begin(tmp_path, [0])
    assert command(tmp_path) == sweep.OK
    kept = [path.name.partition("-")[0] for path in (tmp_path / "results" / "stages").iterdir()]
    assert sorted(kept) == ["critics", "critics", "reference"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seeds": "3"}, "a selection has one seed"),
        ({"privacy": "{noise_multiplier: 3, accountant: pld}"}, "keeps to a total budget"),
        ({"axes": "{privacy.epsilon: [1, 10]}"}, "settings differ in `privacy`"),
        ({"search": "{strategy: random_best, mean_trials: 3, score: real2gen_cnn}"}, "covered by no epsilon"),
        ({"search": "{strategy: random_best, mean_trials: 3, score: gen2real_lenet}"}, "add `prior_work`"),
        ({"search": "{strategy: random_best, mean_trials: 3, score: accuracy}"}, "which is no metric"),
        ({"search": "{strategy: random_best, mean_trials: 1}"}, "expected a finite number over 1"),
        ({"search": "{strategy: random_best, mean_trials: 0.5, distribution: poisson}"}, "mean_trials"),
        ({"search": "{strategy: random_best, mean_trials: 3, distribution: zipf}"}, "distribution"),
        ({"data": "{source: digits, test_set: private}"}, "on a test set that is private"),
        ({"method": "dp_merf", "train": "", "axes": ""}, "costs that release, however many are tried"),
        ({"method": "real", "preset": "", "train": "", "axes": ""}, "releases nothing"),
    ],
)
def test_what_would_make_the_price_untrue_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, str], words: str
) -> None:
    write(tmp_path, **changes)
    assert command(tmp_path, "--dry-run") == sweep.BAD_INPUT
    assert words in capsys.readouterr().err


def test_no_trial_of_a_selection_can_be_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path)
    assert command(tmp_path, "--only", "abc") == sweep.BAD_INPUT
    assert "no trials that could be named" in capsys.readouterr().err


def test_a_selection_runs_on_ray(root: Path, ray_session: cluster.Cluster) -> None:
    write(root)
    begin(root, [1, 0])
    arguments = [str(root / "pick.yaml"), "--results", str(root / "results")]
    assert sweep.main(arguments) == sweep.OK
    assert len(rows(root)) == 1
