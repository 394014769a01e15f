"""Where images come from: ``describe`` without decoding, ``load`` decoded and prepared, ``fingerprint`` for the ids.

Preparation is integer arithmetic, so that every machine decodes the same bytes: the 8x8 digits are scaled to 0..255 and
interpolated bilinearly to 28x28; 28x28 images become 32x32 by two black pixels on every side; gray becomes three equal
channels where three are asked for. The training records come in a fixed public order, which depends on positions alone;
``size`` keeps the first ones of it, so smaller sets are nested in larger ones.

    python -m trainables.data.sources fetch fashion_mnist [--path DIR]

downloads a set through torchvision. Nothing here imports torch before that.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import importlib.metadata
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trainables.base import DataInfo, Dataset

RESOLUTIONS = (28, 32)
CHANNELS = (1, 3)

# Part of every fingerprint: raise it whenever the same files would be decoded, ordered or prepared to other arrays.
PREPARATION_VERSION = 1


class DataError(ValueError):
    """The sweep file asks for data that cannot be had as asked; the message says what to write instead."""


class MissingData(DataError):
    """The files of a data set are not on this machine; the message says the command that fetches them."""


@dataclass(frozen=True, kw_only=True)
class _Source:
    train: int
    test: int
    classes: int
    torchvision: str = ""
    """Name of torchvision's class, and of its folder."""
    debian: str = ""
    """Folder below a standard ``datasets`` folder."""
    package: str = ""
    """Debian package that installs that folder."""
    md5: tuple[str, ...] = ()
    """Of the decompressed files, in the order of ``_FILES`` (archives of one content differ in their gzip header)."""


_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")

_SOURCES = {
    "digits": _Source(train=1437, test=360, classes=10),
    "fashion_mnist": _Source(
        train=60000,
        test=10000,
        classes=10,
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
    "mnist": _Source(
        train=60000,
        test=10000,
        classes=10,
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

SOURCES: tuple[str, ...] = tuple(_SOURCES)


def describe(
    source: str,
    *,
    path: str | None = None,
    size: int | None = None,
    resolution: int | None = None,
    channels: int | None = None,
) -> DataInfo:
    """Declared facts of the training set, without decoding it.

    Raises ``DataError`` for a source, size, resolution or channel count that is not on offer, ``MissingData`` where the
    files are not on this machine.

    >>> describe("digits", size=1000, resolution=32).shape
    (1, 32, 32)
    """
    facts = _facts(source)
    if size is not None and not 1 <= size <= facts.train:
        raise DataError(f"data.size is {size}; {source} has {facts.train} training records: write 1 to {facts.train}")
    if resolution not in (None, *RESOLUTIONS):
        raise DataError(f"data.resolution is {resolution}; {source} comes in {_either(RESOLUTIONS)} pixels")
    if channels not in (None, *CHANNELS):
        raise DataError(f"data.channels is {channels}; {source} comes in {_either(CHANNELS)} channels (gray repeated)")
    _stamps(source, path)
    pixels = resolution or RESOLUTIONS[0]
    return DataInfo(
        size=size or facts.train, channels=channels or CHANNELS[0], height=pixels, width=pixels, classes=facts.classes
    )


def load(
    source: str,
    *,
    path: str | None = None,
    size: int | None = None,
    resolution: int | None = None,
    channels: int | None = None,
) -> tuple[Dataset, Dataset]:
    """The decoded (training, test) sets: images uint8 ``[N, C, H, W]``, labels int64 ``[N]``; the whole test set always.

    ``path`` is a folder with the four idx files (gzipped or not) or one in torchvision's layout. Without it the standard
    data folders, ``$DPSWEEP_DATA`` and the cache that ``fetch`` fills are searched in this order. Raises as ``describe``,
    and ``DataError`` where a file is not the published one (MD5).
    """
    info = describe(source, path=path, size=size, resolution=resolution, channels=channels)
    train_images, train_labels, test_images, test_labels = _digits() if source == "digits" else _idx(source, path)
    order = _order(len(train_labels))[: info.size]

    def prepared(images: np.ndarray, labels: np.ndarray) -> Dataset:
        return Dataset(images=_prepare(images, info), labels=labels.astype(np.int64), classes=info.classes)

    return prepared(train_images[order], train_labels[order]), prepared(test_images, test_labels)


def fingerprint(
    source: str,
    *,
    path: str | None = None,
    size: int | None = None,
    resolution: int | None = None,
    channels: int | None = None,
    cache_file: Path,
) -> str:
    """SHA-256 (hex) of what ``load`` would return: the identity of the data in every trial id.

    ``cache_file`` (JSON, made if need be) remembers it by the request and the files' path, size and mtime, so that planning
    decodes nothing twice. A cache that cannot be read counts as empty.
    """
    describe(source, path=path, size=size, resolution=resolution, channels=channels)
    key = json.dumps([PREPARATION_VERSION, source, size, resolution, channels, _stamps(source, path)])
    known = _read_cache(cache_file).get(key)
    if known is not None:
        return known
    found = content_hash(*load(source, path=path, size=size, resolution=resolution, channels=channels))
    # Read again: another process may have added to it meanwhile. A lost entry costs one decoding, nothing else.
    _write_cache(cache_file, {**_read_cache(cache_file), key: found})
    return found


def content_hash(train: Dataset, test: Dataset) -> str:
    """SHA-256 (hex) over decoded arrays, labels, split and preparation: what a worker compares with its plan."""
    digest = hashlib.sha256(f"preparation {PREPARATION_VERSION}".encode())
    for split, data in (("train", train), ("test", test)):
        digest.update(json.dumps([split, data.images.shape, data.classes]).encode())
        digest.update(np.ascontiguousarray(data.images).data)
        digest.update(np.ascontiguousarray(data.labels.astype("<i8")).data)
    return digest.hexdigest()


def fetch(source: str, path: str | None = None) -> Path:
    """Download ``source`` through torchvision (which checks MD5) into ``path`` or the cache; return the root folder."""
    facts = _facts(source)
    if not facts.torchvision:
        raise DataError(f"{source} comes with scikit-learn; there is nothing to fetch")
    import torchvision.datasets

    root = Path(path).expanduser() if path else _cache_root()
    root.mkdir(parents=True, exist_ok=True)
    getattr(torchvision.datasets, facts.torchvision)(str(root), download=True)
    return root


# --- finding --------------------------------------------------------------------------------------------------------------


def _facts(source: str) -> _Source:
    if source not in _SOURCES:
        raise DataError(f"data.source is {source!r}; expected {_either(SOURCES)}")
    return _SOURCES[source]


def _either(values: Sequence[object]) -> str:
    *most, last = map(str, values)
    return f"{', '.join(most)} or {last}"


def _cache_root() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "dpsweep" / "data"


def _folders(facts: _Source, path: str | None) -> list[Path]:
    if path is not None:
        roots = [Path(path).expanduser()]
        return [*roots, *(root / facts.torchvision / "raw" for root in roots)]
    standard = (os.environ.get("XDG_DATA_DIRS") or "/usr/local/share:/usr/share").split(":")
    roots = [Path(os.environ["DPSWEEP_DATA"]).expanduser()] if os.environ.get("DPSWEEP_DATA") else []
    return [
        *(Path(folder) / "datasets" / facts.debian for folder in standard if folder),
        *(root / facts.torchvision / "raw" for root in (*roots, _cache_root())),
    ]


def _find(source: str, path: str | None) -> list[Path]:
    """The four idx files, gzipped or not, of the first folder that has all of them."""
    facts = _facts(source)
    folders = _folders(facts, path)
    for folder in folders:
        files = [next((f for f in (folder / f"{name}.gz", folder / name) if f.is_file()), None) for name in _FILES]
        if None not in files:
            return [file for file in files if file is not None]
    fetching = f"python -m trainables.data.sources fetch {source}" + (f" --path {path}" if path else "")
    apt = f"sudo apt-get install {facts.package} (Debian, Ubuntu), or " if facts.package and not path else ""
    raise MissingData(
        f"{source} is not on this machine: no folder of {', '.join(map(str, folders))} holds the four files "
        f"{_FILES[0]}[.gz] and so on; type: {apt}{fetching}"
    )


def _stamps(source: str, path: str | None) -> list[list[Any]]:
    """What changes when the files do: (path, bytes, mtime) of each; for the embedded digits the version that brings them."""
    if source == "digits":
        if path is not None:
            raise DataError("data.path is set, but digits come with scikit-learn; leave path out")
        return [["scikit-learn", importlib.metadata.version("scikit-learn")]]
    stats = [(file, file.stat()) for file in _find(source, path)]
    return [[str(file.absolute()), stat.st_size, stat.st_mtime_ns] for file, stat in stats]


# --- decoding and preparing -----------------------------------------------------------------------------------------------


def _idx(source: str, path: str | None) -> list[np.ndarray]:
    arrays = []
    for file, md5 in zip(_find(source, path), _facts(source).md5, strict=True):
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
    return arrays


def _digits() -> list[np.ndarray]:
    """scikit-learn's 8x8 digits at 28x28. They have no official split: a fixed permutation gives 1,437 / 360."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    # Values 0..16. Weights are whole numbers over 56 in each direction, and float64 is exact for products of this size.
    weights = _bilinear_weights(8, 28)
    total = weights @ (images.reshape(-1, 8, 8) * 255) @ weights.T
    scale = 16 * 56 * 56
    large = ((total.astype(np.int64) + scale // 2) // scale).astype(np.uint8)
    order, train = _order(len(labels)), _SOURCES["digits"].train
    return [large[order[:train]], labels[order[:train]], large[order[train:]], labels[order[train:]]]


def _bilinear_weights(old: int, new: int) -> np.ndarray:
    """``[new, old]`` whole numbers; divided by 2 x new they interpolate linearly between pixel centres, edges repeated."""
    weights = np.zeros((new, old))
    for row in range(new):
        left, part = divmod((2 * row + 1) * old - new, 2 * new)
        weights[row, max(left, 0)] += 2 * new - part
        weights[row, min(left + 1, old - 1)] += part
    return weights


def _prepare(images: np.ndarray, info: DataInfo) -> np.ndarray:
    """uint8 ``[N, 28, 28]`` to ``[N, C, H, W]``."""
    margin = (info.height - images.shape[1]) // 2
    if margin:
        images = np.pad(images, ((0, 0), (margin, margin), (margin, margin)))
    return np.ascontiguousarray(np.repeat(images[:, None], info.channels, axis=1))


def _order(count: int) -> np.ndarray:
    """A public permutation that depends on the count alone. ``RandomState`` because its streams are frozen for ever."""
    return np.random.RandomState(20260121).permutation(count)


# --- the cache of fingerprints ----------------------------------------------------------------------------------------------


def _read_cache(file: Path) -> dict[str, str]:
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _write_cache(file: Path, content: dict[str, str]) -> None:
    with suppress(OSError):  # a cache: results that cannot be written to can still be looked at
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=file.parent, prefix=file.name, suffix=".part", delete=False) as part:
            json.dump(content, part, indent=1)
        Path(part.name).replace(file)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m trainables.data.sources", description="Fetch a data set.")
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("fetch", help="download through torchvision, checked by MD5")
    command.add_argument("source", choices=[name for name, facts in _SOURCES.items() if facts.torchvision])
    command.add_argument("--path", help=f"folder to put it in (default {_cache_root()})")
    arguments = parser.parse_args(argv)
    try:
        print(f"{arguments.source} is in {fetch(arguments.source, arguments.path)}")
    except (OSError, RuntimeError) as error:
        print(f"{arguments.source} could not be downloaded: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
