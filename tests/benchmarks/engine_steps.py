"""Whole steps of the engine against plain ones: ``sharded_gan``, its pretraining, ``dp_energy``."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from parts import Parts, Timing, in_turn
from published_step import BATCH, CRITIC_STEPS, NOISE_MULTIPLIER, PublishedStep, pretrain_shard
from torch.nn import functional

from trainables.base import Dataset
from trainables.dp_energy import method as energy_method
from trainables.dp_energy import training as energy_training
from trainables.gs_wgan import method as gs_wgan
from trainables.privacy.mechanism import scale_noise
from trainables.privacy.sanitizer import Contribution, Sanitizer
from trainables.sharded_gan import critics, pretraining, training

CPU = torch.device("cpu")
RECORDS_PER_SHARD = 60
WIDE = 256
"""Channels of a generator from which on bfloat16 is measured as well."""


def random_data(records: int) -> Dataset:
    """Random 28x28 images of 10 classes."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (records, 1, 28, 28), dtype=np.uint8)
    return Dataset(images=images, labels=rng.integers(0, 10, records), classes=10)


def measure_step(*, channels: int, shards_per_step: int, rounds: int, warm_up: bool = True) -> None:
    """Print the published step against ours: with equal mathematics for one shard, with the pool of fakes for several; wide
    generators in bfloat16 as well, which is not equal.

    The pool of one critic holds as many images as it sees, so it is the same there.
    """
    data = random_data(max(20, 2 * shards_per_step) * RECORDS_PER_SHARD)

    def published() -> Callable[[], str]:
        images, labels = torch.from_numpy(data.images[:RECORDS_PER_SHARD]).float() / 255, torch.from_numpy(data.labels)
        plain, parts = PublishedStep(channels, images, labels, shards_per_step=shards_per_step), Parts()

        def step() -> str:
            plain.step(parts)
            return parts.shares()

        return step

    with tempfile.TemporaryDirectory(prefix="engine-") as folder:

        def ours(fakes: str, precision: str = "float32") -> Callable[[], str]:
            settings = {"shards_per_step": shards_per_step, "generator_channels": channels, "generator_precision": precision}
            return _engine(data, settings, fakes, Path(folder) / f"{fakes} {precision}")

        fakes = "own" if shards_per_step == 1 else "shared"
        sides = {"published": published, f"ours, {fakes} fakes": partial(ours, fakes)}
        if channels >= WIDE:
            sides[f"ours, {fakes} fakes, bfloat16"] = partial(ours, fakes, "bfloat16")
        timings = in_turn(sides, rounds, warm_up=warm_up, plain={"published"})
    print(f"\nStep, {channels} channels, batch {BATCH}, {CRITIC_STEPS} critic steps, {shards_per_step} shards a step")
    _print(timings, "published")


def _print(timings: Mapping[str, Timing], reference: str) -> None:
    for name, timing in timings.items():
        ratio = timings[reference].seconds / timing.seconds
        print(
            f"  {name:20s} {timing.seconds:8.3f} s  x{ratio:.2f}  {timing.peak_mb:5.0f} MB  {timing.result or ''}", flush=True
        )


def _engine(data: Dataset, sizes: Mapping[str, Any], fakes: str, folder: Path) -> Callable[[], str]:
    """A function that makes the next step of gs_wgan and returns where the time went so far."""
    critic = {"fakes": fakes, "pretraining": {"steps": 0, "generator": "small"}}
    config = gs_wgan.Config(**sizes, shards=len(data.labels) // RECORDS_PER_SHARD, critic=critic)
    stages = {}
    for stage in gs_wgan.stages(config, data.info):
        stages[stage.name] = folder / stage.name
        stages[stage.name].mkdir(parents=True)
        pretraining.critics(stage.config, data, data, stages[stage.name], CPU)
    phases = scale_noise(gs_wgan.mechanism(config, data.info, "replace_one"), NOISE_MULTIPLIER)
    sanitizer = Sanitizer(phases)
    trainer = training.Trainer(config, data, sanitizer, stages, CPU, 0)
    parts, network, signal = Parts(), trainer._network, trainer._signals["critic"]
    parts.watch(network._optimizer, "step", "Adam of the generator")
    # Optimisers and trainings of critics are made anew at every step, so it is their classes that are watched.
    parts.watch(torch.optim.Adam, "step", "Adam of the critics")
    parts.watch(critics.CriticTraining, "update", "critic updates")
    parts.watch(signal, "_generate", "fakes")
    parts.watch(signal, "_answers", "answers")
    parts.watch(sanitizer, "release_rows", "sanitizer")
    parts.watch(network, "update", "generator backward")
    parts.watch(network, "follow", "average")
    numbers = count()

    def step() -> str:
        sanitizer.open_step(next(numbers), 0)
        with parts("generator forward"):  # all that is not watched
            trainer.step()
        sanitizer.close_step()
        return parts.shares()

    return step


def measure_pretraining(*, channels: int, shards: int, rounds: int) -> None:
    """Print seconds of ``rounds`` of pretraining of ``shards`` shards: published, and ours."""
    data = random_data(shards * RECORDS_PER_SHARD)

    def published() -> Callable[[], None]:
        images, labels = torch.from_numpy(data.images[:RECORDS_PER_SHARD]).float() / 255, torch.from_numpy(data.labels)
        return lambda: pretrain_shard(channels, images, labels, rounds)

    with tempfile.TemporaryDirectory(prefix="engine-") as folder:

        def ours() -> Callable[[], None]:
            made = {"steps": rounds, "generator": "small", "shards_per_job": shards}
            (stage,) = gs_wgan.stages(gs_wgan.Config(shards=shards, critic={"pretraining": made}), data.info)
            return lambda: pretraining.critics(stage.config, data, data, Path(folder), CPU)

        timings = in_turn({"published": published, "ours": ours}, 1, warm_up=False, plain={"published"})
    timings["ours"] = replace(timings["ours"], seconds=timings["ours"].seconds / shards)
    print(f"\nPretraining of a shard, {rounds} rounds; published generator of {channels} channels, ours small, {shards} a job")
    _print(timings, "published")


def measure_dp_energy(*, records: int, rounds: int) -> None:
    """Print seconds of a step of dp_energy at its defaults, and of one whose release is a plain loop over classes."""
    data, config = random_data(records), energy_method.Config()
    phases = scale_noise(energy_method.mechanism(config, data.info, "replace_one"), 1.0)

    def side(kind: type[energy_training.Trainer]) -> Callable[[], float]:
        sanitizer = Sanitizer(phases, injected_seed=0)
        trainer, numbers = kind(config, data, sanitizer, {}, CPU, 0), count()

        def step() -> float:
            sanitizer.open_step(next(numbers), 0)
            found = trainer.step()
            sanitizer.close_step()
            return found["release_norm"]

        return step

    sides = {"per-class loop": partial(side, PlainEnergy), "ours": partial(side, energy_training.Trainer)}
    timings = in_turn(sides, rounds, plain={"per-class loop"})
    norms = [timing.result for timing in timings.values()]
    assert abs(norms[0] / norms[1] - 1) < 1e-3, f"both sides release the same, but the norms are {norms}"
    print(f"\nStep of dp_energy, {records} records, {config.slots} slots, sampling rate {config.sampling_rate}")
    _print({name: replace(timing, result="") for name, timing in timings.items()}, "per-class loop")


class PlainEnergy(energy_training.Trainer):
    """The same release by all differences of the records of one class to its slots at once, class after class."""

    def _release(self, slots: torch.Tensor) -> torch.Tensor:
        config, drawn = self._config, torch.from_numpy(self._sanitizer.sample_records())
        gamma = energy_method.reconstruction_at(config, self._step)
        bound = energy_method.norm_bound(config, self._info.classes, self._step)
        of_drawn, parts = self._record_labels[drawn], []
        for label, points in enumerate(slots.float()):
            features = self._record_features(drawn[of_drawn == label])[0]
            difference = points[:, None] - features[None]
            distance = difference.norm(dim=2)
            weight = 1 / (distance.clamp_min(0.5) * len(points) ** 0.5)
            nearest, slot = distance.min(dim=0)
            weight = weight + functional.one_hot(slot, len(points)).T * gamma / nearest.clamp_min(config.reconstruction_clip)
            pull = weight[:, :, None] * difference
            norms = pull.square().sum(dim=(0, 2)).sqrt()
            parts.append((pull * (bound / norms).clamp_max(1)[None, :, None]).sum(dim=1))
        everything = Contribution(norms=torch.zeros(len(drawn)), weighted_sum=lambda weights: torch.cat(parts))
        return self._sanitizer.release_records([everything], max_grad_norm=bound)
