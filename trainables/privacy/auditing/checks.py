"""The checks: what each looks at, and what it says. ``CHECKS`` has them in the order in which they are printed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch

from trainables.base import phase_of
from trainables.privacy.mechanism import Mechanism, NoRelease, Phase, RecordMechanism, ShardMechanism, TeacherMechanism

from .evidence import Evidence, Pair, same
from .observer import coincidence, draws_in_secret, units_of
from .statistics import FALSE_ALARM, count_is_unlikely, dependent_pair, not_standard_normal
from .subject import Run

ROUNDING = 1e-9
"""Relative rounding of a distance in float64."""


@dataclass(frozen=True)
class Check:
    """One line of the audit."""

    name: str
    status: Literal["passed", "failed", "not applicable"]
    what: str


Verdict = tuple[Literal["passed", "failed", "not applicable"], str]


def counts(evidence: Evidence) -> Verdict:
    """Steps, releases, shapes and draws of a run with real entropy are those that the mechanism declares."""
    subject, run = evidence.subject, evidence.real[0]
    if run.failure:
        return "failed", run.failure
    observer = run.observer
    if observer.opened != run.steps:
        return (
            "failed",
            f"{run.steps} steps were asked for and {observer.opened} were opened: the method opens steps of its own",
        )
    for index, phase in enumerate(subject.phases):
        steps = len({release.step for release in run.releases if release.phase == index})
        made = sum(release.phase == index for release in run.releases)
        expected = sum(1 for step in range(subject.steps) if _phase_at(evidence, step) == index)
        if isinstance(phase.mechanism, NoRelease) or not expected:
            continue
        if made != expected * phase.mechanism.releases_per_step or steps != expected:
            declared = f"{expected} x {phase.mechanism.releases_per_step}"
            return "failed", f"phase {index} made {made} releases in {steps} steps; declared are {declared}"
        shape = next(release.total.shape for release in run.releases if release.phase == index)
        if tuple(shape) != phase.mechanism.release_shape:
            return "failed", f"phase {index} released shape {tuple(shape)}; declared is {phase.mechanism.release_shape}"
    drawn = _check_draws(evidence, run)
    if drawn[0] == "failed":
        return drawn
    return "passed", f"{run.steps} steps made {len(run.releases)} releases, all of the declared shapes{drawn[1]}"


def _check_draws(evidence: Evidence, run: Run) -> Verdict:
    """How many units were drawn, and that they are units."""
    told = ""
    for index, phase in enumerate(evidence.subject.phases):
        mechanism = phase.mechanism
        draws = [units for step, units in run.observer.draws if _phase_at(evidence, step) == index]
        if not draws or isinstance(mechanism, (NoRelease, TeacherMechanism)):
            continue
        known = mechanism.shards if isinstance(mechanism, ShardMechanism) else mechanism.records
        total = sum(len(units) for units in draws)
        if any(len(set(units.tolist()) & set(range(known))) != len(units) for units in draws):
            return "failed", f"phase {index} drew units twice, or units that are none of the {known}"
        if isinstance(mechanism, ShardMechanism):
            if any(len(units) != mechanism.shards_per_step for units in draws):
                return "failed", f"phase {index} drew other than the declared {mechanism.shards_per_step} shards"
            told += f"; {mechanism.shards_per_step} of {known} shards a step"
            continue
        if count_is_unlikely(total, len(draws) * known, mechanism.sampling_rate):
            rate = f"{total / (len(draws) * known):.4f}"
            return "failed", f"phase {index} drew a share {rate} of the records; declared is {mechanism.sampling_rate:g}"
        told += f"; {total} of {len(draws)} x {known} records drawn at a declared rate of {mechanism.sampling_rate:g}"
    if run.observer.records_handed:
        told += f"; {run.observer.records_handed} records' contributions added"
    return "passed", told


def _phase_at(evidence: Evidence, step: int) -> int:
    return phase_of(step, evidence.subject.phase_steps)


def noise(evidence: Evidence) -> Verdict:
    """Released minus un-noised is Gaussian noise of the declared standard deviation, new every time."""
    releases = [release for run in evidence.real for release in run.releases if release.std > 0]
    if not releases:
        return "not applicable", "the mechanism declares noise of 0"
    normed = [release.noise.flatten() / release.std for release in releases]
    groups: dict[tuple[int, int], list[torch.Tensor]] = {}
    for release, numbers in zip(releases, normed, strict=True):
        groups.setdefault((release.phase, release.call), []).append(numbers)
    ratios = []
    for (phase, call), parts in groups.items():
        numbers = torch.cat(parts)
        ratio = float(numbers.square().mean().sqrt())
        ratios.append(ratio)
        wrong = not_standard_normal(numbers.numpy(), FALSE_ALARM / len(groups))
        if wrong:
            return "failed", f"release {call} of phase {phase}: its noise has {ratio:.3f} of the declared std ({wrong})"
    repeated = dependent_pair([numbers.numpy() for numbers in normed])
    if repeated:
        return "failed", repeated
    count = sum(numbers.numel() for numbers in normed)
    measured = " and ".join(f"{ratio:.4f}" for ratio in ratios)
    return "passed", (
        f"{count} numbers of {len(releases)} releases have {measured} of the declared std, are Gaussian and uncorrelated "
        f"(false alarms: {FALSE_ALARM:g})"
    )


def fresh(evidence: Evidence) -> Verdict:
    """Two runs of one seed, with all global generators seeded alike, have other draws and other noise."""
    first, second = evidence.real[:2]
    for run in (first, second):
        if run.failure:
            return "failed", run.failure
    if not first.releases:
        return "not applicable", "nothing is released"
    for one, other in zip(first.releases, second.releases, strict=True):
        if torch.equal(one.noise, other.noise):
            return "failed", f"the noise of step {one.step} is the same in two runs of one seed"
    if not evidence.secret:
        return "passed", "the noise of two runs of one seed differs; nothing is drawn in secret"
    mechanisms = [_mechanism(evidence, _phase_at(evidence, step)) for step, _ in first.observer.draws]
    chance = math.prod(coincidence(mechanism) for mechanism in mechanisms)
    if chance > FALSE_ALARM:
        return "passed", f"the noise of two runs of one seed differs; draws are equal by chance with {chance:.1g}: not compared"
    draws = [[tuple(units.tolist()) for _, units in run.observer.draws] for run in (first, second)]
    if draws[0] == draws[1]:
        return "failed", f"{len(draws[0])} draws are the same in two runs of one seed"
    return "passed", "noise and draws of two runs differ; seeds of torch, numpy and random were equal"


def sensitivity(evidence: Evidence) -> Verdict:
    """No neighbour moves what a step would release by more than the declared bound, and only where its unit answers."""
    broken = _broken(evidence, [*evidence.neighbours, *evidence.whole_units])
    if broken:
        return "failed", broken
    largest, where, steps = 0.0, "", 0
    for pair in [*evidence.neighbours, *evidence.whole_units]:
        for move in evidence.moves(pair):
            steps += 1
            allowed, why = _allowed(move.mechanism, bool(move.units), move.drawn, pair)
            told = f"{move.distance:.4f} of the declared sensitivity at step {move.step} ({pair.what})"
            if move.distance > allowed * (1 + ROUNDING):
                return "failed", f"a release moves by {told}{why}"
            if move.distance >= largest:
                largest, where = move.distance, told
    if evidence.stateless:
        wrong = _changed_draw(evidence)
        if wrong:
            return "failed", wrong
    lengths = [length for run in (evidence.base, *evidence.real) for release in run.releases for length in release.lengths]
    if lengths and max(lengths) > 1:
        return "failed", f"a record's clipped contribution has {max(lengths):.6f} times the length of its bound: wrong norms"
    if not where:
        return "not applicable", "no step made a release"
    pairs = len(evidence.neighbours) + len(evidence.whole_units)
    exact = f"; {len(lengths)} clipped contributions are at most {max(lengths):.6f} of C long" if lengths else ""
    return "passed", f"{pairs} neighbours x steps = {steps} comparisons; most: {where}{exact}"


def _allowed(mechanism: Mechanism, answered: bool, drawn: object, pair: Pair) -> tuple[float, str]:
    """How far a neighbour may move a release of this step, and why not further."""
    if isinstance(mechanism, RecordMechanism):
        if not set(pair.records) & set(drawn.tolist() if hasattr(drawn, "tolist") else pair.records):
            return 0.0, ": the record was not drawn"
        return 1.0, ""
    if answered:
        return 1.0, ""
    return getattr(mechanism, "carried", 0.0), ": no answer of a drawn unit had changed"


def _changed_draw(evidence: Evidence) -> str:
    """What is wrong where one unit more, or another one, is drawn; empty if nothing."""
    pair = evidence.other_draw
    broken = _broken(evidence, [pair])
    if broken:
        return broken
    for move in evidence.moves(pair):
        if move.step % 2 == 0 or move.mechanism not in evidence.stateless:
            continue
        bound = 1.0
        if isinstance(move.mechanism, RecordMechanism):
            bound = move.mechanism.presence_distance / move.mechanism.sensitivity
        if move.distance > bound * (1 + ROUNDING):
            unit = "a record more" if isinstance(move.mechanism, RecordMechanism) else "another shard"
            return f"{unit} in the draw of step {move.step} moves the release by {move.distance / bound:.4f} of what it may"
    return ""


def disjoint(evidence: Evidence) -> Verdict:
    """No record reaches the answers of two shards or teachers."""
    mechanisms = [mechanism for mechanism in evidence.releasing if units_of(mechanism)]
    if not mechanisms:
        return "not applicable", "records answer by themselves: there are no shards or teachers"
    name = "shards" if isinstance(mechanisms[0], ShardMechanism) else "teachers"
    broken = _broken(evidence, evidence.neighbours)
    if broken:
        return "failed", broken
    reached = {pair.records[0]: evidence.units_reached(pair) for pair in evidence.neighbours}
    for record, units in reached.items():
        if len(units) > 1:
            return "failed", f"record {record} reaches {name} {', '.join(map(str, sorted(units)))}: parts have to be disjoint"
    seen = [units for units in reached.values() if units]
    if not seen:
        return "not applicable", f"none of {len(reached)} replaced records changed an answer, so nothing could be seen"
    parts = len(set().union(*seen))
    silent = len(reached) - len(seen)
    rest = f", {silent} none that was seen" if silent else ""
    return "passed", (
        f"{len(seen)} of {len(reached)} replaced records each reach one of {parts} {name} (K {units_of(mechanisms[0])}), "
        f"none two{rest}"
    )


def forced(evidence: Evidence) -> Verdict:
    """Where all releases are equal, so is all that is kept or told, whatever the records and the draws were."""
    again = _first_difference(evidence.base, evidence.again)
    if evidence.base.failure:
        return "failed", evidence.base.failure
    if again:
        return "failed", f"two equal runs differ in {again}: public coins have to be keyed by (seed, purpose, step)"
    pairs = [*evidence.neighbours, evidence.other_records]
    if evidence.secret:
        pairs += [evidence.other_history, evidence.other_draw]
    broken = _broken(evidence, pairs)
    if broken:
        return "failed", broken
    for pair in pairs:
        difference = _first_difference(pair.base, pair.run)
        if difference:
            return "failed", f"equal releases, but {difference} (with {pair.what}): something private goes round the releases"
    kept = len(evidence.base.released[-1]) if evidence.base.released else 0
    return "passed", (
        f"{len(pairs)} other data sets and draws, all releases forced to be equal noise: {kept} kept tensors, samples and "
        f"diagnostics of {len(evidence.base.released)} steps are equal to the bit"
    )


def _first_difference(one: Run, other: Run) -> str:
    """The first thing that differs between what two runs keep or tell; empty if nothing does."""
    for step, (ours, theirs) in enumerate(zip(one.released, other.released, strict=False), one.next_step - len(one.released)):
        if ours.keys() != theirs.keys():
            return f"the names of the kept tensors differ after step {step}"
        for name in ours:
            if not same(ours[name], theirs[name]):
                return f"the kept tensor {name} differs after step {step}"
    for step, (told, also) in enumerate(
        zip(one.diagnostics, other.diagnostics, strict=False), one.next_step - len(one.diagnostics)
    ):
        for name in sorted(told.keys() | also.keys()):
            if name not in told or name not in also or not (told[name] == also[name] or told[name] != told[name]):
                return f"the diagnostic {name} differs at step {step}"
    if one.samples is not None and other.samples is not None and not same(one.samples, other.samples):
        return "samples differ"
    return ""


def stateless(evidence: Evidence) -> Verdict:
    """The answers of a draw are the same whatever was drawn before, and whoever is drawn with it."""
    mechanisms = evidence.stateless
    if not mechanisms:
        why = {
            "round_robin": "the order of the shards is public",
            "persistent": "declared persistent: the account reveals the draws",
        }
        schedule = next((getattr(mechanism, "schedule", None) for mechanism in evidence.releasing), None)
        if any(draws_in_secret(mechanism) for mechanism in evidence.releasing) and schedule != "persistent":
            return "not applicable", "an error buffer is declared: the account reveals the draws"
        return "not applicable", why.get(str(schedule), "every unit answers every step")
    broken = _broken(evidence, [evidence.other_history, evidence.other_draw])
    if broken:
        return "failed", broken
    compared = 0
    for one, other in zip(evidence.other_history.base.releases, evidence.other_history.run.releases, strict=True):
        if one.step % 2 and _mechanism(evidence, one.phase) in mechanisms:
            compared += 1
            if not same(one.total, other.total):
                return "failed", f"the same draw at step {one.step} is answered otherwise after other draws: something is kept"
    alone = 0
    for one, other in zip(evidence.other_draw.base.releases, evidence.other_draw.run.releases, strict=True):
        if one.answers is None or other.answers is None or one.units is None or other.units is None:
            continue
        theirs = dict(zip(other.units.tolist(), other.answers, strict=True))
        for unit, answer in zip(one.units.tolist(), one.answers, strict=True):
            if unit in theirs and one.step % 2:
                alone += 1
                if not same(answer, theirs[unit]):
                    return "failed", f"shard {unit} answers otherwise at step {one.step} where another shard is drawn with it"
    if not compared:
        return "not applicable", "no second step of a phase with secret draws was reached"
    more = f"; {alone} answers do not depend on who else was drawn" if alone else ""
    return "passed", f"{compared} releases of equal draws after other draws are equal to the bit{more}"


def resume(evidence: Evidence) -> Verdict:
    """A restored trainer goes on with noise of its own."""
    if len(evidence.real) < 5:
        return "failed", next((run.failure for run in evidence.real if run.failure), None) or "no checkpoint could be made"
    half, *restored = evidence.real[2:]
    for run in restored:
        if run.failure:
            return "failed", f"restored from the checkpoint of step {half.next_step}: {run.failure}"
    if not restored[0].releases:
        return "not applicable", f"nothing is released after step {half.next_step}"
    earlier = [release.noise for run in evidence.real[:3] for release in run.releases]
    one, other = ([release.noise for release in run.releases] for run in restored)
    for index, number in enumerate(one):
        if any(torch.equal(number, known) for known in (*earlier, *other)):
            return "failed", f"release {index} after the restart repeats noise"
    return "passed", f"two trainers restored at step {half.next_step} made {len(one)} releases each; no noise is repeated"


def refusals(evidence: Evidence) -> Verdict:
    """The method's code meets the sanitizer's refusals: no open step, a second draw or release, another shape."""
    subject = evidence.subject
    larger = [_one_row_more(phase) for phase in subject.phases]
    attempts = {
        "run outside an open step": subject.run(subject.data, shut=True),
        "run twice in one step": subject.run(subject.data, twice=True, script=evidence.script()),
        "told of a mechanism of other rows": subject.run(subject.data, told=larger, script=evidence.script()),
    }
    for what, run in attempts.items():
        if not run.violation:
            found = run.failure or f"it went through {run.steps} steps"
            return "failed", f"{what}, the method's code was not refused by the sanitizer: {found}"
    return "passed", f"refused with PrivacyViolation: {', '.join(attempts)}"


def _one_row_more(phase: Phase) -> Phase:
    mechanism = phase.mechanism
    if isinstance(mechanism, NoRelease):
        return phase
    rows, *rest = mechanism.release_shape
    return replace(phase, mechanism=replace(mechanism, release_shape=(rows + 1, *rest)))


def _mechanism(evidence: Evidence, phase: int) -> Mechanism:
    return evidence.subject.phases[phase].mechanism


def _broken(evidence: Evidence, pairs: Iterable[Pair]) -> str:
    """What was raised in a run of ``pairs``, or how its releases differ in number; empty if nothing."""
    for pair in pairs:
        if pair.base.failure:
            return pair.base.failure
        if pair.run.failure:
            return f"with {pair.what} it raised {pair.run.failure}: no private value may stop a step"
        if len(pair.run.releases) != len(pair.base.releases):
            return f"with {pair.what} it made {len(pair.run.releases)} releases, not {len(pair.base.releases)}"
    return ""


CHECKS: dict[str, Callable[[Evidence], Verdict]] = {
    "release counts": counts,
    "noise": noise,
    "fresh randomness": fresh,
    "forced releases": forced,
    "sensitivity": sensitivity,
    "disjoint parts": disjoint,
    "stateless answers": stateless,
    "resume": resume,
    "refusals": refusals,
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
