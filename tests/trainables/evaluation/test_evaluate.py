import json

import numpy as np
import pytest
import torch

from trainables.base import Dataset
from trainables.data import sources
from trainables.evaluation import evaluate as evaluation
from trainables.evaluation import reference as reference_stage
from trainables.evaluation.features import extract
from trainables.evaluation.fidelity import frechet_distance, statistics
from trainables.evaluation.metrics import DEFAULT_METRICS, METRICS, columns
from trainables.evaluation.metrics import reference_stage as declare_reference
from trainables.evaluation.utility import accuracy, predict, train_classifier

CPU = torch.device("cpu")
SAMPLES = 1000
STANDARD = columns(DEFAULT_METRICS)


@pytest.fixture(scope="module")
def digits():
    return sources.load("digits")


@pytest.fixture(scope="module")
def reference(digits, tmp_path_factory):
    directory = tmp_path_factory.mktemp("reference")
    reference_stage.compute(declare_reference(SAMPLES).config, *digits, directory, CPU)
    return directory


def real_sampler(train: Dataset, classes_shown=range(10), wrong_labels=False):
    """Draws real training images: of the class asked for, or always of ``classes_shown[label]``."""
    images = torch.from_numpy(train.images).float() / 255
    members = [np.flatnonzero(train.labels == k) for k in range(10)]

    def sample(labels: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
        picks = torch.randint(0, 10**6, (len(labels),), generator=rng)
        if wrong_labels:
            return images[picks % len(images)]
        shown = list(classes_shown)
        chosen = [members[shown[label]][pick % len(members[shown[label]])] for label, pick in zip(labels, picks, strict=True)]
        return images[chosen]

    return sample


def noise_sampler(labels: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    return torch.rand(len(labels), 1, 28, 28, generator=rng)


@pytest.fixture(scope="module")
def score(digits, reference):
    def of(sampler, call=evaluation.evaluate, samples=SAMPLES, seed=0):
        train, test = digits
        return call(sampler, info=train.info, reference=reference, test=test, samples=samples, seed=seed, device=CPU)

    return of


@pytest.fixture(scope="module")
def real_score(score, digits):
    return score(real_sampler(digits[0]))


# --- whole evaluations --------------------------------------------------------------------------------------------------


def test_real_images_reach_the_ceilings_that_the_reference_stage_states(real_score, reference):
    ceilings = reference_stage.load(reference).summary["real"]
    assert list(ceilings) == STANDARD
    for name in ("gen2real_cnn", "gen2real_mlp", "gen2real_logreg"):
        assert real_score[name] > 0.9
        assert real_score[name] == pytest.approx(ceilings[name], abs=0.05)
    assert real_score["real2gen_cnn"] > 0.99
    assert real_score["is_dataset_classifier"] == pytest.approx(ceilings["is_dataset_classifier"], abs=0.5)


def test_columns_are_those_of_the_schema_and_one_a_class(real_score):
    by_class = {kind: {f"gen2real_{kind}_class_{k}" for k in range(10)} for kind in ("cnn", "mlp", "logreg")}
    assert set(real_score) == set(STANDARD).union(*by_class.values())
    for kind, names in by_class.items():
        assert np.mean([real_score[name] for name in names]) == pytest.approx(real_score[f"gen2real_{kind}"], abs=0.01)


def test_the_same_seed_gives_the_same_numbers_and_another_one_others(score, digits, real_score):
    assert score(real_sampler(digits[0])) == real_score
    assert score(real_sampler(digits[0]), seed=1) != real_score


def test_an_evaluation_leaves_the_global_coins_alone(score, digits):
    before = torch.get_rng_state()
    score(real_sampler(digits[0]), call=evaluation.quick, samples=100)
    assert torch.equal(torch.get_rng_state(), before)


def test_labels_that_say_nothing_score_near_chance(score, digits):
    found = score(real_sampler(digits[0], wrong_labels=True))
    for name in ("gen2real_cnn", "gen2real_mlp", "gen2real_logreg", "real2gen_cnn"):
        assert found[name] < 0.25


def test_a_collapsed_sampler_scores_lower_everywhere(score, digits, real_score):
    found = score(real_sampler(digits[0], classes_shown=[0, 1, 2, 3, 4, 0, 1, 2, 3, 4]))
    for name in STANDARD:
        metric = METRICS[name]
        worse = found[name] < real_score[name] if metric.direction == "higher" else found[name] > real_score[name]
        assert worse, name
    assert found["is_dataset_classifier"] < 6
    # Classes 5 to 9 were shown as 0 to 4, so no test image of them can be told.
    assert found["gen2real_cnn"] < 0.6


def test_the_real_floor_of_the_distance_lies_far_below_noise(score, reference):
    floor = reference_stage.load(reference).summary["real"]["fd_dataset_classifier"]
    assert 0 < floor < 0.1 * score(noise_sampler, call=evaluation.quick)["fd_dataset_classifier"]


def test_quick_is_a_part_of_the_whole_evaluation(score, digits, real_score):
    found = score(real_sampler(digits[0]), call=evaluation.quick)
    assert found == {name: real_score[name] for name in ("gen2real_logreg", "fd_dataset_classifier")}


# --- samples ------------------------------------------------------------------------------------------------------------


def test_labels_are_balanced_and_fewer_samples_are_the_first_of_more(digits):
    info = digits[0].info
    images, labels = evaluation.generate(noise_sampler, info=info, samples=1200, seed=0)
    assert torch.bincount(labels).tolist() == [120] * 10
    fewer, _ = evaluation.generate(noise_sampler, info=info, samples=1000, seed=0)
    assert torch.equal(fewer, images[:1000])


def test_batches_are_bounded_and_samples_are_rounded(digits):
    sizes = []

    def sampler(labels, rng):
        sizes.append(len(labels))
        return torch.full((len(labels), 1, 28, 28), 0.5)

    images, _ = evaluation.generate(sampler, info=digits[0].info, samples=1101, seed=0)
    assert max(sizes) <= 500
    assert sum(sizes) == 1101
    assert images.unique().tolist() == [128]


@pytest.mark.parametrize(
    ("sampler", "message"),
    [
        (lambda labels, rng: torch.zeros(len(labels), 1, 32, 32), r"\(20, 1, 32, 32\); expected \(20, 1, 28, 28\)"),
        (lambda labels, rng: torch.full((len(labels), 1, 28, 28), float("nan")), "not finite"),
    ],
)
def test_samples_that_cannot_be_images_are_refused(digits, sampler, message):
    with pytest.raises(ValueError, match=message):
        evaluation.generate(sampler, info=digits[0].info, samples=20, seed=0)


def test_the_fewest_samples_that_can_be_evaluated_have_finite_metrics_and_fewer_are_refused(score):
    assert np.isfinite([value for name, value in score(noise_sampler, samples=10).items() if name in METRICS]).all()
    with pytest.raises(ValueError, match="samples is 9; expected at least 10"):
        score(noise_sampler, samples=9)


# --- the reference stage --------------------------------------------------------------------------------------------------


def test_the_loaded_reference_is_the_computed_one(digits, reference):
    loaded = reference_stage.load(reference)
    _, test = digits
    images, labels = torch.from_numpy(test.images), torch.from_numpy(test.labels)
    assert accuracy(predict(loaded.classifier, images, CPU), labels, 10)[0] == loaded.summary["test_accuracy"] > 0.95
    features, logits = extract(loaded.classifier, images, CPU)
    assert np.allclose(features.mean(dim=0), loaded.statistics["mu"], atol=1e-5)
    assert torch.equal(logits.argmax(dim=1), predict(loaded.classifier, images, CPU))
    assert frechet_distance(statistics(features), loaded.statistics) == pytest.approx(0, abs=1e-3)


def test_a_small_training_set_bounds_the_number_of_real_images(digits, tmp_path):
    train, test = digits
    few = Dataset(images=train.images[:300], labels=train.labels[:300], classes=10)
    reference_stage.compute(declare_reference(10000).config, few, test, tmp_path, CPU)
    assert json.loads((tmp_path / "reference.json").read_text())["samples"] == 300


def test_six_thousand_real_fashion_mnist_images_teach_what_is_known_of_them():
    try:
        train, test = sources.load("fashion_mnist", size=6000)
    except sources.MissingData as error:
        pytest.skip(str(error))
    images, labels, test_images, test_labels = map(torch.from_numpy, (train.images, train.labels, test.images, test.labels))
    for kind, least in (("cnn", 0.85), ("mlp", 0.83), ("logreg", 0.81)):
        network = train_classifier(kind, images, labels, 10, seed=0, device=CPU)
        assert accuracy(predict(network, test_images, CPU), test_labels, 10)[0] > least


def test_colour_images_of_32_pixels_with_two_classes():
    train, _ = sources.load("digits", resolution=32, channels=3)
    images, labels = torch.from_numpy(train.images[:600]), torch.from_numpy(train.labels[:600] % 2)
    for kind in ("cnn", "mlp", "logreg"):
        network = train_classifier(kind, images[:400], labels[:400], 2, seed=0, device=CPU)
        assert accuracy(predict(network, images[400:], CPU), labels[400:], 2)[0] > 0.8


# --- parts ----------------------------------------------------------------------------------------------------------------


def test_features_of_an_image_do_not_depend_on_its_batch(reference, digits):
    classifier = reference_stage.load(reference).classifier
    images = torch.from_numpy(digits[1].images)
    together, _ = extract(classifier, images, CPU)
    alone = torch.cat([extract(classifier, image[None], CPU)[0] for image in images[:20]])
    assert torch.allclose(together[:20], alone, rtol=1e-4, atol=1e-4)


def test_accuracy_counts_every_class_by_itself():
    overall, by_class = accuracy(torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 1, 1]), 3)
    assert overall == 0.75
    assert by_class[:2] == [1.0, pytest.approx(2 / 3)]
    assert np.isnan(by_class[2])


def test_training_is_bit_for_bit_repeatable(digits):
    images, labels = (torch.from_numpy(a[:300]) for a in (digits[0].images, digits[0].labels))
    once, again, other = (train_classifier("cnn", images, labels, 10, seed=s, device=CPU).state_dict() for s in (3, 3, 4))
    assert all(torch.equal(once[name], again[name]) for name in once)
    assert not torch.equal(once["head.weight"], other["head.weight"])
