from __future__ import annotations

import io
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from harness import progress
from harness.jobs import Event, Job
from harness.progress import METRIC_HEADINGS, ROWS, Progress, stop_on_signals, summary


def jobs(count: int) -> list[Job]:
    return [Job(id=f"id{number}", kind="train", label=f"eps=10 seed=[{number}]") for number in range(count)]


def event(number: int, kind: Any, **data: Any) -> Event:
    return Event(job_id=f"id{number}", kind=kind, data=data)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Time as the tests say: ``clock.now``."""

    class Clock:
        now = 100.0

        def monotonic(self) -> float:
            return self.now

    made = Clock()
    monkeypatch.setattr(progress, "time", made)
    return made


def test_plain_lines_are_few_and_whole(clock: Any) -> None:
    out = io.StringIO()
    with Progress(jobs(2), Console(file=out, width=40)) as shown:
        shown.update(event(0, "started"))
        for step in range(1, 41):
            clock.now += 0.75
            metrics = {"gen2real_logreg": 0.81234}
            shown.update(event(0, "progress", step=step, steps=40, epsilon=step / 8, target_epsilon=10.0, metrics=metrics))
        shown.update(event(0, "finished", status="completed"))
        shown.update(event(1, "started"))
        shown.update(event(1, "finished", status="failed", message="ValueError: too bad\nmore", log="results/logs/id1.1.log"))
    assert out.getvalue().splitlines() == [
        "[0:00] eps=10 seed=[0]: started",
        # every tenth of the steps, at whole width whatever the console's
        *(
            f"[{progress._duration(0.75 * step)}] eps=10 seed=[0]: step {step}/40, epsilon {step / 8:.3g} of 10, "
            "gen2real_logreg 0.812" + (f", {progress._duration(0.75 * (40 - step))} left" if step < 40 else "")
            for step in range(4, 41, 4)
        ),
        "[0:30] eps=10 seed=[0]: completed after 0:30",
        "[0:30] eps=10 seed=[1]: started",
        "[0:30] eps=10 seed=[1]: failed after 0:00: ValueError: too bad (log: results/logs/id1.1.log)",
        "2 jobs: 1 completed, 1 failed",
    ]


def test_plain_lines_of_a_fast_job_come_once_a_second(clock: Any) -> None:
    out = io.StringIO()
    with Progress(jobs(1), Console(file=out)) as shown:
        shown.update(event(0, "started"))
        for step in range(1, 101):
            clock.now += 0.03
            shown.update(event(0, "progress", step=step, steps=100))
    assert len(out.getvalue().splitlines()) == 1 + 3 + 1


def test_a_resumed_trial_is_timed_from_where_it_began(clock: Any) -> None:
    shown = Progress(jobs(1), Console(file=io.StringIO()))
    shown.update(event(0, "started"))
    shown.update(event(0, "progress", step=900, steps=1000))
    clock.now += 10
    shown.update(event(0, "progress", step=910, steps=1000))
    assert shown._states["id0"].left(clock.now) == pytest.approx(90)


def test_live_table_shows_running_jobs_first_and_counts_all(clock: Any) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=120, height=60, color_system=None)
    shown = Progress(jobs(50), console)
    for number in (40, 41, 42):
        shown.update(event(number, "started"))
    shown.update(event(40, "progress", step=0, steps=200, status="training"))
    clock.now += 60
    shown.update(event(40, "progress", step=50, steps=200, epsilon=1.23456, target_epsilon=10.0, metrics={"gen2real_cnn": 0.5}))
    shown.update(event(41, "finished", status="completed"))
    with console.capture() as capture:
        console.print(shown)
    lines = [line.rstrip() for line in capture.get().splitlines()]
    assert len(lines) == 1 + ROWS + 1
    assert lines[1].split("  ")[0] == "eps=10 seed=[40]"
    for word in ("training", "50/200", "1.23 of 10", "gen2real_cnn 0.5", "3:00"):
        assert word in lines[1]
    assert lines[2].startswith("eps=10 seed=[42]")
    assert lines[3].startswith("eps=10 seed=[41]")
    assert lines[-1].strip() == "50 jobs: 2 running, 1 completed, 47 waiting; about 26:30 left"


def test_the_time_left_counts_what_follows_the_last_step(clock: Any) -> None:
    """Evaluation has no steps; other jobs of the kind tell how long a whole one takes."""
    shown = Progress(jobs(3), Console(file=io.StringIO(), width=120))
    for number in (0, 1):
        shown.update(event(number, "started"))
        shown.update(event(number, "progress", step=0, steps=100))
    assert shown._left(clock.now) is None
    clock.now += 40
    shown.update(event(0, "finished", status="completed"))
    clock.now += 10
    shown.update(event(1, "progress", step=100, steps=100, status="evaluating"))
    assert shown._states["id1"].left(clock.now) is None
    assert shown._left(clock.now) == pytest.approx(0 + 40)
    shown.update(event(2, "started"))
    assert shown._left(clock.now) == pytest.approx(40)


def test_on_a_terminal_failures_stay_and_the_table_goes() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=200, height=30, color_system=None)
    with Progress(jobs(3), console) as shown:
        shown.update(event(0, "started"))
        shown.update(event(0, "finished", status="lost", message="the process died"))
        shown.say("stopping: running trials end")
    text = out.getvalue()
    assert "eps=10 seed=[0]: lost after 0:00: the process died" in text
    assert "stopping: running trials end" in text
    assert text.endswith("3 jobs: 1 lost, 2 waiting\n")


ROW = {
    "label": "dp_energy privacy.epsilon=10 noise_injection=0.1 reconstruction=0.05 generator_width=64 seed=0",
    "status": "completed",
    "epsilon": 9.98123,
    "proof": "pld",
    "gen2real_cnn": 0.79123,
    "gen2real_mlp": None,
    "fd_dataset_classifier": 123.456,
    "seconds": 1234.5,
}


def test_summary_has_a_line_a_trial_and_no_empty_columns() -> None:
    out = io.StringIO()
    failed = {"label": "eps=1 seed=[1]", "status": "failed", "epsilon": None, "seconds": 3.0}
    summary([ROW, failed], Console(file=out, width=80))
    *_, first, second = out.getvalue().splitlines()
    assert first.split() == [*str(ROW["label"]).split(), "completed", "9.981", "pld", "0.791", "123.5", "20:34"]
    assert second.split() == ["eps=1", "seed=[1]", "failed", "0:03"]
    assert "mlp" not in out.getvalue()


def test_summary_on_a_terminal_keeps_to_its_width() -> None:
    out = io.StringIO()
    summary([ROW], Console(file=out, width=80, force_terminal=True, color_system=None))
    assert max(map(len, out.getvalue().splitlines())) <= 80
    assert "0.791" in out.getvalue()


def test_summary_on_a_narrow_terminal_names_the_metrics_that_it_leaves_out() -> None:
    """The trial's name and the first metrics stay readable, however many metrics there are."""
    many = ROW | dict.fromkeys(METRIC_HEADINGS, 0.5) | {"gen2real_cnn": 0.791}

    def text(width: int) -> str:
        out = io.StringIO()
        summary([many], Console(file=out, width=width, force_terminal=True, color_system=None))
        return out.getvalue()

    narrow = text(100)
    said = narrow[narrow.index("Not shown, for the terminal is too narrow: ") :]
    left_out = said.partition(": ")[2].rstrip(".\n").split(", ")
    shown = list(METRIC_HEADINGS)[: -len(left_out)]
    assert [*shown, *left_out] == list(METRIC_HEADINGS), "the first ones are shown"
    assert narrow.count("0.5") == len(shown) - 1 > 0
    assert "reconstruction=0.05" in narrow, "a label folds between its words and is not cut"
    assert "Not shown" not in text(1000)


def test_first_signal_asks_and_second_one_ends(tmp_path: Path) -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    said: list[str] = []
    stop = tmp_path / "stop"
    with stop_on_signals(stop, said.append):
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.exists()
        assert len(said) == 1
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert {number: signal.getsignal(number) for number in before} == before
    assert len(said) == 1


def test_signals_are_left_alone_in_other_threads(tmp_path: Path) -> None:
    handlers = []

    def enter() -> None:
        with stop_on_signals(tmp_path / "stop"):
            handlers.append(signal.getsignal(signal.SIGINT))

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert handlers == [before]


def test_a_signal_makes_no_folder_that_has_vanished(tmp_path: Path) -> None:
    with stop_on_signals(tmp_path / "gone" / "stop", lambda sentence: None):
        os.kill(os.getpid(), signal.SIGTERM)
    assert list(tmp_path.iterdir()) == []
