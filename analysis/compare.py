"""The command: ``python -m analysis.compare A B [--metric M] [--json]``, two sweeps side by side.

Exit status: 0, or 2 for bad input.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence

import pandas as pd
from rich.console import Console
from rich.table import Table

from .comparison import Comparison, compare
from .matching import word
from .results import Metric, ResultsError

OK, BAD_INPUT = 0, 2
MOST_LISTED = 12
"""Cells of one sweep alone that are listed by name."""
MOST_ROWS = 60
"""Cells of a metric that are printed: those with the smallest p."""
EPILOG = """\
example:
  python -m analysis.compare results/before results/after --metric gen2real_cnn

exit status:
  0  the sweeps were compared, whatever came of it
  2  bad input; one sentence on the standard error says what
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    command = argparse.ArgumentParser(
        prog="python -m analysis.compare",
        description="What changed between two sweeps: settings, versions, privacy, and every cell that both have.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("a", metavar="A", help="a sweep's folder, such as results/before")
    command.add_argument("b", metavar="B", help="the one that is held against it")
    command.add_argument("--metric", metavar="M", help="only this metric (default: all that both have)")
    command.add_argument("--json", action="store_true", help="print one JSON object")
    return command


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    arguments = parser().parse_args(argv)
    try:
        found = compare(arguments.a, arguments.b, arguments.metric)
    except ResultsError as error:
        print(error, file=sys.stderr)
        return BAD_INPUT
    try:
        if arguments.json:
            print(json.dumps(found.document(), indent=1, default=str), flush=True)
        else:
            print_comparison(found)
            sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader has seen enough, as in `| head`
    return OK


def print_comparison(found: Comparison) -> None:
    """What changed, then what came of it."""
    console = Console(markup=False, emoji=False, highlight=False)
    if not console.is_terminal:  # no line is cut in a file or a pipe
        console = Console(width=200, color_system=None, markup=False, emoji=False, highlight=False)
    about = found.document()
    for name in ("a", "b"):
        side = about[name]
        statuses = ", ".join(f"{count} {status}" for status, count in side["statuses"].items())
        console.print(f"{name.upper()}  {side['path']}: {side['trials']} trials ({statuses})")
    _print_sides(console, "settings", found.settings)
    _print_sides(console, "versions", found.versions)
    _print_sides(console, "privacy", found.privacy)
    if found.notes:
        console.print()
    for note in found.notes:
        console.print(f"note: {note}")
    for name, names in (("A", found.only_a), ("B", found.only_b)):
        if names:
            console.print(f"\nonly in {name}:", style="bold")
            for cell in names[:MOST_LISTED]:
                console.print(f"  {cell}")
            if len(names) > MOST_LISTED:
                console.print(f"  ... and {len(names) - MOST_LISTED} more; --json lists all of them")
    if found.cells.empty:
        what = "cell" if found.metrics else "metric that may be shown"
        console.print(f"\nNo {what} is in both: there is nothing to compare but the above.")
        return
    _print_overall(console, found)
    for metric in found.metrics.values():
        _print_cells(console, found, metric)
    console.print(
        "\nB - A over the seeds that both have, with its 95 % interval. p: paired t-test, corrected by Holm over the cells "
        "(in the\nfirst table: over the metrics). B is better or worse where that p is below .05. seeds: how many would tell a "
        "difference of this\nsize (one test, power .8), where that is more than n.",
        style="dim",
    )


def _print_sides(console: Console, title: str, frame: pd.DataFrame) -> None:
    """What differs as a table, the rest in a line."""
    rows = list(frame.itertuples(index=False, name=None))
    differ = [row for row in rows if row[1] != row[2]]
    console.print(f"\n{title}{'' if differ else ': no difference'}", style="bold")
    if differ:
        table = _table("", "A", "B")
        for what, a, b in differ:
            table.add_row(what, word(a), word(b))
        console.print(table)
    same = [f"{what} {word(a)}" for what, a, b in rows if a == b and a is not None]
    if same:
        console.print(f"the same in both: {'; '.join(same)}", style="dim")


def _print_overall(console: Console, found: Comparison) -> None:
    cells = found.overall["cells"].max()
    if not cells:
        return
    console.print(f"\nover {cells} cell{'s' if cells != 1 else ''} that both have, each seed's mean", style="bold")
    _print_tested(console, "metric", found.overall, [found.metrics[name].heading for name in found.overall["metric"]], found)


def _print_cells(console: Console, found: Comparison, metric: Metric) -> None:
    console.print(f"\n{metric.heading} ({metric.better} is better)", style="bold")
    rows = found.cells[found.cells["metric"] == metric.name]
    shown = rows if len(rows) <= MOST_ROWS else rows.sort_values("p", kind="stable").head(MOST_ROWS)
    _print_tested(console, "cell", shown, list(shown["cell"]), found)
    if len(rows) > MOST_ROWS:
        console.print(f"... the {MOST_ROWS} with the smallest p of {len(rows)} cells; --json has all of them")


def _print_tested(console: Console, heading: str, rows: pd.DataFrame, names: Sequence[str], found: Comparison) -> None:
    table = _table(heading, "A", "B", "B - A", "95 % interval", "p (Holm)", "n", "B is", "seeds", right=range(1, 7))
    for name, row in zip(names, rows.to_dict("records"), strict=True):
        metric = found.metrics[row["metric"]]
        bounds = "" if pd.isna(row["low"]) else f"{_signed(metric, row['low'])} to {_signed(metric, row['high'])}"
        p = "" if pd.isna(row["p_holm"]) else f"{row['p_holm']:.3f}" if row["p_holm"] >= 0.001 else "< .001"
        needed = (
            "" if pd.isna(row["seeds_needed"]) else f"{row['seeds_needed']:.0f}" if row["seeds_needed"] <= 1000 else "> 1000"
        )
        means = [metric.text(row[column]) for column in ("mean_a", "mean_b")]
        table.add_row(name, *means, _signed(metric, row["difference"]), bounds, p, str(row["n"]), row["verdict"], needed)
    console.print(table)


def _signed(metric: Metric, value: float) -> str:
    text = metric.text(value)
    if not text.strip("-0."):  # rounds to nothing, which has no sign
        return text.removeprefix("-")
    return f"+{text}" if value > 0 else text


def _table(*headings: str, right: Sequence[int] = ()) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for place, heading in enumerate(headings):
        table.add_column(heading, justify="right" if place in right else "left", overflow="fold")
    return table


if __name__ == "__main__":
    sys.exit(main())
