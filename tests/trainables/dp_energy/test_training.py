"""The trainers: what they may depend on, resuming, and the behaviour that VERSION stands for."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from trainables import registry
from trainables.base import Dataset, phase_of
from trainables.coins import numpy_coins
from trainables.privacy.mechanism import scale_noise
from trainables.privacy.sanitizer import Sanitizer

ENERGY = {"generator_channels": 6, "z_dim": 3, "sampling_rate": 0.5, "steps": 4, "slots": 6, "filters": 3}
GUIDED = {**ENERGY, "classifier": {"steps": 3, "sampling_rate": 0.5, "start": 0.3}}
METHODS = [("dp_energy", ENERGY, 4), ("dp_energy_guided", GUIDED, 7)]


class Forced(Sanitizer):
    """Runs the contributions, then releases tensors that depend on the step alone."""

    def release_records(self, contributions, *, max_grad_norm):
        release = super().release_records(contributions, max_grad_norm=max_grad_norm)
        coins = numpy_coins(0, "forced", sum(self.releases))
        return torch.from_numpy(coins.standard_normal(tuple(release.shape))).float()


def make(method: str, settings: dict, data: Dataset, sanitizer=Sanitizer, noise: float = 1.0, injected_seed: int = 5):
    package = registry.method(method)
    config = package.Config(**settings)
    phases = scale_noise(package.mechanism(config, data.info, "replace_one"), noise)
    guard = sanitizer(phases, injected_seed=injected_seed)
    return registry.training(method).Trainer(config, data, guard, {}, torch.device("cpu"), 0), guard, phases


def advance(made, start: int, end: int) -> list[dict[str, float]]:
    trainer, guard, phases = made
    diagnostics = []
    for step in range(start, end):
        guard.open_step(step, phase_of(step, [phase.steps for phase in phases]))
        diagnostics.append(trainer.step())
        guard.close_step()
    return diagnostics


def assert_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(("method", "settings", "steps"), METHODS)
def test_equal_releases_give_bit_equal_generators_on_different_data(random_data, method, settings, steps):
    data = random_data(60, classes=3)
    empty_class = replace(random_data(60, classes=3, seed=1), labels=np.zeros(60, dtype=np.int64))
    one = make(method, settings, data, Forced)
    other = make(method, settings, empty_class, Forced, injected_seed=6)  # and other records are drawn, more or fewer
    assert advance(one, 0, steps) == advance(other, 0, steps)
    assert_equal(one[0].released(), other[0].released())


@pytest.mark.parametrize(("method", "settings", "steps"), METHODS)
def test_other_data_give_another_generator(random_data, method, settings, steps):
    one, other = (make(method, settings, random_data(60, classes=3, seed=seed)) for seed in (0, 1))
    advance(one, 0, steps)
    advance(other, 0, steps)
    assert not torch.equal(one[0].released()["generator.to_image.weight"], other[0].released()["generator.to_image.weight"])


@pytest.mark.parametrize(("method", "settings", "steps"), METHODS)
def test_a_resumed_trainer_goes_on_bit_for_bit(random_data, tmp_path, method, settings, steps):
    data = random_data(60, classes=3)
    torch.manual_seed(1)
    whole = make(method, settings, data)
    diagnostics = advance(whole, 0, steps)
    for stop in range(1, steps):
        torch.manual_seed(2 + stop)  # the global generator is nobody's business
        first = make(method, settings, data)
        advance(first, 0, stop)
        state = first[0].state_dict()
        advance(first, stop, steps)  # a state is a copy: going on does not change it
        torch.save(state, tmp_path / "state.pt")
        second = make(method, settings, data)
        second[0].load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
        assert advance(second, stop, steps) == diagnostics[stop:]
        assert_equal(second[0].released(), whole[0].released())


@pytest.mark.parametrize(("method", "settings", "steps"), METHODS)
def test_the_kept_tensors_sample_as_the_trainer_does(random_data, method, settings, steps):
    data = random_data(30, shape=(3, 12, 8), classes=3)
    made = make(method, settings, data)
    advance(made, 0, steps)
    labels = torch.tensor([2, 0, 1, 1])
    expected = made[0].sample(labels, torch.Generator().manual_seed(3))
    training, config = registry.training(method), registry.method(method).Config(**settings)
    sampler = training.load_sampler(config, data.info, made[0].released(), torch.device("cpu"))
    assert torch.equal(sampler(labels, torch.Generator().manual_seed(3)), expected)
    assert expected.shape == (4, 3, 12, 8)
    assert ("classifier.weight" in made[0].released()) is (method == "dp_energy_guided")


def test_the_guide_starts_when_it_is_told_to_and_changes_the_generator(random_data):
    data = random_data(60, classes=3)
    made = make("dp_energy_guided", GUIDED, data)
    assert ["guidance" in found for found in advance(made, 0, 7)] == [False] * 5 + [True] * 2
    without = make("dp_energy_guided", {**GUIDED, "classifier": {**GUIDED["classifier"], "weight": 0.0}}, data)
    advance(without, 0, 7)
    assert torch.equal(made[0].released()["classifier.weight"], without[0].released()["classifier.weight"])
    assert not torch.equal(made[0].released()["generator.to_image.weight"], without[0].released()["generator.to_image.weight"])


class Sizes(Sanitizer):
    """Keeps the number of records of every micro-batch."""

    def release_records(self, contributions, *, max_grad_norm):
        self.sizes: list[int] = []
        return super().release_records(map(self._count, contributions), max_grad_norm=max_grad_norm)

    def _count(self, contribution):
        self.sizes.append(len(contribution.norms))
        return contribution


@pytest.mark.parametrize(("method", "settings", "steps"), METHODS)
def test_a_draw_of_all_records_in_micro_batches_is_the_draw_at_once(random_data, monkeypatch, method, settings, steps):
    from trainables.dp_energy import training as energy
    from trainables.dp_energy_guided import classifier

    data = random_data(100, classes=3)
    settings = {**settings, "sampling_rate": 1.0}
    if "classifier" in settings:
        settings["classifier"] = {**settings["classifier"], "sampling_rate": 1.0}
    runs, found = [], []
    for size in (9, 4096):
        monkeypatch.setattr(energy, "RECORDS_PER_BATCH", size)
        monkeypatch.setattr(classifier, "RECORDS_PER_BATCH", size)
        runs.append(make(method, settings, data, Sizes, noise=0.0))
        found.append(advance(runs[-1], 0, 2))
    bounded, at_once = (guard.sizes for _, guard, _ in runs)
    assert sum(bounded) == sum(at_once) == 100
    assert max(bounded) <= 9
    assert len(at_once) == 1
    for one, other in zip(*found, strict=True):
        assert one == pytest.approx(other, rel=1e-5)
