import math

import pytest

from trainables.privacy.mechanism import Phase, RecordMechanism, ShardMechanism, from_dict, scale_noise, to_dict, with_steps


def test_effective_noise_of_shards_counts_rows_and_releases(shards):
    mechanism = shards(1000, 20000, 1.07, release_shape=(32, 1, 28, 28), releases_per_step=2).mechanism
    assert mechanism.effective_noise_multiplier == pytest.approx(1.07 / math.sqrt(64))


@pytest.mark.parametrize(
    ("fields", "presence", "sensitivity"),
    [
        ({}, 1, 2),
        ({"neighbours": "add_remove"}, 1, 1),
        ({"clipping": "whole_tensor"}, 2, 2),
        ({"clipping": "whole_tensor", "neighbours": "add_remove"}, 2, 2),
    ],
)
def test_distances_of_record_mechanisms(records, fields, presence, sensitivity):
    mechanism = records(0.05, 1, 3.0, releases_per_step=4, **fields).mechanism
    assert (mechanism.presence_distance, mechanism.sensitivity) == (presence, sensitivity)
    assert mechanism.effective_noise_multiplier == pytest.approx(3.0 / (2 * sensitivity))


@pytest.mark.parametrize(
    ("count", "per_step", "steps"), [(10, 1, 10), (10, 1, 11), (10, 3, 7), (7, 7, 5), (1000, 1, 20000), (2543, 1, 20000)]
)
def test_visits_are_those_of_the_most_visited_shard(shards, count, per_step, steps):
    mechanism = shards(count, steps, 1.0, shards_per_step=per_step, schedule="round_robin").mechanism
    visited = [0] * count
    for turn in range(steps * per_step):
        visited[turn % count] += 1
    assert mechanism.visits(steps) == max(visited)


def test_phases_survive_json(records, shards):
    import json

    phases = [
        records(0.05, 200, 1.1, neighbours="add_remove", clipping="whole_tensor", releases_per_step=3),
        shards(1000, 20000, 1.07, schedule="round_robin", shards_per_step=32),
        shards(1000, 20000, 1.07, carried=0.5),
    ]
    assert [from_dict(json.loads(json.dumps(to_dict(phase)))) for phase in phases] == phases


def test_documents_without_a_shared_buffer_are_read(shards):
    phase = shards(1000, 20000, 1.07)
    document = to_dict(phase)
    del document["carried"]
    assert from_dict(document) == phase


def test_a_shared_buffer_has_a_kind_of_its_own(shards):
    for schedule in ("sampled", "persistent"):
        assert shards(10, 1, 1.0, schedule=schedule).mechanism.kind == f"{schedule}_shards"
        assert shards(10, 1, 1.0, schedule=schedule, carried=0.5).mechanism.kind == "shared_buffer_shards"


def test_scaling_and_steps(records):
    phases = (records(0.05, 200, 2.0), records(0.1, 400, 3.0))
    assert [phase.mechanism.noise_multiplier for phase in scale_noise(phases, 0.5)] == [1.0, 1.5]
    assert with_steps(phases, [0, 7]) == (records(0.1, 7, 3.0),)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"sampling_rate": 0.0}, "sampling_rate is 0.0"),
        ({"sampling_rate": 1.5}, "sampling_rate is 1.5"),
        ({"sampling_rate": math.nan}, "sampling_rate is nan"),
        ({"records": 0}, "records is 0"),
        ({"records": 10.0}, "records is 10.0"),
        ({"noise_multiplier": -1.0}, "noise_multiplier is -1.0"),
        ({"noise_multiplier": math.nan}, "noise_multiplier is nan"),
        ({"noise_multiplier": math.inf}, "noise_multiplier is inf"),
        ({"release_shape": ()}, "release_shape is"),
        ({"release_shape": (3, 0)}, "release_shape is"),
        ({"releases_per_step": 0}, "releases_per_step is 0"),
        ({"neighbours": "zero_out"}, "neighbours is 'zero_out'"),
        ({"clipping": "none"}, "clipping is 'none'"),
    ],
)
def test_impossible_record_mechanisms(fields, message):
    valid = {"sampling_rate": 0.1, "records": 10, "release_shape": (2,), "noise_multiplier": 1.0}
    with pytest.raises(ValueError, match=message):
        RecordMechanism(**{**valid, **fields})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"schedule": "random"}, "schedule is 'random'"),
        ({"shards": 0}, "shards is 0"),
        ({"shards": 10.0}, "shards is 10.0"),
        ({"shards_per_step": 0}, "shards_per_step is 0"),
        ({"shards_per_step": 11}, "expected 1 to shards = 10"),
        ({"neighbours": "add_remove"}, "write neighbours: replace_one"),
        ({"carried": -0.1}, "carried is -0.1"),
        ({"carried": 1.0}, "carried is 1.0; expected a share of at least 0 and below 1"),
        ({"carried": math.nan}, "carried is nan"),
        ({"carried": 0.5, "schedule": "round_robin"}, "write schedule: sampled"),
    ],
)
def test_impossible_shard_mechanisms(fields, message):
    valid = {"schedule": "sampled", "shards": 10, "shards_per_step": 1, "release_shape": (2,), "noise_multiplier": 1.0}
    with pytest.raises(ValueError, match=message):
        ShardMechanism(**{**valid, **fields})


def test_a_phase_has_steps(records):
    with pytest.raises(ValueError, match="steps is 0"):
        Phase(mechanism=records(0.1, 1, 1.0).mechanism, steps=0)
