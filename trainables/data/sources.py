"""Where images come from: ``describe`` without decoding, ``load`` decoded and prepared, ``fingerprint`` for the ids.

The training records come in a fixed public order, which depends on positions alone; ``size`` keeps the first ones of it, so
smaller sets are nested in larger ones. ``images`` says how images are brought to one shape, a module a family of sources
what its files have to look like, ``cache`` what is remembered and where.

    python -m trainables.data.sources fetch fashion_mnist [--path DIR]

downloads a set through torchvision. Nothing here imports torch before that.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Unpack, cast

import numpy as np

from trainables.base import DataInfo, Dataset

from . import cache, celeba, cifar10, embedded, idx, image_folder, npz, parquet
from .base import (
    SETTINGS,
    DataError,
    Facts,
    Form,
    Found,
    MissingData,
    Preparation,
    Request,
    Settings,
    downloads,
    either,
    order,
)
from .images import resolutions

__all__ = [
    "OWN_FILES",
    "SETTINGS",
    "SOURCES",
    "DataError",
    "MissingData",
    "Preparation",
    "Settings",
    "content_hash",
    "describe",
    "fetch",
    "fingerprint",
    "load",
    "settings_of",
    "test_size",
]

CHANNELS = (1, 3)

# Part of every fingerprint: raise it whenever the same files would be decoded, ordered or prepared to other arrays.
PREPARATION_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class _Source:
    find: Callable[[Request], Found]
    takes: frozenset[str] = frozenset()
    """Of the settings that only some sources take: label, preparation, test_split."""
    own_files: bool = False
    """The user's own images, which have no name but the one that the user gives them."""
    kept: bool = True
    """Decoding takes so long that the arrays are kept. A file of arrays is read as fast, and read anew it shows an edit."""
    fetch: Callable[[str, str | None], Path] | None = None


_SOURCES = {
    "digits": _Source(find=embedded.find),
    "fashion_mnist": _Source(find=partial(idx.find, "fashion_mnist"), fetch=idx.fetch),
    "mnist": _Source(find=partial(idx.find, "mnist"), fetch=idx.fetch),
    "cifar10": _Source(find=cifar10.find, fetch=cifar10.fetch),
    "celeba": _Source(find=celeba.find, takes=frozenset({"label", "preparation", "test_split"}), fetch=celeba.fetch),
    "image_folder": _Source(find=image_folder.find, takes=frozenset({"preparation", "test_split"}), own_files=True),
    "npz": _Source(find=npz.find, takes=frozenset({"preparation"}), own_files=True, kept=False),
    "parquet": _Source(find=parquet.find, takes=frozenset({"label", "preparation", "test_split"}), own_files=True),
}
_OPTIONAL = ("label", "preparation", "test_split")

SOURCES: tuple[str, ...] = tuple(_SOURCES)

OWN_FILES: frozenset[str] = frozenset(name for name, source in _SOURCES.items() if source.own_files)
"""Sources of the user's own files: they need a path, and a name for the ledger."""


def settings_of(data: Mapping[str, Any]) -> Settings:
    """Those entries of a sweep file's ``data`` section, or of a job's, that ``load`` takes.

    >>> settings_of({**dict.fromkeys(SETTINGS), "source": "digits", "size": 10})["size"]
    10
    """
    return cast(Settings, {name: data[name] for name in SETTINGS})


def describe(source: str, **settings: Unpack[Settings]) -> DataInfo:
    """Declared facts of the training set, without decoding it.

    Raises ``DataError`` for a source or a setting that is not on offer, ``MissingData`` where the files are not on this
    machine or not laid out as expected.

    >>> describe("digits", size=1000, resolution=32).shape
    (1, 32, 32)
    """
    request = _request(source, settings)
    return _describe(source, request, _SOURCES[source].find(request).facts)


def load(source: str, **settings: Unpack[Settings]) -> tuple[Dataset, Dataset]:
    """The decoded (training, test) sets: images uint8 ``[N, C, H, W]``, labels int64 ``[N]``; the whole test set always.

    Without a ``path`` the standard data folders, ``$DPSWEEP_DATA`` and the cache that ``fetch`` fills are searched in this
    order. Raises as ``describe``, and ``DataError`` where a file is not the published one (MD5) or cannot be decoded; the
    message names the file, and the row in it.
    """
    request = _request(source, settings)
    return _load(source, request, _SOURCES[source].find(request))


def fingerprint(source: str, *, cache_file: Path, **settings: Unpack[Settings]) -> str:
    """SHA-256 (hex) of what ``load`` would return: the identity of the data in every trial id.

    ``cache_file`` (JSON, made if need be) remembers it by the request and the files' path, size and mtime, so that planning
    decodes nothing twice. A cache that cannot be read counts as empty.
    """
    request = _request(source, settings)
    found = _SOURCES[source].find(request)
    _describe(source, request, found.facts)
    key = _key(source, request, found)
    known = cache.read_fingerprints(cache_file).get(key)
    if known is not None:
        return known
    value = content_hash(*_load(source, request, found))
    # Read again: another process may have added to it meanwhile. A lost entry costs one decoding, nothing else.
    cache.write_fingerprints(cache_file, {**cache.read_fingerprints(cache_file), key: value})
    return value


def content_hash(train: Dataset, test: Dataset) -> str:
    """SHA-256 (hex) over decoded arrays, labels, split and preparation: what a worker compares with its plan."""
    digest = hashlib.sha256(f"preparation {PREPARATION_VERSION}".encode())
    for split, data in (("train", train), ("test", test)):
        digest.update(json.dumps([split, data.images.shape, data.classes]).encode())
        digest.update(np.ascontiguousarray(data.images).data)
        digest.update(np.ascontiguousarray(data.labels.astype("<i8")).data)
    return digest.hexdigest()


def test_size(source: str, **settings: Unpack[Settings]) -> int:
    """How many test images ``load`` would return, without decoding them. Raises as ``describe``."""
    request = _request(source, settings)
    return len(_SOURCES[source].find(request).read()[1].labels)


def fetch(source: str, path: str | None = None) -> Path:
    """Download ``source`` through torchvision (which checks MD5) into ``path`` or the cache; return the root folder."""
    _known(source)
    download = _SOURCES[source].fetch
    if download is None:
        raise DataError(f"{source} comes with scikit-learn or is your own; there is nothing to fetch")
    return download(source, path)


def _known(source: str) -> None:
    if source not in _SOURCES:
        raise DataError(f"data.source is {source!r}; expected {either(SOURCES)}")


def _request(source: str, settings: Settings) -> Request:
    _known(source)
    request = Request(**settings)
    for name in _OPTIONAL:
        if getattr(request, name) is not None and name not in _SOURCES[source].takes:
            takers = [other for other in SOURCES if name in _SOURCES[other].takes]
            raise DataError(f"data.{name} is set, but {source} does not take it (only {either(takers)}); leave it out")
    return request


def _describe(source: str, request: Request, facts: Facts) -> DataInfo:
    size, channels = request.size, request.channels
    if size is not None and not 1 <= size <= facts.train:
        raise DataError(f"data.size is {size}; {source} has {facts.train} training records: write 1 to {facts.train}")
    square = facts.height == facts.width
    offered = sorted({*resolutions(facts, enlarge=request.enlarge), *([facts.height] if square else [])})
    if not offered:
        raise DataError(
            f"the images of {source} are {facts.width}x{facts.height}: too small to be made square; write data.enlarge: true "
            "to have them interpolated"
        )
    if request.enlarge and request.resolution is None:
        raise DataError(f"data.enlarge is true and data.resolution is missing: write {either(offered)}")
    if request.resolution not in (None, *offered):
        larger = [pixels for pixels in resolutions(facts, enlarge=True) if pixels not in offered]
        also = f", and with data.enlarge: true in {either(larger)}" if larger else ""
        raise DataError(f"data.resolution is {request.resolution}; {source} comes in {either(offered)} pixels{also}")
    if request.resolution is None and not square:
        size_found = f"{facts.width}x{facts.height} pixels"
        raise DataError(f"data.resolution is missing; the images of {source} have {size_found}: write {either(offered)}")
    if channels not in (None, *CHANNELS):
        raise DataError(f"data.channels is {channels}; {source} comes in {either(CHANNELS)} channels (gray or colour)")
    return DataInfo(
        size=size or facts.train,
        channels=channels or facts.channels,
        height=request.resolution or facts.height,
        width=request.resolution or facts.width,
        classes=facts.classes,
    )


def _load(source: str, request: Request, found: Found) -> tuple[Dataset, Dataset]:
    info = _describe(source, request, found.facts)
    if not _SOURCES[source].kept:
        return _decode(request, info, found)
    return cache.decoded(_key(source, request, found), lambda: _decode(request, info, found), content_hash)


def _decode(request: Request, info: DataInfo, found: Found) -> tuple[Dataset, Dataset]:
    form = Form(
        channels=info.channels,
        height=info.height,
        width=info.width,
        preparation=request.preparation or "crop",
        resized=request.resolution is not None,
        converted=request.channels is not None,
        enlarged=request.enlarge,
    )
    train, test = found.read()
    parts = (train, order(len(train.labels))[: info.size]), (test, np.arange(len(test.labels)))
    first, second = (
        Dataset(images=split.decode(rows, form), labels=split.labels[rows], classes=info.classes) for split, rows in parts
    )
    return first, second


def _key(source: str, request: Request, found: Found) -> str:
    """What the arrays depend on, as a file name: hashed, since a folder of images has as many stamps as files."""
    asked = [request.size, request.resolution, request.channels, request.label, request.preparation, request.test_split]
    asked += ["enlarge"] if request.enlarge else []  # not there otherwise: what was remembered before it existed stays true
    return hashlib.sha256(json.dumps([PREPARATION_VERSION, source, asked, found.stamps]).encode()).hexdigest()


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m trainables.data.sources", description="Fetch a data set.")
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("fetch", help="download through torchvision, checked by MD5")
    command.add_argument("source", choices=[name for name, source in _SOURCES.items() if source.fetch])
    command.add_argument("--path", help=f"folder to put it in (default {downloads()})")
    arguments = parser.parse_args(argv)
    try:
        print(f"{arguments.source} is in {fetch(arguments.source, arguments.path)}")
    except (OSError, RuntimeError) as error:
        print(f"{arguments.source} could not be downloaded: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
