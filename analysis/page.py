"""The parts that a report is made of, and the one HTML file that they become.

A section is a heading and blocks; a block is plain data with a ``kind`` that ``templates/report.html`` knows how to show.
What is text here is escaped there; markup is let through in one place, the drawings that matplotlib wrote.
"""

from __future__ import annotations

import base64
import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import ClassVar

import numpy as np
import pandas as pd
from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

Links = tuple[tuple[str, str], ...]
"""(name, address relative to the report) of files beside it."""


@dataclass(frozen=True)
class Text:
    """A paragraph. ``tone`` is "", "quiet" or "warning"."""

    kind: ClassVar[str] = "text"
    text: str
    tone: str = ""


@dataclass(frozen=True)
class Heading:
    kind: ClassVar[str] = "heading"
    text: str


@dataclass(frozen=True)
class Items:
    """A list. ``style`` is "" or "footnotes", which is how the notes under a table look."""

    kind: ClassVar[str] = "items"
    texts: tuple[str, ...]
    style: str = ""


@dataclass(frozen=True)
class Facts:
    """Terms, each with what there is to say of it."""

    kind: ClassVar[str] = "facts"
    rows: tuple[tuple[str, tuple[str, ...]], ...]


@dataclass(frozen=True)
class Number:
    term: str
    value: str
    detail: str


@dataclass(frozen=True)
class Numbers:
    """The few figures that answer the question, large."""

    kind: ClassVar[str] = "numbers"
    setting: str
    numbers: tuple[Number, ...]


@dataclass(frozen=True)
class Column:
    heading: str
    number: bool
    title: str = ""
    longest: int = 0
    """Letters in its longest cell."""

    @property
    def style(self) -> str:
        """Classes of its cells."""
        return "n" if self.number else "wrap wide" if self.longest > 36 else "wrap" if self.longest > 28 else ""

    @property
    def heading_style(self) -> str:
        """Classes of its heading: a long one breaks into lines, though not into single words."""
        return " ".join(word for word in ("n" if self.number else "", "broad" if len(self.heading) > 12 else "") if word)


@dataclass(frozen=True)
class TableBlock:
    kind: ClassVar[str] = "table"
    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()
    links: Links = ()


@dataclass(frozen=True)
class Trials:
    """The table of all trials, which sorts and filters; ``rows`` are (status, cells)."""

    kind: ClassVar[str] = "trials"
    columns: tuple[Column, ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]
    statuses: tuple[str, ...]
    links: Links = ()


@dataclass(frozen=True)
class Drawing:
    kind: ClassVar[str] = "drawing"
    title: str
    caption: str
    svg: Markup
    links: Links = ()


@dataclass(frozen=True)
class Picture:
    """An image as it stands in the page: ``source`` is a data URI, ``width`` and ``height`` are CSS pixels."""

    caption: str
    alt: str
    source: str
    width: int
    height: int


@dataclass(frozen=True)
class Pictures:
    kind: ClassVar[str] = "pictures"
    pictures: tuple[Picture, ...]


@dataclass(frozen=True)
class Strips:
    """A picture a row, each beside its name."""

    kind: ClassVar[str] = "strips"
    title: str
    caption: str
    pictures: tuple[Picture, ...]


@dataclass(frozen=True)
class More:
    """Blocks that wait behind a summary line."""

    kind: ClassVar[str] = "more"
    summary: str
    blocks: tuple[Block, ...]


Block = Text | Heading | Items | Facts | Numbers | TableBlock | Trials | Drawing | Pictures | Strips | More


@dataclass(frozen=True)
class Section:
    anchor: str
    heading: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Page:
    title: str
    subtitle: str
    sections: tuple[Section, ...]
    notes: tuple[str, ...] = field(default=())


def html(page: Page) -> str:
    """The page as one file: style and script inside, no address that a browser would fetch."""
    environment = Environment(
        loader=FunctionLoader(_template), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.get_template("report.html")
    return template.render(page=page, css=Markup(_template("report.css")), js=Markup(_template("report.js")))


def _template(name: str) -> str:
    return resources.files("analysis").joinpath("templates", name).read_text(encoding="utf-8")


def columns_of(
    shown: pd.DataFrame, titles: Mapping[str, str] | None = None, headings: Mapping[str, str] | None = None
) -> tuple[Column, ...]:
    """A column each of ``shown``; one is of numbers if every cell that is not empty begins as a number does."""
    return tuple(
        Column(
            heading=re.sub(r" (?=[↑↓])", "\u00a0", (headings or {}).get(str(name), str(name).replace("_", " "))),
            number=(cells := [cell for cell in shown[name] if cell]) != [] and all(map(_is_number, cells)),
            title=(titles or {}).get(str(name), ""),
            longest=max((len(cell) for cell in cells), default=0),
        )
        for name in shown.columns
    )


def _is_number(cell: str) -> bool:
    return cell in ("\u2013", "-", "not proven") or re.match(r"[-+\u2212<>~\[(]*\s?\.?\d", cell) is not None


def strings(frame: pd.DataFrame) -> pd.DataFrame:
    """Every cell as text; what is missing is empty, a float has four significant digits."""
    return pd.DataFrame({name: [cell_text(value) for value in frame[name].tolist()] for name in frame.columns}, dtype=object)


def cell_text(value: object) -> str:
    """One value as a table shows it.

    >>> cell_text(float("nan")), cell_text(9.711273), cell_text(1e-05), cell_text(True), cell_text(1000.0)
    ('', '9.711', '1e-05', 'yes', '1000')
    """
    if value is None or value is pd.NA or value is pd.NaT or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, float | np.floating):
        number = float(value)
        return f"{number:.0f}" if number.is_integer() and abs(number) < 1e6 else f"{number:.4g}"
    return str(value)


def montage(images: Sequence[Sequence[bytes]], caption: str, alt: str, *, scale: float = 1.0, gap: int = 1) -> Picture:
    """Rows of PNGs as one picture, ``scale`` CSS pixels for each of theirs. Raises ``ValueError`` where there is no image."""
    rows = [[Image.open(io.BytesIO(image)) for image in row] for row in images]
    every = [image for row in rows for image in row]
    if not every:
        raise ValueError("a montage needs at least one image")
    width, height = max(image.width for image in every) + gap, max(image.height for image in every) + gap
    mode = "LA" if all(image.mode == "L" for image in every) else "RGBA"  # between the images the paper shows
    sheet = Image.new(mode, (max(map(len, rows)) * width - gap, len(rows) * height - gap))
    for down, row in enumerate(rows):
        for place, image in enumerate(row):
            sheet.paste(image.convert(mode), (place * width, down * height))
    file = io.BytesIO()
    sheet.save(file, format="PNG")
    return picture(file.getvalue(), caption, alt, round(sheet.width * scale), round(sheet.height * scale))


def picture(png: bytes, caption: str, alt: str, width: int, height: int) -> Picture:
    return Picture(caption, alt, f"data:image/png;base64,{base64.b64encode(png).decode()}", width, height)


def listed(words: Iterable[object], last: str = "and") -> str:
    """Words as a sentence lists them.

    >>> listed(["a"]), listed("abc")
    ('a', 'a, b and c')
    """
    texts = [str(word) for word in words]
    return f" {last} ".join([", ".join(texts[:-1]), texts[-1]] if len(texts) > 1 else texts)


def counted(number: int, one: str, many: str | None = None) -> str:
    """
    >>> counted(1, "trial"), counted(1200, "trial"), counted(2, "class", "classes")
    ('1 trial', '1,200 trials', '2 classes')
    """
    return f"{number:,} {one if number == 1 else many or one + 's'}"
