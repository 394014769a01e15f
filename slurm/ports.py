"""Which ports Ray's processes listen on, where a cluster lets its nodes reach each other on some only.

Several heads, or nodes of one machine, share the range: each takes a block of its own, where all that it needs is free.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass

_SERVICES = (
    "node-manager-port",
    "object-manager-port",
    "runtime-env-agent-port",
    "dashboard-agent-grpc-port",
    "metrics-export-port",
)
_BLOCK = 100
"""Ports a node: one each for its services, the rest for its processes."""


class NoPorts(RuntimeError):
    """Every block of the range is in use on this machine."""


@dataclass(frozen=True)
class Ports:
    """The ports ``first`` to ``last``, both included."""

    first: int
    last: int

    def head(self) -> list[str]:
        """Options of ``ray start --head``. Raises ``NoPorts``."""
        block = self._block()
        return [f"--port={block + len(_SERVICES)}", *_options(block)]

    def node(self) -> list[str]:
        """Options of ``ray start``. Raises ``NoPorts``."""
        return _options(self._block())

    def _block(self) -> int:
        """The first port of a free block; where the search begins depends on the job, so that jobs seldom meet."""
        count = (self.last - self.first + 1) // _BLOCK
        begin = int(os.environ.get("SLURM_JOB_ID") or os.getpid())
        for number in range(count):
            block = self.first + (begin + number) % count * _BLOCK
            if all(_free(port) for port in range(block, block + _BLOCK)):
                return block
        raise NoPorts(f"of the ports {self.first}-{self.last} no {_BLOCK} in a row are free on {socket.gethostname()}")


def _options(block: int) -> list[str]:
    services = [f"--{name}={block + number}" for number, name in enumerate(_SERVICES)]
    return [*services, f"--min-worker-port={block + len(_SERVICES) + 1}", f"--max-worker-port={block + _BLOCK - 1}"]


def _free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True
