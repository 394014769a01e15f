"""Options of sbatch that a profile may pass on, and those that it may not: it has keys for them, or dpsweep needs them."""

from __future__ import annotations

import re
from typing import Any

from .document import describe
from .validation import about

_KEY_OF_OPTION = {
    "partition": "partition",
    "account": "account",
    "qos": "qos",
    "constraint": "constraint",
    "nodes": "worker.nodes",
    "mem": "worker.memory` or `head.memory",
    "mem-per-cpu": "worker.memory` or `head.memory",
    "mem-per-gpu": "worker.memory` or `head.memory",
    "time": "worker.walltime` or `head.walltime",
    "cpus-per-task": "worker.cpus` or `head.cpus",
    "cpus-per-gpu": "worker.cpus` or `head.cpus",
    "mincpus": "worker.cpus` or `head.cpus",
    "gpus": "worker.gpus",
    "gpus-per-node": "worker.gpus",
    "gpus-per-task": "worker.gpus",
    "gpus-per-socket": "worker.gpus",
    "signal": "grace",
    "array": "workers",
}
_KEPT_OPTIONS = (
    *("job-name", "output", "error", "input", "open-mode", "chdir", "wrap", "parsable", "wait", "test-only", "time-min"),
    *("ntasks", "ntasks-per-node", "ntasks-per-core", "ntasks-per-gpu", "ntasks-per-socket", "requeue", "no-requeue"),
    *("help", "usage", "version", "quiet", "verbose"),
)


def check_options(options: dict[str, Any]) -> dict[str, Any]:
    """``options`` as they are. Raises an error, shown at the option's own line, for the first that cannot be passed on."""
    for name, value in options.items():
        plain = name.lstrip("-").replace("_", "-")
        if name.startswith("-"):
            raise about(name, f"option `{name}` begins with a dash; write `{plain}`")
        if plain in _KEY_OF_OPTION:
            raise about(name, f"option `{name}` is not read here; write it as the profile's key `{_KEY_OF_OPTION[plain]}`")
        if plain in _KEPT_OPTIONS:
            raise about(name, f"option `{name}` is set by dpsweep itself; remove it")
        if plain == "gres" and re.search(r"(^|,)(gres/)?gpu\b", str(value)):
            raise about(
                name, "GPUs are not read from `gres`; write them as the profile's keys `worker.gpus` and `worker.gpu_type`"
            )
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]+", plain):
            raise about(name, f"`{name}` is no option of sbatch; write its long name, such as `exclude`")
        if value is None or value is False or isinstance(value, list | dict) or re.search(r"[\x00-\x1f]", str(value)):
            text = f"option `{name}` is {describe(value)}; expected one line of text, a number, or true for one without a value"
            raise about(name, text)
    return options
