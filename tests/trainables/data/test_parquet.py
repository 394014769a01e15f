"""Images in Parquet files, as Hugging Face ``datasets`` writes them."""

from __future__ import annotations

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from trainables.data.sources import DataError, MissingData, describe, load

pytestmark = pytest.mark.usefixtures("own_cache")

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def encoded(image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def write(tmp_path, pictures):
    """Writes one file of as many images as labels; returns the folder."""

    def to(name: str, labels, *, seed: int = 0, names=None, images=None, column: str = "image", **others) -> str:
        cells = [{"bytes": encoded(image), "path": None} for image in pictures(len(labels), seed=seed)]
        table = pa.table({column: pa.array(images if images is not None else cells, IMAGE), "label": labels, **others})
        if names:
            features = {"label": {"names": names, "_type": "ClassLabel"}, "image": {"_type": "Image"}}
            table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
        path = tmp_path / "set" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, path, row_group_size=2)
        return str(tmp_path / "set")

    return to


def test_images_and_labels_are_read_in_the_public_order(write, pictures):
    write("train.parquet", [0, 1, 2, 0, 1])
    path = write("test.parquet", [2, 0], seed=1)
    train, test = load("parquet", path=path)
    assert describe("parquet", path=path) == train.info
    assert (train.info.size, train.info.shape, train.info.classes) == (5, (3, 32, 32), 3)
    for label, picture in zip([0, 1, 2, 0, 1], pictures(5), strict=True):
        (row,) = np.flatnonzero((train.images == np.asarray(picture).transpose(2, 0, 1)).all(axis=(1, 2, 3)))
        assert train.labels[row] == label
    assert np.array_equal(test.images[0], np.asarray(pictures(2, seed=1)[0]).transpose(2, 0, 1))
    assert list(test.labels) == [2, 0]
    small = load("parquet", path=path, size=2)[0]
    assert np.array_equal(small.images, train.images[:2])


@pytest.mark.parametrize(
    "names",
    [
        ("train-00000-of-00002.parquet", "train-00001-of-00002.parquet", "test-00000-of-00001.parquet"),
        ("train/a.parquet", "train/b.parquet", "test/a.parquet"),
        ("data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet", "data/test.parquet"),
    ],
)
def test_files_and_folders_of_files_are_the_same_records(write, names, tmp_path):
    write(names[0], [0, 1, 1])
    write(names[1], [1, 0], seed=1)
    path = write(names[2], [1], seed=2)
    several = load("parquet", path=path)
    one = tmp_path / "one"
    one.mkdir()
    parts = [pq.read_table(f"{path}/{name}") for name in names]
    pq.write_table(pa.concat_tables(parts[:2]), one / "train.parquet")
    pq.write_table(parts[2], one / "test.parquet")
    for found, expected in zip(several, load("parquet", path=str(one)), strict=True):
        assert np.array_equal(found.images, expected.images)
        assert np.array_equal(found.labels, expected.labels)


@pytest.mark.parametrize(
    ("train", "test", "names", "classes", "expected"),
    [
        ([0, 1, 0], [1], None, 2, [1]),
        ([0, 1, 0], [1], ["a", "b", "c", "d"], 4, [1]),
        ([False, True, False], [True], None, 2, [1]),
        (["dog", "cat", "dog"], ["dog", "cat"], None, 2, [1, 0]),
        (pa.array(["dog", "cat", "dog"]).dictionary_encode(), pa.array(["dog"]).dictionary_encode(), None, 2, [1]),
        (["dog", "cat", "dog"], ["dog"], ["dog", "cat"], 2, [0]),
        (pa.array([0, 1, 0], pa.uint8()), pa.array([1], pa.int32()), None, 2, [1]),
    ],
)
def test_labels_of_every_kind(write, train, test, names, classes, expected):
    write("train.parquet", train, names=names)
    path = write("test.parquet", test, names=names)
    assert describe("parquet", path=path).classes == classes
    assert list(load("parquet", path=path)[1].labels) == expected


def test_the_label_is_the_column_asked_for(write):
    write("train.parquet", [0, 1], age=[2, 0])
    path = write("test.parquet", [0], age=[1])
    with pytest.raises(DataError, match=r"train.parquet, column age: training labels run from 0 to 2"):
        load("parquet", path=path, label="age")
    write("train.parquet", [0, 1, 1], age=[2, 0, 1])
    assert list(load("parquet", path=path, label="age")[1].labels) == [1]
    with pytest.raises(DataError, match=r"has no column sex; write data.label, one of: label, age"):
        describe("parquet", path=path, label="sex")


def test_the_only_column_of_images_may_be_called_otherwise(write):
    write("train.parquet", [0, 1], column="img")
    path = write("test.parquet", [0], column="img")
    assert describe("parquet", path=path).size == 2


def test_another_split_can_be_the_test_set(write):
    write("train.parquet", [0, 1])
    path = write("validation.parquet", [0, 1, 0])
    assert len(load("parquet", path=path, test_split="validation")[1].labels) == 3
    with pytest.raises(MissingData, match=r"no file of test: .* holds train.parquet, validation.parquet"):
        describe("parquet", path=path)


@pytest.mark.parametrize(
    ("train", "test", "names", "message"),
    [
        ([0, None, 1], [0], None, "train.parquet, row 1: there is no label"),
        ([0, 1], [2], None, "test.parquet, column label: row 0 of the test set has label 2; the training set has 0 to 1"),
        ([0, 1], [-1], ["a", "b"], "row 0 of the test set has label -1"),
        ([0, 2], [0], ["a", "b"], "row 1 has label 2; the schema declares 2 classes"),
        (["a", "b"], ["c"], None, "test.parquet, column label: row 0 has label 'c'; the training set has a, b"),
        ([0.5, 1.0], [0.5], None, "column label is of type double; expected whole numbers, true and false, or text"),
        ([3, 4], [3], None, "training labels run from 3 to 4; expected classes counted from 0"),
        ([0, 1], ["a"], None, "train.parquet, column label is numbers and .*test.parquet, column label is text"),
    ],
)
def test_labels_that_cannot_be_used_are_named(write, train, test, names, message):
    write("train.parquet", train, names=names)
    path = write("test.parquet", test, names=names)
    with pytest.raises(DataError, match=message):
        describe("parquet", path=path)


@pytest.mark.parametrize("empty", ["train", "test"])
@pytest.mark.parametrize("kind", [pa.int64(), pa.string()])
def test_a_file_without_rows_is_named(write, empty, kind):
    for split in ("train", "test"):
        path = write(f"{split}.parquet", pa.array([] if split == empty else [0], pa.int64()).cast(kind))
    with pytest.raises(DataError, match=rf"{empty}\.parquet has no rows"):
        describe("parquet", path=path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no image", r"train\.parquet, row 2 cannot be read as an image: it is of no format that PIL knows$"),
        (None, "row 2: the image has no bytes"),
    ],
)
def test_a_spoilt_image_is_named_by_its_row(write, pictures, content, message):
    images = [{"bytes": encoded(image), "path": "a.png"} for image in pictures(3)]
    images[2]["bytes"] = content
    write("train.parquet", [0, 1, 0], images=images)
    path = write("test.parquet", [0])
    with pytest.raises(DataError, match=message):
        load("parquet", path=path)


def test_images_of_another_size_are_named_by_their_row(write, pictures):
    write("train.parquet", [0, 1])
    images = [{"bytes": encoded(image), "path": None} for image in pictures(2, width=40)]
    path = write("test.parquet", [0, 1], images=images)
    with pytest.raises(DataError, match=r"test.parquet, row 0 is 40x32 pixels and the set's first image 32x32"):
        load("parquet", path=path)


def test_a_file_without_images_and_one_that_is_no_parquet(write, tmp_path):
    path = write("train.parquet", [0])
    test = tmp_path / "set" / "test.parquet"
    pq.write_table(pa.table({"label": [0], "pixels": [b"x"]}), test)
    with pytest.raises(DataError, match=r"test.parquet has no column image of images; its columns: label, pixels"):
        describe("parquet", path=path)
    test.write_bytes(b"not Parquet")
    with pytest.raises(DataError, match=r"test.parquet cannot be read as Parquet"):
        describe("parquet", path=path)
    pq.write_table(pa.table({"label": [0], "pixels": [b"x"]}), tmp_path / "set" / "train.parquet")
    with pytest.raises(DataError, match=r"train.parquet has no column of images .* its columns: label \(int64\), pixels"):
        describe("parquet", path=path)
