"""One picture of what trials make: a row a class, a column a trial."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

MAX_COLUMNS = 24
"""Most trials on one sheet; its title says how many are left out."""

Column = tuple[str, Sequence[Sequence[np.ndarray]]]
"""(heading, images of class 0, images of class 1, ...)."""

_GAP, _SEAM, _MARGIN, _TEXT, _TITLE = 10, 2, 16, 14, 18
_INK, _PAPER, _EMPTY, _RULE = (20, 20, 20), (255, 255, 255), (238, 238, 238), (150, 150, 150)


def contact_sheet(
    columns: Sequence[Column],
    path: Path,
    title: str,
    real: Column | None = None,
    class_names: Sequence[str] | None = None,
) -> None:
    """Write the ``sheet`` of ``columns`` to ``path`` as PNG."""
    picture = sheet(columns, title, real, class_names)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, format="PNG")


def sheet(
    columns: Sequence[Column], title: str, real: Column | None = None, class_names: Sequence[str] | None = None
) -> Image.Image:
    """The sheet of ``columns``.

    A column is a heading (label and epsilon, wrapped to the column) and its images a class. An image is [H, W], [C, H, W] or
    [H, W, C] with C of 1 or 3, uint8, or float in [0, 1]; several of a class are laid out in a square. ``real`` goes first,
    apart from the rest. Classes are named 0, 1, ... unless ``class_names`` says otherwise. Raises ``ValueError`` where there
    is no image or one has another form.
    """
    shown = list(columns[:MAX_COLUMNS])
    if len(columns) > len(shown):
        title = f"{title} (the first {len(shown)} of {len(columns)} trials; {len(columns) - len(shown)} are left out)"
    if real is not None:
        shown.insert(0, real)
    pictures = [[[_rgb(image) for image in images] for images in by_class] for _, by_class in shown]
    every = [image for by_class in pictures for images in by_class for image in images]
    if not every:
        raise ValueError("a contact sheet needs at least one image")
    rows = max(len(by_class) for by_class in pictures)
    names = list(class_names) if class_names is not None else [str(row) for row in range(rows)]

    across = [_across(max((len(images) for images in by_class), default=1)) for by_class in pictures]
    for by_class in pictures:
        by_class.extend([] for _ in range(rows - len(by_class)))
    down = [
        max(max(1, -(-len(by_class[row]) // count)) for by_class, count in zip(pictures, across, strict=True))
        for row in range(rows)
    ]
    size = max(max(image.shape[:2]) for image in every)
    scale = max(1, round((84 if sum(across) <= 8 else 56) / size))
    pitch = size * scale + _SEAM
    text, bold = font("DejaVuSans.ttf", _TEXT), font("DejaVuSans-Bold.ttf", _TITLE)
    widths = [max(144, count * pitch - _SEAM) for count in across]
    headings = [wrap(heading, text, width) for (heading, _), width in zip(shown, widths, strict=True)]

    left = _MARGIN + int(max((text.getlength(name) for name in names), default=0)) + _GAP
    width = left + sum(widths) + _GAP * (len(widths) - 1) + (_GAP if real else 0) + _MARGIN
    title_lines = wrap(title, bold, width - 2 * _MARGIN)
    top = _MARGIN + len(title_lines) * (_TITLE + 6) + _GAP
    body = top + max(len(lines) for lines in headings) * (_TEXT + 4) + _GAP
    height = body + sum(count * pitch - _SEAM + _GAP for count in down) + _MARGIN - _GAP

    picture = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(picture)
    draw.multiline_text((_MARGIN, _MARGIN), "\n".join(title_lines), _INK, bold, spacing=6)
    y = body
    for row in range(rows):
        if row < len(names):
            draw.text((left - _GAP, y + down[row] * pitch / 2), names[row], _INK, text, anchor="rm")
        x = left
        for index, by_class in enumerate(pictures):
            if by_class[row]:
                for place, image in enumerate(by_class[row]):
                    corner = (x + place % across[index] * pitch, y + place // across[index] * pitch)
                    picture.paste(_enlarged(image, scale), corner)
            else:
                draw.rectangle((x, y, x + across[index] * pitch - _SEAM - 1, y + down[row] * pitch - _SEAM - 1), _EMPTY)
            x += widths[index] + _GAP + (_GAP if real and index == 0 else 0)
        y += down[row] * pitch - _SEAM + _GAP
    x = left
    for index, lines in enumerate(headings):
        draw.multiline_text((x, body - _GAP), "\n".join(lines), _INK, text, anchor="ld", spacing=4)
        x += widths[index] + _GAP + (_GAP if real and index == 0 else 0)
    if real:
        draw.line((left + widths[0] + _GAP, top, left + widths[0] + _GAP, height - _MARGIN), _RULE)
    return picture


def _rgb(image: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 3] of one image. Raises ``ValueError`` where it is none."""
    if image.ndim == 3 and image.shape[0] in (1, 3):
        image = np.moveaxis(image, 0, -1)
    elif image.ndim == 2:
        image = image[..., None]
    if image.ndim != 3 or image.shape[-1] not in (1, 3):
        raise ValueError(f"an image has the shape {image.shape}; expected [H, W], [C, H, W] or [H, W, C] with C of 1 or 3")
    if image.dtype != np.uint8:
        if not np.issubdtype(image.dtype, np.floating):
            raise ValueError(f"an image is of {image.dtype}; expected uint8, or float in [0, 1]")
        image = np.rint(np.clip(np.nan_to_num(image), 0, 1) * 255).astype(np.uint8)
    return np.broadcast_to(image, (*image.shape[:2], 3))


def _across(count: int) -> int:
    """Images side by side in a cell of ``count``: the least square that holds them."""
    return max(1, int(np.ceil(np.sqrt(count))))


def _enlarged(image: np.ndarray, scale: int) -> Image.Image:
    picture = Image.fromarray(np.ascontiguousarray(image))
    return picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)


def font(name: str, size: int) -> ImageFont.FreeTypeFont:
    """A font that comes with matplotlib: the same on every machine, with the letters of labels in most languages."""
    import matplotlib

    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts", "ttf", name)), size)


def wrap(words: str, font: ImageFont.FreeTypeFont, width: float) -> list[str]:
    """Lines of at most ``width`` pixels, broken at spaces and line breaks; longer words preferably after ``_`` or ``=``."""
    lines: list[str] = []
    for paragraph in words.splitlines() or [""]:
        line = ""
        for word in paragraph.split():
            if line and font.getlength(f"{line} {word}") > width:
                lines.append(line)
                line = ""
            line = f"{line} {word}".strip()
            while font.getlength(line) > width and len(line) > 1:
                fits = next(n for n in range(len(line) - 1, 0, -1) if n == 1 or font.getlength(line[:n]) <= width)
                cut = next((n for n in range(fits, fits // 2, -1) if line[n - 1] in "_="), fits)
                lines.append(line[:cut])
                line = line[cut:]
        lines.append(line)
    return lines
