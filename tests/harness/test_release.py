"""What may leave the building, whole, and nothing else."""

from __future__ import annotations

import hashlib
import json
import math
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from harness import release, statement, store, sweep
from harness.attempts import read_trial_attempts
from harness.evaluate import load_kept_sampler
from harness.folders import Folders, file_hash
from harness.lock import DriverLock
from harness.model_card import model_card
from harness.planfile import read_job
from harness.releasable import Refused, releasable
from harness.release import IMAGES, Release
from harness.totals import Total
from trainables.evaluation.metrics import METRICS

TRAIN = "{steps: 2, slots: 20, generator_channels: 4, features: pixels}"
SHARDS = """
      generator: small
      generator_channels: 4
      steps: 2
      shards: 14
      shards_per_step: 2
      generator_batch: 10
      critic: {channels: 4, steps: 1, pretraining: {steps: 1, critic_steps: 1, shards_per_job: 14}}"""
COMMON = "data: {source: digits, size: 140}\nevaluate: {samples: 10}\nkeep_samples: 0\n"
GIVEN = "privacy: {epsilon: 10, delta: 1.0e-3, accountant: pld}\n"
SWEEPS = {
    "several": f"""
cases:
  - {{name: energy, method: dp_energy, train: {TRAIN}}}
  - {{name: merf, method: dp_merf, train: {{steps: 2, features: 20, batch: 20, generator_channels: 4}}}}
  - name: shards
    method: gs_wgan
    train: {SHARDS}
  - {{name: real, method: real, train: {{samples_a_class: 1}}}}
{GIVEN}{COMMON}""",
    "alone": f"method: dp_energy\ntrain: {TRAIN}\nseeds: [5]\nprivacy: {{epsilon: 3, delta: 0.01, accountant: pld}}\n"
    + COMMON.replace("size: 140", "size: 140, public: true"),
    "pick": f"method: dp_energy\ntrain: {TRAIN}\n{GIVEN}{COMMON}axes: {{noise_injection: [0.0, 0.1]}}\n"
    "search: {strategy: random_best, mean_trials: 1.1, score: gen2real_logreg}\n",
    "audited": f"method: dp_energy\ntrain: {TRAIN}\n{GIVEN}{COMMON}".replace("size: 140", "size: 140, public: true")
    + "audit: {canaries: 20, guesses: 10}\n",
    "loud": f"method: dp_energy\ntrain: {TRAIN}\nprivacy: {{noise_multiplier: 0, delta: 1.0e-3, accountant: pld}}\n{COMMON}",
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder with sweeps that have run."""
    folder = tmp_path_factory.mktemp("release")
    for name, text in SWEEPS.items():
        (folder / f"{name}.yaml").write_text(f"name: {name}\n{text}")
        assert sweep.main([str(folder / f"{name}.yaml"), "--on", "inline", "--results", str(folder / "results")]) == sweep.OK
    return folder / "results"


@pytest.fixture
def results(finished: Path, tmp_path: Path) -> Path:
    """A copy to spoil; nothing compacted, so that its files are what is read."""
    shutil.copytree(finished, tmp_path / "results")
    for folder in (tmp_path / "results").glob("*/compacted"):
        shutil.rmtree(folder)
    return tmp_path / "results"


def rows(folder: Path) -> dict[str, dict[str, Any]]:
    return {row["case"]: row for row in store.read(folder, samples=False).trials.to_dict("records")}


def trial(root: Path, name: str = "several", case: str = "energy") -> str:
    (found,) = [row["trial_id"] for key, row in rows(root / name).items() if key == case]
    return str(found)


def rewrite(folder: Path, column: str, change: Callable[[Any], Any]) -> None:
    """Change a column of the trials table."""
    for path in (folder / "trials").glob("*.parquet"):
        table = pq.read_table(path)
        place = table.schema.get_field_index(column)
        values = [None if value is None else change(value) for value in table.column(column).to_pylist()]
        pq.write_table(table.set_column(place, table.schema.field(place), [values]), path)


def refusal(results: Path, trial_id: str, out: Path, **asked: Any) -> str:
    """The sentence; nothing may be left behind."""
    before = sorted(out.parent.rglob("*")) if out.parent.exists() else []
    with pytest.raises(Refused) as caught:
        release.release(results, trial_id, out, **asked)
    assert sorted(out.parent.rglob("*")) == before if before else not out.exists()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def released(root: Path, out: Path, name: str = "several", case: str = "energy", **asked: Any) -> Release:
    return release.release(root / name, trial(root, name, case), out, **asked)


ALONE = """
import sys, torch

class Nothing:
    def find_spec(self, name, *_):
        if name.partition(".")[0] in ("harness", "trainables", "pydantic", "ray", "pyarrow"):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Nothing())
try:
    import trainables
except ModuleNotFoundError:
    pass
else:
    raise SystemExit("the methods can be imported")
for folder in sys.argv[1:]:
    sys.path.insert(0, folder)
    from sample import load
    generate = load()
    torch.save(generate(range(10), seed=4), f"{folder}.pt")
    del sys.path[0], sys.modules["sample"]
"""


def test_a_generator_leaves_as_it_was_kept_and_draws_what_the_harness_draws(finished: Path, tmp_path: Path) -> None:
    folders, expected = Folders(finished, "several"), {}
    for case in ("energy", "merf", "shards"):
        written = released(finished, tmp_path / case, case=case)
        assert [path.name for path in written.files] == ["README.md", "generator.safetensors", "privacy.json", "sample.py"]
        trial_id = trial(finished, case=case)
        kept, left = load_file(folders.generator(trial_id)), load_file(tmp_path / case / "generator.safetensors")
        assert left.keys() == kept.keys()
        assert all(torch.equal(tensor, kept[name]) for name, tensor in left.items())
        with safe_open(tmp_path / case / "generator.safetensors", framework="pt") as file:
            assert file.metadata() is None
        record = read_trial_attempts(folders, trial_id)[-1]
        sampler = load_kept_sampler(folders, read_job(folders.sweep / record.start["plan"], trial_id), torch.device("cpu"))
        expected[case] = sampler(torch.arange(10), torch.Generator().manual_seed(4))
    command = [sys.executable, "-I", "-B", "-c", ALONE, *(str(tmp_path / case) for case in expected)]
    subprocess.run(command, check=True, cwd=tmp_path, timeout=120)
    for case, images in expected.items():
        assert torch.equal(torch.load(tmp_path / f"{case}.pt"), images)


def test_what_was_seen_of_the_sweep_is_the_headline(finished: Path, tmp_path: Path) -> None:
    said = released(finished, tmp_path / "out").statement
    assert json.loads((tmp_path / "out" / "privacy.json").read_text()) == said
    (total,) = json.loads((finished / "several" / "sweep.json").read_text())["totals"]["compose"]
    row = rows(finished / "several")["energy"]
    assert said["headline"]["epsilon"] == total["epsilon"] > said["generator"]["epsilon"] == row["epsilon"]
    assert said["sweep"]["totals"][0]["generators"] == total["trials"] == 3, "real images are no generator"
    card = (tmp_path / "out" / "README.md").read_text()
    sentence = (
        f"Epsilon {statement.text(total['epsilon'])} at delta 0.001 for one image (replace one), against whoever has seen"
    )
    assert card.index(sentence) < card.index("epsilon of this generator alone")
    assert f"{statement.text(row['epsilon'])}, if it was named before" in card


def test_what_all_sweeps_have_spent_on_the_data_is_said(finished: Path, tmp_path: Path) -> None:
    (spent,) = released(finished, tmp_path / "out").statement["data_set"]["spent_in_all_sweeps"]
    (total,) = released(finished, tmp_path / "other").statement["sweep"]["totals"]
    assert spent["generators"] == total["generators"] + 4
    assert spent["without_proof"] == 1
    assert spent["epsilon"] > total["epsilon"]


def test_a_generator_without_siblings_has_its_own_epsilon(finished: Path, tmp_path: Path) -> None:
    said = released(finished, tmp_path / "out", "alone", "dp_energy").statement
    assert said["headline"]["epsilon"] == said["generator"]["epsilon"] == rows(finished / "alone")["dp_energy"]["epsilon"]
    assert "the only one of its sweep" in statement.headline(said)


def test_the_only_proven_generator_is_called_that(finished: Path) -> None:
    total = Total(neighbours="replace_one", generators=2, unproven=1, epsilon=1.0, delta=1e-5, accountant="rdp")
    assert statement._all_seen(total) == "whoever has this generator, the only one of its sweep with a proof"
    others = [statement._all_seen(replace(total, generators=count, unproven=0)) for count in (1, 2, 3)]
    assert others[0] == "whoever has this generator, the only one of its sweep under replace one"
    assert others[1].startswith("whoever has seen both generators")
    assert others[2].startswith("whoever has seen all 3 generators")


def test_a_headline_by_another_accountant_says_so(finished: Path, tmp_path: Path) -> None:
    said = released(finished, tmp_path / "out").statement
    assert said["headline"]["accountant"] == said["generator"]["accountant"] == "pld"
    said["headline"]["accountant"] = "rdp"
    card = model_card(said, images=0, seed=0)
    assert "| accountant | RDP for the epsilon to quote, PLD for this generator alone, " in card


def test_the_best_of_a_private_selection_has_the_price_of_the_selection(finished: Path, tmp_path: Path) -> None:
    (row,) = rows(finished / "pick").values()
    said = release.release(finished / "pick", row["trial_id"], tmp_path / "out").statement
    assert said["headline"]["epsilon"] == said["generator"]["epsilon"] == row["epsilon"]
    assert said["selection"]["mean_trials"] == 1.1
    assert said["generator"]["steps"] == 2
    (phase,) = said["generator"]["mechanism"]
    assert phase["in_words"].startswith("A secret random number of generators (logarithmic, 1.1 on average)")
    assert "whose choice the epsilon covers" in (tmp_path / "out" / "README.md").read_text()


def audited(root: Path, *, control: bool = False) -> str:
    (found,) = [row["trial_id"] for row in store.read(root / "audited").trials.to_dict("records") if row["control"] == control]
    return str(found)


def test_what_an_audit_found_leaves_with_public_data(finished: Path, tmp_path: Path) -> None:
    said = release.release(finished / "audited", audited(finished), tmp_path / "out").statement
    assert (said["audit"]["canaries"], said["audit"]["guesses"]) == (20, 10)
    (row,) = [row for row in store.read(finished / "audited").trials.to_dict("records") if not row["control"]]
    bounds = {score["score"]: score["bound"] for score in said["audit"]["scores"]}
    assert bounds == {"black box": row["audit_epsilon_black_box"], "grey box": row["audit_epsilon_grey_box"]}
    assert all(score["control"] is not None for score in said["audit"]["scores"])
    card = (tmp_path / "out" / "README.md").read_text()
    assert "## Audit\n\n20 canaries (`mislabelled`)" in card
    assert said["headline"]["epsilon"] == said["generator"]["epsilon"], "a control is seen by nobody"
    assert not statement.warnings(said)


def test_of_private_data_only_that_there_was_an_audit(results: Path, tmp_path: Path) -> None:
    replan(results / "audited", lambda job: job["data"].update(public=False) if "data" in job else None)
    said = release.release(results / "audited", audited(results), tmp_path / "out").statement
    assert said["audit"]["scores"] is None
    assert "What it found is computed from private data and is left out." in (tmp_path / "out" / "README.md").read_text()


def test_a_control_stays(finished: Path, tmp_path: Path) -> None:
    found = refusal(finished / "audited", audited(finished, control=True), tmp_path / "out")
    assert found.endswith("is the control of an audit: it was trained without noise and is kept from everyone")


def test_an_epsilon_that_an_audit_contradicts_stays(results: Path, tmp_path: Path) -> None:
    def contradicted(text: str) -> str:
        audit = json.loads(text)
        return json.dumps({**audit, "black_box": {**audit["black_box"], "bound": 99.0, "p_at_epsilon": 1e-9}})

    rewrite(results / "audited", "audit", contradicted)
    found = refusal(results / "audited", audited(results), tmp_path / "out")
    assert found.startswith("an audit of the trial shows that epsilon is over 99, and 9.")
    assert found.endswith("one of the two is wrong, so nothing may leave")


def test_an_epsilon_that_the_audit_of_another_seed_contradicts_stays(results: Path, tmp_path: Path) -> None:
    trial_id, file = audited(results), tmp_path / "audited.yaml"
    file.write_text(f"name: audited\n{SWEEPS['audited']}seeds: 2\n")
    assert sweep.main([str(file), "--on", "inline", "--results", str(results)]) == sweep.OK
    shutil.rmtree(results / "audited" / "compacted", ignore_errors=True)
    said = release.release(results / "audited", trial_id, tmp_path / "fine").statement
    assert [score["right"] for score in said["audit"]["scores"]] == [
        json.loads(row["audit"])[key]["right"]
        for row in store.read(results / "audited").trials.to_dict("records")
        if row["trial_id"] == trial_id
        for key in ("black_box", "grey_box")
    ]

    def of_seed_1(column: str, change: Callable[[Any], Any]) -> None:
        (path,) = [
            path for path in (results / "audited" / "trials").glob("*.parquet") if pq.read_table(path)["seed"][0].as_py()
        ]
        table = pq.read_table(path)
        place = table.schema.get_field_index(column)
        values = [change(value) for value in table.column(column).to_pylist()]
        pq.write_table(table.set_column(place, table.schema.field(place), [values]), path)

    def contradicted(text: str) -> str:
        audit = json.loads(text)
        return json.dumps({**audit, "grey_box": {**audit["grey_box"], "bound": 20.0, "p_at_epsilon": 1e-3}})

    of_seed_1("audit", contradicted)
    found = refusal(results / "audited", trial_id, tmp_path / "out")
    assert found.startswith("an audit of the trial and its 1 other seed shows that epsilon is over 20, and 9.")
    of_seed_1("cell_id", lambda value: "0" * 12)
    assert release.release(results / "audited", trial_id, tmp_path / "other").statement["audit"]["scores"]


def test_a_delta_over_one_in_n_is_warned_of(finished: Path, tmp_path: Path) -> None:
    (warning,) = statement.warnings(released(finished, tmp_path / "out", "alone", "dp_energy").statement)
    assert warning.startswith("Delta 0.01 exceeds 1/N = 0.0071")
    assert f"> {warning}" in (tmp_path / "out" / "README.md").read_text()
    assert not statement.warnings(released(finished, tmp_path / "other").statement)


def test_metrics_of_private_data_stay(finished: Path, tmp_path: Path) -> None:
    row = rows(finished / "several")["energy"]
    measured = {name for name in METRICS if row[name] == row[name]}
    said = released(finished, tmp_path / "out").statement
    assert said["metrics"].keys() - {"images"} == {name for name in measured if not METRICS[name].private}
    text = (tmp_path / "out" / "privacy.json").read_text() + (tmp_path / "out" / "README.md").read_text()
    for name in measured:
        if METRICS[name].private:
            assert f'"{name}": ' not in text
            assert f"| `{name}` |" not in text
        else:
            assert f'"{name}": {row[name]!r}' in text
            assert f"| `{name}` | {row[name]:.4g} |" in text

    public = released(finished, tmp_path / "public", "alone", "dp_energy").statement["metrics"]
    assert public.keys() - {"images"} == measured
    few = released(finished, tmp_path / "few", metrics=["gen2real_cnn"]).statement["metrics"]
    assert few.keys() == {"images", "gen2real_cnn"}


def test_metrics_of_a_private_test_set_stay(results: Path, tmp_path: Path) -> None:
    rewrite(results / "several", "test_set", lambda value: "private")
    trial_id = trial(results)
    found = refusal(results / "several", trial_id, tmp_path / "out" / "new", metrics=["gen2real_cnn"])
    assert found == "--metrics gen2real_cnn cannot leave: the test set is declared private, without noise"
    said = released(results, tmp_path / "out").statement
    assert said["metrics"] == {}
    row = rows(results / "several")["energy"]
    measured = {name for name in METRICS if row[name] == row[name]}
    assert "gen2real_cnn" in said["scores_of_private_data"]
    assert set(said["scores_of_private_data"]) == {name for name in measured if METRICS[name].reference != "none"}
    assert "## Measured" not in (tmp_path / "out" / "README.md").read_text()


def test_nothing_of_the_owners_is_in_a_bundle(finished: Path, tmp_path: Path) -> None:
    """Fingerprints, ids, machines, paths, times and memory, in what was written and in what is packed inside."""
    written = released(finished, tmp_path / "out", images=20)
    row = rows(finished / "several")["energy"]
    versions = json.loads(row["versions"])
    words = [row[name] for name in ("trial_id", "cell_id", "evaluation_id", "data_fingerprint")]
    words += [row["data_fingerprint"][:12], str(finished), str(finished.parent), str(Path(__file__).parents[2])]
    content = b"".join(path.read_bytes() for path in written.files)
    text = b"".join(path.read_bytes() for path in written.files if path.suffix in (".md", ".json", ".py")).decode()
    text += " ".join(image["path"] for image in pq.read_table(tmp_path / "out" / IMAGES).column("image").to_pylist())
    for word in words:
        assert word.encode() not in content
        assert word not in text
    words = [row["host"], socket.gethostname(), versions["platform"], "Traceback", "several", "message"]
    words += [repr(row[name]) for name in ("train_seconds", "evaluate_seconds", "peak_memory_mb")]
    words += [f"{row['ended']:%Y-%m-%d}", f"{row['ended']:%H:%M}"]
    for word in words:
        assert not re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text), word
    assert re.search(r"(?<!\w)dp_energy(?!\w)", text)


def test_images_are_parquet_as_datasets_reads_it(finished: Path, tmp_path: Path) -> None:
    import io

    from PIL import Image

    released(finished, tmp_path / "out", images=25, seed=3)
    table = pq.read_table(tmp_path / "out" / IMAGES)
    assert table.column("label").to_pylist() == [index % 10 for index in range(25)]
    features = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
    assert features["image"] == {"_type": "Image"}
    assert features["label"] == {"names": [str(label) for label in range(10)], "_type": "ClassLabel"}
    images = table.column("image").to_pylist()
    assert len({image["path"] for image in images}) == 25
    found = releasable(finished / "several", trial(finished))
    sampler = found.recipe.load(found.tensors, torch.device("cpu"))
    expected = (sampler(torch.arange(25) % 10, torch.Generator().manual_seed(3)) * 255).round().to(torch.uint8)
    for image, pixels in zip(images, expected, strict=True):
        with Image.open(io.BytesIO(image["bytes"])) as opened:
            assert list(opened.tobytes()) == pixels.flatten().tolist()


def test_images_that_are_drawn_in_parts_are_those_drawn_at_once(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    released(finished, tmp_path / "whole", images=1200)
    monkeypatch.setattr(release, "AT_ONCE", 500)
    released(finished, tmp_path / "parts", images=1200)
    whole, parts = (pq.read_table(tmp_path / name / IMAGES) for name in ("whole", "parts"))
    assert whole.equals(parts)


def test_datasets_reads_the_images(finished: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    released(finished, tmp_path / "out", images=10)
    read = datasets.load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))
    assert read.features["label"].num_classes == 10
    assert read[3]["image"].size == (8, 8)


def test_the_card_begins_as_hugging_face_reads_it(finished: Path, tmp_path: Path) -> None:
    import yaml

    released(finished, tmp_path / "out")
    start, front, card = (tmp_path / "out" / "README.md").read_text().split("---\n", 2)
    assert start == ""
    assert yaml.safe_load(front).keys() == {"library_name", "tags"}, "the licence is the owner's to choose"
    assert card.lstrip().startswith("# dp_energy on digits")


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_trials_without_a_proof_stay(finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "parent" / "out"
    loud = refusal(finished / "loud", trial(finished, "loud", "dp_energy"), out)
    assert loud.endswith("has no proven epsilon: it was trained without noise")
    real = refusal(finished / "several", trial(finished, case="real"), out)
    assert "keeps real images" in real


def end(root: Path, trial_id: str, **changes: Any) -> None:
    path = root / "several" / "attempts" / trial_id / "1.end.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def injected(root: Path, trial_id: str) -> None:
    path = root / "several" / "attempts" / trial_id / "1.start.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "injected": True}))


def running(root: Path, trial_id: str) -> None:
    (root / "several" / "attempts" / trial_id / "1.end.json").unlink()


def no_account(root: Path, trial_id: str) -> None:
    (root / "ledger" / "digits" / "several" / f"{trial_id}.1.jsonl").unlink()


def short_account(root: Path, trial_id: str) -> None:
    path = root / "ledger" / "digits" / "several" / f"{trial_id}.1.jsonl"
    path.write_text(path.read_text().splitlines(keepends=True)[0])


def other_generator(root: Path, trial_id: str) -> None:
    path = root / "several" / "generators" / f"{trial_id}.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def no_generator(root: Path, trial_id: str) -> None:
    (root / "several" / "generators" / f"{trial_id}.safetensors").unlink()


def critic_inside(root: Path, trial_id: str) -> None:
    """Even where the records say that it belongs there."""
    path = root / "several" / "generators" / f"{trial_id}.safetensors"
    save_file({**load_file(path), "critic.weight": torch.zeros(3)}, path, metadata={"steps": "2"})
    end(root, trial_id, generator=file_hash(path))


def fewer_paid(root: Path, trial_id: str) -> None:
    """Both books lack a step."""
    path = root / "ledger" / "digits" / "several" / f"{trial_id}.1.jsonl"
    header, *_ = path.read_text().splitlines()
    path.write_text("\n".join([header, json.dumps({"executed": [1], "stopped": False}), ""]))
    end(root, trial_id, executed=[1])


def replan(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change what the jobs of a sweep were told."""
    (path,) = (folder / "launches").glob("*/plan.json")
    document = json.loads(path.read_text())
    for job in document["jobs"].values():
        change(job)
    path.write_text(json.dumps(document))


def other_version(root: Path, trial_id: str) -> None:
    replan(root / "several", lambda job: job.update(version=0))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (injected, "was injected by a test"),
        (running, "is running, or its process is gone"),
        (lambda root, name: end(root, name, status="failed"), "is failed; only a trial that is completed"),
        (lambda root, name: end(root, name, status="interrupted"), "is interrupted; only a trial that is completed"),
        (lambda root, name: end(root, name, resumable=False), "broke what its mechanism declares"),
        (no_account, "it is the only record of what an attempt has released"),
        (short_account, "counts [0] steps a phase"),
        (other_generator, "is not what the training kept (its hash is another)"),
        (no_generator, "has kept no generator"),
        (lambda root, name: end(root, name, generator=None), "no record says what the training of trial"),
        (critic_inside, "it holds critic.weight, no part of the generator"),
        (fewer_paid, "has [2] steps a phase but the ledger knows of [1] only"),
        (other_version, "was made by version 0 of dp_energy"),
    ],
)
def test_what_is_not_as_it_should_be_stays(
    results: Path, tmp_path: Path, spoil: Callable[[Path, str], None], message: str
) -> None:
    trial_id = trial(results)
    spoil(results, trial_id)
    assert message in refusal(results / "several", trial_id, tmp_path / "bundles" / "out")


def test_a_budget_that_ran_out_is_no_reason_to_stay(results: Path, tmp_path: Path) -> None:
    end(results, trial(results), status="budget")
    assert released(results, tmp_path / "out").statement["generator"]["steps"] == 2


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("results/several/checkpoints/abc.pt", "a checkpoint holds optimiser states, private models and error buffers"),
        ("results/stages", "a stage holds models or statistics of private data"),
        ("results/several/logs/abc.1.log", "a log names machines, times and errors"),
        ("several", "is a file or folder, not a trial"),
        ("results/several/generators/abc.safetensors", "a generator leaves with its privacy statement"),
        ("critic.safetensors", "is a file or folder, not a trial"),
    ],
)
def test_what_is_no_trial_is_told_why_it_stays(finished: Path, tmp_path: Path, name: str, message: str) -> None:
    found = refusal(finished / "several", name, tmp_path / "out")
    assert found.startswith(f"{name} ")
    assert message in found
    assert found.endswith("name a trial by its id; its private generator is all that leaves")


def test_a_shared_stage_is_told_why_it_stays(finished: Path, tmp_path: Path) -> None:
    for stage in (finished / "stages").iterdir():
        assert "is a shared stage and cannot leave" in refusal(finished / "several", stage.name, tmp_path / "out")


def test_an_unknown_id_is_answered_with_those_that_may_leave(finished: Path, tmp_path: Path) -> None:
    found = refusal(finished / "several", "0123456789ab", tmp_path / "out")
    assert "has no trial 0123456789ab; those that are completed: " in found
    assert f"{trial(finished)} (energy seed=0)" in found


def test_the_results_have_to_be_a_sweep(finished: Path, tmp_path: Path) -> None:
    assert "holds no sweep" in refusal(finished, "0123456789ab", tmp_path / "out")
    assert "holds no sweep" in refusal(finished / "nothing", "0123456789ab", tmp_path / "out")


def test_a_folder_that_has_something_is_left_alone(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    released(finished, tmp_path / "out")  # an empty one is taken
    content = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert "is no empty folder" in refusal(finished / "several", trial(finished), tmp_path / "out")
    assert {path: path.read_bytes() for path in (tmp_path / "out").iterdir()} == content
    assert "is no empty folder" in refusal(finished / "several", trial(finished), tmp_path / "out" / "README.md")


def test_a_disk_that_takes_nothing_leaves_nothing(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(release.os, "fsync", full)
    arguments = [str(finished / "several"), trial(finished), str(tmp_path / "out")]
    assert release.main(arguments) == release.REFUSED
    assert not list(tmp_path.iterdir())


def test_owners_words_that_settings_bring_in_are_refused(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial_id = trial(finished)
    monkeypatch.setattr(statement, "NOT_COVERED", (f"trial {trial_id}",))
    assert f"README.md would name {trial_id}" in refusal(finished / "several", trial_id, tmp_path / "out")


def test_a_method_that_says_not_how_to_build_its_generator_is_refused(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("trainables.dp_energy.training.recipe")
    found = refusal(finished / "several", trial(finished), tmp_path / "out")
    assert found.startswith("dp_energy has no recipe(config, info) in its module training")


def test_the_command_says_what_to_say(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    arguments = [str(finished / "several"), trial(finished), str(tmp_path / "out")]
    assert release.main([*arguments, "--images", "10"]) == release.OK
    printed = capsys.readouterr().out.splitlines()
    said = json.loads((tmp_path / "out" / "privacy.json").read_text())
    assert printed[0] == f"{tmp_path / 'out'} may leave the building:"
    assert len([line for line in printed if line.endswith(" bytes)")]) == 5
    assert f"Say: {statement.headline(said)}." in printed
    assert "licence" in printed[-1]
    assert release.main(arguments) == release.REFUSED
    error = capsys.readouterr().err
    assert error.startswith("refused: ")
    assert error.count("\n") == 1


def test_a_sibling_without_a_proof_is_warned_of(results: Path, tmp_path: Path) -> None:
    injected(results, trial(results, case="merf"))
    said = released(results, tmp_path / "out").statement
    (warning,) = statement.warnings(said)
    assert warning.startswith("Nothing is proven of 1 other generator of the sweep")
    assert math.isfinite(said["headline"]["epsilon"])


def test_a_row_of_an_older_schema_changes_no_epsilon(results: Path, tmp_path: Path) -> None:
    expected = released(results, tmp_path / "new").statement
    for path in (results / "several" / "trials").glob("*.parquet"):
        table = pq.read_table(path)
        newer = ("evaluation", "gen2real_mlp_sklearn", "selection", "control", "audit", "audit_epsilon_black_box", "epsilon")
        pq.write_table(table.drop_columns(newer).replace_schema_metadata({"dpsweep.schema": "1"}), path)
    said = released(results, tmp_path / "old").statement
    assert said["headline"] == expected["headline"]
    assert said["generator"] == expected["generator"]


def test_what_is_still_to_come_is_warned_of(results: Path, tmp_path: Path) -> None:
    (results / "other" / "sealed" / "abc").mkdir(parents=True)
    (results / "ledger" / "digits" / "other.selection.abc").mkdir()
    with DriverLock(Folders(results, "several").lock):
        secret, running = statement.warnings(released(results, tmp_path / "out").statement)
    assert secret.startswith("1 private selection on these data had not ended")
    assert running.startswith("The sweep was running when this was written")


def test_the_weights_are_those_of_the_statement(finished: Path, tmp_path: Path) -> None:
    said = released(finished, tmp_path / "out").statement
    content = (tmp_path / "out" / "generator.safetensors").read_bytes()
    assert said["generator"]["sha256"] == hashlib.sha256(content).hexdigest()
