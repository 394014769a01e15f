"""The sweep file as checked values. ``load_sweep`` reads one; ``harness.expand`` turns it into trials.

Every default of a sweep is written here, once; the text under a field is what ``--schema`` and the README say about it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from trainables.data.base import Preparation
from trainables.data.canaries import Kind
from trainables.evaluation.metrics import DEFAULT_METRICS, MIN_SAMPLES, Group
from trainables.privacy.mechanism import Neighbours
from trainables.privacy.random_best import Name

from .document import Document, InputError, read_document
from .overrides import apply_overrides
from .quantities import memory_bytes, seconds
from .validation import Origin, about, leaves, validate

_NAME = "[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
_RESERVED = (
    "stages",
    "releases",
    "ledger",
    "audits",
    "calibrations.json",
    "fingerprints.json",
)  # beside the sweeps in the results


def _memory(memory: int | str) -> int | str:
    memory_bytes(memory)
    return memory


def _deadline(duration: str) -> str:
    seconds(duration)
    return duration


def _plain_name(name: str) -> str:
    if not re.fullmatch(_NAME, name):
        raise ValueError("expected up to 64 letters, digits, `_`, `-` and `.`, the first a letter or digit (it names files)")
    return name


def _free_name(name: str) -> str:
    if name in _RESERVED:
        raise ValueError(f"expected another name: the results folder keeps {', '.join(_RESERVED)} for itself")
    return name


_Name = Annotated[str, AfterValidator(_plain_name), Field(json_schema_extra={"pattern": f"^{_NAME}$"})]
_Steps = Annotated[int, Field(ge=1)]


def _finite(epsilon: float) -> float:
    if not math.isfinite(epsilon):
        raise ValueError("expected a finite number; training without privacy is written `noise_multiplier: 0`")
    return epsilon


_ROOT_TAKES = "settings of the method go under train; a sweep file takes"


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class DataSpec(_Section):
    """The private training set."""

    source: str = Field(examples=["fashion_mnist"])
    """Which data set: ``digits``, ``fashion_mnist``, ``mnist``, ``cifar10``, ``celeba``, or your own files as an
    ``image_folder``, ``npz`` or ``parquet``; these need ``path`` and ``lineage``."""
    size: int | None = Field(default=None, ge=1)
    """Use only this many training records, the first of a fixed public permutation. This number is declared, not secret."""
    resolution: int | None = Field(default=None, ge=1)
    """Images are brought to this many pixels a side (28, 32 or 64). Empty: as the source has them."""
    enlarge: bool = False
    """``resolution`` may be larger than the images, which are then interpolated; gray 28x28 images too, which otherwise come
    to 32x32 by a black border. Asks what pixels alone cost where they carry no more information."""
    channels: Literal[1, 3] | None = None
    """3: gray images as colour, repeated in all channels. 1: colour images as gray, by luminance. Empty: as the source has
    them."""
    path: str | None = None
    """Where the source's files are, if not where it looks first. Relative to the folder the command runs in."""
    label: str | None = None
    """What the class is: a column of ``parquet`` files (empty: ``label``), an attribute of ``celeba`` (empty: ``Male``)."""
    preparation: Preparation | None = None
    """How images that are not square become so: ``crop`` (empty) cuts out the largest centred square, ``squeeze`` resizes the
    whole image and distorts it."""
    test_split: str | None = Field(default=None, examples=["valid"])
    """The split that is the test set: ``celeba``'s ``test`` or ``valid``, the folder or file beside ``train`` of an
    ``image_folder`` or ``parquet``. Empty: ``test``."""
    public: bool = False
    """The data are a public benchmark: reports may show real images and metrics that touch private records."""
    lineage: _Name | None = None
    """Name of the data set in the privacy ledger, which adds up all that was ever released about it: subsets, edited copies
    and whatever else shares people share a lineage. Your own files need one; empty: the source's name."""
    test_set: Literal["public", "private"] = "public"
    """Whether the test split may be looked at freely. Private: its metrics are marked as such and are not released."""


class PrivacySpec(_Section):
    """The budget of one trial: a target ``epsilon``, a given ``noise_multiplier``, or both."""

    epsilon: Annotated[float, Field(gt=0), AfterValidator(_finite)] | None = Field(default=None, examples=[10])
    """Never overspent. The noise is calibrated for it from above; where ``noise_multiplier`` is given too, the trial takes as
    many of its steps as the budget buys and ends with status ``budget``."""
    noise_multiplier: float | None = Field(default=None, ge=0)
    """Noise in the method's own unit. Alone it bounds nothing, and rows say what epsilon came of it; 0 trains without any
    privacy, and says so in every row."""
    published_noise: bool = False
    """Only for methods on shards: the noise that the published accounting of GS-WGAN, DPAC and Ma & Zhang believes enough for
    ``epsilon``. Nothing then keeps the trial within it: the epsilon that is proven, usually far larger, is what is reported."""
    delta: float = Field(default=1e-5, gt=0, lt=1)
    """The delta at which epsilon is stated."""
    accountant: Literal["rdp", "pld"] = "rdp"
    """``pld`` is tight and takes seconds; ``rdp`` is looser and instant. Rows keep both numbers."""
    neighbours: Neighbours = "replace_one"
    """Which data sets are neighbours: one record replaced, or one record more or fewer."""
    reserve: int | None = Field(default=None, ge=0)
    """Steps beyond the planned ones that the noise leaves room for, so that what a crash has lost can be done again within
    the budget. Empty: a twentieth of all steps, which is one checkpoint interval. Unread where ``published_noise`` is true,
    which keeps to no budget."""

    @model_validator(mode="after")
    def _not_both(self) -> PrivacySpec:
        if self.published_noise and self.noise_multiplier is not None:
            raise about("published_noise", "privacy has both published_noise and noise_multiplier; keep one of them")
        return self

    @property
    def target_epsilon(self) -> float | None:
        """The proven epsilon that a trial may not exceed; None where its noise is given, and so where it is the published."""
        return None if self.published_noise else self.epsilon


class EvaluateSpec(_Section):
    """What is measured on a trained generator. Not part of a trial's identity: changing it never trains again."""

    every: _Steps | None = None
    """Also take quick metrics into the history, at the first checkpoint after every so many steps. Empty: only at the end."""
    samples: int = Field(default=10_000, ge=MIN_SAMPLES)
    """Generated images that the metrics are computed on."""
    metrics: Annotated[tuple[Group, ...], Field(min_length=1)] = Field(
        default=DEFAULT_METRICS, examples=["[standard, prior_work]"]
    )
    """Groups of metrics. ``standard``: small classifiers and a distance on one of them, seconds. ``prior_work``: the CNN and
    the MLP that published tables are made with, a minute. ``inception``: FID, IS and KID, wants a GPU and its weights.
    ``efficientnet``: distances on an ImageNet network that comes as a package, two minutes without a GPU.
    ``diversity``: distances within a class, near duplicates, density and coverage, sharpness, seconds. ``memorization``:
    are samples nearer to training records than to held-out ones, seconds."""
    inception_weights: str | None = None
    """The file ``weights-inception-2015-12-05-6726825d.pth``. Empty: where the environment's ``DPSWEEP_INCEPTION`` says."""


class AuditSpec(_Section):
    """A one-run audit of every trial: records planted by secret coins, and what the release tells of them."""

    canaries: int = Field(default=200, ge=2)
    """Records m that are planted: each stands in a slot of the training set by a fair coin of its own, or what stood there
    before does. Slots and canaries are public, the coins are not; N stays as it is."""
    kind: Kind = "mislabelled"
    """``mislabelled``: real images under another class. ``held_out``: real images as they are, which costs the generator the
    least and is the hardest to see. ``noise``: uniform pixels. Real ones come from training records that ``data.size`` leaves
    out, or from the test set, which then does without them."""
    guesses: int | None = Field(default=None, ge=2)
    """Coins r that are guessed: the half with the highest scores for in, the half with the lowest for out. Even. Empty: half
    of the canaries. It belongs to the coins, as ``confidence`` and ``evaluate.samples`` do: another number, chosen after a
    look, would prove nothing, and so it draws other coins and trains anew."""
    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    """Of every lower bound by itself."""
    control: bool = True
    """Also train each setting once without noise, to see whether this audit would have noticed. Such a trial keeps nothing but
    the result of its audit, which is for the owner of the data alone."""

    @model_validator(mode="after")
    def _guessable(self) -> AuditSpec:
        if self.guesses is not None and (self.guesses % 2 or self.guesses > self.canaries):
            raise about(
                "guesses", f"guesses is {self.guesses}; expected an even number of at most {self.canaries}, the canaries"
            )
        return self

    @property
    def guess_count(self) -> int:
        """r: as many of the canaries as are guessed."""
        return self.guesses or max(self.canaries // 4 * 2, 2)


class CheckpointSpec(_Section):
    """When a trial saves what it needs to go on after an interruption."""

    every: _Steps | None = None
    """Steps between checkpoints, each written down as spent before it runs. Empty: a twentieth of all steps."""


class ResourcesSpec(_Section):
    """What one trial asks of a machine."""

    cpu: float = Field(default=1.0, gt=0)
    """CPU cores; also the number of torch threads."""
    gpu: float = Field(default=0.0, ge=0)
    """GPUs; a fraction lets several trials share one and caps each at its share of the memory."""
    memory: Annotated[int | str, AfterValidator(_memory)] | None = Field(default=None, examples=["2GB"])
    """Memory to set aside, as ``2GB`` or in bytes. Empty: as measured on earlier trials."""
    deadline: Annotated[str, AfterValidator(_deadline)] = "2h"
    """A trial of which nothing is heard for so long (``30min``, ``2h``) is taken for hung: its process is ended, what it may
    have released is counted, and it is started once more. Its last evaluation is one silence."""

    @property
    def memory_bytes(self) -> int | None:
        """``memory`` in bytes."""
        return None if self.memory is None else memory_bytes(self.memory)

    @property
    def deadline_seconds(self) -> float:
        """``deadline`` in seconds."""
        return seconds(self.deadline)


class SearchSpec(_Section):
    """Private selection, in place of training every trial: a secret random number of trials draw their settings from those that
    the file spells out, and only the best one is kept. ``privacy.epsilon`` is then the budget of the whole selection."""

    strategy: Literal["random_best"]
    """How trials are chosen. Without ``search`` every trial of the file is trained, and the price of all of them is shown."""
    mean_trials: float = Field(ge=1, examples=[30])
    """Mean of the secret number of trials, over 1 (``poisson``: at least 1)."""
    distribution: Name = "logarithmic"
    """How that number is drawn. ``logarithmic`` is the cheapest and spreads widest, ``geometric`` and ``poisson`` cost more and
    spread less; a Poisson number may be 0, and then nothing is kept."""
    score: str = "gen2real_cnn"
    """The metric that decides. One that touches private data through the generator alone, on a public test set."""


class CaseSpec(_Section):
    """One of several methods or settings that a sweep compares."""

    name: _Name = Field(examples=["plain"])
    """What the case is called in tables."""
    method: str = Field(examples=["dp_energy"])
    """Name of a method, or ``package.module`` of one of your own."""
    preset: str | None = None
    """A named starting point of the method; in place of the sweep's own ``preset``."""
    train: dict[str, Any] = {}
    """Settings of the method for this case; they win over the sweep's ``train``."""


class SweepSpec(_Section):
    """A sweep: one method or several cases, crossed with every axis and repeated over seeds."""

    model_config = ConfigDict(json_schema_extra={"oneOf": [{"required": ["method"]}, {"required": ["cases"]}]})

    name: Annotated[_Name, AfterValidator(_free_name)] = Field(examples=["energy"])
    """Name of the sweep and of its folder under the results. Another file with the same name extends the sweep."""
    method: str | None = Field(default=None, examples=["dp_energy"])
    """Name of a method, or ``package.module`` of one of your own. Or write ``cases``."""
    cases: Annotated[tuple[CaseSpec, ...], Field(min_length=1)] | None = Field(
        default=None, examples=["[{name: plain, method: dp_energy}, {name: guided, method: dp_energy_guided}]"]
    )
    """Several methods or settings side by side, in place of ``method``."""
    preset: str | None = None
    """A named starting point of the method, or of every case that names none: what ``train`` starts from."""
    data: DataSpec = Field(examples=["{source: fashion_mnist}"])
    """The private training set."""
    privacy: PrivacySpec = Field(examples=["{epsilon: 10}"])
    """The budget of one trial."""
    train: dict[str, Any] = {}
    """Settings of the method. A key that one of several cases does not know is an error for that case."""
    axes: dict[str, list[Any]] = Field(default={}, examples=["{noise_injection: [0, 0.1], privacy.epsilon: [1, 10]}"])
    """What varies: a dotted path from the root of this file (``privacy.epsilon``), or under ``train`` (``steps``,
    ``critic.kind``), and its values. All axes are crossed."""
    zip: tuple[dict[str, list[Any]], ...] = Field(default=(), examples=["[{noise_injection: [0, 0.1], steps: [2000, 3000]}]"])
    """Groups of axes whose values go in step in place of being crossed."""
    seeds: int | tuple[Annotated[int, Field(ge=0)], ...] = 1
    """Repetitions: 3 means the seeds 0, 1 and 2; a list is taken as it is."""
    search: SearchSpec | None = Field(default=None, examples=["{strategy: random_best, mean_trials: 30}"])
    """Private selection of the best trial, in place of training all of them."""
    evaluate: EvaluateSpec = EvaluateSpec()
    """What is measured on a trained generator."""
    audit: AuditSpec | None = Field(default=None, examples=["{canaries: 200}"])
    """Plant canaries and see how many of them the releases give away. It changes the data, and so every trial's id."""
    checkpoint: CheckpointSpec = CheckpointSpec()
    """When a trial saves itself."""
    resources: ResourcesSpec = ResourcesSpec()
    """What one trial asks of a machine."""
    keep_samples: int = Field(default=100, ge=0)
    """Generated images that every trial keeps as PNG files."""

    @model_validator(mode="after")
    def _consistent(self) -> SweepSpec:
        if self.method is None and self.cases is None:
            raise ValueError("neither `method` nor `cases` is there; write `method: dp_energy`")
        if self.method is not None and self.cases is not None:
            raise about("cases", "both `method` and `cases` are there; keep one of them")
        if self.audit is not None and self.search is not None:
            raise about(
                "audit", "both `audit` and `search` are there; a selection keeps its trials from everyone, audits included"
            )
        names = [case.name for case in self.cases or ()]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise about("cases", f"two cases are called `{twice}`; give each its own name")
        if isinstance(self.seeds, int):
            if self.seeds < 1:
                raise about("seeds", f"seeds is {self.seeds}; expected at least 1")
        elif not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise about("seeds", "seeds is empty or lists one twice; write `seeds: 3` or a list such as [0, 1, 2]")
        return self

    @property
    def seed_list(self) -> tuple[int, ...]:
        """The seeds themselves."""
        return tuple(range(self.seeds)) if isinstance(self.seeds, int) else self.seeds


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """A sweep file that was read and checked. ``spec`` does not know yet whether the methods take what ``train`` says."""

    spec: SweepSpec
    document: Document
    """The file with ``--set`` put in, and where everything stands."""


def load_sweep(path: str | Path, overrides: Sequence[str] = ()) -> Sweep:
    """Read, edit (``--set path=value``) and check a sweep file. Raises ``InputError`` that lists every problem found."""
    document = apply_overrides(read_document(path), overrides)
    raw = {key: value for key, value in document.data.items() if value is not None}  # `axes:` with nothing below is no axis
    settings = tuple(leaf for leaf in leaves(SweepSpec) if "." in leaf)
    spec, problems = validate(SweepSpec, raw, Origin(document=document, elsewhere=settings, takes=_ROOT_TAKES))
    if problems:
        raise InputError(*problems)
    return Sweep(spec=spec, document=document)


def json_schema() -> dict[str, Any]:
    """JSON schema of a sweep file, for editors that complete and check YAML."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **SweepSpec.model_json_schema()}
