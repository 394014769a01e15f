"""Which ports Ray's processes listen on, where a cluster lets its nodes reach each other on some only.

Several heads, or nodes of one machine, share the range: each takes a block of its own, where all that it needs is free.
"""

from __future__ import annotations

import contextlib
import os
import socket
from dataclasses import dataclass

_SERVICES = (
    "node-manager-port",
    "object-manager-port",
    "runtime-env-agent-port",
    "dashboard-agent-grpc-port",
    "dashboard-agent-listen-port",
    "metrics-export-port",
)
_BLOCK = 100
"""Ports a node: one that is held, one each for its services, the rest for its processes."""

ANY = ("--min-worker-port=0", "--max-worker-port=0")
"""Options of ``ray start``, for processes on any free port: by itself Ray takes them from one range, which others share."""

_held: list[socket.socket] = []
"""Bound to the first port of this process's block, as only one process can be; a process has one Ray at a time."""


class NoPorts(RuntimeError):
    """Every block of the range is in use on this machine."""


@dataclass(frozen=True)
class Ports:
    """The ports ``first`` to ``last``, both included. The block that was given out last is this process's until it ends."""

    first: int
    last: int

    def head(self) -> list[str]:
        """Options of ``ray start --head``. Raises ``NoPorts``."""
        block = self._block()
        return [f"--port={block + len(_SERVICES) + 1}", *_options(block)]

    def node(self) -> list[str]:
        """Options of ``ray start``. Raises ``NoPorts``."""
        return _options(self._block())

    def _block(self) -> int:
        """The first port of a free block; where the search begins depends on the job, so that jobs seldom meet."""
        while _held:
            _held.pop().close()
        count = (self.last - self.first + 1) // _BLOCK
        begin = int(os.environ.get("SLURM_JOB_ID") or os.getpid())
        for number in range(count):
            block = self.first + (begin + number) % count * _BLOCK
            with contextlib.suppress(OSError), contextlib.ExitStack() as undo:
                held = undo.enter_context(_bound(block))
                for port in range(block + 1, block + _BLOCK):
                    _bound(port).close()
                undo.pop_all()
                _held.append(held)
                return block
        raise NoPorts(f"of the ports {self.first}-{self.last} no {_BLOCK} in a row are free on {socket.gethostname()}")


def _options(block: int) -> list[str]:
    services = [f"--{name}={block + number}" for number, name in enumerate(_SERVICES, start=1)]
    return [*services, f"--min-worker-port={block + len(_SERVICES) + 2}", f"--max-worker-port={block + _BLOCK - 1}"]


def _bound(port: int) -> socket.socket:
    """A socket with the port. Raises ``OSError`` where another has it."""
    bound = socket.socket()
    try:
        bound.bind(("", port))
    except OSError:
        bound.close()
        raise
    return bound
