"""From the ``data`` section of a sweep file to the data set that its trials are planned for. Decodes nothing that is known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trainables.base import DataInfo
from trainables.data import sources
from trainables.data.base import expand_home

from .spec import DataSpec


@dataclass(frozen=True, kw_only=True)
class Data:
    """A prepared data set: how to load it and what is declared about it."""

    source: str
    path: str | None
    size: int | None
    resolution: int | None
    enlarge: bool
    channels: int | None
    label: str | None
    preparation: sources.Preparation | None
    test_split: str | None
    lineage: str
    test_set: str
    public: bool
    fingerprint: str
    info: DataInfo
    audit: Mapping[str, Any] | None = None
    """How canaries are planted (``audits``); None where there are none."""

    @property
    def document(self) -> dict[str, Any]:
        """As JSON, for a job."""
        return {name: value for name, value in asdict(self).items() if name != "audit" or value is not None}


def prepare(settings: DataSpec, fingerprints: Path) -> Data:
    """Look the data set up. ``fingerprints`` is the file that remembers what its arrays hash to.

    Raises ``DataError`` where it is not here, cannot be had as asked, or has no name for the ledger.
    """
    arguments = sources.settings_of(settings.model_dump())
    # Absolute, since the workers of another machine start in another folder.
    arguments["path"] = str(expand_home(settings.path).absolute()) if settings.path else None
    return Data(
        source=settings.source,
        **arguments,
        lineage=_lineage(settings),
        test_set=settings.test_set,
        public=settings.public,
        info=sources.describe(settings.source, **arguments),
        fingerprint=sources.fingerprint(settings.source, cache_file=fingerprints, **arguments),
    )


def _lineage(settings: DataSpec) -> str:
    """The name that the ledger adds up under. Raises ``DataError`` where nobody has given one: a name made of the path would
    let a copy of the same records start with nothing spent.
    """
    if settings.lineage is None and settings.source in sources.OWN_FILES:
        raise sources.DataError(
            "data.lineage is missing; your own images need a name in the privacy ledger, the same one wherever these records "
            "or a part of them are used: write lineage: NAME"
        )
    return settings.lineage or settings.source
