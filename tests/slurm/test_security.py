"""What others on the machines can read, join or reach of a sweep that runs."""

from __future__ import annotations

import ast
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import processes
import pytest
from controller import Controller
from running_sweep import RunningSweep, shared_stages

from harness import sweep

ROOT = Path(__file__).parents[2]
PORTS = range(21000, 22000)

SUBMIT = """
import sys
import ray
ray.init(address=sys.argv[1], log_to_driver=False)
print("MAY", ray.get(ray.remote(num_cpus=0)(lambda: "RUN").remote()))
"""
STRANGE = "0" * 64
"""No sweep's token."""


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shared_stages(tmp_path_factory.mktemp("shared"))


@pytest.fixture
def running(tmp_path: Path, slurm: Controller, stages: Path) -> Iterator[RunningSweep]:
    """A sweep that a job holds, with a trial that releases."""
    profile = {
        "workers": 2,
        "worker": {"cpus": 2, "memory": "3GB", "walltime": "10min"},
        "head": {"where": "job", "cpus": 1, "memory": "2GB", "walltime": "10min"},
        "grace": "20s",
        "ports": f"{PORTS[0]}-{PORTS[-1]}",
    }
    held = RunningSweep(tmp_path, slurm, profile, stages, trials=2)
    with held:
        held.start()
        held.wait("two trials that release", lambda: len(held.running()) == 2)
        yield held


@pytest.mark.cluster
def test_a_sweep_that_runs_is_closed_to_everybody_else(running: RunningSweep) -> None:
    run = running.run
    address, token = json.loads(run.head.read_text())["address"], run.token.read_text()
    assert len(token) == 64

    assert mode(run.token) == 0o600
    folders = [run.path, run.jobs, run.nodes, *running.temp.iterdir()]
    assert len(folders) == 3 + 3, "the head and two workers have a folder each"
    assert {mode(folder) for folder in folders} == {0o700}

    mark = token.encode()
    files = [path for root in (running.root, running.temp) for path in root.rglob("*") if path.is_file() and path != run.token]
    assert len(files) > 50
    assert [str(path) for path in files if mark in processes.content(path)] == []
    told = [
        f"{path.parent.name} {path.name}"
        for name in ("environ", "cmdline")
        for path in Path("/proc").glob(f"[0-9]*/{name}")
        if mark in processes.content(path)
    ]
    assert told == []

    ours = [pid for pid in running.processes() if not processes.command_line(pid).startswith("srun")]
    open_to = listening(ours)
    assert len(open_to) > 10
    beyond = {(host, port) for host, port in open_to if port not in PORTS}
    assert all(host.startswith("127.") for host, _ in beyond), f"ports that others may reach: {beyond}"
    dashboards = [pid for pid in ours if "ray/dashboard/dashboard.py" in processes.command_line(pid)]
    assert listening(dashboards) == set(), "Ray starts that process in any case; it serves nobody"

    with tempfile.TemporaryDirectory(prefix="ds-", dir="/tmp") as homes, ThreadPoolExecutor() as pool:
        Path(homes).chmod(0o755)
        answers = list(pool.map(lambda stranger: stranger.output(), strangers(address, Path(homes))))
    for answer in answers:
        assert "MAY RUN" not in answer
        assert "uthenticat" in answer or "token" in answer, answer
    assert len(list(run.nodes.glob("*.json"))) == 2

    running.hurry()
    assert running.end() == sweep.OK
    running.assert_done()
    running.assert_nothing_left()


class Stranger:
    """A command of somebody who does not have the sweep's token."""

    def __init__(self, command: list[str], token: str | None, home: Path, *, nobody: bool = False) -> None:
        self.command, self.home = command, home
        self.nobody = nobody and os.getuid() == 0
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "SLURM_"))}
        said = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token} if token else {"RAY_AUTH_MODE": "disabled"}
        self.environment = {**clean, **said, "HOME": str(home), "PYTHONPATH": ""}

    def output(self) -> str:
        """All that the command prints until it gives up, a minute at most."""
        user = ["setpriv", "--reuid=nobody", "--clear-groups"] if self.nobody else []
        try:
            done = subprocess.run(
                [*user, *self.command], env=self.environment, cwd="/", capture_output=True, text=True, timeout=60, check=False
            )
        except subprocess.TimeoutExpired as error:
            return ((error.stdout or b"") + (error.stderr or b"")).decode(errors="replace")
        assert done.returncode, "the command was served"
        return done.stdout + done.stderr


def strangers(address: str, homes: Path) -> list[Stranger]:
    """Without a token and with another one, as the same user and as another: they submit work, and join a node."""
    submit = [sys.executable, "-c", SUBMIT, address]
    join = [sys.executable, "-m", "ray.scripts.scripts", "start", f"--address={address}", "--block", "--num-cpus=1"]
    found = []
    for number, (command, token, nobody) in enumerate(
        [(submit, None, False), (submit, STRANGE, False), (submit, STRANGE, True), (join, None, False), (join, STRANGE, True)]
    ):
        home = homes / str(number)
        home.mkdir()
        home.chmod(0o777)
        more = [f"--temp-dir={home}/ray"] if command is join else []
        found.append(Stranger([*command, *more], token, home, nobody=nobody))
    return found


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def listening(pids: list[int]) -> set[tuple[str, int]]:
    """(address, port) of the TCP sockets that processes listen on."""
    inodes = set()
    for pid in pids:
        for link in Path(f"/proc/{pid}/fd").glob("*"):
            try:
                target = str(link.readlink())
            except OSError:
                continue
            inodes.add(target.removeprefix("socket:[").rstrip("]"))
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                host, _, port = fields[1].partition(":")
                found.add((spelled(host), int(port, 16)))
    return found


def spelled(host: str) -> str:
    """An address of /proc/net/tcp or tcp6 as people write it; one of IPv4 as such."""
    words = [bytes.fromhex(host[start : start + 8])[::-1] for start in range(0, len(host), 8)]
    address = b"".join(words)
    if len(address) == 16 and address[:12] == bytes(10) + b"\xff\xff":
        address = address[12:]
    return socket.inet_ntop(socket.AF_INET if len(address) == 4 else socket.AF_INET6, address)


CHECKED = {"trainables/data/cifar10.py"}
"""Unpickles what has the published MD5, and nothing else."""
UNPICKLE = {"pickle", "cPickle", "dill", "joblib", "cloudpickle", "shelve", "marshal"}


def test_nothing_is_unpickled_that_lies_in_a_folder() -> None:
    """Whoever may write a pickle runs code as its reader: torch loads with ``weights_only``, numpy without objects."""
    loads = 0
    for path in [path for package in ("harness", "trainables", "slurm", "analysis") for path in (ROOT / package).rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name.split(".")[0] for alias in node.names] if isinstance(node, ast.Import) else []
            names += [(node.module or "").split(".")[0]] if isinstance(node, ast.ImportFrom) and not node.level else []
            assert not UNPICKLE & set(names) or str(path.relative_to(ROOT)) in CHECKED, f"{path}:{getattr(node, 'lineno', 0)}"
            if not isinstance(node, ast.Call):
                continue
            called, given = ast.unparse(node.func), {word.arg: ast.unparse(word.value) for word in node.keywords}
            assert not called.endswith(("read_pickle", "set_default_allow_pickle")), f"{path}:{node.lineno}"
            assert given.get("allow_pickle", "False") == "False", f"{path}:{node.lineno}"
            if called in ("torch.load", "load_state_dict_from_url", "torch.hub.load_state_dict_from_url"):
                loads += 1
                assert given.get("weights_only") == "True", f"{path}:{node.lineno}"
    assert loads, "the checkpoints are loaded somewhere"
