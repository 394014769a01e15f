"""The sampler that runs alone draws what the harness's sampler draws."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from trainables import registry
from trainables.base import DataInfo
from trainables.coins import torch_coins
from trainables.standalone import runtime
from trainables.standalone.recipe import Recipe
from trainables.standalone.source import NotStandalone, sampler_source

CPU = torch.device("cpu")
SMALL = {"generator_channels": 4}
DIFFUSION = {"network": {"channels": 8, "multipliers": [1, 1], "blocks": 1, "patch": 2}, "sampler": {"steps": 2}}
STOCHASTIC = {"kind": "edm", "steps": 3, "churn": 2.0, "guidance": 0.5}
GRAY, COLOUR, LARGE = (1, 28, 28), (3, 32, 32), (3, 64, 64)
CASES: list[tuple[str, dict[str, Any], tuple[int, int, int]]] = [
    *((name, {**SMALL, "generator": "resnet"}, shape) for name, shape in [("gs_wgan", GRAY), ("dpac", COLOUR)]),
    ("ef_dpgan", {**SMALL, "generator": "resnet", "noise_injection": 0.1}, LARGE),
    ("ef_dpgan", {**SMALL, "generator": "dcgan", "noise_injection_schedule": "learnt"}, GRAY),
    ("ef_dpgan", {**SMALL, "generator": "small", "noise_injection_start": 2}, LARGE),
    ("dp_energy", {**SMALL, "noise_injection": 0.3}, GRAY),
    ("dp_energy_guided", SMALL, COLOUR),
    ("dp_merf", {"generator": "published"}, GRAY),
    ("dp_merf", SMALL, COLOUR),
    ("dp_sinkhorn", SMALL, GRAY),
    ("dpgan", SMALL, COLOUR),
    ("dpdm", DIFFUSION, GRAY),
    ("dp_feta", {**DIFFUSION, "sampler": STOCHASTIC}, COLOUR),
    ("pate_gan", {**SMALL, "generator": "small"}, GRAY),
    ("g_pate", {**SMALL, "generator": "dcgan"}, GRAY),
    ("datalens", {**SMALL, "generator": "small"}, COLOUR),
]
ALONE = """
import json, sys

class Nothing:
    def find_spec(self, name, *_):
        if name.partition(".")[0] in ("harness", "trainables", "analysis", "slurm", "pydantic", "ray"):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Nothing())
for name in ("harness", "trainables"):
    try:
        __import__(name)
    except ModuleNotFoundError:
        continue
    raise SystemExit(f"{name} can be imported")
import runpy, torch
found = {}
for folder in json.loads(sys.argv[1]):
    generate = runpy.run_path(f"{folder}/sample.py")["load"]()
    found[folder] = generate(torch.arange(20) % 10, seed=7)
torch.save(found, sys.argv[2])
"""


def kept(method: str, settings: dict[str, Any], shape: tuple[int, int, int]) -> tuple[Recipe, dict[str, torch.Tensor], Any]:
    """(recipe, tensors of an untrained generator as a trainer would release them, the harness's sampler of these)."""
    config = registry.method(method).Config.model_validate(settings)
    info = DataInfo(size=1000, channels=shape[0], height=shape[1], width=shape[2], classes=10)
    training = registry.training(method)
    recipe = training.recipe(config, info)
    network = recipe.network(**recipe.arguments)
    coins = torch_coins(0, "weights")
    tensors = {}
    for name, tensor in network.state_dict().items():
        drawn = torch.rand(tensor.shape, generator=coins) + 0.1 if tensor.is_floating_point() else tensor
        centred = drawn - 0.6 if name.endswith("weight") and tensor.ndim > 1 else drawn
        tensors[f"{recipe.prefix}{name}"] = centred.to(tensor.dtype)
    return recipe, tensors, training.load_sampler(config, info, tensors, CPU)


def test_every_method_but_the_reference_is_tried() -> None:
    assert {name for name, _, _ in CASES} == set(registry.METHODS) - {"real"}


def test_a_bundle_draws_bit_for_bit_what_the_harness_draws(tmp_path: Path) -> None:
    """In a process of its own where neither the harness nor the methods can be imported."""
    labels, expected = torch.arange(20) % 10, {}
    for index, (method, settings, shape) in enumerate(CASES):
        recipe, tensors, sampler = kept(method, settings, shape)
        folder = tmp_path / f"{index}_{method}"
        folder.mkdir()
        (folder / "sample.py").write_text(sampler_source(recipe, shape=shape, classes=10))
        save_file(tensors, folder / "generator.safetensors")
        expected[str(folder)] = sampler(labels, torch.Generator().manual_seed(7))
    command = [sys.executable, "-I", "-c", ALONE, json.dumps(list(expected)), str(tmp_path / "found.pt")]
    subprocess.run(command, check=True, cwd=tmp_path, timeout=120)
    found = torch.load(tmp_path / "found.pt")
    for folder, images in expected.items():
        assert len({image.numpy().tobytes() for image in images}) == 20, folder
        assert torch.equal(found[folder], images), folder
    assert not list(tmp_path.rglob("__pycache__"))
    checked = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "E,F,I", "--line-length", "128", str(tmp_path)]
    subprocess.run(checked, check=True, timeout=60)


def test_the_command_line_writes_png_files(tmp_path: Path) -> None:
    from PIL import Image

    recipe, tensors, sampler = kept("dp_energy", SMALL, GRAY)
    (tmp_path / "sample.py").write_text(sampler_source(recipe, shape=GRAY, classes=10))
    save_file(tensors, tmp_path / "generator.safetensors")
    command = [sys.executable, "-I", "sample.py", "--per-class", "2", "--out", "new/images", "--seed", "3"]
    subprocess.run(command, check=True, cwd=tmp_path, timeout=60)
    files = sorted((tmp_path / "new" / "images").iterdir())
    assert [path.name for path in files] == [f"{label}_{index:05}.png" for label in range(10) for index in range(2)]
    images = sampler(torch.arange(10).repeat_interleave(2), torch.Generator().manual_seed(3))
    pixels = (images * 255).round().to(torch.uint8)
    for path, expected in zip(files, pixels, strict=True):
        with Image.open(path) as image:
            assert image.mode == "L"
            assert torch.equal(torch.tensor(list(image.tobytes()), dtype=torch.uint8).reshape(1, 28, 28), expected)


def test_colours_survive_as_png(tmp_path: Path) -> None:
    from PIL import Image

    image = torch.rand(3, 5, 7, generator=torch_coins(0, "image"))
    (tmp_path / "image.png").write_bytes(runtime.png(image))
    with Image.open(tmp_path / "image.png") as read:
        assert (read.mode, read.size) == ("RGB", (7, 5))
        found = torch.tensor(list(read.tobytes()), dtype=torch.uint8).reshape(5, 7, 3)
    assert torch.equal(found.permute(2, 0, 1), (image * 255).round().to(torch.uint8))


@pytest.mark.parametrize("labels", [[10], [-1], [], [[0]]], ids=str)
def test_labels_that_there_are_none_of_are_refused(tmp_path: Path, labels: Any) -> None:
    recipe, tensors, _ = kept("dp_energy", SMALL, GRAY)
    save_file(tensors, tmp_path / "generator.safetensors")
    network = recipe.network(**recipe.arguments)
    generate = runtime.load_into(network, recipe.prefix, 10, tmp_path / "generator.safetensors", "cpu")
    with pytest.raises(ValueError, match="each a whole number from 0 to 9"):
        generate(labels)


def test_what_a_recipe_needs_is_what_leaves() -> None:
    recipe, tensors, _ = kept("dp_energy_guided", SMALL, GRAY)
    assert recipe.needed({**tensors, "classifier.weight": torch.zeros(3)}).keys() == tensors.keys()
    with pytest.raises(ValueError, match=r"it holds critic\.weight, no part of the generator"):
        recipe.needed({**tensors, "critic.weight": torch.zeros(3)})
    name = next(iter(tensors))
    with pytest.raises(ValueError, match="it lacks "):
        recipe.needed({key: tensor for key, tensor in tensors.items() if key != name})
    with pytest.raises(ValueError, match="the generator of these settings has"):
        recipe.needed({**tensors, name: torch.zeros(1)})


def module(name: str, text: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    import importlib

    (folder / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(folder)
    return importlib.import_module(name)


OWN = """
from __future__ import annotations

import torch
from torch import nn

from trainables.networks.layers import pixel_norm

# How strong the noise is.
_SCALE, SIDE = 0.5, 4


class Own(nn.Module):
    def __init__(self, classes: int, rng: torch.Generator | None = None) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(classes, 1, SIDE, SIDE))

    def sample(self, labels: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
        noise = torch.randn(len(labels), 1, SIDE, SIDE, generator=rng)
        return torch.sigmoid(pixel_norm(self.mean[labels] + _SCALE * noise))
"""


def test_a_network_of_a_users_own_is_copied_with_what_it_takes_from_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = module("own_network", OWN, tmp_path, monkeypatch)
    recipe = Recipe(network=own.Own, arguments={"classes": 3}, prefix="")
    text = sampler_source(recipe, shape=(1, 4, 4), classes=3)
    assert "# How strong the noise is.\n_SCALE, SIDE = 0.5, 4" in text
    tensors = {"mean": torch.rand(3, 1, 4, 4, generator=torch_coins(0, "mean"))}
    save_file(tensors, tmp_path / "generator.safetensors")
    (tmp_path / "sample.py").write_text(text)
    generate = runpy.run_path(str(tmp_path / "sample.py"))["load"](tmp_path / "generator.safetensors")
    expected = recipe.load(tensors, CPU)(torch.tensor([2, 0]), torch.Generator().manual_seed(1))
    assert torch.equal(generate([2, 0], seed=1), expected)


NUMPY = "import numpy as np\nclass Own:\n    size = np.pi\n"
ALIAS = "from trainables.networks.layers import pixel_norm as p\nclass Own:\n    norm = p\n"
TWICE = "from trainables.standalone.runtime import png\ndef fill():\n    return png\nclass Own:\n    found = fill\n"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("own_numpy", NUMPY, "uses np of numpy; a sampler that leaves imports torch alone"),
        ("own_alias", ALIAS, "imports pixel_norm as p; call it pixel_norm"),
        ("own_twice", TWICE, "both have a fill"),
    ],
)
def test_code_that_cannot_stand_alone_is_refused_with_a_sentence(
    name: str, text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = module(name, text, tmp_path, monkeypatch)
    with pytest.raises(NotStandalone, match=message):
        sampler_source(Recipe(network=own.Own, arguments={}), shape=GRAY, classes=10)


def test_an_argument_without_a_form_in_source_is_refused() -> None:
    recipe, _, _ = kept("dp_energy", SMALL, GRAY)
    broken = Recipe(network=recipe.network, arguments={**recipe.arguments, "noise_injection": float("nan")})
    with pytest.raises(NotStandalone, match="nan is no number"):
        sampler_source(broken, shape=GRAY, classes=10)
