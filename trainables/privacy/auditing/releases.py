"""Checks of single runs: what was counted, which noise was added, and what the sanitizer refuses."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from trainables.privacy.mechanism import Phase, RecordMechanism, ShardMechanism

from .evidence import Evidence
from .observer import Releasing, coincidence, declared_release
from .statistics import FALSE_ALARM, alike, count_is_unlikely, dependent_pair, not_standard_normal
from .subject import Run
from .verdict import Verdict


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
        expected = sum(1 for step in range(subject.steps) if evidence.subject.phase_at(step) == index)
        if not isinstance(phase.mechanism, Releasing) or not expected:
            continue
        if made != expected * phase.mechanism.releases_per_step or steps != expected:
            declared = f"{expected} x {phase.mechanism.releases_per_step}"
            return "failed", f"phase {index} made {made} releases in {steps} steps; declared are {declared}"
        for release in run.releases:
            declared_shape = declared_release(phase.mechanism, release.call)[1]
            if release.phase == index and tuple(release.total.shape) != declared_shape:
                return "failed", f"phase {index} released shape {tuple(release.total.shape)}; declared is {declared_shape}"
    drawn = _check_draws(evidence, run)
    if drawn[0] == "failed":
        return drawn
    return "passed", f"{run.steps} steps made {len(run.releases)} releases, all of the declared shapes{drawn[1]}"


def _check_draws(evidence: Evidence, run: Run) -> Verdict:
    """How many units were drawn, and that they are units."""
    told = ""
    for index, phase in enumerate(evidence.subject.phases):
        mechanism = phase.mechanism
        draws = [units for step, units in run.observer.draws if evidence.subject.phase_at(step) == index]
        if not draws or not isinstance(mechanism, (ShardMechanism, RecordMechanism)):
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


def noise(evidence: Evidence) -> Verdict:
    """Released minus un-noised is Gaussian noise of the declared standard deviation, new every time."""
    releases = [release for run in evidence.real for release in run.releases if release.std > 0]
    if not releases:
        return "not applicable", "the mechanism declares noise of 0"
    normed = [release.noise.flatten() / release.std for release in releases]
    repeated = dependent_pair([numbers.numpy() for numbers in normed])
    if repeated:
        return "failed", repeated
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
        if alike(one.noise.numpy(), other.noise.numpy()):
            return "failed", f"the noise of step {one.step} is the same in two runs of one seed"
    if not evidence.secret:
        return "passed", "the noise of two runs of one seed differs; nothing is drawn in secret"
    mechanisms = [evidence.subject.phases[evidence.subject.phase_at(step)].mechanism for step, _ in first.observer.draws]
    chance = math.prod(coincidence(mechanism) for mechanism in mechanisms)
    if chance > FALSE_ALARM:
        return "passed", f"the noise of two runs of one seed differs; draws are equal by chance with {chance:.1g}: not compared"
    draws = [[tuple(units.tolist()) for _, units in run.observer.draws] for run in (first, second)]
    if draws[0] == draws[1]:
        return "failed", f"{len(draws[0])} draws are the same in two runs of one seed"
    return "passed", "noise and draws of two runs of one seed differ; torch, numpy and random were seeded alike"


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
        if any(alike(number.numpy(), known.numpy()) for known in (*earlier, *other)):
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
    if not isinstance(mechanism, Releasing):
        return phase
    rows, *rest = mechanism.release_shape
    return replace(phase, mechanism=replace(mechanism, release_shape=(rows + 1, *rest)))
