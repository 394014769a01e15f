"""`make bench`: every benchmark in a small size, and one table of what came out.

    python tests/benchmarks/bench.py                     # under ten minutes on two quiet cores
    python tests/benchmarks/bench.py --only grid         # one of them: engine, planning, grid, overhead, opening

Each benchmark is a script of its own. The engine's prints tables of its own, whose lines are read; the others take ``--json``
and print a list of rows as their last line: ``name``, ``ours_s`` and ``plain_s`` (seconds, the other way null where there is
none), ``ratio``, ``aim``, ``bound`` (what bounds it now), and where memory is measured ``ours_mb`` and ``plain_mb``. Ratios
are of things measured in turn on one machine: they mean more than seconds do.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ENGINE = "engine.py"
ENGINE_ROWS = (
    ("Step, 256 channels", "own fakes, bfloat16", "", "arithmetic"),
    ("Step, 256 channels", "own fakes", "at least 1.5", "arithmetic"),
    ("Step, 256 channels", "shared fakes, bfloat16", "", "arithmetic"),
    ("Step, 256 channels", "shared fakes", "at least 4", "arithmetic"),
    ("Step, 64 channels", "", "", "arithmetic, and Python for small critics"),
    ("Pretraining of a shard", "", "at least 5", "arithmetic of the critics"),
    ("Step of dp_energy", "", "at least 2", "arithmetic: the generator's backward pass"),
)
"""(How a title of the engine's tables begins, what the name of a side holds, aim, what bounds it); the first that fits."""
PARTS: dict[str, list[str]] = {
    "engine": [ENGINE],
    "planning": ["planning.py"],
    "grid": ["grid.py", "--runs", "3"],
    "overhead": ["overhead.py", "--trials", "8", "--rounds", "1"],
    "opening": ["opening.py"],
}


def main() -> int:
    command = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_argument("--only", choices=list(PARTS), help="one of the benchmarks")
    command.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    arguments = command.parse_args()
    began, rows, failed = time.perf_counter(), [], []
    for name, script in PARTS.items():
        if arguments.only in (None, name):
            print(f"{name} ...", file=sys.stderr, flush=True)
            found = measured(script)
            rows += found
            failed += [] if found else [name]
    show(rows, markdown=arguments.markdown)
    minutes = (time.perf_counter() - began) / 60
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(f"{cpu()}, {os.cpu_count()} cores, load {load}; {minutes:.1f} minutes")
    if failed:
        print(f"no result: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def measured(script: list[str]) -> list[dict[str, Any]]:
    """The rows of one benchmark; none where it failed, which has been shown."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parents[1])}
    command = [sys.executable, str(HERE / script[0]), *script[1:], *([] if script[0] == ENGINE else ["--json"])]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        print(done.stdout, file=sys.stderr)
        return []
    if script[0] == ENGINE:
        return engine_rows(done.stdout)
    rows: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return rows


def engine_rows(text: str) -> list[dict[str, Any]]:
    """Rows of what engine.py prints: titles, and under each a line a side, the plain one first.

    >>> rows = engine_rows("Step of dp_energy, 9 records\\n  plain  2.000 s  x1.00  80 MB\\n  ours  0.500 s  x4.00  90 MB")
    >>> [(row["name"], row["ours_s"], row["plain_s"], row["ratio"], row["aim"]) for row in rows]
    [('Step of dp_energy, 9 records: ours, plain', 0.5, 2.0, 4.0, 'at least 2')]
    """
    rows: list[dict[str, Any]] = []
    title, plain = "", None
    for line in text.splitlines():
        side = re.fullmatch(r"  (\S.*?)\s+([\d.]+) s\s+x([\d.]+)\s*(?:[\d.]+ MB)?\s*(.*)", line)
        if side is None:
            title, plain = line, None
            continue
        name, seconds, ratio, parts = side[1], float(side[2]), float(side[3]), side[4]
        if plain is None:
            plain = name, seconds
            continue
        fits = (row for row in ENGINE_ROWS if title.startswith(row[0]) and row[1] in name)
        _, _, aim, bound = next(fits, ("", "", "", ""))
        taken = {"ours_s": seconds, "plain_s": plain[1], "ratio": ratio}
        largest = ", ".join(parts.split(", ")[:3])  # of the time of our side
        rows.append({"name": f"{title}: {name}, {plain[0]}", **taken, "aim": aim, "bound": f"{bound}; {largest}".strip("; ")})
    return rows


def show(rows: list[dict[str, Any]], *, markdown: bool) -> None:
    """Print the table."""
    header = ["what", "ours", "the other way", "ratio", "aim", "what bounds it now"]
    cells = [
        [
            row["name"],
            taken(row["ours_s"], row.get("ours_mb")),
            taken(row["plain_s"], row.get("plain_mb")),
            "" if row["ratio"] is None else f"{row['ratio']:.2f}",
            row["aim"],
            row["bound"],
        ]
        for row in rows
    ]
    if markdown:
        for line in (header, ["---"] * len(header), *cells):
            print(f"| {' | '.join(line)} |")
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE)
    for name in header:
        table.add_column(name, justify="right" if name == "ratio" else "left", overflow="fold")
    for line in cells:
        table.add_row(*line)
    Console(width=None if sys.stdout.isatty() else 170, markup=False, highlight=False).print(table)


def taken(seconds: float | None, megabytes: float | None) -> str:
    """
    >>> taken(0.0312, None), taken(12.3, 410.2), taken(None, None)
    ('0.031 s', '12 s, 410 MB', '')
    """
    if seconds is None:
        return ""
    words = f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.2g} s"
    return words if megabytes is None else f"{words}, {megabytes:.0f} MB"


def cpu() -> str:
    """The processor's name."""
    found = Path("/proc/cpuinfo")
    lines = found.read_text().splitlines() if found.exists() else []
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


if __name__ == "__main__":
    sys.exit(main())
