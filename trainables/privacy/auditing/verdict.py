"""What a check finds."""

from __future__ import annotations

from typing import Literal

Status = Literal["passed", "failed", "not applicable"]
Verdict = tuple[Status, str]
"""The status, and the numbers or the reason in a sentence."""
