"""n_D: how many critic steps there are for a generator step, constant or adaptive (Bie, Kamath & Zhang, 2023)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .method import Config

_ACCURACY_DECAY = 0.99


def ladder(rung: int) -> int:
    """The n_D of a rung, from 0.

    >>> [ladder(rung) for rung in range(8)]
    [1, 2, 5, 10, 20, 50, 100, 200]
    """
    return (1, 2, 5)[rung % 3] * 10 ** (rung // 3)


class CriticSteps:
    """Counts the critic's steps and says when the generator moves.

    The adaptive rule climbs a rung when the critic, on average, calls too few generated images fake, and not before it has
    spent ``adaptive_wait`` generator steps on the rung. It reads generated images and the released critic, so it is free.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._rung = self._waited = self._since = 0
        self._accuracy: float | None = None

    @property
    def per_generator_step(self) -> int:
        """n_D now."""
        return ladder(self._rung) if self._config.critic_steps == "adaptive" else self._config.critic_steps

    def critic_stepped(self) -> bool:
        """Count one critic step; whether the generator moves now."""
        self._since += 1
        if self._since < self.per_generator_step:
            return False
        self._since = 0
        return True

    def generator_stepped(self, accuracy: float) -> None:
        """Take note of a generator step, before which the critic called the share ``accuracy`` of generated images fake.

        The average is an exponential one of decay 0.99 that starts at the first share; it goes on from rung to rung.
        """
        kept = accuracy if self._accuracy is None else self._accuracy
        self._accuracy = _ACCURACY_DECAY * kept + (1 - _ACCURACY_DECAY) * accuracy
        self._waited += 1
        if self._waited >= self._config.adaptive_wait and self._accuracy <= self._config.adaptive_threshold:
            self._rung += 1
            self._waited = 0

    def state_dict(self) -> dict[str, Any]:
        """The counters and the average."""
        return {"rung": self._rung, "waited": self._waited, "since": self._since, "accuracy": self._accuracy}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state_dict`` was taken."""
        self._rung, self._waited, self._since = state["rung"], state["waited"], state["since"]
        self._accuracy = state["accuracy"]
