"""The audit command: every method of ours passes it, and every broken twin fails the check that is about its fault."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from trainables import registry
from trainables.privacy import audit

SMALL = ("--set", "train.generator=small", "--set", "train.critic.fakes=shared", "--set", "train.critic.steps=1")
ENERGY_CRITIC = (*SMALL, "--set", "train.critic.kind=energy")
LATENT = ("--set", "train.matching=latent", *ENERGY_CRITIC)
TWINS = {
    # twin: (what it was made of, arguments of both, the check)
    "noise_halved": ("dp_energy", (), "noise"),
    "batch_mean": ("dp_energy", (), "sensitivity"),
    "own_noise": ("dp_energy", (), "forced releases"),
    "batch_in_chunks": ("gs_wgan", ENERGY_CRITIC, "release counts"),
    "batch_too_large": ("gs_wgan", ENERGY_CRITIC, "release counts"),
    "latents_of_records": ("ef_dpgan", LATENT, "forced releases"),
    "persistent_critics": ("gs_wgan", SMALL, "stateless answers"),
    "shared_shard": ("gs_wgan", ENERGY_CRITIC, "disjoint parts"),
}


def statuses(capsys, *arguments: str) -> tuple[int, dict[str, str]]:
    """Exit code, and status by check."""
    code = audit.main([*arguments, "--json"])
    document = json.loads(capsys.readouterr().out)
    return code, {check["name"]: check["status"] for check in document["checks"]}


@pytest.mark.parametrize("name", registry.METHODS)
def test_our_methods_pass(capsys, name):
    code, found = statuses(capsys, name, *(SMALL if name in ("dpac", "ef_dpgan") else ()))
    assert code == audit.PASSED
    if name == "real":
        assert found == {"all": "not applicable"}
        return
    assert {found[check] for check in ("release counts", "noise", "forced releases", "sensitivity", "refusals")} == {"passed"}
    assert "failed" not in found.values()


@pytest.mark.parametrize("twin", TWINS)
def test_a_broken_twin_fails_the_check_about_its_fault(capsys, twin):
    _, arguments, check = TWINS[twin]
    code, found = statuses(capsys, f"broken_twins.{twin}", *arguments)
    assert code == audit.FAILED
    assert found[check] == "failed"


@pytest.mark.parametrize(
    ("method", "arguments"), sorted({(method, arguments) for method, arguments, _ in TWINS.values() if arguments})
)
def test_and_what_it_was_made_of_passes_under_the_same_arguments(capsys, method, arguments):
    assert "failed" not in statuses(capsys, method, *arguments)[1].values()


def test_a_trainer_that_hands_over_more_rows_is_stopped_by_the_sanitizer(capsys):
    assert audit.main(["broken_twins.batch_too_large", *ENERGY_CRITIC]) == audit.FAILED
    printed = capsys.readouterr().out
    assert (
        "PrivacyViolation at step 0: step 0 would release shape (2, 40, 1, 28, 28); declared is (2, 10, 1, 28, 28)" in printed
    )
    assert printed.splitlines()[-1] == "broken_twins.batch_too_large: FAILED: release counts"


def test_the_command_prints_a_line_a_check_and_exits_with_its_verdict():
    folder = Path(__file__).parent
    command = [sys.executable, "-m", "trainables.privacy.audit", "broken_twins.noise_halved"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder.parents[2]), str(folder)])}
    run = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder, check=False)
    assert run.returncode == audit.FAILED, run.stderr
    lines = run.stdout.splitlines()
    assert len(lines) == 11
    (failed,) = [line for line in lines if line.startswith("  FAILED")]
    assert "its noise has 0.50" in failed
    assert lines[-1] == "broken_twins.noise_halved: FAILED: noise"


def test_steps_that_were_not_reached_are_in_the_last_line(capsys):
    assert audit.main(["dp_energy", "--set", "train.steps=20"]) == audit.PASSED
    assert capsys.readouterr().out.splitlines()[-1] == "dp_energy: 8 checks passed, none failed in the first 12 steps"
    assert audit.main(["dp_energy", "--set", "train.steps=6"]) == audit.PASSED
    assert capsys.readouterr().out.splitlines()[-1] == "dp_energy: 8 checks passed, none failed"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nothing"], "method 'nothing' is not known; ours are gs_wgan"),
        (["no.such_package"], "cannot be imported"),
        (["dp_energy", "--preset", "huge"], "preset 'huge' of dp_energy is not known; expected one of digits"),
        (["dp_energy", "--set", "train.steps"], "write --set train.name=value"),
        (["dp_energy", "--set", "train.stepz=3"], "train.stepz is not a setting; did you mean steps?"),
        (["gs_wgan", "--set", "train.critic.q=3"], "train.critic.q is not a setting; expected one of kind, weight, channels"),
        (["dp_energy", "--set", "train.steps=x"], "train.steps is 'x': Input should be a valid integer"),
        (["dp_energy", "--source", "npz"], "--path is missing; npz expects a .npz file"),
        (["dp_energy", "--set", "train.slots=15"], "expected a multiple of the 10 classes"),
        (["dp_energy", "--size", "100000"], "write 1 to 1437"),
        (["dp_energy", "--source", "nowhere"], "expected digits"),
        (["gs_wgan", "--set", "train.shards=1000"], "shards is 1000, but there are 480 training records"),
    ],
)
def test_bad_input_gets_one_sentence(capsys, arguments, words):
    assert audit.main(arguments) == audit.BAD_INPUT
    printed = capsys.readouterr()
    assert words in printed.err
    assert printed.err.count("\n") == 1
    assert printed.out == ""


@pytest.mark.parametrize(
    "arguments",
    [
        ("ef_dpgan", "--preset", "published", "--set", "train.schedule=persistent", *ENERGY_CRITIC),
        ("gs_wgan", "--set", "train.schedule=round_robin", *ENERGY_CRITIC),
        ("gs_wgan", "--set", "train.schedule=round_robin", "--set", "train.generator_precision=bfloat16", *ENERGY_CRITIC),
        ("dp_energy", "--preset", "digits", "--seed", "3"),
        ("g_pate", "--preset", "published"),
    ],
    ids=" ".join,
)
def test_other_schedules_buffers_and_precisions_pass(capsys, arguments):
    code, found = statuses(capsys, *arguments)
    assert code == audit.PASSED
    assert found["stateless answers"] == "not applicable"
    assert found["sensitivity"] == found["forced releases"] == "passed"
