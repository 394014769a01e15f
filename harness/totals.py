"""What everything that was released of a sweep, or of a data set, has cost together."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from trainables.privacy.accounting import Accountant
from trainables.privacy.mechanism import Phase

from .calibrations import Calibrations
from .composition import compose
from .folders import Folders
from .ledger import TrialAccount, abandoned_selections, lineage_accounts, sweep_accounts, unfinished_selections
from .releases import accounts as release_accounts
from .rows import is_reference


@dataclass(frozen=True, kw_only=True)
class Total:
    """What having seen every generator costs under one neighbouring relation."""

    neighbours: str
    generators: int
    """Generators that were trained or begun, failed and superseded ones included."""
    unproven: int
    """Those among them that nothing is proven of: trained without noise, or with noise that a test injected."""
    epsilon: float
    """Composition of all that were trained with noise."""
    delta: float
    accountant: Accountant


def sweep_total(
    folders: Folders, calibrations: Calibrations, *, delta: float, accountant: Accountant, injected: Collection[str] = ()
) -> list[Total]:
    """The total of all that ran in a sweep, an entry a neighbouring relation; ``injected`` are trials without a proof.

    With the trials of private selections of the sweep that were given up, without the controls of audits, which nobody gets
    to see.
    """
    ran = [*sweep_accounts(folders).values(), *abandoned_selections(folders).values()]
    accounts = [account for account in ran if not account.control]
    return _totals(accounts, folders, calibrations, delta, accountant, injected)


def lineage_total(
    folders: Folders, lineage: str, calibrations: Calibrations, *, delta: float, accountant: Accountant
) -> list[Total]:
    """The total of what all sweeps under the root have spent on the data set named ``lineage``.

    Without the trials of private selections that have not ended, of which nobody is to know how many there are.
    """
    accounts = lineage_accounts(folders.root, lineage, without=unfinished_selections(folders.root, lineage))
    return _totals(accounts, folders, calibrations, delta, accountant, ())


def with_releases(
    accounts: Sequence[TrialAccount], drawn: Mapping[str, TrialAccount]
) -> list[tuple[tuple[Phase, ...], Sequence[int]]]:
    """(phases, steps a phase that are paid for) of trials, and once of every release that trials share, as often as ``drawn``.

    A release that was drawn under another name of the same data counts as well.
    """
    named = {account.trial_id for account in accounts}
    seen: list[tuple[tuple[Phase, ...], Sequence[int]]] = [(account.phases, account.charged) for account in accounts]
    for release, phases in {account.release: account.phases for account in accounts if account.release}.items():
        if release not in named:
            times = drawn[release].executed[0] if release in drawn else 0
            seen.append((phases[:1], (max(times, 1),)))
    return seen


def _totals(
    accounts: Sequence[TrialAccount],
    folders: Folders,
    calibrations: Calibrations,
    delta: float,
    accountant: Accountant,
    injected: Collection[str],
) -> list[Total]:
    drawn = release_accounts(folders)
    noisy = [(phases, steps) for phases, steps in with_releases(accounts, drawn) if _noisy(phases)]
    parts = {part.neighbours: part for part in compose(calibrations, noisy, delta=delta, accountant=accountant)}
    generators = _relations(accounts, drawn)
    unproven = _relations((a for a in accounts if a.trial_id in injected or not _noisy(a.phases)), drawn)
    return [
        Total(
            neighbours=neighbours,
            generators=generators.count(neighbours),
            unproven=unproven.count(neighbours),
            epsilon=parts[neighbours].epsilon if neighbours in parts else 0.0,
            delta=delta,
            accountant=parts[neighbours].accountant if neighbours in parts else accountant,
        )
        for neighbours in sorted({*parts, *generators})
    ]


def _noisy(phases: Sequence[Phase]) -> bool:
    return all(phase.mechanism.noise_multiplier > 0 for phase in phases if phase.releases)


def _relations(accounts: Iterable[TrialAccount], shared: Collection[str]) -> list[str]:
    """The neighbouring relation of every generator among ``accounts``; ``shared`` releases and real images are none."""
    return [
        account.phases[0].mechanism.neighbours
        for account in accounts
        if account.trial_id not in shared and any(account.charged) and not is_reference(account.phases)
    ]
