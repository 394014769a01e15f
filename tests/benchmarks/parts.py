"""Where the time of a step goes, and ratios of things that are run in turn."""

from __future__ import annotations

import functools
import multiprocessing
import resource
import statistics
import time
from collections import Counter
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from trainables.allocator import keep_freed_memory


class Parts:
    """Seconds of every part, each without the parts inside it; ``with parts("fakes"): ...``."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self._inside: list[float] = []

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        began = time.process_time()
        self._inside.append(0.0)
        try:
            yield
        finally:
            took = time.process_time() - began
            self.seconds[name] += took - self._inside.pop()
            if self._inside:
                self._inside[-1] += took

    def watch(self, owner: Any, attribute: str, name: str) -> None:
        """From now on calls of ``owner.attribute`` are part ``name``."""
        function = getattr(owner, attribute)

        @functools.wraps(function)
        def watched(*arguments: Any, **keywords: Any) -> Any:
            with self(name):
                return function(*arguments, **keywords)

        setattr(owner, attribute, watched)

    def shares(self, least: float = 0.005) -> str:
        """Percent a part, the largest first; those under ``least`` of the whole together as other."""
        whole = sum(self.seconds.values())
        large = [(name, took) for name, took in self.seconds.most_common() if took >= least * whole]
        rest = whole - sum(took for _, took in large)
        return ", ".join(f"{name} {100 * took / whole:.0f} %" for name, took in [*large, ("other", rest)] if took > 0)


@dataclass(frozen=True)
class Timing:
    """What came of one side."""

    seconds: float
    """Median processor time of a run."""
    result: Any
    """What the last run returned."""
    peak_mb: float
    """Most memory that the side's process had."""


def in_turn(
    sides: Mapping[str, Callable[[], Callable[[], Any]]], rounds: int, *, warm_up: bool = True, plain: Container[str] = ()
) -> dict[str, Timing]:
    """Run the sides one after the other, ``rounds`` times, so that a busy machine slows all of them.

    A side is a function that makes what is run. Each has a process of its own, forked from this one: what one has allocated
    helps no other. ``plain`` names the sides whose freed memory malloc handles as it does by itself.
    """
    fork = multiprocessing.get_context("fork")
    here, processes = {}, []
    for name, make in sides.items():
        here[name], there = fork.Pipe()
        processes.append(fork.Process(target=_side, args=(make, there, name not in plain), daemon=True))
        processes[-1].start()
    found: dict[str, list[tuple[float, Any, float]]] = {name: [] for name in sides}
    for _ in range(rounds + warm_up):
        for name, pipe in here.items():
            pipe.send(True)
            found[name].append(pipe.recv())
    for pipe, process in zip(here.values(), processes, strict=True):
        pipe.send(False)
        process.join()
    timings = {}
    for name, runs in found.items():
        _, result, peak = runs[-1]
        timings[name] = Timing(statistics.median(seconds for seconds, *_ in runs[warm_up:]), result, peak)
    return timings


def _side(make: Callable[[], Callable[[], Any]], pipe: Connection, keeps_memory: bool) -> None:
    if keeps_memory:
        keep_freed_memory()
    run = make()
    while pipe.recv():
        began = time.process_time()
        result = run()
        took = time.process_time() - began
        pipe.send((took, result, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))
