"""The reference row: real images, each once, and no release."""

import numpy as np
import pytest
import torch

from trainables.base import Dataset
from trainables.evaluation.evaluate import generate
from trainables.privacy import accounting
from trainables.privacy.sanitizer import PrivacyViolation, Sanitizer
from trainables.real import method
from trainables.real.training import Trainer, load_sampler

CPU = torch.device("cpu")


def random_data(records: int, shape: tuple[int, int, int], classes: int) -> Dataset:
    """Different images, labels in turn."""
    images = np.random.default_rng(0).integers(0, 256, (records, *shape), dtype=np.uint8)
    return Dataset(images=images, labels=np.arange(records) % classes, classes=classes)


def trained(data: Dataset, seed: int = 0, **settings) -> tuple[Trainer, Sanitizer]:
    config = method.Config(**settings)
    sanitizer = Sanitizer(method.mechanism(config, data.info, "replace_one"))
    trainer = Trainer(config, data, sanitizer, {}, CPU, seed)
    sanitizer.open_step(0, 0)
    assert trainer.step() == {}
    sanitizer.close_step()
    return trainer, sanitizer


def kept_sampler(trainer: Trainer, data: Dataset):
    return load_sampler(method.Config(), data.info, trainer.released(), CPU)


@pytest.mark.parametrize(("shape", "classes"), [((1, 28, 28), 10), ((3, 32, 32), 2), ((1, 8, 8), 10)])
def test_an_evaluation_gets_different_training_images_of_the_classes_it_asks_for(shape, classes):
    data = random_data(400, shape, classes)
    trainer, sanitizer = trained(data, samples_a_class=30)
    assert sanitizer.releases == [0]
    images, labels = generate(kept_sampler(trainer, data), info=data.info, samples=20 * classes, seed=0)
    assert images.shape == (20 * classes, *shape)
    records = {image.tobytes(): label for image, label in zip(data.images, data.labels, strict=True)}
    found = [image.tobytes() for image in images.numpy()]
    assert len(set(found)) == len(found)
    assert [records[image] for image in found] == labels.tolist()


def test_the_choice_is_the_seeds_and_starts_anew_with_every_load():
    data = random_data(60, (1, 8, 8), 2)
    one, same, other = (trained(data, seed, samples_a_class=10)[0] for seed in (0, 0, 1))
    assert torch.equal(one.released()["images"], same.released()["images"])
    assert not torch.equal(one.released()["images"], other.released()["images"])
    labels = torch.tensor([0, 1, 1, 0])
    first, again = (kept_sampler(one, data)(labels, torch.Generator().manual_seed(seed)) for seed in (0, 1))
    assert torch.equal(first, again)
    assert torch.equal(one.sample(labels, torch.Generator()), first)


def test_what_is_kept_is_so_many_of_a_class_or_all():
    data = random_data(50, (1, 8, 8), 2)
    rare = Dataset(images=data.images, labels=np.where(np.arange(50) < 3, 1, 0), classes=2)
    assert trained(rare, samples_a_class=10)[0].released()["labels"].bincount().tolist() == [10, 3]
    missing = Dataset(images=data.images, labels=np.zeros(50, dtype=np.int64), classes=2)
    assert trained(missing, samples_a_class=10)[0].released()["labels"].bincount(minlength=2).tolist() == [10, 0]


def test_more_than_is_kept_is_refused_with_a_reason():
    data = random_data(60, (1, 8, 8), 2)
    sampler = kept_sampler(trained(data, samples_a_class=5)[0], data)
    labels, rng = torch.tensor([0, 0, 0, 1]), torch.Generator()
    sampler(labels, rng)
    with pytest.raises(ValueError, match="6 real images of class 0 are asked for in all and 5 are kept; raise samples_a_class"):
        sampler(labels, rng)


def test_a_resumed_trainer_keeps_the_same_images():
    data = random_data(60, (1, 8, 8), 2)
    whole = trained(data, samples_a_class=5)[0]
    config = method.Config(samples_a_class=5)
    resumed = Trainer(config, data, Sanitizer(method.mechanism(config, data.info, "replace_one")), {}, CPU, 0)
    resumed.load_state_dict(whole.state_dict())
    assert resumed.state_dict() == {"step": 1}
    assert torch.equal(resumed.released()["images"], whole.released()["images"])


def test_nothing_is_proven_and_nothing_may_be_released():
    data = random_data(20, (1, 8, 8), 2)
    (phase,) = phases = method.mechanism(method.Config(), data.info, "replace_one")
    assert not phase.releases
    assert accounting.proof(phases, "pld") == "not_private"
    sanitizer = Sanitizer(phases)
    sanitizer.open_step(0, 0)
    with pytest.raises(PrivacyViolation):
        sanitizer.sample_records()
