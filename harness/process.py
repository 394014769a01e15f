"""What a job's process says of itself: its log, its memory, its versions, one line of its error."""

from __future__ import annotations

import logging
import platform
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

logger = logging.getLogger("dpsweep")


@contextmanager
def logging_to(path: Path) -> Iterator[None]:
    """Send the ``dpsweep`` logger to a file of its own, only readable by the owner."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path)
    path.chmod(0o600)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        handler.close()


def one_line(error: BaseException) -> str:
    """The last line of a traceback, short enough for a table.

    >>> one_line(ValueError("steps is 0;\\nexpected 1"))
    'ValueError: steps is 0; expected 1'
    """
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= 300 else text[:297] + "..."


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
