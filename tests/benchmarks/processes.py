"""What a command takes: seconds on the processor and by the clock, and its largest resident size."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Taken:
    """``processor_s`` is that of the process and of all its children that it waited for; ``memory_mb`` the largest of them."""

    processor_s: float
    clock_s: float
    memory_mb: float


def measure(command: Sequence[str]) -> Taken:
    """Run Python with these arguments, on one thread. Raises ``SystemExit`` with what it printed where it fails."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, *command], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert process.stdout is not None
    said = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"python {' '.join(command)} ended with {process.returncode}:\n{said.decode()}")
    unit = 1 if sys.platform == "darwin" else 1024
    return Taken(
        processor_s=usage.ru_utime + usage.ru_stime,
        clock_s=time.perf_counter() - began,
        memory_mb=usage.ru_maxrss * unit / 1e6,
    )
