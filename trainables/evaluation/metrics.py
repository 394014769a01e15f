"""What the evaluation's numbers are called and mean; importable without torch, for schemas and plans."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal, get_args

from trainables.base import DataInfo, Stage

from .weights import InceptionWeights

EVALUATION_VERSION = 3
"""Raised whenever the same samples, or the same real images, would get other numbers.

3: the real images of the ceilings are a fixed public choice from the training set, before they were its first ones (which
a source that lists one class after the other would have made useless). The generated images' numbers are those of 2.
"""

GROUP_VERSIONS: dict[Group, int] = {"prior_work": 2, "inception": 2}
"""Raised where a group has a new column or another reference: rows that were evaluated with the group are evaluated again,
without training and without a privacy cost. Evaluations without the group keep their identity.

``prior_work`` 2: real2gen. ``inception`` 2: precision and recall; KID no longer compares with the very images that the
method `real` hands out.
"""

MIN_SAMPLES = 10
"""Fewest images that can be evaluated: the inception score splits them in ten."""

Group = Literal["standard", "prior_work", "inception", "efficientnet", "diversity", "memorization"]
GROUPS: tuple[Group, ...] = get_args(Group)
"""What may be asked for. ``standard`` takes about ten seconds for 10,000 gray images on one core, ``prior_work`` another 40
(and once a minute for every 10,000 of the training set); ``inception`` wants a GPU, and its weights; ``efficientnet``
takes two minutes and two small packages. ``diversity`` and ``memorization`` take five seconds each."""

INCEPTION_CPU_SECONDS = 0.15
"""Of one core for one image, measured; what a plan warns of."""
EFFICIENTNET_CPU_SECONDS = 0.012
EFFICIENTNET_COMPARED = 10_000
"""Most generated and most real images that EfficientNet sees: their features are 51 MB."""

DEFAULT_METRICS: tuple[Group, ...] = ("standard",)


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One column of results. A name never changes meaning."""

    group: Group
    """Computed where the evaluation asks for this group, else null."""
    direction: Literal["higher", "lower"]
    """Which way is better."""
    private: bool
    """Computed from the private training set without noise (through its classifier): for the data owner only. The others
    touch private data through the generator alone and are free where the test set is public."""
    reference: str
    """What the generated images are held against."""
    description: str


def _gen2real(group: Group, classifier: str) -> Metric:
    return Metric(
        group=group,
        direction="higher",
        private=False,
        reference="real test set",
        description=f"accuracy on real test images of {classifier} trained on the generated images (last step)",
    )


def _real2gen(classifier: str) -> Metric:
    return Metric(
        group="prior_work",
        direction="higher",
        private=True,
        reference=f"{classifier} trained on the real training set",
        description=f"share of generated images that {classifier} takes for the class they were asked for",
    )


_TRAINING_SET = "real training set, all of it"
_AS_MANY = "as many real as generated ones"
_SOME_OF_IT = f"real training set, at most 10,000 of it; {_AS_MANY}"
_RECORDS = "as many training records as records of the test set, at most 10,000 and at most half of the training set"
_INCEPTION = "Inception of 2015-12-05 by torch-fidelity; uint8 images, gray repeated in three channels"
_EFFICIENTNET = "1280 features of EfficientNet-Lite0 on ImageNet at 96 pixels"

METRICS: dict[str, Metric] = {
    "gen2real_cnn": _gen2real("standard", "a small CNN"),
    "gen2real_mlp": _gen2real("standard", "an MLP with 100 hidden units (10 epochs of Adam, one-cycle)"),
    "gen2real_logreg": _gen2real("standard", "multinomial logistic regression"),
    "real2gen_cnn": Metric(
        group="standard",
        direction="higher",
        private=True,
        reference="CNN trained on the real training set",
        description="share of generated images that the CNN takes for the class they were asked for",
    ),
    "fd_dataset_classifier": Metric(
        group="standard",
        direction="lower",
        private=True,
        reference="real test set, features of the CNN trained on the real training set",
        description="Frechet distance on the CNN's 64 features; not an FID; falls with the number of images",
    ),
    "is_dataset_classifier": Metric(
        group="standard",
        direction="higher",
        private=True,
        reference="CNN trained on the real training set",
        description="inception score from the CNN's predictions, 10 splits; at most the number of classes",
    ),
    "gen2real_lenet": _gen2real(
        "prior_work", "the prior work's CNN (LeNet of GS-WGAN for gray images, the CelebA CNN of DPAC for colour; 50 epochs)"
    ),
    "gen2real_mlp_sklearn": _gen2real("prior_work", "the prior work's MLP (scikit-learn's MLPClassifier as it comes)"),
    "real2gen_lenet": _real2gen("the prior work's CNN"),
    "real2gen_mlp_sklearn": _real2gen("the prior work's MLP"),
    "fid_inception": Metric(
        group="inception",
        direction="lower",
        private=True,
        reference=_TRAINING_SET,
        description=f"FID; falls with the number of images; {_INCEPTION}",
    ),
    "is_inception": Metric(
        group="inception",
        direction="higher",
        private=False,
        reference="none",
        description=f"Inception score on ImageNet's classes, 10 splits; {_INCEPTION}",
    ),
    "kid_inception": Metric(
        group="inception",
        direction="lower",
        private=True,
        reference="real training set, at most 10,000 of it",
        description=f"KID, unbiased, mean of 100 subsets of 1,000 (all where there are fewer); {_INCEPTION}",
    ),
    "precision_inception": Metric(
        group="inception",
        direction="higher",
        private=True,
        reference=_SOME_OF_IT,
        description=f"improved precision (Kynkaanniemi et al. 2019, k = 3): share of images near real ones; {_INCEPTION}",
    ),
    "recall_inception": Metric(
        group="inception",
        direction="higher",
        private=True,
        reference=_SOME_OF_IT,
        description=f"improved recall (Kynkaanniemi et al. 2019, k = 3): share of real ones near generated ones; {_INCEPTION}",
    ),
    "fd_efficientnet_lite0": Metric(
        group="efficientnet",
        direction="lower",
        private=True,
        reference=_SOME_OF_IT,
        description=f"Frechet distance, not an FID; falls with the number of images, floor in `real`; {_EFFICIENTNET}",
    ),
    "kd_efficientnet_lite0": Metric(
        group="efficientnet",
        direction="lower",
        private=True,
        reference=_SOME_OF_IT,
        description=f"kernel distance, not a KID; unbiased, mean of 100 subsets of 1,000; {_EFFICIENTNET}",
    ),
    "precision_efficientnet_lite0": Metric(
        group="efficientnet",
        direction="higher",
        private=True,
        reference=_SOME_OF_IT,
        description=f"improved precision (Kynkaanniemi et al. 2019, k = 3); {_EFFICIENTNET}",
    ),
    "recall_efficientnet_lite0": Metric(
        group="efficientnet",
        direction="higher",
        private=True,
        reference=_SOME_OF_IT,
        description=f"improved recall (Kynkaanniemi et al. 2019, k = 3); {_EFFICIENTNET}",
    ),
    "pairwise_distance_match_pixels": Metric(
        group="diversity",
        direction="higher",
        private=False,
        reference=f"real test set, at most 1,000 of a class; {_AS_MANY}",
        description="mean distance of two images of a class, of generated and of real images: the smaller over the larger",
    ),
    "near_duplicates_pixels": Metric(
        group="diversity",
        direction="lower",
        private=False,
        reference=f"real test set, at most 1,000 of a class; {_AS_MANY}",
        description="share of images whose nearest other one of the class is no farther than the nearest neighbours of 1 % of "
        "real images are (our definition): .01 is as real images",
    ),
    "density_dataset_classifier": Metric(
        group="diversity",
        direction="higher",
        private=True,
        reference=f"real test set, at most 10,000 of it, features of the CNN trained on the real training set; {_AS_MANY}",
        description="density (Naeem et al. 2020, k = 5) on the CNN's 64 features: 1 is as real images; may be over 1",
    ),
    "coverage_dataset_classifier": Metric(
        group="diversity",
        direction="higher",
        private=True,
        reference=f"real test set, at most 10,000 of it, features of the CNN trained on the real training set; {_AS_MANY}",
        description="coverage (Naeem et al. 2020, k = 5) on the CNN's 64 features: the same law reaches .97",
    ),
    "sharpness_match_laplacian": Metric(
        group="diversity",
        direction="higher",
        private=False,
        reference="real test set",
        description="mean variance of the Laplacian, of generated and of real images: the smaller over the larger",
    ),
    "memorization_pixels": Metric(
        group="memorization",
        direction="lower",
        private=True,
        reference=_RECORDS,
        description="share of images nearer to a training record than to all held-out ones, .5 expected of a generator that "
        "knows neither: an indicator of memorisation, not of privacy; only the training records compared with can show",
    ),
}

DETAILS: dict[str, str] = {
    "pairwise_distance_ratio_pixels": "mean distance of two generated images of a class over that of real test images; noise "
    "raises it over 1",
    "sharpness_ratio_laplacian": "mean variance of the Laplacian of generated over real test images; blur lowers it, noise "
    "raises it over 1",
    "memorization_pixels_low": "lower end of the share's 95 % Clopper-Pearson interval, over draws of the generated images",
    "memorization_pixels_high": "upper end of the share's 95 % Clopper-Pearson interval, over draws of the generated images",
}
"""Columns beside the metrics that have no better direction, so nothing is ranked by them."""


def columns(groups: Collection[Group]) -> list[str]:
    """The metric columns that these groups fill, in the order of ``METRICS``."""
    return [name for name, metric in METRICS.items() if metric.group in groups]


SMALLEST_SIDE = 18
"""Fewest pixels a side that the prior work's convolutions leave anything of."""
SAMPLES_A_CLASS = 10
"""Fewest generated images of a class whose distances from each other say anything."""


def check(groups: Collection[Group], info: DataInfo, samples: int) -> None:
    """Raise ``ValueError`` with one sentence where so many images of such data cannot be measured so."""
    if "prior_work" in groups and min(info.height, info.width) < SMALLEST_SIDE:
        raise ValueError(
            f"metrics has `prior_work`, whose networks need images of at least {SMALLEST_SIDE} pixels a side; these have "
            f"{info.height} x {info.width}: leave it out or set data.resolution"
        )
    if "diversity" in groups and samples < SAMPLES_A_CLASS * info.classes:
        raise ValueError(
            f"metrics has `diversity`, which compares images within a class and needs at least {SAMPLES_A_CLASS} of each: set "
            f"evaluate.samples to {SAMPLES_A_CLASS * info.classes} or more (it is {samples}), or leave it out"
        )


def reference_stage(
    samples: int, metrics: Collection[Group] = DEFAULT_METRICS, inception: InceptionWeights | None = None, seed: int = 0
) -> Stage:
    """The stage that ``evaluate`` needs: real-data classifier, statistics, ceilings and floors at ``samples`` images.

    ``inception`` are the weights, for the group of that name alone.
    """
    config: dict[str, Any] = {
        "samples": samples,
        "metrics": [group for group in GROUPS if group in metrics],
        "inception_sha256": inception.sha256 if inception else None,
        "seed": seed,
        "version": EVALUATION_VERSION,
    }
    versions = {group: version for group, version in GROUP_VERSIONS.items() if group in metrics}
    if versions:
        config["group_versions"] = versions
    return Stage(
        name="reference",
        config=config,
        compute="trainables.evaluation.reference:compute",
        paths={"inception_path": inception.path} if inception else {},
    )
