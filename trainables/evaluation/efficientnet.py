"""Distances on features of EfficientNet-Lite0, an ImageNet network whose weights come with a package: nothing is downloaded.

None of them is an FID or a KID, and none can be compared with a published number. The choices: uint8 images, gray ones repeated
in three channels, resized to 96 pixels (bilinear), (x - 127) / 128 as the network was trained. The Frechet distance's floor is
large (real against real images), so as many training images as generated ones are the reference, and the floor stands beside.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from .fidelity import frechet_distance, kernel_distance, precision_and_recall, statistics
from .metrics import EFFICIENTNET_COMPARED
from .weights import find_efficientnet

if TYPE_CHECKING:
    from efficientnet_lite_pytorch import EfficientNet

SIDE = 96
"""Pixels a side that images are resized to: at the network's own 224 they cost five times as much."""
BATCH = 100


def load_network(device: torch.device) -> EfficientNet:
    """The network in evaluation mode. Raises ``weights.WeightsError`` where its packages or published weights are missing."""
    path = find_efficientnet()
    from efficientnet_lite_pytorch import EfficientNet

    with torch.random.fork_rng(devices=[]):  # it draws initial weights before it reads the file
        network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return network.to(device).eval()


@torch.no_grad()
def extract(network: EfficientNet, images: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Features float32 ``[n, 1280]`` on the CPU, of the first 10,000 of uint8 ``images [N, C, H, W]``, C of 1 or 3."""
    found = []
    for batch in images[:EFFICIENTNET_COMPARED].split(BATCH):
        pixels = batch.to(device).expand(-1, 3, -1, -1).float()
        resized = nn.functional.interpolate(pixels, (SIDE, SIDE), mode="bilinear", antialias=True)
        found.append(network.extract_features((resized - 127) / 128).mean(dim=(2, 3)).cpu())
    return torch.cat(found)


def compute_reference(network: EfficientNet, images: torch.Tensor, directory: Path, device: torch.device) -> None:
    """Write ``efficientnet.safetensors`` into ``directory``: features of real training ``images``, as many as are generated."""
    save_file({"features": extract(network, images, device)}, directory / "efficientnet.safetensors")


def load_reference(directory: Path) -> torch.Tensor:
    """Read what ``compute_reference`` wrote: float32 ``[n, 1280]``."""
    return load_file(directory / "efficientnet.safetensors")["features"]


def measure(features: torch.Tensor, reference: torch.Tensor) -> dict[str, float]:
    """The columns of the group ``efficientnet`` for features ``[N, 1280]`` of generated images."""
    precision, recall = precision_and_recall(features, reference)
    return {
        "fd_efficientnet_lite0": frechet_distance(statistics(features.double()), statistics(reference.double())),
        "kd_efficientnet_lite0": kernel_distance(features, reference),
        "precision_efficientnet_lite0": precision,
        "recall_efficientnet_lite0": recall,
    }
