"""What docs/feedback_toy.py derives is what runs of the package's own feedback do."""

import importlib.util
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "docs" / "feedback_toy.py"
spec = importlib.util.spec_from_file_location("feedback_toy", SCRIPT)
toy = importlib.util.module_from_spec(spec)
sys.modules["feedback_toy"] = toy
spec.loader.exec_module(toy)

SHORT = {"steps": 3000, "rate": 0.02}
CHANCE = 0.03  # what the coins of 1500 sampled steps leave of the far shards' share, times their distance


def distance(**settings):
    """From the optimum, at rest."""
    return toy.OPTIMUM - toy.Descent(**SHORT, **settings).rests_at()


def chance(settings):
    return 0.002 if settings.get("schedule") == "round_robin" else CHANCE


@pytest.mark.parametrize("name", toy.WITHOUT)
def test_forms_without_c2_rest_where_the_closed_form_says(name):
    settings, at = toy.WITHOUT[name]
    assert distance(**settings) == pytest.approx(toy.OPTIMUM - at, abs=chance(settings))


@pytest.mark.parametrize(("name", "least"), [("per_shard", 2.2), ("paper", 0.88), ("DiceSGD", 0.44)])
def test_a_c2_that_is_too_small_leaves_the_bias_that_the_closed_form_says(name, least):
    settings, half = toy.BUFFERS[name], least / 2
    assert toy.expected(name, half) == pytest.approx(toy.OPTIMUM - 0.275), "half of the C2, half of the bias"
    assert distance(**settings, feedback_clip=half) == pytest.approx(0.275, abs=chance(settings))
    assert distance(**settings, feedback_clip=1.3 * least) == pytest.approx(0, abs=chance(settings))


def test_one_public_memory_leaves_the_bias_of_shards_that_disagree():
    plain, public = (distance(form=form) for form in ("none", "public"))
    assert public == pytest.approx(plain, abs=0.005)
    assert public > 0.5


def test_one_public_memory_goes_sooner_where_all_shards_agree():
    steps = {name: toy.arrives(toy.Descent(**toy.TOGETHER, **settings).run()) for name, settings in toy.ARRIVALS.items()}
    assert steps["plain clipping"] == pytest.approx(toy.arrival_clipped(0.01), rel=0.01)
    assert steps["public, one memory"] == pytest.approx(toy.arrival_public(0.01, 0.1), rel=0.01)
    assert steps["public, one memory"] < steps["plain clipping"] / 2
    assert steps["per_shard, C2 = 1"] > steps["plain clipping"], "buffers that were filled on the way carry x past the target"


def test_a_public_memory_a_group_serves_groups_that_agree():
    """In fives: the far shards a group of their own, or one in each, where the clip inside the group biases as ever."""
    alone, mixed = (toy.FAR,) * 5 + (0.0,) * 20, toy.far_apart(25)
    settings = {**toy.EACH, "shards_per_step": 5}
    assert distance(**settings, targets=alone) < 0.002
    assert distance(**settings, targets=mixed) == pytest.approx(toy.OPTIMUM - toy.rest(toy.C1), abs=0.002)


def test_what_the_forms_cost_in_noise():
    noise = {}
    for name in ("plain clipping", "public, one memory", "round robin: plain, C1 = 3.2", "paper, C2 = 14.08"):
        descent, _ = toy.PRICED[name]
        noise[name] = descent.noise_std(descent.noise_multiplier())
    per_shard, _ = toy.PRICED["round robin: per_shard, C2 = 2.2"]
    assert noise["public, one memory"] == noise["plain clipping"]
    assert per_shard.noise_std(per_shard.noise_multiplier()) == pytest.approx(noise["round robin: plain, C1 = 3.2"])
    assert noise["round robin: plain, C1 = 3.2"] > 10 * noise["plain clipping"]
    assert noise["paper, C2 = 14.08"] > 100 * noise["plain clipping"]
