"""Counting the votes of teachers: a bound on what one teacher adds that holds by construction, whatever it has learnt.

Teachers hand in whole numbers, in parts of any number of teachers, and the counts are made here. Everything is a function of
the integers alone, so no private value can stretch a count; the forms and their sensitivities are those of
``mechanism.TeacherMechanism``.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

from .mechanism import TeacherMechanism

_WHOLE = (torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64)


class InvalidVotes(Exception):
    """Votes are not of the form that the mechanism declares: a mistake of the method, never a property of the data."""


def count(parts: Iterable[torch.Tensor], mechanism: TeacherMechanism, device: torch.device) -> torch.Tensor:
    """Counts of all teachers' votes, float64 (whole numbers) of the declared ``release_shape``.

    ``parts`` are integer tensors ``[teachers, ...]`` that hold every teacher once: for ``one_of_n`` the chosen bins
    ``[teachers, rows]``, for ``yes_no`` zeros and ones ``[teachers, rows]``, for ``signs`` entries -1, 0, 1 ``[teachers, rows,
    n]`` of which exactly ``signs`` in a row are not 0. Raises ``InvalidVotes``.
    """
    total = torch.zeros(mechanism.release_shape, dtype=torch.int64, device=device)
    teachers = 0
    for part in parts:
        teachers += len(part)
        shape = mechanism.release_shape if mechanism.answer == "signs" else mechanism.release_shape[:1]
        if part.dtype not in _WHOLE or tuple(part.shape[1:]) != shape:
            raise InvalidVotes(
                f"votes are {part.dtype} of shape {tuple(part.shape)}; expected whole numbers of shape (teachers, "
                f"{', '.join(map(str, shape))})"
            )
        if mechanism.answer == "one_of_n":
            bins = mechanism.release_shape[1]
            _check_range(part, 0, bins - 1)
            chosen = part.T.to(torch.int64)
            total.scatter_add_(1, chosen, torch.ones_like(chosen))
        elif mechanism.answer == "yes_no":
            _check_range(part, 0, 1)
            total += part.sum(dim=0, dtype=torch.int64)
        else:
            _check_range(part, -1, 1)
            if bool((part.count_nonzero(dim=2) != mechanism.signs).any()):
                raise InvalidVotes(f"a row of votes does not have {mechanism.signs} signs")
            total += part.sum(dim=0, dtype=torch.int64)
    if teachers != mechanism.teachers:
        raise InvalidVotes(f"{teachers} teachers voted; declared are {mechanism.teachers}, all of which answer every step")
    return total.double()


def _check_range(part: torch.Tensor, low: int, high: int) -> None:
    if len(part) and (int(part.min()) < low or int(part.max()) > high):
        raise InvalidVotes(f"votes are not all from {low} to {high}")
