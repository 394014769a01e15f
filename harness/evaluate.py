"""Metrics of a kept generator. Runs at the end of training, and again without training when `evaluate` changes."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from trainables import registry
from trainables.base import DataInfo, Dataset, Sampler
from trainables.evaluation.metrics import DETAILS, METRICS

from .folders import Folders, file_hash
from .rows import is_reference, phases_of

if TYPE_CHECKING:
    import torch


class NoGenerator(ValueError):
    """The kept generator is missing or damaged; the message says what can be done."""


def load_kept_sampler(folders: Folders, job: Mapping[str, Any], device: torch.device, sha256: str | None = None) -> Sampler:
    """The sampler of the trial's kept generator. Raises ``NoGenerator`` if there is none, or not the one of hash ``sha256``."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = folders.generator(job["trial_id"])
    try:
        if sha256 is not None and file_hash(path) != sha256:
            raise NoGenerator(f"{path} is not what the training kept (its hash is another); {_LOST_GENERATOR}")
        tensors = load_file(path)
    except FileNotFoundError:
        raise NoGenerator(f"the trial has kept no generator, or {path} was deleted: {_LOST_GENERATOR}") from None
    except SafetensorError as error:
        raise NoGenerator(f"{path} cannot be read ({error}); {_LOST_GENERATOR}") from error
    config = registry.method(job["method"]).Config.model_validate(job["config"])
    return registry.training(job["method"]).load_sampler(config, DataInfo(**job["data"]["info"]), tensors, device)


_LOST_GENERATOR = (
    "bring it back from a copy and add --retry-failed. No budget is left to train it again; another seed has its own"
)


def evaluate_kept(
    folders: Folders, job: Mapping[str, Any], sampler: Sampler, test: Dataset, device: torch.device
) -> dict[str, Any]:
    """Metric columns of the trials table for a sampler, under the job's evaluation settings."""
    from trainables.evaluation import evaluate
    from trainables.evaluation.weights import InceptionWeights

    settings, directory = job["evaluation"], folders.stages / job["evaluation"]["stage"]
    weights = InceptionWeights(**settings["inception"]) if settings["inception"] else None
    began = time.perf_counter()
    info = DataInfo(**job["data"]["info"])
    metrics = evaluate.evaluate(
        sampler,
        info=info,
        reference=directory,
        test=test,
        samples=settings["samples"],
        seed=job["seed"],
        device=device,
        metrics=settings["metrics"],
        weights=weights,
    )
    columns = METRICS.keys() | DETAILS.keys()
    reference = json.loads((directory / "reference.json").read_text())
    return {
        **{name: value for name, value in metrics.items() if name in columns},
        "per_class": json.dumps({name: value for name, value in metrics.items() if name not in columns}),
        "real": json.dumps({"samples": reference["samples"], **reference["real"]}),
        "evaluation_id": settings["id"],
        "evaluation_samples": settings["samples"],
        "evaluation": json.dumps(
            {
                "metrics": settings["metrics"],
                "version": settings["version"],
                "inception_sha256": weights.sha256 if weights else None,
            }
        ),
        "evaluate_seconds": time.perf_counter() - began,
    }


def kept_steps(folders: Folders, trial_id: str) -> int | None:
    """Steps in the generator that the trial has kept; None if it has kept none that can be read."""
    from safetensors import SafetensorError, safe_open

    path = folders.generator(trial_id)
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="np") as file:
            return int(file.metadata()["steps"])
    except (SafetensorError, TypeError, KeyError):  # cut off, or without our metadata
        return None


def sample_rows(job: Mapping[str, Any], sampler: Sampler) -> list[dict[str, Any]]:
    """Rows of the samples table: ``keep_samples`` PNGs, the same number a class; real images only of public data."""
    import torch

    from trainables.coins import torch_coins

    from .store import png

    classes = job["data"]["info"]["classes"]
    each = -(-job["keep_samples"] // classes)
    if not each or (is_reference(phases_of(job)) and not job["data"]["public"]):
        return []
    labels = torch.arange(classes).repeat_interleave(each)
    images = sampler(labels, torch_coins(job["seed"], "kept samples"))
    pixels = (images.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
    rows = []
    for index, (label, array) in enumerate(zip(labels.tolist(), pixels, strict=True)):
        name = f"{job['trial_id']}_{label}_{index % each}.png"
        image = {"bytes": png(array), "path": name}
        rows.append({"trial_id": job["trial_id"], "label": label, "index": index % each, "image": image})
    return rows


def keep_generator(
    folders: Folders,
    trial_id: str,
    tensors: Mapping[str, torch.Tensor],
    metadata: Mapping[str, str],
    *,
    private: bool = False,
) -> None:
    """Write what a trainer keeps as safetensors, durably and by rename; for the owner's eyes only where it is ``private``."""
    from safetensors.torch import save

    on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    content = save(on_cpu, metadata=dict(metadata))
    folders.write(folders.generator(trial_id), lambda file: file.write(content), private=private)
