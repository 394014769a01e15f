"""Releases that several trials share: drawn once, by a stage, and paid for once.

A method whose first phase is one release may leave it to a stage (``trainables.base.Stage.release``): every trial that asks
for the same release, of whatever sweep under the root, starts from what was released then, and all that it does with it is
post-processing. The release has attempts and an account of its own, in ``ROOT/releases`` and ``ROOT/ledger/LINEAGE/releases``:
what counts is how often its noise was drawn. A trial's own account has its other phases.
"""

from __future__ import annotations

import os
import socket
import time
import traceback
from collections.abc import Mapping
from typing import Any

from trainables.base import Stage
from trainables.privacy.budget import Budget

from . import rows
from .account_files import LedgerError, controls_of
from .attempts import Attempt, read_trial_attempts
from .folders import Folders
from .ledger import TrialAccount, check_account, sweep_accounts, trial_account
from .lock import started
from .process import logger, out_of_memory

NAME = "releases"
"""Where releases have their attempts and accounts, as a sweep of this name would."""

WAIT_S = 600.0
"""How long an attempt of another machine that says nothing is taken to be alive: a release takes seconds."""


class ReleaseError(ValueError):
    """The release cannot be drawn (again); the message says why, and what can be done."""


def folders_of(folders: Folders) -> Folders:
    """Where the releases under the root of ``folders`` keep their attempts."""
    return Folders(folders.root, NAME)


def accounts(folders: Folders) -> dict[str, TrialAccount]:
    """What every release under the root has spent, whether or not it still exists."""
    return sweep_accounts(folders_of(folders))


def drawn(folders: Folders, release: str) -> int:
    """How often the noise of a release was, or may have been, drawn. Raises ``LedgerError`` where its account is missing."""
    own = folders_of(folders)
    account = trial_account(own, release)
    check_account(own, read_trial_attempts(own, release), account)
    if account is None and (folders.stages / release).is_dir():
        raise LedgerError(
            f"{folders.stages / release} holds a release, and {folders.ledger} has no account of it: bring the ledger back "
            "from a copy"
        )
    return account.executed[0] if account else 0


def executed_with_release(folders: Folders, account: TrialAccount) -> tuple[int, ...]:
    """Steps a phase of all attempts of a trial; of one that rests on a shared release, its draws are the first phase's."""
    if account.release is None:
        return account.executed
    return drawn(folders, account.release), *account.executed[1:]


def draw(folders: Folders, job: Mapping[str, Any]) -> None:
    """Make the release of a stage's job: one attempt, one reserved step, then the stage's folder.

    Raises ``ReleaseError`` where the budget has no draw left, or where another process is at it.
    """
    from trainables.privacy.canary_scores import CanaryScores
    from trainables.privacy.sanitizer import Sanitizer

    from .job_data import load_planted
    from .stages import compute_stage
    from .trial import prepare_torch

    identifier, own = job["id"], folders_of(folders)
    if (folders.stages / identifier).is_dir():
        return
    _refuse_company(own, identifier)
    phases = rows.phases_of(job)[:1]
    before = drawn(folders, identifier)
    budgets = [Budget(phases, **request) for request in job["privacy"]["requests"]]
    if not all(budget.affordable([before], [0]) for budget in budgets):
        times = "once" if before == 1 else f"{before} times"
        raise ReleaseError(
            f"the release {identifier} was drawn {times} and is lost (its stage was deleted, or its process ended): its budget "
            "has no further draw. Bring the stage back from a copy; another draw, with a budget of its own, has another "
            "train.release"
        )
    device = prepare_torch(job["resources"])
    train, test, planted = load_planted(job["data"], folders)
    canaries = CanaryScores(planted.slots, planted.canaries, planted.stand_ins, device) if planted else None
    sanitizer = Sanitizer(phases, device=device, canaries=canaries)
    lineage = controls_of(job["data"]["lineage"]) if job.get("control") else job["data"]["lineage"]
    plan = own.sweep / "plan"  # its attempts have no launch of their own
    attempt = Attempt.open(own, identifier, kind="release", lineage=lineage, phases=phases, plan=plan)
    began = [0]
    try:
        attempt.reserve(0, 1)
        if drawn(folders, identifier) != before + 1:  # whoever was as quick has reserved, too: neither draws
            raise ReleaseError(f"another process is drawing the release {identifier}, too: type the same command again")
        began = [1]  # counted before the noise is drawn
        compute_stage(folders, identifier, Stage(**job["stage"]), train, test, device, sanitizer)
    except BaseException as error:
        attempt.settle(began, stopped=False)
        status = "oom" if isinstance(error, Exception) and out_of_memory(error) else "failed"
        logger.error("the release failed\n%s", traceback.format_exc())
        attempt.close(status, message=str(error), executed=began)
        raise
    attempt.settle(began, stopped=False)
    attempt.close("completed", message=None, executed=began)


def _refuse_company(own: Folders, identifier: str) -> None:
    """Raise ``ReleaseError`` while another process may be drawing the release: two draws would cost twice."""
    for record in read_trial_attempts(own, identifier)[-1:]:
        start = record.start
        if record.end is not None:
            continue
        here = start["host"] == socket.gethostname()
        alive = here and start["pid"] != os.getpid() and started(start["pid"]) is not None
        if alive or (not here and time.time() - start["started"] < WAIT_S):
            raise ReleaseError(
                f"process {start['pid']} on {start['host']} is drawing the release {identifier}: wait until it has, and type "
                "the same command again"
            )
