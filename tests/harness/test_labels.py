"""Labels say what makes a cell what it is: nothing that nobody reads, the same for points that are one trial."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pytest
from small_sweep import command

from harness import store, sweep
from harness.attempts import Attempt
from harness.documents import job_document
from harness.expand import TrialSpec, expand
from harness.folders import Folders
from harness.plan import make_plan
from harness.rows import trial_row
from harness.spec import load_sweep

SWEEPS = Path(__file__).parents[2] / "sweeps"
FILE = """
name: small
data: {source: digits, public: true}
privacy: {epsilon: 10, accountant: pld}
train:
  steps: 6
  shards: 50
  shards_per_step: 5
  generator_batch: 20
  labels: balanced
  generator: small
  generator_channels: 4
  critic: {kind: energy}
evaluate: {samples: 100}
keep_samples: 10
"""
ONE = FILE + "method: gs_wgan\n"
CASES = FILE + "cases: [{name: none, method: gs_wgan}, {name: paper, method: gs_wgan, train: {feedback: paper}}]\n"


def trials(root: Path, text: str) -> list[TrialSpec]:
    (root / "small.yaml").write_text(text)
    return expand(load_sweep(root / "small.yaml"))


def labels(root: Path, text: str) -> list[str]:
    return [trial.label.removesuffix("seed=0").strip() for trial in trials(root, text)]


def test_what_nothing_reads_is_in_no_label_and_no_axis(tmp_path: Path) -> None:
    found = trials(tmp_path, CASES + "axes: {max_grad_norm: [0.25, 1], feedback_clip: [0.25, 1]}\n")
    assert [trial.label for trial in found] == [
        "none max_grad_norm=0.25 seed=0",
        "none max_grad_norm=0.25 seed=0",
        "none max_grad_norm=1 seed=0",
        "none max_grad_norm=1 seed=0",
        "paper max_grad_norm=0.25 feedback_clip=0.25 seed=0",
        "paper max_grad_norm=0.25 feedback_clip=1 seed=0",
        "paper max_grad_norm=1 feedback_clip=0.25 seed=0",
        "paper max_grad_norm=1 feedback_clip=1 seed=0",
    ]
    assert [trial.axes["feedback_clip"] for trial in found] == [None] * 4 + [0.25, 1, 0.25, 1]
    assert [trial.axes["max_grad_norm"] for trial in found] == [0.25, 0.25, 1, 1] * 2


def test_a_default_that_ids_leave_out_is_a_value_of_its_axis(tmp_path: Path) -> None:
    found = trials(tmp_path, ONE + "axes: {generator_precision: [float32, bfloat16], generator_compiled: [false, true]}\n")
    assert [trial.label for trial in found] == [
        f"generator_precision={precision} generator_compiled={compiled} seed=0"
        for precision in ("float32", "bfloat16")
        for compiled in ("false", "true")
    ]
    assert found[0].axes == {"generator_precision": "float32", "generator_compiled": False}
    (plain,) = trials(tmp_path, ONE)
    assert plain.config_key == found[0].config_key


def test_a_setting_that_only_one_of_its_values_makes_matter(tmp_path: Path) -> None:
    """A learnt scale starts from noise_injection, be it 0; the other schedules of no noise are no noise."""
    axes = "axes: {noise_injection: [0, 0.1], noise_injection_schedule: [constant, falling, learnt]}\n"
    assert labels(tmp_path, ONE + axes) == [
        "noise_injection=0",
        "noise_injection=0",
        "noise_injection=0 noise_injection_schedule=learnt",
        *(f"noise_injection=0.1 noise_injection_schedule={schedule}" for schedule in ("constant", "falling", "learnt")),
    ]


def test_of_axes_in_step_the_first_stays_and_the_others_say_what_is_new(tmp_path: Path) -> None:
    group = "{noise_injection: [0, 0.1, 0.1], noise_injection_start: [0, 0, 3], learning_rate: [1e-4, 1e-3, 1e-4]}"
    assert labels(tmp_path, ONE + f"zip: [{group}]\n") == [
        "noise_injection=0",
        "noise_injection=0.1 learning_rate=0.001",
        "noise_injection=0.1 noise_injection_start=3",
    ]
    assert trials(tmp_path, ONE + f"zip: [{group}]\n")[1].axes["noise_injection_start"] == 0, "it is read: the row has it"
    text = ONE.replace("epsilon: 10, ", "") + "zip: [{epsilon: [1, null], noise_multiplier: [null, 0]}]\n"
    assert labels(tmp_path, text) == ["epsilon=1", "epsilon=null noise_multiplier=0"]


def test_what_is_said_without_them_is_the_cases_own(tmp_path: Path) -> None:
    text = CASES.replace("{feedback: paper}", "{shards_per_step: 10}")
    assert labels(tmp_path, text + "zip: [{steps: [6, 7], shards_per_step: [5, 10]}]\n") == [
        "none steps=6",
        "none steps=7 shards_per_step=10",
        "paper steps=6 shards_per_step=5",
        "paper steps=7",
    ]


@pytest.mark.parametrize("path", sorted(SWEEPS.glob("*.yaml")), ids=lambda path: path.stem)
def test_points_have_one_label_where_they_are_one_trial_and_only_there(path: Path) -> None:
    by_settings, by_label = defaultdict(set), defaultdict(set)
    for trial in expand(load_sweep(path)):
        settings = trial.case, trial.config_key, trial.data.model_dump_json(), trial.privacy.model_dump_json(), trial.seed
        by_settings[settings].add((trial.label, str(trial.axes)))
        by_label[trial.label].add(settings)
    assert {len(found) for found in by_settings.values()} == {1}
    assert {len(found) for found in by_label.values()} == {1}


def test_a_search_through_many_numbers_says_all_of_them(tmp_path: Path) -> None:
    values = {name: ", ".join(f"{scale * (number + 1):.4g}" for number in range(60)) for name, scale in
              {"noise_injection": 0.1, "learning_rate": 1e-5, "feedback_clip": 0.1}.items()}  # fmt: skip
    group = ", ".join(f"{name}: [{numbers}]" for name, numbers in values.items())
    found = labels(tmp_path, ONE + f"zip: [{{{group}}}]\n")
    assert found[9] == "noise_injection=1 learning_rate=0.0001 feedback_clip=1", "also those that happen to be the default"
    assert found[10] == "noise_injection=1.1 learning_rate=0.00011", "but not those that were reset"


def test_the_dry_run_prints_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = ["noise_injection: [0, 0.1, 0.1]", "noise_injection_start: [0, 0, 3]"]
    (tmp_path / "small.yaml").write_text(ONE + f"zip: [{{{', '.join(table)}}}]\nseeds: 2\n")
    assert command(tmp_path, "--dry-run") == sweep.OK
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("noise_injection=")]
    assert [row[: row.index("2")] for row in rows] == [
        ["noise_injection=0"],
        ["noise_injection=0.1"],
        ["noise_injection=0.1", "noise_injection_start=3"],
    ]


def test_rows_hold_null_where_an_axis_is_not_read(tmp_path: Path) -> None:
    """Of trials that ended; what they have released does not matter here."""
    folders = Folders(tmp_path, "small")
    plan = make_plan(folders, trials(tmp_path, CASES + "axes: {feedback_clip: [0.25, 0.5]}\n"))
    for trial in plan.trials:
        said = {"stopped": False, "proven": True, "exogenous": True}
        row = trial_row(job_document(plan, trial, {}), status="completed", attempt=1, executed=[6], kept_steps=6, **said)
        launch = folders.launches / "a" / "plan.json"
        attempt = Attempt.open(folders, trial.trial_id, kind="evaluate", lineage="digits", phases=(), plan=launch)
        part = store.write_part(folders, "trials", f"{trial.trial_id}.1", [row])
        attempt.close("completed", parts=[part], evaluation_id=None)
    rows = store.read(folders.sweep).trials.set_index("label")
    assert rows["axis.feedback_clip"].isna().to_dict() == {
        "none seed=0": True,
        "paper feedback_clip=0.25 seed=0": False,
        "paper feedback_clip=0.5 seed=0": False,
    }
    assert rows.groupby(["case", "axis.feedback_clip"], dropna=False).size().tolist() == [1, 1, 1]
