"""Statistics against textbook values, other libraries' formulas, and what they promise under simulation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.formula.api import ols
from statsmodels.stats.multitest import multipletests

from analysis.statistics import BlockModel, Difference, bootstrap, holm, interval, paired, seeds_needed

# Student (1908) and Fisher (1925): additional hours of sleep of ten patients by two drugs. t = -4.0621, p = .002833.
SLEEP_A = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
SLEEP_B = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]

# Box, Hunter and Hunter (2005), table 4.4: yield of penicillin, four variants of the process in five blends.
PENICILLIN = {"a": [89, 84, 81, 87, 79], "b": [88, 77, 87, 92, 81], "c": [97, 92, 87, 89, 80], "d": [94, 79, 85, 84, 88]}


def blocks(table: Mapping[str, Sequence[float]], skip: tuple[tuple[str, int], ...] = ()) -> pd.DataFrame:
    """One row a cell and seed."""
    rows = [(cell, seed, float(value)) for cell, values in table.items() for seed, value in enumerate(values)]
    return pd.DataFrame([row for row in rows if row[:2] not in skip], columns=["cell", "seed", "metric"])


def is_nothing(found: Difference) -> bool:
    return all(math.isnan(value) for value in (found.mean, found.low, found.high, found.p))


def within_binomial(hits: int, trials: int, probability: float) -> bool:
    """Whether hits are as likely as a false alarm of 1e-6 allows."""
    return min(stats.binom.cdf(hits, trials, probability), stats.binom.sf(hits - 1, trials, probability)) > 1e-6


def test_interval_of_a_mean() -> None:
    found = interval([4.0, 6.0, 8.0])
    half = 4.302653 * 2 / math.sqrt(3)  # t(.975, 2) from the tables
    assert (found.mean, found.sd, found.n) == (6.0, 2.0, 3)
    assert (found.low, found.high) == pytest.approx((6 - half, 6 + half), abs=1e-5)


def test_interval_leaves_missing_values_out() -> None:
    assert interval(pd.Series([1.0, None, 3.0], dtype=object)) == interval([1.0, 3.0])
    assert interval(pd.array([1, None, 3], dtype="Int64")) == interval([1.0, 3.0])


@pytest.mark.parametrize(("values", "n"), [([], 0), ([0.5], 1), ([math.nan], 0), ([math.nan, 0.5], 1)])
def test_too_few_values_give_no_bounds(values: list[float], n: int) -> None:
    for found in (interval(values), bootstrap(values)):
        assert math.isnan(found.low)
        assert math.isnan(found.high)
        assert math.isnan(found.sd)
        assert found.n == n


def test_equal_values_have_an_interval_of_no_width() -> None:
    for found in (interval([0.25] * 3), bootstrap([0.25] * 3)):
        assert (found.mean, found.low, found.high, found.sd) == (0.25, 0.25, 0.25, 0.0)


def test_intervals_cover_what_they_promise() -> None:
    rng, trials = np.random.default_rng(0), 2000
    found = [interval(values) for values in rng.normal(0.7, 0.02, (trials, 3))]
    assert within_binomial(sum(one.low <= 0.7 <= one.high for one in found), trials, 0.95)


def test_bootstrap_of_many_values_agrees_with_student() -> None:
    values = np.random.default_rng(1).normal(0.7, 0.02, 200)
    student, resampled = interval(values), bootstrap(values)
    assert (resampled.low, resampled.high) == pytest.approx((student.low, student.high), abs=2e-4)
    assert resampled == bootstrap(values[::-1])
    median = bootstrap(values, np.median)
    assert median.low < median.mean == np.median(values) < median.high


def test_bootstrap_of_three_values_is_too_short_as_its_docstring_says() -> None:
    rng, trials = np.random.default_rng(2), 300
    found = [bootstrap(values, resamples=999) for values in rng.normal(size=(trials, 3))]
    assert within_binomial(sum(one.low <= 0 <= one.high for one in found), trials, 0.7)


def test_paired_is_students_sleep() -> None:
    found = paired(pd.Series(SLEEP_A), pd.Series(SLEEP_B))
    assert (found.mean, found.n, found.dof) == (pytest.approx(-1.58), 10, 9)
    assert found.p == pytest.approx(0.002833, abs=1e-6)
    assert (found.low, found.high) == pytest.approx((-2.4598858, -0.7001142), abs=1e-6)
    assert found.sd == pytest.approx(1.229995, abs=1e-6)


def test_paired_takes_the_seeds_that_both_have() -> None:
    a = pd.Series([0.75, 0.5, 1.0, 0.25], index=[0, 1, 2, 9])
    b = pd.Series([0.65, 0.5, 0.7, math.nan, 0.3], index=[2, 0, 1, 9, 7])
    assert paired(a, b) == paired(pd.Series([0.75, 0.5, 1.0]), pd.Series([0.5, 0.7, 0.65]))
    twice = pd.concat([a, pd.Series([0.5, 1.0], index=[0, 0])])
    assert paired(twice, b) == paired(a, b), "a seed that stands there again counts once, with its mean"


def test_paired_without_an_answer() -> None:
    one = paired(pd.Series([0.7]), pd.Series([0.5]))
    assert (one.mean, one.n) == (pytest.approx(0.2), 1)
    assert math.isnan(one.p)
    assert is_nothing(paired(pd.Series([0.7], index=[0]), pd.Series([0.7], index=[1])))
    same = paired(pd.Series([0.1, 0.1]), pd.Series([0.1, 0.1]))
    assert (same.mean, same.low, same.high, same.p) == (0, 0, 0, 1)
    # .8 - .7 and .7 - .6 differ by rounding alone: no spread to hold the difference against.
    assert math.isnan(paired(pd.Series([0.8, 0.7]), pd.Series([0.7, 0.6])).p)


def test_holm_by_hand() -> None:
    # Wikipedia's example: .01, .04, .03, .005 -> .03, .06, .06, .02
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]).tolist() == [1, 1]
    assert holm([]).shape == (0,)


def test_holm_agrees_with_statsmodels() -> None:
    rng = np.random.default_rng(0)
    for size in range(1, 12):
        p = np.round(rng.uniform(size=size) ** 3, 2)  # with ties
        assert holm(p) == pytest.approx(multipletests(p, method="holm")[1])
        with_missing = np.insert(p, rng.integers(size + 1, size=3), np.nan)
        assert holm(with_missing)[~np.isnan(with_missing)] == pytest.approx(holm(p))


@pytest.mark.parametrize(("effect", "seeds"), [(0.2, 199), (0.5, 34), (0.8, 15), (1.0, 10)])
def test_seeds_needed_is_cohens_table(effect: float, seeds: int) -> None:
    # G*Power, difference of two dependent means, two-sided, alpha .05, power .8.
    assert seeds_needed(effect * 0.02, 0.02) == seeds
    assert seeds_needed(-effect, 1) == seeds


def test_seeds_needed_at_the_edges() -> None:
    assert seeds_needed(0.0, 1.0) is None
    assert seeds_needed(math.nan, 1.0) is None
    assert seeds_needed(1.0, math.nan) is None
    assert seeds_needed(1.0, 0.0) == seeds_needed(100.0, 1.0) == 2
    few, many = seeds_needed(0.01, 0.02), seeds_needed(1e-5, 0.02)
    assert few is not None
    assert many is not None
    assert many == pytest.approx((1.959964 + 0.841621) ** 2 * (0.02 / 1e-5) ** 2, rel=1e-6)
    assert few < many


def test_block_model_is_the_analysis_of_penicillin() -> None:
    # Their table 4.5: residual mean square 18.83 on 12 degrees of freedom, variant means 84, 85, 89, 86.
    model = BlockModel(blocks(PENICILLIN), "metric")
    assert model.dof == 12
    assert model.residual_sd**2 == pytest.approx(18.8333, abs=1e-4)
    found = model.contrast({"c": 1, "a": -1})
    se = math.sqrt(18.83333 * 2 / 5)
    assert (found.mean, found.se, found.n) == (pytest.approx(5), pytest.approx(se, abs=1e-5), 5)
    assert (found.low, found.high) == pytest.approx((5 - 2.178813 * se, 5 + 2.178813 * se), abs=1e-4)


@pytest.mark.parametrize("skip", [(), (("a", 0),), (("a", 0), ("b", 2), ("b", 3), ("d", 4))])
def test_block_model_is_least_squares_on_cells_and_seeds(skip: tuple[tuple[str, int], ...]) -> None:
    frame = blocks(PENICILLIN, skip)
    whole, model = ols("metric ~ C(cell) + C(seed)", frame).fit(), BlockModel(frame, "metric")
    assert model.dof == whole.df_resid
    assert model.residual_sd == pytest.approx(math.sqrt(whole.mse_resid))
    for weights, hypothesis in (
        ({"b": 1, "a": -1}, "C(cell)[T.b] = 0"),
        ({"b": 0.5, "c": 0.5, "d": -1}, ".5 * C(cell)[T.b] + .5 * C(cell)[T.c] - C(cell)[T.d] = 0"),
    ):
        test, found = whole.t_test(hypothesis), model.contrast(weights)
        assert (found.mean, found.se, found.p) == pytest.approx((test.effect.item(), test.sd.item(), float(test.pvalue)))
        assert (found.low, found.high) == pytest.approx(tuple(test.conf_int()[0]))


@pytest.mark.parametrize("skip", [(), (("a", 1), ("b", 3))])
def test_two_cells_are_a_paired_test(skip: tuple[tuple[str, int], ...]) -> None:
    frame = blocks({"a": SLEEP_A, "b": SLEEP_B}, skip)
    pair = paired(*(frame[frame["cell"] == cell].set_index("seed")["metric"] for cell in "ab"))
    found = BlockModel(frame, "metric").contrast({"a": 1, "b": -1})
    assert (found.mean, found.low, found.high, found.p) == pytest.approx((pair.mean, pair.low, pair.high, pair.p))
    assert found.dof == pair.dof


def test_order_and_names_of_seeds_do_not_matter() -> None:
    frame = blocks(PENICILLIN, (("b", 1),))
    found = BlockModel(frame, "metric").contrast({"a": 1, "b": -1})
    shuffled = frame.sample(frac=1, random_state=0)
    renamed = frame.assign(seed=frame["seed"].map({0: 77, 1: 3, 2: 12, 3: 5, 4: 1}))
    for other in (shuffled, renamed, renamed.assign(cell=pd.Categorical(renamed["cell"]))):
        again = BlockModel(other, "metric").contrast({"a": 1, "b": -1})
        assert (again.mean, again.se, again.p) == pytest.approx((found.mean, found.se, found.p), rel=1e-9)


def test_what_moves_whole_seeds_moves_no_contrast() -> None:
    frame = blocks(PENICILLIN)
    moved = frame.assign(metric=frame["metric"] + 100 * frame["seed"])
    one, two = (BlockModel(data, "metric").contrast({"a": 1, "b": -1}) for data in (frame, moved))
    assert (one.mean, one.low, one.high) == pytest.approx((two.mean, two.low, two.high))


def test_a_seed_that_a_cell_has_twice_counts_once() -> None:
    frame = blocks(PENICILLIN)
    again = pd.concat([frame, frame[frame["cell"] == "a"].assign(metric=lambda rows: rows["metric"] + 2)])
    found = BlockModel(again, "metric")
    assert found.dof == 12
    assert found.contrast({"a": 1, "b": -1}).mean == pytest.approx(0.0), "84 + 2 / 2 against 85"


def test_contrasts_cover_what_they_promise_and_find_nothing_where_nothing_is() -> None:
    rng, trials, means = np.random.default_rng(3), 500, {"a": 0.7, "b": 0.7, "c": 0.7, "d": 0.72}
    covered = false = 0
    for _ in range(trials):
        seeds = rng.normal(0, 0.05, 3)  # seeds move more than what is left
        frame = blocks({cell: list(mean + seeds + rng.normal(0, 0.01, 3)) for cell, mean in means.items()})
        model = BlockModel(frame, "metric")
        found = model.contrast({"d": 1, "a": -1})
        covered += found.low <= 0.02 <= found.high
        false += bool(holm([model.contrast({"a": 1, cell: -1}).p for cell in "bc"]).min() < 0.05)
    assert within_binomial(covered, trials, 0.95)
    assert stats.binom.sf(false - 1, trials, 0.05) > 1e-6, "one false finding in twenty families at most"


def test_block_model_where_it_cannot_say() -> None:
    one_seed = BlockModel(blocks({"a": [0.5], "b": [0.7]}), "metric")
    found = one_seed.contrast({"b": 1, "a": -1})
    assert (found.mean, found.n, found.dof) == (pytest.approx(0.2), 1, 0)
    assert math.isnan(found.p)
    assert math.isnan(one_seed.residual_sd)
    apart = BlockModel(pd.DataFrame({"cell": ["a", "b"], "seed": [0, 1], "metric": [0.5, 0.7]}), "metric")
    assert is_nothing(apart.contrast({"b": 1, "a": -1})), "a seed each: cells and seeds cannot be told apart"
    missing = BlockModel(blocks({"a": [0.5, 0.6], "b": [math.nan, math.nan], "c": [0.7, 0.9]}), "metric")
    assert is_nothing(missing.contrast({"b": 1, "a": -1}))
    assert missing.contrast({"c": 1, "a": -1}).mean == pytest.approx(0.25)
    fewer = BlockModel(blocks({"a": [0.5, 0.6, 0.7], "b": [0.6, math.nan, 0.9], "c": [0.7, 0.9, 0.8]}), "metric")
    assert [fewer.contrast({cell: 1, "a": -1}).n for cell in "bc"] == [2, 3], "the fewest seeds behind it"
    same = BlockModel(blocks({"a": [0.1, 0.1], "b": [0.1, 0.1]}), "metric").contrast({"b": 1, "a": -1})
    assert (same.mean, same.p) == (0, 1)
    assert BlockModel(blocks({}), "metric").contrasts([]) == []


def test_pieces_that_no_seed_connects_stand_alone() -> None:
    """a and b ran seeds 0 to 2, c and d seeds 5 to 7: within each pair there is an answer, between them none."""
    left, right = blocks({"a": SLEEP_A[:3], "b": SLEEP_B[:3]}), blocks({"c": SLEEP_A[3:6], "d": SLEEP_B[3:6]})
    frame = pd.concat([left, right.assign(seed=right["seed"] + 5)])
    model = BlockModel(frame, "metric")
    assert model.dof == 4
    assert is_nothing(model.contrast({"a": 1, "c": -1}))
    means = frame.groupby("cell")["metric"].mean()
    assert model.contrast({"a": 1, "b": -1}).mean == pytest.approx(means["a"] - means["b"])
    both = model.contrast({"a": 1, "b": -1, "c": 1, "d": -1})
    assert both.mean == pytest.approx(means["a"] - means["b"] + means["c"] - means["d"])


def test_contrasts_are_checked() -> None:
    model = BlockModel(blocks(PENICILLIN), "metric")
    with pytest.raises(ValueError, match="add up to 2; expected 0"):
        model.contrast({"a": 1, "b": 1})
    with pytest.raises(KeyError, match="no cell 'e'; the cells are a, b, c, d"):
        model.contrast({"a": 1, "e": -1})
