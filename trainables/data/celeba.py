"""``celeba``: 202,599 aligned faces of 178x218 pixels (Liu et al. 2015), in the folder that torchvision uses.

Needed: ``img_align_celeba.zip`` or the folder ``img_align_celeba`` made of it, ``list_attr_celeba.txt`` and
``list_eval_partition.txt``. Splits are the official ones: 162,770 train, 19,867 valid, 19,962 test. The class is whether the
attribute ``data.label`` (``Male`` unless said otherwise) is present.
"""

from __future__ import annotations

import difflib
import hashlib
import io
import zipfile
from functools import partial
from pathlib import Path

import numpy as np

from .base import (
    DataError,
    Facts,
    Found,
    MissingData,
    Request,
    Split,
    downloads,
    either,
    expand_home,
    fetching,
    roots,
    stamps,
)
from .images import file_split

FOLDER = "celeba"
ATTRIBUTES, PARTITION, ARCHIVE, IMAGES = (
    "list_attr_celeba.txt",
    "list_eval_partition.txt",
    "img_align_celeba.zip",
    "img_align_celeba",
)
MD5 = {
    ATTRIBUTES: "75e246fa4810816ffd6ee81facbd244c",
    PARTITION: "d32c9cbf5e040fd4025c592c306e6668",
    ARCHIVE: "00d2c5bc6d35e252742224ab0c1e8fcb",
}
TRAIN = 162_770
_SPLITS = {"train": 0, "valid": 1, "test": 2}

BY_HAND = (
    f"download {ARCHIVE} (from the folder Img), {ATTRIBUTES} (Anno) and {PARTITION} (Eval) in a browser by the Google Drive "
    "link on https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html and put the three files into"
)


def find(request: Request) -> Found:
    """Look in ``data.path`` (the folder of the files or the one above it), or in ``$DPSWEEP_DATA`` and ``fetch``'s folder."""
    test = request.test_split or "test"
    if test not in ("test", "valid"):
        raise DataError(f"data.test_split is {test!r}; celeba has {either(('test', 'valid'))}")
    folder = _folder(request)
    label = request.label or "Male"
    names = _attribute_names(folder / ATTRIBUTES)
    if label not in names:
        near = difflib.get_close_matches(label, names, n=1) or [""]
        hint = f"did you mean {near[0]}?" if near[0] else f"celeba has {', '.join(names)}"
        raise DataError(f"data.label is {label!r}, which is no attribute of celeba; {hint}")
    images = folder / IMAGES if (folder / IMAGES).is_dir() else folder / ARCHIVE
    return Found(
        facts=Facts(train=TRAIN, channels=3, height=218, width=178, classes=2),
        # Of an unpacked folder the folder's own stamp: 202,599 more would take seconds every time.
        stamps=stamps([folder / ATTRIBUTES, folder / PARTITION, images]),
        read=partial(_read, folder, images, names.index(label), test),
    )


def fetch(source: str, path: str | None) -> Path:
    """Download the three files that are needed from where torchvision does, checked by MD5; return the root folder."""
    from torchvision.datasets import CelebA
    from torchvision.datasets.utils import download_file_from_google_drive

    root = expand_home(path) if path else downloads()
    folder = root / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    for identifier, md5, name in CelebA.file_list:
        if name in MD5:
            try:
                download_file_from_google_drive(identifier, str(folder), name, md5)
            except Exception as error:  # gdown's own kinds; a quota that is used up is the usual one
                raise RuntimeError(
                    f"{name}: {' '.join(str(error).split())}. Google Drive often refuses when many ask on one day; try again "
                    f"tomorrow, or {BY_HAND} {folder}"
                ) from error
    return root


def _folder(request: Request) -> Path:
    folders = [folder for root in roots(request.folder) for folder in (root, root / FOLDER)]
    for folder in folders:
        images = (folder / ARCHIVE).is_file() or (folder / IMAGES).is_dir()
        if images and (folder / ATTRIBUTES).is_file() and (folder / PARTITION).is_file():
            return folder
    raise MissingData(
        f"celeba is not on this machine: no folder of {', '.join(map(str, folders))} holds {ATTRIBUTES}, {PARTITION} and "
        f"{ARCHIVE} or {IMAGES}/; type: pip install gdown && {fetching('celeba', request)}; or {BY_HAND} {folders[-1]}"
    )


def _attribute_names(file: Path) -> list[str]:
    with file.open() as lines:
        next(lines, "")  # the number of images
        return next(lines, "").split()


def _published(file: Path) -> bytes:
    """A small file's content. Raises ``DataError`` where it is not the published one."""
    content = file.read_bytes()
    _check(file, hashlib.md5(content, usedforsecurity=False).hexdigest())
    return content


def _check(file: Path, found: str) -> None:
    if found != MD5[file.name]:
        raise DataError(
            f"{file} is not the published file of celeba: its MD5 is {found}, expected {MD5[file.name]}; "
            "remove it and fetch celeba again"
        )


def _read(folder: Path, images: Path, attribute: int, test: str) -> tuple[Split, Split]:
    partition = [line.split() for line in _published(folder / PARTITION).decode().splitlines()]
    attributes = _published(folder / ATTRIBUTES).decode().splitlines()[2:]
    present = {name: values[attribute] == "1" for name, *values in map(str.split, attributes)}
    splits = []
    if images.is_file():
        with images.open("rb") as archive:
            _check(images, hashlib.file_digest(archive, lambda: hashlib.md5(usedforsecurity=False)).hexdigest())
    for split in ("train", test):
        names = [name for name, number in partition if int(number) == _SPLITS[split]]
        labels = np.array([present[name] for name in names])
        opener = partial(_from_archive, zipfile.ZipFile(images)) if images.is_file() else partial(_from_folder, images)
        splits.append(file_split(names, opener, labels))
    return splits[0], splits[1]


def _from_archive(archive: zipfile.ZipFile, name: str) -> io.BytesIO:
    return io.BytesIO(archive.read(f"{IMAGES}/{name}"))


def _from_folder(folder: Path, name: str) -> Path:
    return folder / name
