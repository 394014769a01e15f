"""What a report writes beside its page: every figure as PNG and SVG, every table as CSV, Markdown and LaTeX."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pandas as pd
from markupsafe import Markup
from matplotlib.figure import Figure

from . import plotting
from .page import Drawing, Links, TableBlock, columns_of
from .table import NOTHING, Table


class Files:
    """Writes below ``folder`` and gives back the block that shows what was written, with links to it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.written: list[Path] = []

    def clear(self) -> None:
        """Remove the figures and tables of an earlier report: it may show what this one must not, or cells that are gone.

        Only where a report lies, and only files of the forms that reports write.
        """
        if (self.folder / "report.html").exists():
            for path in (*self.folder.glob("figures/*"), *self.folder.glob("tables/*")):
                if path.suffix in (".png", ".svg", ".csv", ".md", ".tex"):
                    path.unlink()

    def table(self, table: Table) -> TableBlock:
        """Write the table in three forms."""
        links = self._keep(table.write(self._folder("tables")))
        return TableBlock(table.title, columns_of(table.shown), rows_of(table.shown), table.notes, links)

    def frame(self, frame: pd.DataFrame, name: str) -> Links:
        """Write a frame as CSV alone."""
        path = self._folder("tables") / f"{name}.csv"
        frame.to_csv(path, index=False)
        return self._keep([path])

    def drawing(self, figure: Figure, name: str, title: str, caption: str = "") -> Drawing:
        links = self._keep(plotting.save(figure, self._folder("figures"), name))
        return Drawing(title=title, caption=caption, svg=Markup(plotting.inline(figure, name, title)), links=links)

    def picture(self, png: bytes, name: str) -> None:
        """Write an image among the figures."""
        path = self._folder("figures") / f"{name}.png"
        path.write_bytes(png)
        self._keep([path])

    def _folder(self, name: str) -> Path:
        folder = self.folder / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _keep(self, paths: Iterable[Path]) -> Links:
        paths = list(paths)
        self.written += paths
        return tuple((path.suffix[1:].upper(), path.relative_to(self.folder).as_posix()) for path in paths)


def rows_of(shown: pd.DataFrame) -> tuple[tuple[str, ...], ...]:
    """The cells of ``shown`` as text; what is empty shows a dash."""
    return tuple(tuple(str(cell) or NOTHING for cell in row) for row in shown.fillna("").itertuples(index=False, name=None))
