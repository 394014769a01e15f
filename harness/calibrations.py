"""Noise and epsilons by mechanism, computed once and kept in ``ROOT/calibrations.json``.

An entry is a pure function of its key (mechanism, request, accountant version), so entries never go stale and two
commands that write at the same time can only lose each other's work, never mix it up.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from trainables.privacy import accounting
from trainables.privacy.accounting import Accountant
from trainables.privacy.mechanism import Phase, to_dict

from .folders import canonical_json, write_json


class Calibrations:
    """A dictionary on disk; ``save`` writes what is new."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._entries: dict[str, Any] = _read(path)
        self._changed = False

    def save(self) -> None:
        """Write new entries, together with what other commands have written in the meantime."""
        if self._changed:
            with suppress(OSError):  # a cache: results that cannot be written to can still be looked at
                write_json(self._path, {**_read(self._path), **self._entries})
            self._changed = False

    def factor(
        self, phases: Sequence[Phase], *, target_epsilon: float, delta: float, accountant: Accountant, reserve: int
    ) -> float:
        """The common factor on the phases' relative noise. Raises ``accounting.InfeasibleBudget``, which is not kept."""
        request: dict[str, Any] = {"target": target_epsilon, "delta": delta, "accountant": accountant, "reserve": reserve}
        if any(phase.steps < reserve for phase in phases):  # other entries are older than that this makes a difference
            request["reserved"] = accounting.reserved(phases, reserve)
        return self._get(
            "factor",
            phases,
            request,
            lambda: accounting.calibrate(
                phases, target_epsilon=target_epsilon, delta=delta, accountant=accountant, reserve_steps=reserve
            ),
        )

    def epsilon(self, phases: Sequence[Phase], *, delta: float, accountant: Accountant) -> float:
        """Epsilon of the phases' steps."""
        request = {"delta": delta, "accountant": accountant}
        return self._get("epsilon", phases, request, lambda: accounting.epsilon(phases, delta=delta, accountant=accountant))

    def published_epsilon(self, phases: Sequence[Phase], *, delta: float) -> float | None:
        """What the published accounting claims for the shard family; None elsewhere."""
        return self._get("published", phases, {"delta": delta}, lambda: accounting.published_epsilon(phases, delta=delta))

    def published_factor(self, phases: Sequence[Phase], *, target_epsilon: float, delta: float) -> float:
        """The factor that the published accounting allows. Raises ``ValueError`` for phases that it knows nothing of."""
        request = {"target": target_epsilon, "delta": delta}
        return self._get(
            "published_factor",
            phases,
            request,
            lambda: accounting.published_factor(phases, target_epsilon=target_epsilon, delta=delta),
        )

    def curve(
        self, phases: Sequence[Phase], checkpoints: Sequence[Sequence[int]], *, delta: float, accountant: Accountant
    ) -> list[float]:
        """Epsilon at checkpoints (steps done a phase)."""
        request = {"delta": delta, "accountant": accountant, "checkpoints": [list(steps) for steps in checkpoints]}
        return self._get(
            "curve",
            phases,
            request,
            lambda: accounting.epsilon_curve(phases, checkpoints, delta=delta, accountant=accountant),
        )

    def composition(self, parts: Sequence[tuple[Sequence[Phase], int]], *, delta: float, accountant: Accountant) -> float:
        """Epsilon of seeing ``n`` trials of every (phases, n)."""
        from trainables.privacy import selection

        everything = [phase for phases, _ in parts for phase in phases]
        request = {"delta": delta, "accountant": accountant, "parts": [[len(phases), count] for phases, count in parts]}
        return self._get("compose", everything, request, lambda: selection.compose(parts, delta=delta, accountant=accountant))

    def prices(
        self,
        parts: Sequence[tuple[Sequence[Phase], int]],
        *,
        delta: float,
        accountant: Accountant,
        target_epsilon: float | None,
    ) -> list[dict[str, Any]]:
        """What every way of choosing among the trials of ``parts`` costs: ``selection.Price`` as dictionaries."""
        from trainables.privacy import selection

        everything = [phase for phases, _ in parts for phase in phases]
        request: dict[str, Any] = {"delta": delta, "accountant": accountant, "target": target_epsilon}
        request["parts"] = [[len(phases), count] for phases, count in parts]

        def compute() -> list[dict[str, Any]]:
            found = selection.prices(parts, delta=delta, accountant=accountant, target_epsilon=target_epsilon)
            return [asdict(price) for price in found]

        return self._get("prices", everything, request, compute)

    def base_epsilon(self, candidates: Sequence[tuple[Sequence[Phase], int]], **request: Any) -> float:
        """``selection.base_epsilon``. Raises ``accounting.InfeasibleBudget``, which is not kept."""
        from trainables.privacy import selection

        everything = [phase for phases, _ in candidates for phase in phases]
        asked = {**request, "candidates": [[len(phases), reserve] for phases, reserve in candidates]}
        return self._get("base_epsilon", everything, asked, lambda: selection.base_epsilon(candidates, **request))

    def _get(self, what: str, phases: Sequence[Phase], request: dict[str, Any], compute: Callable[[], Any]) -> Any:
        identity = [accounting.ACCOUNTANT_VERSION, what, [to_dict(phase) for phase in phases], request]
        key = hashlib.sha256(canonical_json(identity).encode()).hexdigest()[:32]
        if key not in self._entries:
            self._entries[key] = compute()
            self._changed = True
        return self._entries[key]


def _read(path: Path) -> dict[str, Any]:
    """The entries on disk; none where the file is missing or was cut off (everything in it can be computed again)."""
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError):
        return {}
