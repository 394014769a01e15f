"""``mnist`` and ``fashion_mnist``: four idx files, gzipped or not, each checked against its published MD5."""

from __future__ import annotations

import gzip
import hashlib
import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from .base import DataError, Facts, Found, MissingData, Request, Split, downloads, expand_home, fetching, roots, stamps
from .images import array_split

FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


@dataclass(frozen=True, kw_only=True)
class IdxSet:
    """A published set of 28x28 gray images in ten classes."""

    train: int
    torchvision: str
    """Name of torchvision's class, and of its folder."""
    debian: str
    """Folder below a standard ``datasets`` folder."""
    package: str = ""
    """Debian package that installs that folder."""
    md5: tuple[str, ...]
    """Of the decompressed files, in the order of ``FILES`` (archives of one content differ in their gzip header)."""


SETS = {
    "fashion_mnist": IdxSet(
        train=60000,
        torchvision="FashionMNIST",
        debian="fashion-mnist",
        package="dataset-fashion-mnist",
        md5=(
            "f4a8712d7a061bf5bd6d2ca38dc4d50a",
            "9018921c3c673c538a1fc5bad174d6f9",
            "8181f5470baa50b63fa0f6fddb340f0a",
            "15d484375f8d13e6eb1aabb0c3f46965",
        ),
    ),
    "mnist": IdxSet(
        train=60000,
        torchvision="MNIST",
        debian="mnist",
        md5=(
            "6bbc9ace898e44ae57da46a324031adb",
            "a25bea736e30d166cdddb491f175f624",
            "2646ac647ad5339dbf082846283269ea",
            "27ae3e4e09519cfbb04c329615203637",
        ),
    ),
}


def find(source: str, request: Request) -> Found:
    """Look in ``data.path``, or in the standard data folders, ``$DPSWEEP_DATA`` and what ``fetch`` fills, in this order."""
    files = _files(source, request)
    return Found(
        facts=Facts(train=SETS[source].train, channels=1, height=28, width=28, classes=10),
        stamps=stamps(files),
        read=partial(_read, source, files),
    )


def fetch(source: str, path: str | None) -> Path:
    """Download through torchvision, which checks MD5; return the root folder."""
    import torchvision.datasets

    root = expand_home(path) if path else downloads()
    root.mkdir(parents=True, exist_ok=True)
    getattr(torchvision.datasets, SETS[source].torchvision)(str(root), download=True)
    return root


def _folders(published: IdxSet, request: Request) -> list[Path]:
    raw = [root / published.torchvision / "raw" for root in roots(request.folder)]
    if request.folder is not None:
        return [request.folder, *raw]
    standard = (os.environ.get("XDG_DATA_DIRS") or "/usr/local/share:/usr/share").split(":")
    return [*(Path(folder) / "datasets" / published.debian for folder in standard if folder), *raw]


def _files(source: str, request: Request) -> list[Path]:
    """The four files of the first folder that has all of them."""
    published = SETS[source]
    folders = _folders(published, request)
    for folder in folders:
        files = [next((f for f in (folder / f"{name}.gz", folder / name) if f.is_file()), None) for name in FILES]
        if None not in files:
            return [file for file in files if file is not None]
    apt = f"sudo apt-get install {published.package} (Debian, Ubuntu), or " if published.package and not request.path else ""
    raise MissingData(
        f"{source} is not on this machine: no folder of {', '.join(map(str, folders))} holds the four files "
        f"{FILES[0]}[.gz] and so on; type: {apt}{fetching(source, request)}"
    )


def _read(source: str, files: list[Path]) -> tuple[Split, Split]:
    arrays = []
    for file, md5 in zip(files, SETS[source].md5, strict=True):
        try:
            content = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
        except (OSError, EOFError) as error:
            raise DataError(f"{file} cannot be read ({error}); remove it and fetch {source} again") from error
        found = hashlib.md5(content, usedforsecurity=False).hexdigest()
        if found != md5:
            raise DataError(
                f"{file} is not the published file of {source}: its MD5 (decompressed) is {found}, expected {md5}; "
                f"remove it and fetch {source} again"
            )
        dimensions = content[3]
        shape = np.frombuffer(content, ">u4", count=dimensions, offset=4).astype(int)
        arrays.append(np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(shape))
    return array_split(arrays[0], arrays[1], source), array_split(arrays[2], arrays[3], source)
