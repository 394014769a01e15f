"""The grey-box score on toys: what it collects, that it changes nothing, and what it shows at a known noise."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from trainables.base import Dataset
from trainables.privacy.audit_bound import lower_bound
from trainables.privacy.canary_scores import CanaryScores, RecordContributions
from trainables.privacy.mechanism import Phase, RecordMechanism
from trainables.privacy.sanitizer import Contribution, Sanitizer

RECORDS, CANARIES, SIDE, CLASSES = 400, 120, 16, 3


class Toy:
    """Releases sums of images, a block a class: every record adds its pixels in [-1, 1], clipped to norm 1."""

    def __init__(self, *, present: np.ndarray, noise_multiplier: float, rate: float = 1.0, blocks: int = CLASSES) -> None:
        coins = np.random.default_rng(7)
        shape = (RECORDS + CANARIES, 1, SIDE, SIDE)
        images, labels = coins.integers(0, 256, shape, dtype=np.uint8), coins.integers(0, CLASSES, len(range(shape[0])))
        self.slots, self.blocks = np.sort(coins.permutation(RECORDS)[:CANARIES]), blocks
        self.canaries = Dataset(images=images[RECORDS:], labels=labels[RECORDS:], classes=CLASSES)
        self.stand_ins = Dataset(images=images[self.slots], labels=labels[self.slots], classes=CLASSES)
        self.images, self.labels = images[:RECORDS].copy(), labels[:RECORDS].copy()
        self.images[self.slots[present]] = self.canaries.images[present]
        self.labels[self.slots[present]] = self.canaries.labels[present]
        mechanism = RecordMechanism(
            sampling_rate=rate, records=RECORDS, release_shape=(blocks, SIDE**2), noise_multiplier=noise_multiplier
        )
        self.phases = (Phase(mechanism=mechanism, steps=200),)

    def scores(self) -> CanaryScores:
        return CanaryScores(self.slots, self.canaries, self.stand_ins)

    def vectors(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return (images.double() / 127.5 - 1).flatten(1)

    def contributions(self, drawn: np.ndarray) -> Iterator[Contribution]:
        for records in torch.from_numpy(drawn).split(50):
            rows = self.vectors(torch.from_numpy(self.images[records.numpy()]), torch.empty(0))
            blocks = (
                torch.from_numpy(self.labels[records.numpy()])
                if self.blocks > 1
                else torch.zeros(len(records), dtype=torch.int64)
            )

            def weighted_sum(weights: torch.Tensor, rows: torch.Tensor = rows, blocks: torch.Tensor = blocks) -> torch.Tensor:
                total = torch.zeros(self.blocks, SIDE**2, dtype=torch.float64)
                return total.index_add_(0, blocks, rows * weights.double()[:, None])

            yield Contribution(norms=rows.norm(dim=1), weighted_sum=weighted_sum, records=records)

    def run(self, steps: int, scores: CanaryScores | None, *, first: int = 0, seed: int | None = None) -> list[torch.Tensor]:
        sanitizer = Sanitizer(self.phases, injected_seed=seed, canaries=scores)
        released = []
        for step in range(first, first + steps):
            sanitizer.open_step(step, 0)
            drawn = sanitizer.sample_records()
            sanitizer.explain_records(RecordContributions(self.vectors, blocks=self.blocks))
            released.append(sanitizer.release_records(self.contributions(drawn), max_grad_norm=1.0))
            sanitizer.close_step()
        return released


def coins(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2, CANARIES).astype(bool)


def right(scores: CanaryScores, present: np.ndarray) -> int:
    """Of the 30 most and the 30 least likely canaries."""
    order = np.argsort(scores.scores().numpy())
    return int(present[order[-30:]].sum() + (~present[order[:30]]).sum())


def test_watching_changes_no_release_and_no_draw() -> None:
    toy = Toy(present=coins(1), noise_multiplier=2.0, rate=0.3)
    for watched, alone in zip(toy.run(3, toy.scores(), seed=5), toy.run(3, None, seed=5), strict=True):
        assert torch.equal(watched, alone)


@pytest.mark.parametrize(("rate", "steps", "blocks"), [(1.0, 1, CLASSES), (0.2, 60, CLASSES), (1.0, 1, 1)])
def test_without_noise_every_coin_is_told(rate: float, steps: int, blocks: int) -> None:
    present = coins(2)
    toy = Toy(present=present, noise_multiplier=0.0, rate=rate, blocks=blocks)
    scores = toy.scores()
    toy.run(steps, scores)
    assert right(scores, present) == 60
    assert scores.releases == steps


def test_scores_know_nothing_where_the_noise_drowns_everything() -> None:
    """Under noise of 1000 C guesses are fair coins: 600 of them miss 300 by less than 5 standard deviations (p < 1e-6)."""
    found = 0
    for seed in range(10):
        toy = Toy(present=coins(seed), noise_multiplier=1000.0)
        scores = toy.scores()
        toy.run(1, scores)
        found += right(scores, coins(seed))
    assert abs(found - 300) < 5 * np.sqrt(600) / 2


def test_known_noise_is_bounded_from_below_and_not_above() -> None:
    """One release at std / sensitivity .5 / 2: epsilon is far over 10 (delta 1e-5). At half the noise of epsilon 1 (sigma_eff
    about 3.7, so noise_multiplier 7.4) the bound may not come near; the toy at .5 must show more than 1."""
    weak, strong = coins(3), coins(4)
    loud, quiet = Toy(present=weak, noise_multiplier=7.4), Toy(present=strong, noise_multiplier=0.5)
    bounds = []
    for toy, present in ((loud, weak), (quiet, strong)):
        scores = toy.scores()
        toy.run(1, scores)
        bounds.append(lower_bound(canaries=CANARIES, guesses=60, right=right(scores, present), delta=1e-5))
    assert bounds[0] <= 1.0 < bounds[1]


def test_what_was_said_before_an_interruption_counts() -> None:
    toy = Toy(present=coins(5), noise_multiplier=2.0, rate=0.3)
    whole, first, second = toy.scores(), toy.scores(), toy.scores()
    toy.run(6, whole, seed=9)
    toy.run(4, first, seed=9)
    second.add(first.state_dict())
    toy.run(2, second, first=4, seed=9)
    assert torch.equal(whole.scores(), second.scores())
    assert second.releases == 6


def test_contributions_that_do_not_fit_into_memory_say_the_same_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    toy = Toy(present=coins(6), noise_multiplier=1.0, blocks=1)
    whole, parts = toy.scores(), toy.scores()
    toy.run(1, whole, seed=2)
    monkeypatch.setattr("trainables.privacy.canary_scores.HELD", 50 * SIDE**2)
    toy.run(1, parts, seed=2)
    assert torch.allclose(whole.scores(), parts.scores(), rtol=1e-9, atol=1e-12)


def test_records_that_are_not_finite_say_nothing() -> None:
    toy = Toy(present=coins(6), noise_multiplier=1.0)
    scores = toy.scores()
    broken = RecordContributions(lambda images, labels: torch.full((len(images), SIDE**2), torch.nan), blocks=CLASSES)
    release = torch.ones(CLASSES, SIDE**2, dtype=torch.float64)
    scores.observe(release, broken, sampling_rate=1.0, noise_multiplier=1.0, max_grad_norm=1.0)
    assert torch.equal(scores.scores(), torch.zeros(CANARIES, dtype=torch.float64))
