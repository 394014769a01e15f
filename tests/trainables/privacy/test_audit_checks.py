"""Each check of the audit against small faults, planted in a real trainer. Without them it passes: ``test_audit``."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from trainables.dp_energy.training import Trainer as EnergyTrainer
from trainables.gs_wgan.training import Trainer as ShardTrainer
from trainables.pate_gan.training import Trainer as TeacherTrainer
from trainables.privacy.audit import _heading
from trainables.privacy.auditing import pairs, releases
from trainables.privacy.auditing.evidence import Evidence
from trainables.privacy.auditing.neighbours import KEEP_LABEL, KINDS, neighbour
from trainables.privacy.auditing.settings import merged, subject
from trainables.privacy.auditing.statistics import count_is_unlikely, dependent_pair, not_standard_normal
from trainables.privacy.sanitizer import Contribution

ENERGY_CRITIC = ("train.critic.kind=energy", "train.generator=small")


@pytest.fixture
def verdict(tmp_path):
    """verdict(check, trainer): status and sentence of one check of the method whose trainer that is, or descends from."""
    torch.set_num_threads(1)
    names = {EnergyTrainer: ("dp_energy", ()), ShardTrainer: ("gs_wgan", ENERGY_CRITIC), TeacherTrainer: ("pate_gan", ())}

    def run(check, trainer, *edits):
        name, usual = next(found for base, found in names.items() if issubclass(trainer, base))
        return check(Evidence(replace(subject(name, scratch=tmp_path, edits=(*usual, *edits)), trainer=trainer)))

    return run


class SeededNoise(EnergyTrainer):
    """Noise of the trial's seed, the same for every release."""

    def __init__(self, config, data, sanitizer, stages, device, seed):
        super().__init__(config, data, sanitizer, stages, device, seed)
        sanitizer._noise = lambda: np.random.Generator(np.random.PCG64(seed))


class SeededNoiseByStep(EnergyTrainer):
    """Noise of the trial's seed, another one a step."""

    def __init__(self, config, data, sanitizer, stages, device, seed):
        super().__init__(config, data, sanitizer, stages, device, seed)
        sanitizer._noise = lambda: np.random.Generator(np.random.PCG64([seed, self._step]))


class UniformNoise(EnergyTrainer):
    """Noise of the right standard deviation, but not Gaussian."""

    def __init__(self, config, data, sanitizer, stages, device, seed):
        super().__init__(config, data, sanitizer, stages, device, seed)

        class Uniform:
            def standard_normal(self, shape):
                return np.random.default_rng().uniform(-(3**0.5), 3**0.5, shape)

        sanitizer._noise = Uniform


class SeededDraws(EnergyTrainer):
    """Records drawn by torch's global generator, which everyone seeds."""

    def __init__(self, config, data, sanitizer, stages, device, seed):
        super().__init__(config, data, sanitizer, stages, device, seed)
        draw = sanitizer._coins
        sanitizer._coins = lambda count: (
            torch.randint(2**62, (count,)).numpy().astype(np.uint64) * np.uint64(4) + 0 * draw(count)
        )


class OwnDraws(EnergyTrainer):
    """Asks for a draw and answers with other records."""

    def _release(self, slots):
        sample = self._sanitizer.sample_records
        self._sanitizer.sample_records = lambda: np.arange(len(sample()))
        try:
            return super()._release(slots)
        finally:
            self._sanitizer.sample_records = sample


class WrongNorms(EnergyTrainer):
    """Tells the clip that contributions are shorter than they are."""

    longer = 2.0

    def _release(self, slots):
        release = self._sanitizer.release_records

        def shortened(contributions, *, max_grad_norm):
            parts = (
                Contribution(part.norms, lambda weights, part=part: self.longer * part.weighted_sum(weights))
                for part in contributions
            )
            return release(parts, max_grad_norm=max_grad_norm)

        self._sanitizer.release_records = shortened
        try:
            return super()._release(slots)
        finally:
            self._sanitizer.release_records = release


class SlightlyWrongNorms(WrongNorms):
    """By less than the neighbours show."""

    longer = 1.02


class DividesByTheDrawn(EnergyTrainer):
    """Divides by the number of records that were drawn, which is secret."""

    def _release(self, slots):
        sample, drawn = self._sanitizer.sample_records, []

        def counted():
            drawn.append(sample())
            return drawn[0]

        self._sanitizer.sample_records = counted
        try:
            return super()._release(slots) / max(len(drawn[0]), 1)
        finally:
            self._sanitizer.sample_records = sample


class BatchMean(EnergyTrainer):
    """Moves features a little towards the mean of the drawn ones: no release moves by more than it may, but it is no sum."""

    def _record_features(self, records):
        features, usable = super()._record_features(records)
        return features + 0.05 * features.mean(dim=0, keepdim=True), usable


class TellsALoss(EnergyTrainer):
    """Reports something of the records beside the release."""

    def step(self):
        return {**super().step(), "brightness": float(self._images.double().mean())}


class RaisesOnDarkImages(EnergyTrainer):
    """Stops on a private value."""

    def _record_features(self, records):
        if bool((self._images[records] == 0).flatten(1).all(dim=1).any()):
            raise ValueError("an empty image")
        return super()._record_features(records)


class CatchesRefusals(EnergyTrainer):
    """Goes on whatever the sanitizer says."""

    def step(self):
        try:
            return super().step()
        except Exception:
            return {}


class UnkeyedCoins(EnergyTrainer):
    """Public coins without a key, which no restart can repeat."""

    def step(self):
        release = super().step()
        with torch.no_grad():
            rng = torch.Generator()
            rng.seed()
            next(self._network.average.parameters()).add_(torch.randn(1, generator=rng))
        return release


class KeepsTheGenerator(EnergyTrainer):
    """Private noise states in the checkpoint: who restores it gets the same noise."""

    def __init__(self, config, data, sanitizer, stages, device, seed):
        super().__init__(config, data, sanitizer, stages, device, seed)
        self.noise = np.random.default_rng()
        sanitizer._noise = lambda: self.noise

    def state_dict(self):
        return {**super().state_dict(), "noise": self.noise.bit_generator.state}

    def load_state_dict(self, state):
        super().load_state_dict(state)
        self.noise.bit_generator.state = state["noise"]


class CentredAnswers(ShardTrainer):
    """Subtracts the mean over the drawn shards before the clip."""

    def _signal(self, name, batches, stages):
        signal = super()._signal(name, batches, stages)
        answers = signal.answers

        def centred(*arguments):
            found = answers(*arguments)
            return found - found.mean(dim=0)

        signal.answers = centred
        return signal


class OneBatchOfTeachers(TeacherTrainer):
    """All teachers learn from the last part."""

    def __init__(self, config, data, sanitizer, stages, device, seed):
        super().__init__(config, data, sanitizer, stages, device, seed)
        self._bank._parts = self._bank._parts[-1:].expand_as(self._bank._parts)


FAULTS = [
    (releases.noise, SeededNoise, "the same noise"),
    (releases.noise, UniformNoise, "not Gaussian"),
    (releases.fresh, SeededNoiseByStep, "the same in two runs of one seed"),
    (releases.fresh, SeededDraws, "draws are the same in two runs"),
    (releases.resume, KeepsTheGenerator, "repeats noise"),
    (releases.refusals, CatchesRefusals, "was not refused"),
    (pairs.sensitivity, OwnDraws, "the record was not drawn"),
    (pairs.sensitivity, WrongNorms, "of the declared sensitivity at step 0"),
    (pairs.sensitivity, SlightlyWrongNorms, "wrong norms"),
    (pairs.sensitivity, RaisesOnDarkImages, "replaced by zeros it raised ValueError"),
    (pairs.sensitivity, BatchMean, "9 contributions to step 0 change (record 0 replaced by zeros)"),
    (pairs.stateless, BatchMean, "8 records contribute otherwise to step 1 where a record less is drawn"),
    (pairs.forced, DividesByTheDrawn, "(with other draws)"),
    (pairs.forced, TellsALoss, "the diagnostic brightness differs at step 0"),
    (pairs.forced, UnkeyedCoins, "public coins have to be keyed"),
    (pairs.stateless, CentredAnswers, "where another shard is drawn with it"),
    (pairs.disjoint, CentredAnswers, "parts have to be disjoint"),
    (pairs.disjoint, OneBatchOfTeachers, "reaches teachers 0, 1, 2, 3, 4, 5"),
]


@pytest.mark.parametrize(("check", "trainer", "words"), FAULTS, ids=lambda value: getattr(value, "__name__", ""))
def test_a_planted_fault_is_found(verdict, check, trainer, words):
    status, what = verdict(check, trainer)
    assert status == "failed"
    assert words in what


@pytest.mark.parametrize("kind", KINDS)
def test_a_neighbour_differs_in_one_record(tmp_path, kind):
    data = subject("dp_energy", scratch=tmp_path).data
    other = neighbour(data, [3], kind)
    changed = [
        not np.array_equal(a, b) or x != y
        for a, b, x, y in zip(data.images, other.images, data.labels, other.labels, strict=True)
    ]
    assert [index for index, differs in enumerate(changed) if differs] == [3]
    assert (other.labels[3] == data.labels[3]) == (kind in KEEP_LABEL)


def test_settings_are_made_small_but_for_those_that_are_written(tmp_path):
    found = subject("gs_wgan", scratch=tmp_path, preset="cpu", edits=["train.shards=5", "critic.steps=3"])
    assert (found.config.shards, found.config.critic.steps, found.config.steps) == (5, 3, 6)
    assert found.config.generator == "small"
    assert len(found.data.labels) == 12
    assert found.phases[0].mechanism.shards == 5


def test_a_run_has_a_last_step_whatever_is_asked_for(tmp_path):
    found = subject("dp_energy", scratch=tmp_path, edits=["train.steps=100"])
    assert (found.config.steps, found.steps) == (100, 12)
    assert "the last 88 steps are not reached" in _heading(found)
    assert Evidence(found).base.next_step == 12


def test_merged_leaves_its_arguments_alone():
    base = {"critic": {"steps": 5}, "steps": 1}
    assert merged(base, {"critic": {"batch": 2}}) == {"critic": {"steps": 5, "batch": 2}, "steps": 1}
    assert base == {"critic": {"steps": 5}, "steps": 1}


def test_the_statistics_tell_normal_numbers_from_others():
    numbers = np.random.default_rng(0).standard_normal(4000)
    assert not_standard_normal(numbers) == ""
    assert "chi-square" in not_standard_normal(0.8 * numbers)
    assert "its mean" in not_standard_normal(numbers + 0.2)
    assert "not Gaussian" in not_standard_normal(np.sign(numbers))
    other = np.random.default_rng(1).standard_normal(4000)
    assert dependent_pair([numbers, other]) == ""
    assert "correlated" in dependent_pair([numbers, 0.9 * other + 0.3 * numbers])
    assert "the same noise" in dependent_pair([numbers, other, numbers])
    assert not count_is_unlikely(250, 1000, 0.25)
    assert count_is_unlikely(330, 1000, 0.25)
    assert count_is_unlikely(999, 1000, 1.0)
