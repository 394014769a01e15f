"""Two defects of DPAC's published code are impossible here: planted in the real engine, they end the trial unsold.

Its generator's batch stays at the 1000 images that the classifier was shown, and of two sanitised queries a step one was
counted. Beside them a release too many before the classifier's start, and one too few after it.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from engine_runs import TINY, compute_stages, random_data, settings, start
from published_defects import BatchLeftAtFakes, ClassifierAfterItsStart, ClassifierBeforeItsStart, QueryASignal

from harness import store, sweep
from harness.attempts import read_trial_attempts
from harness.folders import Folders
from harness.ledger import trial_account
from trainables import registry
from trainables.privacy.sanitizer import PrivacyViolation
from trainables.sharded_gan.training import Trainer

START = 2
CLASSIFIER = {"weight": 0.2, "start": START, "channels": 4, "fake_steps": 1, "fake_batch": 8, "real_steps": 1, "batch": 6}
DPAC = {"critic": {**TINY["critic"], "weight": 0.8}, "classifier": CLASSIFIER, "steps": 4}
SUMMED, PER_SIGNAL = {"release": "summed"}, {"release": "per_signal"}

DEFECTS: dict[type[Trainer], tuple[dict[str, str], int, str]] = {
    BatchLeftAtFakes: (PER_SIGNAL, START + 1, "release shape"),
    QueryASignal: (SUMMED, START, "release 2 in step 2; sampled_shards declares 1 a step"),
    ClassifierBeforeItsStart: (PER_SIGNAL, 0, "release 2 in step 0; sampled_shards declares 1 a step"),
    ClassifierAfterItsStart: (PER_SIGNAL, START, "step 2 made 1 releases; sampled_shards declares 2 a step"),
}
"""Planted defect -> (what the sweep file says about releases, the step that cannot be done, what is said about it)."""


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return compute_stages("dpac", settings(DPAC), random_data(), tmp_path_factory.mktemp("stages"))


@pytest.mark.parametrize("release", [SUMMED, PER_SIGNAL], ids=str)
def test_the_engine_itself_does_all_steps(stages: dict[str, Path], release: dict[str, str]) -> None:
    run = start(settings(DPAC, release), random_data(), stages, method="dpac")
    run.advance(0, 4)
    assert sum(run.sanitizer.releases) == (4 if release == SUMMED else 6)


@pytest.mark.parametrize("defect", DEFECTS, ids=lambda defect: defect.__name__)
def test_a_planted_defect_raises_at_its_first_step(stages: dict[str, Path], defect: type[Trainer]) -> None:
    release, step, message = DEFECTS[defect]
    run = start(settings(DPAC, release), random_data(), stages, method="dpac", trainer=defect)
    run.advance(0, step)
    before = run.trainer.released()
    with pytest.raises(PrivacyViolation, match=message):
        run.advance(step, step + 1)
    if defect is not ClassifierAfterItsStart:  # what is missing is known at the end of a step only
        after = run.trainer.released()
        assert all(torch.equal(before[name], after[name]) for name in before), "nothing of that step reached the generator"


def test_two_releases_a_step_need_twice_the_variance() -> None:
    method = registry.method("dpac")
    info = random_data().info
    one, two = method.mechanism(method.Config(**settings(DPAC)), info, "replace_one")
    (summed,) = method.mechanism(method.Config(**settings(DPAC, SUMMED)), info, "replace_one")
    assert [one.steps, two.steps] == [START, 4 - START]
    assert one.mechanism == summed.mechanism
    effective = [phase.mechanism.effective_noise_multiplier for phase in (one, two)]
    assert effective[0] == pytest.approx(effective[1] * 2**0.5, rel=1e-12)


# --- in a sweep -------------------------------------------------------------------------------------------------------

TRAINING = """
from published_defects import {defect} as Trainer
from trainables.dpac.training import load_sampler
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all sweeps are; they share their stages."""
    return tmp_path_factory.mktemp("planted")


def command(root: Path, defect: type[Trainer]) -> list[str]:
    """The sweep of a method of the user's own that has the defect, on digits in this process."""
    name = defect.__name__
    package = root / f"planted_{name}" / "dpac"
    package.mkdir(parents=True)
    for place in (package, package.parent):
        (place / "__init__.py").touch()
    (package / "method.py").write_text("from trainables.dpac.method import *\n")
    (package / "training.py").write_text(TRAINING.format(defect=name))
    document = {
        "name": name,
        "method": f"{package.parent.name}.dpac",
        "data": {"source": "digits", "size": 120},
        "privacy": {"noise_multiplier": 5.0},
        "train": {**settings(DPAC, DEFECTS[defect][0]), "generator_batch": 10},
        "evaluate": {"samples": 100},
    }
    (root / f"{name}.yaml").write_text(json.dumps(document))
    return [str(root / f"{name}.yaml"), "--on", "inline", "--results", str(root / "results")]


@pytest.mark.parametrize("defect", DEFECTS, ids=lambda defect: defect.__name__)
def test_a_trial_with_a_planted_defect_ends_with_nothing_to_sell(
    root: Path, monkeypatch: pytest.MonkeyPatch, defect: type[Trainer]
) -> None:
    monkeypatch.syspath_prepend(str(root))
    arguments = command(root, defect)
    assert sweep.main(arguments) == sweep.FAILED
    folders = Folders(root / "results", defect.__name__)
    _, step, message = DEFECTS[defect]
    (row,) = store.read(folders.sweep).trials.to_dict("records")
    assert row["status"] == "failed"
    assert "PrivacyViolation" in row["message"]
    assert message in row["message"]

    # What was spent until then is counted, and no generator is there that an epsilon would belong to.
    account = trial_account(folders, row["trial_id"])
    assert account is not None
    assert sum(account.executed) == step + 1
    assert row["epsilon"] > 0
    assert row["epsilon_surviving"] is None or math.isnan(row["epsilon_surviving"])
    assert row["steps"] is None or math.isnan(row["steps"])
    assert not folders.generator(row["trial_id"]).exists()
    assert not list(folders.table("samples").glob("*.parquet"))

    (record,) = read_trial_attempts(folders, row["trial_id"])
    assert record.end is not None
    assert record.end["resumable"] is False
    sweep.main([*arguments, "--retry-failed"])
    assert len(read_trial_attempts(folders, row["trial_id"])) == 1, "not even --retry-failed runs it again"
