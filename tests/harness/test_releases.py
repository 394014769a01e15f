"""A release that trials share: drawn once, paid for once, whatever becomes of its process, its stage or its account."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from harness import releases, store, sweep
from harness.attempts import Attempt, read_trial_attempts
from harness.folders import Folders
from harness.ledger import lineage_accounts
from harness.releases import drawn
from trainables.privacy import accounting
from trainables.privacy.mechanism import from_dict

FILE = """
name: shared
method: dp_merf
preset: digits
data: {source: digits, public: true}
privacy: {epsilon: 10, accountant: pld}
train: {features: 50, steps: 4, batch: 20, generator_channels: 4}
evaluate: {samples: 100, metrics: [memorization]}
keep_samples: 0
"""
TEN = f"{FILE}axes: {{learning_rate: [0.01, 0.02, 0.03, 0.04, 0.05], z_dim: [2, 3]}}\n"


def command(root: Path, *arguments: str, text: str = FILE) -> int:
    (root / "shared.yaml").write_text(text)
    return sweep.main([str(root / "shared.yaml"), "--on", "inline", "--results", str(root / "results"), *arguments])


def planned(root: Path, capsys: pytest.CaptureFixture[str], *arguments: str, text: str = FILE) -> dict[str, Any]:
    capsys.readouterr()
    command(root, "--dry-run", "--json", *arguments, text=text)
    return json.loads(capsys.readouterr().out)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of a sweep of ten generators on one release."""
    root = tmp_path_factory.mktemp("shared")
    assert command(root, text=TEN) == 0
    return root


@pytest.fixture
def done(finished: Path, tmp_path: Path) -> Path:
    """A copy of it, to be spoilt."""
    return shutil.copytree(finished, tmp_path / "copy")


def release_of(root: Path) -> str:
    (path,) = (root / "results" / "stages").glob("embedding-*")
    return path.name


def test_ten_generators_cost_one_release(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The plan, the rows, the sweep's price and the data set's account all say so."""
    folders = Folders(finished / "results", "shared")
    rows = store.read(folders.sweep).trials
    assert len(rows) == 10
    assert set(rows.status) == {"completed"}
    assert set(rows.releases) == {1}
    assert set(rows.proof) == {"gaussian"}
    (epsilon,) = set(rows.epsilon)
    phases = [from_dict(document) for document in json.loads(rows.mechanism[0])]
    assert epsilon == accounting.epsilon(phases[:1], delta=1e-5, accountant="pld")
    assert 9.99 < epsilon <= 10
    assert drawn(folders, release_of(finished)) == 1
    document = planned(finished, capsys, text=TEN)
    assert [part["epsilon"] for part in document["totals"]["compose"]] == [pytest.approx(epsilon)]
    accounts = lineage_accounts(finished / "results", "digits")
    spent = [(account.phases, account.charged) for account in accounts]
    assert sum(steps[0] for _, steps in spent) == 1, "the data set has answered once"
    assert sum(sum(steps[1:]) for _, steps in spent) == 10 * 4, "and nothing that was free is missing"


def test_before_anything_has_run_the_plan_counts_it_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = planned(tmp_path, capsys, text=TEN)
    (part,) = document["totals"]["compose"]
    assert 9.99 < part["epsilon"] <= 10
    assert len({trial["privacy"]["release"] for trial in document["trials"]}) == 1
    two = planned(tmp_path, capsys, text=TEN.replace("z_dim: [2, 3]", "release: [0, 1]"))
    (part,) = two["totals"]["compose"]
    assert part["epsilon"] > 14, "another draw has a price of its own"


def test_the_same_release_serves_another_sweep(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = FILE.replace("name: shared", "name: other").replace("steps: 4", "steps: 3")
    before = release_of(done)
    assert command(done, text=other) == 0
    assert release_of(done) == before, "nothing was drawn anew"
    assert drawn(Folders(done / "results", "other"), before) == 1
    (part,) = planned(done, capsys, text=other)["totals"]["compose"]
    assert 9.99 < part["epsilon"] <= 10, "the other sweep's price has it as well"
    accounts = lineage_accounts(done / "results", "digits")
    assert sum(account.charged[0] for account in accounts) == 1, "the data set has answered once"


@pytest.mark.parametrize("change", ["features: 60", "kernel_width: 3.0", "release: 1"])
def test_what_the_release_depends_on_makes_another_one(tmp_path: Path, capsys: pytest.CaptureFixture[str], change: str) -> None:
    key = change.partition(":")[0]
    text = FILE.replace("features: 50", change) if key == "features" else FILE.replace("train: {", f"train: {{{change}, ")
    first, second = (planned(tmp_path, capsys, text=each)["trials"][0]["privacy"]["release"] for each in (FILE, text))
    assert first != second
    more = planned(tmp_path, capsys, text=FILE.replace("epsilon: 10", "epsilon: 9"))["trials"][0]["privacy"]["release"]
    assert more != first, "so does the noise"


def test_a_lost_release_is_not_drawn_again(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    release = release_of(done)
    shutil.rmtree(done / "results" / "stages" / release)
    more = FILE.replace("steps: 4", "steps: 5")
    assert command(done, text=more) == 1
    said = capsys.readouterr()
    assert "was drawn once and is lost" in said.out + said.err
    assert "another train.release" in (said.out + said.err).replace("\n", " ")
    assert drawn(Folders(done / "results", "shared"), release) == 1
    assert not (done / "results" / "stages" / release).exists()


def test_a_reserve_pays_for_another_draw(tmp_path: Path) -> None:
    text = FILE.replace("accountant: pld", "accountant: pld, reserve: 1")
    assert command(tmp_path, text=text) == 0
    folders = Folders(tmp_path / "results", "shared")
    once = store.read(folders.sweep).trials
    release = release_of(tmp_path)
    shutil.rmtree(folders.stages / release)
    assert command(tmp_path, text=text.replace("steps: 4", "steps: 5")) == 0
    assert drawn(folders, release) == 2
    rows = store.read(folders.sweep).trials
    again = rows[~rows.trial_id.isin(once.trial_id)]
    assert set(again.releases) == {2}, "what was lost may have been seen"
    assert once.epsilon.max() < again.epsilon.min() <= 10


def test_a_process_that_dies_over_its_release_has_drawn_it(tmp_path: Path) -> None:
    """Reserved and not settled: it counts, and no budget is left."""
    assert command(tmp_path) == 0
    folders = Folders(tmp_path / "results", "shared")
    own, release = releases.folders_of(folders), release_of(tmp_path)
    (record,) = read_trial_attempts(own, release)
    account = folders.root / record.start["account"]
    lines = account.read_text().splitlines(keepends=True)
    account.write_text("".join(line for line in lines if "executed" not in line))
    assert drawn(folders, release) == 1
    account.write_text(lines[0])
    with pytest.raises(RuntimeError, match="says that it took"):
        drawn(folders, release)
    account.unlink()
    with pytest.raises(RuntimeError, match="is missing"):
        drawn(folders, release)


def test_two_processes_do_not_draw_it_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trial = planned(tmp_path, capsys)["trials"][0]
    own = releases.folders_of(Folders(tmp_path / "results", "shared"))
    phases = [from_dict(document) for document in trial["privacy"]["mechanism"]][:1]
    identifier = trial["privacy"]["release"]
    Attempt.open(own, identifier, kind="release", lineage="digits", phases=phases, plan=own.sweep / "plan")
    start = own.attempts / identifier / "1.start.json"
    record = json.loads(start.read_text())
    start.write_text(json.dumps(record | {"pid": 1}))  # another process of this machine, alive
    assert command(tmp_path) == 1
    said = capsys.readouterr()
    assert "is drawing the release" in (said.out + said.err).replace("\n", " ")
    start.write_text(json.dumps(record | {"pid": 2**22 + 1}))  # one that is gone: it had reserved nothing
    assert command(tmp_path) == 0


def test_a_stopped_trial_is_not_charged_the_release_again() -> None:
    from harness.ledger import TrialAccount
    from trainables.privacy.mechanism import NoRelease, Phase, RecordMechanism

    phases = (
        Phase(mechanism=RecordMechanism(sampling_rate=1.0, records=9, release_shape=(2,), noise_multiplier=1.0), steps=1),
        Phase(mechanism=NoRelease(), steps=8),
    )
    account = TrialAccount(
        trial_id="a", phases=phases, executed=(0, 3), attempts={1: (0, 3)}, stopped=True, release="embedding-1"
    )
    assert account.charged == (0, 8)


def test_a_damaged_release_is_asked_back_and_not_drawn_again(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    release = release_of(done)
    folder = done / "results" / "stages" / release
    (first, *_) = sorted(folder.glob("*.safetensors"))
    content = first.read_bytes()
    first.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert command(done, text=FILE.replace("steps: 4", "steps: 5")) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "it was released once, and another draw has no budget: bring it back from a copy" in said
    assert "computed again" not in said
    assert drawn(Folders(done / "results", "shared"), release) == 1


def test_another_name_of_the_data_has_paid_for_the_release_too(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = FILE.replace("name: shared", "name: other").replace("public: true", "public: true, lineage: numbers")
    assert command(done, text=other) == 0
    capsys.readouterr()
    command(done, "--status", "--json", text=other)
    (spent,) = json.loads(capsys.readouterr().out)["lineages"]["numbers"]
    assert 9.99 < spent["epsilon"] <= 10


def test_every_budget_that_rests_on_a_release_must_have_its_next_draw(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A trial whose noise is given has no budget; one beside it that shares the release has."""
    text = FILE.replace("{epsilon: 10, accountant: pld}", "{noise_multiplier: 1.0, accountant: pld}")
    text += "axes: {privacy.epsilon: [null, 10]}\n"
    assert command(tmp_path, text=text) == 0
    release = release_of(tmp_path)
    shutil.rmtree(tmp_path / "results" / "stages" / release)
    capsys.readouterr()
    assert command(tmp_path, text=text.replace("steps: 4", "steps: 5")) == 1
    said = capsys.readouterr()
    assert "was drawn once and is lost" in said.out + said.err
    assert drawn(Folders(tmp_path / "results", "shared"), release) == 1


def test_of_two_processes_that_reserve_at_once_neither_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = Folders(tmp_path / "results", "shared")
    own = releases.folders_of(folders)
    reserve = Attempt.reserve

    def both_reserve(self: Attempt, start: int, stop: int) -> None:
        """The other one, which had looked before this one opened its attempt, writes its reservation at the same time."""
        if self.folders == own:
            account = self._account
            assert account is not None
            other = account.with_name(account.name.replace(".1.jsonl", ".7.jsonl"))
            other.write_text(account.read_text() + '{"reserved": [1], "steps": [0, 1]}\n')
        reserve(self, start, stop)

    with monkeypatch.context() as patched:
        patched.setattr(Attempt, "reserve", both_reserve)
        assert command(tmp_path) == 1
    assert not list(folders.stages.glob("embedding-*"))
    (record,) = next(iter(read_trial_attempts(own, path.name) for path in own.attempts.iterdir()))
    assert record.end is not None
    assert record.end["executed"] == [0]
