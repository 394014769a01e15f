"""Frechet distance and inception score by torch-fidelity's formulas, on features of a data-set classifier.

Neither is an FID or an Inception IS: those names belong to the ImageNet network (Heusel et al. 2017; Salimans et al. 2016).
Both depend on the number of images (the distance falls with it), so compare values at one number and beside the floor
that real images reach.
"""

from __future__ import annotations

import numpy as np
import torch
from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, isc_features_to_metric

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
