"""How this process keeps its memory. Changes no number, only the time that memory takes to come."""

from __future__ import annotations

import ctypes
import mmap
from typing import Any

KEPT = 1 << 30
"""Blocks of up to so many bytes, and so many at the end of the heap, stay with the process when they are freed."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h


def keep_freed_memory(kept: int = KEPT) -> bool:
    """Have malloc keep freed blocks of up to ``kept`` bytes for the next ones; False where the C library cannot.

    glibc returns blocks of 32 MiB and more to the kernel as soon as they are freed, and often the end of its heap. Training
    asks for the same blocks at every step, and the kernel clears every page of them again: a third of the time of GS-WGAN's
    generator at its published width and a quarter of a step of dp_energy were page faults. torch has no such pool on CPUs.
    """
    mallopt = _of_libc("mallopt")
    if mallopt is None:
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, kept)) and bool(mallopt(_M_TRIM_THRESHOLD, kept))


def give_back_freed_memory() -> None:
    """Return what is free to the kernel, for libraries that allocate past malloc and for other processes."""
    trim = _of_libc("malloc_trim")
    if trim is not None:
        trim(0)


def spare_memory(size: int = 256 << 20) -> mmap.mmap:
    """Set ``size`` bytes of address space aside; ``close()`` it where memory has run out and something is left to be said.

    It can only be read and is never touched, so it takes no memory and nobody's commitment; a page where there is no room for
    more. After a MemoryError the heap may keep what is freed, or the thread may have moved to an arena of its own: then there
    is none for the libraries that are still to load and for Arrow, which does not survive that everywhere.
    """
    try:
        return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=mmap.PROT_READ)
    except OSError:
        return mmap.mmap(-1, mmap.PAGESIZE)


def _of_libc(name: str) -> Any:
    """A function that glibc alone has, or None."""
    return getattr(ctypes.CDLL(None), name, None)
