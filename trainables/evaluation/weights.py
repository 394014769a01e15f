"""Where the weights of the Inception network are, and whether they are the ones that an FID is defined by. Imports no torch.

FID (Heusel et al. 2017), Inception score (Salimans et al. 2016) and KID (Binkowski et al. 2018) are defined on one network,
TensorFlow's Inception of 2015-12-05. torch-fidelity publishes its weights; numbers from any other file may not be called so.
"""

from __future__ import annotations

import hashlib
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
    "or leave `inception` out of evaluate.metrics"
)


class WeightsError(ValueError):
    """The weights are missing or are other ones; the text is one sentence that says what to type."""


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


def sha256(path: Path) -> str:
    """SHA-256 of a file. Raises ``OSError``."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
