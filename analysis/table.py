"""A table that is kept twice: numbers for programs, text for people; written as CSV, Markdown and LaTeX."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

# ruff: noqa: RUF001 (typographic signs are what this module writes)

BEST, BETTER, WORSE = "★", "▲", "▼"
"""Marks of a number: the best of its column; better or worse than the base row by a test that the notes name."""

CLAIM, UNCHECKED, FOREIGN = "†", "‡", "§"
"""Marks of a printed number: its epsilon is a claim; nobody checked its accounting; it was measured in another way."""

NOTHING = "–"
"""What an empty cell shows."""

_LATEX: Mapping[str, str] = {
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
    **{character: f"\\{character}" for character in "&%$#_{}"},
    **{"<": "$<$", ">": "$>$", "|": "$|$", "±": r"$\pm$", "×": r"$\times$", "≥": r"$\geq$", "≤": r"$\leq$", "−": "$-$"},
    **{"†": r"$\dagger$", "‡": r"$\ddagger$", "§": r"\S{}", "★": r"$\star$", "·": r"$\cdot$", "∞": r"$\infty$"},
    **{"▲": r"$\bigtriangleup$", "▼": r"$\bigtriangledown$"},
    **{"↑": r"$\uparrow$", "↓": r"$\downarrow$", "→": r"$\rightarrow$", "←": r"$\leftarrow$"},
    **{"–": r"\textendash{}", "—": r"\textemdash{}", "`": r"\textasciigrave{}", "…": r"\ldots{}", "\n": " "},
    **{character: f"{{{character}}}" for character in "[*"},  # at the start of a row the end of the last one would take them
    **{letter: rf"$\{name}$" for letter, name in zip("αβγδεηθκλμπρστφχψω", (
        *("alpha", "beta", "gamma", "delta", "varepsilon", "eta", "theta", "kappa", "lambda", "mu", "pi", "rho", "sigma"),
        *("tau", "varphi", "chi", "psi", "omega"),
    ), strict=True)},
}  # fmt: skip
"""Plain LaTeX for what its text mode does not take as it is; needs no package."""

_MARKDOWN: Mapping[str, str] = {**{character: f"\\{character}" for character in "\\|*`<"}, "\n": " "}

_NUMBER = re.compile(r"([<>] )?[-+]?[.\d]")


@dataclass(frozen=True)
class Table:
    """Rows twice over: ``data`` holds the numbers, ``shown`` the same as strings, as people read them.

    The two need not have the same form: ``data`` is what a program wants, ``shown`` what fits on a page.
    """

    name: str
    """Stem of its files."""
    title: str
    """One line."""
    data: pd.DataFrame
    """Numbers, one a column, with their columns' own dtypes."""
    shown: pd.DataFrame
    """Strings; an empty cell is shown as a dash."""
    notes: tuple[str, ...] = ()
    """Sentences under the table: what its marks mean, what it leaves out."""

    def markdown(self) -> str:
        """The table as GitHub reads it: title, pipe table, notes."""
        rows = [[_escaped(cell, _MARKDOWN) for cell in row] for row in self._rows()]
        rule = ["---:" if right else "---" for right in self._numeric()]
        lines = [f"| {' | '.join(row)} |" for row in (rows[0], rule, *rows[1:])]
        notes = [f"- {_escaped(note, _MARKDOWN)}" for note in self.notes]
        return "\n".join([f"**{_escaped(self.title, _MARKDOWN)}**", "", *lines, *([""] if notes else []), *notes, ""])

    def latex(self) -> str:
        r"""A ``table`` with caption, booktabs ``tabular`` and notes; the document needs ``\usepackage{booktabs}`` alone."""
        rows = [[_escaped(cell, _LATEX) for cell in row] for row in self._rows()]
        style = pd.DataFrame(rows[1:], columns=rows[0]).style.hide(axis="index")
        tabular = style.to_latex(hrules=True, column_format="".join("r" if right else "l" for right in self._numeric()))
        notes = [rf"{_escaped(note, _LATEX)}\par" for note in self.notes]
        block = [r"\par\smallskip", r"\begin{minipage}{\linewidth}\footnotesize", *notes, r"\end{minipage}"] if notes else []
        head = [r"\begin{table}", r"\centering", rf"\caption{{{_escaped(self.title, _LATEX)}}}", rf"\label{{tab:{self.name}}}"]
        return "\n".join([*head, tabular.rstrip("\n"), *block, r"\end{table}", ""])

    def write(self, folder: Path) -> list[Path]:
        """Write ``name.csv`` (``data``), ``name.md`` and ``name.tex`` (``shown``) into ``folder``; return their paths."""
        folder.mkdir(parents=True, exist_ok=True)
        paths = [folder / f"{self.name}.{kind}" for kind in ("csv", "md", "tex")]
        self.data.to_csv(paths[0], index=False, lineterminator="\n")
        paths[1].write_text(self.markdown(), encoding="utf-8")
        paths[2].write_text(self.latex(), encoding="utf-8")
        return paths

    def _rows(self) -> list[list[str]]:
        """Headings, then cells; what is empty or missing becomes a dash."""
        cells = self.shown.astype(object).where(self.shown.notna(), "")
        return [[str(name) for name in cells], *([str(cell) or NOTHING for cell in row] for row in cells.to_numpy())]

    def _numeric(self) -> list[bool]:
        """Which columns hold numbers (and nothing else but dashes): they are set flush right."""
        columns = list(zip(*self._rows()[1:], strict=True)) or [()] * self.shown.shape[1]
        return [
            any(cell != NOTHING for cell in column) and all(cell == NOTHING or bool(_NUMBER.match(cell)) for cell in column)
            for column in columns
        ]


def _escaped(text: str, replacements: Mapping[str, str]) -> str:
    escaped = "".join(replacements.get(character, character) for character in text)
    return escaped.replace("--", "-{}-") if replacements is _LATEX else escaped  # two hyphens would become a dash


def mean_and_spread(text: str, sd: float, n: int) -> str:
    """``text`` of a mean, and its standard deviation to as many digits where there are two values or more.

    >>> mean_and_spread("0.712", 0.01312, 3), mean_and_spread("0.712", math.nan, 1)
    ('0.712 ± 0.013', '0.712')
    """
    if n < 2 or not math.isfinite(sd):
        return text
    return f"{text} ± {sd:.3g}" if "e" in text else f"{text} ± {sd:.{len(text.partition('.')[2])}f}"


def epsilon_text(epsilon: float | None) -> str:
    """Three digits, rounded up: a privacy loss is never shown smaller than it is. Missing: not proven.

    >>> epsilon_text(9.7121), epsilon_text(0.1947), epsilon_text(346.71), epsilon_text(10.0), epsilon_text(None)
    ('9.72', '0.195', '347', '10', 'not proven')
    """
    if epsilon is None or pd.isna(epsilon):
        return "not proven"
    if math.isinf(epsilon) or epsilon <= 0:
        return "∞" if epsilon > 0 else f"{epsilon:g}"
    places = max(0, 2 - math.floor(math.log10(epsilon)))
    scaled = epsilon * 10**places
    whole = math.ceil(scaled - 1e-9 * scaled)  # so that 0.1 + 0.2 is not rounded to .301
    return f"{whole / 10**places:.{places}f}".rstrip("0").rstrip(".") if places else f"{whole:d}"


def spread(values: pd.Series) -> str:
    """An epsilon, or the range of several; rounded up. An infinite one is no proof of anything."""
    known = values[np.isfinite(values)]
    if known.empty:
        return "not proven"
    low, high = epsilon_text(known.min()), epsilon_text(known.max())
    return low if low == high else f"{low} to {high}"
