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
from trainables.base import Dataset, phase_of
from trainables.privacy.budget import Budget

from . import rows, store
from .account_files import LedgerError, controls_of
from .attempts import Attempt, Fenced
from .checkpoints import read_checkpoint, set_aside_damaged
from .evaluate import audit_kept, evaluate_kept, evaluate_quickly, keep_generator, kept_steps, load_kept_sampler, sample_rows
from .failures import check_finite, damaged_stage, failure_status, is_violation
from .folders import Folders, file_hash
from .job_data import load_planted
from .jobs import Report
from .process import logger, logging_to, one_line, out_of_memory, peak_memory_mb, told_to_leave, versions
from .spending import Spending

if TYPE_CHECKING:
    import torch

    from trainables.data.canaries import Planted
    from trainables.privacy.canary_scores import CanaryScores
    from trainables.privacy.sanitizer import Sanitizer

STOP_INTERVAL_S = 1.0


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
            run.spending.settle(stopped=False)
            raise
        except BaseException as error:
            spare.close()
            logger.error("attempt %d failed\n%s", attempt.number, traceback.format_exc())
            status, message, fields, resumable = failure_status(error), one_line(error), {}, True
            if is_violation(error):  # whatever came of it afterwards: such a trial never goes on
                status, resumable = "failed", False
            if status == "failed" and resumable and (damaged := damaged_stage(folders, job)):
                status, message = "lost", damaged
        give_back_freed_memory()  # to other processes, and this one may go on to another trial
        try:
            run.spending.settle(stopped=status == "interrupted", violated=not resumable)
            run.commit(status, message, fields, resumable)
        except (OSError, MemoryError, LedgerError) as error:
            spare.close()
            # Without an end record the attempt is closed as lost by the driver: its open reservations count whole.
            logger.error("attempt %d could not be closed\n%s", attempt.number, traceback.format_exc())
            ended = "oom" if out_of_memory(error) else "failed"
            return {"status": ended, "message": message or one_line(error), "log": str(log)}
        logger.info("%s", status)
    return {"status": status, "message": message, "log": str(log), "step": run.step}


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
        self.spending = Spending(folders, job, attempt, injected=injected_seed is not None)
        self.phases = self.spending.phases
        self.phase_steps = [phase.steps for phase in self.phases]
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
        self.spending.read_earlier()
        ends = [record.end or {} for record in self.spending.earlier_attempts()]
        self.train_seconds = max((end.get("train_seconds", 0.0) for end in ends), default=0.0)
        self.step = kept_steps(self.folders, self.attempt.trial_id) or 0
        self.reserved_epsilon = self.spending.epsilon()

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
        from trainables.privacy.canary_scores import CanaryScores
        from trainables.privacy.sanitizer import Sanitizer

        job, privacy, total, spending = self.job, self.job["privacy"], sum(self.phase_steps), self.spending
        config = registry.method(job["method"]).Config.model_validate(job["config"])
        canaries = CanaryScores(planted.slots, planted.canaries, planted.stand_ins, device) if planted else None
        sanitizer = Sanitizer(
            self.phases, device=device, injected_seed=self.injected_seed, executed=spending.earlier, canaries=canaries
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
        checkpoint, kept = self.folders.checkpoint(self.attempt.trial_id), self.step
        self.note = set_aside_damaged(checkpoint, self.attempt.number)
        state = read_checkpoint(checkpoint)
        if state is None and kept == total:
            logger.info("the generator of all %d steps is kept and there is no checkpoint: only its evaluation is left", kept)
            self.note = job["cut"]
            return "budget" if job["cut"] else "completed"
        self.step = self.phase_steps[0] if job["release"] else 0
        if state is not None:
            self._go_on_from(state, checkpoint, trainer, canaries)
        status = "completed"
        while status == "completed" and self.step < total:
            began = time.perf_counter()
            stop = min(total, (self.step // job["checkpoint_every"] + 1) * job["checkpoint_every"])
            block = [phase_of(step, self.phase_steps) for step in range(self.step, stop)]
            affordable = budget.affordable(spending.total, block)
            if not affordable:
                status = "budget"
                logger.warning("the budget is spent: %s steps a phase executed in all attempts", spending.total)
                break
            self.attempt.reserve(self.step, self.step + affordable)
            self.reserved_epsilon = spending.epsilon(block[:affordable])
            diagnostics, stopped = self._take_steps(block[:affordable], trainer, sanitizer)
            if stopped:
                status = "interrupted"
            self.train_seconds += time.perf_counter() - began
            check_finite(trainer, self.step)
            if not job.get("control"):  # what an unprotected training shows at its steps is private
                self._record_history(trainer, diagnostics, test, device)
            self.attempt.check_fence(force=True)  # the files below have one name for all attempts
            self._save_checkpoint(checkpoint, trainer, canaries)
        if state is None and kept and kept >= self.step and status != "interrupted":
            self.step = kept  # started again without a checkpoint, and came no further than the generator that is there
        elif self.step and status != "interrupted":
            self._keep(trainer, canaries)
        if status == "completed" and job["cut"]:
            status, self.note = "budget", self.note or job["cut"]
        return status

    def _go_on_from(self, state: Mapping[str, Any], path: Path, trainer: Any, canaries: CanaryScores | None) -> None:
        """Take the checkpoint at ``path`` over. Raises ``LedgerError`` where nobody has paid for all of it."""
        if state["injected"] != self.injected_seed:
            raise ValueError("the checkpoint was made with other injected noise: what comes of it would have no proof")
        earlier = self.spending.earlier
        rows.check_paid(f"the checkpoint {path}", rows.steps_a_phase(state["step"], self.phase_steps), earlier)
        trainer.load_state_dict(state["trainer"])
        self.step, self.history = state["step"], state["history"]
        if canaries is not None:
            canaries.add(state["canaries"])
        logger.info(
            "resumed at step %d of %d; earlier attempts executed %s steps a phase", self.step, sum(self.phase_steps), earlier
        )

    def _take_steps(self, block: Sequence[int], trainer: Any, sanitizer: Sanitizer) -> tuple[dict[str, float], bool]:
        """Take the steps of a reserved block (their phases); (diagnostics of the last one, whether a stop was asked for)."""
        diagnostics: dict[str, float] = {}
        for phase in block:
            self.spending.begin_step(phase)
            sanitizer.open_step(self.step, phase)
            try:
                diagnostics = trainer.step()
            except Exception as error:
                if not out_of_memory(error):  # there would be none to look with
                    check_finite(trainer, self.step, error)  # one that has diverged fails somewhere else first
                raise
            sanitizer.close_step()
            self.step += 1
            if self._stop_asked():
                return diagnostics, True
            self._report_progress("training", {} if self.job.get("control") else diagnostics)
        return diagnostics, False

    def _keep(self, trainer: Any, canaries: CanaryScores | None) -> None:
        """Write the generator, and what was released of an audit's canaries."""
        import torch

        metadata = {"trial_id": self.attempt.trial_id, "attempt": str(self.attempt.number), "steps": str(self.step)}
        self.attempt.check_fence(force=True)
        private = rows.is_reference(self.phases) or bool(self.job.get("control"))
        if canaries is not None:
            said = canaries.state_dict()
            path = self.folders.canary_scores(self.attempt.trial_id)
            self.folders.write(path, lambda file: torch.save(said, file), private=True)
        keep_generator(self.folders, self.attempt.trial_id, trainer.released(), metadata, private=private)

    def _record_history(self, trainer: Any, diagnostics: Mapping[str, float], test: Dataset, device: torch.device) -> None:
        import json

        row: dict[str, Any] = {"trial_id": self.attempt.trial_id, "attempt": self.attempt.number, "step": self.step}
        row |= {"epsilon": self.spending.epsilon(), "metrics": json.dumps(_finite(diagnostics))}
        every = self.job["evaluation"]["every"]
        if every and self.step // every > (self.history[-1]["step"] if self.history else 0) // every:
            row |= evaluate_quickly(self.folders, self.job, trainer.sample, test, device)
        self.history.append(row)

    def _save_checkpoint(self, path: Path, trainer: Any, canaries: CanaryScores | None) -> None:
        import torch

        state = {"step": self.step, "history": self.history, "injected": self.injected_seed, "trainer": trainer.state_dict()}
        if canaries is not None:
            state["canaries"] = canaries.state_dict()
        self.folders.write(path, lambda file: torch.save(state, file), private=True)
        self.spending.unsaved = 0

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
        ends = [record.end or {} for record in self.spending.earlier_attempts()]
        hashes = [end["generator"] for end in ends if end.get("generator")]
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
            fields |= audit_kept(self.folders, self.job, fresh, planted, self.spending.epsilon())
        self.attempt.check_fence(force=True)
        if samples:
            self.parts.append(store.write_part(self.folders, "samples", self._part_name(), samples))
        return fields

    # --- the end ------------------------------------------------------------------------------------------------------

    def commit(self, status: str, message: str | None, fields: Mapping[str, Any], resumable: bool) -> None:
        """Write the row and the history as parts, then the end record that makes them count."""
        self.attempt.check_fence(force=True)
        self.spending.read_earlier()  # a process that was overtaken may have reserved after we looked
        earlier = self.spending.earlier_attempts()
        dropped = self.spending.unsaved if status in ("failed", "interrupted") else 0
        row = rows.trial_row(
            self.job,
            status=status,
            attempt=self.attempt.number,
            executed=self.spending.total,
            kept_steps=kept_steps(self.folders, self.attempt.trial_id),
            stopped=status == "interrupted" or (self.spending.was_stopped and not any(self.spending.executed)),
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
        outcome |= {"train_seconds": self.train_seconds}
        outcome |= {"executed": list(self.spending.executed), "unsaved": self.spending.unsaved}
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
