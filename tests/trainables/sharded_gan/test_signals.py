"""What a shard answers, against loops over single images as the descriptions write them."""

import math

import numpy as np
import pytest
import torch
from engine_runs import CPU, RECONSTRUCTION, compute_stages, random_data, settings, start

from trainables import registry
from trainables.coins import torch_coins
from trainables.dp_energy.features import Features
from trainables.networks.critic import Critics
from trainables.networks.encoder import Encoders
from trainables.sharded_gan import signals
from trainables.sharded_gan.critics import Batches
from trainables.sharded_gan.method import class_presence
from trainables.sharded_gan.settings import CriticConfig
from trainables.sharded_gan.signals import EnergyCritic, Reconstruction, TrainedCritic
from trainables.sharded_gan.states import ShardStates

SHARDS = np.array([[1, 2, 3, 4, 5], [6, 7, 8, 9, 10], [11, 12, 13, 14, 15]])
ASKED = np.array([0, 2])
CLIP = 3.0


@pytest.fixture
def data():
    """Three classes; shard 0 has one record of class 1, shard 2 none of class 2."""
    data = random_data(16, classes=3)
    data.labels[SHARDS[0]] = [0, 0, 1, 2, 2]
    data.labels[SHARDS[2]] = [0, 1, 0, 1, 0]
    return data


@pytest.fixture
def shown(data):
    """(generated images ``[7, 1, 8, 8]``, labels): the second one a record of shard 0, the third near it."""
    images = torch.rand(7, 1, 8, 8, generator=torch_coins(0, "test"))
    images[1] = torch.from_numpy(data.images[1]) / 255
    images[2] = images[1] + 1e-3
    return images, torch.tensor([0, 0, 0, 1, 1, 2, 2])


def batches(data):
    return Batches(torch.from_numpy(data.images), torch.from_numpy(data.labels), SHARDS)


def energy(data, **changes):
    return EnergyCritic(CriticConfig(kind="energy", **changes), batches(data), data.info, 0, CPU)


def config(**changes):
    return registry.method("ef_dpgan").Config(**settings(RECONSTRUCTION, {"reconstruction_clip": CLIP}, changes))


def alike(data, shard, label):
    """Images of the shard's records of the class, ``[n, 1, 8, 8]``."""
    records = [record for record in SHARDS[shard] if data.labels[record] == label]
    return torch.from_numpy(data.images[records]) / 255


def test_energy_is_the_mean_unit_vector_away_from_the_class(data, shown):
    images, labels = shown
    answers = energy(data).answers(ASKED, images, labels, 0)
    for place, shard in enumerate(ASKED):
        for i, label in enumerate(labels.tolist()):
            real = alike(data, shard, label)
            pulls = [(images[i] - x) / max(math.dist(images[i].flatten(), x.flatten()), 0.5) for x in real]
            expected = sum(pulls) / len(pulls) if pulls else torch.zeros(1, 8, 8)
            torch.testing.assert_close(answers[place, i], expected, rtol=1e-4, atol=1e-5)
    assert answers.flatten(2).norm(dim=2).max() <= 1 + 1e-5


def test_repulsion_is_the_mean_unit_vector_from_the_others_of_the_class(data, shown):
    images, labels = shown
    found = energy(data).repulsion(images, labels)
    for i, label in enumerate(labels.tolist()):
        others = [images[j] for j in range(len(images)) if j != i and labels[j] == label]
        pushes = [(images[i] - x) / max(math.dist(images[i].flatten(), x.flatten()), 0.5) for x in others]
        torch.testing.assert_close(found[i], sum(pushes) / len(pushes), rtol=1e-4, atol=1e-5)
    assert not energy(data).repulsion(images[:1], labels[:1]).any(), "alone in its class"


def test_energy_on_random_convolutions_is_the_gradient_of_the_mean_distance_of_features(data, shown):
    images, labels = shown
    critic = energy(data, features="random_convolutions", filters=3)
    phi = Features(CriticConfig(kind="energy", features="random_convolutions", filters=3), 1, 0, CPU)
    slope = phi.slope((1, 8, 8))
    images = images[[0, 3, 5]].requires_grad_()  # none of them so near to a record that its distance is bounded below
    labels = labels[[0, 3, 5]]
    answers = critic.answers(ASKED, images.detach(), labels, 0)
    for place, shard in enumerate(ASKED):
        for i, label in enumerate(labels.tolist()):
            real = alike(data, shard, label)
            distances = [(phi(images[i : i + 1]) - phi(x[None])).norm() for x in real]
            loss = sum(distances) / len(distances) if distances else 0.0 * images.sum()
            (expected,) = torch.autograd.grad(loss, images)
            torch.testing.assert_close(answers[place, i] * slope, expected[i], rtol=1e-4, atol=1e-5)
    assert 1 < slope < 10
    assert answers.flatten(2).norm(dim=2).max() <= 1 + 1e-5


def residual(image, target):
    return (image - target) / max(float((image - target).norm()), CLIP)


def test_reconstruction_pulls_to_the_nearest_image_of_the_class(data, shown):
    images, labels = shown
    answers = Reconstruction(config(), batches(data), None, data.info, 0).answers(ASKED, images, labels, 0)
    for place, shard in enumerate(ASKED):
        for i, label in enumerate(labels.tolist()):
            real = alike(data, shard, label)
            nearest = min(real, key=lambda x: math.dist(images[i].flatten(), x.flatten()), default=images[i])
            torch.testing.assert_close(answers[place, i], residual(images[i], nearest))
    assert not answers[0, 1].any(), "the image is the record"
    assert answers.flatten(2).norm(dim=2).max() <= 1 + 1e-5


def test_reconstruction_by_latent_asks_the_shards_own_encoder(tmp_path, data, shown):
    images, labels = shown
    settings = config(matching="latent", shards=3)
    encoders = ShardStates(compute_stages("ef_dpgan", settings.model_dump(), data, tmp_path), "encoders")
    answers = Reconstruction(settings, batches(data), encoders, data.info, 0).answers(ASKED, images, labels, 0)
    by_pixels = Reconstruction(config(), batches(data), None, data.info, 0).answers(ASKED, images, labels, 0)
    for place, shard in enumerate(ASKED):
        encoder = Encoders(data.info.shape, latent=settings.encoder.latent, channels=settings.encoder.channels, count=1)
        encoder.load_state_dict(encoders.read([shard]))
        for i, label in enumerate(labels.tolist()):
            real = alike(data, shard, label)
            if len(real):
                with torch.no_grad():
                    code, codes = encoder(images[None, i : i + 1])[0][0], encoder(real[None])[0][0]
                nearest = real[int((codes - code).norm(dim=1).argmin())]
                torch.testing.assert_close(answers[place, i], residual(images[i], nearest))
            else:
                assert not answers[place, i].any()
    assert not torch.equal(answers, by_pixels)


def test_reconstruction_by_chance_takes_every_image_of_the_class_equally_often(data, shown):
    images, labels = shown
    signal = Reconstruction(config(matching="random", reconstruction_clip=100.0), batches(data), None, data.info, 0)
    steps = 3000
    for i, label, shard in ((0, 0, 2), (3, 1, 0), (5, 2, 0)):
        real = alike(data, shard, label)
        counts = torch.zeros(len(real))
        for step in range(steps):
            target = images[i] - 100 * signal.answers(np.array([shard]), images, labels, step)[0, i]
            counts[int((real - target).flatten(1).norm(dim=1).argmin())] += 1
            assert (real - target).flatten(1).norm(dim=1).min() < 1e-3
        # 5 standard deviations of a fair coin's count. The coins are public, so that this is no game of chance.
        assert (counts - steps / len(real)).abs().max() <= 5 * math.sqrt(steps * 0.25)


def test_an_untrained_clone_answers_with_its_pretrained_gradient(tmp_path, data, shown):
    images, labels = shown
    critic = settings()["critic"]
    trial = registry.method("gs_wgan").Config(**settings({"shards": 3, "critic": {**critic, "steps": 0}}))
    pretrained = ShardStates(compute_stages("gs_wgan", trial.model_dump(), data, tmp_path), "critics")
    arguments = (trial.critic, batches(data), pretrained, None, data.info, 0, torch.device("cpu"))
    answers = TrainedCritic(*arguments, keeps=False).answers(ASKED, images, labels, 0)
    for place, shard in enumerate(ASKED):
        network = Critics(data.info.shape, 3, channels=4, count=1)
        network.load_state_dict(pretrained.read([shard]))
        asked = images[None].clone().requires_grad_()
        (gradient,) = torch.autograd.grad(-network(asked, labels[None]).sum(), asked)
        torch.testing.assert_close(answers[place], gradient[0], rtol=1e-4, atol=1e-6)
        assert gradient.any()


@pytest.mark.parametrize("at_once", [1, 2])
def test_groups_of_shards_answer_as_all_at_once(tmp_path, monkeypatch, data, shown, at_once):
    images, labels = shown
    asked = np.array([0, 1, 2])
    trial = config(matching="latent", shards=3)
    stages = compute_stages("ef_dpgan", trial.model_dump(), data, tmp_path)

    def fakes(wanted, purpose, key):
        return torch.rand(len(wanted), 1, 8, 8, generator=torch_coins(0, purpose, *key))

    critic = (trial.critic, batches(data), ShardStates(stages, "critics"), fakes, data.info, 0, torch.device("cpu"))

    def all_answers():
        found = [
            energy(data),
            Reconstruction(trial, batches(data), ShardStates(stages, "encoders"), data.info, 0),
            TrainedCritic(*critic, keeps=False),
        ]
        return [signal.answers(asked, images, labels, 0) for signal in found]

    whole = all_answers()
    monkeypatch.setattr(signals, "SHARDS_AT_ONCE", at_once)
    for one, other in zip(all_answers(), whole, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


def test_repulsion_weighs_no_more_than_the_attraction_that_the_clip_has_left(data):
    """Where the clip leaves the attraction's direction alone, a larger weight of the critic changes nothing."""
    kept = []
    for weight in (50.0, 500.0):
        critic = {"kind": "energy", "weight": weight}
        run = start(settings({"critic": critic, "max_grad_norm": 1.0, "labels": "uniform"}), random_data(), {}, noise=0.0)
        run.advance(0, 4)
        kept.append(run.trainer.released())
    for name, tensor in kept[0].items():
        torch.testing.assert_close(kept[1][name], tensor, rtol=1e-3, atol=1e-4)


def test_all_shards_together_push_as_the_energy_distance_does():
    """Shards so small that most lack most classes: the mean answer less the repulsion is zero where both images are records."""
    data = random_data(4000, classes=4, ordered=True)
    info = data.info
    small = registry.method("ef_dpgan").Config(shards=1000, generator="small", labels="fixed", critic={"kind": "energy"})
    shards = np.arange(4000).reshape(1000, 4)  # in turn: every shard holds every class
    mixed = np.random.default_rng(0).permutation(4000).reshape(1000, 4)
    critic = EnergyCritic(
        small.critic, Batches(torch.from_numpy(data.images), torch.from_numpy(data.labels), shards), info, 0, CPU
    )
    secret = EnergyCritic(
        small.critic, Batches(torch.from_numpy(data.images), torch.from_numpy(data.labels), mixed), info, 0, CPU
    )
    images, labels = torch.rand(8, 1, 8, 8, generator=torch_coins(0, "test")), torch.arange(8) % 4
    whole = critic.answers(np.arange(1000), images, labels, 0).mean(dim=0)
    split = secret.answers(np.arange(1000), images, labels, 0).mean(dim=0)
    assert class_presence(small, info) == pytest.approx(1 - 0.75**4)
    torch.testing.assert_close(
        split, class_presence(small, info) * whole, rtol=0, atol=0.02 * float(whole.flatten(1).norm(dim=1).max())
    )


def test_the_repulsion_has_its_own_weight():
    """Two runs whose answers are the same and whose repulsion is not."""
    found = {}
    for repulsion in (0.0, 1.0):
        critic = {"kind": "energy", "repulsion": repulsion}
        run = start(settings({"critic": critic, "labels": "balanced"}), random_data(), {}, noise=0.0)
        run.advance(0, 1)
        found[repulsion] = run.trainer.released()
    assert any(not torch.equal(found[0.0][name], tensor) for name, tensor in found[1.0].items())
