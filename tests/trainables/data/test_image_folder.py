"""A folder of image files a class, as a user would bring it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from trainables.data.sources import DataError, MissingData, describe, fingerprint, load

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def root(tmp_path, pictures):
    """train: 3 cats, 2 dogs; test: 1 of each."""
    root = tmp_path / "pets"
    for place, (name, count) in enumerate([("train/cat", 3), ("train/dog", 2), ("test/cat", 1), ("test/dog", 1)]):
        (root / name).mkdir(parents=True)
        for number, image in enumerate(pictures(count, seed=place)):
            image.save(root / name / f"{number}.{'png' if number else 'PNG'}")
    return root


def test_every_file_is_a_record_of_its_folders_class(root, pictures):
    train, test = load("image_folder", path=str(root))
    assert describe("image_folder", path=str(root)) == train.info
    assert (train.info.size, train.info.shape, train.info.classes) == (5, (3, 32, 32), 2)
    assert sorted(train.labels) == [0, 0, 0, 1, 1]
    assert list(test.labels) == [0, 1]
    assert np.array_equal(test.images[1], np.asarray(pictures(1, seed=3)[0]).transpose(2, 0, 1))
    for picture in pictures(3, seed=0):
        (row,) = np.flatnonzero((train.images == np.asarray(picture).transpose(2, 0, 1)).all(axis=(1, 2, 3)))
        assert train.labels[row] == 0


def test_smaller_sets_are_nested(root):
    whole, small = load("image_folder", path=str(root))[0], load("image_folder", path=str(root), size=2)[0]
    assert np.array_equal(small.images, whole.images[:2])


def test_files_may_lie_deeper_and_what_is_no_image_is_left_alone(root):
    (root / "train" / "cat" / "more").mkdir()
    (root / "train" / "cat" / "0.PNG").rename(root / "train" / "cat" / "more" / "0.png")
    (root / "train" / "cat" / "notes.txt").write_text("a note")
    (root / "train" / "cat" / ".hidden.png").write_text("no image")
    assert describe("image_folder", path=str(root)).size == 5


def test_the_same_images_elsewhere_are_the_same_data(root, tmp_path):
    before = fingerprint("image_folder", path=str(root), cache_file=tmp_path / "fingerprints")
    root.rename(tmp_path / "moved")
    assert fingerprint("image_folder", path=str(tmp_path / "moved"), cache_file=tmp_path / "fingerprints") == before


def test_a_changed_file_changes_the_fingerprint(root, tmp_path, pictures):
    before = fingerprint("image_folder", path=str(root), cache_file=tmp_path / "fingerprints")
    pictures(1, seed=9)[0].save(root / "test" / "dog" / "0.PNG")
    assert fingerprint("image_folder", path=str(root), cache_file=tmp_path / "fingerprints") != before


def test_another_folder_can_be_the_test_set(root):
    (root / "test").rename(root / "valid")
    assert len(load("image_folder", path=str(root), test_split="valid")[1].labels) == 2
    with pytest.raises(MissingData, match=r"PATH/test/CLASS/.*holds train/, valid/"):
        describe("image_folder", path=str(root))
    for name in ("train", "../pets/valid", "..", "."):
        with pytest.raises(DataError, match="expected the name of another split than train"):
            describe("image_folder", path=str(root), test_split=name)


def test_images_of_several_sizes_need_a_resolution(root, pictures):
    (large,) = pictures(1, width=50, height=40)
    large.save(root / "train" / "dog" / "1.png")
    with pytest.raises(DataError, match=r"train/dog/1\.png is 50x40 pixels and the set's first image 32x32"):
        load("image_folder", path=str(root))
    crop, squeeze = (
        load("image_folder", path=str(root), resolution=32, preparation=preparation)[0] for preparation in ("crop", "squeeze")
    )
    assert (crop.images != squeeze.images).any(axis=(1, 2, 3)).sum() == 1
    with pytest.raises(DataError, match=r"data.resolution is 64; image_folder comes in 28 or 32 pixels"):
        load("image_folder", path=str(root), resolution=64)


def test_images_that_are_not_square_need_a_resolution(root, pictures):
    for file in root.rglob("*.[pP]*"):
        pictures(1, width=50, height=66)[0].save(file)
    with pytest.raises(DataError, match=r"data.resolution is missing; .* 50x66 pixels: write 28 or 32"):
        describe("image_folder", path=str(root))
    assert describe("image_folder", path=str(root), resolution=32).shape == (3, 32, 32)


def test_a_spoilt_image_is_named(root):
    file = root / "train" / "dog" / "1.png"
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"train/dog/1\.png cannot be decoded as an image"):
        load("image_folder", path=str(root))
    file.write_bytes(b"no image")
    with pytest.raises(DataError, match=r"train/dog/1\.png cannot be read as an image"):
        load("image_folder", path=str(root))


def test_a_class_that_only_the_test_set_has_is_named(root):
    (root / "test" / "dog").rename(root / "test" / "wolf")
    with pytest.raises(DataError, match=r"test has the class wolf, which .*train does not have; its classes: cat, dog"):
        describe("image_folder", path=str(root))


@pytest.mark.parametrize(
    ("spoil", "found"),
    [
        (lambda root: root.rename(root.with_name("away")), "pets does not exist"),
        (lambda root: (root / "train").rename(root / "Train"), "holds Train/, test/"),
        (lambda root: [file.unlink() for file in (root / "test").rglob("*.*")], r"no image below .*test \(.* holds cat/, dog/"),
    ],
)
def test_another_layout_is_answered_with_the_one_expected_and_what_is_there(root, spoil, found):
    spoil(root)
    with pytest.raises(MissingData, match=rf"image_folder expects PATH/train/CLASS/\*\.png .*{found}"):
        describe("image_folder", path=str(root))


def test_without_a_path_the_layout_is_said():
    with pytest.raises(MissingData, match=r"data.path is missing; image_folder expects PATH/train/CLASS/"):
        describe("image_folder")


def test_a_link_to_a_folder_of_images_is_followed(root, tmp_path):
    (root / "train" / "dog").rename(tmp_path / "dogs")
    Path(root / "train" / "dog").symlink_to(tmp_path / "dogs")
    assert describe("image_folder", path=str(root)).size == 5


def test_a_link_to_a_folder_above_itself_is_named(root):
    (root / "train" / "dog" / "more").mkdir()
    (root / "train" / "dog" / "more" / "all").symlink_to(root / "train" / "dog")
    with pytest.raises(DataError, match=r"train/dog/more/all is a link to a folder that holds it; remove the link"):
        describe("image_folder", path=str(root))
