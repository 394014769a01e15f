"""How much memory a step takes."""

from collections.abc import Callable, Iterable
from typing import Any

import pytest


@pytest.fixture
def peak_memory() -> Callable[[Callable[[], object]], int]:
    """``peak_memory(run)``: the most bytes that torch's CPU allocator had given out at one time for what ``run()`` does."""
    import torch

    def measure(run: Callable[[], object]) -> int:
        with torch.autograd.profiler.profile(profile_memory=True) as profile:
            run()
        events = allocations(profile.kineto_results.experimental_event_tree())
        held: dict[int, int] = {}
        total = peak = 0
        for event in events:
            if event.alloc_size > 0:
                held[event.ptr] = event.alloc_size
                total += event.alloc_size
            else:  # what was given out before the run does not count
                total -= held.pop(event.ptr, 0)
            peak = max(peak, total)
        assert peak, "no allocation was seen"
        return peak

    return measure


def allocations(roots: Iterable[Any]) -> list[Any]:
    """What was allocated and freed, in the order of time."""
    from torch._C._profiler import _EventType

    found, waiting = [], list(roots)
    while waiting:
        event = waiting.pop()
        waiting.extend(event.children)
        if event.tag == _EventType.Allocation:
            found.append((event.start_time_ns, event.typed[1].alloc_size < 0, event.typed[1]))
    return [event for *_, event in sorted(found, key=lambda timed: timed[:2])]
