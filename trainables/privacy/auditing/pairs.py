"""Checks of pairs of runs, whose secret draws and releases are equal: what else differs is the work of a record or a draw."""

from __future__ import annotations

from collections.abc import Iterable

from trainables.privacy.mechanism import RecordMechanism, ShardMechanism

from .evidence import Evidence, Move, Pair, same, strangers
from .observer import draws_in_secret, units_of
from .subject import Run
from .verdict import Verdict

ROUNDING = 1e-9
"""Relative rounding of a distance in float64."""


def forced(evidence: Evidence) -> Verdict:
    """Where all releases are equal, so is all that is kept or told, whatever the records and the draws were."""
    again = _first_difference(evidence.base, evidence.again)
    if evidence.base.failure:
        return "failed", evidence.base.failure
    if again:
        return (
            "failed",
            f"equal draws and releases, but {again}: public coins have to be keyed by (seed, purpose, step)",
        )
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


def sensitivity(evidence: Evidence) -> Verdict:
    """No neighbour moves what a step would release by more than the declared bound, and only where its unit answers."""
    broken = _broken(evidence, [*evidence.neighbours, *evidence.whole_units])
    if broken:
        return "failed", broken
    largest, where, steps = 0.0, "", 0
    for pair in [*evidence.neighbours, *evidence.whole_units]:
        for move in evidence.moves(pair):
            steps += 1
            allowed, why = _allowed(move, pair)
            told = f"{move.distance:.4f} of the declared sensitivity at step {move.step} ({pair.what})"
            if move.distance > allowed * (1 + ROUNDING):
                return "failed", f"a release moves by {told}{why}"
            if move.distance >= largest:
                largest, where = move.distance, told
    lengths = [length for run in (evidence.base, *evidence.real) for release in run.releases for length in release.lengths]
    if lengths and max(lengths) > 1:
        return "failed", f"a record's clipped contribution has {max(lengths):.6f} times the length of its bound: wrong norms"
    wrong = next((found for found in map(_moved_others, evidence.neighbours) if found), "")
    if not wrong and evidence.stateless:
        wrong = _changed_draw(evidence)
    if wrong:
        return "failed", wrong
    if not where:
        return "not applicable", "no step made a release"
    pairs = len(evidence.neighbours) + len(evidence.whole_units)
    exact = f"; {len(lengths)} clipped contributions are at most {max(lengths):.6f} of C long" if lengths else ""
    return "passed", f"{pairs} neighbours, {steps} steps; the furthest move is {where}{exact}"


def _allowed(move: Move, pair: Pair) -> tuple[float, str]:
    """How far a neighbour may move a release of this step, and why not further."""
    if isinstance(move.mechanism, RecordMechanism):
        if move.drawn is not None and not set(pair.records) & set(move.drawn.tolist()):
            return 0.0, ": the record was not drawn"
        return 1.0, ""
    if move.units:
        return 1.0, ""
    carried = move.mechanism.carried if isinstance(move.mechanism, ShardMechanism) else 0.0
    return carried, ": no answer of a drawn unit had changed"


def _moved_others(pair: Pair) -> str:
    """What is wrong where replacing one record changes what others contribute; empty if nothing."""
    for one, other in zip(pair.base.releases, pair.run.releases, strict=True):
        drawn = set(pair.records) & set(() if one.units is None else one.units.tolist())
        changed = strangers(one, other)
        if changed > len(drawn):
            return (
                f"{changed} contributions to step {one.step} change ({pair.what}): one may depend on its own record, "
                "on releases and on public coins, and on no other record"
            )
    return ""


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
    parts, size = len(set().union(*seen)), len(evidence.subject.data.labels)
    return "passed", (
        f"{len(reached)} of {size} records were replaced: {len(seen)} of them reach one of the {name} each, {parts} of K = "
        f"{units_of(mechanisms[0])} in all, and none reaches two"
    )


def stateless(evidence: Evidence) -> Verdict:
    """Answers and contributions of a draw are the same whatever was drawn before, and whoever is drawn with it."""
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
        if one.step % 2 and evidence.subject.phases[one.phase].mechanism in mechanisms:
            compared += 1
            if not same(one.total, other.total):
                return "failed", f"the same draw at step {one.step} is answered otherwise after other draws: something is kept"
    alone = records = 0
    for one, other in zip(evidence.other_draw.base.releases, evidence.other_draw.run.releases, strict=True):
        changed = strangers(one, other)  # a record less is drawn in the other run, where any is
        if changed:
            return "failed", (
                f"{changed} records contribute otherwise to step {one.step} where a record less is "
                "drawn with them: a contribution may depend on its own record alone"
            )
        if one.step % 2 and other.probes is not None:
            records += len(other.probes)
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
    more += f"; {records} records contribute the same where one less is drawn with them" if records else ""
    return "passed", f"{compared} releases of equal draws after other draws are equal to the bit{more}"


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
