"""The command that lets a generator leave: ``python -m harness.release RESULTS TRIAL_ID OUT``.

What is in OUT may leave the building, and nothing else of a sweep may: the private generator, a sampler that runs without this
harness, a model card with the privacy statement, and images if asked for. It is written whole or not at all.

Exit status: 0 written, 2 refused.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import runpy
import shutil
import sys
import uuid
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import statement
from .folders import sync_folder
from .model_card import model_card
from .releasable import Refused, Releasable, releasable

if TYPE_CHECKING:
    import torch

    from trainables.base import Sampler

OK, REFUSED = 0, 2
IMAGES = Path("data") / "train-00000-of-00001.parquet"
AT_ONCE = 5000
"""Images that are drawn and written together."""


@dataclass(frozen=True)
class Release:
    """What was written."""

    folder: Path
    files: tuple[Path, ...]
    statement: dict[str, Any]


def parser() -> argparse.ArgumentParser:
    """The command line."""
    command = argparse.ArgumentParser(
        prog="python -m harness.release",
        description="Write what may leave the building: a trial's private generator, a sampler that runs alone, a model card "
        "with the privacy statement. Nothing else of a sweep may leave, and there is no option for it.",
    )
    command.add_argument("results", metavar="RESULTS", help="the sweep's folder, such as results/energy")
    command.add_argument("trial_id", metavar="TRIAL_ID", help="the trial, as `python -m harness.sweep FILE --status` lists it")
    command.add_argument("out", metavar="OUT", help="a folder that is new or empty")
    command.add_argument(
        "--images", type=int, default=0, metavar="N", help="N images as well, as Parquet (Hugging Face layout)"
    )
    command.add_argument("--seed", type=int, default=0, help="of these images (default: 0); it is public")
    command.add_argument(
        "--metrics", nargs="*", metavar="NAME", help="only these metrics in the card (default: all that may leave)"
    )
    return command


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    arguments = parser().parse_args(argv)
    try:
        written = release(
            arguments.results,
            arguments.trial_id,
            arguments.out,
            images=arguments.images,
            seed=arguments.seed,
            metrics=arguments.metrics,
        )
    except Refused as error:
        print(f"refused: {error}", file=sys.stderr)
        return REFUSED
    except OSError as error:
        print(f"{error.filename or arguments.out}: {error.strerror or error}", file=sys.stderr)
        return REFUSED
    print(f"{written.folder} may leave the building:")
    for path in written.files:
        print(f"  {path.relative_to(written.folder)} ({path.stat().st_size:,} bytes)")
    print(f"Say: {statement.headline(written.statement)}.")
    own = written.statement["generator"]["epsilon"]
    if own != written.statement["headline"]["epsilon"]:
        print(f"The generator alone: epsilon {statement.text(own)}, if it was named before any was looked at.")
    for warning in statement.warnings(written.statement):
        print(f"Note: {warning}")
    print("Yours to decide: under which licence; write `license: NAME` among the first lines of README.md.")
    return OK


def release(
    results: str | Path,
    trial_id: str,
    out: str | Path,
    *,
    images: int = 0,
    seed: int = 0,
    metrics: Collection[str] | None = None,
) -> Release:
    """Write the bundle of a trial of the sweep in ``results`` to ``out``, whole or not at all.

    With so many ``images``, drawn with the public ``seed``; with these ``metrics`` in the card, None for all that may leave.
    Raises ``Refused`` with one sentence where the trial, or what was asked for, may not leave, and ``OSError`` where ``out``
    cannot be written.
    """
    folder = Path(out).absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise Refused(f"{folder} is there already and is no empty folder; name a new one")
    if images < 0:
        raise Refused(f"--images is {images}; expected a number of images, 0 for none")
    found = releasable(results, trial_id)
    said = statement.statement(found, metrics)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.tmp")
    temporary.mkdir()
    try:
        _write(temporary, found, said, images=images, seed=seed)
        _refuse_owners_words(temporary, found)
        temporary.replace(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync_folder(folder.parent)
    files = tuple(sorted(path for path in folder.rglob("*") if path.is_file()))
    return Release(folder, files, said)


def _write(folder: Path, found: Releasable, said: dict[str, Any], *, images: int, seed: int) -> None:
    import torch
    from safetensors.torch import save

    from trainables.standalone.source import NotStandalone, sampler_source

    try:
        source = sampler_source(found.recipe, shape=found.info.shape, classes=found.info.classes)
    except NotStandalone as error:
        raise Refused(f"no sampler can be written that runs alone: {error}") from error
    weights = save({name: tensor.contiguous() for name, tensor in found.tensors.items()})
    said["generator"]["sha256"] = hashlib.sha256(weights).hexdigest()
    _write_file(folder / "generator.safetensors", weights)
    _write_file(folder / "sample.py", source.encode())
    _write_file(folder / "privacy.json", statement.as_json(said).encode())
    _write_file(folder / "README.md", model_card(said, images=images, seed=seed).encode())
    sampler = found.recipe.load(found.tensors, torch.device("cpu"))
    _check_alone(folder, sampler, found.info.classes)
    if images:
        _write_images(folder / IMAGES, sampler, classes=found.info.classes, images=images, seed=seed)


def _write_file(path: Path, content: bytes) -> None:
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _check_alone(folder: Path, sampler: Sampler, classes: int) -> None:
    """Draw an image a class with the bundle's own sampler. Raises ``Refused`` if they are not the harness's, bit for bit."""
    import torch

    labels = torch.arange(classes)
    generate = runpy.run_path(str(folder / "sample.py"))["load"](folder / "generator.safetensors")
    if not torch.equal(generate(labels, seed=0), sampler(labels, torch.Generator().manual_seed(0))):
        raise Refused("the sampler that was written draws other images than the trial's own: its network cannot run alone")


def _write_images(path: Path, sampler: Sampler, *, classes: int, images: int, seed: int) -> None:
    """Parquet in the Hugging Face image layout: ``image`` {bytes, path} as PNG and ``label``; number i is of class i mod C."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    label = {"names": [str(label) for label in range(classes)], "_type": "ClassLabel"}
    features = {"image": {"_type": "Image"}, "label": label}
    schema = pa.schema(
        [("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])), ("label", pa.int64())],
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )
    path.parent.mkdir()
    content = io.BytesIO()
    with pq.ParquetWriter(content, schema, compression="zstd") as writer:
        for rows in _drawn(sampler, classes, images, seed):
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))
    _write_file(path, content.getvalue())


def _drawn(sampler: Sampler, classes: int, images: int, seed: int) -> Iterator[list[dict[str, Any]]]:
    import torch

    from .store import png

    coins = torch.Generator().manual_seed(seed)
    for start in range(0, images, AT_ONCE):
        labels = torch.arange(start, min(start + AT_ONCE, images)) % classes
        pixels: torch.Tensor = (sampler(labels, coins).clamp(0, 1) * 255).round().to(torch.uint8).cpu()
        yield [
            {"image": {"bytes": png(array), "path": f"{start + index:06}_{label}.png"}, "label": label}
            for index, (label, array) in enumerate(zip(labels.tolist(), pixels.numpy(), strict=True))
        ]


def _refuse_owners_words(folder: Path, found: Releasable) -> None:
    """Raise ``Refused`` where a file holds what is the owner's alone: whatever a method's settings may bring in."""
    data = found.job["data"]
    words = [found.row[name] for name in ("trial_id", "cell_id", "evaluation_id", "data_fingerprint")]
    words += [value for name, value in (data.get("audit") or {}).items() if name in ("before", "coins")]
    words += [data["fingerprint"][:12], str(found.folders.sweep), *([data["path"]] if data.get("path") else [])]
    for path in sorted(folder.rglob("*")):
        content = path.read_bytes() if path.is_file() else b""
        for word in words:
            if word and word.encode() in content:
                raise Refused(f"{path.name} would name {word}, which is for the data's owner only")


if __name__ == "__main__":
    sys.exit(main())
