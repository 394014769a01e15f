"""What the methods of the engine declare: mechanism, stages, refusals, and the budget of the published settings."""

import subprocess
import sys

import pytest

from trainables.base import DataInfo
from trainables.dpac import method as dpac
from trainables.ef_dpgan import method as ef_dpgan
from trainables.gs_wgan import method as gs_wgan
from trainables.privacy import accounting
from trainables.privacy.mechanism import scale_noise

GRAY = DataInfo(size=60000, channels=1, height=28, width=28, classes=10)
FACES = DataInfo(size=162770, channels=3, height=32, width=32, classes=2)
BOTH = [gs_wgan, ef_dpgan]
PER_SHARD = {"feedback": "per_shard", "labels": "fixed", "schedule": "round_robin"}


def declared(package, info=GRAY, **settings):
    (phase,) = package.mechanism(package.Config(**settings), info, "replace_one")
    return phase


def test_the_published_settings_cost_more_than_the_published_epsilon():
    phases = scale_noise([declared(gs_wgan, shards=1000, steps=20000, generator_batch=32)], 1.07)
    assert 343 <= accounting.epsilon(phases, delta=1e-5, accountant="pld") <= 351
    assert accounting.published_epsilon(phases, delta=1e-5) == pytest.approx(9.9926, abs=1e-4)


def test_defaults_are_the_published_ones():
    phase = declared(gs_wgan)
    assert (phase.steps, phase.mechanism.shards, phase.mechanism.shards_per_step) == (20000, 1000, 1)
    assert phase.mechanism.release_shape == (32, 1, 28, 28)
    config = gs_wgan.Config()
    critic, pretraining = config.critic, config.critic.pretraining
    assert (config.generator, config.generator_channels) == ("resnet", 256)
    assert (config.z_dim, config.z_distribution) == (10, "bernoulli")
    assert (config.max_grad_norm, config.learning_rate, config.ema) == (1.0, 1e-4, 0.999)
    assert (config.noise_injection, config.reconstruction) == (0, 0)
    assert (critic.channels, critic.steps, critic.batch, critic.gradient_penalty, critic.drift) == (64, 5, 32, 10, 1e-3)
    assert (pretraining.steps, pretraining.critic_steps, pretraining.generator) == (2000, 5, "same")
    assert (ef_dpgan.Config().noise_injection, ef_dpgan.Config().reconstruction) == (0.1, 1.0)


@pytest.mark.parametrize("package", BOTH)
@pytest.mark.parametrize("schedule", ["sampled", "round_robin", "persistent"])
def test_a_phase_says_what_a_step_releases(package, schedule):
    phase = declared(package, FACES, schedule=schedule, shards=500, shards_per_step=20, generator_batch=12, steps=7)
    assert phase.mechanism.kind == f"{schedule}_shards"
    assert phase.mechanism.sampling_rate == 0.04
    assert phase.mechanism.release_shape == (12, 3, 32, 32)
    assert (phase.steps, phase.mechanism.releases_per_step, phase.mechanism.noise_multiplier) == (7, 1, 1.0)
    assert phase.mechanism.effective_noise_multiplier == pytest.approx(12**-0.5)


@pytest.mark.parametrize(
    ("settings", "releases"),
    [
        ({"reconstruction": 1.0}, 2),
        ({"reconstruction": 1.0, "critic": {"kind": "energy"}}, 2),
        ({"reconstruction": 0.0}, 1),
        ({"reconstruction": 1.0, "critic": {"weight": 0}}, 1),
    ],
)
def test_signals_that_are_released_one_by_one_are_counted_one_by_one(settings, releases):
    phase = declared(ef_dpgan, release="per_signal", **settings)
    assert phase.mechanism.releases_per_step == releases
    assert declared(ef_dpgan, **settings).mechanism.releases_per_step == 1
    assert phase.mechanism.effective_noise_multiplier == pytest.approx((32 * releases) ** -0.5)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [(6000, 1), (14000, 2)]),
        ({"release": "summed"}, [(20000, 1)]),
        ({"classifier": {"start": 0}}, [(20000, 2)]),
        ({"classifier": {"weight": 0, "start": 5}}, [(20000, 1)]),
        ({"reconstruction": 1, "reconstruction_start": 8000}, [(6000, 1), (2000, 2), (12000, 3)]),
        ({"reconstruction": 1, "reconstruction_start": 6000}, [(6000, 1), (14000, 3)]),
        ({"reconstruction": 0, "reconstruction_start": 8000}, [(6000, 1), (14000, 2)]),
    ],
)
def test_a_phase_begins_where_a_release_does(settings, expected):
    preset = {**dpac.PRESETS["published"], **settings}
    preset["classifier"] = {**dpac.PRESETS["published"]["classifier"], **settings.get("classifier", {})}
    phases = dpac.mechanism(dpac.Config(**preset), GRAY, "replace_one")
    assert [(phase.steps, phase.mechanism.releases_per_step) for phase in phases] == expected
    assert all(phase.mechanism.noise_multiplier == 1.0 for phase in phases)


@pytest.mark.parametrize(
    ("settings", "carried"),
    [
        ({"feedback": "none"}, 0),
        ({"feedback": "public"}, 0),
        ({"feedback": "per_shard", "schedule": "round_robin", "shards": 10}, 0),
        ({"feedback": "paper", "feedback_clip": 0.25}, 0.2),
        ({"feedback": "paper", "feedback_clip": 0.25, "max_grad_norm": 0.25, "schedule": "persistent"}, 0.5),
    ],
)
def test_a_shared_buffer_is_declared(settings, carried):
    assert declared(gs_wgan, labels="fixed", **settings).mechanism.carried == pytest.approx(carried)


def test_the_papers_form_costs_what_it_costs():
    """Its printed noise claims 10 and is proven for a hundred thousand times as much, draws revealed."""
    (phase,) = ef_dpgan.mechanism(ef_dpgan.Config(**ef_dpgan.PRESETS["published"]), GRAY, "replace_one")
    assert (phase.mechanism.releases_per_step, phase.mechanism.carried) == (3, 0.5)
    factor = accounting.published_factor([phase], target_epsilon=10.0, delta=1e-5)
    phases = scale_noise([phase], factor)
    assert accounting.published_epsilon(phases, delta=1e-5) <= 10
    assert accounting.epsilon(phases, delta=1e-5, accountant="pld") > 1e5
    assert accounting.proof(phases, "pld") == "shared_buffer_revealed"


@pytest.mark.parametrize("package", BOTH)
@pytest.mark.parametrize(
    ("settings", "info", "words"),
    [
        ({"shards": 60001}, GRAY, "shards is 60001, but there are 60000 training records; write at most 60000"),
        ({"shards": 10, "shards_per_step": 11}, GRAY, "shards_per_step is 11; expected 1 to shards = 10"),
        ({"critic": {"weight": 0}, "reconstruction": 0}, GRAY, "critic.weight, classifier.weight and reconstruction are all 0"),
        ({"labels": "balanced"}, GRAY, "generator_batch is 32; .* the 10 classes, such as 30"),
        ({"labels": "balanced", "generator_batch": 4}, GRAY, "such as 10"),
        ({"schedule": "persistent", "critic": {"kind": "energy"}}, GRAY, "write schedule: sampled"),
        ({"schedule": "persistent", "critic": {"weight": 0}, "reconstruction": 1}, GRAY, "write schedule: sampled"),
        ({"feedback": "public"}, GRAY, "buffers belong to images of a fixed label.*write labels: fixed"),
        ({"feedback": "paper", "labels": "fixed", "schedule": "round_robin"}, GRAY, "write feedback: per_shard"),
        ({"feedback": "per_shard", "labels": "fixed"}, GRAY, "schedule is sampled; write schedule: round_robin"),
        ({**PER_SHARD, "steps": 1000}, GRAY, "1000 steps of 1 shards visit each of 1000 only once"),
        ({**PER_SHARD, "feedback": "public", "shards_per_step": 7}, GRAY, "every 7 shards .*; write shards: 994"),
        ({"noise_injection": 1, "noise_injection_start": 20000}, GRAY, "start is 20000, .* 20000 steps; write at most 19999"),
        ({"reconstruction": 1, "reconstruction_start": 9, "critic": {"weight": 0}}, GRAY, "only reconstruction would answer"),
        ({"classifier": {"weight": 1, "start": 20001}}, GRAY, "classifier.start is 20001"),
        ({"classifier": {"weight": 1}}, DataInfo(size=5000, channels=1, height=28, width=28, classes=1), "have one class"),
        ({"noise_injection": 1, "noise_injection_schedule": "adaptive"}, GRAY, "less than 1, such as 0.1"),
        ({"noise_injection_schedule": "learnt", "noise_injection_start": 3}, GRAY, "there from the start: write 0"),
        ({}, DataInfo(size=5000, channels=1, height=8, width=8, classes=10), "images are 8x8; .* write generator: small"),
        ({"generator": "dcgan"}, DataInfo(size=5000, channels=3, height=32, width=28, classes=2), "images are 32x28"),
        ({"generator": "dcgan"}, DataInfo(size=5000, channels=3, height=64, width=64, classes=2), "makes 28x28 and 32x32"),
        ({"generator": "small"}, DataInfo(size=5000, channels=1, height=30, width=28, classes=2), "divisible by 4"),
    ],
)
def test_settings_that_cannot_work_are_refused_with_a_reason(package, settings, info, words):
    with pytest.raises(ValueError, match=words):
        declared(package, info, **settings)


@pytest.mark.parametrize("package", BOTH)
def test_neighbours_that_come_or_go_are_refused(package):
    with pytest.raises(ValueError, match="write neighbours: replace_one"):
        package.mechanism(package.Config(), GRAY, "add_remove")


@pytest.mark.parametrize("package", [*BOTH, dpac])
def test_presets_are_settings(package):
    for preset in package.PRESETS.values():
        for info in (GRAY, FACES):
            config = package.Config(**preset)
            assert package.mechanism(config, info, "replace_one")
            package.stages(config, info)


def test_the_plan_imports_no_torch():
    """Also where it computes stages and mechanisms."""
    script = """
import sys
from trainables.base import DataInfo
from trainables.ef_dpgan import method
info = DataInfo(size=60000, channels=1, height=28, width=28, classes=10)
config = method.Config(matching="latent")
assert method.stages(config, info) and method.mechanism(config, info, "replace_one")
print(sorted({"torch", "ray", "dp_accounting"} & set(sys.modules)))
"""
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.strip() == "[]"


# --- stages ---------------------------------------------------------------------------------------------------------------

TRAINED = {"shards": 130, "reconstruction": 1.0, "matching": "latent", "critic": {"pretraining": {"shards_per_job": 50}}}


def named(info=GRAY, **settings):
    """name -> settings of all stages."""
    return {stage.name: dict(stage.config) for stage in ef_dpgan.stages(ef_dpgan.Config(**(TRAINED | settings)), info)}


def critic(**changes):
    return {"critic": {"pretraining": {"shards_per_job": 50}, **changes}}


def pretraining(**changes):
    return {"critic": {"pretraining": {"shards_per_job": 50, **changes}}}


def test_stages_are_chunks_that_cover_every_shard_once():
    found = named(encoder={"shards_per_job": 100})
    assert list(found) == ["critics-000000", "critics-000050", "critics-000100", "encoders-000000", "encoders-000100"]
    for kind in ("critics", "encoders"):
        chunks = [config for name, config in found.items() if name.startswith(kind)]
        covered = [shard for config in chunks for shard in range(config["first"], config["first"] + config["count"])]
        assert covered == list(range(130))


@pytest.mark.parametrize(
    ("settings", "kinds"),
    [
        ({}, {"critics", "encoders"}),
        ({"matching": "pixels"}, {"critics"}),
        ({"matching": "random"}, {"critics"}),
        ({"reconstruction": 0}, {"critics"}),
        ({"critic": {"kind": "energy"}}, {"encoders"}),
        ({"critic": {"weight": 0}}, {"encoders"}),
        ({"critic": {"kind": "energy"}, "matching": "pixels"}, set()),
    ],
)
def test_only_what_answers_is_pretrained(settings, kinds):
    assert {name.partition("-")[0] for name in named(**settings)} == kinds


@pytest.mark.parametrize(
    "settings",
    [
        {"noise_injection": 0.7},
        {"reconstruction": 2.0},
        {"reconstruction_clip": 1.0},
        {"steps": 3},
        {"shards_per_step": 9},
        {"generator_batch": 64},
        {"max_grad_norm": 3.0},
        {"schedule": "round_robin"},
        {"release": "per_signal"},
        {"learning_rate": 1e-3},
        {"ema": 0.5},
        {"labels": "balanced", "generator_batch": 20},
        critic(weight=2.0),
        critic(steps=1),
        critic(learning_rate=1e-2),
        critic(fakes="shared"),
    ],
    ids=str,
)
def test_trials_that_differ_in_what_comes_after_share_stages(settings):
    assert named(**settings) == named()


@pytest.mark.parametrize(
    ("settings", "kinds"),
    [
        ({"partition_seed": 1}, ["critics", "encoders"]),
        ({"shards": 131}, ["critics", "encoders"]),
        ({"generator": "dcgan"}, ["critics"]),
        ({"generator_channels": 16}, ["critics"]),
        ({"z_dim": 5}, ["critics"]),
        ({"z_distribution": "normal"}, ["critics"]),
        (critic(channels=32), ["critics"]),
        (critic(batch=16), ["critics"]),
        (critic(gradient_penalty=1.0), ["critics"]),
        (critic(drift=0.0), ["critics"]),
        (pretraining(steps=1), ["critics"]),
        (pretraining(critic_steps=1), ["critics"]),
        (pretraining(generator="small"), ["critics"]),
        (pretraining(learning_rate=1.0), ["critics"]),
        ({"encoder": {"channels": 3}}, ["encoders"]),
        ({"encoder": {"latent": 3}}, ["encoders"]),
        ({"encoder": {"steps": 3}}, ["encoders"]),
        ({"encoder": {"batch": 3}}, ["encoders"]),
        ({"encoder": {"learning_rate": 1.0}}, ["encoders"]),
    ],
    ids=str,
)
def test_trials_that_differ_in_what_comes_before_do_not(settings, kinds):
    before, after = named(), named(**settings)
    changed = {name.partition("-")[0] for name in before if after[name] != before[name]}
    assert sorted(changed) == kinds


def test_a_small_generator_is_all_that_its_critics_depend_on():
    small = pretraining(generator="small")
    assert named(**small) == named(**small, generator="dcgan", generator_channels=7, z_distribution="normal")
    assert named(**small) != named(**pretraining(generator="small", hidden=3))
    assert named(**pretraining(hidden=3)) == named(), "hidden is the small generator's width"


@pytest.mark.parametrize("package", BOTH)
@pytest.mark.parametrize(
    ("base", "unread"),
    [
        ({"reconstruction": 0}, {"matching": "latent", "reconstruction_clip": 3.0, "encoder": {"steps": 1}}),
        ({"reconstruction": 1, "matching": "random"}, {"encoder": {"latent": 3}}),
        ({"critic": {"kind": "energy"}}, {"critic": {"kind": "energy", "steps": 1, "pretraining": {"steps": 7}}}),
        ({"critic": {"weight": 0}, "reconstruction": 1}, {"critic": {"weight": 0, "kind": "energy"}}),
        ({"critic": {}}, {"critic": {"pretraining": {"hidden": 3}}}),
        ({"reconstruction": 0}, {"release": "per_signal"}),
        ({"reconstruction": 0}, {"reconstruction_start": 3, "reconstruction_schedule": "falling"}),
        ({"noise_injection": 0}, {"noise_injection_start": 3, "noise_injection_schedule": "adaptive"}),
        ({"classifier": {"weight": 0}}, {"classifier": {"weight": 0, "channels": 3, "start": 4}}),
        ({"feedback": "none"}, {"feedback_clip": 3.0, "feedback_rate": 0.5}),
        ({"feedback": "public"}, {"feedback": "public", "feedback_clip": 3.0}),
        ({"feedback": "paper"}, {"feedback": "paper", "feedback_rate": 0.5}),
        ({"critic": {"kind": "energy"}}, {"critic": {"kind": "energy", "filters": 3}}),
        ({"critic": {}}, {"critic": {"features": "random_convolutions", "repulsion": 0.5, "repulsion_schedule": "rising"}}),
    ],
)
def test_settings_that_nothing_reads_make_no_other_trial(package, base, unread):
    assert package.Config.model_validate({**base, **unread}) == package.Config.model_validate(base)


@pytest.mark.parametrize(
    "read",
    [
        {"matching": "random"},
        {"reconstruction_clip": 3.0},
        {"release": "per_signal"},
        {"matching": "latent", "encoder": {"latent": 3}},
        {"feedback": "paper", "feedback_clip": 3.0},
        {"feedback": "per_shard", "feedback_clip": 3.0},
        {"feedback": "public", "feedback_rate": 0.5},
        {"noise_injection_schedule": "adaptive", "noise_injection_start": 3},
        {"reconstruction_schedule": "falling", "reconstruction_start": 3},
        {"classifier": {"weight": 1.0, "start": 4}},
        {"critic": {"kind": "energy", "features": "random_convolutions", "filters": 3}},
        {"critic": {"kind": "energy", "repulsion": 0.5}},
        {"critic": {"kind": "energy", "repulsion_schedule": "rising"}},
        {"critic": {"pretraining": {"generator": "small", "hidden": 3}}},
    ],
)
def test_settings_that_are_read_are_kept(read):
    assert part_of(ef_dpgan.Config.model_validate(read).model_dump(), read) == read
    assert part_of(ef_dpgan.Config().model_dump(), read) != read


def part_of(whole, part):
    """``whole`` cut down to the keys of ``part``, at every depth."""
    return {name: part_of(whole[name], value) for name, value in part.items()} if isinstance(part, dict) else whole
