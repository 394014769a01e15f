"""Methods by name: ours, or ``package.module`` of a user's own.

A method's name in a sweep file is the name of a package under ``trainables``, or the dotted path of any importable package
that has the two modules ``method`` and ``training`` (``trainables.base`` describes them).
"""

from __future__ import annotations

import importlib
from types import ModuleType

METHODS: tuple[str, ...] = (
    "gs_wgan",
    "dpac",
    "ef_dpgan",
    "dp_energy",
    "dp_energy_guided",
    "dp_merf",
    "dp_sinkhorn",
    "dpgan",
    "real",
    "dpdm",
    "dp_feta",
    "pate_gan",
    "g_pate",
    "datalens",
)


class UnknownMethod(ValueError):
    """The name is neither one of ours nor an importable package with a ``method`` module."""


def _package(name: str) -> str:
    return f"trainables.{name}" if name in METHODS else name


def method(name: str) -> ModuleType:
    """The torch-free half of a method. Raises ``UnknownMethod`` with the candidates."""
    if name not in METHODS and "." not in name:
        raise UnknownMethod(
            f"method {name!r} is not known; ours are {', '.join(METHODS)}; a method of your own is written package.module"
        )
    try:
        return importlib.import_module(f"{_package(name)}.method")
    except ModuleNotFoundError as error:
        raise UnknownMethod(
            f"method {name!r} cannot be imported ({error}); it must be a package with the modules method and training"
        ) from error


def training(name: str) -> ModuleType:
    """The torch half of a method, imported inside a trial only."""
    return importlib.import_module(f"{_package(name)}.training")
