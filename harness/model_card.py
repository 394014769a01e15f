"""The model card of a release: a README in the Hugging Face format, with the privacy statement in plain words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trainables.evaluation.metrics import METRICS

from .statement import RELATIONS, headline, text, warnings


def model_card(said: Mapping[str, Any], *, images: int, seed: int) -> str:
    """The card for a statement; ``images`` is the number of images in the bundle, drawn with ``seed``."""
    method, data = said["method"]["name"], said["data_set"]
    shape = ", ".join(map(str, data["shape"]))
    sections = [
        _front_matter(),
        f"# {method} on {data['lineage']}, with differential privacy",
        f"**{_capital(headline(said))}.**",
        *(f"> {warning}" for warning in warnings(said)),
        f"A generator of images `[{shape}]` in {data['classes']} classes, trained by `{method}` on {data['records']:,} images "
        f"of the data set `{data['lineage']}`. Training touched these through releases with calibrated noise alone; the "
        "generator, and any number of images from it, are functions of these releases.",
        "## Draw images",
        "```python\nfrom sample import load\n\ngenerate = load()\n"
        f"images = generate([0, 1, 2], seed=0)  # float tensor [3, {shape}] in [0, 1]\n```",
        "or `python sample.py --per-class 10 --out images/`. It needs torch and safetensors and nothing else.",
        "## Privacy",
        *_privacy(said),
        "## Not covered",
        "\n".join(f"- {item}" for item in said["not_covered"]),
        *_audit(said),
        *_measured(said),
        "## Files",
        _files(images, seed, data["classes"]),
    ]
    return "\n\n".join(sections) + "\n"


def _front_matter() -> str:
    tags = ("differential-privacy", "synthetic-data", "image-generation", "dpsweep")
    return "\n".join(["---", "library_name: pytorch", "tags:", *(f"- {tag}" for tag in tags), "---"])


def _privacy(said: Mapping[str, Any]) -> list[str]:
    own, top, data = said["generator"], said["headline"], said["data_set"]
    (total,) = (part for part in said["sweep"]["totals"] if part["neighbours"] == own["neighbours"])
    rows = {
        "epsilon to quote": f"{text(top['epsilon'])}, against {top['against']}",
        "epsilon of this generator alone": f"{text(own['epsilon'])}, if it was named before any generator was looked at",
        "delta": f"{top['delta']:g} (1/N is {said['delta_check']['one_over_records']:.2g}, N = {data['records']:,})",
        "unit": "one image",
        "neighbours": RELATIONS[own["neighbours"]],
        "accountant": _accountant(own, top),
        "generators of the sweep": f"{total['generators']}",
        f"spent on `{data['lineage']}` in all sweeps that the ledger knows": "; ".join(
            f"epsilon {text(part['epsilon'])} ({part['neighbours'].replace('_', ' ')}), {part['generators']:,} generators"
            for part in data["spent_in_all_sweeps"]
        ),
        "steps in the generator": f"{own['steps']:,}",
        "releases paid for": f"{own['releases']:,}, in all attempts",
    }
    table = "\n".join(["| | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows.items())])
    phases = [_phase(number, phase) for number, phase in enumerate(own["mechanism"], start=1)]
    proofs = [f"- `{name}`: {theorem}" for name, theorem in own["proof"].items()]
    clips = {name: value for name, value in said["method"]["config"].items() if name in ("max_grad_norm", "feedback_clip")}
    bounds = [f"Clip bounds: {', '.join(f'`{name}` {value:g}' for name, value in clips.items())}."] if clips else []
    private = ", ".join(f"`{name}`" for name in said["scores_of_private_data"])
    best = "This generator is the best of a private selection, whose choice the epsilon covers. " if said["selection"] else ""
    among = f" ({private} of those measured here)" if private else ""
    choice = (
        f"{best}If this generator was picked after looking at others of its sweep, by a score that is free (on public data, or "
        "of generated images alone), what holds is the epsilon to quote. If it was picked by a score that was computed from "
        f"private data without noise{among}, that choice is covered by no epsilon."
    )
    return [
        table,
        "Mechanism:",
        "\n".join(phases),
        *bounds,
        "Proof:",
        "\n".join(proofs),
        choice,
        "`privacy.json` has all of it in a form for programs.",
    ]


def _accountant(own: Mapping[str, Any], top: Mapping[str, Any]) -> str:
    """The generator's, and that of the epsilon to quote where it is another."""
    if own["accountant"] == top["accountant"]:
        return f"{own['accountant'].upper()}, {own['accountant_version']}"
    return (
        f"{top['accountant'].upper()} for the epsilon to quote, {own['accountant'].upper()} for this generator alone, "
        f"{own['accountant_version']}"
    )


def _phase(number: int, phase: Mapping[str, Any]) -> str:
    steps = f"{phase['steps_paid_for']:,} step{'s' if phase['steps_paid_for'] != 1 else ''}"
    effective = phase.get("effective_noise_multiplier")
    noise = f" Standard deviation / L2 sensitivity of a step: {effective:.4g}." if effective is not None else ""
    return f"{number}. {steps}. {phase['in_words']}{noise}"


def _audit(said: Mapping[str, Any]) -> list[str]:
    audit = said["audit"]
    if audit is None:
        return []
    how = (
        f"{audit['canaries']:,} canaries (`{audit['kind']}`) were planted in the training data, each by a secret coin, and "
        f"{audit['guesses']:,} of the coins were guessed (Steinke, Nasr, Jagielski 2023; confidence {audit['confidence']:g}). "
        f"The most that this audit could show is epsilon {audit['highest_bound']:.3g}."
    )
    if audit["scores"] is None:
        return ["## Audit", f"{how} What it found is computed from private data and is left out."]
    lines = ["| score | right guesses | epsilon is at least | without noise | |", "| --- | --- | --- | --- | --- |"]
    for score in audit["scores"]:
        control = "" if score["control"] is None else f"{score['control']:.3g}"
        lines.append(f"| {score['score']} | {score['right']} | {score['bound']:.3g} | {control} | {score['says']} |")
    return ["## Audit", how, "\n".join(lines), "A lower bound can show that a claim is wrong, never that it is right."]


def _measured(said: Mapping[str, Any]) -> list[str]:
    metrics = said["metrics"]
    if not metrics:
        return []
    lines = [f"| `{name}` | {value:.4g} | {METRICS[name].description} |" for name, value in metrics.items() if name in METRICS]
    table = "\n".join(["| metric | | of |", "| --- | --- | --- |", *lines])
    return ["## Measured", f"On {metrics['images']:,} generated images.", table]


def _files(images: int, seed: int, classes: int) -> str:
    files = {
        "generator.safetensors": "the generator's weights and nothing else",
        "sample.py": "its network and sampler, for torch and safetensors",
        "privacy.json": "the privacy statement",
    }
    if images:
        files["data/train-00000-of-00001.parquet"] = (
            f"{images:,} images, number i of class i mod {classes}, drawn with seed {seed}; they cost no further privacy. "
            '`load_dataset("parquet", data_files="data/*.parquet")` reads them'
        )
    return "\n".join(f"- `{name}`: {what}" for name, what in files.items())


def _capital(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]
