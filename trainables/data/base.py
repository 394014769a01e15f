"""What every data source is made of: what it is asked for, what it declares, and how its records are decoded.

A source is a function ``find(request) -> Found``. It looks at names, sizes and headers of files and decodes nothing;
``Found.read`` returns the splits, whose images are decoded when rows of them are asked for.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict

if TYPE_CHECKING:
    import numpy as np

Preparation = Literal["crop", "squeeze"]


class DataError(ValueError):
    """The sweep file asks for data that cannot be had as asked; the message says what to write instead."""


class MissingData(DataError):
    """The files of a data set are not on this machine; the message says the command that fetches them, or the layout."""


class Settings(TypedDict, total=False):
    """What a sweep file's ``data`` section may ask of a source; None is as good as not there."""

    path: str | None
    """File or folder."""
    size: int | None
    """Training records: the first of the public permutation."""
    resolution: int | None
    """Pixels a side."""
    enlarge: bool
    """The resolution may be larger than the images."""
    channels: int | None
    """1 or 3."""
    label: str | None
    """Column (parquet) or attribute (celeba) that is the class."""
    preparation: Preparation | None
    """How images that are not square become so."""
    test_split: str | None
    """Which split of the files is the test set."""


SETTINGS: tuple[str, ...] = tuple(Settings.__annotations__)


@dataclass(frozen=True, kw_only=True)
class Request:
    """``Settings`` with a value for each."""

    path: str | None = None
    size: int | None = None
    resolution: int | None = None
    enlarge: bool = False
    channels: int | None = None
    label: str | None = None
    preparation: Preparation | None = None
    test_split: str | None = None

    @property
    def folder(self) -> Path | None:
        """``path`` with ``~`` put in."""
        return expand_home(self.path) if self.path else None


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a source declares of its training set: the number of records, the images as the files hold them, the classes."""

    train: int
    channels: int
    height: int
    width: int
    classes: int


@dataclass(frozen=True, kw_only=True)
class Form:
    """What a decoded image has to become."""

    channels: int
    height: int
    width: int
    preparation: Preparation
    resized: bool
    """A resolution was asked for: images of another size are resized. Otherwise they are an error."""
    converted: bool
    """A number of channels was asked for: colour becomes gray. Otherwise a colour image in a gray set is an error."""
    enlarged: bool = False
    """Images may be resized to more pixels than they have. Otherwise a smaller image is an error."""


@dataclass(frozen=True, kw_only=True)
class Split:
    """Records of one split, not decoded yet."""

    labels: np.ndarray
    """int64 ``[N]``."""
    decode: Callable[[np.ndarray, Form], np.ndarray]
    """(rows int64 ``[n]``, form) to uint8 ``[n, C, H, W]``. Raises ``DataError`` that names a file or row it cannot decode."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """Files that were found."""

    facts: Facts
    stamps: Sequence[Any]
    """JSON-able; changes when the files do."""
    read: Callable[[], tuple[Split, Split]]
    """(training split, test split), the training split in the order of the files."""


def expand_home(path: str) -> Path:
    """``path`` with ``~`` and ``~user`` put in as a shell does it: the name of no user stays as it is, and whoever looks
    there says what is missing. (``Path.expanduser`` raises ``RuntimeError``.)
    """
    return Path(os.path.expanduser(path))  # noqa: PTH111


def either(values: Iterable[object]) -> str:
    """
    >>> either([28, 32, 64])
    '28, 32 or 64'
    """
    *most, last = map(str, values)
    return f"{', '.join(most)} or {last}" if most else last


def stamps(files: Iterable[Path]) -> list[list[Any]]:
    """(path, bytes, mtime) of each file."""
    stats = [(file, file.stat()) for file in files]
    return [[str(file.absolute()), stat.st_size, stat.st_mtime_ns] for file, stat in stats]


def cache_root() -> Path:
    """``~/.cache/dpsweep`` or its place under ``$XDG_CACHE_HOME``."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "dpsweep"


def downloads() -> Path:
    """Where ``fetch`` puts data sets unless told otherwise."""
    return cache_root() / "data"


def roots(path: Path | None) -> list[Path]:
    """Folders to look in: ``path`` alone where it is given, else ``$DPSWEEP_DATA`` and what ``fetch`` fills."""
    if path is not None:
        return [path]
    own = os.environ.get("DPSWEEP_DATA")
    return [*([expand_home(own)] if own else []), downloads()]


def fetching(source: str, request: Request) -> str:
    """The command that downloads ``source`` to where it is looked for."""
    return f"python -m trainables.data.sources fetch {source}" + (f" --path {request.path}" if request.path else "")


def order(count: int) -> np.ndarray:
    """A public permutation that depends on the count alone. ``RandomState`` because its streams are frozen for ever."""
    import numpy as np

    return np.random.RandomState(20260121).permutation(count)


def found_at(path: Path) -> str:
    """What lies at ``path``, for a message."""
    if not path.exists():
        return f"{path} does not exist"
    if path.is_file():
        return f"{path} is a file"
    names = sorted(entry.name + "/" * entry.is_dir() for entry in path.iterdir())
    if not names:
        return f"{path} is empty"
    return f"{path} holds {', '.join(names[:8])}" + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def named_path(source: str, request: Request, layout: str) -> Path:
    """``data.path``, which a source of the user's own files needs. Raises ``MissingData`` that says what should lie there."""
    if request.folder is None:
        raise MissingData(f"data.path is missing; {source} expects {layout}")
    return request.folder


def test_split(request: Request) -> str:
    """Name of the folder or file that is the test set (``test``). Raises ``DataError`` for the training set or a path."""
    name = request.test_split or "test"
    if name in ("train", "..") or Path(name).name != name:
        raise DataError(f"data.test_split is {name!r}; expected the name of another split than train, such as test or valid")
    return name


def checked_labels(train: np.ndarray, where: str) -> int:
    """Number of classes of whole-number labels 0, 1, ...; their range is taken as declared. Raises ``DataError``."""
    low, high = int(train.min()), int(train.max())
    if low != 0 or high >= len(train):
        raise DataError(f"{where}: training labels run from {low} to {high}; expected classes counted from 0")
    return high + 1


def check_test_labels(labels: np.ndarray, classes: int, where: str) -> None:
    """Raise ``DataError`` where a test label is none of the training set's."""
    wrong = ((labels < 0) | (labels >= classes)).nonzero()[0]
    if len(wrong):
        raise DataError(
            f"{where}: row {wrong[0]} of the test set has label {labels[wrong[0]]}; the training set has 0 to {classes - 1}"
        )
