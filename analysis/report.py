"""The command: one HTML file from results, every figure and table beside it.

    python -m analysis.report results/NAME [results/OTHER ...] [--metric M] [--only-proven] [--output DIR]

The page is complete by itself: styles, script, drawings and images are inside. What it shows of data that are not declared
public (``data.public: true``) is what the rules of ``harness.store`` allow to leave the building, and nothing else is written.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from . import answer, grid, sections, statements
from .audits import audits
from .files import Files
from .page import Page, counted, html, listed
from .results import Results, ResultsError, load
from .table import epsilon_text


@dataclass(frozen=True)
class Report:
    """What was written, and the answer in one line."""

    page: Path
    written: tuple[Path, ...]
    """Figures and tables beside the page."""
    answer: str
    notes: tuple[str, ...]


def write_report(results: Results, output: Path, metric: str | None = None) -> Report:
    """Write ``output/report.html``, ``output/figures`` and ``output/tables``.

    ``metric`` is the column to choose by; one that no trial has is replaced by the results' main one, and a note says so. Of
    results that are not public only ``results.for_publication()`` is looked at. Raises ``OSError`` where ``output`` cannot
    be written.
    """
    results = results if results.public else results.for_publication()
    notes = list(results.notes)
    name = None
    if results.metrics:
        try:
            name = results.main_metric(metric)
        except ResultsError as error:
            name = results.main_metric()
            notes.append(f"{sections.sentence(str(error))} This report is about {results.metrics[name].heading} instead.")
    elif metric is not None:
        notes.append(f"No trial has the metric {metric}, nor any other.")
    output.mkdir(parents=True, exist_ok=True)
    files = Files(output)
    files.clear()
    best = grid.best(results, name) if name else None
    subject = sections.Subject(results=results, metric=results.metrics[name] if name else None, best=best, files=files)
    page = Page(
        title=listed(sweep.name for sweep in results.sweeps),
        subtitle=_subtitle(results),
        notes=tuple(notes),
        sections=(
            answer.answer(subject),
            sections.the_grid(subject),
            sections.paper(subject),
            sections.cells(subject),
            sections.samples(subject),
            sections.training(subject),
            sections.trials(subject),
            *audits(results),
            statements.failures(results),
            statements.privacy(results),
            statements.provenance(results),
        ),
    )
    path = output / "report.html"
    path.write_text(html(page), encoding="utf-8")
    return Report(page=path, written=tuple(files.written), answer=_answer(subject), notes=tuple(notes))


def _subtitle(results: Results) -> str:
    trials = results.trials
    sources = trials["data_source"].dropna().unique()
    words = [
        counted(len(trials), "trial"),
        counted(trials["cell"].nunique(), "cell"),
        counted(trials["seed"].nunique(), "seed"),
    ]
    return ", ".join([*words, *([f"on {listed(sources)}"] if len(sources) else [])])


def _answer(subject: sections.Subject) -> str:
    metric, best = subject.metric, subject.best
    if metric is None or best is None:
        return "No trial has a metric yet, so there is no best setting to name."
    found = best.interval
    interval = (
        f" (95 % interval {sections.between(metric, found.low, found.high)}, {found.n} seeds)" if found.n > 1 else " (one seed)"
    )
    epsilon = f"proven epsilon {epsilon_text(best.epsilon)}" if best.epsilon == best.epsilon else "no proven epsilon"
    prices = "".join(f"; {number.term}: {number.value}" for number in answer.price(subject.results))
    return f"Best by {metric.heading}: {best.cell} with {metric.text(found.mean)}{interval} at {epsilon}{prices}."


EPILOG = """example:
  python -m analysis.report results/quickstart --metric gen2real_mlp

exit status:
  0  the report is written
  2  there is nothing to report on, or the report cannot be written
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit status: 0 written, 2 where there is nothing to report on or the report cannot be written."""
    parser = argparse.ArgumentParser(
        prog="python -m analysis.report",
        description="Write one HTML report of results.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("results", nargs="+", type=Path, metavar="results/NAME", help="folder of a sweep; several are joined")
    parser.add_argument("--metric", help="column to choose the best setting by (default: gen2real_cnn where it is there)")
    parser.add_argument("--only-proven", action="store_true", help="leave out trials that failed or have no proven epsilon")
    parser.add_argument("--output", type=Path, metavar="DIR", help="where to write (default: results/NAME/report)")
    options = parser.parse_args(arguments)
    try:
        results = load(options.results)
        if options.only_proven:
            results = results.only_proven()
        report = write_report(results, options.output or options.results[0] / "report", options.metric)
    except ResultsError as error:
        print(error, file=sys.stderr)
        return 2
    except OSError as error:
        print(f"{error.filename or options.output}: {error.strerror or error}; --output DIR writes elsewhere", file=sys.stderr)
        return 2
    for note in report.notes:
        print(note, file=sys.stderr)
    folders = sorted({path.parent.name for path in report.written})
    beside = (
        f", and {counted(len(report.written), 'file')} in {listed(f'{name}/' for name in folders)} beside it" if folders else ""
    )
    print(f"{report.answer}\nWrote {report.page} ({report.page.stat().st_size / 1e6:.1f} MB){beside}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
