"""Critics and encoders of shards: each a function of its own records, found again wherever it lies, read without its file."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from engine_runs import CPU, compute_stages, equal, random_data, settings, with_record

from trainables import registry
from trainables.data.shards import partition
from trainables.networks.critic import Critics
from trainables.sharded_gan import pretraining as pretraining_stages
from trainables.sharded_gan.states import ShardStates, save_states

LATENT = {"reconstruction": 1.0, "matching": "latent"}
SHARDS, SHARD = 6, 3
RECORD = int(partition(60, SHARDS, seed=0)[SHARD][5])


def pretraining(**changes):
    """``TINY`` with encoders and changes of the critics' pretraining."""
    critic = settings()["critic"]
    return settings(LATENT, {"critic": {**critic, "pretraining": {**critic["pretraining"], **changes}}})


def networks(config, data, root) -> dict[str, ShardStates]:
    stages = compute_stages("ef_dpgan", config, data, root)
    return {kind: ShardStates(stages, kind) for kind in ("critics", "encoders")}


@pytest.mark.parametrize("generator", ["small", "dcgan", "resnet"])
@pytest.mark.parametrize("value", [0, 255, None])
def test_a_replaced_record_changes_its_own_shards_networks_and_no_others(tmp_path, generator, value):
    if generator == "small":
        config, data = pretraining(), random_data()
    else:
        config, data = pretraining(generator="same") | {"generator": generator}, random_data(shape=(1, 28, 28))
    label = int(data.labels[RECORD])
    image = data.images[RECORD][..., ::-1] if value is None else np.full_like(data.images[RECORD], value)
    before = networks(config, data, tmp_path / "before")
    after = networks(config, with_record(data, RECORD, image, 1 - label), tmp_path / "after")
    for kind, states in before.items():
        for shard in range(SHARDS):
            assert equal(states.read([shard]), after[kind].read([shard])) is (shard != SHARD), (kind, shard)


@pytest.mark.parametrize("generator", ["small", "same"])
def test_a_shards_networks_do_not_depend_on_the_job_that_trained_them(tmp_path, generator):
    """But for rounding: another place or another size of the stack adds in another order."""
    data, config = random_data(), pretraining(generator=generator)
    package = registry.method("ef_dpgan")
    for stage in (stage for stage in package.stages(package.Config(**config), data.info) if stage.config["first"] == 0):
        kind, found = stage.name.partition("-")[0], {}
        for first, count in ((0, 6), (0, 4), (1, 4), (2, 4), (3, 3), (3, 1)):
            folder = tmp_path / f"{first}-{count}" / f"{kind}-{first}"
            folder.mkdir(parents=True)
            compute = getattr(pretraining_stages, kind)
            compute({**stage.config, "first": first, "count": count}, data, data, folder, CPU)
            found[first, count] = ShardStates({folder.name: folder}, kind).read([3])
        for other in found.values():
            for name, tensor in found[0, 6].items():
                torch.testing.assert_close(other[name], tensor, rtol=1e-4, atol=1e-5)


def test_pretraining_trains(tmp_path):
    """With more steps the weights go on; with none they are the initial ones, the same for all data."""
    data, other = random_data(), random_data(seed=1)
    states = {
        (steps, name): networks(pretraining(steps=steps), records, tmp_path / f"{steps}{name}")["critics"].read(range(SHARDS))
        for steps in (0, 1, 3)
        for name, records in (("data", data), ("other", other))
    }
    assert equal(states[0, "data"], states[0, "other"])
    for steps in (1, 3):
        assert not equal(states[steps, "data"], states[steps, "other"])
    moved = [float((states[steps, "data"]["conv1.weight"] - states[0, "data"]["conv1.weight"]).norm()) for steps in (1, 3)]
    assert 0 < moved[0] < moved[1]


def test_states_are_read_in_the_order_asked_and_across_files(tmp_path):
    full = {"weight": torch.randn(11, 3, 2, generator=torch.Generator().manual_seed(0)), "u": torch.arange(11.0)}
    folders = {}
    for first, count in ((0, 4), (4, 4), (8, 3)):
        folder = tmp_path / f"{first}"
        folder.mkdir()
        save_states(folder, {name: tensor[first : first + count] for name, tensor in full.items()})
        folders[f"critics-{first:06d}"] = folder
    states = ShardStates({**folders, "encoders-000000": tmp_path / "0", "reference": tmp_path / "nowhere"}, "critics")
    for shards in ([0], [10], [3, 4], [9, 0, 5, 5], range(11)):
        read = states.read(shards)
        assert equal(read, {name: tensor[list(shards)] for name, tensor in full.items()})
    read = states.read([2])
    read["weight"].zero_()
    assert torch.equal(states.read([2])["weight"], full["weight"][2:3]), "what is read is a copy"


READ_THEM = """
import sys
from pathlib import Path
from trainables.sharded_gan.states import ShardStates

def resident() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) * 1024

root = Path(sys.argv[1])
before = most = resident()
states = ShardStates({folder.name: folder for folder in root.iterdir()}, "critics")
for first in range(31):
    read = states.read(range(first, 1000, 31)[:32])
    most = max(most, resident())
print(most - before, sum(tensor.numel() * 4 for tensor in read.values()))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_reading_the_drawn_critics_takes_their_memory_and_not_their_files(tmp_path):
    shards, per_job = 1000, 100
    for first in range(0, shards, per_job):
        folder = tmp_path / f"critics-{first:06d}"
        folder.mkdir()
        with torch.no_grad():
            critics = Critics((1, 28, 28), 10, channels=8, count=per_job, rngs=None).to(CPU)
            save_states(folder, {name: torch.ones_like(tensor) for name, tensor in critics.state_dict().items()})
    on_disk = sum(path.stat().st_size for path in tmp_path.rglob("*.safetensors"))
    command = [sys.executable, "-c", READ_THEM, str(tmp_path)]
    grown, drawn = map(int, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
    assert on_disk > 80_000_000
    assert grown < 0.3 * on_disk, "all critics have been read, 32 at a time"
    assert grown < 3 * drawn + 10_000_000
