"""What an error says of the trial that it has ended: whether it may go on, and on whose account it failed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from . import stages
from .folders import Folders, storage_error
from .process import out_of_memory


class Diverged(ValueError):
    """The generator's weights are not finite any more."""


def failure_status(error: BaseException) -> str:
    """``oom`` where memory ran out, ``lost`` where the disk failed, ``interrupted`` for Ctrl-C in this process; or ``failed``.

    ``failed`` is a word on the trial, which does not run again unasked; the others are words on its machine.
    """
    if out_of_memory(error):
        return "oom"
    if storage_error(error):
        return "lost"
    return "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"


def is_violation(error: BaseException) -> bool:
    """Whether ``error`` is a ``PrivacyViolation``, or came of one."""
    from trainables.privacy.sanitizer import PrivacyViolation

    found: list[BaseException | None] = [error]
    for link in found:  # grows while it is read; errors that name each other come once
        if isinstance(link, PrivacyViolation):
            return True
        if link is not None:
            found += [other for other in (link.__cause__, link.__context__) if all(other is not seen for seen in found)]
    return False


def check_finite(trainer: Any, step: int, error: Exception | None = None) -> None:
    """Raise ``Diverged`` (from ``error``) if what the trainer would release is not finite: more steps would buy nothing.

    It depends on releases alone, so stopping there says nothing of private values. It does depend on those releases: steps
    that are lost with it are no accident, and a trial that goes on after it is charged for them (``Spending.unsaved``).
    """
    import torch

    bad = [name for name, tensor in trainer.released().items() if not torch.isfinite(tensor).all()]
    if bad:
        raise Diverged(
            f"the training has diverged: at step {step} {bad[0]} is not finite. A smaller train.learning_rate may help"
        ) from error


def damaged_stage(folders: Folders, job: Mapping[str, Any]) -> str | None:
    """What is wrong with a stage that the job rests on, and what to do; None where nothing is."""
    for identifier in (*job["stages"].values(), job["evaluation"]["stage"]):
        if found := stages.damage(folders.stages / identifier):
            release = stages.is_release(folders, identifier)
            return f"{found}; " + ("bring it back from a copy" if release else "the same command computes the stage again")
    return None
