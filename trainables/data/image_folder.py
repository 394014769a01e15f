"""``image_folder``: a folder of image files a class, ``PATH/train/<class>/`` and ``PATH/test/<class>/``.

The folders under ``train`` are the classes, in alphabetical order; every image file below them is a record.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from .base import DataError, Facts, Found, MissingData, Request, Split, found_at, named_path, stamps, test_split
from .images import channels_of, file_split, open_image

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".pgm", ".ppm")


def find(request: Request) -> Found:
    """List the files. Raises ``MissingData`` or ``DataError`` that says what was expected and what lies there."""
    test_name = test_split(request)
    layout = f"PATH/train/CLASS/*.png (or another of {' '.join(SUFFIXES)}) and PATH/{test_name}/CLASS/*.png"
    root = named_path("image_folder", request, layout)
    folders = root / "train", root / test_name
    if not all(folder.is_dir() for folder in folders):
        raise MissingData(f"image_folder expects {layout}; {found_at(root)}")
    classes = _classes(folders[0])
    foreign = sorted(set(_classes(folders[1])) - set(classes))
    if foreign:
        known = ", ".join(classes[:20])
        raise DataError(f"{folders[1]} has the class {foreign[0]}, which {folders[0]} does not have; its classes: {known}")
    files: list[tuple[list[Path], np.ndarray]] = []
    for folder in folders:
        of_class = [_images(folder / name) for name in classes]
        names = [file for found in of_class for file in found]
        if not names:
            raise MissingData(f"image_folder expects {layout}; there is no image below {folder} ({found_at(folder)})")
        files.append((names, np.repeat(np.arange(len(classes)), [len(found) for found in of_class])))
    (train, _), (test, _) = files
    with open_image(train[0], str(train[0])) as first:
        facts = Facts(
            train=len(train),
            channels=channels_of(first, str(train[0])),
            height=first.height,
            width=first.width,
            classes=len(classes),
        )
    return Found(facts=facts, stamps=[classes, *stamps([*train, *test])], read=partial(_read, files))


def _read(files: list[tuple[list[Path], np.ndarray]]) -> tuple[Split, Split]:
    train, test = (file_split([str(file) for file in names], str, labels) for names, labels in files)
    return train, test


def _classes(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _images(folder: Path) -> list[Path]:
    """Image files below ``folder``, in one order on every machine; links are followed, hidden names left out."""
    return sorted(_below(folder, ()), key=lambda file: file.relative_to(folder).parts)


def _below(folder: Path, above: tuple[os.stat_result, ...]) -> Iterator[Path]:
    """Raises ``DataError`` for a link to a folder that it lies in: its files would be records again and again."""
    own = folder.stat()
    if any(os.path.samestat(own, other) for other in above):
        raise DataError(f"{folder} is a link to a folder that holds it; remove the link")
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                yield from _below(folder / entry.name, (*above, own))
            elif entry.name.lower().endswith(SUFFIXES):
                yield folder / entry.name
