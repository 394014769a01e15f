"""Intervals and tests for sweeps, in which seeds are the replicates. scipy and statsmodels do the work.

The same seed means the same public coins (initial weights, latent inputs, order), so differences are taken within seeds.
Missing values are left out. With too few values for an answer the bounds and p are NaN; nothing here raises for that.

All tests are two-sided; ``confidence`` is a share (0.95).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import sparse, stats
from scipy.sparse.csgraph import connected_components
from statsmodels.regression.linear_model import OLS
from statsmodels.stats.power import TTestPower

CONFIDENCE = 0.95
ALPHA = 0.05
"""What a p-value, corrected for the number of comparisons, is held against."""

_ROUNDING = 1e-12
"""A spread below this share of the values is rounding: .8 - .7 and .7 - .6 differ by 1e-16."""


@dataclass(frozen=True)
class Interval:
    """A mean (or another statistic) of ``n`` values, its bounds, and the sample standard deviation (n - 1) of the values."""

    mean: float
    low: float
    high: float
    sd: float
    n: int


@dataclass(frozen=True)
class Difference:
    """A difference within seeds: its mean, bounds and p (of no difference).

    ``n``: seeds behind it; ``dof``: degrees of freedom of the spread; ``se``: standard error of ``mean``.
    """

    mean: float
    low: float
    high: float
    p: float
    n: int
    dof: float
    se: float = math.nan

    @property
    def sd(self) -> float:
        """Standard deviation of one seed's difference, as ``seeds_needed`` takes it."""
        return self.se * math.sqrt(self.n)


NO_DIFFERENCE = Difference(math.nan, math.nan, math.nan, math.nan, 0, math.nan)


def student(mean: ArrayLike, se: ArrayLike, dof: ArrayLike, confidence: float = CONFIDENCE) -> tuple[np.ndarray, np.ndarray]:
    """Bounds ``mean`` ± t ``se``, elementwise; NaN where ``dof`` is below 1."""
    mean, se, dof = (np.asarray(values, float) for values in (mean, se, dof))
    half = stats.t.ppf((1 + confidence) / 2, np.where(dof >= 1, dof, np.nan)) * se
    return mean - half, mean + half


def interval(values: Sequence[float] | np.ndarray | pd.Series, confidence: float = CONFIDENCE) -> Interval:
    """Student's interval of the mean: exact for normal values, whatever their number.

    >>> found = interval([0.70, 0.71, 0.73])
    >>> print(f"{found.mean:.3f} [{found.low:.3f}, {found.high:.3f}], n = {found.n}")
    0.713 [0.675, 0.751], n = 3
    """
    values = _present(values)
    n = len(values)
    mean = float(values.mean()) if n else math.nan
    sd = float(values.std(ddof=1)) if n > 1 else math.nan
    low, high = student(mean, sd / math.sqrt(n) if n else math.nan, n - 1, confidence)
    return Interval(mean, float(low), float(high), sd, n)


def bootstrap(
    values: Sequence[float] | np.ndarray | pd.Series,
    statistic: Callable[..., np.ndarray | float] = np.mean,
    confidence: float = CONFIDENCE,
    resamples: int = 9999,
) -> Interval:
    """Bias-corrected and accelerated bootstrap interval (Efron 1987; ``scipy.stats.bootstrap``); ``mean`` is the statistic.

    For statistics without a formula of their own (a median, a worst class), and for many values. At few it is too short:
    three values have ten resamples, and a nominal 95 % interval of their mean covers it about seven times in ten (ten:
    nine in ten). For the mean of seeds use ``interval``. The resamples are drawn from a fixed seed, over the sorted values:
    the same values in another order give the same interval. ``statistic`` takes ``axis`` or is called on each resample.
    """
    values = np.sort(_present(values))
    n = len(values)
    if n == 0:
        return Interval(math.nan, math.nan, math.nan, math.nan, 0)
    found = float(statistic(values))
    if n == 1:
        return Interval(found, math.nan, math.nan, math.nan, 1)
    sd = float(values.std(ddof=1))
    if values[0] == values[-1]:
        return Interval(found, found, found, sd, n)
    result = stats.bootstrap((values,), statistic, confidence_level=confidence, n_resamples=resamples, random_state=0)
    return Interval(found, float(result.confidence_interval.low), float(result.confidence_interval.high), sd, n)


def paired(a: pd.Series, b: pd.Series, confidence: float = CONFIDENCE) -> Difference:
    """``a - b``, both indexed by seed, over the seeds that both have (``scipy.stats.ttest_rel``).

    A seed that stands twice counts once, with its mean. Where all differences are the same and not 0 there is no spread to
    hold them against (two or three accuracies can agree by chance): bounds and p are NaN. All 0 gives p = 1.
    """
    a, b = (series.dropna().groupby(level=0).mean() for series in (a, b))
    a, b = a.align(b, join="inner")
    n = len(a)
    if n == 0:
        return NO_DIFFERENCE
    differences = (a - b).to_numpy(float)
    mean, scale = float(differences.mean()), float(np.abs(np.concatenate([a, b])).max())
    sd = float(differences.std(ddof=1)) if n > 1 else math.nan
    if n < 2 or sd <= _ROUNDING * scale:
        return _without_spread(mean, n, n - 1, scale)
    test = stats.ttest_rel(a, b)
    bounds = test.confidence_interval(confidence)
    return Difference(mean, float(bounds.low), float(bounds.high), float(test.pvalue), n, n - 1, sd / math.sqrt(n))


def holm(p_values: Sequence[float] | np.ndarray | pd.Series) -> np.ndarray:
    """p-values corrected for their number (Holm 1979): below ``ALPHA``, one false finding among all has that probability.

    NaN stay NaN and do not count.

    >>> holm([0.01, 0.04, float("nan"), 0.03]).tolist()
    [0.03, 0.06, nan, 0.06]
    """
    p_values = np.asarray(p_values, float)
    corrected = np.full(p_values.shape, np.nan)
    there = ~np.isnan(p_values)
    # Not statsmodels' multipletests, which these are compared with in a test: it collects garbage at every call (.2 s).
    ordered = np.sort(p_values[there])
    steps = np.maximum.accumulate(ordered * np.arange(len(ordered), 0, -1)).clip(max=1)
    corrected[there] = steps[stats.rankdata(p_values[there], "max").astype(int) - 1]
    return corrected


def alike_in_spread(groups: Sequence[Sequence[float] | np.ndarray | pd.Series]) -> float:
    """p of Bartlett's test that all groups have one variance (``scipy.stats.bartlett``), as a pooled spread takes it.

    Groups of fewer than two values, or without any spread, are left out; NaN where fewer than two remain.

    >>> round(alike_in_spread([[1, 2, 3], [1.1, 2.2, 2.9], [5]]), 2)
    0.9
    """
    found = [_present(group) for group in groups]
    found = [group for group in found if len(group) > 1 and group.std() > _ROUNDING * np.abs(group).max()]
    return float(stats.bartlett(*found).pvalue) if len(found) > 1 else math.nan


def seeds_needed(difference: float, sd: float, power: float = 0.8, alpha: float = ALPHA) -> int | None:
    """Fewest seeds at which a paired t-test finds ``difference`` with probability ``power`` (``TTestPower``).

    ``sd`` is of one seed's difference. None where the difference is 0 (or would take a billion seeds), or either is unknown.
    One test at ``alpha``: what is corrected for many comparisons wants more. Taken from the same results, difference and
    spread are themselves uncertain.

    >>> seeds_needed(0.02, 0.02), seeds_needed(0.005, 0.02), seeds_needed(0.0, 0.02)
    (10, 128, None)
    """
    if difference is None or sd is None or not math.isfinite(difference) or not math.isfinite(sd) or difference == 0:
        return None
    if sd == 0:
        return 2
    effect = abs(difference) / sd
    # The normal approximation needs fewer than Student's t, by about two; beyond a million that is nothing.
    normal = ((stats.norm.ppf(1 - alpha / 2) + stats.norm.ppf(power)) / effect) ** 2
    if normal > 1e6:
        return math.ceil(normal) if normal < 1e9 else None
    n = max(2, math.floor(normal))
    while TTestPower().power(effect, n, alpha) < power:
        n += 1
    return n


class BlockModel:
    """``metric ~ cell + seed`` by least squares: a randomised block design (Fisher), seeds being the blocks.

    A seed moves all cells alike; what is left is pooled over the cells into one spread, so that two or three seeds are enough
    to say something (12 cells x 3 seeds leave 22 degrees of freedom, a pair alone 2). This takes that all cells spread
    alike: one that trains unstably makes the others look more alike than they are, and itself more certain.

    ``residual_sd`` is that spread and ``dof`` its degrees of freedom; NaN and 0 where there is one seed. Two cells alone
    give the paired t-test. A seed that a cell has twice counts once, with its mean. ``frame`` has columns ``cell``,
    ``block`` and ``metric``.
    """

    def __init__(self, frame: pd.DataFrame, metric: str, cell: str = "cell", block: str = "seed") -> None:
        self.cells: tuple[Any, ...] = tuple(frame[cell].dropna().unique())
        """All cells of the frame, those without any value too."""
        self._known = set(self.cells)
        values = frame[[cell, block, metric]].dropna().groupby([cell, block], observed=True, sort=False)[metric].mean()
        response = values.to_numpy(float)
        rows, cells_ = pd.factorize(values.index.get_level_values(0))
        self._index = pd.Index(cells_.astype(object))
        columns, blocks = pd.factorize(values.index.get_level_values(1))
        cells = len(self._index)
        self._seeds = np.bincount(rows, minlength=cells)
        self._scale = float(np.abs(response).max(initial=0))
        self._pieces, connected = _pieces(rows, columns, cells, len(blocks))
        # Frisch, Waugh and Lovell: with every cell's mean taken off both sides, OLS on the seeds alone leaves the same
        # residuals and seed effects as OLS on cells and seeds, and hundreds of cells cost nothing.
        compared = np.setdiff1d(np.arange(len(blocks)), np.unique(connected, return_index=True)[1])  # the first ones: bases
        dummies = (columns[:, None] == compared).astype(float)
        self._shares = _means(dummies, rows, self._seeds)  # [cells, seeds]: the share of a cell's values that a seed has
        means = _means(response[:, None], rows, self._seeds)[:, 0]
        self._effects, self._cov = means, np.zeros((len(compared), len(compared)))
        self.dof = len(response) - cells - len(compared)
        self.residual_sd = math.nan
        if len(compared):
            fit = OLS(response - means[rows], dummies - self._shares[rows]).fit()
            self._effects = means - self._shares @ fit.params
            self._cov = fit.normalized_cov_params
            if self.dof > 0:
                self.residual_sd = math.sqrt(float(fit.ssr) / self.dof)

    def contrast(self, weights: Mapping[Any, float], confidence: float = CONFIDENCE) -> Difference:
        """The weighted sum of cell means, within seeds; ``{"a": 1, "b": -1}`` is a - b."""
        return self.contrasts([weights], confidence)[0]

    def contrasts(self, weights: Sequence[Mapping[Any, float]], confidence: float = CONFIDENCE) -> list[Difference]:
        """Several at once. ``n`` is the fewest seeds of a cell with weight.

        NaN where a cell has no value, or where no seeds connect the cells (one ran seed 0 alone, the other seed 1 alone).
        With no degree of freedom left the mean is there and the rest NaN.
        Raises ``KeyError`` for a cell that the frame does not have, ``ValueError`` for weights that do not add up to 0.
        """
        found = [NO_DIFFERENCE] * len(weights)
        vectors = [self._vector(mapping) for mapping in weights]
        asked = [place for place, vector in enumerate(vectors) if vector is not None]
        if not asked:
            return found
        matrix = np.array([vectors[place] for place in asked])  # [contrasts, cells]
        means = matrix @ self._effects
        seeds = [int(self._seeds[row != 0].min()) for row in matrix]
        if self.dof < 1 or self.residual_sd <= _ROUNDING * self._scale:
            for place, mean, n in zip(asked, means, seeds, strict=True):
                found[place] = _without_spread(float(mean), n, self.dof, self._scale)
            return found
        by_seed = matrix @ self._shares
        variance = (matrix**2 / self._seeds).sum(axis=1) + np.einsum("ij,jk,ik->i", by_seed, self._cov, by_seed)
        se = self.residual_sd * np.sqrt(variance)
        low, high = student(means, se, self.dof, confidence)
        p = 2 * stats.t.sf(np.abs(means) / se, self.dof)
        numbers = np.stack([means, low, high, p], axis=1).tolist()
        for place, (mean, lower, upper, p_value), n, error in zip(asked, numbers, seeds, se.tolist(), strict=True):
            found[place] = Difference(mean, lower, upper, p_value, n, self.dof, error)
        return found

    def _vector(self, weights: Mapping[Any, float]) -> np.ndarray | None:
        """A weight for every cell that has values; None where one asked for has none, or seeds do not connect them."""
        if abs(sum(weights.values())) > _ROUNDING * len(weights):
            raise ValueError(f"the weights of a contrast add up to {sum(weights.values()):g}; expected 0: {dict(weights)}")
        if unknown := [cell for cell in weights if cell not in self._known]:
            raise KeyError(f"no cell {unknown[0]!r}; the cells are {', '.join(map(str, self.cells))}")
        positions = self._index.get_indexer(list(weights))
        if (positions < 0).any():
            return None
        vector = np.zeros(len(self._index))
        np.add.at(vector, positions, list(weights.values()))
        connected = np.abs(np.bincount(self._pieces, vector)) <= _ROUNDING * len(weights)
        return vector if vector.any() and connected.all() else None


def _present(values: Sequence[float] | np.ndarray | pd.Series) -> np.ndarray:
    found = pd.to_numeric(pd.Series(values), errors="coerce").to_numpy(float, na_value=np.nan)
    return found[~np.isnan(found)]


def _without_spread(mean: float, n: int, dof: float, scale: float) -> Difference:
    """With no spread to hold it against, only a difference of exactly 0 says something: nothing differs."""
    if dof >= 1 and abs(mean) <= _ROUNDING * scale:
        return Difference(0.0, 0.0, 0.0, 1.0, n, dof, 0.0)
    return Difference(mean, math.nan, math.nan, math.nan, n, dof)


def _means(values: np.ndarray, rows: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Column means over the rows of each cell: [cells, columns]."""
    sums = np.zeros((len(counts), values.shape[1]))
    np.add.at(sums, rows, values)
    return sums / counts[:, None]


def _pieces(rows: np.ndarray, columns: np.ndarray, cells: int, blocks: int) -> tuple[np.ndarray, np.ndarray]:
    """Number of the connected piece that each cell, and each block, is in; cells that share a seed are connected."""
    edges = (np.ones(len(rows)), (rows, cells + columns))
    graph = sparse.coo_array(edges, shape=(cells + blocks, cells + blocks))
    _, pieces = connected_components(graph, directed=False)
    return pieces[:cells], pieces[cells:]
