"""Sizes and lengths of time as people write them in sweep files and profiles."""

from __future__ import annotations

import re

_MEMORY_UNITS = {"": 1, "MB": 10**6, "GB": 10**9, "TB": 10**12, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}
_TIME_UNITS = {"d": 86400, "h": 3600, "min": 60, "s": 1}  # in the order of D-HH:MM:SS


def memory_bytes(memory: int | str) -> int:
    """Bytes in ``2GB``, ``1.5 GiB`` or a plain number. Raises ``ValueError``.

    >>> memory_bytes("2GB"), memory_bytes("512MiB"), memory_bytes(1000)
    (2000000000, 536870912, 1000)
    """
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?([a-zA-Z]*)", str(memory))
    if not match or match[2].upper() not in _MEMORY_UNITS or not float(match[1]):
        raise ValueError("expected a size such as 2GB, 512MiB or a number of bytes")
    return int(float(match[1]) * _MEMORY_UNITS[match[2].upper()])


def seconds(duration: object) -> float:
    """Seconds in ``4h``, ``90min``, ``1d 12h``, or in Slurm's ``D-HH``, ``D-HH:MM``, ``D-HH:MM:SS`` and ``HH:MM:SS``.

    Slurm's two shortest forms are refused: ``30`` would be minutes and ``30:00`` half an hour. Raises ``ValueError``.

    >>> seconds("4h"), seconds("1.5h"), seconds("04:00:00"), seconds("1-12:00:00"), seconds("1d12h")
    (14400.0, 5400.0, 14400.0, 129600.0, 129600.0)
    """
    text = str(duration).strip()
    total = 0.0
    slurms = r"(?:(\d+)-)?(\d+):([0-5]?\d):([0-5]?\d)", r"(\d+)-(\d+)(?::([0-5]?\d))?"
    if match := re.fullmatch(slurms[0], text) or re.fullmatch(slurms[1], text):
        total = sum(int(part or 0) * unit for part, unit in zip(match.groups(), _TIME_UNITS.values(), strict=False))
    elif re.fullmatch(r"(\d+(\.\d+)?(d|h|min|s) ?)+", text):
        total = sum(float(number) * _TIME_UNITS[unit] for number, unit in re.findall(r"([\d.]+)(d|h|min|s)", text))
    if not total:
        raise ValueError("expected a length of time with its unit, such as 4h, 90min, 2d, 1-12:00:00 or 04:00:00")
    return float(total)


def spoken(duration: float) -> str:
    """A length of time in seconds as a person says it, rounded to minutes from two minutes on.

    >>> spoken(14400), spoken(129600), spoken(5400), spoken(45)
    ('4 h', '1 d 12 h', '1 h 30 min', '45 s')
    """
    if duration < 120:
        return f"{duration:.0f} s"
    minutes = round(duration / 60)
    parts = ((minutes // 1440, "d"), (minutes // 60 % 24, "h"), (minutes % 60, "min"))
    return " ".join(f"{number} {unit}" for number, unit in parts if number)
