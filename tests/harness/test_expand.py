"""From a sweep file to trials: precedence, axes by name, cases, order, and messages with a place and a name."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.document import InputError
from harness.expand import TrialSpec, expand
from harness.spec import load_sweep
from trainables import registry

TOY = """
from typing import Any, Literal
from pydantic import BaseModel, ConfigDict, Field, model_validator

NAME, VERSION = "toy", 3

class Critic(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: Literal["energy", "trained"] = "energy"
    width: int = Field(default=64, ge=1)

class Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    steps: int = Field(default=200, ge=1)
    noise_injection: float = Field(default=0.0, ge=0)
    slots: int = 100
    critic: Critic = Critic(kind="trained")
    extras: dict[str, Any] = {}

    @model_validator(mode="after")
    def _enough_slots(self):
        if self.slots < self.steps / 100:
            raise ValueError(f"slots is {self.slots}; expected a hundredth of steps or more")
        return self

PRESETS = {"cpu": {"steps": 50, "critic": {"width": 8}}, "broken": {"stepz": 50}}

def mechanism(config, data, neighbours):
    return ()

def stages(config, data):
    return ()
"""
OTHER = """
from pydantic import BaseModel, ConfigDict

NAME, VERSION = "other", 1

class Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    steps: int = 10
    features: int

PRESETS = {}

def mechanism(config, data, neighbours):
    return ()

def stages(config, data):
    return ()
"""
LOOSE = OTHER.replace('frozen=True, extra="forbid"', "frozen=True")
PACKAGES = {"toy": TOY, "other": OTHER, "loose": LOOSE, "halfway": "VERSION = 1\n", "wrong": "import nothing_of_that_name ="}

BASE = """\
name: energy
method: lab_of_tests.toy
data: {source: digits}
privacy: {epsilon: 10}
"""
CASES = """\
name: energy
cases:
  - {name: a, method: lab_of_tests.toy, train: {steps: 30}}
  - {name: b, method: lab_of_tests.other, train: {features: 3}}
data: {source: digits}
privacy: {epsilon: 10}
"""


@pytest.fixture(scope="module", autouse=True)
def _methods(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A user's own methods, importable as ``lab_of_tests.NAME``."""
    root = tmp_path_factory.mktemp("methods")
    for name, source in PACKAGES.items():
        package = root / "lab_of_tests" / name
        package.mkdir(parents=True)
        (package / "__init__.py").touch()
        (package / "method.py").write_text(source)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(root))
        yield
    for module in [name for name in sys.modules if name.partition(".")[0] == "lab_of_tests"]:
        del sys.modules[module]


def trials(folder: Path, text: str, *overrides: str) -> list[TrialSpec]:
    (folder / "a.yaml").write_text(text)
    return expand(load_sweep(folder / "a.yaml", overrides))


def message(folder: Path, text: str, *overrides: str) -> str:
    with pytest.raises(InputError) as caught:
        trials(folder, text, *overrides)
    return str(caught.value).replace(f"{folder}/", "")


# What comes out ------------------------------------------------------------------------------------------------------


def test_one_trial(tmp_path: Path) -> None:
    (trial,) = trials(tmp_path, BASE + "train: {steps: 1e2}\nresources: {memory: 2GB}\nkeep_samples: 7\n")
    assert (trial.case, trial.method, trial.version, trial.seed) == (None, "lab_of_tests.toy", 3, 0)
    assert trial.config_json == {
        "steps": 100,
        "noise_injection": 0.0,
        "slots": 100,
        "critic": {"kind": "trained", "width": 64},
        "extras": {},
    }
    assert (trial.config.steps, trial.data.source, trial.privacy.epsilon, trial.keep_samples) == (100, "digits", 10.0, 7)
    assert (trial.evaluate.samples, trial.checkpoint.every, trial.resources.memory_bytes) == (10_000, None, 2 * 10**9)
    assert (trial.axes, trial.label) == ({}, "seed=0")


def test_order_and_labels(tmp_path: Path) -> None:
    text = BASE + "axes: {noise_injection: [0, .1], privacy.epsilon: [1, 10]}\nseeds: 2\n"
    text += "zip: [{steps: [2, 3], train.slots: [4, 5]}]\n"
    found = trials(tmp_path, text)
    assert len(found) == 16
    assert [trial.label for trial in found[:6]] == [
        "noise_injection=0 epsilon=1 steps=2 slots=4 seed=0",
        "noise_injection=0 epsilon=1 steps=2 slots=4 seed=1",
        "noise_injection=0 epsilon=1 steps=3 slots=5 seed=0",
        "noise_injection=0 epsilon=1 steps=3 slots=5 seed=1",
        "noise_injection=0 epsilon=10 steps=2 slots=4 seed=0",
        "noise_injection=0 epsilon=10 steps=2 slots=4 seed=1",
    ]
    last = found[-1]
    assert last.axes == {"noise_injection": 0.1, "privacy.epsilon": 10, "steps": 3, "train.slots": 5}
    assert (last.config.noise_injection, last.privacy.epsilon, last.config.steps, last.config.slots) == (0.1, 10.0, 3, 5)


def test_expansion_is_a_function_of_the_file(tmp_path: Path) -> None:
    text = CASES + "axes: {steps: [1, 2], data.size: [10, null]}\nseeds: [4, 2]\n"
    assert trials(tmp_path, text) == trials(tmp_path, text)


def test_precedence(tmp_path: Path) -> None:
    text = CASES.replace("train: {steps: 30}", "preset: cpu, train: {steps: 30}")
    a, b = trials(tmp_path, text)
    assert (a.config.steps, a.config.critic.width, a.config.critic.kind) == (30, 8, "trained")
    a, b = trials(tmp_path, text + "train: {steps: 40}\n")
    assert (a.config.steps, b.config.steps) == (30, 40)
    a, b = trials(tmp_path, text + "train: {steps: 40}\naxes: {steps: [60]}\n")
    assert (a.config.steps, b.config.steps, a.label) == (60, 60, "a steps=60 seed=0")


def test_mappings_are_merged_but_an_axis_replaces(tmp_path: Path) -> None:
    text = BASE + "preset: cpu\ntrain: {critic: {kind: energy}}\n"
    (trial,) = trials(tmp_path, text)
    assert trial.config_json["critic"] == {"kind": "energy", "width": 8}
    first, second = trials(tmp_path, text + "axes: {critic: [{}, {kind: trained, width: 3}]}\n")
    assert first.config_json["critic"] == {"kind": "energy", "width": 64}
    assert second.config_json["critic"] == {"kind": "trained", "width": 3}
    assert second.label == 'critic={"kind":"trained","width":3} seed=0'


def test_one_key_of_an_inner_model_leaves_its_other_defaults(tmp_path: Path) -> None:
    for text in ("train: {critic: {width: 3}}\n", "axes: {train.critic.width: [3]}\n"):
        (trial,) = trials(tmp_path, BASE + text)
        assert trial.config_json["critic"] == {"kind": "trained", "width": 3}


def test_preset_of_the_sweep_is_the_preset_of_cases_without_one(tmp_path: Path) -> None:
    text = CASES.replace("lab_of_tests.other, train: {features: 3}", "lab_of_tests.toy, preset: cpu, train: {steps: 70}")
    a, b = trials(tmp_path, text.replace("train: {steps: 30}", "") + "preset: cpu\n")
    assert (a.config.steps, b.config.steps, b.config.critic.width) == (50, 70, 8)


@pytest.mark.parametrize(
    ("axis", "get", "values"),
    [
        ("steps: [1, 2]", lambda trial: trial.config.steps, [1, 2]),
        ("train.steps: [1, 2]", lambda trial: trial.config.steps, [1, 2]),
        ("kind: [energy, trained]", lambda trial: trial.config.critic.kind, ["energy", "trained"]),
        ("train.critic.kind: [energy]", lambda trial: trial.config.critic.kind, ["energy"]),
        ("critic.kind: [energy, trained]", lambda trial: trial.config.critic.kind, ["energy", "trained"]),
        ("train.extras.a.b: [1, {c: 2}]", lambda trial: trial.config.extras, [{"a": {"b": 1}}, {"a": {"b": {"c": 2}}}]),
        ("epsilon: [1, 2]", lambda trial: trial.privacy.epsilon, [1.0, 2.0]),
        ("data.source: [digits, mnist]", lambda trial: trial.data.source, ["digits", "mnist"]),
        ("data.size: [null, 5]", lambda trial: trial.data.size, [None, 5]),
        ("samples: [50]", lambda trial: trial.evaluate.samples, [50]),
        ("checkpoint.every: [5]", lambda trial: trial.checkpoint.every, [5]),
        ("resources.cpu: [2]", lambda trial: trial.resources.cpu, [2.0]),
    ],
)
def test_axes_by_name(tmp_path: Path, axis: str, get: object, values: list[object]) -> None:
    assert [get(trial) for trial in trials(tmp_path, BASE + f"axes: {{{axis}}}\n")] == values  # type: ignore[operator]


def test_labels_keep_names_apart(tmp_path: Path) -> None:
    (trial,) = trials(tmp_path, BASE + "axes: {evaluate.every: [5], checkpoint.every: [6], noise_injection: [1e-5]}\n")
    assert trial.label == "evaluate.every=5 checkpoint.every=6 noise_injection=1e-05 seed=0"


def test_with_and_without_privacy_in_one_sweep(tmp_path: Path) -> None:
    text = BASE.replace("epsilon: 10", "delta: 1e-6") + "zip: [{epsilon: [1, null], noise_multiplier: [null, 0]}]\n"
    found = [(trial.privacy.epsilon, trial.privacy.noise_multiplier, trial.privacy.delta) for trial in trials(tmp_path, text)]
    assert found == [(1.0, None, 1e-6), (None, 0.0, 1e-6)]


def test_overrides(tmp_path: Path) -> None:
    text = BASE + "axes: {noise_injection: [0, .1], privacy.epsilon: [1, 10]}\n"
    found = trials(tmp_path, text, "axes.noise_injection=[0.3]", "train.steps=7", "axes.train.slots=[1, 2]", "seeds=[9]")
    assert [trial.label for trial in found] == [
        f"noise_injection=0.3 epsilon={epsilon} slots={slots} seed=9" for epsilon in (1, 10) for slots in (1, 2)
    ]
    assert {trial.config.steps for trial in found} == {7}


def test_neither_torch_nor_ray_nor_dp_accounting_is_imported(tmp_path: Path) -> None:
    text = BASE.replace("lab_of_tests.toy", "dp_energy") + "axes: {noise_injection: [0, .1]}\nseeds: 2\n"
    (tmp_path / "a.yaml").write_text(text)
    code = (
        "import sys; from harness.spec import load_sweep; from harness.expand import expand; "
        "assert len(expand(load_sweep(sys.argv[1]))) == 4; print({'torch', 'ray', 'dp_accounting', 'numpy'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code, tmp_path / "a.yaml"], capture_output=True, text=True, check=False)
    assert (run.stdout, run.stderr) == ("set()\n", "")


# What is refused -----------------------------------------------------------------------------------------------------

TAKES = "lab_of_tests.toy takes: steps, noise_injection, slots, critic.kind, critic.width, extras"
TRAIN_TAKES = "lab_of_tests.toy takes: critic, extras, noise_injection, slots, steps"


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        # train
        ("train:\n  nosie_injection: 3",
         f"a.yaml:6:3: unknown key `nosie_injection` in train; did you mean `noise_injection`? ({TRAIN_TAKES})"),
        ("train: {critic: {widht: 3}}",
         "a.yaml:5:18: unknown key `widht` in train.critic; did you mean `width`? (train.critic takes: kind, width)"),
        ("train: {kind: energy}",
         f"a.yaml:5:9: unknown key `kind` in train; did you mean `train.critic.kind`? ({TRAIN_TAKES})"),
        ("train: {epsilon: 3}", f"a.yaml:5:9: unknown key `epsilon` in train; did you mean `privacy.epsilon`? ({TRAIN_TAKES})"),
        ("train: {steps: many}", 'a.yaml:5:16: `train.steps` is the text "many"; expected a whole number'),
        ("train: {steps: true}", "a.yaml:5:16: `train.steps` is true; expected a number"),
        ("train: {steps: 0}", "a.yaml:5:16: `train.steps` is 0; expected a number of at least 1"),
        ("train: {critic: 3}", "a.yaml:5:17: `train.critic` is 3; expected keys and values"),
        ("train: {critic: {kind: enrgy}}",
         'a.yaml:5:24: `train.critic.kind` is the text "enrgy"; did you mean `energy`? (expected energy or trained)'),
        ("train: {extras: {a: [.nan]}}", "a.yaml:5:22: `train.extras.a.0` is .nan; expected a finite number"),
        ("train: {slots: 1}", "a.yaml:5:16: slots is 1; expected a hundredth of steps or more"),
        ("preset: fast", "a.yaml:5:9: preset `fast` is not known; lab_of_tests.toy has: cpu, broken"),
        ("preset: cpuu", "a.yaml:5:9: preset `cpuu` is not known; did you mean `cpu`? (lab_of_tests.toy has: cpu, broken)"),
        ("preset: broken", f"a.yaml:5:1: unknown key `stepz` in train; did you mean `steps`? ({TRAIN_TAKES})"),
        # axes
        ("axes: {nosie_injection: [0]}",
         f"a.yaml:5:8: axis `nosie_injection` names no setting; did you mean `noise_injection`? ({TAKES})"),
        ("axes: {epsilom: [1]}", f"a.yaml:5:8: axis `epsilom` names no setting; did you mean `epsilon`? ({TAKES})"),
        ("axes: {privacy.epsilom: [1]}",
         f"a.yaml:5:8: axis `privacy.epsilom` names no setting; did you mean `privacy.epsilon`? ({TAKES})"),
        ("axes: {critic.kidn: [energy]}",
         f"a.yaml:5:8: axis `critic.kidn` names no setting; did you mean `train.critic.kind`? ({TAKES})"),
        ("axes: {every: [1]}",
         "a.yaml:5:8: axis `every` could be `evaluate.every` or `checkpoint.every`; write one of them"),
        ("axes: {seeds: [1]}", "a.yaml:5:8: axis `seeds` names no setting; write `seeds: 3`"),
        ("axes: {method: [x]}", "a.yaml:5:8: axis `method` names no setting; write `cases:`"),
        ("axes: {steps: []}", "a.yaml:5:15: axis `steps` has no values; give it some, or remove it"),
        ("axes: {steps: [1, 2, 1]}",
         "a.yaml:5:22: axis `steps` lists 1 twice; remove one; repetitions are written `seeds: 3`"),
        ("axes: {noise_injection: [0, -1, x]}",
         "a.yaml:5:29: `train.noise_injection` is -1; expected a number of at least 0\n"
         'a.yaml:5:33: `train.noise_injection` is the text "x"; expected a number'),
        ("axes: {critic: [{kind: energy}, {kidn: energy}]}",
         "a.yaml:5:34: unknown key `kidn` in train.critic; did you mean `kind`? (train.critic takes: kind, width)"),
        ("axes: {samples: [10, x]}", 'a.yaml:5:22: `evaluate.samples` is the text "x"; expected a whole number'),
        ("axes: {steps: [9, 90000], noise_injection: [0, .5]}",
         "a.yaml:5:19: slots is 100; expected a hundredth of steps or more (steps=90000 noise_injection=0)"),
        ("train: {slots: 1}\naxes: {noise_injection: [0, .5]}",
         "a.yaml:5:16: slots is 1; expected a hundredth of steps or more (noise_injection=0)"),
        ("axes: {steps: [1], train.steps: [2]}",
         "a.yaml:5:20: axes `steps` and `train.steps` both set train.steps; remove one"),
        ("axes: {critic: [{}], train.critic.kind: [energy]}",
         "a.yaml:5:22: axes `critic` and `train.critic.kind` both set train.critic.kind; remove one"),
        ("axes: {steps: [1]}\nzip: [{steps: [2]}]", "a.yaml:6:8: axes `steps` and `steps` both set train.steps; remove one"),
        ("train: {critic: 3}\naxes: {train.critic.width: [3]}",
         "a.yaml:5:17: `train.critic` is 3; expected keys and values"),
        ("zip: [{steps: [1, 2], slots: [3]}]",
         "a.yaml:5:7: axes that go in step differ in length: steps has 2, slots has 1; give them equally many values"),
        ("zip: [{}]", "a.yaml:5:7: a zip group is empty; write axes of equal length into it, or remove it"),
        ("zip: [{stepz: [1]}]", f"a.yaml:5:8: axis `stepz` names no setting; did you mean `steps`? ({TAKES})"),
        # privacy
        ("axes: {epsilon: [1, null]}", "a.yaml:4:1: privacy has neither epsilon nor noise_multiplier; write `epsilon: 10`"),
        ("axes: {delta: [1e-5, 1]}", "a.yaml:5:22: `privacy.delta` is 1; expected a number under 1"),
        ("seeds: 10000000000", "a.yaml:1:1: the file asks for 10,000,000,000 trials; expected at most 100,000"),
    ],
)  # fmt: skip
def test_one_mistake_is_one_line(tmp_path: Path, extra: str, expected: str) -> None:
    assert message(tmp_path, BASE + extra + "\n") == expected


OTHER_TAKES = "lab_of_tests.other takes:"


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ("train: {slots: 3}", f"a.yaml:7:9: case `b`: unknown key `slots` in train; {OTHER_TAKES} features, steps"),
        ("axes: {slots: [3]}",
         "a.yaml:7:8: case `b`: axis `slots` names no setting of lab_of_tests.other; "
         f"give the case a sweep of its own ({OTHER_TAKES} steps, features)"),
        ("preset: cpu", "a.yaml:7:9: case `b`: preset `cpu` is not known; lab_of_tests.other has none"),
        ("axes: {steps: [x]}",
         'a.yaml:7:16: case `a`: `train.steps` is the text "x"; expected a whole number\n'
         'a.yaml:7:16: case `b`: `train.steps` is the text "x"; expected a whole number'),
    ],
)  # fmt: skip
def test_what_one_case_does_not_take(tmp_path: Path, extra: str, expected: str) -> None:
    assert message(tmp_path, CASES + extra + "\n") == expected


def test_a_key_that_a_case_needs(tmp_path: Path) -> None:
    expected = (
        "a.yaml:4:43: case `b`: missing key `features` in train; add `features:` with a value\n"
        f"a.yaml:4:51: case `b`: unknown key `feature` in train; did you mean `features`? ({OTHER_TAKES} features, steps)"
    )
    assert message(tmp_path, CASES.replace("{features: 3}", "{feature: 3}")) == expected


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("dp_enrgy", "method `dp_enrgy` is not known; did you mean `dp_energy`? (ours are: "),
        ("lab_of_tests.nope", "method 'lab_of_tests.nope' cannot be imported (No module named 'lab_of_tests.nope')"),
        ("lab_of_tests.wrong", "method `lab_of_tests.wrong` cannot be imported: SyntaxError: "),
        ("lab_of_tests.halfway",
         "method `lab_of_tests.halfway` has no Config, PRESETS, mechanism, stages; expected what trainables/base.py describes"),
        ("lab_of_tests.loose",
         "Config of method `lab_of_tests.loose` takes any key, so that misspelt settings would be lost; "
         'give it model_config = ConfigDict(extra="forbid", frozen=True)'),
    ],
)  # fmt: skip
def test_methods_that_cannot_be_used(tmp_path: Path, method: str, expected: str) -> None:
    assert message(tmp_path, BASE.replace("lab_of_tests.toy", method)).startswith(f"a.yaml:2:9: {expected}")


@pytest.mark.parametrize(
    ("override", "fix"),
    [
        ("train.noise_injection=3", "write --set axes.noise_injection=[3]"),
        ("privacy.epsilon=3", "write --set axes.privacy.epsilon=[3]"),
        ("privacy.epsilon=[1, 3]", "write --set axes.privacy.epsilon=[1, 3]"),
        ("train.critic.kind=energy", "write --set axes.kind=[energy]"),
        ("train.steps=3", "write --set zip.0.steps=[3]"),
    ],
)
def test_an_axis_is_overridden_as_an_axis(tmp_path: Path, override: str, fix: str) -> None:
    axes = "axes: {noise_injection: [0, .1], privacy.epsilon: [1, 10], kind: [energy]}\nzip: [{steps: [1, 2]}]\n"
    path = override.partition("=")[0]
    expected = f"--set {override}: {path} is an axis of this sweep, and its values would win; {fix}"
    assert message(tmp_path, BASE + axes, override) == expected


def test_mistakes_in_overrides_name_them(tmp_path: Path) -> None:
    assert message(tmp_path, BASE, "train.critic.kind=3", "axes.noise_injection=[-1]").splitlines() == [
        "--set axes.noise_injection=[-1]: `train.noise_injection` is -1; expected a number of at least 0",
        "--set train.critic.kind=3: `train.critic.kind` is 3; expected energy or trained",
    ]


def test_later_rooms_place_their_problems_with_the_trial(tmp_path: Path) -> None:
    """Data and mechanisms find more mistakes; the sentence begins with the setting it is about."""
    text = CASES + "axes: {steps: [10, 20], data.source: [digits]}\n"
    trial = trials(tmp_path, text)[1]
    problem = str(trial.problem("train", "steps is 20; expected fewer")).removeprefix(f"{tmp_path}/")
    assert problem == "a.yaml:7:20: case `a`: steps is 20; expected fewer (steps=20)"
    problem = str(trial.problem("data", "data.source is odd")).removeprefix(f"{tmp_path}/")
    assert problem == "a.yaml:7:39: case `a`: data.source is odd (source=digits)"
    problem = str(trial.problem("privacy.epsilon", "too little", "expected more")).removeprefix(f"{tmp_path}/")
    assert problem == "a.yaml:6:20: case `a`: too little; expected more"
    problem = str(trial.problem("train", "images are odd")).removeprefix(f"{tmp_path}/")
    assert problem == "a.yaml:3:48: case `a`: images are odd (steps=20)"


# The methods of this project -----------------------------------------------------------------------------------------


def test_our_methods_are_expanded(tmp_path: Path) -> None:
    text = """\
name: energy
cases:
  - {name: plain, method: dp_energy}
  - {name: guided, method: dp_energy_guided}
data: {source: digits}
privacy: {epsilon: 10}
preset: digits
axes: {noise_injection: [0, .1]}
seeds: 3
"""
    found = trials(tmp_path, text)
    assert len(found) == 12
    assert found[-1].label == "guided noise_injection=0.1 seed=2"
    preset = registry.method("dp_energy").PRESETS["digits"]
    assert preset.items() - found[0].config.model_dump().items() == set(), "the preset is what nothing else has set"
    expected = "a.yaml:10:9: case `plain`: unknown key `classifier` in train; dp_energy takes: "
    assert message(tmp_path, text + "train: {classifier: {steps: 3}}\n").startswith(expected)
