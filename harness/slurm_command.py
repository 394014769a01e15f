"""The command's side of a sweep that a Slurm job holds: submit that job, follow it, ask it to stop."""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slurm.jobs import RUN, Head
from slurm.launch import POLL_S, QueuedJob, cancel, look, queue, script, submit
from slurm.node import SlurmError
from slurm.run import RunFolder

from .connection import ClusterError, check_dashboard
from .folders import Folders
from .lock import Locked, holder
from .profiles import Profile, check_request, cost, cost_sentence
from .slurm_cluster import check_path, head_request, log_tail, new_run, runs, worker_request
from .slurm_status import state_in_words

if TYPE_CHECKING:
    from rich.console import Console

    from .plan import Plan

OK, FAILED, INFEASIBLE, INTERRUPTED = 0, 1, 3, 130


def check_plan(plan: Plan, profile: Profile) -> None:
    """Raise ``ClusterError`` where a trial to run asks for more than one node of a worker has: it would wait for ever."""
    for trial in plan.to_do:
        asked = trial.spec.resources
        problem = check_request(profile, asked.cpu, asked.gpu, asked.memory_bytes)
        if problem is not None:
            raise ClusterError(f"{trial.spec.label}: {problem}")


def cost_sentences(plan: Plan, profile: Profile) -> list[str]:
    """What the profile may cost at most, and by the estimates of earlier trials where there are any."""
    sentences = [cost_sentence(profile)]
    estimates = [(plan.estimates.of(trial)["seconds"], trial.spec.resources) for trial in plan.to_do]
    if estimates and all(seconds is not None for seconds, _ in estimates):
        gpu = sum((seconds or 0) * resources.gpu for seconds, resources in estimates) / 3600
        cpu = sum((seconds or 0) * resources.cpu for seconds, resources in estimates) / 3600
        words = f"{gpu:,.3g} GPU-hours and " if gpu else ""
        sentences.append(f"By the time that earlier trials took, those to run need {words}{cpu:,.3g} CPU-hours.")
    return sentences


def dry_run_document(plan: Plan, profile: Profile) -> dict[str, Any]:
    """What the run may cost, and what would be given to sbatch; RUN stands for the folder of the run.

    Raises ``ClusterError`` where the sweep's folder cannot be given to Slurm, ``SlurmError`` on a machine without it.
    """
    check_path(plan.folders.sweep)
    run, name, price = RunFolder(plan.folders.sweep / "clusters" / "RUN"), _name(plan.folders.name), cost(profile)
    in_job = profile.head.where == "job"
    return {
        "cost": cost_sentences(plan, profile),
        "cpu_hours_at_most": price.cpu_hours + price.head_cpu_hours,
        "gpu_hours_at_most": price.gpu_hours,
        "head_script": script(head_request(profile, name, run), run.jobs) if in_job else None,
        "worker_script": script(worker_request(profile, name, run), run.jobs),
        "workers": profile.workers,
    }


def print_dry_run(document: Mapping[str, Any], console: Console) -> None:
    """``dry_run_document`` for a person."""
    for sentence in document["cost"]:
        console.print(sentence, soft_wrap=True)
    if document["head_script"] is not None:
        console.print(f"\n# the job that holds the sweep\n{document['head_script']}", soft_wrap=True)
    times = f" (submitted {document['workers']} times)" if document["workers"] > 1 else ""
    console.print(f"\n# a worker job{times}\n{document['worker_script']}", soft_wrap=True)


def _name(sweep: str) -> str:
    return f"dpsweep-{sweep}"


def run_in_job(
    arguments: argparse.Namespace, folders: Folders, make: Callable[[], Plan], profile: Profile, console: Console
) -> int:
    """Plan (``make``), submit the job that holds the sweep, and follow it unless told to detach; return the exit status."""
    from . import screen
    from .lock import DriverLock

    folders.make_private()
    with DriverLock(folders.lock):  # two commands at once submit one job
        refuse_second(folders.sweep)
        plan = make()
        screen.print_plan(plan, console)
        check_plan(plan, profile)
        if not plan.to_do:
            return _nothing_to_do(plan, console)
        if profile.dashboard and profile.python_command == shlex.quote(sys.executable):  # else the job's Python is another
            check_dashboard()
        for sentence in cost_sentences(plan, profile):
            console.print(sentence, soft_wrap=True)
        run = submit_head(arguments, folders, profile)
    console.print(f"Slurm job {run.head_job()} holds the sweep; its files: {run.path}", soft_wrap=True)
    again = shlex.join(["python", "-m", "harness.sweep", *_same_sweep(arguments)])
    console.print(f"  how far it is: {again} --status\n  stop it:       {again} --stop", soft_wrap=True)
    return OK if arguments.detach else follow(run, console)


def _same_sweep(arguments: argparse.Namespace) -> list[str]:
    """The arguments that say which trials of which sweep a command is about."""
    settings = [word for setting in arguments.set for word in ("--set", setting)]
    return [arguments.file, *(["--results", arguments.results] if arguments.results != "results" else []), *settings]


def _nothing_to_do(plan: Plan, console: Console) -> int:
    console.print("Nothing to do.")
    actions = {trial.action for trial in plan.trials} - {"left"}
    return INFEASIBLE if actions == {"infeasible"} else OK if actions <= {"done", "infeasible"} else FAILED


def refuse_second(sweep: Path) -> None:
    """Raise ``Locked`` while an earlier run's job that is to hold the sweep waits or runs; end what a dead one has left.

    Called with the sweep's lock held. Raises ``SlurmError`` where the queue cannot be seen, on a machine of the cluster.
    """
    own = os.environ.get(RUN)
    for run in runs(sweep):
        record = run.read(run.record) or {}
        job, workers = run.head_job() if run.ended() is None else None, run.worker_jobs()
        if str(run.path) == own or not (job or workers):
            continue
        try:
            found = queue([*([job] if job else []), *workers])
        except SlurmError:
            if shutil.which("squeue") is None:  # elsewhere a job that runs is known by the sweep's lock alone
                continue
            raise
        if job in found:
            state = found[job].state.lower()
            advice = "it is ending: wait for it" if state == "completing" else "--status shows how far it is, --stop ends it"
            raise Locked(f"{sweep} is held by Slurm job {job} ({state}), submitted at {record['submitted']}; {advice}")
        cancel(list(found))
        run.workers.unlink(missing_ok=True)
        if run.ended() is None:
            run.ask_to_stop()
            run.write(run.exit, {"status": FAILED})


def submit_head(arguments: argparse.Namespace, folders: Folders, profile: Profile) -> RunFolder:
    """Submit the job that runs this command, with the sweep file as it is now. Raises ``ClusterError``."""
    run = new_run(folders.sweep)
    kept = run.path / Path(arguments.file).name
    shutil.copy(arguments.file, kept)
    command = ["-m", "harness.sweep", str(kept), "--on", arguments.on, "--results", str(folders.root)]
    for setting in arguments.set:
        command += ["--set", setting]
    command += ["--only", arguments.only] if arguments.only else []
    command += ["--retry-failed"] if arguments.retry_failed else []
    command += ["--max-concurrent", str(arguments.max_concurrent)] if arguments.max_concurrent else []
    record: dict[str, Any] = {
        "profile": profile.document(),
        "command": shlex.join(["python", *command]),
        "submitted": time.strftime("%Y-%m-%d %H:%M:%S"),
    }
    run.write(run.record, {**record, "job": None})
    os.environ.setdefault("COLUMNS", str(shutil.get_terminal_size().columns))
    try:
        task = Head(run.path, command, grace_s=profile.grace_seconds)
        jobs = submit(head_request(profile, _name(folders.name), run), task, run.jobs)
    except SlurmError as error:
        shutil.rmtree(run.path)
        raise ClusterError(str(error)) from error
    run.write(run.record, {**record, "job": jobs[0]})
    return run


def follow(run: RunFolder, console: Console) -> int:
    """Print what the job's command prints until it ends; return its exit status.

    Ctrl-C asks it to stop, its trials with checkpoints; a second one cancels the jobs.
    """
    following = _Following(run, console)
    asked = False
    while True:
        try:
            status = following.look()
            if status is not None:
                return status
            time.sleep(1)
        except KeyboardInterrupt:
            if asked or following.waits():
                run.ask_to_stop()
                cancel([following.job, *run.worker_jobs()])
                run.queue.unlink(missing_ok=True)  # what was seen last is over
                if not asked:  # else the job's own command says how it has ended
                    run.write(run.exit, {"status": INTERRUPTED})
                console.print(f"Slurm job {following.job} and its workers were cancelled. The same command goes on.")
                return INTERRUPTED
            asked = True
            run.ask_to_stop()
            console.print(
                "stopping: running trials write a checkpoint and end, then the jobs are given back (once more: cancel them at "
                "once)",
                soft_wrap=True,
            )


class _Following:
    """What was seen of a run so far."""

    def __init__(self, run: RunFolder, console: Console) -> None:
        self._run, self._console = run, console
        self.job = str(run.head_job())
        self._at = 0
        self._looked = 0.0
        self._found: QueuedJob | None = None
        self._told = ""
        self._missing = 0

    def waits(self) -> bool:
        """Whether the job was in the queue at the last look, and nothing was heard of it since."""
        return not self._run.output.exists() if self._found is None else self._found.state == "PENDING"

    def look(self) -> int | None:
        """Print what is new; the exit status once there is one."""
        status = self._run.ended()
        self._print_output()  # all of it, where it has ended
        if status is not None or time.monotonic() - self._looked < POLL_S:
            return status
        self._looked = time.monotonic()
        try:
            self._found = look(self._run).get(self.job)
        except SlurmError:
            return None  # a controller that restarts is no reason to end anything
        self._missing = 0 if self._found else self._missing + 1
        if self._missing and (ended := self._run.read(self._run.exit)) is not None:
            self._console.print(f"Slurm job {self.job} was cancelled. The same command goes on.")
            return int(ended["status"])
        if self._missing >= 2:
            self._console.print(
                f"Slurm job {self.job} has ended before its command could: {log_tail(self._run)}\n  its log: "
                f"{self._run.jobs}/{self.job}_0_log.out; `setup` and `python` of the profile say what jobs run",
                soft_wrap=True,
            )
            return FAILED
        if self._found is not None and self._found.state == "PENDING":
            words = f"Slurm job {self.job}: {state_in_words(self._found.state, self._found.reason)}"
            if words != self._told:
                self._console.print(words)
            self._told = words
        else:
            self._told = ""
        return None

    def _print_output(self) -> None:
        """Whole lines that were added to the command's output."""
        with contextlib.suppress(FileNotFoundError), self._run.output.open("rb") as output:
            output.seek(self._at)
            text, newline, _ = output.read().rpartition(b"\n")
            self._at += len(text) + len(newline)
            if newline:  # as it is: its lines are as wide as they are, and may have tabs
                self._console.file.write(text.decode(errors="replace") + "\n")
                self._console.file.flush()
                self._found = None  # whatever it did at the last look, now it runs


def stop(folders: Folders) -> str:
    """Ask whoever runs the sweep to stop, its trials with checkpoints; return a sentence on what was done."""
    for run in reversed(runs(folders.sweep)):
        job = run.head_job()
        if job and run.ended() is None and (found := queue([job]).get(job)):
            run.ask_to_stop()
            if found.state == "PENDING":
                cancel([job])
                run.write(run.exit, {"status": INTERRUPTED})
                return f"Slurm job {job}, which waited in the queue, was cancelled."
            return f"Slurm job {job} was asked to stop: running trials write a checkpoint and end."
    held = holder(folders.lock)
    if held is None:
        return f"Nobody runs {folders.sweep}: there is nothing to stop."
    who = f"Process {held['pid']} on {held['host']}"
    pattern = f"*-{held['pid']}/plan.json"
    found_plans = [*folders.launches.glob(pattern), *folders.sealed.glob(f"*/*/launches/{pattern}")]
    launches = sorted(found_plans, key=lambda plan: plan.parent.name)
    if not launches:
        return f"{who} is about to begin: ask it again in a few seconds."
    (launches[-1].parent / "stop").touch()
    for run in runs(folders.sweep)[-1:]:
        run.ask_to_stop()  # it may wait for its workers still
    return f"{who} was asked to stop: running trials write a checkpoint and end."
