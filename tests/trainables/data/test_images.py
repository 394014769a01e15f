"""From images of any size and kind to bytes of one shape."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from trainables.data.base import DataError, Facts, Form
from trainables.data.images import array_split, prepare, resolutions

SQUEEZE = {"preparation": "squeeze"}


def form(pixels: int = 32, channels: int = 3, **changes: Any) -> Form:
    asked = {"preparation": "crop", "resized": True, "converted": True, **changes}
    return Form(channels=channels, height=pixels, width=pixels, **asked)


def photograph(width: int = 178, height: int = 218) -> Image.Image:
    """Smooth and different everywhere, of the size of an aligned CelebA image."""
    small = np.random.default_rng(1).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("pixels", [28, 32, 64])
def test_crop_and_squeeze_are_what_torchvision_makes_of_a_face(pixels: int) -> None:
    from torchvision.transforms import CenterCrop, Compose, Resize

    face = photograph()
    crop, squeeze = Compose([CenterCrop(178), Resize(pixels)]), Resize((pixels, pixels))
    for transform, changes in ((crop, {}), (squeeze, SQUEEZE)):
        expected = np.asarray(transform(face)).transpose(2, 0, 1)
        assert np.array_equal(prepare(face, form(pixels, **changes), "face"), expected)


def test_crop_keeps_the_middle_and_squeeze_keeps_everything() -> None:
    stripes = np.zeros((64, 192, 3), np.uint8)
    stripes[:, :64, 0] = stripes[:, 64:128, 1] = stripes[:, 128:, 2] = 255
    middle = prepare(Image.fromarray(stripes), form(), "stripes")
    assert [int(channel.mean()) for channel in middle] == [0, 255, 0]
    whole = prepare(Image.fromarray(stripes), form(**SQUEEZE), "stripes")
    assert whole[0, 0, 0] == whole[1, 0, 16] == whole[2, 0, 31] == 255


def test_square_images_are_prepared_alike() -> None:
    image = photograph(100, 100)
    assert np.array_equal(prepare(image, form(), "a"), prepare(image, form(**SQUEEZE), "a"))


def test_colour_becomes_gray_by_luminance_and_gray_becomes_colour_by_repetition() -> None:
    primaries = Image.fromarray(np.diag([255, 255, 255]).astype(np.uint8).reshape(1, 3, 3))
    gray = prepare(primaries, Form(channels=1, height=1, width=3, preparation="crop", resized=False, converted=True), "p")
    assert gray.tolist() == [[[76, 150, 29]]]
    assert len(np.unique(prepare(photograph().convert("L"), form(), "gray"), axis=0)) == 1


@pytest.mark.parametrize("mode", ["1", "LA", "P", "RGBA", "CMYK"])
def test_every_kind_of_8_bit_image_is_read(mode: str) -> None:
    image = photograph(40, 40).convert("RGBA" if mode == "LA" else "RGB").convert(mode)
    channels = 1 if mode in ("1", "LA") else 3
    found = prepare(image, form(40, channels, resized=False, converted=False), mode)
    assert np.array_equal(found, np.atleast_3d(image.convert("L" if channels == 1 else "RGB")).transpose(2, 0, 1))


def test_16_bits_are_refused() -> None:
    with pytest.raises(DataError, match=r"scan\.png has pixels of PIL's mode I;16; convert it to 8 bits"):
        prepare(Image.fromarray(np.zeros((32, 32), np.uint16)), form(), "scan.png")


def test_a_colour_image_in_a_gray_set_is_refused_unless_channels_are_asked_for() -> None:
    with pytest.raises(DataError, match=r"b is in colour and the set's first image is gray; write data.channels: 1 or 3"):
        prepare(photograph(32, 32), form(channels=1, converted=False), "b")
    assert prepare(photograph(32, 32), form(channels=1), "b").shape == (1, 32, 32)


def test_images_of_other_sizes_are_refused_unless_a_resolution_is_asked_for() -> None:
    with pytest.raises(DataError, match=r"c is 40x33 pixels and the set's first image 32x32; write data.resolution"):
        prepare(photograph(40, 33), form(resized=False), "c")
    assert prepare(photograph(40, 33), form(), "c").shape == (3, 32, 32)
    with pytest.raises(DataError, match=r"d is 40x31 pixels, .* data.resolution 32; leave it out, or write data.enlarge: true"):
        prepare(photograph(40, 31), form(), "d")


@pytest.mark.parametrize(
    ("height", "width", "channels", "expected"),
    [
        (28, 28, 1, [28, 32]),
        (28, 28, 3, [28]),
        (32, 32, 1, [28, 32]),
        (64, 48, 3, [28, 32]),
        (218, 178, 3, [28, 32, 64]),
        (16, 16, 3, []),
    ],
)
def test_images_are_never_enlarged_but_for_the_border_of_28_gray_pixels(
    height: int, width: int, channels: int, expected: list[int]
) -> None:
    facts = Facts(train=1, channels=channels, height=height, width=width, classes=1)
    assert resolutions(facts) == expected
    assert resolutions(facts, enlarge=True) == [28, 32, 64]


@pytest.mark.parametrize(("own", "channels", "pixels"), [(28, 1, 32), (28, 1, 64), (32, 3, 64), (28, 3, 32), (30, 1, 64)])
def test_enlarging_is_linear_interpolation_between_pixel_centres(own: int, channels: int, pixels: int) -> None:
    import torch

    shape = (3, own, own) if channels == 1 else (3, own, own, 3)
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    asked = form(pixels, channels, enlarged=True)
    found = array_split(images, np.zeros(3), "set").decode(np.array([2, 0]), asked)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(images[[2, 0]].reshape(2, own, own, channels).transpose(0, 3, 1, 2)).double(),
        size=pixels, mode="bilinear", align_corners=False,
    )  # fmt: skip
    assert np.abs(found - expected.numpy()).max() <= 1 + 1e-9, "PIL rounds after each of the two directions"
    for place, row in enumerate([2, 0]):
        assert np.array_equal(found[place], prepare(Image.fromarray(images[row]), asked, "file"))


def test_an_image_that_is_not_square_is_cut_or_squeezed_before_it_is_enlarged() -> None:
    image = photograph(40, 31)
    with_crop = prepare(image, form(64, enlarged=True), "a")
    assert np.array_equal(with_crop, prepare(image.crop((4, 0, 35, 31)), form(64, enlarged=True), "a"))
    squeezed = np.asarray(image.resize((64, 64), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    assert np.array_equal(prepare(image, form(64, **SQUEEZE, enlarged=True), "a"), squeezed)


def test_images_that_need_no_enlargement_are_prepared_as_without_it() -> None:
    for pixels in (28, 32):
        assert np.array_equal(prepare(photograph(), form(pixels, enlarged=True), "a"), prepare(photograph(), form(pixels), "a"))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("pixels", [28, 32])
def test_a_border_is_the_same_for_an_array_and_for_a_file(pixels: int, channels: int) -> None:
    images = np.random.default_rng(0).integers(1, 256, (4, 28, 28), dtype=np.uint8)
    found = array_split(images, np.zeros(4), "set").decode(np.array([2, 0]), form(pixels, channels))
    for place, row in enumerate([2, 0]):
        assert np.array_equal(found[place], prepare(Image.fromarray(images[row]), form(pixels, channels), "file"))
    assert np.count_nonzero(found[0, 0]) == 28 * 28


@pytest.mark.parametrize(("pixels", "channels"), [(32, 3), (28, 3), (32, 1), (28, 1)])
def test_a_row_of_an_array_is_prepared_like_a_file(pixels: int, channels: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    found = array_split(images, np.zeros(5), "set").decode(np.array([4, 1]), form(pixels, channels))
    expected = [prepare(Image.fromarray(images[row]), form(pixels, channels), "file") for row in (4, 1)]
    assert np.array_equal(found, np.stack(expected))
