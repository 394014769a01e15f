"""The unit audits of a method's real code, as a command.

    python -m trainables.privacy.audit METHOD [--preset NAME] [--set train.name=value] [--json]

METHOD is one of ours or the ``package.module`` of your own. Its code runs for a few small steps, on real data, with a sanitizer
that looks. What it checks is what an epsilon rests on: the bound on what one record can do, the noise, the number of releases,
and that nothing private goes round them. An audit can find a fault; it proves nothing by itself.

Exit codes: 0 all checks passed, 1 a check failed, 2 the method or the settings cannot be audited as asked.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .auditing.checks import Check
    from .auditing.subject import Subject

PASSED, FAILED, BAD_INPUT = 0, 1, 2

_SHOWN = {"passed": "passed", "failed": "FAILED", "not applicable": "not applicable"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    arguments = _parser().parse_args(argv)
    import torch

    from .auditing.checks import run_checks
    from .auditing.evidence import Evidence
    from .auditing.settings import BadInput, subject

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums in one order, so that equal runs are equal to the bit
    try:
        with tempfile.TemporaryDirectory(prefix="dpsweep-audit-") as scratch, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                found = subject(
                    arguments.method,
                    scratch=Path(scratch),
                    preset=arguments.preset,
                    edits=arguments.set,
                    source=arguments.source,
                    path=arguments.path,
                    size=arguments.size,
                    seed=arguments.seed,
                )
            except BadInput as error:
                print(error, file=sys.stderr)
                return BAD_INPUT
            if not arguments.json:
                print(_heading(found))
            checks: list[Check] = []
            for check in run_checks(Evidence(found)):
                checks.append(check)
                if not arguments.json:
                    print(f"  {_SHOWN[check.status]:<14} {check.name:<17} {check.what}", flush=True)
    finally:
        torch.set_num_threads(threads)
    failed = [check.name for check in checks if check.status == "failed"]
    if arguments.json:
        print(json.dumps(_document(found, checks), indent=2))
    else:
        count = sum(check.status == "passed" for check in checks)
        first = f" in the first {found.steps} steps" if found.steps < sum(found.phase_steps) else ""
        passed = f"{count} checks passed, none failed{first}" if count else "nothing to check"
        print(f"{found.name}: " + (f"FAILED: {', '.join(failed)}" if failed else passed))
    return FAILED if failed else PASSED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m trainables.privacy.audit",
        description="Unit audits of a method's code: sensitivity, noise, counts, and that nothing goes round the releases.",
    )
    parser.add_argument("method", metavar="METHOD", help="a method of ours, or package.module of your own")
    parser.add_argument("--preset", metavar="NAME", help="the preset to start from (default: the method's defaults)")
    parser.add_argument(
        "--set",
        metavar="train.NAME=VALUE",
        action="append",
        default=[],
        help="a setting to keep as written; sizes are made small",
    )
    parser.add_argument("--source", default="digits", help="data source as in a sweep file (default: %(default)s)")
    parser.add_argument("--path", help="file or folder of the source")
    parser.add_argument("--size", type=int, metavar="N", help="records (default: as few as the settings take, 12 or more)")
    parser.add_argument("--seed", type=int, default=0, help="of the public coins (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    return parser


def _heading(subject: Subject) -> str:
    kinds = " + ".join(f"{phase.steps} x {phase.mechanism.kind}" for phase in subject.phases)
    shape = "x".join(map(str, subject.data.info.shape))
    left = sum(subject.phase_steps) - subject.steps
    rest = f"; the last {left} steps are not reached" if left else ""
    return f"{subject.name}: {len(subject.data.labels)} records of {shape}; steps: {kinds}{rest}"


def _document(subject: Subject, checks: Sequence[Check]) -> dict[str, Any]:
    return {
        "method": subject.name,
        "version": getattr(subject.method, "VERSION", None),
        "settings": subject.config.model_dump(mode="json"),
        "records": len(subject.data.labels),
        "passed": not any(check.status == "failed" for check in checks),
        "checks": [asdict(check) for check in checks],
    }


if __name__ == "__main__":
    sys.exit(main())
