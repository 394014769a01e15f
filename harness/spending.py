"""What a trial has spent, as its running attempt counts it: what the ledger has of earlier ones, and the steps of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from . import rows
from .attempts import Attempt, AttemptRecord, read_trial_attempts
from .folders import Folders
from .ledger import check_account, trial_account
from .releases import drawn, executed_with_release


class Spending:
    """The count of one attempt. Nothing of earlier ones is in it before ``read_earlier``."""

    def __init__(self, folders: Folders, job: Mapping[str, Any], attempt: Attempt, *, injected: bool) -> None:
        self._folders, self._job, self._attempt, self._injected = folders, job, attempt, injected
        self.phases = rows.phases_of(job)
        self.earlier = [0] * len(self.phases)
        """Steps a phase of all attempts before this one."""
        self.executed = [0] * len(self.phases)
        """Steps a phase that this attempt has begun."""
        self.was_stopped = False
        """Earlier attempts were stopped; it holds until this one takes a step."""
        self.unsaved = 0
        """Steps begun since the last checkpoint; whoever goes on from there goes on without them."""

    @property
    def total(self) -> list[int]:
        """Steps a phase of all attempts."""
        return [a + b for a, b in zip(self.earlier, self.executed, strict=True)]

    def read_earlier(self) -> None:
        """Read what earlier attempts have spent.

        Raises ``LedgerError`` where the ledger knows of less than they say, ``ValueError`` if they ran with other noise than
        this job has.
        """
        account = trial_account(self._folders, self._attempt.trial_id, before=self._attempt.number)
        check_account(self._folders, self.earlier_attempts(), account)
        self.was_stopped = account is not None and account.stopped
        release = self._job["release"]
        if account is None:
            self.earlier = [drawn(self._folders, release) if release else 0, *[0] * (len(self.phases) - 1)]
            return
        if account.phases != self.phases or account.release != release:
            raise ValueError("earlier attempts of this trial ran with other mechanisms than the plan has; plan again")
        self.earlier = list(executed_with_release(self._folders, account))

    def earlier_attempts(self) -> list[AttemptRecord]:
        """Records of the attempts before this one."""
        records = read_trial_attempts(self._folders, self._attempt.trial_id)
        return [record for record in records if record.number < self._attempt.number]

    def begin_step(self, phase: int) -> None:
        """Count a step of this phase, before its noise is drawn."""
        self.executed[phase] += 1
        self.unsaved += 1

    def epsilon(self, block: Sequence[int] = ()) -> float | None:
        """Epsilon of all attempts, and of the steps of ``block`` (their phases) on top; None where nothing is proven."""
        if self._injected or rows.is_reference(self.phases):
            return None
        return rows.epsilon_of(self._job, [done + block.count(phase) for phase, done in enumerate(self.total)])

    def settle(self, *, stopped: bool, violated: bool = False) -> None:
        """Put the true count of executed steps in the ledger."""
        self._attempt.settle(self.executed, stopped=stopped, violated=violated)
