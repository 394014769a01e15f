from __future__ import annotations

import io
import itertools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from PIL import Image

from analysis import figures, plotting, sheets
from analysis.effects import effects
from analysis.grid import best, grids, pareto
from analysis.importance import importance
from analysis.results import Metric, Results, ResultsError, load

ACCURACY = Metric("gen2real_cnn", "higher", False, "real test set", "")
DISTANCE = Metric("fd_dataset_classifier", "lower", True, "real test set", "")
NOISE, RECONSTRUCTION = "axis.noise_injection", "axis.reconstruction"


def made(
    axes: Mapping[str, Sequence[Any]],
    score: Callable[..., float],
    *,
    cases: Sequence[str] = ("shards",),
    seeds: int = 3,
    steps: int = 20,
    distance: Callable[..., float] | None = None,
    epsilon: Callable[..., float] = lambda case, *values: 9.7,
) -> Results:
    """Results of all combinations of the axes; ``score(case, *values, seed)`` is the accuracy, NaN where there is none."""
    trials, history = [], []
    for case, *values in itertools.product(cases, *axes.values()):
        setting = [f"{name.rsplit('.', 1)[-1]}={value}" for name, value in zip(axes, values, strict=True)]
        cell = " ".join([case] * (len(cases) > 1) + setting)
        for seed in range(seeds):
            trial = f"{len(trials):012x}"
            classes = {f"gen2real_cnn_class_{label}": (label + seed) / 20 for label in range(10)}
            trials.append(
                {
                    **{
                        "trial_id": trial,
                        "cell": cell,
                        "case": case,
                        "method": "ef_dpgan",
                        "seed": seed,
                        "status": "completed",
                    },
                    **{f"axis.{name}": value for name, value in zip(axes, values, strict=True)},
                    **{
                        "epsilon": epsilon(case, *values),
                        "target_epsilon": 10.0,
                        "delta": 1e-5,
                        "per_class": json.dumps(classes),
                    },
                    ACCURACY.name: score(case, *values, seed),
                    DISTANCE.name: distance(case, *values, seed) if distance else np.nan,
                }
            )
            for step in range(1, steps + 1):
                spent = epsilon(case, *values) * (step / steps) ** 0.5
                row = {"trial_id": trial, "step": 10 * step, "epsilon": spent, "metric.release_norm": 100.0 + len(trials)}
                history.append(row | {"cell": cell, "case": case, "seed": seed})
    frame = pd.DataFrame(trials)
    frame["cell"] = pd.Categorical(frame["cell"], categories=list(dict.fromkeys(frame["cell"])))
    empty = pd.DataFrame()
    metrics = {metric.name: metric for metric in (ACCURACY, DISTANCE) if frame[metric.name].notna().any()}
    return Results(frame, pd.DataFrame(history), empty, empty, (), metrics, empty, ())


GRID = {"noise_injection": [0.0, 0.1, 1.0], "reconstruction": [0.0, 0.5]}


def score(case: str, noise: float, reconstruction: float, seed: int) -> float:
    """Best at noise 0.1 and reconstruction 0.5; noise 1 is far below everything, the rest lies together."""
    return 0.7 + 0.004 * seed * (noise == 0) + 0.03 * (noise == 0.1) * (reconstruction > 0) - 0.3 * (noise == 1)


@pytest.fixture
def grid() -> Results:
    return made(GRID, score)


def caption_of(figure: Figure) -> str:
    return figure.get_supxlabel().replace("\n", " ")


def legend_of(figure: Figure) -> list[str]:
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def marked(axes: Any) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """(outlined cells, dotted cells) of a heatmap as (row, column)."""
    frames = [patch for patch in axes.patches if isinstance(patch, Rectangle) and not patch.get_fill()]
    dots = [(int(line.get_ydata()[0]), int(line.get_xdata()[0])) for line in axes.lines]
    return [(int(frame.get_y()), int(frame.get_x())) for frame in frames], dots


def cell_texts(axes: Any) -> dict[tuple[int, int], str]:
    return {(int(text.get_position()[1]), int(text.get_position()[0])): text.get_text() for text in axes.texts}


def test_a_heatmap_prints_every_cell_and_outlines_the_best(grid: Results) -> None:
    figure = figures.heatmaps(grid, "gen2real_cnn")
    (axes,) = figure.axes
    shown = cell_texts(axes)
    assert {place: text.split("\n")[0] for place, text in shown.items()} == {
        **{(0, 0): "0.704", (0, 1): "0.700", (0, 2): "0.400"},
        **{(1, 0): "0.704", (1, 1): "0.730", (1, 2): "0.400"},
    }
    assert shown[0, 0] == "0.704\n±0.004"  # of 0.700, 0.704 and 0.708
    assert "mean ± standard deviation over 3 seeds" in caption_of(figure)
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "0.1", "1"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["0", "0.5"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("noise_injection", "reconstruction")
    outlined, dotted = marked(axes)
    assert outlined == [(1, 1)]
    assert dotted == [], "every other cell is told from the best here"
    assert "higher is better" in caption_of(figure)
    assert "3 seeds" in caption_of(figure)


def test_a_dot_marks_what_no_test_tells_from_the_best() -> None:
    results = made(
        GRID,
        lambda case, noise, reconstruction, seed: (
            score(case, noise, reconstruction, seed) + 0.02 * ((seed * 7 + int(10 * noise)) % 3)
        ),
    )
    (axes,) = figures.heatmaps(results, "gen2real_cnn").axes
    outlined, dotted = marked(axes)
    answer = best(results, "gen2real_cnn", within=grids(results)[0])
    names = grids(results)[0].frame("gen2real_cnn", "cell")
    alike = set(answer.others.loc[~answer.others["better"], "cell"])
    assert 0 < len(alike) < 5
    assert {names.iat[place] for place in dotted} == alike
    assert [names.iat[place] for place in outlined] == [answer.cell]


def test_where_lower_is_better_the_least_is_outlined_and_lightest() -> None:
    results = made(GRID, score, distance=lambda case, noise, reconstruction, seed: 10 + noise - reconstruction + seed)
    figure = figures.heatmaps(results, "fd_dataset_classifier")
    (axes,) = figure.axes
    assert marked(axes)[0] == [(1, 0)]
    faces = {(int(p.get_y()), int(p.get_x())): sum(p.get_facecolor()[:3]) for p in axes.patches if p.get_fill()}
    assert max(faces, key=faces.__getitem__) == (1, 0)
    assert min(faces, key=faces.__getitem__) == (0, 2)
    assert cell_texts(axes)[1, 0].split("\n")[0] == "10.50"
    assert "lower is better" in caption_of(figure)


def test_numbers_are_legible_on_their_cells(grid: Results) -> None:
    (axes,) = figures.heatmaps(grid, "gen2real_cnn").axes
    faces = {(int(p.get_y()), int(p.get_x())): p.get_facecolor() for p in axes.patches if p.get_fill()}
    for text in axes.texts:
        face = faces[int(text.get_position()[1]), int(text.get_position()[0])]
        assert contrast(face, text.get_color()) >= 4.5


def contrast(one: Any, other: Any) -> float:
    """Of two colours, as WCAG 2 defines it."""
    from matplotlib.colors import to_rgb

    def luminance(colour: Any) -> float:
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
        return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_a_panel_a_case_and_a_dash_where_no_trial_is() -> None:
    def holes(case: str, noise: float, reconstruction: float, seed: int) -> float:
        return np.nan if (case, noise, reconstruction) == ("records", 1.0, 0.5) else score(case, noise, reconstruction, seed)

    figure = figures.heatmaps(made(GRID, holes, cases=("shards", "records")), "gen2real_cnn")
    assert [axes.get_title("left") for axes in figure.axes] == ["shards", "records"]
    assert cell_texts(figure.axes[1])[1, 2] == "\N{EN DASH}"
    assert [marked(axes)[0] for axes in figure.axes] == [[(1, 1)], [(1, 1)]]


def test_one_seed_gives_no_interval_and_no_dot() -> None:
    figure = figures.heatmaps(made(GRID, score, seeds=1), "gen2real_cnn")
    (axes,) = figure.axes
    assert all("±" not in text for text in cell_texts(axes).values())
    assert marked(axes) == ([(1, 1)], [])
    assert "one seed" in caption_of(figure)
    assert "standard deviation" not in caption_of(figure)


def test_many_panels_are_those_with_the_best_means() -> None:
    levels = {"noise_injection": [0.0, 0.1, 0.2, 0.3, 0.5, 1.0], "reconstruction": [0.0, 0.1, 0.2, 0.5, 1.0, 2.0, 4.0]}
    results = made(levels, lambda case, *values: 0.1 * int(case[1]), cases=("c1", "c4", "c2", "c3"), seeds=1, steps=1)
    figure = figures.heatmaps(results, "gen2real_cnn")
    assert [axes.get_title("left") for axes in figure.axes] == ["c4", "c3"]
    assert "2 others are left out" in caption_of(figure)


def test_a_large_panel_fills_its_figure() -> None:
    levels = {"noise_injection": [n / 10 for n in range(10)], "reconstruction": [n / 5 for n in range(10)]}
    results = made(levels, lambda case, a, b, seed: a / 3 + b / 9, cases=("a", "b"), seeds=1, steps=1)
    figure = figures.heatmaps(results, "gen2real_cnn")
    figure.draw_without_rendering()
    (axes,) = figure.axes
    assert axes.get_position().height * figure.get_size_inches()[1] == pytest.approx(10 * 0.42, rel=0.05)
    assert figure.bbox.ymax - 0.2 * figure.dpi < axes.get_tightbbox().ymax <= figure.bbox.ymax


def test_response_curves_have_a_line_a_level_with_its_intervals(grid: Results) -> None:
    figure = figures.response_curves(grid, "gen2real_cnn")
    (axes,) = figure.axes
    assert legend_of(figure) == ["0", "0.5"]
    assert figure.legends[0].get_title().get_text() == "reconstruction"
    assert axes.get_xlabel() == "noise_injection"
    assert axes.get_ylabel() == "gen2real CNN (higher is better)"
    assert [line.get_ydata().round(3).tolist() for line in axes.lines] == [[0.704, 0.7, 0.4], [0.704, 0.73, 0.4]]
    assert np.allclose(axes.lines[0].get_xdata(), [0, 0.1, 1], atol=0.01)
    bar = axes.collections[0].get_segments()[0][:, 1]
    assert bar == pytest.approx([0.704 - 4.3027 * 0.004 / 3**0.5, 0.704 + 4.3027 * 0.004 / 3**0.5], abs=1e-5)
    looks = {(line.get_color(), line.get_marker()) for line in axes.lines}
    assert len(looks) == 2


@pytest.mark.parametrize(
    ("levels", "scale", "shown"),
    [
        ([0.2, 1.0, 10.0], "log", ["0.2", "1", "10"]),
        ([0.0, 0.5, 1.0], "linear", ["0", "0.5", "1"]),
        ([0.0, 0.01, 1.0], "even", ["0", "0.01", "1"]),
        (["constant", "falling", "learnt"], "even", ["constant", "falling", "learnt"]),
    ],
)
def test_an_axis_is_laid_out_as_its_values_ask(levels: list[Any], scale: str, shown: list[str]) -> None:
    results = made({"schedule": levels, "reconstruction": [0.0, 0.5]}, lambda *values: 0.5 + 0.1 * values[-1])
    (axes,) = figures.response_curves(results, "gen2real_cnn").axes
    assert axes.get_xscale() == ("log" if scale == "log" else "linear")
    assert [label.get_text() for label in axes.get_xticklabels()] == shown
    places = axes.get_xticks()
    assert np.allclose(places, range(3) if scale == "even" else levels)


def test_one_axis_has_a_line_a_case_and_cases_alone_are_listed() -> None:
    results = made(
        {"epsilon": [1.0, 10.0]},
        lambda case, epsilon, seed: 0.5 + len(case) / 100 + seed / 100,
        cases=("plain", "tuned"),
    )
    trials = results.trials
    some = replace(results, trials=trials[(trials["case"] == "tuned") | (trials["axis.epsilon"] == 1)])
    figure = figures.response_curves(some, "gen2real_cnn")
    assert legend_of(figure) == ["plain", "tuned"]
    assert [len(line.get_xdata()) for line in figure.axes[0].lines] == [1, 2]
    listed = figures.response_curves(made({}, lambda case, seed: len(case), cases=("four", "three")), "gen2real_cnn")
    assert [label.get_text() for label in listed.axes[0].get_yticklabels()] == ["three", "four"]
    assert listed.axes[0].lines[0].get_xdata().tolist() == [5, 4]


def test_settings_varied_one_at_a_time_are_listed_and_make_no_legend_of_single_points() -> None:
    levels = {"noise_injection": [0.0, 0.1, 1.0], "reconstruction": [0.0, 0.5, 1.0], "start": [0, 500]}
    results = made(levels, lambda case, noise, gamma, start, seed: 0.5 + noise / 10 + gamma / 20 + start / 1e4 + seed / 100)
    trials = results.trials
    varied = sum((trials[f"axis.{name}"] != 0).astype(int) for name in levels)
    figure = figures.response_curves(replace(results, trials=trials[varied <= 1]), "gen2real_cnn")
    (axes,) = figure.axes
    assert figure.legends == []
    assert len(axes.get_yticklabels()) == 6, "a row a cell"
    assert axes.get_yticklabels()[0].get_text().replace("\n", " ").startswith("noise_injection=1.0")
    assert axes.lines[0].get_xdata() == pytest.approx([0.61, 0.56, 0.56, 0.535, 0.52, 0.51])
    assert len(axes.collections[0].get_segments()) == 6
    assert axes.get_xlabel() == "gen2real CNN (higher is better)"


def test_effects_are_filled_where_a_test_says_so(grid: Results) -> None:
    frame = effects(grid, "gen2real_cnn")
    figure = figures.effects_plot(frame, ACCURACY)
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        "noise_injection=0.1 against 0",
        "noise_injection=1 against 0",
        "reconstruction=0.5 against 0",
    ]
    points = [line for line in axes.lines if len(line.get_xdata()) == 1]
    assert [line.get_xdata()[0] for line in points] == pytest.approx(frame["difference"].tolist())
    filled = [line.get_markerfacecolor() != plotting.PAPER for line in points]
    assert filled == (frame["p_holm"] < 0.05).tolist()
    assert {True, False} == set(filled)
    assert [text.split(":")[0] for text in legend_of(figure)] == list(dict.fromkeys(frame["kind"]))


def test_importance_shows_shares_in_percent(grid: Results) -> None:
    frame = importance(grid, "gen2real_cnn", resamples=50)
    axes = figures.importance_plot(frame).axes[0]
    assert axes.lines[0].get_xdata() == pytest.approx(100 * frame["share"])
    assert axes.get_yticklabels()[0].get_text() == "noise_injection"
    assert "(%)" in axes.get_xlabel()


def test_the_front_is_a_step_line_through_its_numbered_cells() -> None:
    gain = {1.0: 0.5, 3.0: 0.7, 10.0: 0.6}
    results = made(
        {"privacy.epsilon": [1.0, 3.0, 10.0]},
        lambda case, budget, seed: gain[budget] + 0.01 * seed + 0.05 * (case == "tuned"),
        cases=("plain", "tuned"),
        epsilon=lambda case, budget: 0.97 * budget,
    )
    figure = figures.pareto_plot(pareto(results, "gen2real_cnn"), ACCURACY)
    (axes,) = figure.axes
    assert axes.get_xscale() == "log"
    (front,) = [line for line in axes.lines if line.get_drawstyle() == "steps-post"]
    assert front.get_xdata()[:-1] == pytest.approx([0.97, 2.91])
    assert front.get_ydata() == pytest.approx([0.56, 0.76, 0.76])
    assert [text.get_text() for text in axes.texts] == ["1", "2"]
    assert "1: epsilon=1.0; 2: epsilon=3.0." in caption_of(figure)
    assert legend_of(figure) == ["plain", "tuned", "front"]


def test_trials_of_one_account_share_a_line() -> None:
    def spent(case: str, noise: float, budget: float) -> float:
        return budget * (0.97 + 0.001 * noise)  # calibrated a little apart: one account to the eye

    levels = {"noise_injection": [0.0, 1.0], "privacy.epsilon": [1.0, 10.0]}
    results = made(levels, lambda *_: 0.5, seeds=4, epsilon=spent)
    early = (results.history["trial_id"] == results.trials["trial_id"].iloc[0]) & (results.history["step"] > 100)
    results.history.drop(results.history.index[early], inplace=True)  # interrupted
    figure = figures.epsilon_against_step(results)
    (axes,) = figure.axes
    assert sorted(legend_of(figure)) == ["epsilon=1.0 (8 trials)", "epsilon=10.0 (8 trials)", "target"]
    curves = [line for line in axes.lines if len(line.get_xdata()) > 2]
    assert [line.get_xdata()[-1] for line in curves] == [200, 200]
    assert 10.0 in [line.get_ydata()[0] for line in axes.lines if line not in curves]
    assert axes.get_ylabel() == "epsilon (delta = 1e-05)"


def test_training_curves_show_the_best_cells_and_say_what_is_left_out() -> None:
    levels = {"noise_injection": [float(n) for n in range(5)], "reconstruction": [0.0, 1.0, 2.0]}
    results = made(levels, lambda case, noise, reconstruction, seed: 0.1 * noise + 0.01 * reconstruction, seeds=2)
    figure = figures.training_curves(results)
    (axes,) = figure.axes
    assert axes.get_ylabel() == "release norm"
    assert len(axes.lines) == figures.MAX_SERIES == 12
    assert legend_of(figure)[0] == "noise_injection=4.0 reconstruction=2.0"
    assert axes.lines[0].get_ydata()[0] == 100 + 29.5, "the mean over the two seeds of the last cell"
    assert "3 further cells are left out" in caption_of(figure)


def test_accuracies_a_class_are_means_over_seeds(grid: Results) -> None:
    (axes,) = figures.per_class_plot(grid).axes
    shown = cell_texts(axes)
    assert len(shown) == 6 * 10
    assert (shown[0, 0], shown[0, 9]) == ("0.05", "0.50")


def test_what_cannot_be_drawn_is_said_in_a_sentence(grid: Results) -> None:
    unproven = made(GRID, score, epsilon=lambda *_: np.nan)
    alone = made({}, lambda case, seed: 0.5)
    for draw, words in (
        (lambda: figures.heatmaps(alone, "gen2real_cnn"), "no two axes cross"),
        (lambda: figures.effects_plot(effects(alone, "gen2real_cnn"), ACCURACY), "no effects to draw"),
        (lambda: figures.pareto_plot(pareto(unproven, "gen2real_cnn"), ACCURACY), "no cell has both a proven epsilon"),
        (lambda: figures.epsilon_against_step(unproven), "no account to draw"),
    ):
        with pytest.raises(ResultsError, match=words):
            draw()


LONG = {"noise_injection_schedule": ["constant", "falling", "adaptive"], "reconstruction_start_of_the_ramp": [0, 500]}
SHAPES = {
    "one cell": made({}, lambda case, seed: 0.7 + seed / 100),
    "three cells": made({"reconstruction": [0.0, 0.5, 1.0]}, lambda case, value, seed: value / 2 + seed / 100),
    "seven cases": made({}, lambda case, seed: len(case) / 20, cases=[f"case_{'x' * n}" for n in range(7)]),
    "24 cells": made(
        {"noise_injection": [0, 0.1, 1], "reconstruction": [0, 0.5, 1, 2]},
        lambda case, a, b, s: a / 9 + b / 7 + s / 80,
        cases=("a", "b"),
    ),
    "48 cells": made(
        {"noise_injection": [0, 0.1, 1], "epsilon": [1, 10], "reconstruction": [0, 0.5, 1, 2]},
        lambda c, a, b, d, s: a / 9 + s / 80,
        cases=("a", "b"),
    ),
    "long labels": made(LONG, lambda case, a, b, s: len(a) / 20 + s / 90, cases=("error_feedback_dpgan_round_robin", "plain")),
    "one seed": made({"noise_injection": [0, 1]}, lambda case, a, s: a / 3, seeds=1),
    "wide": made(
        {"noise_injection": [n / 10 for n in range(14)], "reconstruction": [0, 1]},
        lambda case, a, b, s: a / 3 + s / 50,
        seeds=2,
    ),
}
PICTURES: dict[str, Callable[[Results], Figure]] = {
    "heatmaps": lambda results: figures.heatmaps(results, "gen2real_cnn"),
    "response_curves": lambda results: figures.response_curves(results, "gen2real_cnn"),
    "effects": lambda results: figures.effects_plot(effects(results, "gen2real_cnn"), ACCURACY),
    "importance": lambda results: figures.importance_plot(importance(results, "gen2real_cnn", resamples=20)),
    "pareto": lambda results: figures.pareto_plot(pareto(results, "gen2real_cnn"), ACCURACY),
    "per_class": figures.per_class_plot,
    "epsilon": figures.epsilon_against_step,
    "training": figures.training_curves,
}


def drawn(figure: Figure) -> list[Text]:
    """The texts that are seen: matplotlib keeps labels of ticks outside of an axis's view."""
    axes = [axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)]
    ticks = [(axis, tick) for axis in axes for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks())]
    unseen = {
        label
        for axis, tick in ticks
        for label in (tick.label1, tick.label2)
        if not min(axis.get_view_interval()) <= tick.get_loc() <= max(axis.get_view_interval())
    }
    return [text for text in figure.findobj(Text) if text.get_text() and text.get_visible() and text not in unseen]


NOT_THERE = {(shape, "heatmaps") for shape in ("one cell", "three cells", "seven cases", "one seed")} | {
    ("one cell", "effects")
}


@pytest.mark.parametrize(("shape", "picture"), [pair for pair in itertools.product(SHAPES, PICTURES) if pair not in NOT_THERE])
def test_nothing_is_cut_nor_written_over(shape: str, picture: str) -> None:
    """Every text is of 8 points or more, lies inside the figure, and lies on no other one."""
    figure = PICTURES[picture](SHAPES[shape])
    figure.draw_without_rendering()
    boxes = [(text.get_text(), text.get_window_extent()) for text in drawn(figure)]
    assert min(text.get_fontsize() for text in drawn(figure)) >= 8
    whole = figure.bbox.padded(1)
    outside = [label for label, box in boxes if (box.min < whole.min).any() or (box.max > whole.max).any()]
    assert outside == []
    pairs = itertools.combinations([(label, box.padded(-1)) for label, box in boxes], 2)
    assert [(one, other) for (one, first), (other, second) in pairs if first.overlaps(second)] == []


@pytest.mark.parametrize("picture", PICTURES)
def test_a_figure_in_a_page_is_whole_and_by_itself(picture: str) -> None:
    results = made(
        {"noise_injection": [0, 0.1], "reconstruction": [0.0, 2.0]},
        lambda case, a, b, s: 0.5 + a * b + s / 90,
        cases=("a<b>", "c&d"),
    )
    figure = PICTURES[picture](results)
    one = plotting.inline(figure, "one", 'Noise < 1 & "more"', "What is seen.")
    root, other = ElementTree.fromstring(one), ElementTree.fromstring(plotting.inline(figure, "other", "Again"))
    assert root.attrib["role"] == "img"
    assert root.find("{*}title").text == 'Noise < 1 & "more"'
    assert root.find("{*}desc").text == "What is seen."
    ids = [element.attrib["id"] for tree in (root, other) for element in tree.iter() if "id" in element.attrib]
    assert len(ids) == len(set(ids))
    assert set(root.attrib["aria-labelledby"].split()) <= set(ids)
    used = re.findall(r'href="([^"]*)"', one) + re.findall(r"url\(([^)]*)\)", one)
    assert used
    assert {reference[0] for reference in used} == {"#"}
    assert {reference[1:] for reference in used} <= set(ids)
    assert "<image" not in one
    assert "<style" not in one
    assert "var(--ink, #1a1a1a)" in one
    for colour in plotting.VARIABLES:
        assert not re.search(rf"(?<!, ){colour}", one), f"{colour} would be unseen on dark paper"
    words = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert any("a<b>" in word for word in words) or picture in ("effects", "importance", "epsilon")
    assert plotting.inline(PICTURES[picture](results), "one", 'Noise < 1 & "more"', "What is seen.") == one


def test_a_saved_figure_is_on_white_at_150_dots_an_inch(tmp_path: Path, grid: Results) -> None:
    figure = figures.response_curves(grid, "gen2real_cnn")
    png, svg = plotting.save(figure, tmp_path / "figures", "curves")
    picture = Image.open(png)
    assert picture.size == tuple(int(150 * inches) for inches in figure.get_size_inches())
    assert picture.convert("RGB").getpixel((0, 0)) == (255, 255, 255)
    assert picture.size[0] == 975
    root = ElementTree.parse(svg).getroot()
    assert root[0].tag.endswith("rect")
    assert root[0].attrib["fill"] == "#ffffff"
    assert "var(" not in svg.read_text()
    again = plotting.save(figures.response_curves(grid, "gen2real_cnn"), tmp_path / "again", "curves")
    assert [path.read_bytes() for path in again] == [png.read_bytes(), svg.read_bytes()]


def test_a_thousand_trials_stay_small() -> None:
    levels = {
        "noise_injection": [n / 7 for n in range(7)],
        "reconstruction": [n / 6 for n in range(6)],
        "epsilon": [1, 3, 10, 30],
    }
    results = made(
        levels,
        lambda case, a, b, e, s: a * b / 9 + e / 90 + s / 99,
        cases=("a", "b"),
        seeds=3,
        steps=30,
        epsilon=lambda case, a, b, e: e,
    )
    assert len(results.trials) == 1008
    for name in ("heatmaps", "response_curves", "pareto"):
        assert len(plotting.inline(PICTURES[name](results), name, name)) < 200_000, name


def test_a_sheet_has_a_column_a_method_and_real_images_first(small_sweep: Path, small_baselines: Path) -> None:
    both = load([small_sweep, small_baselines])
    sheet = sheets.sample_sheet(both)
    means = both.trials.groupby(["method", "case", "cell"], observed=True)["gen2real_cnn"].mean()
    best_cells = [cell for _, _, cell in means.groupby(["method", "case"], observed=True).idxmax()]
    assert len(best_cells) == 3
    for cell in best_cells:
        trial = both.trials[both.trials["cell"] == cell].sort_values("seed")["trial_id"].iloc[0]
        for png in both.samples([trial], per_class=sheets.PER_CLASS)["image"][:6]:
            assert found_in(sheet, png)
    assert found_in(sheet, both.real_samples(classes=[0])["image"][0])


def test_a_sheet_of_given_trials_shows_them_alone(small_sweep: Path) -> None:
    results = load(small_sweep)
    wanted, other = results.trials["trial_id"].iloc[[0, -1]]
    sheet = sheets.sample_sheet(results, [wanted])
    assert found_in(sheet, results.samples([wanted])["image"][0])
    assert not found_in(sheet, results.samples([other])["image"][0])
    with pytest.raises(ResultsError, match="no trial 0123456789ab"):
        sheets.sample_sheet(results, ["0123456789ab"])


def test_a_grid_sheet_shows_an_image_a_class_of_every_cell(small_sweep: Path) -> None:
    results = load(small_sweep)
    (grid,) = grids(results)
    sheet = sheets.grid_sheet(results, grid)
    lowest = results.trials.sort_values("seed").drop_duplicates("cell")
    for trial in lowest["trial_id"]:
        images = results.samples([trial])
        assert all(found_in(sheet, png) for png in images[images["index"] == 0]["image"])


def found_in(sheet: Image.Image, png: bytes) -> bool:
    """Whether the image is somewhere in the sheet, enlarged by a whole number."""
    image = np.asarray(Image.open(io.BytesIO(png)).convert("L"))
    pixels = np.asarray(sheet.convert("L"))
    for scale in range(1, 12):
        large = np.repeat(np.repeat(image, scale, 0), scale, 1)
        height, width = large.shape
        if height > pixels.shape[0] or width > pixels.shape[1]:
            break
        corners = np.argwhere(
            (pixels[: pixels.shape[0] - height + 1, : pixels.shape[1] - width + 1] == large[0, 0])
            & (pixels[height - 1 :, width - 1 :] == large[-1, -1])
            & (
                pixels[height // 2 : pixels.shape[0] - height + 1 + height // 2, : pixels.shape[1] - width + 1]
                == large[height // 2, 0]
            )
        )
        if any((pixels[y : y + height, x : x + width] == large).all() for y, x in corners):
            return True
    return False


def test_a_name_with_dollars_is_no_formula(tmp_path: Path) -> None:
    @plotting.styled
    def draw() -> Figure:
        figure = Figure()
        figure.text(0.5, 0.5, r"a $\frac$ b")
        return figure

    (_, drawn) = plotting.save(draw(), tmp_path, "dollars")
    assert r"a $\frac$ b" in drawn.read_text()
