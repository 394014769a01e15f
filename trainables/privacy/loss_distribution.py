"""Numerics of the tight accountant: privacy profiles on a grid, composed by Fourier transform, rounded up everywhere.

A profile becomes a probability mass function of privacy losses by connecting the dots (Doroshenko, Ghazi, Kamath, Kumar,
Manurangsi 2022), which is pessimistic; masses are convolved as often as there are steps (Koskela, Jaelkoe, Honkela 2020),
and what the transform's window cuts off counts as infinite loss.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import fft

from .profiles import Profile

RESOLUTION = 0.03
"""Width of the grid in root-mean-square privacy losses of one step; inflates the variance by RESOLUTION^2 / 6."""
MAX_CELLS = 1 << 21
_INFINITE = 1e-22
"""A loss so improbable in one step counts as infinite."""
_CUT = 1e-7
"""Share of delta that the window of the transform may cut off (added back as infinite loss)."""
_ROUNDING = 2.0**-56
"""Error of delta from rounding in the transform, a step (added as infinite loss); a third of it was measured at worst."""


@dataclass(frozen=True)
class Losses:
    """A sub-probability mass function: ``mass[i]`` at loss (first + i) x width, the rest at infinity."""

    mass: np.ndarray
    first: int
    width: float
    infinite: float

    @property
    def values(self) -> np.ndarray:
        return (self.first + np.arange(len(self.mass))) * self.width


def discretise(profile: Profile, width: float) -> Losses:
    """The profile's dots at multiples of ``width``, connected. Raises ``ArithmeticError`` where they are not convex."""
    cells = math.ceil(largest_loss(profile) / width) + 1
    losses = width * np.arange(cells + 1)
    forward = np.clip(profile.forward(losses), 0.0, 1.0)
    backward = forward if profile.backward == profile.forward else np.clip(profile.backward(losses), 0.0, 1.0)
    positive = _connect(forward, width)
    # A loss of -x under P is a loss of x under Q, and p = exp(-x) q there.
    negative = (_connect(backward, width) * np.exp(-losses[1:]))[::-1]
    centre = 1.0 - forward[-1] - positive.sum() - negative.sum()
    if centre < -1e-9:
        raise ArithmeticError(f"{profile} is no privacy profile: its masses exceed 1 by {-centre:.3g}")
    mass = np.concatenate([negative, [max(centre, 0.0)], positive])
    possible = np.flatnonzero(mass)
    return Losses(mass[possible[0] : possible[-1] + 1], int(possible[0]) - cells, width, float(forward[-1]))


def _connect(values: np.ndarray, width: float) -> np.ndarray:
    """Masses at ``width, 2 width, ...`` from the profile's values at ``0, width, 2 width, ...``; the last dot ends the line."""
    rises = np.diff(values)
    growth = math.expm1(width) if width < 709 else math.inf  # of exp(loss) over a cell; grids that coarse are of huge losses
    masses = np.append(rises[1:], 0.0) / growth + rises / math.expm1(-width)
    rounding = 64 * np.finfo(np.float64).eps * values[0] / growth
    if np.any(masses < -rounding - 1e-30):
        worst = int(np.argmin(masses + rounding))
        raise ArithmeticError(f"the privacy profile is not convex at a loss of {(worst + 1) * width:.6g}; it bounds nothing")
    return np.maximum(masses, 0.0)


def largest_loss(profile: Profile) -> float:
    """A loss over which both directions of the profile are at most 1e-22."""

    def over(loss: float) -> bool:
        at = np.array([loss])
        return bool(max(profile.forward(at)[0], profile.backward(at)[0]) > _INFINITE)

    high = 1e-6
    while over(high):
        high *= 2
    low = high / 2
    for _ in range(12):
        middle = (low + high) / 2
        low, high = (middle, high) if over(middle) else (low, middle)
    return high


def moments(profile: Profile) -> tuple[float, float]:
    """KL(P, Q) and E[loss^2] under P, integrated from the profile as f-divergences; good to a few percent."""
    losses = largest_loss(profile) * np.linspace(0.0, 1.0, 2001) ** 3
    forward, backward = profile.forward(losses), np.exp(-losses) * profile.backward(losses)
    first = forward + backward
    second = 2 * ((1 + losses) * forward + (1 - losses) * backward)
    mean, square = (float(np.sum((values[1:] + values[:-1]) * np.diff(losses)) / 2) for values in (first, second))
    return mean, square


def grid_width(parts: Mapping[Profile, int]) -> float:
    """A width that overstates epsilon by less than about a thousandth, however many steps there are.

    The scale is the root of twice the divergence: the root mean square of a loss that is small, and less than that of a rare
    large one.
    """
    found = {profile: moments(profile) for profile in parts}
    mean, square = (sum(found[profile][n] * steps for profile, steps in parts.items()) for n in (0, 1))
    longest = max(2 * max(map(largest_loss, parts)), 20 * math.sqrt(square))
    return max(RESOLUTION * math.sqrt(2 * mean / sum(parts.values())), longest / MAX_CELLS)


def compose(totals: Sequence[Mapping[Profile, int]], delta: float, width: float) -> Iterator[Losses]:
    """The loss distribution of each of ``totals`` (steps of every profile), on one grid, to be asked at ``delta``.

    The grid is coarser than ``width`` where the transform would have more than 2 MAX_CELLS cells.
    """
    profiles = list(dict.fromkeys(profile for parts in totals for profile in parts))
    steps = np.array([[parts.get(profile, 0) for profile in profiles] for parts in totals])
    units = [discretise(profile, width) for profile in profiles]
    first, cells = _window(units, steps, width, _CUT * delta)
    while cells > 2 * MAX_CELLS:  # rare large losses spread further than their mean square lets on
        width *= cells / MAX_CELLS
        units = [discretise(profile, width) for profile in profiles]
        first, cells = _window(units, steps, width, _CUT * delta)
    transforms = [fft.rfft(np.bincount((unit.first + np.arange(len(unit.mass))) % cells, unit.mass, cells)) for unit in units]
    for counts in steps:
        product = np.ones_like(transforms[0])
        for transform, count in zip(transforms, counts, strict=True):
            product *= transform ** int(count)
        mass = np.maximum(np.roll(fft.irfft(product, cells), -first), 0.0)
        finite = math.exp(sum(count * math.log1p(-unit.infinite) for unit, count in zip(units, counts, strict=True)))
        yield Losses(mass, first, width, 1 - finite + _CUT * delta + _ROUNDING * float(counts.sum()))


def _window(units: Sequence[Losses], steps: np.ndarray, width: float, cut: float) -> tuple[int, int]:
    """First cell and number of cells outside of which every composition has at most ``cut`` on either side (Chernoff)."""
    squares = np.array([float(unit.mass @ unit.values**2) for unit in units])
    orders = np.geomspace(0.2, 40, 16) / math.sqrt(float((steps @ squares).max()))
    high = (steps @ [(unit.first + len(unit.mass) - 1) * width for unit in units]).astype(np.float64)
    low = (steps @ [unit.first * width for unit in units]).astype(np.float64)
    for order in orders:
        high = np.minimum(high, (steps @ [_log_moment(unit, order) for unit in units] - math.log(cut)) / order)
        low = np.maximum(low, -(steps @ [_log_moment(unit, -order) for unit in units] - math.log(cut)) / order)
    first = math.floor(low.min() / width)
    return first, fft.next_fast_len(math.ceil(high.max() / width) - first + 1, real=True)


def _log_moment(unit: Losses, order: float) -> float:
    """log E[exp(order x loss)] over the finite losses."""
    exponents = order * unit.values
    largest = float(exponents.max())
    return largest + math.log(float(unit.mass @ np.exp(exponents - largest)))


def epsilon_of(losses: Losses, delta: float) -> float:
    """Smallest epsilon >= 0 at which infinite + sum over losses > epsilon of mass (1 - exp(epsilon - loss)) <= delta."""
    above = np.cumsum(losses.mass[::-1])[::-1]
    weighted = _discounted(losses)
    deltas = losses.infinite + above - weighted
    if deltas[-1] > delta:
        return math.inf
    index = int(np.argmax(deltas <= delta))
    excess = float(losses.infinite + above[index] - delta)
    return max(0.0, float(losses.values[index]) + math.log(excess / weighted[index])) if excess > 0 else 0.0


def _discounted(losses: Losses) -> np.ndarray:
    """For every i the sum over j >= i of mass[j] exp(loss[i] - loss[j]).

    Sums of 1, 2, 4, ... cells from the sums of half as many: all terms are positive and no factor exceeds 1. (``scipy.signal``
    has this filter, and takes every trial half a second to import.)
    """
    found, cells = losses.mass.copy(), 1
    while cells < len(found) and (factor := math.exp(-cells * losses.width)) > 0:
        found[:-cells] += factor * found[cells:]
        cells *= 2
    return found


def delta_of(losses: Losses) -> Callable[[np.ndarray], np.ndarray]:
    """delta(epsilon) of a composition as a function of epsilons >= 0: infinite + sum of mass (1 - exp(epsilon - loss))."""
    values = losses.values
    above = np.cumsum(losses.mass[::-1])[::-1]
    weighted = _discounted(losses)

    def deltas(epsilons: np.ndarray) -> np.ndarray:
        index = np.minimum(np.searchsorted(values, epsilons), len(values) - 1)
        some = epsilons <= values[-1]
        below = np.exp(np.where(some, epsilons - values[index], 0.0))
        return losses.infinite + np.where(some, np.maximum(above[index] - below * weighted[index], 0.0), 0.0)

    return deltas


def exact_epsilon(profile: Profile, delta: float) -> float:
    """Smallest epsilon >= 0 at which a profile that is run once is at most ``delta`` both ways, to double precision."""

    def over(loss: float) -> bool:
        at = np.array([loss])
        return bool(max(profile.forward(at)[0], profile.backward(at)[0]) > delta)

    if not over(0.0):
        return 0.0
    low, high = 0.0, 1.0
    while over(high):
        low, high = high, 2 * high
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if over(middle) else (low, middle)
    return high


def epsilons(totals: Sequence[Mapping[Profile, int]], delta: float, width: float | None = None) -> list[float]:
    """Epsilon at ``delta`` of each of ``totals`` (none empty), of which the last has the most steps.

    They share one grid, so a whole curve costs little more than its last point. ``width`` None chooses it; then a profile
    that runs once is solved without one.
    """
    once = [width is None and sum(parts.values()) == 1 for parts in totals]
    gridded = [parts for parts, alone in zip(totals, once, strict=True) if not alone]
    composed = compose(gridded, delta, width or grid_width(gridded[-1])) if gridded else iter(())
    return [
        exact_epsilon(next(iter(parts)), delta) if alone else epsilon_of(next(composed), delta)
        for parts, alone in zip(totals, once, strict=True)
    ]
