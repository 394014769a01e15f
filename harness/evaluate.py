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
from .stages import CANARY_SCORES

if TYPE_CHECKING:
    import torch

    from trainables.data.canaries import Planted


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


def evaluate_quickly(
    folders: Folders, job: Mapping[str, Any], sampler: Sampler, test: Dataset, device: torch.device
) -> dict[str, Any]:
    """Metric columns of the history table for a sampler that is still in training, of few samples."""
    from trainables.evaluation import evaluate

    settings = job["evaluation"]
    metrics = evaluate.quick(
        sampler,
        info=DataInfo(**job["data"]["info"]),
        reference=folders.stages / settings["stage"],
        test=test,
        samples=settings["samples"],
        seed=job["seed"],
        device=device,
    )
    return {**metrics, "evaluation_samples": min(evaluate.QUICK_SAMPLES, settings["samples"])}


def audit_kept(
    folders: Folders, job: Mapping[str, Any], sampler: Sampler, planted: Planted, epsilon: float | None
) -> dict[str, Any]:
    """The audit's columns of the trials table; ``epsilon`` is the proven one, None where there is none."""
    from trainables.evaluation import leakage

    privacy = job["privacy"]
    found = leakage.audit(
        planted,
        sampler,
        _grey_box(folders, job, planted),
        samples=job["evaluation"]["samples"],
        seed=job["seed"],
        info=DataInfo(**job["data"]["info"]),
        guesses=job["audit"]["guesses"],
        confidence=job["audit"]["confidence"],
        delta=privacy["delta"],
        neighbours=privacy["neighbours"],
        epsilon=epsilon,
    )
    return {
        "audit": json.dumps({"kind": job["data"]["audit"]["kind"], **found}),
        "audit_epsilon_black_box": found["black_box"]["bound"],
        "audit_epsilon_grey_box": found["grey_box"].get("bound"),
        "evaluation_id": job["evaluation"]["id"],
    }


def _grey_box(folders: Folders, job: Mapping[str, Any], planted: Planted) -> torch.Tensor | None:
    """Scores ``[m]`` of what was released in training and before it; None where the method says nothing of single records.

    Raises ``ValueError`` where what training has kept of it is gone.
    """
    import torch

    from trainables.privacy.canary_scores import CanaryScores

    paths = [folders.canary_scores(job["trial_id"])]
    if job["release"]:
        paths.append(folders.stages / job["release"] / CANARY_SCORES)
    scores = CanaryScores(planted.slots, planted.canaries, planted.stand_ins)
    for path in paths:
        if not path.exists():
            raise ValueError(
                f"{path} is gone: it is what the releases said of the canaries, and no training makes it again; bring it back "
                "from a copy, or leave the section audit's settings as they were"
            )
        scores.add(torch.load(path, weights_only=True))
    return scores.scores() if scores.releases else None


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
