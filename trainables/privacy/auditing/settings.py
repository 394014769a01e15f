"""Settings for an audit: a method's own, made small. What is audited is code, which sizes do not change."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import BaseModel, ValidationError

from trainables import registry
from trainables.base import DataInfo, Dataset
from trainables.data import sources
from trainables.privacy.mechanism import Phase

from .subject import Subject

UNITS = 6
"""Shards or teachers."""

SIZES = (2 * UNITS, 48, 240, 480)
"""Numbers of records that are tried until the method takes one: two a unit, and more for settings that ask for more."""


class BadInput(ValueError):
    """What was asked for cannot be audited; the message says what to type instead."""


def smaller(classes: int) -> dict[str, Any]:
    """Setting -> value for an audit, wherever a method (or a part of its settings) has one of this name that is larger.

    Starts come first: a signal has to begin before the last step. Two settings may also grow: sampling rates, so that few
    records are enough to see draws, and shards a step, so that there is something that could be mixed.
    """
    batch = classes if classes >= 10 else classes * -(-10 // classes)
    return {
        **dict.fromkeys(("start", "reconstruction_start", "noise_injection_start"), 1),
        "steps": 2,
        "releases": 2,
        **dict.fromkeys(("shards", "teachers"), UNITS),
        "shards_per_step": 2,
        "shards_per_job": UNITS // 2,
        **dict.fromkeys(("generator_batch", "batch", "fake_batch", "fake_batch_size", "batch_size", "real_batch"), batch),
        "slots": 2 * batch,
        **dict.fromkeys(("critic_steps", "fake_steps", "real_steps", "teacher_pretraining", "blocks"), 1),
        **dict.fromkeys(("generator_channels", "critic_channels", "channels", "teacher_width", "student_width"), 4),
        **dict.fromkeys(("z_dim", "latent", "filters", "projections", "noise_multiplicity", "samples_a_class"), 2),
        "hidden": 8,
        "features": 20,
        "top": 10,
        "multipliers": (1, 1),
        "sampling_rate": 0.25,
    }


STEPS = 6
"""Steps of the method itself; parts of its settings have 2."""


def subject(
    name: str,
    *,
    scratch: Path,
    preset: str | None = None,
    edits: Sequence[str] = (),
    source: str = "digits",
    path: str | None = None,
    size: int | None = None,
    seed: int = 0,
) -> Subject:
    """The method ``name`` with small settings, on the first records of ``source``. Raises ``BadInput`` with one sentence."""
    try:
        method, training = registry.method(name), registry.training(name)
    except registry.UnknownMethod as error:
        raise BadInput(str(error)) from None
    except Exception as error:
        raise BadInput(f"method {name!r} cannot be imported: {type(error).__name__}: {error}") from None
    missing = [part for part in ("Config", "mechanism", "stages") if not hasattr(method, part)]
    missing += [part for part in ("Trainer",) if not hasattr(training, part)]
    if missing:
        raise BadInput(f"method {name!r} has no {', '.join(missing)}; expected what trainables/base.py describes")
    written = _written(name, method, preset, edits)
    train, test = _load(source, path, size)
    config = _small(method.Config, written, train.classes)
    data, phases = _fitting(method, config, train, size)
    return Subject(
        name=name,
        method=method,
        trainer=training.Trainer,
        config=config,
        data=data,
        test=test,
        phases=phases,
        stages=tuple(method.stages(config, data.info)),
        seed=seed,
        scratch=scratch,
    )


def _written(name: str, method: ModuleType, preset: str | None, edits: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(preset, edits) as nested settings."""
    presets: Mapping[str, dict[str, Any]] = getattr(method, "PRESETS", {})
    if preset is not None and preset not in presets:
        raise BadInput(f"preset {preset!r} of {name} is not known; expected one of {', '.join(presets) or 'none: it has none'}")
    edited: dict[str, Any] = {}
    for text in edits:
        place, equals, value = text.partition("=")
        keys = place.strip().removeprefix("train.").split(".")
        if not equals or "" in keys:
            raise BadInput(f"--set {text} is not an edit; write --set train.name=value, such as --set train.steps=4")
        try:
            read = json.loads(value)
        except json.JSONDecodeError:
            read = value.strip()
        _put(edited, keys, read, text)
    return dict(presets[preset]) if preset else {}, edited


def _put(settings: dict[str, Any], keys: Sequence[str], value: Any, text: str = "") -> None:
    *parents, last = keys
    for parent in parents:
        settings = settings.setdefault(parent, {})
        if not isinstance(settings, dict):
            raise BadInput(f"--set {text}: {parent} was given a value of its own and has no keys")
    settings[last] = value


def _load(source: str, path: str | None, size: int | None) -> tuple[Dataset, Dataset]:
    try:
        available = sources.describe(source, path=path)
        if size is not None and not 1 <= size <= available.size:
            raise BadInput(f"--size is {size}; {source} has {available.size} training records: write 1 to {available.size}")
        train, test = sources.load(source, path=path, size=size or min(SIZES[-1], available.size))
    except sources.DataError as error:
        raise BadInput(str(error).replace("data.", "--")) from None
    return train, Dataset(images=test.images[:100], labels=test.labels[:100], classes=test.classes)


def _small(config: type[BaseModel], written: tuple[dict[str, Any], dict[str, Any]], classes: int) -> Any:
    """The settings that were written, and smaller values for those that nobody set on the command line."""
    preset, edited = written
    try:
        settings = merged(preset, edited)
        found = config.model_validate(settings)
    except ValidationError as error:
        raise BadInput(_first(error, config)) from None
    wanted = smaller(classes)
    for name, value in wanted.items():
        for keys, now in list(_numbers(found)):
            if keys[-1] != name or _holds(edited, keys):
                continue
            small = STEPS if keys == ("steps",) else value
            if not _differs(now, small, grows=name == "shards_per_step"):
                continue
            trial = merged(settings, {})
            _put(trial, keys, small)
            try:
                found, settings = config.model_validate(trial), trial
            except ValidationError:
                continue  # this method means something else by the name, or does not take so little
    return found


def _differs(now: Any, small: Any, *, grows: bool) -> bool:
    """Whether ``small`` is a value of the same kind and a step in the right direction."""
    if isinstance(small, float):
        return isinstance(now, float) and now < small
    if isinstance(small, tuple):
        return isinstance(now, tuple) and now != small
    return isinstance(now, int) and not isinstance(now, bool) and (now > small or grows)


def _numbers(model: BaseModel, above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name in type(model).model_fields:
        value = getattr(model, name)
        if isinstance(value, BaseModel):
            yield from _numbers(value, (*above, name))
        else:
            yield (*above, name), value


def _holds(settings: Mapping[str, Any], keys: Sequence[str]) -> bool:
    for key in keys:
        if not isinstance(settings, Mapping) or key not in settings:
            return False
        settings = settings[key]
    return True


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with the keys of ``over``, mapping by mapping; neither is changed.

    >>> merged({"critic": {"steps": 5, "batch": 2}}, {"critic": {"steps": 1}})
    {'critic': {'steps': 1, 'batch': 2}}
    """
    result = {key: merged(value, {}) if isinstance(value, Mapping) else value for key, value in base.items()}
    for key, value in over.items():
        inner = result.get(key)
        result[key] = merged(inner if isinstance(inner, Mapping) else {}, value) if isinstance(value, Mapping) else value
    return result


def _fitting(method: ModuleType, config: Any, train: Dataset, size: int | None) -> tuple[Dataset, tuple[Phase, ...]]:
    """The fewest records that the settings take, and the phases on them."""
    available = len(train.labels)
    refused = ""
    for count in [size] if size else [*(count for count in SIZES if count < available), available]:
        data = Dataset(images=train.images[:count], labels=train.labels[:count], classes=train.classes)
        info: DataInfo = data.info
        try:
            return data, tuple(method.mechanism(config, info, "replace_one"))
        except ValueError as error:
            refused = " ".join(str(error).split())
    raise BadInput(f"the settings do not fit {available} records: {refused} (write --size N, or --set train.name=value)")


def _first(error: ValidationError, config: type[BaseModel]) -> str:
    """The first problem in a sentence; of a setting that is not there, the names that are."""
    detail = error.errors()[0]
    *parents, last = (str(part) for part in detail["loc"])
    place = ".".join(("train", *parents, last))
    if detail["type"] != "extra_forbidden":
        return f"{place} is {detail['input']!r}: {detail['msg']}"
    model: Any = config
    for parent in parents:
        model = model.model_fields[parent].annotation
    near = difflib.get_close_matches(last, model.model_fields, 1)
    return f"{place} is not a setting; " + (
        f"did you mean {near[0]}?" if near else f"expected one of {', '.join(model.model_fields)}"
    )
