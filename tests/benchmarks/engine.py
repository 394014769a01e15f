"""How fast a training step is: against a plain re-statement of the published one, part by part and trick by trick.

    python tests/benchmarks/engine.py            # under five minutes on one core
    python tests/benchmarks/engine.py --quick    # narrow networks, one round: shows that it runs

What is compared is run in turn, on one thread and in a process each; medians of processor time are printed with their ratio, so
that a busy machine slows both sides. Data and initial weights are random.
"""

from __future__ import annotations

import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import time

import torch
from engine_steps import measure_dp_energy, measure_pretraining, measure_step
from engine_tricks import measure_critics, measure_generator, measure_untaken


def main() -> None:
    command = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_argument("--quick", action="store_true", help="narrow networks and one round: shows that it runs")
    command.add_argument(
        "--compile", action="store_true", help="torch.compile as well, which takes a C++ compiler and a minute"
    )
    arguments = command.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    began = time.perf_counter()
    processor = torch.backends.cpu.get_cpu_capability()
    print(f"torch {torch.__version__}, {processor}, 1 thread, seconds of processor")
    if arguments.quick:
        measure_step(channels=8, shards_per_step=1, rounds=1)
        measure_step(channels=8, shards_per_step=2, rounds=1)
        measure_pretraining(channels=8, shards=3, rounds=1)
        measure_dp_energy(records=2000, rounds=1)
        measure_generator(channels=8, rounds=1, compiled=arguments.compile)
        measure_untaken(channels=8, rounds=1)
        measure_critics(stacks=(2,), rounds=1)
    else:
        measure_step(channels=256, shards_per_step=1, rounds=2)
        measure_step(channels=64, shards_per_step=1, rounds=3)
        measure_step(channels=256, shards_per_step=8, rounds=1, warm_up=False)
        measure_step(channels=64, shards_per_step=8, rounds=1, warm_up=False)
        measure_pretraining(channels=256, shards=10, rounds=1)
        measure_dp_energy(records=60000, rounds=5)
        measure_generator(channels=256, rounds=2, compiled=arguments.compile)
        measure_generator(channels=64, rounds=3)
        measure_untaken(channels=64, rounds=3)
        measure_critics(stacks=(4, 16), rounds=1)
    print(f"{time.perf_counter() - began:.0f} s in all")


if __name__ == "__main__":
    main()
