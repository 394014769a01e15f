"""The published Inception weights: found, or refused in one sentence that says what to type."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from trainables.evaluation import weights
from trainables.evaluation.metrics import reference_stage
from trainables.evaluation.weights import InceptionWeights, WeightsError, find


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / weights.FILE
    path.write_bytes(b"other weights")
    return path


def begins(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:8]


def test_the_file_wins_over_the_environment_and_either_will_do(file: Path, tmp_path: Path) -> None:
    environment = {weights.VARIABLE: str(tmp_path / "elsewhere.pth")}
    found = find(str(file), environment, sha256_begins=begins(file))
    assert found == InceptionWeights(path=str(file), sha256=hashlib.sha256(b"other weights").hexdigest())
    assert find(None, {weights.VARIABLE: str(file)}, sha256_begins=begins(file)) == found


def test_a_path_becomes_absolute(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)
    assert find(file.name, {}, sha256_begins=begins(file)).path == str(file)


def test_what_is_missing_or_wrong_is_one_sentence_with_the_address(file: Path) -> None:
    nowhere = str(file.with_name("nowhere.pth"))
    for given, environment, said in (
        (None, {}, "metrics has `inception`, which needs the weights"),
        (nowhere, {}, f"inception_weights is {nowhere}, which cannot be read (No such file or directory)"),
        (None, {weights.VARIABLE: nowhere}, f"{weights.VARIABLE} is {nowhere}, which cannot be read"),
        ("~nobody_here/w.pth", {}, "inception_weights is ~nobody_here/w.pth, which cannot be read (No such file or directory)"),
        (str(file.parent), {}, "cannot be read (Is a directory)"),
        (str(file), {}, f"SHA-256 begins with {begins(file)} and not with 6726825d: numbers from other weights are no FID"),
    ):
        with pytest.raises(WeightsError) as caught:
            find(given, environment)
        text = str(caught.value)
        assert said in text
        assert text.count(weights.URL) == 1
        assert "or leave `inception` out of evaluate.metrics: `standard` measures" in text
        assert "\n" not in text


def test_the_published_file_is_named_by_its_hash_and_by_torch_fidelity() -> None:
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

    assert weights.URL == URL_INCEPTION_V3
    assert weights.FILE.endswith(f"-{weights.SHA256_BEGINS}.pth")


def test_a_reference_is_known_by_the_content_of_the_weights_and_not_by_their_place() -> None:
    here, there = (InceptionWeights(path=path, sha256="ab") for path in ("/here", "/there"))
    stage = reference_stage(100, ["inception"], here)
    assert stage.config == reference_stage(100, ["inception"], there).config
    assert stage.paths == {"inception_path": "/here"}
    other = InceptionWeights(path="/here", sha256="cd")
    assert stage.config != reference_stage(100, ["inception"], other).config
    assert reference_stage(100, ["inception", "standard"], here).config["metrics"] == ["standard", "inception"]
