"""One trial in this process: steps under the guard, checkpoints, the kept generator, its metrics, and one row.

Order that keeps the account true (``ledger``): attempt taken -> {budget asked, block reserved durably, fence checked, steps,
checkpoint by rename} -> generator -> evaluation -> parts -> end record, last. Whatever happens, what was released is counted.
"""

from __future__ import annotations

import math
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainables import registry
from trainables.allocator import give_back_freed_memory, keep_freed_memory, spare_memory
from trainables.base import DataInfo, Dataset, phase_of
from trainables.privacy.budget import Budget

from . import rows, stages, store
from .account_files import LedgerError, controls_of
from .attempts import Attempt, AttemptRecord, Fenced, read_trial_attempts
from .evaluate import audit_kept, evaluate_kept, keep_generator, kept_steps, load_kept_sampler, sample_rows
from .folders import Folders, file_hash, storage_error
from .jobs import Report
from .ledger import check_account, trial_account
from .process import logger, logging_to, one_line, out_of_memory, peak_memory_mb, told_to_leave, versions
from .releases import drawn, executed_with_release

if TYPE_CHECKING:
    import torch

    from trainables.data.canaries import Planted
    from trainables.privacy.canary_scores import CanaryScores

STOP_INTERVAL_S = 1.0


def load_data(data: Mapping[str, Any], folders: Folders) -> tuple[Dataset, Dataset]:
    """(training split, test split) of a job's data, verified against the fingerprint of the plan. Raises ``ValueError``.

    What was decoded is hashed (60,000 images of 28x28 take 0.03 s), whatever is remembered of the files: one that was edited
    in place may look the same from outside.
    """
    return load_planted(data, folders)[:2]


def load_planted(data: Mapping[str, Any], folders: Folders) -> tuple[Dataset, Dataset, Planted | None]:
    """As ``load_data``, with what an audit has planted in them; None where it has planted nothing."""
    from trainables.data import sources

    from . import audits

    if data.get("audit"):
        planted = audits.load(data, folders)
        return planted.train, planted.test, planted
    train, test = sources.load(data["source"], **sources.settings_of(data))
    audits.check_content(sources.content_hash(train, test), data["fingerprint"], folders)
    return train, test, None


def prepare_torch(resources: Mapping[str, Any]) -> torch.device:
    """Give torch as many threads as the job has processors and memory that stays, and return its device: the GPU if it asks
    for one, else the CPU.

    Raises ``RuntimeError`` if it asks for a GPU and there is none.
    """
    import torch

    keep_freed_memory()
    torch.set_num_threads(max(1, int(resources["cpu"])))
    if not resources["gpu"]:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise RuntimeError(
            "resources.gpu is set but torch sees no GPU in this process: its build may be one for processors "
            "(torch.version.cuda is then None); otherwise set resources.gpu to 0"
        )
    # Reduced precision would round a record's gradients by who else is in its micro-batch.
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    return torch.device("cuda")


def run_trial(
    folders: Folders, job: Mapping[str, Any], report: Report, *, plan: Path, injected_seed: int | None = None
) -> dict[str, Any]:
    """Train and evaluate (or only evaluate again) one trial; return {status, message, log}. Raises ``Fenced`` if overtaken.

    ``injected_seed`` replaces privacy noise and secret draws by public coins, for tests; the row then has no epsilon.
    """
    if not plan.is_file():  # before the attempt makes folders anew
        raise FileNotFoundError(f"{plan} is gone: the results folder was moved or deleted while the sweep ran")
    train = job["kind"] == "train"
    attempt = Attempt.open(
        folders,
        job["trial_id"],
        kind=job["kind"],
        lineage=controls_of(job["data"]["lineage"]) if job.get("control") else job["data"]["lineage"],
        phases=rows.phases_of(job) if train else (),
        plan=plan,
        injected=injected_seed is not None,
        release=job["release"] if train else None,
    )
    log = folders.log(attempt.trial_id, attempt.number)
    with logging_to(log), spare_memory() as spare:
        run = _TrialRun(folders, job, attempt, report, plan.parent / "stop", injected_seed)
        try:
            run.read_the_past()
            status, fields = run.train_and_evaluate() if train else run.evaluate_again()
            message, resumable = run.note, True
        except Fenced:
            run.settle(stopped=False)
            raise
        except BaseException as error:
            spare.close()
            logger.error("attempt %d failed\n%s", attempt.number, traceback.format_exc())
            status, message, fields, resumable = failure_status(error), one_line(error), {}, True
            if _violation(error):  # whatever came of it afterwards: such a trial never goes on
                status, resumable = "failed", False
            if status == "failed" and resumable and (damaged := _damaged_stage(folders, job)):
                status, message = "lost", damaged
        give_back_freed_memory()  # to other processes, and this one may go on to another trial
        try:
            run.settle(stopped=status == "interrupted", violated=not resumable)
            run.commit(status, message, fields, resumable)
        except (OSError, MemoryError, LedgerError) as error:
            # Without an end record the attempt is closed as lost by the driver: its open reservations count whole.
            logger.error("attempt %d could not be closed\n%s", attempt.number, traceback.format_exc())
            return {"status": "failed", "message": message or one_line(error), "log": str(log)}
        logger.info("%s", status)
    return {"status": status, "message": message, "log": str(log), "step": run.step}


def failure_status(error: BaseException) -> str:
    """``oom`` where memory ran out, ``lost`` where the disk failed, ``interrupted`` for Ctrl-C in this process; or ``failed``.

    ``failed`` is a word on the trial, which does not run again unasked; the others are words on its machine.
    """
    if out_of_memory(error):
        return "oom"
    if storage_error(error):
        return "lost"
    return "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"


def _violation(error: BaseException) -> bool:
    """Whether ``error`` is a ``PrivacyViolation``, or came of one."""
    from trainables.privacy.sanitizer import PrivacyViolation

    found: list[BaseException | None] = [error]
    for link in found:  # grows while it is read; errors that name each other come once
        if isinstance(link, PrivacyViolation):
            return True
        if link is not None:
            found += [other for other in (link.__cause__, link.__context__) if all(other is not seen for seen in found)]
    return False


class Diverged(ValueError):
    """The generator's weights are not finite any more."""


def _check_finite(trainer: Any, step: int, error: Exception | None = None) -> None:
    """Raise ``Diverged`` (from ``error``) if what the trainer would release is not finite: more steps would buy nothing.

    It depends on releases alone, so stopping there says nothing of private values. It does depend on those releases: steps
    that are lost with it are no accident, and a trial that goes on after it is charged for them (``unsaved``).
    """
    import torch

    bad = [name for name, tensor in trainer.released().items() if not torch.isfinite(tensor).all()]
    if bad:
        raise Diverged(
            f"the training has diverged: at step {step} {bad[0]} is not finite. A smaller train.learning_rate may help"
        ) from error


def _damaged_stage(folders: Folders, job: Mapping[str, Any]) -> str | None:
    """What is wrong with a stage that the job rests on, and what to do; None where nothing is."""
    for identifier in (*job["stages"].values(), job["evaluation"]["stage"]):
        if found := stages.damage(folders.stages / identifier):
            release = stages.is_release(folders, identifier)
            return f"{found}; " + ("bring it back from a copy" if release else "the same command computes the stage again")
    return None


class _TrialRun:
    def __init__(
        self,
        folders: Folders,
        job: Mapping[str, Any],
        attempt: Attempt,
        report: Report,
        stop_file: Path,
        injected_seed: int | None,
    ) -> None:
        self.folders, self.job, self.attempt, self.report, self.stop_file = folders, job, attempt, report, stop_file
        self.injected_seed = injected_seed
        self.phases = rows.phases_of(job)
        self.phase_steps = [phase.steps for phase in self.phases]
        self.earlier = [0] * len(self.phases)
        self.executed = [0] * len(self.phases)
        self.was_stopped = False
        """Earlier attempts were stopped; it holds until this one takes a step."""
        self.unsaved = 0
        """Steps begun since the last checkpoint; whoever goes on from there goes on without them."""
        self.reserved_epsilon: float | None = None
        """Of what all attempts may have released so far; None where nothing is proven."""
        self.train_seconds = 0.0
        self.step = 0
        self.history: list[dict[str, Any]] = []
        self.parts: list[dict[str, str]] = []
        self.note: str | None = None
        """A sentence for the row of a trial that did not go as planned and came to its end all the same."""
        self.device_name: str | None = None
        self.reported = self.stop_checked = 0.0

    def read_the_past(self) -> None:
        """What earlier attempts have spent and left. Raises ``ValueError`` if they ran with other noise than this job has."""
        self.earlier = self._spent_before()
        ends = [record.end or {} for record in self._earlier_attempts()]
        self.train_seconds = max((end.get("train_seconds", 0.0) for end in ends), default=0.0)
        self.step = kept_steps(self.folders, self.attempt.trial_id) or 0
        self.reserved_epsilon = self._epsilon()

    def _spent_before(self) -> list[int]:
        """Raises ``LedgerError`` where the ledger knows of less than earlier attempts say."""
        account = trial_account(self.folders, self.attempt.trial_id, before=self.attempt.number)
        check_account(self.folders, self._earlier_attempts(), account)
        self.was_stopped = account is not None and account.stopped
        if account is None:
            release = self.job["release"]
            return [drawn(self.folders, release) if release else 0, *[0] * (len(self.phases) - 1)]
        if account.phases != self.phases or account.release != self.job["release"]:
            raise ValueError("earlier attempts of this trial ran with other mechanisms than the plan has; plan again")
        return list(executed_with_release(self.folders, account))

    def _earlier_attempts(self) -> list[AttemptRecord]:
        records = read_trial_attempts(self.folders, self.attempt.trial_id)
        return [record for record in records if record.number < self.attempt.number]

    # --- training -----------------------------------------------------------------------------------------------------

    def train_and_evaluate(self) -> tuple[str, dict[str, Any]]:
        device = self._device()
        train, test, planted = load_planted(self.job["data"], self.folders)
        status = self._train(train, test, planted, device)
        if status == "interrupted" or not self.step:
            return status, {}
        if self.stop_file.exists() or told_to_leave():
            return "interrupted", {}  # the generator is kept; the next attempt has only the evaluation to do
        return status, self.evaluate(test, planted)

    def _train(self, train: Dataset, test: Dataset, planted: Planted | None, device: torch.device) -> str:
        """Steps until all are done, the budget is spent or a stop is asked for; keeps checkpoint and generator."""
        import torch

        from trainables.privacy.canary_scores import CanaryScores
        from trainables.privacy.sanitizer import Sanitizer

        job, privacy, total = self.job, self.job["privacy"], sum(self.phase_steps)
        config = registry.method(job["method"]).Config.model_validate(job["config"])
        canaries = CanaryScores(planted.slots, planted.canaries, planted.stand_ins, device) if planted else None
        sanitizer = Sanitizer(
            self.phases, device=device, injected_seed=self.injected_seed, executed=self.earlier, canaries=canaries
        )
        inputs = {name: self.folders.stages / identifier for name, identifier in job["stages"].items()}
        trainer = registry.training(job["method"]).Trainer(config, train, sanitizer, inputs, device, job["seed"])
        budget = Budget(
            self.phases,
            target_epsilon=privacy["target_epsilon"],
            delta=privacy["delta"],
            accountant=privacy["accountant"],
            reserve_steps=privacy["reserve"],
        )
        checkpoint = self.folders.checkpoint(self.attempt.trial_id)
        state, kept = self._read_checkpoint(checkpoint), self.step
        if state is None and kept == total:
            logger.info("the generator of all %d steps is kept and there is no checkpoint: only its evaluation is left", kept)
            self.note = job["cut"]
            return "budget" if job["cut"] else "completed"
        self.step = self.phase_steps[0] if job["release"] else 0
        if state is not None:
            if state["injected"] != self.injected_seed:
                raise ValueError("the checkpoint was made with other injected noise: what comes of it would have no proof")
            rows.check_paid(f"the checkpoint {checkpoint}", rows.steps_a_phase(state["step"], self.phase_steps), self.earlier)
            trainer.load_state_dict(state["trainer"])
            self.step, self.history = state["step"], state["history"]
            if canaries is not None:
                canaries.add(state["canaries"])
            logger.info("resumed at step %d of %d; earlier attempts executed %s steps a phase", self.step, total, self.earlier)
        status = "completed"
        diagnostics: dict[str, float] = {}
        while status == "completed" and self.step < total:
            began = time.perf_counter()
            stop = min(total, (self.step // job["checkpoint_every"] + 1) * job["checkpoint_every"])
            block = [phase_of(step, self.phase_steps) for step in range(self.step, stop)]
            affordable = budget.affordable(self._all_executed(), block)
            if not affordable:
                status = "budget"
                logger.warning("the budget is spent: %s steps a phase executed in all attempts", self._all_executed())
                break
            self.attempt.reserve(self.step, self.step + affordable)
            self.reserved_epsilon = self._epsilon(block[:affordable])
            for phase in block[:affordable]:
                self.executed[phase] += 1  # counted before the noise is drawn
                self.unsaved += 1
                sanitizer.open_step(self.step, phase)
                try:
                    diagnostics = trainer.step()
                except Exception as error:
                    if not out_of_memory(error):  # there would be none to look with
                        _check_finite(trainer, self.step, error)  # one that has diverged fails somewhere else first
                    raise
                sanitizer.close_step()
                self.step += 1
                if self._stop_asked():
                    status = "interrupted"
                    break
                self._report_progress("training", {} if job.get("control") else diagnostics)
            self.train_seconds += time.perf_counter() - began
            _check_finite(trainer, self.step)
            if not job.get("control"):  # what an unprotected training shows at its steps is private
                self._record_history(trainer, diagnostics, test, device)
            self.attempt.check_fence(force=True)  # the files below have one name for all attempts
            self._save_checkpoint(checkpoint, trainer, canaries)
        if state is None and kept and kept >= self.step and status != "interrupted":
            self.step = kept  # started again without a checkpoint, and came no further than the generator that is there
        elif self.step and status != "interrupted":
            metadata = {"trial_id": self.attempt.trial_id, "attempt": str(self.attempt.number), "steps": str(self.step)}
            self.attempt.check_fence(force=True)
            private = rows.is_reference(self.phases) or bool(job.get("control"))
            if canaries is not None:
                said = canaries.state_dict()
                path = self.folders.canary_scores(self.attempt.trial_id)
                self.folders.write(path, lambda file: torch.save(said, file), private=True)
            keep_generator(self.folders, self.attempt.trial_id, trainer.released(), metadata, private=private)
        if status == "completed" and job["cut"]:
            status, self.note = "budget", self.note or job["cut"]
        return status

    def _read_checkpoint(self, path: Path) -> dict[str, Any] | None:
        """The state to go on from; None where there is none. One that is damaged is set aside: the trial starts again."""
        import zipfile

        import torch

        if not path.exists():
            return None
        try:
            with zipfile.ZipFile(path) as archive:  # torch.load does not look at the checksums that torch.save writes
                damaged = archive.testzip()
            if damaged is not None:
                raise zipfile.BadZipFile(f"checksum of {damaged}")
        except (OSError, MemoryError):
            raise
        except Exception as error:
            aside = path.with_suffix(f".{self.attempt.number}.damaged")
            path.replace(aside)
            self.note = (
                f"the checkpoint was damaged ({error}); the training began again at step 0 within what was left of its budget"
            )
            logger.warning("%s; what was there is in %s", self.note, aside)
            return None
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        return state

    def _record_history(self, trainer: Any, diagnostics: Mapping[str, float], test: Dataset, device: torch.device) -> None:
        import json

        row: dict[str, Any] = {"trial_id": self.attempt.trial_id, "attempt": self.attempt.number, "step": self.step}
        row |= {"epsilon": self._epsilon(), "metrics": json.dumps(_finite(diagnostics))}
        every = self.job["evaluation"]["every"]
        if every and self.step // every > (self.history[-1]["step"] if self.history else 0) // every:
            from trainables.evaluation import evaluate

            row |= evaluate.quick(
                trainer.sample,
                info=DataInfo(**self.job["data"]["info"]),
                reference=self.folders.stages / self.job["evaluation"]["stage"],
                test=test,
                samples=self.job["evaluation"]["samples"],
                seed=self.job["seed"],
                device=device,
            )
            row["evaluation_samples"] = min(evaluate.QUICK_SAMPLES, self.job["evaluation"]["samples"])
        self.history.append(row)

    def _save_checkpoint(self, path: Path, trainer: Any, canaries: CanaryScores | None) -> None:
        import torch

        state = {"step": self.step, "history": self.history, "injected": self.injected_seed, "trainer": trainer.state_dict()}
        if canaries is not None:
            state["canaries"] = canaries.state_dict()
        self.folders.write(path, lambda file: torch.save(state, file), private=True)
        self.unsaved = 0

    # --- evaluation ---------------------------------------------------------------------------------------------------

    def evaluate_again(self) -> tuple[str, dict[str, Any]]:
        """Other metrics for a generator that an earlier attempt has kept; its status stays what training made it."""
        _, test, planted = load_planted(self.job["data"], self.folders)
        whole = self.step == sum(self.phase_steps) and not self.job["cut"]
        return "completed" if whole else "budget", self.evaluate(test, planted)

    def evaluate(self, test: Dataset, planted: Planted | None) -> dict[str, Any]:
        """Metric columns of the kept generator; its samples become a part. Of a control the audit is all that is left."""
        device = self._device()
        self._report_progress("evaluating", {}, force=True)
        hashes = [record.end["generator"] for record in self._earlier_attempts() if record.end and record.end.get("generator")]
        again = self.job["kind"] == "evaluate" and hashes
        sampler = load_kept_sampler(self.folders, self.job, device, hashes[-1] if again else None)
        if self.job.get("control"):
            assert planted is not None
            fields = audit_kept(self.folders, self.job, sampler, planted, None)
            self.attempt.check_fence(force=True)
            self.folders.generator(self.attempt.trial_id).unlink()
            self.folders.canary_scores(self.attempt.trial_id).unlink()  # sums over private records, without noise
            return fields
        samples = sample_rows(self.job, sampler)
        fields = evaluate_kept(self.folders, self.job, sampler, test, device)
        if planted is not None:
            fresh = load_kept_sampler(self.folders, self.job, device)  # one of real images has handed out its own
            fields |= audit_kept(self.folders, self.job, fresh, planted, self._epsilon())
        self.attempt.check_fence(force=True)
        if samples:
            self.parts.append(store.write_part(self.folders, "samples", self._part_name(), samples))
        return fields

    # --- the end ------------------------------------------------------------------------------------------------------

    def settle(self, *, stopped: bool, violated: bool = False) -> None:
        """Put the true count of executed steps in the ledger."""
        self.attempt.settle(self.executed, stopped=stopped, violated=violated)

    def commit(self, status: str, message: str | None, fields: Mapping[str, Any], resumable: bool) -> None:
        """Write the row and the history as parts, then the end record that makes them count."""
        self.attempt.check_fence(force=True)
        self.earlier = self._spent_before()  # a process that was overtaken may have reserved after we looked
        earlier = self._earlier_attempts()
        dropped = self.unsaved if status in ("failed", "interrupted") else 0
        row = rows.trial_row(
            self.job,
            status=status,
            attempt=self.attempt.number,
            executed=self._all_executed(),
            kept_steps=kept_steps(self.folders, self.attempt.trial_id),
            stopped=status == "interrupted" or (self.was_stopped and not any(self.executed)),
            proven=self.injected_seed is None and all(record.proven for record in earlier),
            exogenous=not dropped and not any(record.dropped_steps for record in earlier),
            message=message,
            attempts=self.attempt.number,
            train_seconds=self.train_seconds,
            peak_memory_mb=peak_memory_mb(),
            device=self.device_name,
            **_provenance(self.job),
            **fields,
        )
        if self.job["kind"] == "train" or status in ("completed", "budget"):  # a failed look again leaves the row as it was
            self.parts.append(store.write_part(self.folders, "trials", self._part_name(), [row]))
        if self.history:
            self.parts.append(store.write_part(self.folders, "history", self._part_name(), self.history))
        outcome: dict[str, Any] = {"message": message, "resumable": resumable, "step": self.step}
        outcome |= {"train_seconds": self.train_seconds, "executed": list(self.executed), "unsaved": self.unsaved}
        generator = self.folders.generator(self.attempt.trial_id)
        if self.job["kind"] == "train" and status in ("completed", "budget") and generator.exists():
            outcome["generator"] = file_hash(generator)
        evaluated = fields.get("evaluation_id")
        self.attempt.close(status, parts=self.parts, evaluation_id=evaluated, **outcome)
        if status in ("completed", "budget"):
            self.folders.checkpoint(self.attempt.trial_id).unlink(missing_ok=True)

    # --- small things -------------------------------------------------------------------------------------------------

    def _device(self) -> torch.device:
        import torch

        device = prepare_torch(self.job["resources"])
        self.device_name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
        return device

    def _part_name(self) -> str:
        return f"{self.attempt.trial_id}.{self.attempt.number}"

    def _all_executed(self) -> list[int]:
        return [a + b for a, b in zip(self.earlier, self.executed, strict=True)]

    def _epsilon(self, block: Sequence[int] = ()) -> float | None:
        """Epsilon of all attempts, and of the steps of ``block`` (their phases) on top."""
        if self.injected_seed is not None or rows.is_reference(self.phases):
            return None
        return rows.epsilon_of(self.job, [done + block.count(phase) for phase, done in enumerate(self._all_executed())])

    def _stop_asked(self) -> bool:
        now = time.monotonic()
        if now - self.stop_checked < STOP_INTERVAL_S:
            return False
        self.stop_checked = now
        self.attempt.check_fence()
        return self.stop_file.exists() or told_to_leave()

    def _report_progress(self, status: str, metrics: Mapping[str, float], *, force: bool = False) -> None:
        now = time.monotonic()
        if force or now - self.reported >= STOP_INTERVAL_S:
            self.reported = now
            progress = {"step": self.step, "steps": sum(self.phase_steps), "epsilon": self.reserved_epsilon}
            progress["target_epsilon"] = self.job["privacy"]["target_epsilon"]
            self.report({**progress, "status": status, "metrics": dict(metrics)})


def _finite(values: Mapping[str, float]) -> dict[str, float | None]:
    """``values`` with None for what is not finite: JSON has no such numbers, and some readers of it refuse them.

    >>> _finite({"loss": float("nan"), "norm": 2.0})
    {'loss': None, 'norm': 2.0}
    """
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


def _provenance(job: Mapping[str, Any]) -> dict[str, str]:
    import json
    import socket

    return {"host": socket.gethostname(), "versions": json.dumps({**versions(), **job["provenance"]})}
