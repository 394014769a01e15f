"""Pictures that a sweep leaves: the contact sheet, and for public data the real images to hold it against."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from . import store
from .contact_sheet import MAX_COLUMNS, contact_sheet
from .data import Data
from .plan import Plan

SHOWN = 4
"""Images a class and column of the contact sheet."""

REAL_IMAGES = 10
"""Real test images a class that are kept where the data are public."""


def write_contact_sheet(plan: Plan, rows: Sequence[Mapping[str, Any]]) -> Path | None:
    """``contact_sheet.png`` of these rows of the trials table: a row a class, a column a trial.

    Real images stand beside them only where the data are public. None where no trial kept samples.
    """
    real = keep_real_images(plan)
    with_samples = {path.name.partition(".")[0] for path in store.committed_parts(plan.folders)["samples"]}
    public = {trial.trial_id for trial in plan.trials if trial.data.public}
    rows = [row for row in rows if row["trial_id"] in with_samples and (row["trial_id"] in public or not _is_real(row))]
    if not rows:
        return None
    samples = store.read_samples(plan.folders.sweep, [row["trial_id"] for row in rows[:MAX_COLUMNS]])
    by_trial = dict(list(samples.groupby("trial_id")))
    columns = []
    for row in rows:  # those that do not fit come without images: the sheet says how many they are
        epsilon = "no proof" if row["epsilon"] is None else f"epsilon {row['epsilon']:.3g}"
        images = _by_class(by_trial[row["trial_id"]]) if row["trial_id"] in by_trial else []
        columns.append((f"{row['label']} ({epsilon})", images))
    path = plan.folders.sweep / "contact_sheet.png"
    contact_sheet(columns, path, plan.folders.name, real=("real (test set)", _by_class(real)) if len(real) else None)
    return path


def keep_real_images(plan: Plan) -> Any:
    """Keep real test images of every public data set of the plan in ``real_samples``; return the first set's as a frame.

    Those that are there already are not read again. Where no data are public none are kept, and the frame is empty.
    """
    public = {trial.data.fingerprint: trial.data for trial in plan.trials if trial.data.public}
    kept = store.read_real_samples(plan.folders.sweep)
    if set(kept["trial_id"]) != set(public):
        store.write_real_samples(plan.folders, {fingerprint: _real_rows(data) for fingerprint, data in public.items()})
        kept = store.read_real_samples(plan.folders.sweep)
    return kept[kept["trial_id"] == plan.trials[0].data.fingerprint]


def _real_rows(data: Data) -> list[dict[str, Any]]:
    from trainables.data import sources

    _, test = sources.load(data.source, **sources.settings_of(asdict(data)))
    return [
        {"label": label, "index": index, "image": {"bytes": store.png(image), "path": f"real_{label}_{index}.png"}}
        for label in range(test.classes)
        for index, image in enumerate(test.images[test.labels == label][:REAL_IMAGES])
    ]


def _is_real(row: Mapping[str, Any]) -> bool:
    """Whether the row's images are real ones of the training set."""
    return any(phase["kind"] == "reference" for phase in json.loads(row["mechanism"]))


def _by_class(samples: Any) -> list[list[Any]]:
    import numpy as np
    from PIL import Image

    return [
        [np.asarray(Image.open(io.BytesIO(image["bytes"]))) for image in group["image"].head(SHOWN)]
        for _, group in samples.sort_values(["label", "index"]).groupby("label")
    ]
