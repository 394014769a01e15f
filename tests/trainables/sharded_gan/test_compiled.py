"""generator_compiled: the same function up to rounding, by the real compiler."""

import shutil

import pytest
import torch
from engine_runs import Recorder, compute_stages, equal, random_data, settings, start

from trainables.sharded_gan.method import Config

COMPILED = {"generator_compiled": True}
ENERGY = {"critic": {"kind": "energy"}}


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_generator_is_the_same_up_to_rounding(tmp_path, monkeypatch):
    """Draws and releases stay outside of what is compiled: the sanitizer refuses them there."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    import torch._inductor.config as inductor

    monkeypatch.setattr(inductor, "compile_threads", 1)
    monkeypatch.setattr(inductor.cpp, "simdlen", 0)  # it tries the vector units of this machine first, which takes longest
    data, runs = random_data(), []
    for change in ({}, COMPILED):
        config = settings(ENERGY, change)
        run = start(config, data, compute_stages("gs_wgan", config, data, tmp_path), sanitizer=Recorder)
        run.advance(0, 2)
        runs.append(run)
    plain, compiled = runs
    for expected, found in zip(plain.sanitizer.answers, compiled.sanitizer.answers, strict=True):
        assert torch.allclose(expected, found, atol=1e-5)
    kept = compiled.trainer.released()
    assert not equal(kept, plain.trainer.released())  # it was compiled
    for name, tensor in plain.trainer.released().items():
        assert torch.allclose(kept[name], tensor, atol=1e-3), name


def test_trials_that_do_not_compile_keep_their_ids():
    assert "generator_compiled" not in Config().model_dump(mode="json")
    assert Config(**COMPILED).model_dump(mode="json")["generator_compiled"] is True


def test_a_machine_without_a_compiler_says_what_to_install(tmp_path, monkeypatch):
    """What torch looks for on Linux: CXX, which may have arguments, or else g++ and nothing else."""
    config, data = settings(ENERGY, COMPILED), random_data()
    for name in ("clang++", "c++17"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(ValueError, match=r"no C\+\+ compiler 'g\+\+': install"):
        start(config, data, {})
    monkeypatch.setenv("CXX", "c++17 -O1")
    start(config, data, {})
