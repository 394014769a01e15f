"""``cifar10``: 50,000 + 10,000 colour images of 32x32 pixels, in the pickled batches that torchvision uses.

They are unpickled only where their MD5 is the published one: a pickle can run any code.
"""

from __future__ import annotations

import hashlib
import pickle
from functools import partial
from pathlib import Path

import numpy as np

from .base import DataError, Facts, Found, MissingData, Request, Split, downloads, expand_home, fetching, roots, stamps
from .images import array_split

FOLDER = "cifar-10-batches-py"
TRAIN = 50_000
MD5 = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}
_BATCHES = len(MD5) - 1


def find(request: Request) -> Found:
    """Look in ``data.path`` (the folder of the batches or the one above it), or in ``$DPSWEEP_DATA`` and ``fetch``'s folder."""
    files = _files(request)
    return Found(
        facts=Facts(train=TRAIN, channels=3, height=32, width=32, classes=10),
        stamps=stamps(files),
        read=partial(_read, files),
    )


def fetch(source: str, path: str | None) -> Path:
    """Download through torchvision, which checks MD5; return the root folder."""
    import torchvision.datasets

    root = expand_home(path) if path else downloads()
    root.mkdir(parents=True, exist_ok=True)
    torchvision.datasets.CIFAR10(str(root), download=True)
    return root


def _files(request: Request) -> list[Path]:
    folders = [folder for root in roots(request.folder) for folder in (root, root / FOLDER)]
    for folder in folders:
        files = [folder / name for name in MD5]
        if all(file.is_file() for file in files):
            return files
    raise MissingData(
        f"cifar10 is not on this machine: no folder of {', '.join(map(str, folders))} holds data_batch_1 to 5 and test_batch "
        f"(the version for Python); type: {fetching('cifar10', request)}"
    )


def _read(files: list[Path]) -> tuple[Split, Split]:
    batches = [_batch(file) for file in files]
    images = [pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1) for pixels, _ in batches]
    labels = [labels for _, labels in batches]
    train = array_split(np.concatenate(images[:_BATCHES]), np.concatenate(labels[:_BATCHES]), "cifar10")
    return train, array_split(images[_BATCHES], labels[_BATCHES], "cifar10")


def _batch(file: Path) -> tuple[np.ndarray, np.ndarray]:
    content = file.read_bytes()
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if found != MD5[file.name]:
        raise DataError(
            f"{file} is not the published file of cifar10 and is not unpickled: its MD5 is {found}, expected "
            f"{MD5[file.name]}; remove it and fetch cifar10 again"
        )
    batch = pickle.loads(content, encoding="latin1")
    return batch["data"], np.array(batch["labels"])
