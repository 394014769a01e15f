"""The sweep file's models: defaults, and one located message for every kind of mistake."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel

from harness.document import InputError
from harness.spec import (
    CaseSpec,
    CheckpointSpec,
    DataSpec,
    EvaluateSpec,
    PrivacySpec,
    ResourcesSpec,
    SweepSpec,
    json_schema,
    load_sweep,
)

BASE = """\
name: energy
method: dp_energy
data: {source: digits}
privacy: {epsilon: 10}
"""


def load(folder: Path, text: str, *overrides: str) -> SweepSpec:
    (folder / "a.yaml").write_text(text)
    return load_sweep(folder / "a.yaml", overrides).spec


def message(folder: Path, text: str, *overrides: str) -> str:
    """What a person reads, without the folder."""
    with pytest.raises(InputError) as caught:
        load(folder, text, *overrides)
    return str(caught.value).replace(f"{folder}/", "")


def test_defaults(tmp_path: Path) -> None:
    spec = load(tmp_path, BASE)
    assert (spec.privacy.delta, spec.privacy.accountant, spec.privacy.neighbours) == (1e-5, "rdp", "replace_one")
    assert (spec.evaluate.every, spec.evaluate.samples, spec.checkpoint.every) == (None, 10_000, None)
    assert (spec.resources.cpu, spec.resources.gpu, spec.resources.memory_bytes) == (1.0, 0.0, None)
    assert (spec.data.size, spec.data.public, spec.data.test_set) == (None, False, "public")
    assert (spec.seed_list, spec.keep_samples, spec.axes, spec.zip, spec.train) == ((0,), 100, {}, (), {})


def test_models_are_frozen(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="frozen"):
        load(tmp_path, BASE).privacy.epsilon = 1.0  # type: ignore[misc]


@pytest.mark.parametrize(("text", "seeds"), [("3", (0, 1, 2)), ("[5, 2]", (5, 2))])
def test_seeds(tmp_path: Path, text: str, seeds: tuple[int, ...]) -> None:
    assert load(tmp_path, BASE + f"seeds: {text}\n").seed_list == seeds


@pytest.mark.parametrize(
    ("text", "size"), [("2GB", 2 * 10**9), ("1.5 GiB", 3 * 2**29), ("512mib", 2**29), ("1000", 1000), ("'1000'", 1000)]
)
def test_memory(tmp_path: Path, text: str, size: int) -> None:
    assert load(tmp_path, BASE + f"resources: {{memory: {text}}}\n").resources.memory_bytes == size


def test_a_section_with_nothing_below_it_is_its_default(tmp_path: Path) -> None:
    assert load(tmp_path, BASE + "train:\naxes:\nevaluate:\n") == load(tmp_path, BASE)


def test_noise_in_place_of_epsilon(tmp_path: Path) -> None:
    spec = load(tmp_path, BASE, "privacy.epsilon=null", "privacy.noise_multiplier=0")
    assert (spec.privacy.epsilon, spec.privacy.noise_multiplier) == (None, 0.0)


ROOT = (
    "settings of the method go under train; a sweep file takes: audit, axes, cases, checkpoint, data, evaluate, keep_samples, "
    "method, name, preset, privacy, resources, search, seeds, train, zip"
)


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ("sedes: 3", f"a.yaml:5:1: unknown key `sedes`; did you mean `seeds`? ({ROOT})"),
        ("Seeds: 3", f"a.yaml:5:1: unknown key `Seeds`; did you mean `seeds`? ({ROOT})"),
        ("steps: 3", f"a.yaml:5:1: unknown key `steps`; {ROOT}"),
        ("epsilon: 3", f"a.yaml:5:1: unknown key `epsilon`; did you mean `privacy.epsilon`? ({ROOT})"),
        ("every: 3", f"a.yaml:5:1: unknown key `every`; did you mean `evaluate.every` or `checkpoint.every`? ({ROOT})"),
        ("evaluate: {smaples: 3}",
         "a.yaml:5:12: unknown key `smaples` in evaluate; did you mean `samples`? "
         "(evaluate takes: every, inception_weights, metrics, samples)"),
        ("evaluate: {samples:3}",
         "a.yaml:5:12: unknown key `samples:3` in evaluate; write a space after the colon: `samples: 3` "
         "(evaluate takes: every, inception_weights, metrics, samples)"),
        ("evaluate: {samples: many}", 'a.yaml:5:21: `evaluate.samples` is the text "many"; expected a whole number'),
        ("evaluate: {samples: 1.5}", "a.yaml:5:21: `evaluate.samples` is 1.5; expected a whole number"),
        ("evaluate: {samples: 0}", "a.yaml:5:21: `evaluate.samples` is 0; expected a number of at least 10"),
        ("evaluate: {samples: }", "a.yaml:5:20: `evaluate.samples` is empty; expected a whole number"),
        ("evaluate: {samples: true}", "a.yaml:5:21: `evaluate.samples` is true; expected a number of at least 10"),
        ("keep_samples: -1", "a.yaml:5:15: `keep_samples` is -1; expected a number of at least 0"),
        ("resources: {cpu: 0}", "a.yaml:5:18: `resources.cpu` is 0; expected a number over 0"),
        ("resources: {cpu: .inf}", "a.yaml:5:18: `resources.cpu` is .inf; expected a finite number"),
        ("resources: {memory: 2QB}",
         'a.yaml:5:21: `resources.memory` is the text "2QB"; expected a size such as 2GB, 512MiB or a number of bytes'),
        ("resources: {memory: 0}",
         "a.yaml:5:21: `resources.memory` is 0; expected a size such as 2GB, 512MiB or a number of bytes"),
        ("checkpoint: 3", "a.yaml:5:13: `checkpoint` is 3; expected keys and values"),
        ("train: 3", "a.yaml:5:8: `train` is 3; expected keys and values"),
        ("axes: {steps: 3}", "a.yaml:5:15: `axes.steps` is 3; write `steps: [3]` (expected a list)"),
        ("axes: [steps]",
         'a.yaml:5:7: `axes` is the list ["steps"]; write `axes: {noise_injection: [0, 0.1], privacy.epsilon: [1, 10]}` '
         "(expected keys and values)"),
        ("zip: {steps: [3]}",
         "a.yaml:5:6: `zip` is the mapping {steps}; write `zip: [{noise_injection: [0, 0.1], steps: [2000, 3000]}]` "
         "(expected a list)"),
        ("seeds: many", 'a.yaml:5:8: `seeds` is the text "many"; expected a whole number or a list'),
        ("seeds: [0, x]", 'a.yaml:5:12: `seeds.1` is the text "x"; expected a whole number'),
        ("seeds: [0, -1]", "a.yaml:5:12: `seeds.1` is -1; expected a number of at least 0"),
        ("seeds: true", "a.yaml:5:8: `seeds` is true; expected a number"),
        ("seeds: 0", "a.yaml:5:1: seeds is 0; expected at least 1"),
        ("seeds: [1, 1]", "a.yaml:5:1: seeds is empty or lists one twice; write `seeds: 3` or a list such as [0, 1, 2]"),
        ("seeds: []", "a.yaml:5:1: seeds is empty or lists one twice; write `seeds: 3` or a list such as [0, 1, 2]"),
        ("axes: {x: [.nan]}", "a.yaml:5:12: `axes.x.0` is .nan; expected a finite number"),
        ("cases: [{name: a, method: b}]", "a.yaml:5:1: both `method` and `cases` are there; keep one of them"),
    ],
)  # fmt: skip
def test_one_mistake_is_one_line(tmp_path: Path, extra: str, expected: str) -> None:
    assert message(tmp_path, BASE + extra + "\n") == expected


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("epsilon: 10", "epsilon: ten", 'a.yaml:4:20: `privacy.epsilon` is the text "ten"; expected a number'),
        ("epsilon: 10", "epsilon: 0", "a.yaml:4:20: `privacy.epsilon` is 0; expected a number over 0"),
        ("epsilon: 10", "epsilon: .inf",
         "a.yaml:4:20: `privacy.epsilon` is .inf; expected a finite number; "
         "training without privacy is written `noise_multiplier: 0`"),
        ("epsilon: 10", "epsilon: 1, delta: 2", "a.yaml:4:30: `privacy.delta` is 2; expected a number under 1"),
        ("epsilon: 10", "epsilon: 1, accountant: PLD",
         'a.yaml:4:35: `privacy.accountant` is the text "PLD"; did you mean `pld`? (expected rdp or pld)'),
        ("epsilon: 10", "epsilon: 1, neighbours: swap",
         'a.yaml:4:35: `privacy.neighbours` is the text "swap"; expected replace_one or add_remove'),
        ("{epsilon: 10}", "10", "a.yaml:4:10: `privacy` is 10; write `privacy: {epsilon: 10}` (expected keys and values)"),
        ("privacy: {epsilon: 10}", "", "a.yaml:1:1: missing key `privacy`; write `privacy: {epsilon: 10}`"),
        ("{epsilon: 10}", "", "a.yaml:1:1: missing key `privacy`; write `privacy: {epsilon: 10}`"),
        ("{source: digits}", "{size: 3}", "a.yaml:3:1: missing key `source` in data; write `source: fashion_mnist`"),
        ("{source: digits}", "digits",
         'a.yaml:3:7: `data` is the text "digits"; write `data: {source: fashion_mnist}` (expected keys and values)'),
        ("name: energy", "name: 3", 'a.yaml:1:7: `name` is 3; expected text, in quotes: "3"'),
        ("name: energy", "name: ../x",
         'a.yaml:1:7: `name` is the text "../x"; expected up to 64 letters, digits, `_`, `-` and `.`, '
         "the first a letter or digit (it names files)"),
        ("name: energy", "name: stages",
         'a.yaml:1:7: `name` is the text "stages"; expected another name: the results folder keeps stages, releases, ledger, '
         "audits, calibrations.json, fingerprints.json for itself"),
        ("method: dp_energy", "", "a.yaml:1:1: neither `method` nor `cases` is there; write `method: dp_energy`"),
        ("method: dp_energy", "cases: []",
         "a.yaml:2:8: `cases` is the list []; write `cases: [{name: plain, method: dp_energy}, "
         "{name: guided, method: dp_energy_guided}]` (expected a list of at least 1)"),
        ("method: dp_energy", "cases: [{name: a, method: b}, {name: a, method: c}]",
         "a.yaml:2:1: two cases are called `a`; give each its own name"),
        ("method: dp_energy", "cases: [{name: a, metod: b}]",
         "a.yaml:2:9: missing key `method` in cases.0; write `method: dp_energy`\n"
         "a.yaml:2:19: unknown key `metod` in cases.0; did you mean `method`? (cases.0 takes: method, name, preset, train)"),
    ],
)  # fmt: skip
def test_one_mistake_in_what_every_file_has(tmp_path: Path, old: str, new: str, expected: str) -> None:
    assert message(tmp_path, BASE.replace(old, new)) == expected


def test_all_mistakes_are_listed_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = BASE.replace("epsilon: 10", "epsilon: -1, dleta: 1") + "evaluate: {samples: many}\nsedes: 3\n"
    places = [line.split(": ")[0] for line in message(tmp_path, text).splitlines()]
    assert places == ["a.yaml:4:20", "a.yaml:4:24", "a.yaml:5:21", "a.yaml:6:1"]


def test_a_mistake_in_an_override_names_the_override(tmp_path: Path) -> None:
    expected = '--set privacy.epsilon=ten: `privacy.epsilon` is the text "ten"; expected a number'
    assert message(tmp_path, BASE, "privacy.epsilon=ten") == expected


def test_schema_describes_every_field_and_gives_the_defaults() -> None:
    schema = json_schema()
    assert schema["additionalProperties"] is False
    assert schema["properties"]["keep_samples"]["default"] == 100
    assert schema["$defs"]["PrivacySpec"]["properties"]["accountant"]["enum"] == ["rdp", "pld"]
    models: list[type[BaseModel]] = [SweepSpec, CaseSpec, DataSpec, PrivacySpec, EvaluateSpec, CheckpointSpec, ResourcesSpec]
    silent = [f"{model.__name__}.{name}" for model in models for name in undescribed(model)]
    assert silent == []


def undescribed(model: type[BaseModel]) -> list[str]:
    return [name for name, field in model.model_fields.items() if not field.description]
