"""Whether a trial's generator may leave the building, and everything that has to be said of it if it does."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainables import registry
from trainables.base import DataInfo
from trainables.privacy.accounting import Accountant
from trainables.privacy.mechanism import Phase

from . import rows, store
from .account_files import LedgerError
from .attempts import AttemptRecord, read_trial_attempts
from .folders import Folders
from .ledger import check_account, trial_account, violated
from .planfile import read_job
from .releases import executed_with_release

if TYPE_CHECKING:
    import torch

    from trainables.standalone.recipe import Recipe


class Refused(ValueError):
    """It may not leave; the message says why in one sentence."""


@dataclass(frozen=True, kw_only=True)
class Releasable:
    """A trial whose generator may leave."""

    folders: Folders
    job: Mapping[str, Any]
    row: Mapping[str, Any]
    """Its row of the trials table."""
    phases: tuple[Phase, ...]
    """The mechanisms as they ran."""
    executed: tuple[int, ...]
    """Steps a phase of all attempts whose noise was or may have been drawn; the planned ones where somebody stopped it."""
    epsilon: float
    """Of these steps, by the trial's accountant."""
    tensors: Mapping[str, torch.Tensor]
    """What the generator consists of; nothing else leaves."""
    recipe: Recipe

    @property
    def info(self) -> DataInfo:
        return DataInfo(**self.job["data"]["info"])

    @property
    def public(self) -> bool:
        """Whether the data are declared public."""
        return bool(self.job["data"].get("public"))

    @property
    def delta(self) -> float:
        return float(self.job["privacy"]["delta"])

    @property
    def accountant(self) -> Accountant:
        accountant: Accountant = self.job["privacy"]["accountant"]
        return accountant


def releasable(results: str | Path, trial_id: str) -> Releasable:
    """The trial, where its generator may leave. Raises ``Refused``."""
    try:
        folders = store.folders_of(results)
        _refuse_other_things(folders, trial_id)
        if any(folders.sealed.glob("*")):
            raise Refused(
                f"a private selection of {folders.name} has not ended, so what was seen of the sweep is not known: type its "
                f"command again, or delete {folders.sealed} if you give it up (its trials then count as seen)"
            )
        records = read_trial_attempts(folders, trial_id)
        job = _finished(folders, trial_id, records)
        phases, executed, epsilon = _proven(folders, job, records)
        steps, tensors = _kept(folders, trial_id, records)
        rows.check_paid("the kept generator", rows.steps_a_phase(steps, [phase.steps for phase in phases]), executed)
        (row,) = store.read_committed(folders, "trials", {trial_id: records}).to_pylist()
    except (LedgerError, FileNotFoundError) as error:
        raise Refused(str(error)) from error
    recipe = _recipe(job)
    try:
        needed = recipe.needed(tensors)
    except ValueError as error:
        raise Refused(f"{folders.generator(trial_id)} is not what the training keeps: {error}") from error
    return Releasable(
        folders=folders,
        job=job,
        row=row,
        phases=phases,
        executed=executed,
        epsilon=epsilon,
        tensors=needed,
        recipe=recipe,
    )


_NEVER = {
    "checkpoints": "a checkpoint holds optimiser states, private models and error buffers that no noise protects",
    "stages": "a stage holds models or statistics of private data that no noise protects",
    "scratch": "scratch files are parts of private ones",
    "sealed": "nobody is to see the trials of a private selection before it has ended",
    "set_aside": "what was set aside is in no account",
    "logs": "a log names machines, times and errors",
    "attempts": "an attempt's record names machines and times",
    "launches": "a plan names paths and the fingerprint of the data",
    "ledger": "the ledger stays with the data",
    "real_samples": "these are real images",
    "generators": "a generator leaves with its privacy statement, named by its trial's id",
    "samples": "images leave with the generator's privacy statement, by --images N",
}


def _refuse_other_things(folders: Folders, trial_id: str) -> None:
    """Raise ``Refused`` where what was named is no trial: a file, a folder or a stage."""
    wanted = "name a trial by its id; its private generator is all that leaves"
    parts = [part for part in Path(trial_id).parts if part in _NEVER]
    if parts:
        raise Refused(f"{trial_id} cannot leave: {_NEVER[parts[-1]]}; {wanted}")
    if (folders.stages / trial_id).is_dir():
        raise Refused(f"{trial_id} is a shared stage and cannot leave: {_NEVER['stages']}; {wanted}")
    if len(Path(trial_id).parts) != 1 or Path(trial_id).suffix or trial_id in ("..", folders.name) or Path(trial_id).exists():
        raise Refused(f"{trial_id} is a file or folder, not a trial; {wanted}")


def _finished(folders: Folders, trial_id: str, records: Sequence[AttemptRecord]) -> Mapping[str, Any]:
    """The job of a trial whose training came to its end, whole or with its budget. Raises ``Refused`` for any other."""
    if not records:
        raise Refused(f"{folders.sweep} has no trial {trial_id}; {_those_that_are(folders)}")
    if any(violated(folders, record) or not (record.end or {}).get("resumable", True) for record in records):
        raise Refused(f"trial {trial_id} broke what its mechanism declares, so nothing is proven of its generator")
    last = records[-1]
    if last.end is None:
        raise Refused(f"trial {trial_id} is running, or its process is gone: run the sweep's command to the end first")
    trained = [record for record in records if record.start["kind"] == "train" and record.status in ("completed", "budget")]
    if not trained:
        raise Refused(f"trial {trial_id} is {last.status}; only a trial that is completed, or has spent its budget, may leave")
    return read_job(folders.sweep / last.start["plan"], trial_id)


def _those_that_are(folders: Folders) -> str:
    trials = store.read_committed(folders, "trials").to_pylist()
    found = [f"{row['trial_id']} ({row['label']})" for row in trials if row["status"] in ("completed", "budget")]
    more = f" and {len(found) - 12} more" if len(found) > 12 else ""
    return f"those that are completed: {', '.join(found[:12])}{more}" if found else "none is completed yet"


def _proven(
    folders: Folders, job: Mapping[str, Any], records: Sequence[AttemptRecord]
) -> tuple[tuple[Phase, ...], tuple[int, ...], float]:
    """(mechanisms, steps a phase that are paid for, epsilon) as the ledger has them. Raises ``Refused`` without a proof."""
    trial_id, planned = job["trial_id"], rows.phases_of(job)
    if rows.is_reference(planned):
        raise Refused(f"trial {trial_id} keeps real images, in the place of generated ones; nothing protects them")
    if job.get("control"):
        raise Refused(f"trial {trial_id} is the control of an audit: it was trained without noise and is kept from everyone")
    if not all(record.proven for record in records):
        raise Refused(f"the noise of trial {trial_id} was injected by a test, so nothing is proven of its generator")
    account = trial_account(folders, trial_id)
    check_account(folders, records, account)
    if account is None or account.phases != planned:
        raise Refused(f"the ledger has other mechanisms for trial {trial_id} than its plan: bring the ledger back from a copy")
    executed = executed_with_release(folders, account)
    if account.stopped:
        executed = tuple(max(done, phase.steps) for done, phase in zip(executed, account.phases, strict=True))
    epsilon = rows.epsilon_of(job, executed)
    if not math.isfinite(epsilon):
        raise Refused(f"trial {trial_id} has no proven epsilon: it was trained without noise")
    return account.phases, executed, epsilon


def _kept(folders: Folders, trial_id: str, records: Sequence[AttemptRecord]) -> tuple[int, Mapping[str, torch.Tensor]]:
    """(steps, tensors) of the kept generator. Raises ``Refused`` where it is not, bit for bit, what the training kept."""
    import json

    from safetensors.torch import load

    path = folders.generator(trial_id)
    hashes = [record.end["generator"] for record in records if record.end and record.end.get("generator")]
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise Refused(f"trial {trial_id} has kept no generator, or {path} was deleted: bring it back from a copy") from None
    if not hashes:
        raise Refused(f"no record says what the training of trial {trial_id} kept, so {path} cannot be checked")
    if hashlib.sha256(content).hexdigest() != hashes[-1]:
        raise Refused(f"{path} is not what the training kept (its hash is another): bring it back from a copy")
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return int(header["__metadata__"]["steps"]), load(content)


def _recipe(job: Mapping[str, Any]) -> Recipe:
    method, training = registry.method(job["method"]), registry.training(job["method"])
    if job["version"] != method.VERSION:
        raise Refused(
            f"the trial was made by version {job['version']} of {job['method']}, and here is version {method.VERSION}: release "
            "it with the dpsweep that made it"
        )
    if not hasattr(training, "recipe"):
        raise Refused(f"{job['method']} has no recipe(config, info) in its module training, which a sampler is written from")
    recipe: Recipe = training.recipe(method.Config.model_validate(job["config"]), DataInfo(**job["data"]["info"]))
    return recipe
