"""Frechet and kernel distance, inception score, precision and recall by torch-fidelity's formulas, on any features.

The names FID, KID and Inception IS belong to one ImageNet network (Heusel et al. 2017; Binkowski et al. 2018; Salimans et al.
2016). All but the kernel distance depend on the number of images (the Frechet distance falls with it), so compare values at
one number and beside the floor that real images reach.
"""

from __future__ import annotations

import numpy as np
import torch
from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, isc_features_to_metric
from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, kid_features_to_metric
from torch_fidelity.metric_prc import KEY_METRIC_PRECISION, KEY_METRIC_RECALL, prc_features_to_metric

KERNEL_SUBSET = 1000
NEIGHBOURS = 3
"""k of precision and recall, as in Kynkaanniemi et al. 2019."""
COMPARED = 10_000
"""Most images of each kind that precision and recall compare."""
BLOCK = 1000

Statistics = dict[str, np.ndarray]
"""``mu`` float64 ``[d]`` and ``sigma`` float64 ``[d, d]``."""


def statistics(features: torch.Tensor) -> Statistics:
    """Mean and covariance of float64 ``features [n, d]``, n at least 2."""
    return fid_features_to_statistics(features)


def frechet_distance(one: Statistics, other: Statistics) -> float:
    """Squared Frechet (2-Wasserstein) distance of the Gaussians with these statistics (Dowson and Landau 1982)."""
    return fid_statistics_to_metric(one, other, verbose=False)[KEY_METRIC_FID]


def inception_score(logits: torch.Tensor) -> float:
    """exp of the mean KL divergence of p(y|x) from p(y), mean over 10 splits: 1 to the number of classes. n at least 10."""
    return isc_features_to_metric(logits)[KEY_METRIC_ISC_MEAN]


def kernel_distance(features: torch.Tensor, real: torch.Tensor) -> float:
    """Unbiased squared maximum mean discrepancy, polynomial kernel of degree 3, of features ``[n, d]`` and ``real [m, d]``.

    Mean of 100 subsets of ``KERNEL_SUBSET`` images, or of all where there are fewer (Binkowski et al. 2018).
    """
    size = min(KERNEL_SUBSET, len(features), len(real))
    return kid_features_to_metric(features, real, kid_subset_size=size, verbose=False)[KEY_METRIC_KID_MEAN]


def precision_and_recall(features: torch.Tensor, real: torch.Tensor) -> tuple[float, float]:
    """Improved precision and recall (Kynkaanniemi et al. 2019) of features ``[n, d]`` and ``real [m, d]``, n and m over 3.

    Precision is the share of generated images inside a ball about a real one that reaches to its third nearest real one,
    recall the same with the two exchanged. Both grow with the number of images, so the first of each are compared, as many
    real as generated ones and at most ``COMPARED``; memory does not grow with it beyond a block.
    """
    size = min(len(features), len(real), COMPARED)
    found = prc_features_to_metric(
        features[:size],
        real[:size],
        prc_neighborhood=NEIGHBOURS,
        prc_batch_size=BLOCK,
        save_cpu_ram=True,
        verbose=False,
    )
    return found[KEY_METRIC_PRECISION], found[KEY_METRIC_RECALL]
