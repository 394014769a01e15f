"""An audited sweep on real digits: secret coins, planted data, columns, controls that nobody sees, resume, lost coins."""

from __future__ import annotations

import json
import shutil
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from analysis.report import write_report
from analysis.results import load
from harness import sweep
from harness.document import InputError
from harness.documents import job_document
from harness.expand import CONTROL, expand
from harness.folders import Folders
from harness.job_data import load_data, load_planted
from harness.plan import Plan, make_plan
from harness.planfile import write_plan
from harness.spec import load_sweep
from harness.store import AuditRow, audit_rows, read
from harness.trial import run_trial
from trainables.data.canaries import TESTED, UNUSED
from trainables.privacy.audit_bound import lower_bound, p_value

FILE = """
name: audited
method: dp_energy
preset: digits
data: {source: digits, size: 1000, public: true}
privacy: {epsilon: 1, accountant: pld}
train: {steps: 8, slots: 20, generator_channels: 4}
audit: {canaries: 200, guesses: 80}
evaluate: {samples: 100}
checkpoint: {every: 2}
keep_samples: 10
"""
WITHOUT = FILE.replace("audit: {canaries: 200, guesses: 80}\n", "")


def plan_of(root: Path, text: str = FILE, name: str = "audited") -> Plan:
    (root / "audited.yaml").write_text(text)
    return make_plan(Folders(root / "results", name), expand(load_sweep(root / "audited.yaml")))


def command(root: Path, *arguments: str, text: str = FILE) -> int:
    (root / "audited.yaml").write_text(text)
    return sweep.main([str(root / "audited.yaml"), "--on", "inline", "--results", str(root / "results"), *arguments])


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of a sweep of one audited trial and its control."""
    root = tmp_path_factory.mktemp("audited")
    assert command(root) == 0
    return root


@pytest.fixture
def done(finished: Path, tmp_path: Path) -> Path:
    """A copy of it, to be changed."""
    return shutil.copytree(finished, tmp_path / "copy")


@pytest.fixture
def begun(finished: Path, tmp_path: Path) -> Path:
    """A root with the coins and the reference stage of that sweep, and nothing else."""
    for name in ("audits", "stages"):
        shutil.copytree(finished / "results" / name, tmp_path / "results" / name)
    return tmp_path


def rows(root: Path) -> dict[bool, dict[str, Any]]:
    """Row of the trial (False) and of its control (True)."""
    return {row["control"]: row for row in read(root / "results" / "audited").trials.to_dict("records")}


# Planning ------------------------------------------------------------------------------------------------------------


def test_without_an_audit_nothing_says_that_there_might_be_one(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, WITHOUT)
    (trial,) = plan.trials
    assert trial.trial_id == "f2937f573717", "the id that this trial had before audits existed"
    job = job_document(plan, trial, {})
    assert not {"audit", "control"} & {*job, *job["data"]}
    assert not (tmp_path / "results" / "audits").exists()


def test_coins_are_made_once_for_the_owner_alone_and_decide_the_ids(tmp_path: Path) -> None:
    first, again = plan_of(tmp_path), plan_of(tmp_path, FILE.replace("audited", "other"), "other")
    assert [trial.trial_id for trial in first.trials] == [trial.trial_id for trial in again.trials]
    (path,) = (tmp_path / "results" / "audits").iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    other = plan_of(elsewhere)
    assert other.trials[0].data.audit == first.trials[0].data.audit, "slots and canaries are public and the same"
    assert other.trials[0].data.fingerprint != first.trials[0].data.fingerprint
    assert other.trials[0].trial_id != first.trials[0].trial_id


def test_coins_are_fair_and_independent(tmp_path: Path) -> None:
    """1,600 coins of eight roots: 800 are heads within 5 standard deviations, and no two sets agree beyond chance."""
    sets = []
    for number in range(8):
        root = tmp_path / str(number)
        root.mkdir()
        plan_of(root)
        (path,) = (root / "results" / "audits").iterdir()
        sets.append(json.loads(path.read_text())["present"])
    coins = np.array(sets)
    assert set(coins.flat) == {0, 1}
    assert abs(coins.sum() - 800) < 5 * 20
    agreements = [(coins[i] == coins[j]).sum() for i in range(8) for j in range(i)]
    assert all(abs(count - 100) < 6 * np.sqrt(50) for count in agreements)


def test_two_commands_that_are_as_quick_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second sees no file, and finds one when it wants to write its own."""
    plan = plan_of(tmp_path)
    (path,) = (tmp_path / "results" / "audits").iterdir()
    text = path.read_text()
    held = path.rename(path.with_suffix(".held"))

    def token_hex(length: int) -> str:
        held.rename(path)
        return "another salt"

    monkeypatch.setattr("harness.audits.secrets.token_hex", token_hex)
    again = plan_of(tmp_path)
    assert path.read_text() == text
    assert [trial.trial_id for trial in again.trials] == [trial.trial_id for trial in plan.trials]


def test_planted_data_keep_their_size_and_workers_read_the_same(tmp_path: Path) -> None:
    plan, base = plan_of(tmp_path), plan_of(tmp_path, WITHOUT)
    before, test = load_data(base.trials[0].data.document, base.folders)
    found = [load_planted(plan.trials[0].data.document, plan.folders) for _ in range(2)]
    train, planted_test, planted = found[0]
    assert planted is not None
    assert train.info == before.info == plan.trials[0].data.info
    assert (train.images == found[1][0].images).all()
    changed = np.flatnonzero((train.images != before.images).any(axis=(1, 2, 3)) | (train.labels != before.labels))
    assert set(changed) == set(planted.slots[planted.present])
    assert planted.origin == UNUSED
    assert len(planted_test.labels) == len(test.labels)

    whole = plan_of(tmp_path, FILE.replace("size: 1000, ", "").replace("canaries: 200", "canaries: 100"))
    _, fewer, tested = load_planted(whole.trials[0].data.document, whole.folders)
    assert tested is not None
    assert tested.origin == TESTED
    assert len(fewer.labels) == len(test.labels) - 100


@pytest.mark.parametrize(
    ("audit", "message"),
    [
        ("{canaries: 600}", "audit.canaries is 600; the training set has 1,000 records, of which at most half may be slots"),
        ("{canaries: 20, guesses: 7}", "guesses is 7; expected an even number of at most 20, the canaries"),
        ("{canaries: 20, guesses: 22}", "guesses is 22; expected an even number of at most 20"),
        ("{kind: outlier}", "`audit.kind` is the text"),
    ],
)
def test_what_cannot_be_is_said_when_planning(tmp_path: Path, audit: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        plan_of(tmp_path, FILE.replace("{canaries: 200, guesses: 80}", audit))


def test_an_audit_of_a_private_selection_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="both `audit` and `search` are there"):
        plan_of(tmp_path, FILE + "search: {strategy: random_best, mean_trials: 5}\n")


def test_a_cell_has_one_control_whatever_its_budgets_and_seeds(tmp_path: Path) -> None:
    text = FILE + "seeds: 3\naxes: {privacy.epsilon: [1, 10], noise_injection: [0.0, 0.1]}\n"
    plan = plan_of(tmp_path, text)
    controls = [trial for trial in plan.trials if trial.control]
    assert [trial.spec.label for trial in controls] == [f"noise_injection={value} seed=0 {CONTROL}" for value in ("0", "0.1")]
    assert len(plan.trials) == 2 * 2 * 3 + 2
    assert all(trial.spec.privacy.noise_multiplier == 0 and trial.spec.keep_samples == 0 for trial in controls)
    assert sum(part.trials for part in plan.compositions) == 12
    assert all(np.isfinite(part.epsilon) for part in plan.compositions)
    assert any("2 controls of the audit are trained without noise" in note for note in plan.notes)
    assert not any(trial.control for trial in plan_of(tmp_path, text.replace("guesses: 80", "control: false")).trials)
    real = plan_of(tmp_path, FILE.replace("dp_energy", "real").replace("preset: digits\n", "").replace("train:", "#"))
    assert not any(trial.control for trial in real.trials), "there is no noise to switch off"


# A sweep -------------------------------------------------------------------------------------------------------------


def test_rows_say_what_was_planted_and_what_was_guessed(finished: Path) -> None:
    found = rows(finished)
    audit = json.loads(found[False]["audit"])
    assert (audit["kind"], audit["canaries"], audit["guesses"], audit["confidence"]) == ("mislabelled", 200, 80, 0.95)
    assert (audit["origin"], audit["samples"], audit["neighbours"]) == (UNUSED, 100, "replace_one")
    for name in ("black_box", "grey_box"):
        assert 0 <= audit[name]["right"] <= 80
        assert audit[name]["bound"] == found[False][f"audit_epsilon_{name}"] <= audit["highest_bound"]
        assert 0 < audit[name]["p_at_epsilon"] <= 1
    assert found[False]["epsilon"] <= 1
    assert found[False]["gen2real_cnn"] > 0


def test_a_control_leaves_its_audit_and_nothing_else(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    control, trial = rows(finished)[True], rows(finished)[False]
    assert (control["status"], control["epsilon"], control["proof"]) == ("completed", np.inf, "not_private")
    assert control["label"] == f"seed=0 {CONTROL}"
    assert control["audit_epsilon_grey_box"] > 1.0, "every record is in every step: without noise the coins are there to read"
    assert np.isnan(control["gen2real_cnn"])
    assert not isinstance(control["real"], str)
    folder = finished / "results" / "audited"
    assert {path.stem for path in (folder / "generators").iterdir()} == {trial["trial_id"]}
    assert {path.name.partition(".")[0] for path in (folder / "samples").iterdir()} == {trial["trial_id"]}
    assert set(read(folder).history["trial_id"]) == {trial["trial_id"]}
    assert not list((folder / "checkpoints").glob("*[0-9a-f].pt"))
    assert [path.name for path in (folder / "checkpoints").iterdir()] == [f"{trial['trial_id']}.canaries.pt"]
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in (folder / "checkpoints").iterdir())
    capsys.readouterr()
    command(finished, "--status", "--json")
    (spent,) = json.loads(capsys.readouterr().out)["lineages"]["digits"]
    assert spent["trials"] == 1
    assert spent["epsilon"] == pytest.approx(trial["epsilon"], rel=1e-3)


def test_the_same_command_does_nothing_and_says_what_the_audit_showed(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert command(finished) == 0
    said = capsys.readouterr().out
    assert "Nothing to do." in said
    assert "80 guesses at 200 canaries" in said
    assert "dp_energy, black box: This audit had no power" in said
    assert "dp_energy, grey box: No contradiction" in said
    assert "This does not prove the epsilon." in said


@pytest.mark.parametrize(
    ("old", "new"),
    [("guesses: 80", "guesses: 40"), ("guesses: 80", "guesses: 80, confidence: 0.9"), ("samples: 100", "samples: 200")],
)
def test_what_a_bound_rests_on_cannot_be_chosen_after_a_look_at_the_same_coins(
    done: Path, capsys: pytest.CaptureFixture[str], old: str, new: str
) -> None:
    before = {trial.trial_id for trial in plan_of(done).trials}
    assert before == {row["trial_id"] for row in rows(done).values()}
    other = FILE.replace(old, new)
    capsys.readouterr()
    command(done, "--dry-run", "--json", text=other)
    actions = {trial["trial_id"]: trial["action"] for trial in json.loads(capsys.readouterr().out)["trials"]}
    assert list(actions.values()) == ["train", "train"]
    assert not before & set(actions)
    coins = [json.loads(path.read_text())["present"] for path in (done / "results" / "audits").iterdir()]
    assert len(coins) == 2
    assert coins[0] != coins[1]
    assert {trial.trial_id for trial in plan_of(done).trials} == before, "the settings of before find the coins of before"


def test_lost_coins_are_asked_for(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (path,) = (done / "results" / "audits").iterdir()
    text = path.read_text()
    path.unlink()
    assert command(done) == sweep.BAD_INPUT
    assert "is gone: it says which canaries the trials of sweep audited were trained with. Bring" in capsys.readouterr().err
    path.write_text(text.replace("[\n  0", "[\n  1", 1) if "[\n  0" in text else text.replace("[\n  1", "[\n  0", 1))
    assert command(done) == sweep.BAD_INPUT
    assert "holds other coins than before: it says which canaries" in capsys.readouterr().err
    path.write_text("{}")
    assert command(done) == sweep.BAD_INPUT
    assert "holds no coins of an audit" in capsys.readouterr().err
    path.write_text(text)
    assert command(done) == 0


def test_a_control_is_no_candidate_and_the_report_shows_the_bounds(finished: Path, tmp_path: Path) -> None:
    results = load(finished / "results" / "audited")
    assert list(results.trials["control"]) == [False]
    assert any("1 trial is the control" in note for note in results.notes)
    assert [(row.score, row.control is not None) for row in results.audits] == [("black box", True), ("grey box", True)]
    page = write_report(results, tmp_path).page.read_text()
    assert "Did the releases give records away?" in page
    assert "This audit had no power" in page
    document = json.loads((finished / "results" / "audited" / "sweep.json").read_text())
    private = {**document, "sweep": {**document["sweep"], "data": {**document["sweep"]["data"], "public": False}}}
    copy = shutil.copytree(finished / "results", tmp_path / "private") / "audited"
    (copy / "sweep.json").write_text(json.dumps(private))
    hidden = write_report(load(copy), tmp_path / "hidden").page.read_text()
    assert "Did the releases give records away?" not in hidden
    assert "Lower bounds on epsilon" not in hidden


def test_a_bound_above_the_account_is_shouted(finished: Path) -> None:
    trial, control = (rows(finished)[kind] for kind in (False, True))
    audit = json.loads(trial["audit"])
    audit["grey_box"] |= {"right": 80, "bound": audit["highest_bound"], "p_at_epsilon": 1e-6}
    grey = audit_rows([trial | {"audit": json.dumps(audit)}, control])[1]
    assert grey.wrong
    assert grey.verdict.startswith("THE ACCOUNT IS WRONG")
    assert "at most 1e-06, 2e-06 for the best of 2 (Bonferroni)" in grey.verdict
    audit["grey_box"]["p_at_epsilon"] = 0.03
    chance = audit_rows([trial | {"audit": json.dumps(audit)}, control])[1]
    assert not chance.wrong, "of two scores one is below .05 more often than in 5 % of all audits"
    assert "at most 0.03, 0.06 for the best of 2 (Bonferroni). Not refuted at 0.95 confidence." in chance.verdict
    alone = audit_rows([trial])[1]
    assert "Without a control nobody knows" in alone.verdict
    none = audit_rows([trial | {"audit": json.dumps(audit | {"grey_box": {"definition": "none"}})}, control])[1]
    assert none.verdict == "the method has none."


def test_a_true_epsilon_is_called_wrong_in_at_most_five_percent_of_cells() -> None:
    """Randomized response of epsilon 1, 3 seeds x 2 scores: without a correction about one cell in five would be accused."""
    settings: dict[str, Any] = {"canaries": 100, "guesses": 100, "delta": 0.0}
    bounds = [lower_bound(right=right, **settings) for right in range(101)]
    chances = [p_value(1.0, right=right, **settings) for right in range(101)]
    trial = dict.fromkeys(("method", "method_version", "config", "data_fingerprint", "delta", "neighbours"), "")
    trial |= {"control": False, "cell_id": "cell", "label": "seed=0", "case": "", "epsilon": 1.0}

    def cell(guessed: np.ndarray) -> list[AuditRow]:
        found = []
        for pair in guessed.tolist():
            scores = {
                name: {"right": right, "bound": bounds[right], "p_at_epsilon": chances[right]}
                for name, right in zip(("black_box", "grey_box"), pair, strict=True)
            }
            audit = {**settings, "confidence": 0.95, "highest_bound": bounds[100], **scores}
            found.append(trial | {"audit": json.dumps(audit)})
        return audit_rows(found)

    cells = [cell(guessed) for guessed in np.random.default_rng(0).binomial(100, np.e / (1 + np.e), (1000, 3, 2))]
    accused = np.mean([any(row.wrong for row in rows) for rows in cells])
    uncorrected = np.mean([any(max(row.bounds) > 1 for row in rows) for rows in cells])
    assert uncorrected > 0.13
    assert accused <= 0.05 + 0.034  # false-alarm rate of the test 1e-6: 4.9 standard deviations
    assert all(row.wrong for row in cell(np.full((3, 2), 95)))
    assert {row.looks for rows in cells for row in rows} == {6}


# One trial -----------------------------------------------------------------------------------------------------------


def test_a_resumed_trial_goes_on_with_what_its_releases_have_said(begun: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.trial.STOP_INTERVAL_S", 0.0)
    plan = plan_of(begun)
    trial = plan.trials[0]
    kept = []
    for root, stops in ((begun, False), (shutil.copytree(begun, begun / "copy"), True)):
        folders = Folders(root / "results", "audited")
        job, path = {**job_document(plan, trial, {}), "kind": "train"}, folders.launches / "test" / "plan.json"
        write_plan(path, [(trial.trial_id, job)])
        if stops:

            def stop(progress: Any, stop_file: Path = path.parent / "stop") -> None:
                if progress["step"] >= 5:
                    stop_file.touch()

            assert run_trial(folders, job, stop, plan=path, injected_seed=3)["status"] == "interrupted"
            (path.parent / "stop").unlink()
        assert run_trial(folders, job, lambda progress: None, plan=path, injected_seed=3)["status"] == "completed"
        kept.append(torch.load(folders.canary_scores(trial.trial_id), weights_only=True))
    assert kept[0]["releases"] == kept[1]["releases"] == 8
    assert torch.equal(kept[0]["signal"], kept[1]["signal"])
    assert torch.equal(kept[0]["gram"], kept[1]["gram"])


def test_a_shared_release_is_scored_where_it_is_drawn(begun: Path) -> None:
    text = FILE.replace("dp_energy", "dp_merf").replace(
        "{steps: 8, slots: 20, generator_channels: 4}", "{features: 1000, steps: 3, batch: 20, generator_channels: 4}"
    )
    assert command(begun, text=text) == 0
    found = rows(begun)
    assert json.loads(found[False]["audit"])["grey_box"]["definition"].startswith("posterior mean")
    assert found[True]["audit_epsilon_grey_box"] > 1.0
    plan = plan_of(begun, text)
    assert not plan.stages, "all of them are there"
    assert [part.trials for part in plan.compositions] == [1]
    assert np.isfinite(plan.compositions[0].epsilon)
    assert len(list((begun / "results" / "ledger").glob("digits+controls/releases/*.jsonl"))) == 1


def test_a_leak_past_the_sanitizer_is_shouted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A method of somebody's own that pays for one noisy number and keeps its training set: no account can know."""
    package = tmp_path / "code" / "somebodys" / "leaky"
    package.mkdir(parents=True)
    for name, text in (("__init__", ""), ("method", LEAKY_METHOD), ("training", LEAKY_TRAINING)):
        (package / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path / "code"))
    text = FILE.replace("dp_energy\npreset: digits", "somebodys.leaky").replace(
        "train: {steps: 8, slots: 20, generator_channels: 4}\n", ""
    )
    assert command(tmp_path, text=text.replace("samples: 100", "samples: 1000")) == 0
    said = capsys.readouterr().out
    assert "black box: THE ACCOUNT IS WRONG: " in said
    assert "Release nothing." in said
    assert "grey box: the method has none." in said
    found = rows(tmp_path)
    assert found[False]["epsilon"] <= 1 < found[False]["audit_epsilon_black_box"]
    assert np.isnan(found[False]["audit_epsilon_grey_box"])
    assert json.loads(found[False]["audit"])["black_box"]["p_at_epsilon"] < 0.05
    page = write_report(load(tmp_path / "results" / "audited"), tmp_path / "report").page.read_text()
    assert "THE ACCOUNT IS WRONG" in page


LEAKY_METHOD = """
from pydantic import BaseModel, ConfigDict

from trainables.privacy.mechanism import Phase, RecordMechanism

NAME, VERSION, PRESETS = "leaky", 1, {}


class Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def mechanism(config, data, neighbours):
    one = RecordMechanism(
        sampling_rate=1.0, records=data.size, release_shape=(1,), noise_multiplier=1.0, neighbours=neighbours,
        clipping="whole_tensor",
    )
    return (Phase(mechanism=one, steps=1),)


def stages(config, data):
    return ()
"""

LEAKY_TRAINING = """
import torch


class Trainer:
    def __init__(self, config, data, sanitizer, stages, device, seed):
        self._sanitizer = sanitizer
        self._kept = {"images": torch.from_numpy(data.images), "labels": torch.from_numpy(data.labels)}

    def step(self):
        self._sanitizer.sample_records()
        self._sanitizer.release_tensor(self._kept["images"].float().mean().reshape(1), max_grad_norm=1.0)
        return {}

    def sample(self, labels, rng):
        return load_sampler(None, None, self._kept, None)(labels, rng)

    def released(self):
        return self._kept

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


def load_sampler(config, info, released, device):
    def sample(labels, rng):
        rows = [(released["labels"] == label).nonzero().flatten() for label in labels]
        chosen = [own[int(torch.randint(len(own), (1,), generator=rng))] for own in rows]
        return released["images"][torch.stack(chosen)].float() / 255

    return sample
"""
