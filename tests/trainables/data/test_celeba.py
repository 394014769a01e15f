"""CelebA's files, with a few small faces of our own making in place of the published ones."""

from __future__ import annotations

import hashlib
import sys
import zipfile

import numpy as np
import pytest

from trainables.data import celeba, sources
from trainables.data.images import prepare
from trainables.data.sources import DataError, MissingData, describe, load

pytestmark = pytest.mark.usefixtures("own_cache")

NAMES = [f"{number:06}.jpg" for number in range(1, 10)]
SPLIT = [0, 0, 0, 0, 1, 1, 2, 2, 2]
MALE = [1, -1, -1, 1, 1, -1, -1, 1, -1]
SMILING = [1, 1, 1, -1, -1, -1, 1, 1, 1]


@pytest.fixture
def root(tmp_path, pictures, monkeypatch):
    """4 train, 2 valid and 3 test faces of 178x218 pixels in torchvision's layout, in the archive."""
    folder = tmp_path / "root" / celeba.FOLDER
    (folder / celeba.IMAGES).mkdir(parents=True)
    for name, image in zip(NAMES, pictures(9, width=178, height=218), strict=True):
        image.save(folder / celeba.IMAGES / name)
    rows = zip(NAMES, MALE, SMILING, strict=True)
    lines = ["9", "Male Smiling ", *(f"{name} {male:2} {smiling:2}" for name, male, smiling in rows)]
    (folder / celeba.ATTRIBUTES).write_text("\n".join(lines) + "\n")
    lines = [f"{name} {split}" for name, split in zip(NAMES, SPLIT, strict=True)]
    (folder / celeba.PARTITION).write_text("\n".join(lines) + "\n")
    with zipfile.ZipFile(folder / celeba.ARCHIVE, "w") as archive:
        for name in NAMES:
            archive.write(folder / celeba.IMAGES / name, f"{celeba.IMAGES}/{name}")
    monkeypatch.setattr(celeba, "TRAIN", 4)
    monkeypatch.setattr(celeba, "MD5", {name: hashlib.md5((folder / name).read_bytes()).hexdigest() for name in celeba.MD5})
    for file in (folder / celeba.IMAGES).iterdir():
        file.rename(tmp_path / file.name)
    (folder / celeba.IMAGES).rmdir()
    return tmp_path / "root"


def unpack(root):
    with zipfile.ZipFile(root / celeba.FOLDER / celeba.ARCHIVE) as archive:
        archive.extractall(root / celeba.FOLDER)
    (root / celeba.FOLDER / celeba.ARCHIVE).unlink()


def test_the_official_splits_and_the_attribute_male(root):
    train, test = load("celeba", path=str(root), resolution=32)
    assert describe("celeba", path=str(root), resolution=32) == train.info
    assert (train.info.size, train.info.shape, train.info.classes) == (4, (3, 32, 32), 2)
    assert sorted(train.labels) == [0, 0, 1, 1]
    assert list(test.labels) == [0, 1, 0]


def test_another_attribute_and_another_test_split(root):
    train, valid = load("celeba", path=str(root), resolution=32, label="Smiling", test_split="valid")
    assert sorted(train.labels) == [0, 1, 1, 1]
    assert list(valid.labels) == [0, 0]
    assert not (valid.images[:, None] == train.images[None]).all(axis=(2, 3, 4)).any()


def test_the_archive_and_the_folder_made_of_it_are_the_same_data(root):
    before = sources.content_hash(*load("celeba", path=str(root), resolution=32))
    unpack(root)
    assert sources.content_hash(*load("celeba", path=str(root / celeba.FOLDER), resolution=32)) == before


@pytest.mark.parametrize("preparation", ["crop", "squeeze"])
@pytest.mark.parametrize("resolution", [28, 32, 64])
def test_crop_and_squeeze(root, preparation, resolution):
    from PIL import Image

    from trainables.data.base import Form

    settings = {"path": str(root), "resolution": resolution}
    form = Form(channels=3, height=resolution, width=resolution, preparation=preparation, resized=True, converted=False)
    with Image.open(root.parent / NAMES[6]) as face:
        expected = prepare(face, form, "face")
    assert np.array_equal(load("celeba", **settings, preparation=preparation)[1].images[0], expected)
    default = load("celeba", **settings)[1].images[0]
    assert np.array_equal(default, expected) == (preparation == "crop")


def test_a_resolution_is_needed(root):
    with pytest.raises(DataError, match=r"data.resolution is missing; .* 178x218 pixels: write 28, 32 or 64"):
        describe("celeba", path=str(root))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"label": "Mail"}, "data.label is 'Mail', which is no attribute of celeba; did you mean Male?"),
        ({"label": "x"}, "celeba has Male, Smiling"),
        ({"test_split": "validation"}, "data.test_split is 'validation'; celeba has test or valid"),
    ],
)
def test_what_celeba_does_not_have(root, settings, message):
    with pytest.raises(DataError, match=message):
        describe("celeba", path=str(root), resolution=32, **settings)


@pytest.mark.parametrize("name", list(celeba.MD5))
def test_a_file_that_is_not_the_published_one_is_named(root, name):
    file = root / celeba.FOLDER / name
    file.write_bytes(file.read_bytes() + b"\n")
    with pytest.raises(DataError, match=f"{name} is not the published file of celeba"):
        load("celeba", path=str(root), resolution=32)


def test_an_image_that_is_missing_or_spoilt_is_named(root):
    unpack(root)
    file = root / celeba.FOLDER / celeba.IMAGES / NAMES[0]
    file.write_bytes(file.read_bytes()[:2000])
    with pytest.raises(DataError, match=f"{NAMES[0]} cannot be decoded as an image"):
        load("celeba", path=str(root), resolution=32)
    file.unlink()
    with pytest.raises(DataError, match=f"{NAMES[0]} cannot be read as an image: FileNotFoundError"):
        load("celeba", path=str(root), resolution=32)


def test_a_missing_set_says_what_to_type_and_what_to_do_by_hand(tmp_path):
    with pytest.raises(MissingData) as caught:
        describe("celeba", path=str(tmp_path), resolution=32)
    for expected in ("pip install gdown", f"sources fetch celeba --path {tmp_path};", *celeba.MD5, f"into {tmp_path}/celeba"):
        assert expected in str(caught.value)


def test_a_download_that_fails_says_what_to_do_by_hand(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gdown", None)  # as if it were not installed: nothing is downloaded
    assert sources.main(["fetch", "celeba", "--path", str(tmp_path)]) == 1
    message = capsys.readouterr().err
    for expected in ("pip install gdown", "mmlab.ie.cuhk.edu.hk", *celeba.MD5, str(tmp_path / "celeba")):
        assert expected in message
    assert message.count("\n") == 1


def test_the_published_checksums_are_torchvisions():
    from torchvision.datasets import CelebA

    assert celeba.MD5.items() <= {name: md5 for _, md5, name in CelebA.file_list}.items()
