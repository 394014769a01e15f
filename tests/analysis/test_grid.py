"""Cells, grids, the best cell, effects and importance, on results made by hand whose answers are known."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.formula.api import ols
from statsmodels.stats.anova import anova_lm

from analysis.effects import KINDS
from analysis.grid import (
    Grid,
    best,
    cells,
    effects,
    factors,
    grids,
    importance,
    pareto,
    verdict,
    verdicts,
)
from analysis.importance import LEFT
from analysis.results import Metric, Results, ResultsError
from analysis.statistics import BlockModel, interval, paired

NOISE, RECONSTRUCTION = "axis.noise_injection", "axis.reconstruction"
METRICS = {
    "gen2real_cnn": Metric("gen2real_cnn", "higher", False, "real test set", "accuracy"),
    "fd_dataset_classifier": Metric("fd_dataset_classifier", "lower", True, "real test set", "distance"),
}
EMPTY = pd.DataFrame()


def made(rows: Sequence[Mapping[str, Any]]) -> Results:
    """Results of rows that have axes (``axis.*``), seed, gen2real_cnn and perhaps more; the cell is what the axes say."""
    whole = []
    for number, row in enumerate(rows):
        axes = [f"{name.rsplit('.', 1)[-1]}={row[name]}" for name in row if name.startswith("axis.")]
        case = row.get("case", "only")
        known = {
            "trial_id": f"{number:012d}",
            "sweep": "made",
            "case": case,
            "method": case,
            "epsilon": 9.7,
            "target_epsilon": 10.0,
        }
        accuracy = row["gen2real_cnn"]
        cell = " ".join([case, *axes])
        whole.append(known | {"cell": cell, "fd_dataset_classifier": 100 * (1 - accuracy), **row})
    trials = pd.DataFrame(whole)
    trials["cell"] = pd.Categorical(trials["cell"], categories=list(dict.fromkeys(trials["cell"])))
    return Results(
        trials=trials, history=EMPTY, attempts=EMPTY, real=EMPTY, sweeps=(), metrics=METRICS, columns=EMPTY, notes=()
    )


def crossed(axes: Mapping[str, Sequence[Any]], mean: Callable[..., float], seeds: int = 3, spread: float = 0.01) -> Results:
    """Every combination of the axes; ``mean`` of its values, plus what a seed does to all, plus noise of a fixed seed."""
    rng = np.random.default_rng(0)
    of_seed = rng.normal(0, 0.02, seeds)
    return made(
        [
            {
                **dict(zip(axes, values, strict=True)),
                "seed": seed,
                "gen2real_cnn": mean(*values) + of_seed[seed] + spread * rng.normal(),
            }
            for values in itertools.product(*axes.values())
            for seed in range(seeds)
        ]
    )


PAPER = {NOISE: [0.0, 0.1, 1.0], RECONSTRUCTION: [0.0, 0.5, 1.0, 2.0]}


def paper(noise: float, reconstruction: float) -> float:
    """Reconstruction 0.5 adds .1 and noise 0.1 adds .05, both together .2."""
    return 0.5 + 0.1 * (reconstruction == 0.5) + 0.05 * (noise == 0.1) + 0.05 * (noise == 0.1) * (reconstruction == 0.5)


@pytest.fixture(scope="module")
def grid_results() -> Results:
    return crossed(PAPER, paper)


def shuffled(results: Results) -> Results:
    return replace(results, trials=results.trials.sample(frac=1, random_state=1).reset_index(drop=True))


# --- factors and cells


def test_factors_are_what_varies(grid_results: Results) -> None:
    assert factors(grid_results) == [NOISE, RECONSTRUCTION]
    assert factors(made([{NOISE: 0.1, "seed": seed, "gen2real_cnn": 0.5} for seed in (0, 1)])) == []


def test_method_is_left_out_where_the_case_says_it() -> None:
    rows: list[dict[str, Any]] = [
        {"case": case, "method": "dp_energy", "seed": 0, "gen2real_cnn": 0.5} for case in ("plain", "guided")
    ]
    assert factors(made([*rows, {"case": "other", "method": "dp_merf", "seed": 0, "gen2real_cnn": 0.4}])) == ["case"]
    same = [
        {"case": "only", "method": method, NOISE: noise, "seed": 0, "gen2real_cnn": 0.5}
        for method, noise in (("a", 0), ("b", 1))
    ]
    assert factors(made(same)) == ["method", NOISE]


def test_an_axis_that_only_one_case_reads_is_no_factor_of_its_own() -> None:
    rows: list[dict[str, Any]] = [
        {"case": "paper", "axis.feedback_clip": 1.0},
        {"case": "none", "axis.feedback_clip": math.nan},
    ]
    assert factors(made([row | {"seed": 0, "gen2real_cnn": 0.5} for row in rows])) == ["case"]
    null: list[dict[str, Any]] = [
        {"axis.ema": 0.99},
        {"axis.ema": None},
    ]  # a value of null beside another in one case does vary
    assert factors(made([row | {"seed": 0, "gen2real_cnn": 0.5} for row in null])) == ["axis.ema"]


def test_sweeps_and_data_tell_cells_of_joined_sweeps_apart() -> None:
    rows: list[dict[str, Any]] = [
        {"sweep": sweep, "cell": f"{sweep}: only", "seed": seed, "gen2real_cnn": 0.5} for sweep in "ab" for seed in (0, 1)
    ]
    assert factors(made(rows)) == ["sweep"]
    other = [row | {"data_source": {"a": "digits", "b": "mnist"}[row["sweep"]]} for row in rows]
    assert factors(made(other)) == ["data_source"]


def test_cells_are_means_over_seeds(grid_results: Results) -> None:
    table = cells(grid_results)
    assert list(table) == [
        "cell",
        NOISE,
        RECONSTRUCTION,
        "epsilon",
        "target_epsilon",
        "metric",
        "mean",
        "sd",
        "n",
        "low",
        "high",
    ]
    assert len(table) == 12 * 2
    row = table[(table["metric"] == "gen2real_cnn") & (table[NOISE] == 0.1) & (table[RECONSTRUCTION] == 0.5)].iloc[0]
    trials = grid_results.trials
    found = interval(trials.loc[trials["cell"] == row["cell"], "gen2real_cnn"])
    assert (row["mean"], row["sd"], row["n"], row["low"], row["high"]) == pytest.approx(
        (found.mean, found.sd, found.n, found.low, found.high)
    )
    assert list(table["cell"].unique()) == list(trials["cell"].cat.categories)
    assert (cells(grid_results, ["gen2real_cnn"])["metric"] == "gen2real_cnn").all()


def test_order_of_rows_changes_nothing(grid_results: Results) -> None:
    again = shuffled(grid_results)
    pd.testing.assert_frame_equal(cells(again), cells(grid_results))
    assert best(again, "gen2real_cnn").sentence == best(grid_results, "gen2real_cnn").sentence
    for function in (effects, importance):
        pd.testing.assert_frame_equal(function(grid_results, "gen2real_cnn"), function(again, "gen2real_cnn"))
    pd.testing.assert_frame_equal(grids(again)[0].frame("gen2real_cnn"), grids(grid_results)[0].frame("gen2real_cnn"))


def test_names_of_seeds_change_nothing(grid_results: Results) -> None:
    renamed = replace(
        grid_results, trials=grid_results.trials.assign(seed=grid_results.trials["seed"].map({0: 7, 1: 100, 2: 3}))
    )
    assert best(renamed, "gen2real_cnn").sentence == best(grid_results, "gen2real_cnn").sentence
    pd.testing.assert_frame_equal(effects(renamed, "gen2real_cnn"), effects(grid_results, "gen2real_cnn"))


def test_failed_trials_and_seeds_that_stand_twice() -> None:
    rows = [{NOISE: noise, "seed": seed, "gen2real_cnn": 0.5 + 0.1 * seed + noise} for noise in (0, 1) for seed in (0, 1, 2)]
    rows[4]["gen2real_cnn"] = math.nan
    table = cells(made([*rows, rows[0] | {"gen2real_cnn": 0.7}]), ["gen2real_cnn"])
    assert table["n"].tolist() == [3, 2]
    assert table["mean"].tolist() == pytest.approx([(0.6 + 0.6 + 0.7) / 3, 1.6])


def test_epsilon_of_a_cell_is_its_largest_and_missing_without_a_proof() -> None:
    rows = [{NOISE: noise, "seed": seed, "gen2real_cnn": 0.5, "epsilon": 9.0 + seed} for noise in (0, 1) for seed in (0, 1)]
    rows[3] |= {"epsilon": math.nan, "target_epsilon": math.nan}
    table = cells(made(rows), ["gen2real_cnn"])
    assert table["epsilon"].tolist() == pytest.approx([10.0, math.nan], nan_ok=True)
    assert table["target_epsilon"].tolist() == pytest.approx([10.0, math.nan], nan_ok=True)


def test_an_unknown_metric_is_one_sentence(grid_results: Results) -> None:
    for function in (
        lambda metric: cells(grid_results, [metric]),
        *(lambda m, f=f: f(grid_results, m) for f in (best, effects, importance, pareto)),
    ):
        with pytest.raises(ResultsError, match="no trial has the metric `fid`; there are gen2real_cnn, fd_dataset_classifier"):
            function("fid")


# --- grids


def test_the_papers_grid(grid_results: Results) -> None:
    (grid,) = grids(grid_results)
    assert (grid.x, grid.y, grid.facet, grid.title) == (NOISE, RECONSTRUCTION, {}, "")
    means = grid.frame("gen2real_cnn")
    assert (list(means.columns), list(means.index)) == ([0, 0.1, 1], [0, 0.5, 1, 2])
    trials = grid_results.trials
    here = (trials[NOISE] == 0.1) & (trials[RECONSTRUCTION] == 2)
    assert means.loc[2.0, 0.1] == pytest.approx(trials.loc[here, "gen2real_cnn"].mean())
    assert (grid.frame("gen2real_cnn", "n") == 3).all(axis=None)
    assert (grid.frame("gen2real_cnn", "low") < means).all(axis=None)
    (turned,) = grids(grid_results, x="reconstruction")
    assert (turned.x, turned.y) == (RECONSTRUCTION, NOISE)
    pd.testing.assert_frame_equal(turned.frame("gen2real_cnn").T, means)


def test_a_grid_for_each_combination_of_the_rest() -> None:
    axes: dict[str, list[Any]] = {
        "axis.privacy.epsilon": [10, 1],
        NOISE: [1.0, 0.0],
        RECONSTRUCTION: [0, 1],
        "axis.schedule": ["rising", "constant"],
    }
    found = grids(crossed(axes, lambda *values: 0.5))
    assert [grid.title for grid in found] == [f"epsilon={e}, schedule={s}" for e in (10, 1) for s in ("rising", "constant")]
    assert {(grid.x, grid.y) for grid in found} == {(NOISE, RECONSTRUCTION)}
    (words, *_) = grids(crossed(axes, lambda *values: 0.5), x="schedule", y="epsilon")
    assert list(words.frame("gen2real_cnn").columns) == ["rising", "constant"], "words keep the order of appearance"
    assert list(words.frame("gen2real_cnn").index) == [1, 10], "numbers are sorted"


def test_cells_that_are_missing_leave_a_hole(grid_results: Results) -> None:
    trials = grid_results.trials
    some = replace(grid_results, trials=trials[~((trials[NOISE] == 1) & (trials[RECONSTRUCTION] == 2))])
    frame = grids(some)[0].frame("gen2real_cnn")
    assert frame.isna().sum().sum() == 1
    assert math.isnan(frame.loc[2.0, 1.0])


def test_a_failed_cell_has_no_mean_and_n_0(grid_results: Results) -> None:
    trials = grid_results.trials
    failed = (trials[NOISE] == 1) & (trials[RECONSTRUCTION] == 2)
    some = replace(grid_results, trials=trials.assign(gen2real_cnn=trials["gen2real_cnn"].mask(failed)))
    (grid,) = grids(some)
    assert math.isnan(grid.frame("gen2real_cnn").loc[2.0, 1.0])
    assert grid.frame("gen2real_cnn", "n").loc[2.0, 1.0] == 0
    assert len(best(some, "gen2real_cnn").others) == 10


def one_at_a_time() -> Results:
    """As tables of ablations are: axes change in step, and nothing crosses."""
    points = [(0.0, 0, "constant"), (0.1, 0, "constant"), (1.0, 0, "constant"), (0.1, 500, "constant"), (0.1, 0, "falling")]
    names = (NOISE, "axis.start", "axis.schedule")
    return made(
        [
            {
                **dict(zip(names, point, strict=True)),
                "seed": seed,
                "gen2real_cnn": 0.5 + 0.1 * place + 0.01 * (seed - 1) * (place % 2),
            }
            for place, point in enumerate(points)
            for seed in range(3)
        ]
    )


def zipped() -> Results:
    """Noise and steps in step, crossed with reconstruction."""
    points = itertools.product(((0.0, 2000), (0.1, 3000), (1.0, 3500)), (0.0, 1.0), (0, 1, 2))
    return made(
        [
            {
                NOISE: noise,
                "axis.steps": steps,
                RECONSTRUCTION: gamma,
                "seed": seed,
                "gen2real_cnn": 0.5 + noise * 0.1 + 0.01 * (seed % 2) * gamma,
            }
            for (noise, steps), gamma, seed in points
        ]
    )


def test_axes_that_were_zipped_are_one_factor_and_nothing_else_is_lost() -> None:
    assert grids(one_at_a_time()) == []
    (grid,) = grids(zipped())
    assert (grid.x, grid.y, grid.facet) == (NOISE, RECONSTRUCTION, {})
    (by_steps,) = grids(zipped(), x="steps")
    assert list(by_steps.frame("gen2real_cnn").columns) == [2000, 3000, 3500]
    assert grids(zipped(), x="steps", y="noise_injection") == []
    assert set(best(zipped(), "gen2real_cnn").neighbours["step"]) <= {
        "noise_injection and steps 1 to 0.1",
        "reconstruction 0 to 1",
        "reconstruction 1 to 0",
    }
    assert set(effects(zipped(), "gen2real_cnn").query("factor == @NOISE")["zipped_with"]) == {"steps"}


def test_cases_cross_an_axis_where_no_axes_do() -> None:
    rows = [
        {"case": case, "axis.privacy.epsilon": epsilon, "seed": seed, "gen2real_cnn": 0.5}
        for case in ("dp_merf", "dp_energy")
        for epsilon in (1, 10)
        for seed in (0, 1)
    ]
    (grid,) = grids(made(rows))
    assert {grid.x, grid.y} == {"case", "axis.privacy.epsilon"}
    assert grids(made([row for row in rows if (row["case"], row["axis.privacy.epsilon"]) != ("dp_merf", 1)])) == []


def test_settings_that_some_cases_do_not_read_make_grids_of_the_others_alone() -> None:
    rows = [
        {
            "case": case,
            "axis.max_grad_norm": c1,
            "axis.feedback_clip": c2 if case == "paper" else None,
            "seed": seed,
            "gen2real_cnn": 0.5,
        }
        for case in ("paper", "none")
        for c1 in (0.25, 1.0)
        for c2 in ((0.25, 1.0) if case == "paper" else (None,))
        for seed in (0, 1)
    ]
    (grid,) = grids(made(rows))
    assert (grid.facet, grid.title) == ({"case": "paper"}, "paper")
    assert grid.frame("gen2real_cnn").shape == (2, 2)
    found = effects(made(rows), "gen2real_cnn")
    assert set(zip(found["factor"], found["level"], found["base"], strict=True)) == {
        ("axis.max_grad_norm", 1.0, 0.25),
        ("axis.feedback_clip", 1.0, 0.25),
    }, "no combination has both cases, all else equal"


def test_axes_of_truth_values_and_lists() -> None:
    values: dict[str, list[Any]] = {"axis.ema": [False, True], "axis.widths": [[64, 128], [32, 64]]}
    results = crossed(values, lambda ema, widths: 0.5 + 0.1 * ema)
    assert factors(results) == list(values)
    (grid,) = grids(results)
    assert sorted(grid.frame("gen2real_cnn").shape) == [2, 2]
    bases = effects(results, "gen2real_cnn").groupby("factor")["base"].first()
    assert bases.to_dict() == {"axis.ema": False, "axis.widths": "[64, 128]"}
    assert best(results, "gen2real_cnn").neighbours["better"].sum() == 1


def test_naming_an_axis_that_does_not_vary_says_what_does(grid_results: Results) -> None:
    with pytest.raises(
        ResultsError, match=r"`steps` does not vary over these trials; what does is axis\.noise_injection, axis"
    ):
        grids(grid_results, x="steps")


# --- the best cell


def test_the_best_cell_of_the_papers_grid(grid_results: Results) -> None:
    found = best(grid_results, "gen2real_cnn")
    assert found.cell == "only noise_injection=0.1 reconstruction=0.5"
    trials = grid_results.trials
    mine = trials[trials["cell"] == found.cell]
    assert astuple(found.interval) == pytest.approx(astuple(interval(mine["gen2real_cnn"])))
    assert found.trial_ids == tuple(mine["trial_id"])
    assert found.epsilon == 9.7
    assert list(found.neighbours["step"]) == [
        "noise_injection 0.1 to 0",
        "noise_injection 0.1 to 1",
        "reconstruction 0.5 to 0",
        "reconstruction 0.5 to 1",
    ]
    assert found.neighbours["better"].all()
    assert found.others["better"].all()
    assert found.sentence == (
        f"{found.cell} has the best mean gen2real CNN ({found.interval.mean:.3f}, 95 % interval {found.interval.low:.3f} to "
        f"{found.interval.high:.3f}, 3 seeds); all 11 other cells can be told from it (paired within seeds, pooled spread, "
        "Holm). It beats all 4 neighbours one step away (Tukey over the 12 cells)."
    )


def test_the_best_of_a_lower_metric_is_the_lowest(grid_results: Results) -> None:
    higher, lower = best(grid_results, "gen2real_cnn"), best(grid_results, "fd_dataset_classifier")
    assert lower.cell == higher.cell
    assert (lower.neighbours["difference"] < 0).all()
    assert lower.neighbours["better"].all()
    assert lower.neighbours["p"].tolist() == pytest.approx(higher.neighbours["p"].tolist())


def test_a_grid_may_have_a_best_of_its_own(grid_results: Results) -> None:
    (grid,) = grids(grid_results)
    left = replace(grid, cells=grid.cells[grid.cells[RECONSTRUCTION] != 0.5])
    found = best(grid_results, "gen2real_cnn", within=left)
    assert found.cell in set(left.cells["cell"])
    assert len(found.others) == 8
    empty = Grid(grid.x, grid.y, {}, "", grid.cells.iloc[:0])
    with pytest.raises(ResultsError, match="no trial of this grid has the metric `gen2real_cnn`"):
        best(grid_results, "gen2real_cnn", within=empty)


def test_cells_that_are_alike_are_said_to_be() -> None:
    found = best(crossed(PAPER, lambda *values: 0.5), "gen2real_cnn")
    assert "none of the 11 other cells can be told from it" in found.sentence
    assert "none of its" in found.sentence
    some = best(crossed(PAPER, lambda noise, _: 0.5 + 0.1 * (noise == 1)), "gen2real_cnn")
    assert "3 of the 11 other cells cannot be told from it" in some.sentence


def test_a_seed_that_the_best_cell_has_twice_is_one_seed() -> None:
    results = crossed({NOISE: [0, 1]}, lambda noise: 0.5 + noise)
    twice = results.trials[results.trials["seed"] == 0].assign(trial_id="again")
    found = best(replace(results, trials=pd.concat([results.trials, twice], ignore_index=True)), "gen2real_cnn")
    assert found.interval == best(results, "gen2real_cnn").interval


def test_two_cells_and_one() -> None:
    two = crossed({NOISE: [0, 1]}, lambda noise: 0.5 + noise)
    found, trials = best(two, "gen2real_cnn"), two.trials
    pair = paired(*(trials[trials[NOISE] == noise].set_index("seed")["gen2real_cnn"] for noise in (1, 0)))
    assert found.others[["difference", "low", "high", "p", "p_holm"]].iloc[0].tolist() == pytest.approx(
        [pair.mean, pair.low, pair.high, pair.p, pair.p]
    )
    assert "the other cell can be told from it (paired within seeds). It beats its one neighbour" in found.sentence
    one = best(replace(two, trials=trials[trials[NOISE] == 1]), "gen2real_cnn")
    assert one.sentence.startswith("only noise_injection=1 is the only cell with gen2real CNN (1.")
    assert one.neighbours.empty
    assert one.others.empty


def test_one_seed_gives_no_test_and_says_so() -> None:
    found = best(crossed(PAPER, paper, seeds=1), "gen2real_cnn")
    assert "one seed, so no interval); no test can tell it from the 11 other cells" in found.sentence
    assert found.neighbours["p_tukey"].isna().all()
    assert not found.neighbours["better"].any()


def test_cells_that_share_no_seed_are_not_compared() -> None:
    rows = [
        {NOISE: noise, "seed": 10 * noise + seed, "gen2real_cnn": 0.5 + noise * 0.1 + seed * 0.01}
        for noise in (0, 1)
        for seed in (0, 1)
    ]
    assert (
        "no test can tell it from the 1 other cell, for that takes two seeds that cells share"
        in best(made(rows), "gen2real_cnn").sentence
    )


def test_what_the_best_cell_cost_is_said_where_prices_differ() -> None:
    rows = [
        {"axis.privacy.epsilon": e, "seed": s, "epsilon": e * 0.97, "gen2real_cnn": 0.5 + e / 100 + s / 1000}
        for e in (1, 10)
        for s in (0, 1)
    ]
    assert ", 2 seeds, epsilon 9.7)" in best(made(rows), "gen2real_cnn").sentence
    rounded = best(made([row | {"epsilon": row["epsilon"] + 0.001} for row in rows]), "gen2real_cnn")
    assert ", epsilon 9.71)" in rounded.sentence, "rounded up"
    unproven = best(made([row | {"epsilon": math.nan} for row in rows]), "gen2real_cnn")
    assert ", epsilon not proven)" in unproven.sentence
    assert math.isnan(unproven.epsilon)


def test_the_truly_best_cell_is_among_those_not_told_from_the_chosen_one() -> None:
    """What subset selection guarantees, although the best cell is chosen after seeing the data."""
    rng, runs, kept = np.random.default_rng(5), 60, 0
    start = crossed({NOISE: [0, 1, 2, 3, 4, 5]}, lambda noise: 0.5)
    truth = np.repeat([0.5, 0.5, 0.505, 0.51, 0.51, 0.512], 3)
    cell_of_truth = "only noise_injection=5"
    for _ in range(runs):
        trials = start.trials.assign(gen2real_cnn=truth + rng.normal(0, 0.01, len(truth)))
        found = best(replace(start, trials=trials), "gen2real_cnn")
        lost = set(found.others.loc[found.others["better"], "cell"])
        kept += cell_of_truth not in lost
    assert stats.binom.cdf(kept, runs, 0.95) > 1e-6


def test_the_best_of_cells_that_are_alike_hardly_ever_beats_a_neighbour() -> None:
    """It was chosen after looking: Holm over its neighbours alone would find one in three such grids of twenty."""
    rng, runs, found = np.random.default_rng(6), 120, 0
    start = crossed(PAPER, lambda *values: 0.5)
    for _ in range(runs):
        trials = start.trials.assign(gen2real_cnn=rng.normal(0.5, 0.01, len(start.trials)))
        found += best(replace(start, trials=trials), "gen2real_cnn").neighbours["better"].any()
    assert stats.binom.sf(found - 1, runs, 0.05) > 1e-3


def test_neighbours_are_tested_as_tukey_would_test_all_pairs() -> None:
    """The range of three means of four seeds, in units of their standard error."""
    results = crossed({NOISE: [0, 1, 2]}, lambda noise: 0.5 + 0.01 * noise, seeds=4)
    found = best(results, "gen2real_cnn")
    model = BlockModel(results.trials, "gen2real_cnn")
    pair = model.contrast({found.cell: 1, found.neighbours["neighbour"][0]: -1})
    expected = stats.studentized_range.sf(abs(pair.mean) / (model.residual_sd / math.sqrt(4)), 3, model.dof)
    assert found.neighbours["p_tukey"][0] == pytest.approx(expected)
    half = 4.339 * model.residual_sd / math.sqrt(4)  # the studentised range of 3 means, 6 degrees of freedom, 5 %: from tables
    bounds = found.neighbours[["low", "high"]].iloc[0].tolist()
    assert bounds == pytest.approx([pair.mean - half, pair.mean + half], rel=1e-3)


def test_intervals_of_neighbours_say_what_their_p_says() -> None:
    rng, said = np.random.default_rng(7), set()
    start = crossed(PAPER, lambda noise, _: 0.5 + 0.03 * (noise == 0.1))
    for _ in range(10):
        trials = start.trials.assign(gen2real_cnn=start.trials["gen2real_cnn"] + rng.normal(0, 0.005, len(start.trials)))
        found = best(replace(start, trials=trials), "gen2real_cnn").neighbours
        apart = (found["low"] > 0) | (found["high"] < 0)
        assert apart.tolist() == (found["p_tukey"] < 0.05).tolist()
        said |= set(apart)
    assert said == {True, False}


def test_the_interval_of_the_best_is_that_of_its_cell() -> None:
    """Two seeds of a share: Student's bounds would be -1.2 and 2.7."""
    rows = [{NOISE: noise, "seed": s, "gen2real_cnn": 0.3 * noise + 0.3 + 0.3 * s} for noise in (0, 1) for s in (0, 1)]
    results = made(rows)
    found, table = best(results, "gen2real_cnn"), cells(results, ["gen2real_cnn"]).set_index("cell")
    assert [found.interval.low, found.interval.high] == table.loc[found.cell, ["low", "high"]].tolist()


def test_verdicts(grid_results: Results) -> None:
    base, cell = "only noise_injection=0.0 reconstruction=0.0", "only noise_injection=0.1 reconstruction=0.5"
    found = verdicts(grid_results, "gen2real_cnn", base).set_index("cell")
    assert base not in found.index
    one = verdict(grid_results, "gen2real_cnn", cell, base)
    assert found.loc[cell, ["difference", "low", "high", "p"]].tolist() == [one.mean, one.low, one.high, one.p]
    assert one.mean == pytest.approx(0.2, abs=0.03)
    assert set(found.index[found["better"]]) >= {cell, "only noise_injection=0.0 reconstruction=0.5"}
    backwards = verdicts(grid_results, "gen2real_cnn", cell).set_index("cell")
    assert backwards["worse"].all()
    assert backwards.loc[base, "difference"] == pytest.approx(-one.mean)
    pair = verdict(grid_results, "gen2real_cnn", cell, base, among=[cell, base])
    assert (pair.dof, one.dof) == (2, 22)


# --- what settings add


def truth_of_paper(row: Any) -> float:
    """The expected contrast of ``effects`` on ``paper``, from the means that the data were made with."""
    other_levels = {NOISE: PAPER[RECONSTRUCTION], RECONSTRUCTION: PAPER[NOISE]}[row.factor]

    def gain(other: float) -> float:
        return paper(row.level, other) - paper(0, other) if row.factor == NOISE else paper(other, row.level) - paper(other, 0)

    on = {NOISE: 0.5, RECONSTRUCTION: 0.1}[row.factor]
    return {
        "average": float(np.mean([gain(other) for other in other_levels])),
        "alone": gain(0),
        "together": gain(on),
        "interaction": gain(on) - gain(0),
    }[row.kind]


def test_effects_of_the_papers_grid() -> None:
    found = effects(crossed(PAPER, paper, spread=1e-9), "gen2real_cnn")
    assert len(found) == (2 + 3) * 4
    assert list(dict.fromkeys(found["kind"])) == list(KINDS)
    for row in found.itertuples():
        assert row.base == 0
        assert row.difference == pytest.approx(truth_of_paper(row), abs=1e-8)
    together = found[(found["factor"] == NOISE) & (found["kind"] == "together")]
    assert set(together["others"]) == {"reconstruction=0.5"}
    assert set(found.loc[found["kind"] == "average", "combinations"]) == {3, 4}


def test_effects_have_intervals_tests_and_seeds(grid_results: Results) -> None:
    found = effects(grid_results, "gen2real_cnn").set_index(["factor", "level", "kind"])
    row = found.loc[RECONSTRUCTION, 0.5, "alone"]
    cell, base = (f"only noise_injection=0.0 reconstruction={level}" for level in (0.5, 0.0))
    one = verdict(grid_results, "gen2real_cnn", cell, base)
    assert row[["difference", "low", "high", "p", "n"]].tolist() == [one.mean, one.low, one.high, one.p, one.n]
    assert row["better"]
    assert not row["worse"]
    averages = found.xs("average", level="kind")
    assert (averages["p_holm"] >= averages["p"]).all()
    assert averages["p_holm"].max() <= 1
    assert found.loc[(RECONSTRUCTION, 0.5, "average"), "seeds_needed"] <= 3
    assert found["seeds_needed"].dtype == "Int64"
    lower = effects(grid_results, "fd_dataset_classifier").set_index(["factor", "level", "kind"])
    assert lower.loc[RECONSTRUCTION, 0.5, "alone"]["better"]
    assert lower.loc[RECONSTRUCTION, 0.5, "alone"]["difference"] < 0


def test_together_is_with_all_other_switches_on_where_they_do_best() -> None:
    axes = {NOISE: [0, 1], RECONSTRUCTION: [0, 1, 2], "axis.feedback_clip": [0, 1]}
    results = crossed(axes, lambda noise, recon, clip: 0.5 + 0.1 * noise + 0.05 * recon - 0.2 * clip)
    for metric in METRICS:
        found = effects(results, metric).set_index(["factor", "kind", "level"])
        assert found.loc[(NOISE, "together", 1), "others"] == "reconstruction=2 feedback_clip=1", "on, though off is better"
        assert (found.loc["axis.feedback_clip"].loc["average", "worse"]).all()
        assert (found.loc[NOISE].loc["average", "better"]).all()
        assert not (found["better"] & found["worse"]).any()


def test_the_interaction_of_two_switches_is_one_test() -> None:
    found = effects(
        crossed({NOISE: [0, 1], RECONSTRUCTION: [0, 1]}, lambda noise, gamma: 0.5 + 0.02 * noise * gamma), "gen2real_cnn"
    )
    rows = found[found["kind"] == "interaction"]
    assert rows["factor"].tolist() == [NOISE, RECONSTRUCTION]
    assert rows["difference"].nunique() == 1
    assert (rows["p_holm"] == rows["p"]).all()
    alone = found[found["kind"] == "alone"]
    assert alone["p_holm"].min() == pytest.approx(2 * alone["p"].min())


def test_effects_average_over_what_is_no_switch() -> None:
    """Over budgets, where a cell and its base were both run."""
    axes: dict[str, list[Any]] = {"axis.privacy.epsilon": [1, 10], NOISE: [0, 1], RECONSTRUCTION: [0, 1]}
    results = crossed(axes, lambda e, noise, gamma: 0.01 * e + noise * (0.1 if e == 1 else 0.3) + 0.1 * gamma, spread=1e-9)
    found = effects(results, "gen2real_cnn").set_index(["factor", "kind"])
    assert found.loc[(NOISE, "alone"), "difference"] == pytest.approx(0.2, abs=1e-7)
    assert found.loc[(NOISE, "interaction"), "difference"] == pytest.approx(0, abs=1e-7)
    assert set(found.loc["axis.privacy.epsilon"].index) == {"average"}, "a budget has no value that means off"
    trials = results.trials
    some = replace(results, trials=trials[~((trials["axis.privacy.epsilon"] == 10) & (trials[NOISE] == 1))])
    assert effects(some, "gen2real_cnn").set_index(["factor", "kind"]).loc[(NOISE, "alone"), "difference"] == pytest.approx(
        0.1, abs=1e-7
    )


def test_effects_one_at_a_time_are_the_differences_that_were_run() -> None:
    found = effects(one_at_a_time(), "gen2real_cnn")
    assert set(found["kind"]) == {"average"}
    assert dict(zip(zip(found["factor"], found["level"], strict=True), found["difference"].round(9), strict=True)) == {
        (NOISE, 0.1): 0.1,
        (NOISE, 1.0): 0.2,
        ("axis.start", 500): 0.2,
        ("axis.schedule", "falling"): 0.3,
    }


def test_effects_of_a_grid_alone(grid_results: Results) -> None:
    (grid,) = grids(grid_results)
    part = replace(grid, cells=grid.cells[grid.cells[RECONSTRUCTION].isin([0.0, 0.5])])
    assert set(effects(grid_results, "gen2real_cnn", within=part)["level"]) == {0.1, 1.0, 0.5}


def test_null_is_off_where_it_stands_beside_a_value() -> None:
    found = effects(
        crossed({"axis.ema": [0.9, None, 0.99]}, lambda ema: 0.5 if ema is None or ema != ema else ema), "gen2real_cnn"
    )
    assert set(found["base"]) == {"unset"}
    assert found["level"].tolist() == [0.9, 0.99]
    assert found["better"].all()


# --- importance


def test_importance_is_type_ii() -> None:
    """Against statsmodels' table, on a design with holes."""
    results = crossed(PAPER, paper, spread=0.03)
    some = replace(results, trials=results.trials.drop(index=[1, 5, 6, 18, 30]))
    frame = some.trials.rename(columns={NOISE: "noise", RECONSTRUCTION: "gamma"})
    table = anova_lm(ols("gen2real_cnn ~ C(noise) * C(gamma) + C(seed)", frame).fit(), typ=2)
    found = importance(some, "gen2real_cnn").set_index("term")
    residual, dof = table.loc["Residual", "sum_sq"], table.loc["Residual", "df"]
    total = ((frame["gen2real_cnn"] - frame["gen2real_cnn"].mean()) ** 2).sum()
    names = {
        "noise_injection": "C(noise)",
        "reconstruction": "C(gamma)",
        "noise_injection x reconstruction": "C(noise):C(gamma)",
        "seed": "C(seed)",
    }
    assert set(found.index) == {*names, LEFT}
    for term, name in names.items():
        by_chance = table.loc[name, "df"] * residual / dof
        assert found.loc[term, "share"] == pytest.approx(max(0, (table.loc[name, "sum_sq"] - by_chance) / total))
        assert found.loc[term, "p"] == pytest.approx(table.loc[name, "PR(>F)"])
        assert found.loc[term, "dof"] == table.loc[name, "df"]
    assert found.loc[LEFT, "share"] == pytest.approx(residual / dof * (len(frame) - 1) / total)


def test_importance_adds_up_in_a_balanced_design() -> None:
    found = importance(
        crossed(PAPER, lambda noise, gamma: noise + 0.1 * gamma + 0.3 * noise * gamma, spread=0.2), "gen2real_cnn"
    )
    assert found["share"].sum() == pytest.approx(1, abs=0.05), "a term below chance counts as 0"
    assert sorted(found["kind"][:3]) == ["interaction", "main", "main"]
    assert found["share"][:3].is_monotonic_decreasing
    assert found["kind"].tolist()[3:] == ["seed", "residual"]
    assert ((found["low"] <= found["share"]) & (found["share"] <= found["high"])).all()
    assert found[["low", "high"]].stack().between(0, 1).all()


def test_importance_of_what_does_nothing_is_small_and_its_interval_holds_the_truth() -> None:
    rng, runs = np.random.default_rng(7), 50
    start, covered = crossed(PAPER, paper), 0
    for _ in range(runs):
        trials = start.trials.assign(gen2real_cnn=rng.normal(size=len(start.trials)))
        found = importance(replace(start, trials=trials), "gen2real_cnn", resamples=200).set_index("term")
        covered += found.loc["noise_injection", "low"] <= 1e-9
    assert stats.binom.cdf(covered, runs, 0.9) > 1e-6


def test_interactions_come_in_as_degrees_of_freedom_allow() -> None:
    def terms(axes: Mapping[str, Sequence[Any]], seeds: int) -> set[str]:
        return set(importance(crossed(axes, lambda *values: sum(values), seeds), "gen2real_cnn")["term"])

    assert terms({NOISE: [0, 1], RECONSTRUCTION: [0, 1]}, 2) == {
        "noise_injection",
        "reconstruction",
        "noise_injection x reconstruction",
        "seed",
        LEFT,
    }
    assert terms({NOISE: [0, 1, 2], RECONSTRUCTION: [0, 1, 2, 3]}, 1) == {"noise_injection", "reconstruction", LEFT}


def test_importance_without_a_degree_of_freedom_has_no_bounds() -> None:
    found = importance(crossed({NOISE: [0, 1, 2]}, lambda noise: noise, seeds=1), "gen2real_cnn").set_index("term")
    assert found.loc["noise_injection", "share"] == pytest.approx(1)
    assert found[["low", "high", "p"]].isna().all(axis=None)


def test_importance_of_zipped_axes_goes_to_the_first() -> None:
    found = importance(zipped(), "gen2real_cnn")
    assert "noise_injection" in set(found["term"])
    assert not found["term"].str.contains("steps").any()
    assert set(importance(one_at_a_time(), "gen2real_cnn")["term"]) >= {"noise_injection", "start", "schedule"}


def test_nothing_to_explain() -> None:
    same = importance(crossed(PAPER, lambda *values: 0.5, seeds=1, spread=0.0), "gen2real_cnn")
    assert same["share"].isna().all()
    single = crossed({NOISE: [0]}, lambda noise: 0.5, seeds=1)
    assert importance(single, "gen2real_cnn").empty
    assert effects(single, "gen2real_cnn").empty
    assert grids(single) == []
    assert pareto(single, "gen2real_cnn")["on_front"].all()
    assert verdicts(single, "gen2real_cnn", single.trials["cell"].iloc[0]).empty


# --- the front


def test_pareto_front() -> None:
    points = {"a": (1.0, 0.5), "b": (3.0, 0.6), "c": (3.02, 0.55), "d": (10.0, 0.58), "e": (9.9, 0.7), "f": (math.nan, 0.9)}
    rows = [
        {"case": case, "seed": seed, "epsilon": epsilon, "gen2real_cnn": mean + 0.001 * seed}
        for case, (epsilon, mean) in points.items()
        for seed in (0, 1)
    ]
    rows += [{"case": "g", "seed": seed, "epsilon": 0.5, "gen2real_cnn": math.nan} for seed in (0, 1)]
    front = pareto(made(rows), "gen2real_cnn").set_index("case")
    assert set(front.index[front["on_front"]]) == {"a", "b", "e"}
    lower = pareto(made(rows), "fd_dataset_classifier").set_index("case")
    assert set(lower.index[lower["on_front"]]) == {"a", "b", "e"}


def test_calibration_that_rounds_differently_is_one_budget() -> None:
    rows = [
        {"case": case, "seed": 0, "epsilon": epsilon, "gen2real_cnn": mean}
        for case, epsilon, mean in (("a", 9.70, 0.5), ("b", 9.73, 0.6))
    ]
    assert pareto(made(rows), "gen2real_cnn")["on_front"].tolist() == [False, True]
