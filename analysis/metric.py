"""What the metadata of a metric's column say of it, and how its values are written."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Literal

import pandas as pd

_ABBREVIATIONS = {name: name.upper() for name in ("cnn", "mlp", "fd", "is", "fid", "kd", "kid")}
_ABBREVIATIONS |= {"logreg": "logistic", "lenet": "LeNet", "sklearn": "(scikit-learn)"}
_SHARES = ("gen2real", "real2gen", "near", "coverage", "precision", "recall", "memorization", "pairwise", "sharpness")
_LIMITS = dict.fromkeys(_SHARES, (0.0, 1.0)) | dict.fromkeys(("fd", "fid", "density"), (0.0, inf))
_LIMITS["is"] = (1.0, inf)


@dataclass(frozen=True)
class Metric:
    """One metric, as the metadata of its column tell it."""

    name: str
    better: Literal["higher", "lower"]
    private: bool
    """Computed from private training data without noise: for the data owner alone."""
    reference: str
    """What the generated images were held against."""
    description: str

    @property
    def heading(self) -> str:
        """How people call it.

        >>> Metric("gen2real_logreg", "higher", False, "", "").heading, Metric("fid_inception", "lower", True, "", "").heading
        ('gen2real logistic', 'FID inception')
        """
        return " ".join(_ABBREVIATIONS.get(word, word) for word in self.name.split("_"))

    @property
    def limits(self) -> tuple[float, float]:
        """What no value can be below and above, by the first word of the name: an accuracy is a share, a distance not negative.

        >>> Metric("gen2real_cnn", "higher", False, "", "").limits, Metric("fid_inception", "lower", True, "", "").limits
        ((0.0, 1.0), (0.0, inf))
        """
        return _LIMITS.get(self.name.partition("_")[0], (-inf, inf))

    @property
    def sign(self) -> int:
        """1 where more is better, -1 where less is."""
        return 1 if self.better == "higher" else -1

    def text(self, value: float | None) -> str:
        """A value as tables show it, empty where there is none.

        >>> accuracy, fid = (Metric(name, "higher", False, "", "") for name in ("gen2real_cnn", "fid_inception"))
        >>> accuracy.text(0.80712), fid.text(54.321), fid.text(None)
        ('0.807', '54.32', '')
        """
        if value is None or pd.isna(value):
            return ""
        kind = self.name.partition("_")[0]
        if kind == "is":
            return f"{value:.2f}"
        return f"{value:#.4g}".rstrip(".") if kind in ("fd", "fid", "kd", "kid") else f"{value:.3f}"
