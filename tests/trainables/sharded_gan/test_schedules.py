"""What shards keep, and that a stopped trial goes on as if it had not been stopped."""

import pytest
import torch
from engine_runs import PUBLISHED_NETWORKS, SIGNALS, Forced, Recorder, compute_stages, equal, random_data, settings, start

from trainables.sharded_gan.training import load_sampler

SCHEDULES = ["sampled", "round_robin", "persistent"]
STEPS = 6


def tensors_in(tree) -> list[torch.Tensor]:
    if isinstance(tree, torch.Tensor):
        return [tree]
    children = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, (list, tuple)) else []
    return [tensor for child in children for tensor in tensors_in(child)]


@pytest.fixture
def data():
    return random_data()


def test_round_robin_visits_every_shard_in_turn(tmp_path, data):
    config = settings({"schedule": "round_robin"})
    run = start(config, data, compute_stages("gs_wgan", config, data, tmp_path), sanitizer=Recorder)
    run.advance(0, 4)
    assert [shards.tolist() for shards in run.sanitizer.drawn] == [[0, 1], [2, 3], [4, 5], [0, 1]]


@pytest.mark.parametrize("schedule", ["round_robin", "persistent"])
def test_a_shard_goes_on_with_its_own_critic_and_adam(tmp_path, data, schedule):
    """The second visit equals one update of twice the length, and differs from what a fresh clone answers."""
    draws = [[0, 1], [2, 3], [0, 4]]
    config = settings({"schedule": schedule})
    stages = compute_stages("gs_wgan", config, data, tmp_path)
    run = start(config, data, stages, sanitizer=Forced, draws=draws)
    run.advance(0, 2)
    kept = run.trainer.state_dict()["signals"]["critic"]["kept"]
    assert set(kept) == {0, 1, 2, 3}
    run.advance(2, 3)
    again = run.trainer.state_dict()["signals"]["critic"]["kept"]
    assert set(again) == {0, 1, 2, 3, 4}
    updates = {shard: {float(moments["step"]) for moments in left["adam"]["state"].values()} for shard, left in again.items()}
    assert updates == {0: {4.0}, 1: {2.0}, 2: {2.0}, 3: {2.0}, 4: {2.0}}
    assert all(equal(kept[shard]["critic"], again[shard]["critic"]) for shard in (1, 2, 3))
    assert not equal(kept[0]["critic"], again[0]["critic"])

    fresh = start(settings(), data, stages, sanitizer=Forced, draws=draws)
    fresh.advance(0, 3)
    # The same to rounding, since critics that keep something are not stacked.
    torch.testing.assert_close(fresh.sanitizer.answers[2][1], run.sanitizer.answers[2][1], rtol=1e-3, atol=1e-5)
    difference = (fresh.sanitizer.answers[2][0] - run.sanitizer.answers[2][0]).norm()
    assert difference > 0.01 * fresh.sanitizer.answers[2][0].norm()


@pytest.mark.parametrize(
    ("signal", "changes"),
    [
        *(("critic and reconstruction", {"schedule": schedule}) for schedule in SCHEDULES),
        ("energy", {}),
        ("critic", {}),
        ("critic", {**PUBLISHED_NETWORKS, "shards_per_step": 1}),
        ("critic with shared fakes", PUBLISHED_NETWORKS),
        ("critic and classifier", {"labels": "fixed", "feedback": "paper", "release": "per_signal"}),
        ("energy", {"labels": "fixed", "feedback": "public"}),
        ("energy", {"labels": "fixed", "feedback": "per_shard", "schedule": "round_robin"}),
        ("energy", {"noise_injection_schedule": "adaptive", "noise_injection_start": 1}),
    ],
    ids=str,
)
def test_a_resumed_trainer_goes_on_to_the_bit(tmp_path, signal, changes):
    data = random_data(shape=(1, 28, 28) if "generator" in changes else (1, 8, 8))
    config = settings(SIGNALS[signal], changes, {"noise_injection": 0.2, "learning_rate_schedule": "cosine"})
    stages = compute_stages("ef_dpgan", config, data, tmp_path / "stages")
    whole = start(config, data, stages, method="ef_dpgan")
    diagnostics = whole.advance(0, STEPS)
    for stop in (1, 4):
        torch.manual_seed(stop)  # the global generator is nobody's business
        first = start(config, data, stages, method="ef_dpgan")
        first.advance(0, stop)
        state = first.trainer.state_dict()
        assert first.advance(stop, STEPS) == diagnostics[stop:], "a state is a copy: going on does not change it"
        torch.save(state, tmp_path / "state.pt")
        second = start(config, data, stages, method="ef_dpgan")
        second.trainer.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
        assert second.advance(stop, STEPS) == diagnostics[stop:]
        assert equal(second.trainer.released(), whole.trainer.released())


@pytest.mark.parametrize("signal", SIGNALS)
def test_a_sampled_checkpoint_holds_nothing_of_the_shards(tmp_path, data, signal):
    config = settings(SIGNALS[signal])
    run = start(config, data, compute_stages("gs_wgan", config, data, tmp_path))
    run.advance(0, 3)
    state = run.trainer.state_dict()
    assert set(state) == {"step", "generator", "ema", "optimizer", "signals", "feedback"}
    assert tensors_in([state["signals"], state["feedback"]]) == []


@pytest.mark.parametrize("generator", ["small", "dcgan", "resnet"])
def test_the_kept_tensors_sample_as_the_trainer_does(tmp_path, generator):
    data = random_data(shape=(3, 32, 32))
    config = settings({"generator": generator, "critic": {"kind": "energy"}, "noise_injection": 0.2})
    run = start(config, data, {})
    run.advance(0, 2)
    labels = torch.arange(7) % 2
    expected = run.trainer.sample(labels, torch.Generator().manual_seed(3))
    sampler = load_sampler(run.trainer._config, data.info, run.trainer.released(), torch.device("cpu"))
    assert torch.equal(sampler(labels, torch.Generator().manual_seed(3)), expected)
    assert expected.shape == (7, 3, 32, 32)


@pytest.mark.parametrize("generator", ["small", "dcgan", "resnet"])
def test_injected_noise_moves_no_other_stream(generator):
    """Shards are asked about the same latents, labels and records with and without it; none at all is sigma 0."""
    data = random_data(shape=(1, 28, 28))
    runs = {}
    for noise in (0.0, 1e-6, 0.5):
        config = settings({"generator": generator, "critic": {"kind": "energy"}, "noise_injection": noise})
        runs[noise] = start(config, data, {}, sanitizer=Recorder)
        runs[noise].advance(0, 1)
    drawn = [run.sanitizer.drawn[0].tolist() for run in runs.values()]
    assert drawn[0] == drawn[1] == drawn[2]
    none, faint, strong = (run.sanitizer.answers[0] for run in runs.values())
    torch.testing.assert_close(faint, none, rtol=1e-2, atol=1e-4)
    assert not torch.equal(faint, none)
    assert (strong - none).abs().max() > 1e-3

    labels, coins = torch.arange(4) % 2, torch.Generator().manual_seed(3)
    images = runs[0.0].trainer.sample(labels, coins)
    latents_only = torch.Generator().manual_seed(3)
    runs[0.0].trainer._network.average.draw_z(4, latents_only)
    assert torch.equal(coins.get_state(), latents_only.get_state()), "sigma 0 reads no coins for noise"
    assert not torch.equal(images, runs[0.5].trainer.sample(labels, torch.Generator().manual_seed(3)))
