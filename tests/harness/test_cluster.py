"""Connections are tried in processes of their own: Ray keeps one connection, one token and one environment a process."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import cluster, connection
from slurm.allocation import usable_cpus
from slurm.node import private_folder, sweep_folders

ROOT = Path(__file__).parents[2]


def run_python(script: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """``script`` in a process of its own (and a session of its own, so that signals stay there)."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)],
        env={**clean, "PYTHONPATH": os.pathsep.join([str(ROOT), str(Path(__file__).parent)]), **environment},
        capture_output=True,
        text=True,
        timeout=200,
        start_new_session=True,
        check=False,
    )


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder with a path short enough for Ray's sockets."""
    folder = Path(tempfile.mkdtemp(prefix="t", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def test_inline_needs_no_ray(tmp_path: Path) -> None:
    script = """
        import sys
        from pathlib import Path
        from harness import cluster, contact_sheet, progress
        print(type(cluster.connect("inline", results=Path(sys.argv[1]))).__name__)
        print(sorted({"ray", "torch"} & set(sys.modules)))
    """
    done = run_python(script, tmp_path)
    assert done.stdout.split("\n")[:2] == ["InlineExecutor", "[]"], done.stderr


def test_messages_say_what_to_type(tmp_path: Path) -> None:
    script = """
        import sys
        from pathlib import Path
        from harness import cluster
        for on in sys.argv[2:]:
            try:
                cluster.connect(on, results=Path(sys.argv[1]))
            except cluster.ClusterError as error:
                print(error)
    """
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    closed = f"127.0.0.1:{port}"
    done = run_python(script, tmp_path, "lokal", "ray://host:10001", closed, "auto", RAY_TMPDIR=str(tmp_path))
    lokal, client, unanswered, nothing = done.stdout.splitlines()
    assert lokal == "--on lokal: expected inline, local, auto, slurm:PROFILE or the HOST:PORT of a Ray cluster"
    assert "as `ray start --head` prints it" in client
    assert unanswered.startswith(f"--on {closed}: nothing answers at {closed}")
    assert nothing.startswith("--on auto: no Ray cluster runs on this machine; start one with `ray start --head`")

    # A head that is gone leaves its note; RAY_ADDRESS goes before the note.
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text(closed)
    stale = run_python(script, tmp_path, "auto", RAY_TMPDIR=str(tmp_path))
    assert stale.stdout.startswith(f"--on auto: nothing answers at {closed}")
    named = run_python(script, tmp_path, "auto", RAY_TMPDIR=str(tmp_path), RAY_ADDRESS="127.0.0.1:1")
    assert named.stdout.startswith("--on auto: nothing answers at 127.0.0.1:1")


def test_ctrl_c_on_our_own_ray(tmp_path: Path) -> None:
    """Ctrl-C reaches every process of the terminal; jobs end by themselves, waiting ones are taken back, our Ray is gone."""
    tasks = {f"job{number}": {"do": "wait"} for number in range(usable_cpus() + 1)}
    (tmp_path / "plan.json").write_text(json.dumps(tasks))
    script = """
        import json, os, signal, sys
        from pathlib import Path
        import ray  # before our settings: a notebook may have done so
        from harness import cluster
        from harness.jobs import Job
        from harness.progress import stop_on_signals
        from slurm.allocation import usable_cpus

        folder, tasks = Path(sys.argv[1]), json.loads(Path(sys.argv[1], "plan.json").read_text())
        before, seen = dict(os.environ), {"started": [], "finished": []}

        def on_event(event):
            if event.kind == "progress":
                if not (folder / "stop").exists():
                    os.killpg(0, signal.SIGINT)
            else:
                seen[event.kind].append((event.job_id, event.data.get("status")))

        with stop_on_signals(folder / "stop"):
            executor = cluster.connect("local", results=folder, target="sample_jobs:run_job")
            temp = Path(os.environ["RAY_AUTH_TOKEN_PATH"]).parent
            modes = [oct(path.stat().st_mode & 0o777) for path in (temp, temp / "token")]
            handler = signal.getsignal(signal.SIGTERM)
            executor.run([Job(id=id, kind="train", label=id) for id in tasks], folder / "plan.json", on_event, folder / "stop")
            kept = handler is signal.getsignal(signal.SIGTERM) and "stop_on_signals" in handler.__qualname__
            executor.close()
        # A second Ray of the same process: Ray has kept the first one's token.
        again = cluster.start_local()
        same = ray.cluster_resources()["CPU"] == usable_cpus()
        again.close()
        changed = {name for name in set(os.environ) ^ set(before) if name.startswith(("RAY_", "TUNE_"))} - {"RAY_CLIENT_MODE"}
        print(json.dumps([seen, modes, kept, same, sorted(changed), temp.exists(), len(str(temp / "ray"))]))
    """
    done = run_python(script, tmp_path, HOME=str(tmp_path))
    assert done.stdout, done.stderr
    seen, modes, kept, same, changed, left, length = json.loads(done.stdout.splitlines()[-1])
    assert 1 <= len(seen["started"]) <= usable_cpus()
    assert {job for job, _ in seen["finished"]} == {job for job, _ in seen["started"]}
    assert {status for _, status in seen["finished"]} == {"interrupted"}
    assert "stopping: running trials write a checkpoint" in done.stderr
    assert modes == ["0o700", "0o600"]
    assert kept
    assert same
    assert changed == []
    assert not left
    assert length <= connection.MAX_TEMP
    assert not (tmp_path / ".ray").exists()  # Ray's own token would lie there, readable for all
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plan.json", "stop"]


def test_auto_uses_a_cluster_of_this_machine_and_leaves_it(tmp_path: Path, short: Path) -> None:
    """A real ``ray start --head`` with the user's token, on a machine that does not see one of the folders."""
    (short / ".ray").mkdir()
    (short / ".ray" / "auth_token").write_text("0123456789abcdef" * 4)
    hidden, shared = tmp_path / "hidden", tmp_path / "shared"
    hidden.mkdir()
    shared.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    head = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", f"--port={port}", "--num-cpus=1"]
    head += ["--include-dashboard=false", "--object-store-memory=100000000", "--disable-usage-stats"]
    blind = ["unshare", "--map-root-user", "--mount", "sh", "-c", f'mount -t tmpfs none {hidden} && exec "$@"', "sh"]
    can_hide = subprocess.run([*blind, "true"], capture_output=True, check=False).returncode == 0
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {"HOME": str(short), "RAY_TMPDIR": str(short), "PYTHONPATH": ""}
    script = """
        import json, os, sys
        from pathlib import Path
        from harness import cluster
        from harness.jobs import Job

        hidden, shared = map(Path, sys.argv[1:])
        try:
            cluster.connect("auto", results=hidden)
            refusal = None
        except cluster.ClusterError as error:
            refusal = str(error)
        (shared / "plan.json").write_text(json.dumps({"one": {"do": "count"}}))
        executor = cluster.connect("auto", results=shared, target="sample_jobs:run_job")
        events = []
        executor.run([Job(id="one", kind="train", label="one")], shared / "plan.json", events.append, shared / "stop")
        executor.close()
        print(json.dumps([refusal, {event.job_id: event.data["status"] for event in events if event.kind == "finished"}]))
    """
    with (short / "head.log").open("w") as log:
        process = subprocess.Popen(
            [*(blind if can_hide else []), *head], env=environment, stdout=log, stderr=log, cwd=short, start_new_session=True
        )
    try:
        end = time.monotonic() + 60
        while "Ray runtime started" not in (short / "head.log").read_text() and time.monotonic() < end:
            time.sleep(0.2)
        done = run_python(script, hidden, shared, HOME=str(short), RAY_TMPDIR=str(short))
        assert done.stdout, done.stderr + (short / "head.log").read_text()
        refusal, statuses = json.loads(done.stdout.splitlines()[-1])
        assert statuses == {"one": "completed"}
        if can_hide:
            assert f"does not see {hidden}; results must lie in a folder that all machines share" in refusal
        assert process.poll() is None  # only disconnected
        assert sorted(path.name for path in shared.iterdir()) == ["plan.json"]
        assert list(hidden.iterdir()) == []
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def test_our_own_ray_serves_no_clients_where_grpc_is_installed(tmp_path: Path) -> None:
    """``ray start --head`` starts a server for ray:// addresses wherever grpc can be imported, by itself on port 10001."""
    (tmp_path / "grpc").mkdir()
    (tmp_path / "grpc" / "__init__.py").touch()
    script = """
        from ray._private.utils import get_ray_client_dependency_error
        from slurm.node import no_client_server
        before = get_ray_client_dependency_error()
        no_client_server()
        from ray.scripts.scripts import get_ray_client_dependency_error
        print(before, "|", get_ray_client_dependency_error())
    """
    done = run_python(script, PYTHONPATH=os.pathsep.join([str(tmp_path), str(ROOT)]))
    assert done.stdout == "None | dpsweep has no use for it\n", done.stderr


def test_a_connected_ray_is_used_as_it_is(ray_session: cluster.Cluster, tmp_path: Path) -> None:
    import ray

    executor = cluster.connect("local", results=tmp_path)
    executor.close()
    assert ray.is_initialized()  # it was not ours to end
    assert list(tmp_path.iterdir()) == []


def test_import_path_is_ours_without_the_installation() -> None:
    entries = connection.import_path().split(os.pathsep)
    assert str(ROOT) in entries
    assert sysconfig.get_path("purelib") not in entries
    assert sysconfig.get_path("stdlib") not in entries
    assert all(Path(entry).exists() for entry in entries)


def test_processors_are_those_of_the_affinity_mask() -> None:
    script = """
        import os
        from slurm.allocation import usable_cpus
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        print(usable_cpus())
    """
    assert run_python(script).stdout == "1\n"


def test_temp_folder_is_short_and_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / ("long" * 10)))
    folder = private_folder(connection.temp_parent())
    try:
        assert folder.parent == Path("/tmp")
        assert folder.stat().st_mode & 0o777 == 0o700
    finally:
        shutil.rmtree(folder)


def test_folders_of_dead_processes_are_removed_and_no_others(tmp_path: Path) -> None:
    ours = private_folder(str(tmp_path))
    dead = private_folder(str(tmp_path))
    host, process, started = (dead / "owner").read_text().split()
    (dead / "owner").write_text(f"{host} {process} {int(started) + 1}")  # the number has gone to another process
    elsewhere = private_folder(str(tmp_path))
    (elsewhere / "owner").write_text(f"other-{host} {process} 1")
    (tmp_path / "dpsweep-notes").mkdir()
    sweep_folders(str(tmp_path))
    assert sorted(tmp_path.iterdir()) == sorted([ours, elsewhere, tmp_path / "dpsweep-notes"])


def test_environment_is_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DPSWEEP_KEPT", "before")
    monkeypatch.delenv("DPSWEEP_NEW", raising=False)
    with connection.environment({"DPSWEEP_KEPT": None, "DPSWEEP_NEW": "1"}):
        assert "DPSWEEP_KEPT" not in os.environ
        assert os.environ["DPSWEEP_NEW"] == "1"
    assert os.environ["DPSWEEP_KEPT"] == "before"
    assert "DPSWEEP_NEW" not in os.environ
