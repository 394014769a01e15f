"""The folder of a run on Slurm: nobody else may write above it, and its path means the same to everybody."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from small_sweep import FILE, command

from harness.connection import ClusterError
from harness.folders import Folders
from harness.slurm_cluster import new_run


def test_folders_of_ones_own_are_not_the_groups_whatever_the_umask(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(FILE)
    folders = Folders(tmp_path / "results", "small")
    before = os.umask(0o002)
    try:
        command(tmp_path, "--dry-run")  # makes the root, for what it remembers
        folders.make_private()
        run = new_run(folders.sweep)
    finally:
        os.umask(before)
    made = [folders.root, folders.sweep, folders.sweep / "clusters", run.path]
    assert [oct(folder.stat().st_mode & 0o777) for folder in made] == ["0o755", "0o755", "0o755", "0o700"]


def test_folders_that_others_may_write_are_named_at_once_with_what_to_type(tmp_path: Path) -> None:
    sweep = tmp_path / "my results" / "small"
    (sweep / "clusters").mkdir(parents=True)
    sweep.parent.chmod(0o775)
    (sweep / "clusters").chmod(0o777)
    with pytest.raises(ClusterError) as caught:
        new_run(sweep)
    assert f"type `chmod go-w '{sweep.parent}' '{sweep / 'clusters'}'`" in str(caught.value)
    assert not any((sweep / "clusters").iterdir())


@pytest.mark.parametrize("sign", ["%", ":", "\\"])
def test_a_path_that_sbatch_or_python_reads_otherwise(tmp_path: Path, sign: str) -> None:
    with pytest.raises(ClusterError, match="another folder with --results"):
        new_run(tmp_path / f"a{sign}j" / "small")
    assert not list(tmp_path.iterdir())


def test_a_dry_run_says_so_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "small.yaml").write_text(FILE)
    (tmp_path / "mine.yaml").write_text("worker: {cpus: 1, walltime: 1h}\n")
    assert command(tmp_path, "--dry-run", "--on", f"slurm:{tmp_path / 'mine.yaml'}", "--results", str(tmp_path / "a%j")) == 2
    assert "has a `%` in its path" in capsys.readouterr().err


def test_results_that_are_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "small.yaml").write_text(FILE)
    (tmp_path / "results").touch()
    assert command(tmp_path) == 2
    assert capsys.readouterr().err == f"{tmp_path / 'results'}: is a file; name a folder with --results\n"
