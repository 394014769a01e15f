"""Pieces that several pictures are made of: places on an axis, coloured cells, lines that are thinned and told apart."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from . import plotting
from .design import value_text
from .plotting import MUTED, PAPER

MAX_POINTS = 200
"""Most points of a line; more cannot be seen and make pages large."""


class Places:
    """Where the values of an axis stand: at themselves, on a logarithmic scale, or one after another."""

    def __init__(self, levels: Sequence[Any]) -> None:
        self.levels = list(levels)
        numbers = [float(level) for level in levels if isinstance(level, (int, float, np.number))]
        whole = len(numbers) == len(self.levels)
        self.log = whole and plotting.needs_logarithm(numbers)
        wide = whole and plotting.needs_logarithm([abs(number) for number in numbers if number])
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
        places = [self.of(level) for level in self.levels]
        words = [value_text(level) for level in self.levels]
        along = np.log(places) if self.log else np.array(places)
        room = np.diff(along) * inches / 1.1 / (float(np.ptp(along)) or 1.0)
        if self.even and len(words) > 1:
            words = [plotting.wrapped(word, 0.9 * room[0]) for word in words]
        widths = np.array([max(map(plotting.text_width, word.splitlines())) for word in words])
        if self.even or (room > (widths[1:] + widths[:-1]) / 2 + 0.08).all():
            axes.set_xticks(places, words)
            axes.set_xticks([], minor=True)
        if len(places) == 1:
            axes.set_xlim((places[0] / 2, places[0] * 2) if self.log else (places[0] - 1, places[0] + 1))


def thinned(curve: pd.DataFrame) -> pd.DataFrame:
    """At most ``MAX_POINTS`` rows, the first and the last among them."""
    if len(curve) <= MAX_POINTS:
        return curve
    return curve.iloc[np.linspace(0, len(curve) - 1, MAX_POINTS).round().astype(int)]


def distinct_accounts(history: pd.DataFrame, trials: pd.DataFrame, tolerance: float) -> list[tuple[str, pd.DataFrame]]:
    """Curves of epsilon (step, epsilon) that differ by more than ``tolerance`` of it somewhere, those of most trials first.

    A trial that ended early shares the curve that it began. Each curve has a name that tells its trials from the others.
    """
    history = history.dropna(subset=["epsilon"]).sort_values(["trial_id", "step"])
    exact: dict[bytes, list[str]] = {}
    curves: dict[bytes, pd.DataFrame] = {}
    ids, points = history["trial_id"].to_numpy(), history[["step", "epsilon"]].to_numpy(float)
    starts = [0, *(np.flatnonzero(ids[1:] != ids[:-1]) + 1), len(ids)] if len(ids) else []
    for start, stop in pairwise(starts):
        key = points[start:stop].tobytes()
        exact.setdefault(key, []).append(str(ids[start]))
        if key not in curves:
            curves[key] = history.iloc[start:stop][["step", "epsilon"]]
    shared: dict[bytes, list[str]] = {}
    for key, members in sorted(exact.items(), key=lambda item: -len(curves[item[0]])):
        shared.setdefault(next((kept for kept in shared if _alike(curves[kept], curves[key], tolerance)), key), []).extend(
            members
        )
    words = {trial: str(cell).split() for trial, cell in zip(trials["trial_id"], trials["cell"], strict=True)}
    cases = dict(zip(trials["trial_id"], trials["case"].astype(str), strict=True))
    common = set.intersection(*map(set, words.values())) if words else set()
    found = []
    for key, members in sorted(shared.items(), key=lambda item: -len(item[1])):
        own = [word for word in words[members[0]] if all(word in words[trial] for trial in members) and word not in common]
        of = list(dict.fromkeys(cases[trial] for trial in members))
        name = " ".join([", ".join([*of[:4], *["others"] * (len(of) > 4)]), *own] if len(of) > 1 else own)
        count = "1 trial" if len(members) == 1 else f"{len(members)} trials"
        found.append((f"all {count}" if len(shared) == 1 else f"{name} ({count})" if name else count, curves[key]))
    return found


def _alike(whole: pd.DataFrame, begun: pd.DataFrame, tolerance: float) -> bool:
    there = whole.head(len(begun))
    same_steps = (there["step"].to_numpy() == begun["step"].to_numpy()).all()
    return bool(same_steps) and np.allclose(there["epsilon"], begun["epsilon"], rtol=tolerance, atol=0)


def heat(
    axes: Axes, values: np.ndarray, texts: Sequence[Sequence[str]], among: Sequence[float], better: str
) -> list[list[str]]:
    """Coloured cells with their texts, row 0 on top; return the colour of each text. Missing values are left blank.

    The colours span the values ``among``, those of other panels included; the better end is the lighter one.
    """
    low, high = float(np.min(among)), float(np.max(among))
    norm = matplotlib.colors.Normalize(low, high if high > low else low + 1)
    colours = matplotlib.colormaps[plotting.HEATMAP if better == "higher" else f"{plotting.HEATMAP}_r"]
    rows, columns = values.shape
    inks = [[MUTED] * columns for _ in range(rows)]
    for row, column in np.ndindex(rows, columns):
        face: Any = "none"
        if not np.isnan(values[row, column]):
            face = colours(norm(values[row, column]))
            light = np.dot(face[:3], (0.2126, 0.7152, 0.0722)) > 0.4
            inks[row][column] = plotting.ON_LIGHT if light else plotting.ON_DARK
        axes.add_patch(Rectangle((column, row), 1, 1, facecolor=face, edgecolor=PAPER, linewidth=1))
        place = (column + 0.5, row + 0.5)
        text = axes.text(*place, texts[row][column], color=inks[row][column], ha="center", va="center", linespacing=1.15)
        text.set_in_layout(False)  # inside its cell: measuring hundreds of them takes longer than drawing
    axes.set(xlim=(0, columns), ylim=(rows, 0), xticks=np.arange(columns) + 0.5, yticks=np.arange(rows) + 0.5)
    axes.grid(visible=False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return inks


def outline(axes: Axes, row: int, column: int) -> None:
    """A frame around a cell of ``heat``."""
    edge: dict[str, Any] = {"edgecolor": plotting.COLOURS[1], "linewidth": 2.5, "zorder": 3, "clip_on": False}
    axes.add_patch(Rectangle((column, row), 1, 1, fill=False, **edge))
