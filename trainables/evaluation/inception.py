"""FID, Inception score, KID, precision and recall on the Inception network of 2015-12-05, by torch-fidelity.

The choices that published numbers differ in: images are uint8 (generated ones are rounded), gray ones are repeated in three
channels, the network resizes to 299 pixels as TensorFlow 1 did; the FID's reference is the whole training set.
Precision and recall were published on features of VGG-16: compare those here with each other only.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from . import weights as weights_file
from .fidelity import Statistics, frechet_distance, inception_score, kernel_distance, precision_and_recall
from .weights import InceptionWeights

BATCH = 50
CHUNK = 1000
KEPT = 10_000
"""Most training images that KID, precision and recall compare with: their features are 80 MB."""

Reference = tuple[Statistics, torch.Tensor]
"""(statistics of the features of the whole training set, features float32 ``[n, 2048]`` of some of it)."""


def load_network(weights: InceptionWeights, device: torch.device) -> nn.Module:
    """torch-fidelity's network: uint8 ``[n, 3, H, W]`` -> (features ``[n, 2048]``, logits without bias ``[n, 1008]``).

    Raises ``ValueError`` where the file is not the one that the plan saw.
    """
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    if weights_file.sha256(Path(weights.path)) != weights.sha256:
        raise ValueError(f"{weights.path} has changed since the plan was made: its SHA-256 was {weights.sha256[:12]}")
    with torch.random.fork_rng(devices=[]):  # it draws initial weights before it reads the file
        network = FeatureExtractorInceptionV3(
            "inception-v3-compat", ["2048", "logits_unbiased"], feature_extractor_weights_path=weights.path
        )
    return network.to(device)


@torch.no_grad()
def extract(network: nn.Module, images: torch.Tensor, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """(features ``[N, 2048]``, logits ``[N, 1008]``), float32 on the CPU, of uint8 ``images [N, C, H, W]``, C of 1 or 3."""
    found = [network(batch.to(device).expand(-1, 3, -1, -1)) for batch in images.split(BATCH)]
    return torch.cat([features.cpu() for features, _ in found]), torch.cat([logits.cpu() for _, logits in found])


def compute_reference(
    network: nn.Module, train: torch.Tensor, directory: Path, device: torch.device, *, scored: int
) -> torch.Tensor:
    """Write ``inception.safetensors`` into ``directory``: what ``load_reference`` returns, of ``train`` in a mixed order.

    Returns the logits of its first ``scored`` images. They go through in chunks: memory does not grow with their number.
    """
    moments, kept, logits = _Moments(), [], []
    for chunk in train.split(CHUNK):
        features, of_chunk = extract(network, chunk, device)
        if moments.count < KEPT:
            kept.append(features[: KEPT - moments.count])
        if moments.count < scored:
            logits.append(of_chunk[: scored - moments.count])
        moments.add(features)
    saved = {name: torch.from_numpy(value) for name, value in moments.statistics().items()}
    save_file({**saved, "features": torch.cat(kept)}, directory / "inception.safetensors")
    return torch.cat(logits)


def load_reference(directory: Path) -> Reference:
    """Read what ``compute_reference`` wrote."""
    saved = load_file(directory / "inception.safetensors")
    return {name: saved[name].numpy() for name in ("mu", "sigma")}, saved["features"]


def measure(network: nn.Module, images: torch.Tensor, reference: Reference, device: torch.device) -> dict[str, float]:
    """The metrics of uint8 ``images [N, C, H, W]``, N at least ``metrics.MIN_SAMPLES``."""
    features, logits = extract(network, images, device)
    return {**distances(features, reference), "is_inception": inception_score(logits)}


def distances(features: torch.Tensor, reference: Reference) -> dict[str, float]:
    """FID, KID, precision and recall of float32 ``features [N, 2048]``."""
    of_training_set, some = reference
    moments = _Moments()
    for chunk in features.split(CHUNK):
        moments.add(chunk)
    precision, recall = precision_and_recall(features, some)
    return {
        "fid_inception": frechet_distance(moments.statistics(), of_training_set),
        "kid_inception": kernel_distance(features, some),
        "precision_inception": precision,
        "recall_inception": recall,
    }


class _Moments:
    """Mean and covariance of features that come in chunks: 60,000 at once would take gigabytes in float64."""

    def __init__(self) -> None:
        self.count, self._sum, self._squares = 0, np.zeros(()), np.zeros(())

    def add(self, features: torch.Tensor) -> None:
        exact = features.double().numpy()
        self.count += len(exact)
        self._sum, self._squares = self._sum + exact.sum(axis=0), self._squares + exact.T @ exact

    def statistics(self) -> Statistics:
        mean = self._sum / self.count
        return {"mu": mean, "sigma": (self._squares - self.count * np.outer(mean, mean)) / (self.count - 1)}
