"""What the command says before anything runs: dry runs, bad input, imports, machines that lack a GPU."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console
from small_sweep import FILE, command, planned

from harness import sweep
from harness.cluster import Cluster
from harness.expand import expand
from harness.folders import Folders
from harness.plan import make_plan
from harness.screen import print_plan
from harness.spec import load_sweep


def test_a_dry_run_writes_no_sweep(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "small.yaml").write_text(FILE)
    document = planned(tmp_path, capsys)
    assert not (tmp_path / "results" / "small").exists()
    assert document["totals"]["to_train"] == 2
    assert "Balle" in document["proofs"]["gaussian"], "the name of a proof leads to its theorem"
    privacy = document["trials"][0]["privacy"]
    assert privacy["epsilon"] <= privacy["target_epsilon"] == 10
    assert {"trial_id", "cell_id", "seed", "method", "config", "status", "privacy"} <= set(document["trials"][0])
    assert {
        "target_epsilon",
        "epsilon",
        "delta",
        "accountant",
        "proof",
        "neighbours",
        "mechanism",
        "noise_multiplier",
        "effective_noise_multiplier",
        "epsilon_published",
    } <= set(privacy)


def test_no_noise_is_said_to_be_no_privacy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "small.yaml").write_text(FILE.replace("epsilon: 10, ", "noise_multiplier: 0, "))
    privacy = planned(tmp_path, capsys)["trials"][0]["privacy"]
    assert privacy["epsilon"] is None
    assert privacy["proof"] == "not_private"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("steps: 8", "stepz: 8"), "small.yaml:7:9: unknown key `stepz`"),
        (("source: digits", "source: digit"), "expected digits, fashion_mnist, mnist, "),
        (("epsilon: 10", "epsilon: -1"), "small.yaml:6:20"),
        (("method: dp_energy", "method: dp_enrgy"), "did you mean `dp_energy`"),
    ],
)
def test_bad_input_is_one_message_with_its_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: tuple[str, str], message: str
) -> None:
    (tmp_path / "small.yaml").write_text(FILE.replace(*change))
    assert command(tmp_path, "--dry-run") == sweep.BAD_INPUT
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_planning_imports_neither_torch_nor_ray(tmp_path: Path) -> None:
    import subprocess
    import sys

    (tmp_path / "small.yaml").write_text(FILE)
    code = (
        "import sys; from harness.sweep import main; "
        f"code = main([{str(tmp_path / 'small.yaml')!r}, '--dry-run', '--results', {str(tmp_path / 'results')!r}]); "
        "print(sorted({'torch', 'ray', 'torchvision'} & set(sys.modules))); sys.exit(code)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines()[-1] == "[]"


def test_a_reader_that_has_seen_enough_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(FILE)
    for arguments in (["--schema"], [str(tmp_path / "small.yaml"), "--dry-run", "--json", "--results", str(tmp_path)]):
        reader, writer = os.pipe()
        os.close(reader)
        command = [sys.executable, "-m", "harness.sweep", *arguments]
        run = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
        os.close(writer)
        assert (run.returncode, run.stderr) == (sweep.OK, "")


def test_a_sweep_for_gpus_says_what_to_run_where_there_is_none(
    ray_session: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    for name in ("grid.yaml", "grid_cpu.yaml"):
        (tmp_path / name).write_text(FILE + "resources: {gpu: 1}\n")
    asked = [str(tmp_path / "grid.yaml"), "--results", str(tmp_path / "results")]
    assert sweep.main(asked) == sweep.BAD_INPUT
    error = capsys.readouterr().err
    assert "asks for 1 GPU a trial and there is none here" in error
    assert f"; or run {tmp_path / 'grid_cpu.yaml'}, which is made for processors" in error
    assert len(error.splitlines()) == 1
    (tmp_path / "grid_cpu.yaml").unlink()
    assert sweep.main(asked) == sweep.BAD_INPUT
    assert "or run" not in capsys.readouterr().err


@pytest.mark.parametrize("on", ["slurm", "slrum:gpu", "./mine.yaml", "ray://host:10001"])
def test_where_to_run_is_checked_before_anything_else(tmp_path: Path, capsys: pytest.CaptureFixture[str], on: str) -> None:
    (tmp_path / "small.yaml").write_text(FILE)
    assert command(tmp_path, "--dry-run", "--on", on) == sweep.BAD_INPUT
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith(f"--on {on}: expected inline, local, auto, slurm:PROFILE or the HOST:PORT of a Ray cluster")


def test_a_narrow_terminal_cuts_no_digit_of_the_plan(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(FILE)
    sweep = load_sweep(tmp_path / "small.yaml")
    plan = make_plan(Folders(tmp_path / "results", "small"), expand(sweep))
    shown = io.StringIO()
    print_plan(plan, Console(file=shown, force_terminal=True, width=50, color_system=None))
    rows = [line for line in shown.getvalue().splitlines() if " of 10 " in line]
    assert len(rows) == 2
    assert all("noise_" in row and row.endswith("unknown") for row in rows)
