"""The data of a job, decoded and held against the fingerprint that they were planned under."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from trainables.base import Dataset

from .folders import Folders

if TYPE_CHECKING:
    from trainables.data.canaries import Planted


def load_data(data: Mapping[str, Any], folders: Folders) -> tuple[Dataset, Dataset]:
    """(training split, test split) of a job's data, verified against the fingerprint of the plan. Raises ``ValueError``.

    What was decoded is hashed (60,000 images of 28x28 take 0.03 s), whatever is remembered of the files: one that was edited
    in place may look the same from outside.
    """
    return load_planted(data, folders)[:2]


def load_planted(data: Mapping[str, Any], folders: Folders) -> tuple[Dataset, Dataset, Planted | None]:
    """As ``load_data``, with what an audit has planted in them; None where it has planted nothing."""
    from trainables.data import sources

    from . import audits

    if data.get("audit"):
        planted = audits.load(data, folders)
        return planted.train, planted.test, planted
    train, test = sources.load(data["source"], **sources.settings_of(data))
    audits.check_content(sources.content_hash(train, test), data["fingerprint"], folders)
    return train, test, None
