"""Decoded images that are kept: what is read back, who may read it, and what happens to a damaged entry."""

from __future__ import annotations

import json
import mmap
import os
import stat
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from trainables.base import Dataset
from trainables.data import cache, sources
from trainables.data.sources import content_hash, load
from trainables.dp_energy.method import Config, mechanism
from trainables.dp_energy.training import Trainer
from trainables.privacy.mechanism import scale_noise
from trainables.privacy.sanitizer import Sanitizer


@pytest.fixture
def folder(tmp_path, pictures):
    """An image folder of 4 + 2 records."""
    for place, (name, count) in enumerate([("train/a", 2), ("train/b", 2), ("test/a", 1), ("test/b", 1)]):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number, image in enumerate(pictures(count, seed=place)):
            image.save(tmp_path / "images" / name / f"{number}.png")
    return str(tmp_path / "images")


def splits() -> tuple[Dataset, Dataset]:
    coins = np.random.default_rng(0)

    def split(count: int) -> Dataset:
        images = coins.integers(0, 256, (count, 1, 4, 4), dtype=np.uint8)
        return Dataset(images=images, labels=np.arange(count) % 2, classes=2)

    return split(6), split(4)


def never() -> tuple[Dataset, Dataset]:
    raise AssertionError("decoded again")


def mapped(array: np.ndarray) -> bool:
    while isinstance(array, np.ndarray):
        array = array.base  # type: ignore[assignment]
    return isinstance(array, mmap.mmap)


def test_the_second_load_decodes_nothing_and_maps_the_file(own_cache, folder, monkeypatch):
    first = load("image_folder", path=folder)
    monkeypatch.setattr(sources, "_decode", lambda *_: never())
    second = load("image_folder", path=folder)
    for before, after in zip(first, second, strict=True):
        assert np.array_equal(before.images, after.images)
        assert np.array_equal(before.labels, after.labels)
        assert before.info == after.info
        assert mapped(after.images)
    assert len(list(own_cache.iterdir())) == 1


def test_a_changed_file_or_another_request_is_decoded(own_cache, folder, pictures):
    before = content_hash(*load("image_folder", path=folder))
    assert content_hash(*load("image_folder", path=folder, size=3)) != before
    pictures(1, seed=7)[0].save(Path(folder) / "train" / "a" / "0.png")
    assert content_hash(*load("image_folder", path=folder)) != before
    assert len(list(own_cache.iterdir())) == 3


def test_only_the_owner_may_look(own_cache, folder):
    own_cache.mkdir(parents=True, mode=0o755)
    load("image_folder", path=folder)
    (entry,) = own_cache.iterdir()
    assert stat.S_IMODE(own_cache.stat().st_mode) == stat.S_IMODE(entry.stat().st_mode) == 0o700


def test_writing_into_an_array_that_was_read_changes_no_file(own_cache, folder):
    train, _ = load("image_folder", path=folder)
    before = train.images.copy()
    train.images[:] = 0
    assert np.array_equal(load("image_folder", path=folder)[0].images, before)


@pytest.mark.parametrize("name", ["train_images.npy", "test_labels.npy", "about.json"])
@pytest.mark.parametrize("damage", ["changed", "cut", "gone"])
def test_a_damaged_entry_is_made_anew(own_cache, name, damage):
    before = content_hash(*cache.decoded("entry", splits, content_hash))
    file = own_cache / "entry" / name
    content = bytearray(file.read_bytes())
    if damage == "gone":
        file.unlink()
    else:
        content[-3] ^= 1
        file.write_bytes(content if damage == "changed" else content[:-5])
    assert content_hash(*cache.decoded("entry", splits, content_hash)) == before
    assert content_hash(*cache.decoded("entry", never, content_hash)) == before
    assert [entry.name for entry in own_cache.iterdir()] == ["entry"]


def test_an_entry_that_another_process_finished_meanwhile_is_used(own_cache):
    def slow() -> tuple[Dataset, Dataset]:
        cache.decoded("entry", splits, content_hash)
        (own_cache / "entry" / "theirs").touch()
        return splits()

    cache.decoded("entry", slow, content_hash)
    assert (own_cache / "entry" / "theirs").exists()
    assert [entry.name for entry in own_cache.iterdir()] == ["entry"]


def test_what_killed_processes_left_is_removed_after_a_day(own_cache):
    for name, age in (("old", 25), ("new", 23)):
        (own_cache / f"{name}.part").mkdir(parents=True)
        (own_cache / f"{name}.part" / "train_images.npy").touch()
        os.utime(own_cache / f"{name}.part", (time.time() - age * 3600,) * 2)
    cache.decoded("entry", splits, content_hash)
    assert {entry.name for entry in own_cache.iterdir()} == {"entry", "new.part"}


def test_a_cache_that_cannot_be_written_to_costs_time_alone(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert content_hash(*cache.decoded("entry", splits, content_hash)) == content_hash(*splits())


def test_digits_are_mapped_as_they_were_decoded_and_without_scikit_learn(own_cache):
    decoded, (entry,) = load("digits", size=10), own_cache.iterdir()
    settings = json.dumps([str(own_cache.parents[1]), content_hash(*decoded)])
    code = f"""
import json, os, sys
os.environ["XDG_CACHE_HOME"], expected = json.loads({settings!r})
from trainables.data.sources import content_hash, load
assert content_hash(*load("digits", size=10)) == expected
assert "sklearn" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    assert [entry] == list(own_cache.iterdir())


def test_planning_twice_decodes_once(own_cache, folder, tmp_path, monkeypatch):
    fingerprints = tmp_path / "fingerprints.json"
    found = sources.fingerprint("image_folder", path=folder, cache_file=fingerprints)
    monkeypatch.setattr(sources, "_load", lambda *_: never())
    assert sources.fingerprint("image_folder", path=folder, cache_file=fingerprints) == found
    assert list(json.loads(fingerprints.read_text()).values()) == [found]
    os.utime(Path(folder) / "test" / "a" / "0.png", (1, 1))
    with pytest.raises(AssertionError, match="decoded again"):
        sources.fingerprint("image_folder", path=folder, cache_file=fingerprints)


def test_training_on_mapped_images_is_training_on_decoded_ones(own_cache):
    """To the bit; and writing to the mapped ones would reach neither the file nor another process."""
    kept, _ = load("digits")
    plain = replace(kept, images=kept.images.copy())
    assert mapped(kept.images)
    assert not mapped(plain.images)
    settings = Config(steps=3, slots=20, generator_channels=4)
    weights = []
    for data in (plain, kept):
        phases = scale_noise(mechanism(settings, data.info, "replace_one"), 1.0)
        sanitizer = Sanitizer(phases, injected_seed=0)
        trainer = Trainer(settings, data, sanitizer, {}, torch.device("cpu"), 0)
        for step in range(3):
            sanitizer.open_step(step, 0)
            trainer.step()
            sanitizer.close_step()
        weights.append(trainer.released())
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())
    kept.images[:] = 0
    again, _ = load("digits")
    assert np.array_equal(again.images, plain.images)
