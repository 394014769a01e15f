"""Images of any size to uint8 ``[C, H, W]`` of one size, in integer arithmetic, so that every machine makes the same bytes.

- Colour becomes gray by luminance (ITU-R 601, as PIL does it), gray becomes colour by repetition; transparency is dropped.
- ``crop`` cuts the largest centred square and resizes that (Cao et al. 2021 and DPDM prepare CelebA so); ``squeeze``
  resizes the whole image and distorts it where it is not square (DPAC does). Square images come out alike.
- Resizing is PIL's bilinear filter over the area that a pixel covers, as in torchvision's ``Resize``. Images are made
  smaller, never larger, with one exception: gray 28x28 images get 32x32 pixels by a black border two pixels wide.
- ``enlarge`` makes images larger, by linear interpolation between pixel centres (edges repeated). It fills the whole frame
  always, so gray 28x28 images get no border then: 32 and 64 pixels show the same picture at another scale.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from .base import DataError, Facts, Form, Split

if TYPE_CHECKING:
    from PIL.Image import Image

RESOLUTIONS = (28, 32, 64)
_GRAY = ("1", "L", "LA", "La")
_COLOUR = ("RGB", "RGBA", "RGBa", "RGBX", "P", "PA", "CMYK", "YCbCr", "LAB", "HSV")


def resolutions(facts: Facts, *, enlarge: bool = False) -> list[int]:
    """Resolutions that a set can be brought to: those that need no enlargement, and the border of gray 28x28 images; all of
    them with ``enlarge``.
    """
    if enlarge:
        return list(RESOLUTIONS)
    bordered = facts.channels == 1 and facts.height == facts.width == 28
    return [pixels for pixels in RESOLUTIONS if pixels <= min(facts.height, facts.width) or (bordered and pixels == 32)]


def open_image(source: object, name: str) -> Image:
    """PIL's lazy image of a path or file object: its header has been read. Raises ``DataError``."""
    import PIL.Image

    try:
        return PIL.Image.open(source)  # type: ignore[arg-type]
    except MemoryError:
        raise
    except PIL.UnidentifiedImageError:  # its text names the file object
        raise DataError(f"{name} cannot be read as an image: it is of no format that PIL knows") from None
    except Exception as error:  # PIL's decoders raise many kinds
        raise DataError(f"{name} cannot be read as an image: {type(error).__name__}: {error}") from error


def channels_of(image: Image, name: str) -> int:
    """1 for gray, 3 for colour. Raises ``DataError`` where a channel has more than 8 bits."""
    if image.mode in _GRAY:
        return 1
    if image.mode in _COLOUR:
        return 3
    raise DataError(f"{name} has pixels of PIL's mode {image.mode}; convert it to 8 bits a channel, gray or RGB")


def prepare(image: Image, form: Form, name: str) -> np.ndarray:
    """uint8 ``[C, H, W]``. Raises ``DataError`` that calls the image ``name``."""
    import PIL.Image

    channels, (width, height) = channels_of(image, name), image.size
    if channels == 3 and form.channels == 1 and not form.converted:
        raise DataError(f"{name} is in colour and the set's first image is gray; write data.channels: 1 or 3")
    mode = "L" if form.channels == 1 else "RGB"
    try:
        image = image.convert(mode)  # decodes
    except MemoryError:
        raise
    except Exception as error:
        raise DataError(f"{name} cannot be decoded as an image: {type(error).__name__}: {error}") from error
    if (height, width) != (form.height, form.width):
        if not form.resized:
            expected = f"{form.width}x{form.height}"
            raise DataError(f"{name} is {width}x{height} pixels and the set's first image {expected}; write data.resolution")
        if _bordered(channels, height, width, form):
            framed = PIL.Image.new(mode, (32, 32))
            framed.paste(image, (2, 2))
            image = framed
        elif min(height, width) < form.height and not form.enlarged:
            found = f"{name} is {width}x{height} pixels, smaller than data.resolution {form.height}"
            raise DataError(f"{found}; leave it out, or write data.enlarge: true")
        else:
            if form.preparation == "crop":
                side = min(width, height)
                left, top = (width - side) // 2, (height - side) // 2
                image = image.crop((left, top, left + side, top + side))
            image = image.resize((form.width, form.height), PIL.Image.Resampling.BILINEAR)
    array = np.asarray(image)
    return array[None] if form.channels == 1 else array.transpose(2, 0, 1)


def _bordered(channels: int, height: int, width: int, form: Form) -> bool:
    """Whether an image becomes 32x32 by a border rather than by resizing."""
    return channels == 1 and (height, width, form.height) == (28, 28, 32) and not form.enlarged


def empty(count: int, form: Form) -> np.ndarray:
    """uint8 ``[count, C, H, W]`` to be filled."""
    return np.empty((count, form.channels, form.height, form.width), np.uint8)


def array_split(images: np.ndarray, labels: np.ndarray, name: str) -> Split:
    """A split of uint8 ``[N, H, W]`` gray or ``[N, H, W, 3]`` colour images."""

    def decode(rows: np.ndarray, form: Form) -> np.ndarray:
        import PIL.Image

        height, width = images.shape[1:3]
        gray = images.ndim == 3
        margin = 2 if gray and _bordered(1, height, width, form) else 0
        if gray and (form.height, form.width) == (height + 2 * margin, width + 2 * margin):
            chosen = np.pad(images[rows], ((0, 0), (margin, margin), (margin, margin)))
            return np.ascontiguousarray(np.repeat(chosen[:, None], form.channels, axis=1))
        if not gray and (form.channels, form.height, form.width) == (3, height, width):
            return np.ascontiguousarray(images[rows].transpose(0, 3, 1, 2))
        out = empty(len(rows), form)
        for place, row in enumerate(rows):
            out[place] = prepare(PIL.Image.fromarray(np.ascontiguousarray(images[row])), form, f"{name}, row {row}")
        return out

    return Split(labels=labels.astype(np.int64), decode=decode)


def file_split(names: list[str], opener: Callable[[str], object], labels: np.ndarray) -> Split:
    """A split of image files; ``opener(name)`` gives what PIL can open."""

    def decode(rows: np.ndarray, form: Form) -> np.ndarray:
        out = empty(len(rows), form)
        for place, row in enumerate(rows):
            with open_image(opener(names[row]), names[row]) as image:
                out[place] = prepare(image, form, names[row])
        return out

    return Split(labels=labels.astype(np.int64), decode=decode)
