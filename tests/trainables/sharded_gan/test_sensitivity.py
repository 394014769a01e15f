"""What one record can do: to the rows of its own shard and to no others, and by no more than the declared bound."""

import math

import numpy as np
import pytest
import torch
from engine_runs import SIGNALS, Recorder, Run, compute_stages, random_data, settings, start, with_record

from trainables import registry
from trainables.coins import torch_coins
from trainables.data.shards import partition
from trainables.privacy.mechanism import scale_noise
from trainables.privacy.sanitizer import PrivacyViolation, Sanitizer
from trainables.sharded_gan.training import Trainer, recipe

DRAW = [[1, 3, 4]]
SHARD = 3
RECORD = int(partition(60, 6, seed=0)[SHARD][2])
CLIP = 0.05


def generated(config, data) -> np.ndarray:
    """The images that the first step asks about, rounded to bytes, ``[B, C, H, W]``."""
    config = registry.method("gs_wgan").Config(**config)
    generator = recipe(config, data.info).build(torch.device("cpu"), torch_coins(0, "generator"))
    labels = torch.randint(data.classes, (config.generator_batch,), generator=torch_coins(0, "labels", 0))
    z = generator.draw_z(len(labels), torch_coins(0, "z", 0))
    with torch.no_grad():
        images = generator(z, labels, torch_coins(0, "noise_injection", 0))
    return (images * 255).round().to(torch.uint8).numpy()


def first_step(config, data, root) -> Recorder:
    run = start(config, data, compute_stages("gs_wgan", config, data, root), sanitizer=Recorder, noise=0.0, draws=DRAW)
    run.advance(0, 1)
    return run.sanitizer


@pytest.mark.parametrize("signal", SIGNALS)
def test_a_record_moves_its_own_shards_rows_and_the_release_by_the_declared_bound(tmp_path, signal):
    config = settings({"shards_per_step": 3, "max_grad_norm": CLIP}, SIGNALS[signal])
    data = random_data()
    image, label = data.images[RECORD], int(data.labels[RECORD])
    black, white = np.zeros_like(image), np.full_like(image, 255)
    replacements = [(black, label), (white, label), (image, 1 - label), *((shown, label) for shown in generated(config, data))]
    before = first_step(config, data, tmp_path / "before")
    moved = []
    for number, (other, other_label) in enumerate(replacements):
        after = first_step(config, with_record(data, RECORD, other, other_label), tmp_path / str(number))
        (answers,), (expected,) = after.answers, before.answers
        assert all(torch.equal(answers[place], expected[place]) for place, shard in enumerate(DRAW[0]) if shard != SHARD)
        moved.append(float((after.released[0] - before.released[0]).norm()))
    assert 0 < max(moved) <= 2 * CLIP * math.sqrt(config["generator_batch"]) * (1 + 1e-6)


@pytest.mark.parametrize("signal", [{"critic": {"kind": "energy"}}, SIGNALS["reconstruction by pixels"]])
def test_the_bound_is_nearly_attained(tmp_path, signal):
    """A shard of one record, of the only class: black pulls every generated image one way, white the other."""
    config = settings({"shards": 60, "shards_per_step": 1, "max_grad_norm": CLIP}, signal)
    data = random_data(classes=1)
    shard = [[int(np.flatnonzero(partition(60, 60, seed=0)[:, 0] == 7)[0])]]
    released = []
    for value in (0, 255):
        records = with_record(data, 7, np.full_like(data.images[7], value), 0)
        run = start(config, records, {}, sanitizer=Recorder, noise=0.0, draws=shard)
        run.advance(0, 1)
        released.append(run.sanitizer.released[0])
    bound = 2 * CLIP * math.sqrt(config["generator_batch"])
    assert 0.95 * bound < float((released[0] - released[1]).norm()) <= bound


def test_a_class_that_a_shard_lacks_answers_zero_and_changes_no_divisor(tmp_path):
    """Two shards without class 1: its images get the noise alone, and the others' rows are what they are with class 1."""
    for signal in ("energy", "reconstruction by pixels", "reconstruction by random"):
        config = settings({"generator_batch": 8, "labels": "balanced"}, SIGNALS[signal])
        data = random_data()
        data.labels[partition(60, 6, seed=0)[[1, 2]]] = 0
        run = start(config, data, {}, sanitizer=Recorder, noise=0.0, draws=[[1, 2]])
        run.advance(0, 1)
        (answers,) = run.sanitizer.answers
        assert answers[:, :4].flatten(2).norm(dim=2).min() > 0.1, "images of class 0"
        assert not answers[:, 4:].any(), "images of class 1"


def test_a_critic_that_diverged_answers_nothing_and_spoils_nothing(tmp_path):
    """Images are bytes, so a number that is none can only come from a shard's own model."""
    config = settings({"critic": {**settings()["critic"], "learning_rate": 1e38}})
    data = random_data()
    run = start(config, data, compute_stages("gs_wgan", config, data, tmp_path), sanitizer=Recorder, noise=0.0)
    run.advance(0, 1)
    (answers,), (released,) = run.sanitizer.answers, run.sanitizer.released
    silent = ~torch.isfinite(answers.flatten(2)).all(dim=2)
    assert silent.any()
    assert torch.isfinite(released).all()
    assert not released[silent.all(dim=0)].any()
    assert all(torch.isfinite(tensor).all() for tensor in run.trainer.released().values())


BOTH = SIGNALS["critic and reconstruction"]


def test_one_release_of_the_sum_or_one_a_signal(tmp_path):
    data = random_data()
    runs = {}
    for release in ("summed", "per_signal"):
        config = settings(BOTH, {"release": release, "matching": "pixels", "max_grad_norm": 10.0})
        stages = compute_stages("gs_wgan", config, data, tmp_path / release)
        runs[release] = start(config, data, stages, sanitizer=Recorder, noise=0.0)
        runs[release].advance(0, 2)
    summed, per_signal = (runs[release].sanitizer for release in ("summed", "per_signal"))
    assert (summed.releases, per_signal.releases) == ([2], [4])
    # The clip touches nothing at this bound, so that the two differ by the order of additions alone.
    torch.testing.assert_close(per_signal.answers[0] + per_signal.answers[1], summed.answers[0])
    torch.testing.assert_close(per_signal.released[0] + per_signal.released[1], summed.released[0])


def test_signals_that_are_released_one_by_one_have_an_error_buffer_each(tmp_path):
    """Ma & Zhang 2026, equations 9 to 11: a buffer holds what was cut off its own signal's answers and nobody else's."""
    feedback = {"feedback": "paper", "labels": "fixed", "max_grad_norm": CLIP, "feedback_clip": 2 * CLIP}
    config = settings(SIGNALS["reconstruction by pixels"], SIGNALS["energy"], feedback, {"release": "per_signal"})
    run = start(config, random_data(), {}, sanitizer=Recorder, noise=0.0)
    run.advance(0, 3)
    kept = run.trainer.state_dict()["feedback"]
    assert list(kept) == ["critic", "reconstruction"]
    for place, name in enumerate(kept):
        answers, released = run.sanitizer.answers[place::2], run.sanitizer.released[place::2]
        cut_off = sum(answer.sum(dim=0) - release for answer, release in zip(answers, released, strict=True))
        torch.testing.assert_close(kept[name]["buffers"][0], cut_off, rtol=1e-4, atol=1e-5)
        assert cut_off.norm() > CLIP


@pytest.mark.parametrize(("release", "declared"), [("per_signal", "summed"), ("summed", "per_signal")])
def test_a_step_that_releases_otherwise_than_declared_is_a_violation(tmp_path, release, declared):
    data = random_data()
    package = registry.method("gs_wgan")
    configs = {name: package.Config(**settings(BOTH, {"release": name, "matching": "pixels"})) for name in (release, declared)}
    stages = compute_stages("gs_wgan", configs[release].model_dump(), data, tmp_path)
    sanitizer = Sanitizer(scale_noise(package.mechanism(configs[declared], data.info, "replace_one"), 1.0))
    run = Run(Trainer(configs[release], data, sanitizer, stages, torch.device("cpu"), 0), sanitizer, [configs[release].steps])
    with pytest.raises(PrivacyViolation, match="release"):
        run.advance(0, 1)
