"""How this process keeps its memory. Changes no number and no peak, only the time that memory takes to come."""

from __future__ import annotations

import ctypes

KEPT = 1 << 30
"""Blocks of up to so many bytes, and so many at the end of the heap, stay with the process when they are freed."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h


def keep_freed_memory(kept: int = KEPT) -> bool:
    """Have malloc keep freed blocks of up to ``kept`` bytes for the next ones; False where the C library cannot.

    glibc returns blocks of 32 MiB and more to the kernel as soon as they are freed, and often the end of its heap. Training
    asks for the same blocks at every step, and the kernel clears every page of them again: a third of the time of GS-WGAN's
    generator at its published width and a quarter of a step of dp_energy were page faults. torch has no such pool on CPUs.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc alone has it
    if mallopt is None:
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, kept)) and bool(mallopt(_M_TRIM_THRESHOLD, kept))
