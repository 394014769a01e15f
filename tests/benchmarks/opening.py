"""What a process pays for 60,000 images of 28 x 28 while another process of the machine has them open.

    python tests/benchmarks/opening.py

The first process decodes them and leaves arrays in the cache, which the second maps; the other way, with no cache to write
to, both decode. The images are random ones as PNG in a Parquet file, the layout of Hugging Face. Seconds are those on the
processor from the call of ``load`` to the verified content hash, megabytes what the second process then has for itself alone.
Linux only.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

OPEN = """
import json, sys, time
import pandas, PIL.Image, pyarrow.parquet  # what opening would import does not count
from trainables.data.sources import content_hash, load

def own_mb():
    lines = (line.split() for line in open("/proc/self/smaps_rollup"))
    return sum(int(size) / 1e3 for name, size, *_ in lines if name == "Private_Dirty:")

before, began = own_mb(), time.process_time()
splits = load("parquet", path=sys.argv[1])
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
        for split, count in (("train", 60_000), ("test", 10_000)):
            write_images(folder / f"{split}.parquet", count)
        (folder / "no_folder").touch()
        mapped = open_twice(folder, cache=folder / "cache")
        decoded = open_twice(folder, cache=folder / "no_folder")
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


def write_images(file: Path, count: int) -> None:
    rng = np.random.default_rng(count)
    cells = []
    for image in rng.integers(0, 4, (count, 28, 28), dtype=np.uint8):
        encoded = io.BytesIO()
        Image.fromarray(image).save(encoded, "png")
        cells.append({"bytes": encoded.getvalue(), "path": None})
    image_type = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    columns = {"image": pa.array(cells, image_type), "label": pa.array(np.arange(count) % 10)}
    pq.write_table(pa.table(columns), file, row_group_size=1000)


def open_twice(images: Path, cache: Path) -> dict[str, Any]:
    """What the second of two processes says that have the images open at the same time."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache), "PYTHONPATH": str(Path(__file__).parents[2])}
    found: dict[str, Any] = {}
    running: list[subprocess.Popen[str]] = []
    try:
        for _ in range(2):
            command = [sys.executable, "-c", OPEN, str(images)]
            running.append(subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
            assert running[-1].stdout is not None
            found = json.loads(running[-1].stdout.readline())
    finally:
        for process in running:
            process.communicate()
    return found


if __name__ == "__main__":
    main()
