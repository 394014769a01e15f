"""Pieces that several pictures are made of: places on an axis, coloured cells, lines that are thinned and told apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from . import plotting
from .plotting import MUTED, PAPER, plain

MAX_POINTS = 200
"""Most points of a line; more cannot be seen and make pages large."""


class Places:
    """Where the values of an axis stand: at themselves, on a logarithmic scale, or one after another."""

    def __init__(self, levels: Sequence[Any]) -> None:
        self.levels = list(levels)
        numbers = [float(level) for level in levels if isinstance(level, (int, float, np.number))]
        whole = len(numbers) == len(self.levels)
        self.log = whole and plotting.spread_over_decades(numbers)
        wide = whole and plotting.spread_over_decades([abs(number) for number in numbers if number])
        self.even = not whole or (wide and not self.log)
        self.low, self.high = (numbers[0], numbers[-1]) if whole and not self.even else (0.0, len(self.levels) - 1.0)

    def of(self, value: Any, shift: float = 0.0) -> float:
        """The place of ``value``, moved by ``shift`` hundredths of the axis."""
        place = float(self.levels.index(value)) if self.even else float(value)
        if self.log:
            return place * (self.high / self.low) ** (0.008 * shift)
        return place + 0.008 * shift * ((self.high - self.low) or 1.0)

    def label(self, axes: Axes, inches: float) -> None:
        """Ticks: the values themselves where they do not run into each other in ``inches``."""
        if self.log:
            plotting.logarithmic(axes, "x")
            return
        places = [self.of(level) for level in self.levels]
        words = [plain(level) for level in self.levels]
        room = inches / 1.1 / ((self.high - self.low) or 1.0)
        if self.even and len(places) > 1:
            words = [plotting.wrapped(word, 0.9 * room) for word in words]
            axes.set_xticks(places, words)
        elif all(
            (after - before) * room > 0.04 * (len(left) + len(right)) + 0.08
            for before, after, left, right in zip(places, places[1:], words, words[1:], strict=False)
        ):
            axes.set_xticks(places, words)
        if len(places) == 1:
            axes.set_xlim(places[0] - 1, places[0] + 1)


def ordered(levels: Sequence[Any]) -> list[Any]:
    """Numbers by size; words as they come."""
    numbers = all(isinstance(level, (int, float, np.number)) and not isinstance(level, bool) for level in levels)
    return sorted(levels) if numbers else list(levels)


def thinned(curve: pd.DataFrame) -> pd.DataFrame:
    """At most ``MAX_POINTS`` rows, the first and the last among them."""
    if len(curve) <= MAX_POINTS:
        return curve
    return curve.iloc[np.linspace(0, len(curve) - 1, MAX_POINTS).round().astype(int)]


def distinct_accounts(history: pd.DataFrame, trials: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Distinct curves of epsilon (step, epsilon), most trials first, each with what names its trials."""
    history = history.dropna(subset=["epsilon"]).sort_values(["trial_id", "step"])
    shared: dict[bytes, list[str]] = {}
    curves: dict[bytes, pd.DataFrame] = {}
    for trial, curve in history.groupby("trial_id", sort=False, observed=True):
        key = curve["step"].to_numpy(float).tobytes() + curve["epsilon"].round(9).to_numpy(float).tobytes()
        shared.setdefault(key, []).append(str(trial))
        curves.setdefault(key, curve[["step", "epsilon"]])
    words = {trial: str(cell).split() for trial, cell in zip(trials["trial_id"], trials["cell"], strict=True)}
    cases = dict(zip(trials["trial_id"], trials["case"].astype(str), strict=True))
    common = set.intersection(*map(set, words.values())) if words else set()
    found = []
    for key, members in sorted(shared.items(), key=lambda item: -len(item[1])):
        own = [word for word in words[members[0]] if all(word in words[trial] for trial in members) and word not in common]
        of = list(dict.fromkeys(cases[trial] for trial in members))
        name = " ".join([", ".join([*of[:4], *["others"] * (len(of) > 4)]), *own] if len(of) > 1 else own)
        count = "1 trial" if len(members) == 1 else f"{len(members)} trials"
        found.append((f"all {count}" if len(shared) == 1 else f"{name} ({count})".strip(), curves[key]))
    return found


def heat(
    axes: Axes, values: np.ndarray, texts: Sequence[Sequence[str]], among: Sequence[float], better: str
) -> list[list[str]]:
    """Coloured cells with their numbers, row 0 on top; return each number's colour. Missing values are left blank."""
    low, high = np.nanmin(np.append(among, np.nan)), np.nanmax(np.append(among, np.nan))
    norm = matplotlib.colors.Normalize(low, high if high > low else low + 1)
    colours = matplotlib.colormaps[plotting.HEATMAP if better == "higher" else f"{plotting.HEATMAP}_r"]
    rows, columns = values.shape
    inks = []
    for row in range(rows):
        inks.append([])
        for column in range(columns):
            value = values[row, column]
            if np.isnan(value):
                face, ink = "none", MUTED
            else:
                face = colours(norm(value))
                ink = plotting.ON_LIGHT if np.dot(face[:3], (0.2126, 0.7152, 0.0722)) > 0.4 else plotting.ON_DARK
            axes.add_patch(Rectangle((column, row), 1, 1, facecolor=face, edgecolor=PAPER, linewidth=1))
            axes.text(column + 0.5, row + 0.5, texts[row][column], color=ink, ha="center", va="center", linespacing=1.1)
            inks[-1].append(ink)
    axes.set(xlim=(0, columns), ylim=(rows, 0))
    axes.grid(visible=False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return inks


def outline(axes: Axes, row: int, column: int) -> None:
    axes.add_patch(
        Rectangle((column, row), 1, 1, fill=False, edgecolor=plotting.COLOURS[1], linewidth=2.5, zorder=3, clip_on=False)
    )
