"""Slurm profiles: what ``--on slurm:NAME`` asks of a cluster. ``load_profile`` reads one.

A profile is a short YAML file. Those that come with dpsweep lie in ``slurm/profiles``; ``slurm/README.md`` says how to write
one. The text under a field is what ``--schema`` and that README say about it.
"""

from __future__ import annotations

import math
import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema, model_validator

from .connection import FOR_JOBS, OBJECT_STORE
from .document import InputError, Mark, Problem, nearest, read_document
from .quantities import memory_bytes, seconds, spoken
from .sbatch_options import check_options
from .validation import Origin, about, validate

FOLDER = Path(__file__).parents[1] / "slurm" / "profiles"
"""The profiles that come with dpsweep."""

MAX_TEMP_PARENT = 43 - len("/dps-12345678-abcdefgh/ray")
"""Characters that ``temp`` may have: 43 is all that Ray can do with (``harness.cluster.MAX_TEMP``), and each job makes a folder
of its own there, named after the job."""

_GRACE = (10, 65535)  # what Slurm's --signal takes is 16 bits
_FEWEST_PORTS = 200
_LEAST_MEMORY = 10**9  # Ray's own processes and one small trial


def _duration(text: Any) -> Any:
    seconds(text)
    return text


def _walltime(text: Any) -> Any:
    if seconds(text) < 60:
        raise ValueError("expected at least 1min, which is what Slurm counts in")
    return text


def _memory(memory: int | str) -> int | str:
    if memory_bytes(memory) < _LEAST_MEMORY:
        raise ValueError(f"expected at least {_size(_LEAST_MEMORY)}, written with its unit, such as 4GB (a number is bytes)")
    return memory


def _word(text: str) -> str:
    if not text or re.search(r"[\s\x00-\x1f]", text):
        raise ValueError("expected one word, as sbatch takes it")
    return text


def _gpu_type(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][\w.+-]*", text):
        raise ValueError("expected the cluster's name of a GPU, such as a100; `sinfo -o %G` lists them")
    return text


def _temp(text: str) -> str:
    if not text.startswith("/") or "$" in text or re.search(r"\s", text):
        raise ValueError("expected a path from the root, without variables, blanks or ~, such as /tmp")
    if len(text.rstrip("/")) > MAX_TEMP_PARENT:
        raise ValueError(
            f"expected at most {MAX_TEMP_PARENT} characters, for the sockets that Ray keeps there must have short paths; "
            "a node's own /tmp will do"
        )
    return text.rstrip("/") or "/"


def _ports(text: str) -> str:
    first, last = _port_range(text)
    if first < 1024 or last > 65535:
        raise ValueError("expected ports between 1024 and 65535")
    if last - first + 1 < _FEWEST_PORTS:
        raise ValueError(f"expected at least {_FEWEST_PORTS} ports: every process of Ray takes one")
    return text


def _port_range(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,5}) ?- ?(\d{1,5})", text)
    if not match:
        raise ValueError("expected the first and the last port, such as 20000-29999")
    return int(match[1]), int(match[2])


_WRITTEN_TIME = WithJsonSchema({"type": "string"})
_Duration = Annotated[str | int | float, AfterValidator(_duration), _WRITTEN_TIME]
_Walltime = Annotated[str | int | float, AfterValidator(_walltime), _WRITTEN_TIME]
_Memory = Annotated[int | str, AfterValidator(_memory)]
_Word = Annotated[str, AfterValidator(_word)]
_Options = Annotated[dict[str, Any], AfterValidator(check_options)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class _Job(_Section):
    """What any job of a profile says of its size."""

    @property
    def walltime_seconds(self) -> int:
        """``walltime`` in seconds."""
        return round(seconds(self.walltime))  # type: ignore[attr-defined]

    @property
    def walltime_minutes(self) -> int:
        """``walltime`` in minutes, rounded up: the unit of Slurm."""
        return math.ceil(self.walltime_seconds / 60)

    @property
    def memory_bytes(self) -> int | None:
        """``memory`` in bytes."""
        memory = self.memory  # type: ignore[attr-defined]
        return None if memory is None else memory_bytes(memory)

    @property
    def sbatch_memory(self) -> str | None:
        """``memory`` as ``--mem`` takes it, rounded up: Slurm's M is a MiB."""
        return None if self.memory_bytes is None else f"{math.ceil(self.memory_bytes / 2**20)}M"


class WorkerSpec(_Job):
    """One worker job. All sizes are those of a node."""

    nodes: int = Field(default=1, ge=1)
    """Nodes a worker job takes. 1 lets the queue give whatever is free; more are given and taken away together."""
    cpus: int = Field(ge=1, examples=[8])
    """CPU cores of a node that a worker job takes; trials share them."""
    gpus: int = Field(default=0, ge=0)
    """GPUs of a node that a worker job takes; trials share them."""
    gpu_type: Annotated[str, AfterValidator(_gpu_type)] | None = Field(default=None, examples=["a100"])
    """Which GPUs, by the cluster's name for them (``sinfo -o %G``). Empty: any."""
    memory: _Memory | None = Field(default=None, examples=["64GB"])
    """Memory of a node that a worker job takes. Empty: what the cluster gives by itself, often little."""
    walltime: _Walltime = Field(examples=["4h"])
    """How long a worker job runs at most: ``4h``, ``90min``, ``2d``, ``1-12:00:00``, ``04:00:00``. Short ones start sooner;
    trials go on from their checkpoints in the next."""

    @model_validator(mode="after")
    def _typed_gpus(self) -> WorkerSpec:
        if self.gpu_type is not None and not self.gpus:
            raise about("gpu_type", f"worker.gpu_type is {self.gpu_type} but worker.gpus is 0; write `gpus: 1` beside it")
        return self

    @property
    def sbatch_gpus(self) -> str | None:
        """The GPUs as ``--gpus-per-node`` takes them: ``a100:2``, ``2``; None without any."""
        if not self.gpus:
            return None
        return f"{self.gpu_type}:{self.gpus}" if self.gpu_type else str(self.gpus)


class HeadSpec(_Job):
    """The job that holds the sweep: it plans, hands out trials and writes tables, but trains nothing."""

    where: Literal["job", "here"] = "job"
    """``job``: a small job of its own, so that you can log out. ``here``: the process that you start, for a cluster whose
    jobs may not submit jobs; it has to stay, as in tmux, and the other keys of ``head`` are then unread."""
    partition: _Word | None = None
    """Partition of the head's job. Empty: the workers'."""
    cpus: int = Field(default=2, ge=1)
    """CPU cores of the head's job."""
    memory: _Memory | None = "8GB"
    """Memory of the head's job. Empty: what the cluster gives by itself."""
    walltime: _Walltime = "2d"
    """How long the head's job runs at most. When this ends before the sweep does, the job is queued again and goes on."""
    options: _Options = {}
    """Further options of sbatch for the head's job; they win over the profile's ``options``."""


class Profile(_Section):
    """A Slurm profile: how many worker jobs of which size, and what holds the sweep."""

    partition: _Word | None = Field(default=None, examples=["gpu"])
    """Partition of the worker jobs (``sinfo -s``). Empty: the cluster's default."""
    account: _Word | None = None
    """The account that is charged (``sacctmgr show associations user=$USER``). Empty: your default."""
    qos: _Word | None = None
    """Quality of service. Empty: the partition's default."""
    constraint: _Word | None = None
    """Features that a node must have, as sbatch's ``--constraint`` takes them."""
    options: _Options = Field(default={}, examples=["{exclude: n7}"])
    """Further options of sbatch, by their long names without dashes, for all jobs: ``{exclude: n7, reservation: paper}``;
    true for one without a value, as in ``{exclusive: true}``."""
    workers: int = Field(default=1, ge=1)
    """Worker jobs, at most. Trials begin on the first that starts and spread as others do."""
    min_workers: int = Field(default=1, ge=1)
    """Nodes that must have joined before trials begin. 1: begin with what there is."""
    worker: WorkerSpec = Field(examples=["{cpus: 8, gpus: 1, memory: 64GB, walltime: 4h}"])
    """What one worker job takes."""
    head: HeadSpec = HeadSpec()
    """What holds the sweep."""
    grace: _Duration = "5min"
    """How long before its walltime ends a job is told to leave; long enough to write a checkpoint. At least 10s."""
    setup: tuple[str, ...] = Field(default=(), examples=['["module load cuda/12.4"]'])
    """Shell lines that every job runs before Python: ``module load cuda/12.4``, ``source ~/venv/bin/activate``."""
    python: _Word | None = Field(default=None, examples=["python"])
    """Python of the jobs, if not the one that you start the sweep with: ``python`` for the one that ``setup`` or the
    container puts on the path."""
    container: str | None = Field(default=None, examples=["apptainer exec --nv /images/torch.sif"])
    """A command that is put before Python, such as ``apptainer exec --nv /images/torch.sif``."""
    temp: Annotated[str, AfterValidator(_temp)] = "/tmp"
    """A folder on every node's own disk, with a short path. Each job makes a private folder in it and removes it."""
    ports: Annotated[str, AfterValidator(_ports)] | None = Field(default=None, examples=["20000-29999"])
    """Ports that nodes may reach each other on, at least 200. Empty: any free port."""
    dashboard: bool = False
    """Ray's dashboard, on the head's machine and for that machine alone. Needs ``pip install 'ray[default]'``."""

    @model_validator(mode="after")
    def _consistent(self) -> Profile:
        least, most = _GRACE
        if not least <= self.grace_seconds <= most:
            raise about("grace", f"grace is {spoken(self.grace_seconds)}; expected between {least} s and {spoken(most)}")
        jobs: dict[str, _Job] = {"worker": self.worker, **({"head": self.head} if self.head.where == "job" else {})}
        for name, job in jobs.items():
            if self.grace_seconds >= job.walltime_seconds:
                text = f"grace is {spoken(self.grace_seconds)} and {name}.walltime only {spoken(job.walltime_seconds)}"
                raise about("grace", f"{text}; write a shorter grace")
        if self.min_workers > self.workers * self.worker.nodes:
            nodes = self.workers * self.worker.nodes
            text = f"min_workers is {self.min_workers}, but workers x worker.nodes is {nodes}; trials would never begin"
            raise about("min_workers", f"{text}; write `min_workers: {nodes}` or less")
        if self.container is not None and (not self.container.strip() or re.search(r"[\x00-\x1f]", self.container)):
            raise about("container", "container is empty or has several lines; write one command, or nothing")
        return self

    @property
    def grace_seconds(self) -> int:
        """``grace`` in seconds."""
        return round(seconds(self.grace))

    @property
    def port_range(self) -> tuple[int, int] | None:
        """``ports`` as the first and the last."""
        return None if self.ports is None else _port_range(self.ports)

    @property
    def python_command(self) -> str:
        """What starts Python in a job, for the shell: container, then interpreter."""
        return " ".join(filter(None, (self.container, shlex.quote(self.python or sys.executable))))

    def document(self) -> dict[str, Any]:
        """The profile as JSON, for the run's folder; ``from_document`` reads it."""
        return self.model_dump(mode="json")

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> Profile:
        """The profile that ``document()`` wrote."""
        return cls.model_validate(document)


def load_profile(name: str) -> Profile:
    """The profile called ``name`` in ``slurm/profiles``, or the file at a path (it has a ``/`` or ends in ``.yaml``).

    Raises ``InputError`` that lists every problem found.
    """
    document = read_document(_path(name), least="`worker: {cpus: 8, memory: 64GB, walltime: 4h}`")
    raw = {key: value for key, value in document.data.items() if value is not None}
    profile, problems = validate(Profile, raw, Origin(document=document, takes="a profile takes"))
    if problems:
        raise InputError(*problems)
    return profile


def profile_names() -> list[str]:
    """Names of the profiles that come with dpsweep."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def profile_schema() -> dict[str, Any]:
    """JSON schema of a profile, for editors that complete and check YAML."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Profile.model_json_schema()}


def _path(name: str) -> Path:
    if "/" in name or name.endswith((".yaml", ".yml")):
        path = Path(name).expanduser()
        if path.is_file() or path.is_dir():
            return path
        beside = sorted(path.parent.glob("*.yaml"))[:5] if path.parent.is_dir() else []
        there = f"YAML files there: {', '.join(map(str, beside))}; " if beside else ""
        known = f"{there}those that come with dpsweep: {', '.join(profile_names())}"
        raise InputError(Problem(Mark(str(path)), "no such profile", known))
    if name not in profile_names():
        found = f"no profile is called `{name}`" if name else "no profile is named"
        known = f"expected one of {', '.join(profile_names())}, or the path of a file of your own, as in slurm:./mine.yaml"
        raise InputError(Problem(Mark(f"--on slurm:{name}"), found, known, nearest(name, profile_names())))
    return FOLDER / f"{name}.yaml"


# What a sweep may ask, and cost -----------------------------------------------------------------------------------------


def check_request(profile: Profile, cpu: float, gpu: float, memory: int | None) -> str | None:
    """One sentence where a trial asks for more than one node of a worker has (it would wait for ever); else None.

    ``memory`` is in bytes; None asks for none.
    """
    worker = profile.worker
    room = None if worker.memory_bytes is None else int(worker.memory_bytes * FOR_JOBS) - OBJECT_STORE
    for key, asked, has, shown in (
        ("cpu", cpu, worker.cpus, (f"{cpu:g} CPU{'s' if cpu > 1 else ''}", f"{worker.cpus}")),
        ("gpu", gpu, worker.gpus, (f"{gpu:g} GPU{'s' if gpu > 1 else ''}", f"{worker.gpus}")),
        ("memory", memory or 0, room, (_size(memory or 0), f"{_size(room or 0)} for trials beside Ray's own part")),
    ):
        if has is not None and asked > has:
            setting = "memory" if key == "memory" else f"{key}s"
            return (
                f"a trial asks for {shown[0]}, but a worker's node has {shown[1]}; raise worker.{setting} in the profile "
                f"or lower resources.{key} in the sweep"
            )
    return None


def _size(size: int) -> str:
    return f"{size / 1e9:.3g} GB" if size >= 1e9 else f"{size / 1e6:.3g} MB"


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What one round of walltime takes at most: every worker from its start to its walltime, and the head's job."""

    cpu_hours: float
    """Core-hours of all workers."""
    gpu_hours: float
    """GPU-hours of all workers."""
    head_cpu_hours: float
    """Core-hours of the head's job until its walltime; 0 where the sweep is held here."""


def cost(profile: Profile) -> Cost:
    """What a round of ``profile`` may cost: workers x nodes x (CPUs, GPUs) x walltime."""
    worker, head = profile.worker, profile.head
    hours = profile.workers * worker.nodes * worker.walltime_seconds / 3600
    held = head.cpus * head.walltime_seconds / 3600 if head.where == "job" else 0.0
    return Cost(cpu_hours=hours * worker.cpus, gpu_hours=hours * worker.gpus, head_cpu_hours=held)


def cost_sentence(profile: Profile) -> str:
    """What the dry run says about ``cost``."""
    worker, price = profile.worker, cost(profile)
    kind = f" ({worker.gpu_type})" if worker.gpu_type else ""
    parts = [_count(worker.cpus, "CPU"), *([_count(worker.gpus, "GPU") + kind] if worker.gpus else [])]
    parts += [str(worker.memory)] if worker.memory is not None else []
    size = f"{_count(worker.nodes, 'node')} each, a node with {', '.join(parts)}"
    hours = [f"{price.gpu_hours:,.4g} GPU-hours"] if worker.gpus else []
    hours += [f"{price.cpu_hours:,.4g} CPU-hours"]
    head = ""
    if profile.head.where == "job":
        size_of_head = f"{_count(profile.head.cpus, 'CPU')} for {spoken(profile.head.walltime_seconds)}"
        head = f" The head's job takes {size_of_head} at most: {price.head_cpu_hours:,.4g} CPU-hours."
    return (
        f"Up to {_count(profile.workers, 'worker job')} ({size}) for {spoken(worker.walltime_seconds)}: at most "
        f"{' and '.join(hours)} until their walltime ends. They end sooner when no trial is left, and are queued again, at the "
        f"same cost once more, while some are.{head}"
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' if number != 1 else ''}"
