"""Features and logits of a data-set classifier, the raw material of the fidelity metrics."""

from __future__ import annotations

import torch

from trainables.networks.classifier import CNN

from .utility import PREDICTION_BATCH, as_float


@torch.no_grad()
def extract(network: CNN, images: torch.Tensor, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """(features ``[N, FEATURES]`` float64, logits ``[N, classes]`` float32), on the CPU, of uint8 ``images [N, C, H, W]``.

    The features of an image do not depend on its batch.
    """
    features, logits = [], []
    for batch in images.split(PREDICTION_BATCH):
        found = network.features(as_float(batch.to(device)))
        features.append(found.cpu().double())
        logits.append(network.head(found).cpu())
    return torch.cat(features), torch.cat(logits)
