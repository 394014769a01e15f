"""Metrics of a trained generator, from its samples alone and what the reference stage knows of real data.

Samples are rounded to uint8 before anything else, since images are kept and compared as such. Labels are balanced and known
in advance (they say nothing of the private class counts); z comes from coins keyed by the seed.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection
from pathlib import Path

import torch

from trainables.base import DataInfo, Dataset, Sampler
from trainables.coins import torch_coins

from . import diversity, efficientnet, inception, memorization, prior_work
from . import reference as reference_stage
from .features import extract
from .fidelity import frechet_distance, inception_score, statistics
from .gen2real import KINDS, gen2real
from .metrics import DEFAULT_METRICS, MIN_SAMPLES, Group
from .utility import accuracy, predict
from .weights import InceptionWeights

SAMPLING_BATCH = 500
QUICK_SAMPLES = 2000


def evaluate(
    sampler: Sampler,
    *,
    info: DataInfo,
    reference: Path,
    test: Dataset,
    samples: int,
    seed: int,
    device: torch.device,
    metrics: Collection[Group] = DEFAULT_METRICS,
    weights: InceptionWeights | None = None,
) -> dict[str, float]:
    """The columns of these groups of ``metrics.METRICS`` and ``metrics.DETAILS`` for ``samples`` generated images, and for
    every gen2real classifier ``gen2real_<kind>_class_<k>``, its accuracy on each class.

    ``info`` describes the private training set, ``reference`` is the folder that ``reference.compute`` filled for the same
    groups, ``test`` is the real test set; ``weights`` go with the group ``inception``. Raises ``ValueError`` where
    ``samples`` is below ``metrics.MIN_SAMPLES``, where the sampler returns another shape or values that are not finite, and
    where weights are missing or are not those that ``weights`` says.
    """
    if samples < MIN_SAMPLES:
        raise ValueError(f"evaluate.samples is {samples}; expected at least {MIN_SAMPLES}")
    if "inception" in metrics and weights is None:
        raise ValueError("metrics has `inception`, which needs weights")
    images, labels = generate(sampler, info=info, samples=samples, seed=seed)
    found: dict[str, float] = {}
    for kind in itertools.chain.from_iterable(KINDS.get(group, ()) for group in metrics):
        found[f"gen2real_{kind}"], by_class = gen2real(kind, images, labels, test, seed=seed, device=device)
        found |= {f"gen2real_{kind}_class_{k}": value for k, value in enumerate(by_class)}
    if not {"standard", "diversity"}.isdisjoint(metrics):
        real = reference_stage.load(reference, device)
        features, logits = extract(real.classifier, images, device)
        if "standard" in metrics:
            found["real2gen_cnn"], _ = accuracy(logits.argmax(dim=1), labels, info.classes)
            found["fd_dataset_classifier"] = frechet_distance(statistics(features), real.statistics)
            found["is_dataset_classifier"] = inception_score(logits)
        if "diversity" in metrics:
            held = {"test": test, "classifier": real.classifier, "seed": real.summary["seed"]}
            found |= diversity.measure(images, labels, features, device=device, **held)
    if "prior_work" in metrics:
        for name, of_real in prior_work.load_reference(reference, info.shape, info.classes, device).items():
            found[f"real2gen_{name}"], _ = accuracy(predict(of_real, images, device), labels, info.classes)
    if "efficientnet" in metrics:
        features = efficientnet.extract(efficientnet.load_network(device), images, device)
        found |= efficientnet.measure(features, efficientnet.load_reference(reference))
    if "memorization" in metrics:
        found |= memorization.measure(images, memorization.load_reference(reference), device)
    if weights is not None and "inception" in metrics:
        network = inception.load_network(weights, device)
        found |= inception.measure(network, images, inception.load_reference(reference), device)
    return found


def quick(
    sampler: Sampler, *, info: DataInfo, reference: Path, test: Dataset, samples: int, seed: int, device: torch.device
) -> dict[str, float]:
    """gen2real_logreg and fd_dataset_classifier of at most ``QUICK_SAMPLES`` images, to watch a training: about a second.

    Both depend on the number of images: compare them with other quick values only.
    """
    images, labels = generate(sampler, info=info, samples=min(samples, QUICK_SAMPLES), seed=seed)
    real = reference_stage.load(reference, device)
    features, _ = extract(real.classifier, images, device)
    return {
        "gen2real_logreg": gen2real("logreg", images, labels, test, seed=seed, device=device)[0],
        "fd_dataset_classifier": frechet_distance(statistics(features), real.statistics),
    }


@torch.no_grad()
def generate(sampler: Sampler, *, info: DataInfo, samples: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(images uint8 ``[samples, C, H, W]``, labels int64 ``[samples]``), on the CPU.

    Image i has label i modulo the classes, and every batch has coins of its own: fewer samples are the first of more.
    """
    labels = torch.arange(samples) % info.classes
    images = torch.empty((samples, *info.shape), dtype=torch.uint8)
    for number, batch in enumerate(labels.split(SAMPLING_BATCH)):
        found = sampler(batch, torch_coins(seed, "evaluation samples", number)).detach().cpu()
        if found.shape != (len(batch), *info.shape):
            raise ValueError(f"the sampler returned {tuple(found.shape)}; expected {(len(batch), *info.shape)}")
        if not torch.isfinite(found).all():
            raise ValueError("the sampler returned values that are not finite: the training has diverged")
        start = number * SAMPLING_BATCH
        images[start : start + len(batch)] = (found * 255).round().clamp(0, 255).to(torch.uint8)
    return images, labels
