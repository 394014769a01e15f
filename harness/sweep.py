"""The command: ``python -m harness.sweep FILE`` (console script ``dpsweep``).

Exit status: 0 all done, 1 some trials failed, 2 bad input, 3 nothing can run within its budget (in a dry run: some cell
cannot), 70 the Ray that ran the trials was lost, 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from contextlib import closing
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING

from slurm.node import SlurmError

from .document import InputError, Mark, Problem
from .folders import Folders
from .lock import Locked

if TYPE_CHECKING:
    from rich.console import Console

    from .expand import TrialSpec
    from .lock import DriverLock
    from .plan import Plan
    from .profiles import Profile
    from .spec import Sweep

OK, FAILED, BAD_INPUT, INFEASIBLE, INTERRUPTED = 0, 1, 2, 3, 130


def parser() -> argparse.ArgumentParser:
    """The command line."""
    command = argparse.ArgumentParser(
        prog="python -m harness.sweep",
        description="Train every trial of a sweep file under its own privacy budget. The same command again does what is left.",
    )
    command.add_argument("file", nargs="?", metavar="FILE", help="the sweep, such as sweeps/quickstart.yaml")
    command.add_argument("--dry-run", action="store_true", help="show trials, noise, epsilon, time and memory; run nothing")
    command.add_argument("--status", action="store_true", help="show how far the sweep is; run nothing")
    command.add_argument("--json", action="store_true", help="print --dry-run or --status as one JSON object")
    command.add_argument(
        "--schema",
        nargs="?",
        const="sweep",
        choices=("sweep", "profile"),
        help="print the JSON schema of sweep files, or of Slurm profiles",
    )
    command.add_argument(
        "--on",
        default="local",
        metavar="WHERE",
        help="local (default: this machine, through Ray), inline (in this process, one trial after the other), auto (the Ray "
        "cluster that `ray start` made here), the ADDRESS of a Ray cluster, or slurm:PROFILE (jobs of a Slurm cluster; see "
        "slurm/README.md)",
    )
    command.add_argument("--detach", action="store_true", help="with --on slurm:PROFILE: submit, and return at once")
    command.add_argument("--stop", action="store_true", help="ask whoever runs the sweep to stop, trials with checkpoints")
    command.add_argument("--results", default="results", metavar="DIR", help="where results are kept (default: results)")
    command.add_argument(
        "--set", action="append", default=[], metavar="PATH=VALUE", help="change the file before it is read: train.steps=50"
    )
    command.add_argument(
        "--inception-weights",
        metavar="PATH",
        help="the weights of the Inception network; short for --set evaluate.inception_weights=PATH",
    )
    command.add_argument("--only", metavar="TRIAL_ID", help="only this trial of the sweep")
    command.add_argument("--retry-failed", action="store_true", help="run trials again that have failed")
    command.add_argument("--max-concurrent", type=_positive, metavar="N", help="at most N trials at once")
    return command


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    arguments = parser().parse_args(argv)
    if arguments.inception_weights is not None:
        arguments.set = [*arguments.set, f"evaluate.inception_weights={json.dumps(arguments.inception_weights)}"]
    if arguments.schema:
        from .profiles import profile_schema
        from .spec import json_schema

        _print_json(profile_schema() if arguments.schema == "profile" else json_schema())
        return OK
    if arguments.file is None:
        parser().print_usage(sys.stderr)
        print("no sweep file was named; try: python -m harness.sweep sweeps/quickstart.yaml --dry-run", file=sys.stderr)
        return BAD_INPUT
    if arguments.json and not (arguments.dry_run or arguments.status):
        print("--json goes with --dry-run or --status", file=sys.stderr)
        return BAD_INPUT
    if arguments.detach and not arguments.on.startswith("slurm:"):
        print("--detach goes with --on slurm:PROFILE", file=sys.stderr)
        return BAD_INPUT
    from .account_files import LedgerError
    from .connection import ClusterError, NoGPU, check_where

    try:
        _check_one_distribution()
        check_where(arguments.on)
        return _command(arguments)
    except (InputError, Locked, ClusterError, LedgerError, SlurmError) as error:
        smaller = Path(arguments.file).with_stem(f"{Path(arguments.file).stem}_cpu")
        instead = f"; or run {smaller}, which is made for processors" if isinstance(error, NoGPU) and smaller.exists() else ""
        print(f"{error}{instead}", file=sys.stderr)
        return BAD_INPUT
    except OSError as error:
        print(f"{error.filename or arguments.results}: {error.strerror or error}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED


def _command(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from .expand import expand
    from .plan import make_plan
    from .selection import plan_selection
    from .spec import load_sweep

    sweep = load_sweep(arguments.file, arguments.set)
    if sweep.spec.search is not None and (arguments.only or arguments.retry_failed):
        found = "a private selection has no trials that could be named or run apart from the others"
        raise InputError(Problem(Mark("--only" if arguments.only else "--retry-failed"), found, fix="leave it out"))
    specs = expand(sweep)
    folders = Folders(Path(arguments.results).expanduser().absolute(), sweep.spec.name)
    console = Console(markup=False, emoji=False, highlight=False)
    if arguments.stop:
        from .slurm_command import stop

        console.print(stop(folders), soft_wrap=True)
        return OK
    profile = _profile(arguments)
    if arguments.detach and profile is not None and profile.head.where == "here":
        from .connection import ClusterError

        raise ClusterError("--detach: the profile says `head: {where: here}`, so this command has to stay; start it in tmux")

    def make() -> Plan:
        if sweep.spec.search is not None:
            return plan_selection(folders, sweep, specs).plan
        return make_plan(folders, specs, retry_failed=arguments.retry_failed, only=arguments.only)

    if not (arguments.dry_run or arguments.status):
        if profile is not None and profile.head.where == "job":
            from .slurm_command import run_in_job

            return run_in_job(arguments, folders, make, profile, console)
        run = _run if sweep.spec.search is None else _run_selection
        return run(arguments, sweep, specs, folders, console)
    plan = make()
    if arguments.status:
        return _status(arguments, plan, console)
    return _dry_run(arguments, plan, profile, console)


def _status(arguments: argparse.Namespace, plan: Plan, console: Console) -> int:
    from . import screen

    document = screen.status_document(plan, metrics_of=None if arguments.json else screen.MOST_ROWS)
    slurm = sentence = None
    if (plan.folders.sweep / "clusters").is_dir():
        from .slurm_status import status_document, status_sentence

        try:
            slurm = status_document(plan.folders.sweep)
            sentence = status_sentence(slurm) if slurm else None
        except SlurmError as error:  # results are read on other machines too
            sentence = f"How its jobs stand is not known here: {error}"
    if arguments.json:
        _print_json({**document, "slurm": slurm})
        return OK
    screen.print_status(plan, document, console)
    if sentence is not None:
        console.print(sentence, soft_wrap=True)
    return OK


def _dry_run(arguments: argparse.Namespace, plan: Plan, profile: Profile | None, console: Console) -> int:
    from . import screen
    from .documents import plan_document

    slurm = None
    if profile is not None:
        from . import slurm_command

        slurm = slurm_command.dry_run_document(plan, profile)
    if arguments.json:
        _print_json(plan_document(plan) if slurm is None else {**plan_document(plan), "slurm": slurm})
    else:
        screen.print_plan(plan, console)
        if slurm is not None:
            slurm_command.print_dry_run(slurm, console)
    plan.calibrations.save()
    if profile is not None:
        slurm_command.check_plan(plan, profile)
    return INFEASIBLE if any(trial.action == "infeasible" for trial in plan.trials) else OK


def _profile(arguments: argparse.Namespace) -> Profile | None:
    """The Slurm profile that --on names; None for other machines, and in the job that holds the sweep already."""
    if not arguments.on.startswith("slurm:") or os.environ.get("DPSWEEP_RUN"):
        return None
    from .profiles import load_profile

    return load_profile(arguments.on.removeprefix("slurm:"))


def _run(arguments: argparse.Namespace, sweep: Sweep, specs: Sequence[TrialSpec], folders: Folders, console: Console) -> int:
    from . import screen
    from .cluster import connect
    from .launch import finish, new_launch, run_launch, stage_jobs, trial_jobs
    from .plan import make_plan
    from .progress import Progress, interrupted_by_term, stop_on_signals
    from .recovery import recover
    from .snapshot import provenance
    from .stages import set_aside_damaged

    folders.make_private()
    with _lock(folders), interrupted_by_term():
        if (folders.sweep / "clusters").is_dir():
            from .slurm_command import refuse_second

            refuse_second(folders.sweep)
        notes = recover(folders)
        plan = make_plan(folders, specs, retry_failed=arguments.retry_failed, only=arguments.only)
        if damaged := set_aside_damaged(folders, chain.from_iterable(plan.needs.values())):
            plan = make_plan(folders, specs, retry_failed=arguments.retry_failed, only=arguments.only)
        for note in (*notes, *damaged):
            console.print(note)
        screen.print_plan(plan, console)
        screen.write_sweep_record(plan, sweep)
        if not plan.to_do:
            console.print("Nothing to do.")
            finish(plan)
            return _conclude(plan, console, interrupted=False)
        path = new_launch(plan, provenance())
        jobs = [*stage_jobs(plan), *trial_jobs(plan, plan.to_do)]
        with (
            closing(
                connect(
                    arguments.on,
                    results=folders.root,
                    sweep=folders.name,
                    max_concurrent=arguments.max_concurrent,
                    say=console.print,
                )
            ) as executor,
            Progress(jobs, console) as progress,
            stop_on_signals(path.parent / "stop", progress.say),
        ):
            run_launch(plan, path, executor, progress.update)
        finish(plan)
        after = make_plan(folders, specs, only=arguments.only)
        screen.write_sweep_record(after, sweep)
        return _conclude(after, console, interrupted=(path.parent / "stop").exists())


def _run_selection(
    arguments: argparse.Namespace, sweep: Sweep, specs: Sequence[TrialSpec], folders: Folders, console: Console
) -> int:
    from . import screen
    from .launch import finish
    from .progress import interrupted_by_term
    from .recovery import recover
    from .reveal import reveal
    from .sealed import clear, run_sealed
    from .selection import plan_selection

    folders.make_private()
    with _lock(folders), interrupted_by_term():
        if (folders.sweep / "clusters").is_dir():
            from .slurm_command import refuse_second

            refuse_second(folders.sweep)
        for note in recover(folders):
            console.print(note)
        chosen = plan_selection(folders, sweep, specs)
        screen.print_plan(chosen.plan, console)
        screen.write_sweep_record(chosen.plan, sweep)
        if chosen.trial.action == "train":
            why = run_sealed(chosen, arguments.on, max_concurrent=arguments.max_concurrent, console=console)
            if why is not None:
                console.print(f"The selection has not ended: {why}. The same command goes on.", soft_wrap=True)
                return INTERRUPTED if why == "it was interrupted" else FAILED
            console.print(reveal(chosen), soft_wrap=True)
        else:
            clear(chosen)
            console.print("Nothing to do.")
        finish(chosen.plan)
        after = plan_selection(folders, sweep, specs).plan
        screen.write_sweep_record(after, sweep)
        return _conclude(after, console, interrupted=False)


def _lock(folders: Folders) -> DriverLock:
    """The lock of the sweep. In a Slurm job that was queued again, one that its last start has left is waited for."""
    from .lock import STALE_S, DriverLock

    patience = STALE_S + 30 if os.environ.get("DPSWEEP_RUN") else 0.0
    return DriverLock(folders.lock, patience=patience)


def _conclude(plan: Plan, console: Console, *, interrupted: bool) -> int:
    """Print what came out and say it as an exit status."""
    from . import screen

    screen.print_results(plan, console)
    actions = {trial.action for trial in plan.trials} - {"left"}
    if interrupted and actions & {"train", "evaluate"}:
        console.print("Interrupted. The same command goes on from the checkpoints.")
        return INTERRUPTED
    if actions == {"infeasible"}:
        return INFEASIBLE
    return OK if actions <= {"done", "infeasible"} else FAILED


def _print_json(document: object) -> None:
    """Print one JSON object; quietly less of it where the reader has seen enough, as in ``--json | head``."""
    try:
        texts = json.JSONEncoder(indent=1).iterencode(document)
        while text := "".join(islice(texts, 100_000)):  # of 100,000 trials the whole would take gigabytes
            sys.stdout.write(text)
        print(flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is still buffered has to go somewhere


def _check_one_distribution() -> None:
    """Refuse to run with half of the packages from somewhere else: their names are common ones."""
    import trainables

    here, there = Path(__file__).parents[1], Path(next(iter(trainables.__path__))).parent
    if here.resolve() != there.resolve():
        found = f"harness comes from {here} but trainables from {there}"
        raise InputError(Problem(Mark("dpsweep"), found, fix="run from a folder that has no `trainables` of its own"))


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not a positive number")
    return value


if __name__ == "__main__":
    sys.exit(main())
