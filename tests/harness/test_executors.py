"""Both executors keep one promise; Ray's is tried on a real Ray, with real processes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import ray

from harness.executors.inline import InlineExecutor, load
from harness.jobs import Event, Job
from slurm.allocation import usable_cpus

TARGET = "sample_jobs:run_job"
Tasks = dict[str, dict[str, Any]]


def write_plan(folder: Path, tasks: Tasks) -> Path:
    plan = folder / "plan.json"
    plan.write_text(json.dumps(tasks))
    return plan


def jobs_of(tasks: Tasks, **resources: Any) -> list[Job]:
    return [Job(id=name, kind="train", label=f"label of {name}", **resources) for name in tasks]


def by_job(events: list[Event]) -> dict[str, list[Event]]:
    return {job_id: [e for e in events if e.job_id == job_id] for job_id in dict.fromkeys(e.job_id for e in events)}


def kinds(events: list[Event]) -> list[str]:
    return [event.kind for event in events]


@pytest.fixture(params=["inline", "ray"])
def executor(request: pytest.FixtureRequest) -> Any:
    """Either executor, one job at a time."""
    if request.param == "inline":
        return InlineExecutor(target=TARGET)
    return ray_executor(request.getfixturevalue("ray_session"), max_concurrent=1)


def ray_executor(session: Any, **arguments: Any) -> Any:
    from harness.executors.ray_tune import RayTuneExecutor

    return RayTuneExecutor(session, target=TARGET, **arguments)


def test_events_come_in_order_and_pass_on_what_jobs_say(executor: Any, tmp_path: Path) -> None:
    tasks: Tasks = {
        "good": {"do": "count", "steps": 2},
        "bad": {"do": "count", "steps": 1, "status": "failed", "message": "boom"},
        "broken": {"do": "raise"},
    }
    events: list[Event] = []
    executor.run(jobs_of(tasks), write_plan(tmp_path, tasks), events.append, tmp_path / "stop")

    assert list(by_job(events)) == ["good", "bad", "broken"]  # one at a time, in the plan's order
    good, bad, broken = by_job(events).values()
    assert kinds(good) == ["started", "progress", "progress", "finished"]
    assert good[2].data == {"step": 2, "steps": 2, "epsilon": 0.2, "metrics": {"loss": 0.5}}
    assert good[3].data == {"status": "completed", "message": None, "log": "logs/good.log"}
    assert bad[-1].data == {"status": "failed", "message": "boom", "log": "logs/bad.log"}
    # run_job lets no exception out; one that comes out anyway counts as a lost process and says why.
    assert kinds(broken) == ["started", "finished"]
    assert broken[-1].data == {"status": "lost", "message": "RuntimeError: something that run_job should have caught"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plan.json"]


def test_no_job_starts_once_the_stop_file_exists(executor: Any, tmp_path: Path) -> None:
    tasks: Tasks = {name: {"do": "count", "steps": 1} for name in ("first", "second", "third")}
    stop, events = tmp_path / "stop", list[Event]()

    def stop_after_one(event: Event) -> None:
        events.append(event)
        if event.kind == "finished":
            stop.touch()

    executor.run(jobs_of(tasks), write_plan(tmp_path, tasks), stop_after_one, stop)
    assert list(by_job(events)) == ["first"]
    executor.run(jobs_of(tasks), write_plan(tmp_path, tasks), stop_after_one, stop)
    assert list(by_job(events)) == ["first"]


def test_target_is_imported_from_its_words() -> None:
    assert load("harness.executors.inline:load") is load
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        load("no_such_module:run_job")


# --- Ray only -------------------------------------------------------------------------------------------------------


def test_a_killed_process_is_lost_and_the_others_go_on(ray_session: Any, tmp_path: Path, capfd: Any) -> None:
    tasks: Tasks = {"victim": {"do": "die"}, "other": {"do": "count"}}
    events: list[Event] = []
    ray_executor(ray_session).run(jobs_of(tasks), write_plan(tmp_path, tasks), events.append, tmp_path / "stop")

    victim = by_job(events)["victim"]
    assert kinds(victim) == ["started", "progress", "finished"]
    assert victim[-1].data == {
        "status": "lost",
        "cause": "process",
        "message": "the process died: killed, out of memory, or crashed",
    }
    assert by_job(events)["other"][-1].data["status"] == "completed"
    printed = capfd.readouterr()
    assert "Traceback" not in printed.out + printed.err  # neither Tune nor Ray talks over our own table
    assert "victim" not in printed.out + printed.err


def test_a_job_whose_process_dies_is_started_again_before_those_that_wait(ray_session: Any, tmp_path: Path) -> None:
    tasks: Tasks = {"victim": {"do": "die", "times": 1}, "hopeless": {"do": "die"}, "other": {"do": "count"}}
    events, asked = list[Event](), list[tuple[str, Any]]()

    def once(job: Job, outcome: Any) -> Job | None:
        asked.append((job.id, outcome["status"]))
        return job if [name for name, _ in asked].count(job.id) == 1 and outcome["status"] == "lost" else None

    ray_executor(ray_session, max_concurrent=1).run(
        jobs_of(tasks), write_plan(tmp_path, tasks), events.append, tmp_path / "stop", once
    )
    told = by_job(events)
    assert kinds(told["victim"]) == ["started", "progress", "finished", "again", "started", "progress", "finished"]
    assert told["victim"][-1].data == {"status": "completed"}
    assert kinds(told["hopeless"]) == ["started", "progress", "finished", "again", "started", "progress", "finished"]
    assert told["hopeless"][-1].data["status"] == "lost"
    assert [job_id for job_id, _ in asked] == ["victim", "victim", "hopeless", "hopeless", "other"]


def test_a_job_that_hangs_past_its_deadline_is_killed_and_started_again(ray_session: Any, tmp_path: Path) -> None:
    """Its process is stopped, so that only SIGKILL ends it; a job without a deadline may be silent as long as it likes."""
    tasks: Tasks = {"hung": {"do": "hang"}}
    events, lost = list[Event](), list[Any]()

    def again(job: Job, outcome: Any) -> Job | None:
        lost.append(outcome)
        return job if outcome["status"] == "lost" else None

    ray_executor(ray_session).run(
        jobs_of(tasks, deadline=1.5), write_plan(tmp_path, tasks), events.append, tmp_path / "stop", again
    )
    assert kinds(events) == ["started", "progress", "finished", "again", "started", "progress", "finished"]
    assert lost[0] == {
        "status": "lost",
        "cause": "silence",
        "message": "nothing was heard of it for 2 s: its process was ended as hung",
    }
    assert lost[1] == {"status": "completed"}


def test_impossible_requests_are_refused_before_anything_runs(ray_session: Any, tmp_path: Path) -> None:
    from harness.connection import NoGPU
    from harness.executors.ray_tune import ImpossibleRequest

    tasks: Tasks = {"small": {"do": "count"}, "huge": {"do": "count"}}
    plan, stop, events = write_plan(tmp_path, tasks), tmp_path / "stop", list[Event]()
    executor = ray_executor(ray_session)
    small, huge = jobs_of({"small": {}}) + jobs_of({"huge": {}}, cpu=4096, gpu=0.5)
    with pytest.raises(ImpossibleRequest, match=r"of huge asks for cpu 4096, gpu 0.5, .*; there is cpu \d+.*lower resources"):
        executor.run([small, huge], plan, events.append, stop)
    with pytest.raises(ImpossibleRequest, match=r"memory 1000000.0 GB .*--max-concurrent 1"):
        executor.run(jobs_of({"huge": {}}, memory=10**15), plan, events.append, stop)
    if not any(node["Resources"].get("GPU") for node in ray.nodes()):
        with pytest.raises(NoGPU, match=r"asks for 0.5 GPU a trial and there is none here: .*resources.gpu to 0"):
            executor.run(jobs_of({"huge": {}}, gpu=0.5), plan, events.append, stop)
    assert events == []

    # A number of jobs given by the user replaces the count of memory.
    ray_executor(ray_session, max_concurrent=1).run(jobs_of({"huge": {}}, memory=10**15), plan, events.append, stop)
    assert events[-1].data["status"] == "completed"


@pytest.mark.parametrize(("max_concurrent", "together"), [(None, False), (2, True)])
def test_measured_memory_limits_how_many_run_at_once(
    ray_session: Any, tmp_path: Path, max_concurrent: int | None, together: bool
) -> None:
    import ray

    memory = int(0.6 * ray.cluster_resources()["memory"])
    tasks: Tasks = {name: {"do": "meet", "patience": 60 if together else 1} for name in ("one", "two")}
    events: list[Event] = []
    ray_executor(ray_session, max_concurrent=max_concurrent).run(
        jobs_of(tasks, cpu=0.5, memory=memory), write_plan(tmp_path, tasks), events.append, tmp_path / "stop"
    )
    assert [event.data["met"] for event in events if event.kind == "finished"] == [together, together]


def test_jobs_of_one_run_may_ask_for_different_machines(ray_session: Any, tmp_path: Path) -> None:
    cpus = usable_cpus()
    tasks: Tasks = {"whole": {"do": "describe"}, "half": {"do": "describe"}}
    whole, half = jobs_of({"whole": {}}, cpu=cpus, memory=10**9) + jobs_of({"half": {}}, cpu=0.5)
    events: list[Event] = []
    ray_executor(ray_session).run([whole, half], write_plan(tmp_path, tasks), events.append, tmp_path / "stop")

    ended = {event.job_id: event.data for event in events if event.kind == "finished"}
    assert ended["whole"]["resources"] == {"CPU": cpus, "memory": 10**9}
    assert ended["half"]["resources"]["CPU"] == 0.5
    assert ended["whole"]["threads"] == cpus
    assert ended["half"]["threads"] == 1
    assert set(ended["whole"]["pools"].values()) == {cpus}  # BLAS as well, loaded by Ray with the tests' OMP_NUM_THREADS=1
    assert set(ended["half"]["pools"].values()) == {1}
    assert ended["whole"]["pid"] != ended["half"]["pid"]  # a fresh process each
    assert ended["half"]["plan"] == str(tmp_path / "plan.json")
    assert Path(ended["half"]["cwd"]) == Path.cwd()  # not Tune's trial folder
    assert ended["half"]["gpus"] == ""  # a job that asks for no GPU sees none


def test_a_kill_by_ray_for_memory_counts_as_a_lost_process() -> None:
    """Tune 2.60 would end all trials on it; real kills need most of a machine's memory, so only what makes them harmless."""
    from ray.air.execution._internal import actor_manager
    from ray.exceptions import ActorDiedError, OutOfMemoryError, RayActorError
    from ray.tune.execution import tune_controller

    from harness.executors.feed import _why
    from harness.executors.ray_tune import _memory_kills

    with _memory_kills():
        for module in (actor_manager, tune_controller):
            assert isinstance(OutOfMemoryError("..."), module.RayActorError)
            assert isinstance(ActorDiedError(), module.RayActorError)
    assert actor_manager.RayActorError is tune_controller.RayActorError is RayActorError
    told = "Failure # 1\n2 worker(s) were killed due to the node running low on memory. Memory on the node was ..."
    assert _why(told)["status"] == "oom"


def test_limits_of_a_process_that_has_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from harness.executors.ray_tune import limit_process

    before = torch.get_num_threads()
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        monkeypatch.setenv(name, "7")
    try:
        limit_process(3.5, 0.0)
        assert (torch.get_num_threads(), os.environ["OMP_NUM_THREADS"]) == (3, "3")
        limit_process(0.25, 0.0)
        assert (torch.get_num_threads(), os.environ["OMP_NUM_THREADS"]) == (1, "1")
    finally:
        torch.set_num_threads(before)
