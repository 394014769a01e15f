"""What a job's process says of itself: its log, its memory, its versions, one line of its error."""

from __future__ import annotations

import errno
import logging
import os
import platform
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

logger = logging.getLogger("dpsweep")


class _Log(logging.FileHandler):
    """A log that does without what a full disk does not take, and does not say so on a terminal that others write to."""

    def handleError(self, record: logging.LogRecord) -> None:
        pass


@contextmanager
def logging_to(path: Path) -> Iterator[None]:
    """Send the ``dpsweep`` logger to a file of its own, only readable by the owner."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(0o600)  # before anything is in it, or anybody else could have opened it
    path.chmod(0o600)
    handler = _Log(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        with suppress(OSError):
            handler.close()


def one_line(error: BaseException) -> str:
    """The last line of a traceback, short enough for a table.

    >>> one_line(ValueError("steps is 0;\\nexpected 1"))
    'ValueError: steps is 0; expected 1'
    """
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= 300 else text[:297] + "..."


# What torch says in a plain RuntimeError where memory is missing: its CPU allocator, C++, the CUDA runtime, cuBLAS.
_OUT_OF_MEMORY = (
    "DefaultCPUAllocator: can't allocate memory",
    "[enforce fail at alloc_cpu.cpp",
    "std::bad_alloc",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
)


def out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` says that memory ran out, the host's or a GPU's, and nothing else.

    >>> out_of_memory(MemoryError()), out_of_memory(ValueError("std::bad_alloc"))
    (True, False)
    """
    torch = sys.modules.get("torch")  # what never was imported has raised nothing; an import could fail for memory itself
    if isinstance(error, MemoryError) or (torch is not None and isinstance(error, torch.OutOfMemoryError)):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM  # mapping a file, starting a process
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY)


def told_to_leave() -> bool:
    """Whether the machine of this process sends its trials away: its Slurm job is about to end.

    ``slurm.node`` names the file in the environment of everything that it starts, and makes it when its job is told.
    """
    note = os.environ.get("DPSWEEP_LEAVE")
    return note is not None and Path(note).exists()


def peak_memory_mb() -> float:
    """Largest resident size of this process so far, in MB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def versions() -> dict[str, str | None]:
    """What ran: dpsweep, Python and torch, and the host's platform."""
    from importlib.metadata import PackageNotFoundError, version

    found: dict[str, str | None] = {"python": platform.python_version(), "platform": platform.platform()}
    for name in ("dpsweep", "torch", "ray", "dp-accounting"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found
