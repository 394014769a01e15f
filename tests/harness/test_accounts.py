"""From a budget to its noise: what begins anew is calibrated, what has begun is not, and nothing is calibrated twice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from harness.accounts import Accounts, checkpoint_interval, default_reserve
from harness.calibrations import Calibrations
from harness.expand import TrialSpec, expand
from harness.spec import load_sweep
from trainables.privacy import accounting
from trainables.privacy.mechanism import NoRelease, Phase, RecordMechanism, scale_noise

FILE = """
name: small
method: dp_energy
data: {source: digits}
privacy: {epsilon: 10, accountant: pld}
"""
MECHANISM = RecordMechanism(records=1437, sampling_rate=0.2, release_shape=(10,), noise_multiplier=1.0)
RELATIVE = (Phase(mechanism=MECHANISM, steps=41),)


def specs(root: Path, text: str = FILE) -> list[TrialSpec]:
    (root / "small.yaml").write_text(text)
    return expand(load_sweep(root / "small.yaml"))


def accounts(root: Path) -> Accounts:
    return Accounts(Calibrations(root / "calibrations.json"))


def test_the_target_is_reached_with_the_reserve_and_not_a_step_later(tmp_path: Path) -> None:
    (spec,) = specs(tmp_path)
    account, problem = accounts(tmp_path).of(spec, RELATIVE)
    assert account is not None
    assert problem is None
    assert account.reserve == default_reserve(RELATIVE) == 3, "a twentieth of 41, rounded up"

    def epsilon(steps: int) -> float:
        return accounting.epsilon([replace(account.phases[0], steps=steps)], delta=1e-5, accountant="pld")

    assert account.epsilon("pld") == epsilon(41) < epsilon(44) <= 10 < epsilon(45)
    assert account.epsilon("rdp") == account.epsilon_rdp > account.epsilon_pld


def test_what_has_begun_keeps_its_noise(tmp_path: Path) -> None:
    (spec,) = specs(tmp_path)
    begun = scale_noise(RELATIVE, 3.0)
    account, _ = accounts(tmp_path).of(spec, RELATIVE, begun)
    assert account is not None
    assert account.phases == begun
    assert account.epsilon_pld == accounting.epsilon(begun, delta=1e-5, accountant="pld")


def test_trials_that_agree_share_one_account(tmp_path: Path) -> None:
    first, second, other = specs(tmp_path, FILE + "axes: {privacy.reserve: [null, 3, 4]}\n")
    known = accounts(tmp_path)
    assert known.of(first, RELATIVE)[0] is known.of(second, RELATIVE)[0]
    assert known.of(other, RELATIVE)[0] is not known.of(first, RELATIVE)[0]


def test_a_budget_out_of_reach_is_a_sentence(tmp_path: Path) -> None:
    (spec,) = specs(tmp_path, FILE.replace("10", "1e-9, delta: 1e-12"))
    account, problem = accounts(tmp_path).of(spec, RELATIVE)
    assert account is None
    assert "out of reach" in (problem or "")


@pytest.mark.parametrize(("steps", "expected"), [(2, 1), (20, 1), (21, 2), (1000, 50)])
def test_the_reserve_is_one_checkpoint_interval(steps: int, expected: int) -> None:
    phases = [replace(RELATIVE[0], steps=steps)]
    assert default_reserve(phases) == checkpoint_interval(phases) == expected
    free = [*phases, Phase(mechanism=NoRelease(), steps=10_000)]
    assert default_reserve(free) == checkpoint_interval(free) == expected, "what is free needs no reserve"


def test_a_single_release_has_no_reserve() -> None:
    """There is no part of it to do again; the free steps behind it are saved all the same."""
    phases = [replace(RELATIVE[0], steps=1), Phase(mechanism=NoRelease(), steps=199)]
    assert (default_reserve(phases), checkpoint_interval(phases)) == (0, 10)
