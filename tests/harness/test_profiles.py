"""Slurm profiles: defaults, one located message for every kind of mistake, the files that are shipped, and what they cost."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from harness.connection import MAX_TEMP
from harness.document import InputError
from harness.profiles import (
    FOLDER,
    MAX_TEMP_PARENT,
    Cost,
    HeadSpec,
    Profile,
    WorkerSpec,
    check_request,
    cost,
    cost_sentence,
    load_profile,
    profile_names,
    profile_schema,
)
from harness.quantities import seconds
from slurm.node import private_folder

README = FOLDER.parent / "README.md"
BASE = "worker: {cpus: 8, gpus: 2, memory: 64GB, walltime: 4h}\n"


def load(folder: Path, text: str) -> Profile:
    (folder / "a.yaml").write_text(text)
    return load_profile(str(folder / "a.yaml"))


def message(folder: Path, text: str) -> str:
    """What a person reads, without the folder."""
    with pytest.raises(InputError) as caught:
        load(folder, text)
    return str(caught.value).replace(f"{folder}/", "")


def test_defaults(tmp_path: Path) -> None:
    profile = load(tmp_path, BASE)
    assert (profile.partition, profile.account, profile.qos, profile.constraint) == (None, None, None, None)
    assert (profile.workers, profile.min_workers, profile.worker.nodes) == (1, 1, 1)
    assert (profile.head.where, profile.head.cpus, profile.head.walltime_seconds) == ("job", 2, 172_800)
    assert (profile.grace_seconds, profile.temp, profile.port_range, profile.dashboard) == (300, "/tmp", None, False)


def test_sizes_in_the_units_of_python_and_of_slurm(tmp_path: Path) -> None:
    worker = load(tmp_path, BASE.replace("4h", "90s") + "grace: 30s\n").worker
    assert (worker.memory_bytes, worker.sbatch_memory) == (64 * 10**9, "61036M")
    assert (worker.walltime_seconds, worker.walltime_minutes) == (90, 2)
    assert load(tmp_path, "worker: {cpus: 1, walltime: 1h}\n").worker.sbatch_memory is None


def test_gpus_as_sbatch_takes_them(tmp_path: Path) -> None:
    assert load(tmp_path, BASE).worker.sbatch_gpus == "2"
    assert load(tmp_path, BASE.replace("gpus: 2", "gpus: 2, gpu_type: a100")).worker.sbatch_gpus == "a100:2"
    assert load(tmp_path, BASE.replace("gpus: 2", "gpus: 0")).worker.sbatch_gpus is None


def test_python_of_the_jobs(tmp_path: Path) -> None:
    assert load(tmp_path, BASE).python_command == sys.executable
    inside = load(tmp_path, BASE + "container: apptainer exec --nv /images/torch.sif\npython: python3\n")
    assert inside.python_command == "apptainer exec --nv /images/torch.sif python3"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("4h", 14_400),
        ("90min", 5400),
        ("2d", 172_800),
        ("1.5h", 5400),
        ("1d 12h", 129_600),
        ("04:00:00", 14_400),
        ("1-12:00:00", 129_600),
        ("1-12", 129_600),
        ("1-12:30", 131_400),
        ("100:00:00", 360_000),
    ],
)
def test_walltime(tmp_path: Path, text: str, expected: int) -> None:
    assert load(tmp_path, BASE.replace("4h", text)).worker.walltime_seconds == expected
    assert seconds(text) == expected


TIME = "expected a length of time with its unit, such as 4h, 90min, 2d, 1-12:00:00 or 04:00:00"
RANGE = "expected between 10 s and 18 h 12 min"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("workers: 2\n", "a.yaml:1:1: missing key `worker`; write `worker: {cpus: 8, gpus: 1, memory: 64GB, walltime: 4h}`"),
        ("worker: {gpus: 1, walltime: 4h}\n", "a.yaml:1:1: missing key `cpus` in worker; write `cpus: 8`"),
        ("worker: {cpus: 1}\n", "a.yaml:1:1: missing key `walltime` in worker; write `walltime: 4h`"),
        ("", "a.yaml:1:1: the file is empty; expected at least `worker: {cpus: 8, memory: 64GB, walltime: 4h}`"),
        (BASE + BASE, "a.yaml:2:1: key `worker` is there twice (first in line 1); remove one of the two"),
        (BASE + "walltime: 2h\n", "a.yaml:2:1: unknown key `walltime`; did you mean `worker.walltime` or `head.walltime`?"),
        (
            BASE + "partitoin: gpu\n",
            "a.yaml:2:1: unknown key `partitoin`; did you mean `partition`? (a profile takes: account,",
        ),
        (BASE + "head: {gpus: 1}\n", "a.yaml:2:8: unknown key `gpus` in head; did you mean `worker.gpus`? (head takes: cpus,"),
        (BASE.replace("4h", "30"), f"a.yaml:1:52: `worker.walltime` is 30; {TIME}"),
        (BASE.replace("4h", "30:00"), f'a.yaml:1:52: `worker.walltime` is the text "30:00"; {TIME}'),
        (BASE.replace("4h", "4 hours"), f'a.yaml:1:52: `worker.walltime` is the text "4 hours"; {TIME}'),
        (BASE.replace("4h", "0h"), f'a.yaml:1:52: `worker.walltime` is the text "0h"; {TIME}'),
        (BASE.replace("4h", "45s"), "expected at least 1min, which is what Slurm counts in"),
        (BASE.replace("64GB", "64G"), 'is the text "64G"; expected a size such as 2GB, 512MiB or a number of bytes'),
        (BASE.replace("64GB", "4096"), "`worker.memory` is 4096; expected at least 1 GB, written with its unit"),
        (BASE + "head: {memory: 512MB}\n", 'a.yaml:2:16: `head.memory` is the text "512MB"; expected at least 1 GB'),
        (BASE.replace("cpus: 8", "cpus: 0"), "`worker.cpus` is 0; expected a number of at least 1"),
        (BASE.replace("cpus: 8", "cpus: 1.5"), "`worker.cpus` is 1.5; expected a whole number"),
        (BASE.replace("gpus: 2", "gpus: true"), "`worker.gpus` is true; expected a number"),
        (
            BASE.replace("gpus: 2", "gpu_type: a100"),
            "a.yaml:1:19: worker.gpu_type is a100 but worker.gpus is 0; write `gpus: 1`",
        ),
        (BASE.replace("gpus: 2", "gpus: 1, gpu_type: 'a100:2'"), "expected the cluster's name of a GPU, such as a100"),
        (BASE + "grace: 4h\n", "a.yaml:2:1: grace is 4 h and worker.walltime only 4 h; write a shorter grace"),
        (BASE + "grace: 5s\n", f"a.yaml:2:1: grace is 5 s; {RANGE}"),
        (BASE.replace("4h", "9d") + "grace: 1d\n", f"a.yaml:2:1: grace is 1 d; {RANGE}"),
        (BASE + "head: {walltime: 4min}\n", "grace is 5 min and head.walltime only 4 min; write a shorter grace"),
        (BASE + "head: {where: login}\n", '`head.where` is the text "login"; expected job or here'),
        (
            BASE + "workers: 2\nmin_workers: 3\n",
            "a.yaml:3:1: min_workers is 3, but workers x worker.nodes is 2; trials would never",
        ),
        (BASE + "ports: 20000\n", 'a.yaml:2:8: `ports` is 20000; expected text, in quotes: "20000"'),
        (BASE + "ports: 20000:29999\n", "expected the first and the last port, such as 20000-29999"),
        (BASE + "ports: 20000-20100\n", "expected at least 200 ports: every process of Ray takes one"),
        (BASE + "ports: 29999-20000\n", "expected at least 200 ports"),
        (BASE + "ports: 80-9999\n", "expected ports between 1024 and 65535"),
        (BASE + "ports: 60000-70000\n", "expected ports between 1024 and 65535"),
        (BASE + "temp: scratch\n", "expected a path from the root, without variables, blanks or ~, such as /tmp"),
        (BASE + "temp: /tmp/$USER\n", "expected a path from the root, without variables, blanks or ~, such as /tmp"),
        (BASE + "temp: /tmp/a-long-name-for-it\n", f"expected at most {MAX_TEMP_PARENT} characters"),
        (BASE + "account: 1234\n", '`account` is 1234; expected text, in quotes: "1234"'),
        (BASE + "partition: gpu long\n", "expected one word, as sbatch takes it"),
        (BASE + "partition: ''\n", "expected one word, as sbatch takes it"),
        (
            BASE + "setup: module load cuda\n",
            'a.yaml:2:8: `setup` is the text "module load cuda"; write `setup: ["module load cuda/12.4"]` (expected a list)',
        ),
        (BASE + "container: ' '\n", "a.yaml:2:1: container is empty or has several lines; write one command, or nothing"),
        (
            BASE + "options: {mem: 4G}\n",
            "a.yaml:2:11: option `mem` is not read here; write it as the profile's key `worker.memory` or",
        ),
        (
            BASE + "options: {gpus_per_node: 4}\n",
            "a.yaml:2:11: option `gpus_per_node` is not read here; write it as the profile's",
        ),
        (BASE + "head: {options: {time: 5}}\n", "a.yaml:2:18: option `time` is not read here; write it as the profile's key"),
        (
            BASE + "options: {gres: 'gpu:2'}\n",
            "GPUs are not read from `gres`; write them as the profile's keys `worker.gpus` and",
        ),
        (BASE + "options: {output: x}\n", "a.yaml:2:11: option `output` is set by dpsweep itself; remove it"),
        (BASE + "options: {--exclude: n7}\n", "option `--exclude` begins with a dash; write `exclude`"),
        (BASE + "options: {w: n7}\n", "`w` is no option of sbatch; write its long name, such as `exclude`"),
        (BASE + "options: {exclude: [n7, n8]}\n", "option `exclude` is the list"),
        (
            BASE + "options: {exclusive: }\n",
            "option `exclusive` is empty; expected one line of text, a number, or true for one without",
        ),
        (BASE + 'options: {exclude: "n7\\n#SBATCH --x"}\n', "expected one line of text"),
    ],
)
def test_mistakes(tmp_path: Path, text: str, said: str) -> None:
    assert said in message(tmp_path, text)


def test_all_mistakes_at_once(tmp_path: Path) -> None:
    lines = message(tmp_path, "partitoin: gpu\nworkers: 0\n" + BASE.replace("4h", "x")).splitlines()
    assert [line.split(":")[1] for line in lines] == ["1", "2", "3"]


def test_what_is_written_empty_is_left_to_its_default(tmp_path: Path) -> None:
    assert load(tmp_path, BASE + "partition:\nsetup:\n  # - module load cuda\nports:\n") == load(tmp_path, BASE)


def test_options_that_are_fine(tmp_path: Path) -> None:
    options = {"exclude": "n7", "exclusive": True, "nice": 10, "mail-user": "a@b.org", "gres": "lscratch:100"}
    profile = load(tmp_path, BASE + f"options: {json.dumps(options)}\nhead: {{options: {{reservation: paper}}}}\n")
    assert (profile.options, profile.head.options) == (options, {"reservation": "paper"})


def test_the_head_here_has_no_walltime(tmp_path: Path) -> None:
    assert load(tmp_path, BASE + "head: {where: here, walltime: 1min}\n").head.where == "here"


def test_the_longest_temp_leaves_ray_its_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    longest = "/" + "x" * (MAX_TEMP_PARENT - 1)
    assert load(tmp_path, BASE + f"temp: {longest}/\n").temp == longest
    monkeypatch.setenv("SLURM_JOB_ID", "67043328")  # Slurm's largest, unless its MaxJobId was raised
    made = private_folder(str(tmp_path)) / "ray"
    assert len(str(made)) - len(str(tmp_path)) + len(longest) == MAX_TEMP


def test_ports(tmp_path: Path) -> None:
    assert load(tmp_path, BASE + "ports: 20000-29999\n").port_range == (20000, 29999)


def test_a_profile_survives_its_document(tmp_path: Path) -> None:
    text = "options: {exclusive: true}\nports: 20000-29999\nsetup: [module load cuda]\nhead: {where: here}\ngrace: 2min\n"
    profile = load(tmp_path, BASE + text)
    assert Profile.from_document(json.loads(json.dumps(profile.document()))) == profile


# Names and paths -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", profile_names())
def test_shipped_profiles(name: str) -> None:
    profile = load_profile(name)
    assert profile == load_profile(str(FOLDER / f"{name}.yaml"))
    text = (FOLDER / f"{name}.yaml").read_text()
    assert text.count("# CHANGE:") == 3
    assert f"cp slurm/profiles/{name}.yaml mine.yaml" in text


def test_there_is_a_profile_for_every_kind_of_cluster() -> None:
    assert profile_names() == ["cpu", "gpu", "login_head", "multi_gpu"]
    assert load_profile("cpu").worker.gpus == 0
    assert load_profile("gpu").worker.gpus == 1
    assert load_profile("multi_gpu").worker.gpus > 1
    assert load_profile("login_head").head.where == "here"


def test_names_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"is called `gpuu`; did you mean `gpu`\? .*cpu, gpu, login_head, multi_gpu, or the path"
    ):
        load_profile("gpuu")
    with pytest.raises(InputError, match="no profile is named"):
        load_profile("")
    (tmp_path / "other.yaml").write_text(BASE)
    with pytest.raises(InputError, match=r"mine.yaml: no such profile; YAML files there: .*other.yaml; those .*: cpu"):
        load_profile(str(tmp_path / "mine.yaml"))
    with pytest.raises(InputError, match="is a folder"):
        load_profile(f"{tmp_path}/")


def test_a_name_is_not_looked_up_among_the_files_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gpu").write_text("not a profile")
    (tmp_path / "gpu.yaml").write_text(BASE + "workers: 99\n")
    monkeypatch.chdir(tmp_path)
    assert load_profile("gpu") == load_profile(str(FOLDER / "gpu.yaml"))
    assert load_profile("gpu.yaml").workers == load_profile("./gpu.yaml").workers == 99


def test_reading_a_profile_stays_light() -> None:
    code = "import sys; from harness.profiles import load_profile; load_profile('gpu'); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=FOLDER.parents[1])
    assert not {"torch", "ray", "submitit", "dp_accounting"} & set(loaded.stdout.split())


# What a sweep may ask, and cost ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cpu", "gpu", "memory", "said"),
    [
        (8, 2, 60 * 10**9, None),
        (0.5, 0, None, None),
        (9, 0, None, "9 CPUs, but a worker's node has 8; raise worker.cpus in the profile or lower resources.cpu in the sweep"),
        (
            1,
            2.5,
            None,
            "2.5 GPUs, but a worker's node has 2; raise worker.gpus in the profile or lower resources.gpu in the sweep",
        ),
        (1, 0, 64 * 10**9, "64 GB, but a worker's node has 60.7 GB for trials beside Ray's own part; raise worker.memory in"),
    ],
)
def test_requests(tmp_path: Path, cpu: float, gpu: float, memory: int | None, said: str | None) -> None:
    found = check_request(load(tmp_path, BASE), cpu, gpu, memory)
    assert found is None if said is None else f"a trial asks for {said}" in str(found)


def test_a_gpu_where_workers_have_none(tmp_path: Path) -> None:
    found = check_request(load(tmp_path, BASE.replace("gpus: 2, ", "")), 1, 1, None)
    assert str(found).startswith("a trial asks for 1 GPU, but a worker's node has 0; raise worker.gpus")


def test_any_memory_may_be_asked_where_the_cluster_decides(tmp_path: Path) -> None:
    assert check_request(load(tmp_path, "worker: {cpus: 1, walltime: 1h}\n"), 1, 0, 10**15) is None


def test_cost(tmp_path: Path) -> None:
    text = BASE.replace("{", "{nodes: 3, ", 1) + "workers: 5\nhead: {walltime: 1d}\n"
    assert cost(load(tmp_path, text)) == Cost(cpu_hours=5 * 3 * 8 * 4, gpu_hours=5 * 3 * 2 * 4, head_cpu_hours=48)
    assert cost(load(tmp_path, text.replace("walltime: 1d", "where: here"))).head_cpu_hours == 0


def test_cost_in_words(tmp_path: Path) -> None:
    profile = load(tmp_path, BASE.replace("gpus: 2", "gpus: 1, gpu_type: a100") + "workers: 3\n")
    assert cost_sentence(profile) == (
        "Up to 3 worker jobs (1 node each, a node with 8 CPUs, 1 GPU (a100), 64GB) for 4 h: at most 12 GPU-hours and 96 "
        "CPU-hours until their walltime ends. They end sooner when no trial is left, and are queued again, at the same cost "
        "once more, while some are. The head's job takes 2 CPUs for 2 d at most: 96 CPU-hours."
    )
    assert "GPU" not in cost_sentence(load_profile("cpu"))
    assert "head" not in cost_sentence(load_profile("login_head"))


# What is written about it ----------------------------------------------------------------------------------------------


def test_every_key_is_described() -> None:
    schema = profile_schema()
    sections = [schema, *schema["$defs"].values()]
    assert {section.get("title") for section in sections} == {"Profile", "WorkerSpec", "HeadSpec"}
    for section in sections:
        assert section["additionalProperties"] is False
        for name, field in section["properties"].items():
            assert field.get("description"), name


def test_the_readme_has_the_table_of_keys() -> None:
    assert "\n".join(table_of_keys()) in README.read_text(), "slurm/README.md: replace the table of keys by table_of_keys()"


def table_of_keys() -> list[str]:
    """The table of slurm/README.md, from the models."""
    lines = ["| key | default | meaning |", "| --- | --- | --- |"]
    for name, field in Profile.model_fields.items():
        inner: dict[str, type[BaseModel]] = {"worker": WorkerSpec, "head": HeadSpec}
        if name in inner:
            lines += [_row(f"{name}.{key}", one) for key, one in inner[name].model_fields.items()]
        else:
            lines.append(_row(name, field))
    return lines


def _row(name: str, field: FieldInfo) -> str:
    value = "true" if field.default is True else "false" if field.default is False else field.default
    default = "**needed**" if field.is_required() else "" if value in (None, (), {}) else f"`{value}`"
    return f"| `{name}` | {default} | {' '.join(str(field.description).split()).replace('``', '`')} |"
