"""What a person watches while jobs run, how Ctrl-C stops them, and the table at the end."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from .jobs import Event, Job

ROWS = 20
"""Most jobs that the live table shows; the line under it counts all."""

_STYLES = {
    "running": "cyan",
    "completed": "green",
    "interrupted": "yellow",
    "budget": "yellow",
    "failed": "red",
    "oom": "red",
    "lost": "red",
}
FOLDED = 24
"""Characters that a folded label keeps in a line of the closing table, at least."""
_BAD = ("failed", "oom", "lost")

METRIC_HEADINGS = {
    "gen2real_cnn": "gen2real\ncnn",
    "gen2real_mlp": "gen2real\nmlp",
    "gen2real_logreg": "gen2real\nlogreg",
    "gen2real_lenet": "gen2real\nlenet",
    "gen2real_mlp_sklearn": "gen2real\nsklearn",
    "real2gen_cnn": "real2gen\ncnn",
    "real2gen_lenet": "real2gen\nlenet",
    "real2gen_mlp_sklearn": "real2gen\nsklearn",
    "fd_dataset_classifier": "fd dataset\nclassifier",
    "is_dataset_classifier": "is dataset\nclassifier",
    "fid_inception": "fid",
    "is_inception": "is",
    "kid_inception": "kid",
    "precision_inception": "precision",
    "recall_inception": "recall",
    "fd_efficientnet_lite0": "fd\nefficientnet",
    "kd_efficientnet_lite0": "kd\nefficientnet",
    "precision_efficientnet_lite0": "precision\nefficientnet",
    "recall_efficientnet_lite0": "recall\nefficientnet",
    "pairwise_distance_match_pixels": "distance\nmatch",
    "near_duplicates_pixels": "near\nduplicates",
    "density_dataset_classifier": "density",
    "coverage_dataset_classifier": "coverage",
    "sharpness_match_laplacian": "sharpness\nmatch",
    "memorization_pixels": "memorization",
}
"""Metric columns as tables on a screen call them; one that no row has is left out."""


@contextlib.contextmanager
def stop_on_signals(stop_file: Path, say: Callable[[str], None] | None = None) -> Iterator[None]:
    """Make ``stop_file`` on the first Ctrl-C or SIGTERM and raise ``KeyboardInterrupt`` on the second.

    The stop file keeps new jobs from starting and lets running ones write a checkpoint and end. ``say`` gets one sentence
    (default: to standard error). The handlers before are put back at the end. Only the main thread can install handlers;
    in any other this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    told = False

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal told
        if told:
            raise KeyboardInterrupt
        told = True
        with contextlib.suppress(OSError):  # a results folder that has vanished is not made again
            stop_file.touch()
        (say or _to_stderr)(
            "stopping: running trials write a checkpoint and end, no new one starts; the same command goes on later "
            "(once more: stop at once, the steps since the last checkpoint are lost)"
        )

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def interrupted_by_term() -> Iterator[None]:
    """Make SIGTERM a ``KeyboardInterrupt``, so that what was begun before any trial runs is undone."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@dataclass
class _State:
    """What is known of one job."""

    job: Job
    status: str = "waiting"
    started: float = 0.0
    ended: float = 0.0
    first: tuple[float, int] | None = None
    """(time, step) of the first progress: a resumed trial does not begin at step 0."""
    printed: float = -1.0
    tenth: int = 0
    data: dict[str, Any] = field(default_factory=dict)
    """Everything its events have said, the last word on each."""

    def left(self, now: float) -> float | None:
        """Seconds to its last step at its pace so far; None where that is unknown, and after the last step."""
        step, steps = self.data.get("step"), self.data.get("steps")
        if self.status != "running" or self.first is None or step is None or steps is None:
            return None
        if not self.first[1] < step < steps:
            return None
        return float((steps - step) * (now - self.first[0]) / (step - self.first[1]))


class Progress:
    """Shows the events of ``jobs``: a live table on a terminal, plain lines anywhere else.

    Use it as a context manager and give ``update`` to an executor.
    """

    def __init__(self, jobs: Sequence[Job], console: Console | None = None) -> None:
        self._console = console or Console()
        self._states = {job.id: _State(job) for job in jobs}
        self._begun = time.monotonic()
        self._note = ""
        self._live: Live | None = None
        if self._console.is_terminal:
            self._live = Live(console=self._console, get_renderable=self.__rich__, refresh_per_second=2, transient=True)

    def __enter__(self) -> Progress:
        self._begun = time.monotonic()
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live is not None:
            self._live.stop()
        self._print(self._counts())

    def update(self, event: Event) -> None:
        """Take in one event; print what it says where no table does."""
        state, now = self._states[event.job_id], time.monotonic()
        state.data.update(event.data)
        if event.kind == "started":
            state.status, state.started, state.ended, state.first = "running", now, 0.0, None
            self._plain(state, now, "started")
        elif event.kind == "progress":
            if state.first is None and "step" in state.data:
                state.first = (now, state.data["step"])
            self._plain_progress(state, now)
        elif event.kind == "again":
            state.status, state.started, state.ended, state.first = "waiting", 0.0, 0.0, None
            self._plain(state, now, "waits to be started once more")
        else:
            state.status, state.ended = str(state.data.get("status", "completed")), now
            self._finished(state, now)

    def say(self, sentence: str) -> None:
        """Show ``sentence`` to the end; safe inside a signal handler, which may have interrupted a print."""
        if self._live is None:
            _to_stderr(sentence)
        self._note = sentence

    def _finished(self, state: _State, now: float) -> None:
        took = f" after {_duration(now - state.started)}" if state.started else ""
        if state.status in _BAD:
            message = str(state.data.get("message") or "no message").strip().splitlines()[0]
            log = f" (log: {state.data['log']})" if state.data.get("log") else ""
            self._print(f"{self._clock(now)} {state.job.label}: {state.status}{took}: {message}{log}", _STYLES[state.status])
        else:
            self._plain(state, now, state.status + took)

    # --- plain lines ----------------------------------------------------------------------------------------------

    def _plain_progress(self, state: _State, now: float) -> None:
        """A line at every tenth of the steps, and never two of a job within a second."""
        step, steps = state.data.get("step"), state.data.get("steps")
        if not step or not steps:
            return
        tenth = 10 * step // steps
        if tenth > state.tenth and (state.printed < 0 or now - state.printed >= 1):
            state.tenth = tenth
            left = state.left(now)
            words = [f"step {step}/{steps}", _epsilon(state.data, "epsilon "), _metrics(state.data)]
            words.append(f"{_duration(left)} left" if left is not None else "")
            self._plain(state, now, ", ".join(filter(None, words)))
            state.printed = now

    def _plain(self, state: _State, now: float, words: str) -> None:
        if self._live is None:
            self._print(f"{self._clock(now)} {state.job.label}: {words}")

    def _print(self, line: str, style: str = "") -> None:
        self._console.print(Text(line, style=style), soft_wrap=True)

    def _clock(self, now: float) -> str:
        return f"[{_duration(now - self._begun)}]"

    # --- the live table -------------------------------------------------------------------------------------------

    def __rich__(self) -> Table:
        """Running jobs first, then those that ended last, then those that wait, and the counts of all."""
        now = time.monotonic()
        states = list(self._states.values())
        running = sorted((s for s in states if s.status == "running"), key=lambda s: s.started)
        ended = sorted((s for s in states if s.ended), key=lambda s: -s.ended)
        waiting = [s for s in states if s.status == "waiting"]
        table = Table(box=None, pad_edge=False, expand=True, caption=self._counts(now), caption_justify="left")
        table.add_column("trial", no_wrap=True)
        for name in ("status", "step", "epsilon"):
            table.add_column(name, no_wrap=True, justify="left" if name == "status" else "right")
        table.add_column("metrics", overflow="ellipsis", no_wrap=True, ratio=1)  # what is left of the line
        table.add_column("left", no_wrap=True, justify="right")
        for state in (running + ended + waiting)[: max(1, min(ROWS, self._console.height - 6))]:
            left = state.left(now)
            step, steps = state.data.get("step"), state.data.get("steps")
            table.add_row(
                Text(_squeeze(state.job.label, max(16, self._console.width * 2 // 5))),
                Text(_status(state), style=_STYLES.get(state.status, "dim")),
                "" if step is None else f"{step}/{steps}" if steps else f"{step}",
                _epsilon(state.data),
                Text(_metrics(state.data)),
                "" if left is None else _duration(left),
            )
        return table

    def _counts(self, now: float | None = None) -> str:
        """``12 jobs: 2 running, 3 completed, 7 waiting; about 4 min left``."""
        states = self._states.values()
        order = ("running", "completed", "interrupted", "budget", *_BAD, "waiting")
        counts = {status: sum(state.status == status for state in states) for status in order}
        words = f"{len(states)} job{'s' * (len(states) != 1)}: " + (
            ", ".join(f"{count} {status}" for status, count in counts.items() if count) or "none"
        )
        if now is None:
            return words
        left = self._left(now)
        if left is not None:
            words += f"; about {_duration(left)} left"
        return words + (f"\n{self._note}" if self._note else "")

    def _left(self, now: float) -> float | None:
        """Seconds until all jobs have ended, by the pace of running ones and the time that others of their kind took."""
        took: dict[str, list[float]] = {}
        for state in self._states.values():
            if state.status == "completed" and state.started:
                took.setdefault(state.job.kind, []).append(state.ended - state.started)
        usual = {kind: sum(times) / len(times) for kind, times in took.items()}
        running: list[float] = []
        waiting = 0.0
        for state in self._states.values():
            whole, steps_left = usual.get(state.job.kind), state.left(now)
            if state.status == "running" and (whole is not None or steps_left is not None):
                running.append(max(0.0, steps_left or 0.0, (whole or 0.0) - (now - state.started)))
            elif state.status == "waiting" and whole is not None:
                waiting += whole
            elif state.status in ("running", "waiting"):
                return None
        return max(running) + waiting / len(running) if running else None


def summary(rows: Sequence[Mapping[str, Any]], console: Console | None = None) -> None:
    """Print the closing table, a line a trial.

    A row has label, status, epsilon, proof, seconds and metrics by their column names; what no row has gets no column. A
    terminal that is too narrow gets the first metrics, with a line that names the others. Where the output is not a terminal
    no line is cut, whatever its width.
    """
    console = console or Console()
    names = ("label", "status", "epsilon", "proof", *METRIC_HEADINGS, "seconds")
    shown = [name for name in names if name in ("label", "status") or any(row.get(name) is not None for row in rows)]
    metrics = [name for name in shown if name in METRIC_HEADINGS]
    left_out: list[str] = []
    if console.is_terminal:
        folded = sum(
            max(0, max((len(str(row.get(name) or "")) for row in rows), default=0) - FOLDED) for name in ("label", "proof")
        )
        while len(metrics) > 1 and _natural_width(_summary_table(rows, shown), console) - folded > console.width:
            left_out.insert(0, metrics.pop())
            shown.remove(left_out[0])
    table = _summary_table(rows, shown)
    if not console.is_terminal:
        console = Console(file=console.file, width=_natural_width(table, console), color_system=None)
    console.print(table)
    if left_out:
        console.print(f"Not shown, for the terminal is too narrow: {', '.join(left_out)}.", style="dim", soft_wrap=True)


def _summary_table(rows: Sequence[Mapping[str, Any]], shown: Sequence[str]) -> Table:
    table = Table(box=None, pad_edge=False)
    headings = {"label": "trial", "seconds": "time", **METRIC_HEADINGS}
    for name in shown:
        words = name in ("label", "status", "proof")
        folds = name in ("label", "proof")
        table.add_column(
            headings.get(name, name),
            justify="left" if words else "right",
            no_wrap=not folds,
            overflow="fold" if folds else "ellipsis",
        )
    for row in rows:
        cells = []
        for name in shown:
            value = row.get(name)
            if value is None:
                cells.append(Text(""))
            elif name == "seconds":
                cells.append(Text(_duration(value)))
            elif isinstance(value, float):
                cells.append(Text(f"{value:.4g}" if name == "epsilon" else metric_text(name, value)))
            else:
                cells.append(Text(str(value), style=_STYLES.get(value, "") if name == "status" else ""))
        table.add_row(*cells)
    return table


def _natural_width(table: Table, console: Console) -> int:
    """Of the table with no line folded or cut."""
    return Measurement.get(console, console.options.update(width=10_000), table).maximum


def metric_text(name: str, value: float) -> str:
    """A metric's value as tables show it.

    >>> metric_text("gen2real_cnn", 0.80712), metric_text("fid_inception", 54.321), metric_text("is_inception", 2.3456)
    ('0.807', '54.32', '2.35')
    """
    kind = name.partition("_")[0]
    return f"{value:.2f}" if kind == "is" else f"{value:.4g}" if kind in ("fd", "fid", "kd", "kid") else f"{value:.3f}"


def _status(state: _State) -> str:
    """A running job may say what it is at (``evaluating``)."""
    said = state.data.get("status")
    return str(said) if state.status == "running" and said else state.status


def _epsilon(data: Mapping[str, Any], before: str = "") -> str:
    spent, target = data.get("epsilon"), data.get("target_epsilon")
    if spent is None:
        return ""
    return f"{before}{spent:.3g}" + (f" of {target:.4g}" if target is not None else "")


def _metrics(data: Mapping[str, Any]) -> str:
    metrics: Mapping[str, Any] = data.get("metrics") or {}
    return "  ".join(
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}" for name, value in list(metrics.items())[:3]
    )


def _squeeze(label: str, width: int) -> str:
    """``label`` in at most ``width`` characters; the middle goes, for trials differ in their first and last words.

    >>> _squeeze("dp_energy noise_injection=0.1 seed=0", 20)
    'dp_energy … 1 seed=0'
    """
    if len(label) <= width:
        return label
    tail = (width - 3) // 2
    return f"{label[: width - 3 - tail]} … {label[-tail:]}"


def _duration(seconds: float) -> str:
    """``0:07``, ``12:30``, ``3:07:00``.

    >>> _duration(7.4), _duration(750), _duration(11220)
    ('0:07', '12:30', '3:07:00')
    """
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _to_stderr(sentence: str) -> None:
    os.write(2, f"\n{sentence}\n".encode())
