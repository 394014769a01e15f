"""Freed memory that stays with the process, seen by the page faults that the next block takes."""

import mmap
import subprocess
import sys
from pathlib import Path

import pytest

from trainables.allocator import give_back_freed_memory, keep_freed_memory, spare_memory

PAGES = 20_000  # of 4 KiB: 80 MB, well above where glibc gives a freed block back at once
PROGRAM = f"""
import resource, sys
from trainables.allocator import give_back_freed_memory, keep_freed_memory
if sys.argv[1] != "default":
    keep_freed_memory()
for _ in range(3):
    if sys.argv[1] == "given back":
        give_back_freed_memory()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = b"1" * (4096 * {PAGES})
    del block
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults_of_the_third_block(how: str) -> int:
    found = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True)
    return int(found.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's settings")
def test_a_freed_block_is_used_again_without_page_faults():
    assert faults_of_the_third_block("default") > PAGES / 2
    assert faults_of_the_third_block("kept") < PAGES / 100
    assert faults_of_the_third_block("given back") > PAGES / 2


def test_a_c_library_without_the_setting_is_left_alone(monkeypatch):
    monkeypatch.setattr("ctypes.CDLL", lambda name: object())
    assert keep_freed_memory() is False
    give_back_freed_memory()  # no error


@pytest.mark.skipif(sys.platform != "linux", reason="what Linux says of a process")
def test_spare_memory_is_address_space_and_nothing_else():
    def address_space_and_resident() -> tuple[int, int]:
        space, resident, *_ = (int(pages) for pages in Path("/proc/self/statm").read_text().split())
        return space, resident

    space, resident = address_space_and_resident()
    spare = spare_memory(1 << 30)
    more_space, more_resident = address_space_and_resident()
    assert more_space - space >= (1 << 30) // mmap.PAGESIZE
    assert more_resident - resident < 1000
    spare.close()
    spare.close()  # whoever is not sure says it again
    assert address_space_and_resident()[0] < space + 1000
    assert len(spare_memory(1 << 60)) == mmap.PAGESIZE, "a process that has no room for it does without"
