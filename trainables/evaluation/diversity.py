"""Are the generated images as different from each other, and as sharp, as real ones?

Four questions, each against the real test set: how far images of a class lie from each other, how many are nearly the same,
how much of the real images' neighbourhoods they fill (density and coverage, Naeem et al. 2020), how sharp they are. Means
over classes and nearest neighbours depend on the number of images, so as many real as generated ones are compared; memory
does not grow with that number.
"""

from __future__ import annotations

import torch
from torch import nn

from trainables.base import Dataset
from trainables.coins import torch_coins
from trainables.networks.classifier import CNN

from .features import extract

NEIGHBOURS = 5
"""k of density and coverage, as in Naeem et al. 2020."""
COMPARED = 10_000
"""Most generated and most real images whose features are compared."""
OF_A_CLASS = 1000
"""Most images of a class whose pixels are compared."""
DUPLICATE_QUANTILE = 0.01
"""Real images that have a nearer neighbour than the threshold of a near duplicate."""
BLOCK = 1000


def measure(
    images: torch.Tensor,
    labels: torch.Tensor,
    features: torch.Tensor,
    *,
    test: Dataset,
    classifier: CNN,
    seed: int,
    device: torch.device,
) -> dict[str, float]:
    """The metrics and details of the group ``diversity`` for uint8 ``images [N, C, H, W]`` of int64 ``labels [N]``.

    ``features [N, d]`` are the classifier's of these images. Where there are more test images than are compared, ``seed``
    decides which. Raises ``ValueError`` where the test set is too small to compare with.
    """
    order = torch.randperm(len(test.labels), generator=torch_coins(seed, "real test images"))
    test_images, test_labels = torch.from_numpy(test.images)[order], torch.from_numpy(test.labels)[order]
    compared = min(len(images), len(test_images), COMPARED)
    real_features, _ = extract(classifier, test_images[:compared], device)
    density, coverage = density_and_coverage(features[:compared], real_features)
    distance, duplicates = spread(images, labels, test_images, test_labels, test.classes)
    sharp = (sharpness(images).mean() / sharpness(test_images).mean()).item()
    return {
        "pairwise_distance_ratio_pixels": distance,
        "pairwise_distance_match_pixels": match(distance),
        "near_duplicates_pixels": duplicates,
        "density_dataset_classifier": density,
        "coverage_dataset_classifier": coverage,
        "sharpness_ratio_laplacian": sharp,
        "sharpness_match_laplacian": match(sharp),
    }


def density_and_coverage(generated: torch.Tensor, real: torch.Tensor, k: int = NEIGHBOURS) -> tuple[float, float]:
    """Density and coverage (Naeem et al. 2020, equations 3 and 4) of float64 features ``generated [N, d]`` and ``real [M, d]``.

    A real image's ball reaches to its k-th nearest real neighbour. Density is the mean number of balls that a generated image
    lies in, over k; coverage the share of balls with a generated image in them. With N = M and the same law for both, density
    is near 1 and coverage near 1 - 2^-k. Raises ``ValueError`` where M is not over k.
    """
    if len(real) <= k:
        raise ValueError(f"density and coverage need more than {k} real test images; there are {len(real)}")
    inside, covered = 0, 0
    for block in real.split(BLOCK):
        radius = torch.cdist(block, real).topk(k + 1, largest=False).values[:, -1:]  # the nearest is the image itself
        within = torch.cdist(block, generated) < radius
        inside += int(within.sum())
        covered += int(within.any(dim=1).sum())
    return inside / (k * len(generated)), covered / len(real)


def spread(
    images: torch.Tensor, labels: torch.Tensor, real_images: torch.Tensor, real_labels: torch.Tensor, classes: int
) -> tuple[float, float]:
    """(mean pairwise distance as a ratio to that of real images, share of near duplicates) of uint8 images, within classes.

    The ratio is the mean over classes, distances are Euclidean on pixels. A generated image is a near duplicate where its
    nearest other generated image of the class is no farther than the nearest neighbours of 1 % of real images of the class
    are; this definition is ours, and images without the pixel noise of real ones meet it sooner. Of each class the first
    images count, as many generated as real ones and at most ``OF_A_CLASS``. Raises ``ValueError`` where no class has two of
    both.
    """
    ratios, duplicates, counted = [], 0, 0
    for k in range(classes):
        ours, real = images[labels == k], real_images[real_labels == k]
        size = min(len(ours), len(real), OF_A_CLASS)
        if size < 2:
            continue
        mean, nearest = _distances(ours[:size])
        real_mean, real_nearest = _distances(real[:size])
        ratios.append(mean / real_mean)
        duplicates += int((nearest <= real_nearest.quantile(DUPLICATE_QUANTILE)).sum())
        counted += size
    if not counted:
        raise ValueError("no class has two generated images and two test images, so their distances cannot be compared")
    return torch.stack(ratios).mean().item(), duplicates / counted


def sharpness(images: torch.Tensor) -> torch.Tensor:
    """Variance of the Laplacian over each of uint8 ``images [N, C, H, W]``, of the mean channel: float32 ``[N]``.

    The usual measure of focus (Pech-Pacheco et al. 2000): blur lowers it, and noise raises it over real images'.
    """
    kernel = torch.tensor([[[[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]]]])
    return torch.cat(
        [
            nn.functional.conv2d(block.float().mean(dim=1, keepdim=True) / 255, kernel).flatten(1).var(dim=1)
            for block in images.split(BLOCK)
        ]
    )


def match(ratio: float) -> float:
    """The smaller of a ratio's two numbers over the larger: 1 where they are equal. Noise is no better than blur by it.

    >>> match(0.5), match(2.0), match(0.0)
    (0.5, 0.5, 0.0)
    """
    return min(ratio, 1 / ratio) if ratio else 0.0


def _distances(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(mean distance of two different images, distance of each to its nearest other one ``[n]``), in 1/255; float64.

    In float64 the products of whole numbers are exact, so equal images are at distance zero.
    """
    rows = images.flatten(1).double()
    distances = torch.cdist(rows, rows, compute_mode="use_mm_for_euclid_dist")
    mean = distances.sum() / (len(rows) * (len(rows) - 1))
    return mean, distances.fill_diagonal_(torch.inf).amin(dim=1)
