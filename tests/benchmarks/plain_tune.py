"""Trials through Ray Tune alone, for overhead.py: ``plain_tune.py RESULTS FOLDER SAMPLES SEEDS``."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"  # as in a sweep: the files of its loggers are no part of a trial
os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])

AT_ONCE = 2


def train(config: dict[str, Any]) -> None:
    """Train and evaluate the generator of ``overhead.py`` with the noise that the sweep found for its budget."""
    import torch
    from ray import tune

    from trainables.data.sources import load
    from trainables.dp_energy import method, training
    from trainables.evaluation.evaluate import evaluate
    from trainables.privacy.mechanism import scale_noise
    from trainables.privacy.sanitizer import Sanitizer

    torch.set_num_threads(1)
    device = torch.device("cpu")
    data, test = load("digits")
    settings = method.Config.model_validate(config["settings"])
    phases = scale_noise(method.mechanism(settings, data.info, "replace_one"), config["noise_multiplier"])
    sanitizer = Sanitizer(phases)
    trainer = training.Trainer(settings, data, sanitizer, {}, device, config["seed"])
    for step in range(settings.steps):
        sanitizer.open_step(step, 0)
        trainer.step()
        sanitizer.close_step()
    shared = {"info": data.info, "reference": Path(config["reference"]), "test": test, "device": device}
    tune.report(evaluate(trainer.sample, samples=config["samples"], seed=config["seed"], **shared))


def main(results: Path, folder: Path, samples: int, seeds: list[int]) -> None:
    import ray
    from ray import tune

    from harness import store

    (trial, *_) = store.read(results / "overhead").trials.to_dict("records")
    (reference,) = (results / "stages").iterdir()
    constant = {
        "settings": json.loads(trial["config"]),
        "noise_multiplier": trial["noise_multiplier"],
        "reference": str(reference),
        "samples": samples,
    }
    ray.init(include_dashboard=False, num_cpus=AT_ONCE, logging_level="ERROR", log_to_driver=False)
    found = tune.Tuner(
        tune.with_resources(train, {"cpu": 1}),
        param_space={**constant, "seed": tune.grid_search(seeds)},
        tune_config=tune.TuneConfig(reuse_actors=False),
        run_config=tune.RunConfig(name="plain", storage_path=str(folder), verbose=0),
    ).fit()
    accuracies = [result.metrics["gen2real_cnn"] for result in found]
    print(accuracies)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), json.loads(sys.argv[4]))
