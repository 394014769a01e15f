"""``parquet``: images as Hugging Face ``datasets`` stores them, a column ``image: struct<bytes, path>`` and one of labels.

``PATH`` (or ``PATH/data``) holds the training records in ``train.parquet``, in ``train-*.parquet`` or in a folder ``train`` of
such files, and the test records likewise. The image column is the one called ``image``, or the only one of that type. The
label column, ``label`` unless ``data.label`` names another, holds whole numbers from 0, true and false, or text; class
names that the file's schema declares (``ClassLabel``) count as declared, else the range or the set of training labels does.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .base import (
    DataError,
    Facts,
    Form,
    Found,
    MissingData,
    Request,
    Split,
    check_test_labels,
    checked_labels,
    found_at,
    named_path,
    stamps,
    test_split,
)
from .images import channels_of, empty, open_image, prepare

if TYPE_CHECKING:
    import pyarrow as pa

_BATCH = 1024


def find(request: Request) -> Found:
    """Read schemas, labels and the first image's header. Raises ``MissingData`` or ``DataError`` that names file and column."""
    test_name = test_split(request)
    layout = f"PATH/train.parquet or PATH/train-*.parquet or PATH/train/*.parquet, and the same for {test_name}"
    root = named_path("parquet", request, layout)
    train, test = (_files(root, name) for name in ("train", test_name))
    if not train or not test:
        missing = "train" if not train else test_name
        raise MissingData(f"parquet expects {layout}; there is no file of {missing}: {found_at(root)}")
    schema = _schema(train[0])
    image, label = _image_column(schema, train[0]), request.label or "label"
    for file in (*train, *test):
        _check_columns(_schema(file), image, label, file)
    columns = [_labels(files, label) for files in (train, test)]
    names = _declared_names(schema, label)
    labels, classes = _encoded(columns, names, f"{train[0]}, column {label}", f"{test[0]}, column {label}")
    first = next(_cells(train, image))
    with _open(*first) as picture:
        facts = Facts(
            train=len(labels[0]),
            channels=channels_of(picture, first[1]),
            height=picture.height,
            width=picture.width,
            classes=classes,
        )
    splits = (
        Split(labels=labels[0], decode=partial(_decode, train, image)),
        Split(labels=labels[1], decode=partial(_decode, test, image)),
    )
    return Found(facts=facts, stamps=stamps([*train, *test]), read=lambda: splits)


def _files(root: Path, split: str) -> list[Path]:
    for place in (root, root / "data"):
        if (place / f"{split}.parquet").is_file():
            return [place / f"{split}.parquet"]
        found = sorted(place.glob(f"{split}-*.parquet")) or sorted((place / split).glob("*.parquet"))
        if found:
            return found
    return []


def _schema(file: Path) -> pa.Schema:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_schema(file)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{file} cannot be read as Parquet ({error})") from error


def _holds_images(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return pa.types.is_struct(kind) and "bytes" in {field.name for field in kind}


def _image_column(schema: pa.Schema, file: Path) -> str:
    found = [field.name for field in schema if _holds_images(field.type)]
    if "image" in found:
        return "image"
    if len(found) == 1:
        return found[0]
    raise DataError(
        f"{file} has {'no column' if not found else 'several columns'} of images (struct<bytes, path>); expected one called "
        f"image; its columns: {', '.join(f'{field.name} ({field.type})' for field in schema)}"
    )


def _check_columns(schema: pa.Schema, image: str, label: str, file: Path) -> None:
    import pyarrow as pa

    if image not in schema.names or not _holds_images(schema.field(image).type):
        raise DataError(f"{file} has no column {image} of images; its columns: {', '.join(schema.names)}")
    others = ", ".join(name for name in schema.names if name != image)
    if label not in schema.names:
        raise DataError(f"{file} has no column {label}; write data.label, one of: {others}")
    kind = schema.field(label).type
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    types = pa.types
    if not (types.is_integer(kind) or types.is_boolean(kind) or types.is_string(kind) or types.is_large_string(kind)):
        raise DataError(f"{file}, column {label} is of type {kind}; expected whole numbers, true and false, or text")


def _declared_names(schema: pa.Schema, label: str) -> list[str] | None:
    """Class names in the metadata that Hugging Face ``datasets`` writes; None where there are none."""
    try:
        return list(json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"][label]["names"])
    except (KeyError, TypeError, ValueError):
        return None


def _labels(files: Sequence[Path], label: str) -> np.ndarray:
    """All values of the label column: whole numbers or text. Raises ``DataError`` where one is missing."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    found = []
    for file in files:
        try:
            column = pq.read_table(file, columns=[label]).column(0).combine_chunks()
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{file}, column {label} cannot be read ({error})") from error
        if isinstance(column, pa.ChunkedArray):
            column = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        if column.null_count:
            row = pc.index(pc.is_null(column), True).as_py()
            raise DataError(f"{file}, row {row}: there is no {label}")
        found.append(column.to_numpy(zero_copy_only=False))
    labels = np.concatenate(found)
    if not len(labels):
        raise DataError(f"{files[0]} has no rows")
    return labels


def _encoded(columns: list[np.ndarray], names: list[str] | None, train: str, test: str) -> tuple[list[np.ndarray], int]:
    """([training labels, test labels] as int64 from 0, number of classes)."""
    text = [column.dtype == object for column in columns]
    if text[0] != text[1]:
        raise DataError(f"{train} is {'text' if text[0] else 'numbers'} and {test} is {'text' if text[1] else 'numbers'}")
    if text[0]:
        known = names or sorted(set(columns[0]))
        index = {name: place for place, name in enumerate(known)}
        for column, where in zip(columns, (train, test), strict=True):
            for row, value in enumerate(column):
                if value not in index:
                    raise DataError(f"{where}: row {row} has label {value!r}; the training set has {', '.join(known[:20])}")
        return [np.array([index[value] for value in column], np.int64) for column in columns], len(known)
    labels = [column.astype(np.int64) for column in columns]
    if names is None:
        classes = 2 if columns[0].dtype == bool else checked_labels(labels[0], train)
    else:
        classes = len(names)
        wrong = np.flatnonzero((labels[0] < 0) | (labels[0] >= classes))
        if len(wrong):
            raise DataError(f"{train}: row {wrong[0]} has label {labels[0][wrong[0]]}; the schema declares {classes} classes")
    check_test_labels(labels[1], classes, test)
    return labels, classes


def _cells(files: Sequence[Path], image: str) -> Any:
    """(encoded bytes or None, name) of every row in turn."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    for file in files:
        row = 0
        try:
            with pq.ParquetFile(file) as parquet:
                for batch in parquet.iter_batches(batch_size=_BATCH, columns=[image]):
                    for cell in batch.column(0).field("bytes"):
                        yield cell.as_py(), f"{file}, row {row}"
                        row += 1
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{file}, column {image} cannot be read ({error})") from error


def _open(content: bytes | None, name: str) -> Any:
    if content is None:
        raise DataError(f"{name}: the image has no bytes; write the file with the images embedded, not as paths")
    return open_image(io.BytesIO(content), name)


def _decode(files: Sequence[Path], image: str, rows: np.ndarray, form: Form) -> np.ndarray:
    out = empty(len(rows), form)
    places = {int(row): place for place, row in enumerate(rows)}
    for row, (content, name) in enumerate(_cells(files, image)):
        if row in places:
            with _open(content, name) as picture:
                out[places[row]] = prepare(picture, form, name)
    return out
