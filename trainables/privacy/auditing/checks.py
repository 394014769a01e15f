"""All checks, in the order in which they are printed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from . import pairs, releases
from .evidence import Evidence
from .verdict import Status, Verdict


@dataclass(frozen=True)
class Check:
    """One line of the audit."""

    name: str
    status: Status
    what: str


CHECKS: dict[str, Callable[[Evidence], Verdict]] = {
    "release counts": releases.counts,
    "noise": releases.noise,
    "fresh randomness": releases.fresh,
    "forced releases": pairs.forced,
    "sensitivity": pairs.sensitivity,
    "disjoint parts": pairs.disjoint,
    "stateless answers": pairs.stateless,
    "resume": releases.resume,
    "refusals": releases.refusals,
}


def run_checks(evidence: Evidence) -> Iterator[Check]:
    """All checks, one after the other; the first alone where the method does not run as it is."""
    if any(phase.mechanism.kind == "reference" for phase in evidence.subject.phases):
        yield Check("all", "not applicable", "a reference of real images is never released, and a trial of it has no epsilon")
        return
    for name, check in CHECKS.items():
        yield Check(name, *check(evidence))
        if evidence.real[0].failure:
            yield Check("all others", "not applicable", "the method does not run")
            return
