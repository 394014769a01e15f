"""What a process pays for 60,000 images of 28 x 28 while another process of the machine has them open.

    python tests/benchmarks/opening.py

The first process decodes them and leaves arrays in the cache, which the second maps; the other way, with no cache to write
to, both decode. The images are random ones in a compressed npz file. Seconds are those on the processor from the call of
``load`` to the verified content hash, megabytes what the second process then has for itself alone. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

OPEN = """
import json, sys, time
from trainables.data.sources import content_hash, load

def own_mb():
    lines = (line.split() for line in open("/proc/self/smaps_rollup"))
    return sum(int(size) / 1e3 for name, size, *_ in lines if name.startswith("Private_"))

before, began = own_mb(), time.process_time()
splits = load("npz", path=sys.argv[1])
hashed = content_hash(*splits)
print(json.dumps({"seconds": time.process_time() - began, "mb": own_mb() - before, "hash": hashed}), flush=True)
sys.stdin.read()  # keeps the images open
"""


def main() -> None:
    command = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_argument("--json", action="store_true", help="print rows for tests/benchmarks/bench.py")
    arguments = command.parse_args()
    with tempfile.TemporaryDirectory(prefix="opening-") as name:
        folder = Path(name)
        rng, arrays = np.random.default_rng(0), {}
        for split, count in (("train", 60_000), ("test", 10_000)):
            arrays[f"x_{split}"] = rng.integers(0, 4, (count, 28, 28), dtype=np.uint8)
            arrays[f"y_{split}"] = np.arange(count) % 10
        np.savez_compressed(folder / "images.npz", **arrays)
        (folder / "no_folder").touch()
        mapped = open_twice(folder / "images.npz", cache=folder / "cache")
        decoded = open_twice(folder / "images.npz", cache=folder / "no_folder")
    assert mapped["hash"] == decoded["hash"]
    row = {
        "name": "60,000 images in a second process: mapped, decoded again",
        "ours_s": mapped["seconds"],
        "ours_mb": mapped["mb"],
        "plain_s": decoded["seconds"],
        "plain_mb": decoded["mb"],
        "ratio": decoded["seconds"] / mapped["seconds"],
        "aim": "-",
        "bound": "hashing: every process checks what it trains on, twice",
    }
    print(json.dumps([row]) if arguments.json else row)


def open_twice(file: Path, cache: Path) -> dict[str, Any]:
    """What the second of two processes says that have the images open at the same time."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache), "PYTHONPATH": str(Path(__file__).parents[2])}
    found: dict[str, Any] = {}
    running: list[subprocess.Popen[str]] = []
    try:
        for _ in range(2):
            command = [sys.executable, "-c", OPEN, str(file)]
            running.append(subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
            assert running[-1].stdout is not None
            found = json.loads(running[-1].stdout.readline())
    finally:
        for process in running:
            process.communicate()
    return found


if __name__ == "__main__":
    main()
