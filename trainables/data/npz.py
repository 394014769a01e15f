"""``npz``: one file of numpy arrays: ``train_images``, ``train_labels``, ``test_images``, ``test_labels``.

Keras' names ``x_train``, ``y_train``, ``x_test`` and ``y_test`` do as well. Images are uint8 ``[N, H, W]`` (gray), ``[N, H, W,
C]`` or ``[N, C, H, W]`` with 1 or 3 channels; labels are whole numbers from 0, ``[N]`` or ``[N, 1]``. Arrays of Python
objects are refused: reading them would run code from the file.
"""

from __future__ import annotations

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
    check_test_labels,
    checked_labels,
    found_at,
    named_path,
    stamps,
)
from .images import array_split

KEYS = (("train_images", "train_labels", "test_images", "test_labels"), ("x_train", "y_train", "x_test", "y_test"))
_LAYOUT = f"a .npz file with the arrays {', '.join(KEYS[0])} (or {', '.join(KEYS[1])})"


def find(request: Request) -> Found:
    """Read the headers and the labels. Raises ``MissingData`` or ``DataError`` that names the array."""
    file = named_path("npz", request, _LAYOUT)
    if not file.is_file():
        raise MissingData(f"npz expects data.path to be {_LAYOUT}; {found_at(file)}")
    headers = _headers(file)
    keys = next((keys for keys in KEYS if set(keys) <= headers.keys()), None)
    if keys is None:
        raise DataError(f"npz expects {_LAYOUT}; {file} holds {', '.join(headers) or 'no arrays'}")
    for images, labels in (keys[:2], keys[2:]):
        _check(file, headers, images, labels)
    train_labels, test_labels = _labels(file, keys[1]), _labels(file, keys[3])
    classes = checked_labels(train_labels, f"{file}, {keys[1]}")
    check_test_labels(test_labels, classes, f"{file}, {keys[3]}")
    height, width, channels = _geometry(headers[keys[0]][0])
    return Found(
        facts=Facts(train=len(train_labels), channels=channels, height=height, width=width, classes=classes),
        stamps=stamps([file]),
        read=partial(_read, file, keys),
    )


def _headers(file: Path) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Shape and type of every array, without reading it."""
    headers = {}
    try:
        with zipfile.ZipFile(file) as archive:
            for name in archive.namelist():
                if name.endswith(".npy"):
                    with archive.open(name) as member:
                        version = np.lib.format.read_magic(member)
                        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                        shape, _, kind = read(member)
                    headers[name.removesuffix(".npy")] = shape, kind
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise DataError(f"{file} cannot be read as .npz ({error})") from error
    return headers


def _check(file: Path, headers: dict[str, tuple[tuple[int, ...], np.dtype]], images: str, labels: str) -> None:
    shape, kind = headers[images]
    if kind != np.uint8:
        said = "Python objects, which are not read" if kind.hasobject else str(kind)
        raise DataError(f"{file}, {images} is an array of {said}; expected uint8, 0 to 255")
    if len(shape) not in (3, 4) or (len(shape) == 4 and shape[-1] not in (1, 3) and shape[1] not in (1, 3)):
        raise DataError(f"{file}, {images} has shape {list(shape)}; expected [N, H, W], [N, H, W, C] or [N, C, H, W], C 1 or 3")
    if not shape[0]:
        raise DataError(f"{file}, {images} holds no images")
    label_shape, label_kind = headers[labels]
    if label_kind.kind not in "iub":
        said = "Python objects, which are not read" if label_kind.hasobject else str(label_kind)
        raise DataError(f"{file}, {labels} is an array of {said}; expected whole numbers from 0")
    if label_shape not in ((shape[0],), (shape[0], 1)):
        raise DataError(f"{file}, {labels} has shape {list(label_shape)}; expected [{shape[0]}], a label an image of {images}")


def _labels(file: Path, key: str) -> np.ndarray:
    return _array(file, key).reshape(-1).astype(np.int64)


def _array(file: Path, key: str) -> np.ndarray:
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return arrays[key]
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{file}, {key} cannot be read ({error})") from error


def _channels_first(shape: tuple[int, ...]) -> bool:
    return len(shape) == 4 and shape[-1] not in (1, 3)


def _geometry(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """(height, width, channels)"""
    if len(shape) == 3:
        return shape[1], shape[2], 1
    _, *rest = shape
    channels, height, width = rest if _channels_first(shape) else (rest[2], rest[0], rest[1])
    return height, width, channels


def _read(file: Path, keys: tuple[str, ...]) -> tuple[Split, Split]:
    splits = []
    for images_key, labels_key in (keys[:2], keys[2:]):
        images = _array(file, images_key)
        if _channels_first(images.shape):
            images = images.transpose(0, 2, 3, 1)
        if images.ndim == 4 and images.shape[-1] == 1:
            images = images[..., 0]
        splits.append(array_split(images, _labels(file, labels_key), f"{file}, {images_key}"))
    return splits[0], splits[1]
