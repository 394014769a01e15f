"""What holds of every method: a tiny trial through the whole command, its account, its shapes, and its kept generator."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

from harness import store, sweep
from harness.releasable import Refused
from harness.release import release
from trainables import registry
from trainables.base import DataInfo
from trainables.privacy import accounting
from trainables.privacy.mechanism import from_dict, with_steps

_SMALL = {"generator_channels": 4}
_SHARDS = {
    **_SMALL,
    **{"generator": "small", "steps": 3, "shards": 20, "shards_per_step": 4, "generator_batch": 10},
    "critic": {"channels": 4, "steps": 1, "pretraining": {"steps": 1, "critic_steps": 1, "shards_per_job": 20}},
    "classifier": {"channels": 4, "fake_steps": 1, "fake_batch": 10, "real_steps": 1},
    "encoder": {"channels": 4, "steps": 2},
}
_TEACHERS = {**_SMALL, "steps": 3, "teachers": 20, "batch": 10, "teacher_width": 4, "teacher_pretraining": 1}
_DIFFUSION = {
    "steps": 2,
    "sampling_rate": 0.02,
    "network": {"channels": 8, "multipliers": [1], "blocks": 1, "patch": 2},
    "sampler": {"steps": 2},
}
TINY: dict[str, dict[str, Any]] = {
    "gs_wgan": _SHARDS,
    "dpac": _SHARDS,
    "ef_dpgan": _SHARDS,
    "dp_energy": {**_SMALL, "steps": 3, "slots": 20},
    "dp_energy_guided": {**_SMALL, "steps": 3, "slots": 20, "classifier": {"steps": 2}},
    "dp_merf": {**_SMALL, "steps": 3, "features": 20, "batch": 20},
    "dp_sinkhorn": {**_SMALL, "steps": 3, "real_batch": 20},
    "dpgan": {**_SMALL, "steps": 3, "batch_size": 20, "fake_batch_size": 10, "generator_batch": 10, "critic_channels": 4},
    "real": {"samples_a_class": 20},
    "dpdm": _DIFFUSION,
    "dp_feta": {**_DIFFUSION, "warm_up": {"releases": 2, "steps": 2, "batch": 8}},
    "pate_gan": _TEACHERS,
    "g_pate": _TEACHERS,
    "datalens": {**_TEACHERS, "top": 10},
}
SHAPES = [(1, 28, 28, 10), (3, 28, 28, 10), (1, 32, 32, 2), (3, 32, 32, 2), (3, 32, 32, 10), (1, 8, 8, 10), (2, 30, 20, 3)]


@pytest.fixture(scope="module")
def trials(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """The row of a tiny trial of every method, on real digits of 28x28 pixels."""
    folder = tmp_path_factory.mktemp("methods")
    document = {
        "name": "methods",
        "cases": [{"name": name, "method": name, "train": TINY[name]} for name in registry.METHODS],
        "data": {"source": "digits", "public": True, "resolution": 28, "enlarge": True},
        "privacy": {"epsilon": 5, "delta": 1e-5, "accountant": "pld"},
        "evaluate": {"samples": 100},
        "keep_samples": 20,
    }
    (folder / "methods.yaml").write_text(json.dumps(document))
    assert sweep.main([str(folder / "methods.yaml"), "--on", "inline", "--results", str(folder / "results")]) == sweep.OK
    tables = store.read(folder / "results" / "methods")
    samples = {trial_id: list(part["image"]) for trial_id, part in tables.samples.groupby("trial_id")}
    place = {"folder": folder / "results" / "methods"}
    return {row["method"]: {**row, **place, "samples": samples[row["trial_id"]]} for row in tables.trials.to_dict("records")}


def test_every_method_is_tried() -> None:
    assert set(TINY) == set(registry.METHODS)


@pytest.mark.parametrize("name", registry.METHODS)
def test_what_a_trial_released_is_what_its_mechanism_declares_and_what_it_paid_for(
    trials: dict[str, dict[str, Any]], name: str
) -> None:
    row = trials[name]
    assert row["status"] == "completed", row["message"]
    phases = [from_dict(document) for document in json.loads(row["mechanism"])]
    declared = sum(phase.steps * phase.mechanism.releases_per_step for phase in phases)
    assert row["releases"] == declared
    assert row["steps"] == row["steps_planned"] == sum(phase.steps for phase in phases)
    if name == "real":
        assert np.isnan(row["epsilon"])
        assert (row["proof"], declared) == ("not_private", 0)
        return
    paid = with_steps(phases, [phase.steps for phase in phases])
    assert row["epsilon"] == accounting.epsilon(paid, delta=1e-5, accountant="pld")
    assert 0 < row["epsilon"] <= 5
    assert set(row["proof"].split("+")) <= accounting.PROOFS.keys()


@pytest.mark.parametrize("name", registry.METHODS)
def test_samples_are_images_that_differ(trials: dict[str, dict[str, Any]], name: str) -> None:
    samples = trials[name]["samples"]
    assert len(samples) == 20
    assert len({image["bytes"] for image in samples}) == 20
    assert 0 <= trials[name]["gen2real_logreg"] <= 1


@pytest.mark.parametrize("name", registry.METHODS)
def test_what_training_keeps_may_leave_as_a_generator_alone(
    trials: dict[str, dict[str, Any]], name: str, tmp_path: Path
) -> None:
    """``release`` compares the sampler that it writes with the harness's, bit for bit. Real images stay."""
    row = trials[name]
    if name == "real":
        with pytest.raises(Refused, match="keeps real images"):
            release(row["folder"], row["trial_id"], tmp_path / "out")
        return
    said = release(row["folder"], row["trial_id"], tmp_path / "out").statement
    assert said["generator"]["epsilon"] == row["epsilon"]
    assert said["sweep"]["totals"][0]["generators"] == len(registry.METHODS) - 1
    kept = load_file(row["folder"] / "generators" / f"{row['trial_id']}.safetensors")
    left = load_file(tmp_path / "out" / "generator.safetensors")
    assert kept.keys() - left.keys() == {"dp_energy_guided": {"classifier.weight"}, "dp_feta": {"means"}}.get(name, set())
    assert all(phase["in_words"] for phase in said["generator"]["mechanism"])
    assert not any("A mechanism of kind" in phase["in_words"] for phase in said["generator"]["mechanism"])


@pytest.mark.parametrize("name", registry.METHODS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("size", [1437, 60_000])
def test_every_shape_is_handled_or_refused_with_a_sentence(name: str, shape: tuple[int, int, int, int], size: int) -> None:
    """At plan time, on declared facts: by all presets that the method has."""
    channels, height, width, classes = shape
    info = DataInfo(size=size, channels=channels, height=height, width=width, classes=classes)
    method = registry.method(name)
    for preset in ({}, *method.PRESETS.values()):
        refused = None
        try:
            phases = method.mechanism(method.Config.model_validate(preset), info, "replace_one")
        except ValueError as error:
            refused, phases = str(error), ()
        assert (refused is None) == bool(phases)
        assert all(phase.mechanism.neighbours == "replace_one" for phase in phases)
        if refused is not None:
            assert len(refused) > 30
            assert "\n" not in refused


@pytest.mark.parametrize("name", registry.METHODS)
def test_the_usual_shapes_are_handled(name: str) -> None:
    """28 and 32 pixels, grey and colour, 2 and 10 classes, by what a user gets who asks for nothing in particular."""
    method = registry.method(name)
    for channels, side, classes in [(1, 28, 10), (3, 32, 2), (3, 32, 10), (1, 32, 2)]:
        info = DataInfo(size=60_000, channels=channels, height=side, width=side, classes=classes)
        assert method.mechanism(method.Config(), info, "replace_one")
