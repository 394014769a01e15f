"""Blocks of ports, taken by several processes of one machine at once."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from slurm.ports import NoPorts, Ports

ROOT = Path(__file__).parents[2]
FIRST, LAST = 23000, 23499

TAKE = """
import sys
from slurm.ports import NoPorts, Ports
try:
    print(" ".join(Ports(int(sys.argv[1]), int(sys.argv[2])).head()), flush=True)
except NoPorts as error:
    print(error, flush=True)
sys.stdin.read()
"""


def test_processes_that_begin_at_once_never_share_a_block() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "SLURM_JOB_ID": "7"}  # all of them begin to search at one place
    command = [sys.executable, "-c", TAKE, str(FIRST), str(LAST)]
    takers = [
        subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(6)
    ]
    said = [taker.stdout.readline() for taker in takers if taker.stdout is not None]
    taken = [sorted(map(int, re.findall(r"=(\d+)", line))) for line in said if line.startswith("--port")]
    assert len(taken) == 5, "there are five blocks"
    assert all(ports[0] >= FIRST and ports[-1] <= LAST for ports in taken)
    blocks = sorted((ports[0], ports[-1]) for ports in taken)
    assert all(before[1] < after[0] for before, after in pairwise(blocks))
    (refused,) = [line for line in said if not line.startswith("--port")]
    assert refused == f"of the ports {FIRST}-{LAST} no 100 in a row are free on {socket.gethostname()}\n"

    leaver = next(number for number, line in enumerate(said) if line.startswith("--port"))
    takers[leaver].communicate()  # a block is free again when its process has ended
    once_more = subprocess.run(command, env=environment, input="", stdout=subprocess.PIPE, text=True, check=True)
    assert once_more.stdout == said[leaver]
    for taker in takers[:leaver] + takers[leaver + 1 :]:
        taker.communicate()


def test_a_block_with_a_port_in_use_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "0")
    with socket.socket() as used:
        used.bind(("", FIRST + 550))
        first, second = (Ports(FIRST + 500, FIRST + 699).node() for _ in range(2))
        assert first == second, "one process has one Ray at a time"
        assert first[0] == f"--node-manager-port={FIRST + 601}"
        with pytest.raises(NoPorts):
            Ports(FIRST + 500, FIRST + 599).node()
