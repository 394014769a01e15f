"""Planted data of audited sweeps: the secret coins of a data set, and the data that they make.

The coins lie in ``ROOT/audits/KEY.json``, for the owner's eyes only. They are made once for a data set and its audit settings,
whichever command asks first, and every trial, stage and sweep under the root reads the same ones. How many of them are
guessed, at which confidence and from how many images belongs to these settings: another choice after a look draws other
coins and makes other trials, so that no bound is one of several that the same coins allowed. The fingerprint of planted
data is a hash of the fingerprint before, the settings and the coins with a random salt; so trial ids, stages and releases
follow, and nobody can guess coins by their hash.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainables.data import canaries, sources

from .data import Data
from .folders import Folders, canonical_json, create_json
from .spec import AuditSpec

if TYPE_CHECKING:
    import numpy as np

    from trainables.data.canaries import Planted

AUDIT_VERSION = 1
"""Raised whenever the same trial would get another audit."""


def planted(data: Data, audit: AuditSpec, samples: int, folders: Folders) -> Data:
    """``data`` with its canaries: another fingerprint, and ``audit`` says how they are planted. Makes the coins if need be.

    ``samples`` are the images that the black box looks at.

    Raises ``DataError`` where there are not enough records for so many canaries, or where this sweep's coins were lost.
    """
    settings = sources.settings_of(vars(data))
    all_records: sources.Settings = {**settings, "size": None}
    whole = sources.describe(data.source, **all_records).size
    spare = audit.canaries if audit.kind != "noise" and whole - data.info.size >= audit.canaries else 0
    tested = 0 if spare or audit.kind == "noise" else sources.test_size(data.source, **settings)
    canaries.check(audit.canaries, data.info.size, whole - data.info.size, tested, audit.kind)
    document: dict[str, Any] = {
        "canaries": audit.canaries,
        "kind": audit.kind,
        "spare": spare,
        "before": data.fingerprint,
        "guesses": audit.guess_count,
        "confidence": audit.confidence,
        "samples": samples,
        "version": canaries.PLANTING_VERSION,
    }
    document["coins"] = hashlib.sha256(canonical_json(document).encode()).hexdigest()[:16]
    path = _path(folders, document)
    known = _recorded(folders).get(document["coins"])
    if known is None or path.exists():
        _make_coins(path, audit.canaries)
    if known is not None and (not path.exists() or known != _fingerprint(path, document)):
        state = "holds other coins than before" if path.exists() else "is gone"
        raise canaries.DataError(
            f"{path} {state}: it says which canaries the trials of sweep {folders.name} were trained with. Bring it back from "
            "a copy, or give the sweep another name, under which all of its trials are trained again"
        )
    return replace(data, fingerprint=_fingerprint(path, document), audit=document)


def evaluation(audit: AuditSpec) -> dict[str, Any]:
    """How scores are turned into a bound."""
    return {"guesses": audit.guess_count, "confidence": audit.confidence, "version": AUDIT_VERSION}


def load(data: Mapping[str, Any], folders: Folders) -> Planted:
    """The planted data of a job, verified: the data before, and the coins. Raises ``ValueError`` where either differs."""
    document = data["audit"]
    settings = sources.settings_of(data)
    size = data["info"]["size"]
    with_spare: sources.Settings = {**settings, "size": size + document["spare"]}
    train, test = sources.load(data["source"], **with_spare)
    train, spare = (
        replace(train, images=train.images[rows], labels=train.labels[rows]) for rows in (slice(size), slice(size, None))
    )
    check_content(sources.content_hash(train, test), document["before"], folders)
    path = _path(folders, document)
    if not path.exists() or _fingerprint(path, document) != data["fingerprint"]:
        state = "holds other coins than the plan was made with" if path.exists() else "is gone"
        raise ValueError(f"{path} {state}: it says which canaries are in the data; bring it back from a copy")
    return canaries.plant(
        train,
        test,
        spare,
        _present(path),
        kind=document["kind"],
        fingerprint=document["before"],
        classes=data["info"]["classes"],
    )


def check_content(found: str, planned: str, folders: Folders) -> None:
    """Raise ``ValueError`` where decoded arrays hash to something else than the plan was made for."""
    if found != planned:
        raise ValueError(
            f"the data here have fingerprint {found[:12]}, the plan was made for {planned[:12]}: files were edited, or differ "
            f"between machines; if they are meant so, delete {folders.fingerprints} and plan again"
        )


def _path(folders: Folders, document: Mapping[str, Any]) -> Path:
    return folders.audits / f"{document['coins']}.json"


def _make_coins(path: Path, count: int) -> None:
    """Fair coins and a salt from the operating system's entropy. One that is there already is kept."""
    if path.exists():
        return
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.parent.chmod(0o700)
    coins = [secrets.randbits(1) for _ in range(count)]
    try:
        create_json(path, {"present": coins, "salt": secrets.token_hex(32)}, private=True)
    except FileExistsError:
        return  # another command was as quick; its coins are the ones


def _present(path: Path) -> np.ndarray:
    import numpy as np

    return np.array(json.loads(path.read_text())["present"], dtype=bool)


def _fingerprint(path: Path, document: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of the planted data. Raises ``DataError`` for a file that holds no coins."""
    try:
        coins = json.loads(path.read_text())
        if len(coins["present"]) != document["canaries"] or not coins["salt"]:
            raise ValueError("it has other coins than it should")
    except (ValueError, KeyError, TypeError) as error:
        raise canaries.DataError(f"{path} holds no coins of an audit ({error}): bring it back from a copy") from error
    return hashlib.sha256(canonical_json([document, coins]).encode()).hexdigest()


def _recorded(folders: Folders) -> Mapping[str, str]:
    """Coins that trials of this sweep were planned with, and the fingerprint of what they made (``sweep.json``)."""
    try:
        return json.loads((folders.sweep / "sweep.json").read_text()).get("audits", {})
    except (OSError, ValueError, AttributeError):
        return {}
