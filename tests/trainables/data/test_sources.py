import functools
import gzip
import hashlib
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading

import numpy as np
import pytest

from trainables.data import sources
from trainables.data.base import order
from trainables.data.idx import FILES, SETS, IdxSet
from trainables.data.sources import DataError, MissingData, describe, fingerprint, load


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()


@pytest.fixture
def nowhere(monkeypatch, tmp_path):
    """No data set of this machine can be found."""
    monkeypatch.setenv("XDG_DATA_DIRS", str(tmp_path / "share"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("DPSWEEP_DATA", raising=False)
    return tmp_path


@pytest.fixture
def fashion_mnist():
    try:
        describe("fashion_mnist")
    except MissingData as error:
        pytest.skip(str(error))


@pytest.fixture
def small_set(nowhere, monkeypatch):
    """An idx set of our own making in place of MNIST, so that its files can be spoilt: (folder, arrays)."""
    coins = np.random.default_rng(0)
    arrays = [
        coins.integers(0, 256, (60, 28, 28), dtype=np.uint8),
        coins.integers(0, 10, 60, dtype=np.uint8),
        coins.integers(0, 256, (20, 28, 28), dtype=np.uint8),
        coins.integers(0, 10, 20, dtype=np.uint8),
    ]
    md5 = tuple(hashlib.md5(idx(array)).hexdigest() for array in arrays)
    monkeypatch.setitem(SETS, "mnist", IdxSet(train=60, torchvision="MNIST", debian="mnist", md5=md5))
    folder = nowhere / "mine"
    folder.mkdir()
    for name, array in zip(FILES, arrays, strict=True):
        (folder / f"{name}.gz").write_bytes(gzip.compress(idx(array)))
    return folder, arrays


# --- what is loaded ---------------------------------------------------------------------------------------------------


def test_digits_are_scikit_learns_split_into_disjoint_parts():
    train, test = load("digits")
    assert (train.images.shape, test.images.shape) == ((1437, 1, 28, 28), (360, 1, 28, 28))
    assert train.images.dtype == np.uint8
    assert train.labels.dtype == np.int64
    both = np.concatenate([train.images, test.images]).reshape(1797, -1)
    assert len(np.unique(both, axis=0)) == 1797
    labels = np.concatenate([train.labels, test.labels])
    assert np.bincount(labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_digits_interpolation_keeps_brightness_and_agrees_with_torch():
    import torch
    from sklearn.datasets import load_digits

    small = load_digits().images * (255 / 16)
    expected = torch.nn.functional.interpolate(torch.from_numpy(small)[:, None], size=28, mode="bilinear").numpy()
    train, test = load("digits")
    found = np.concatenate([train.images[np.argsort(order(1437))], test.images])
    assert np.abs(found - expected[order(1797)]).max() <= 0.5 + 1e-9


def test_fashion_mnist_is_the_published_set(fashion_mnist):
    train, test = load("fashion_mnist")
    assert np.bincount(train.labels).tolist() == [6000] * 10
    assert np.bincount(test.labels).tolist() == [1000] * 10
    assert train.images.mean() / 255 == pytest.approx(0.2860, abs=5e-5)
    assert train.images.std() / 255 == pytest.approx(0.3530, abs=5e-5)


def test_describe_declares_what_load_returns():
    requests = [{}, {"size": 100, "resolution": 32}, {"resolution": 28, "channels": 3}, {"resolution": 64, "enlarge": True}]
    for request in requests:
        assert describe("digits", **request) == load("digits", **request)[0].info


def test_small_sets_are_nested_in_large_ones():
    (whole, test), (small, same_test) = load("digits"), load("digits", size=100)
    assert np.array_equal(small.images, whole.images[:100])
    assert np.array_equal(small.labels, whole.labels[:100])
    assert np.array_equal(test.images, same_test.images)


def test_32_pixels_are_28_and_a_black_border_and_colour_is_gray_repeated():
    (small, _), (large, _) = load("digits"), load("digits", resolution=32, channels=3)
    assert large.images.shape == (1437, 3, 32, 32)
    assert np.array_equal(large.images[:, 2, 2:-2, 2:-2], small.images[:, 0])
    assert large.images.sum(dtype=np.int64) == 3 * small.images.sum(dtype=np.int64)


# --- where it is looked for -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["path", "torchvision path", "standard folder", "environment", "cache"])
def test_a_set_is_found_gzipped_or_not_wherever_it_may_lie(small_set, nowhere, monkeypatch, layout):
    folder, arrays = small_set
    place, path = {
        "path": (nowhere / "here", str(nowhere / "here")),
        "torchvision path": (nowhere / "root" / "MNIST" / "raw", str(nowhere / "root")),
        "standard folder": (nowhere / "share" / "datasets" / "mnist", None),
        "environment": (nowhere / "env" / "MNIST" / "raw", None),
        "cache": (nowhere / "cache" / "dpsweep" / "data" / "MNIST" / "raw", None),
    }[layout]
    if layout == "environment":
        monkeypatch.setenv("DPSWEEP_DATA", str(nowhere / "env"))
    shutil.copytree(folder, place)
    (place / FILES[0]).write_bytes(gzip.decompress((place / f"{FILES[0]}.gz").read_bytes()))
    (place / f"{FILES[0]}.gz").unlink()
    train, test = load("mnist", path=path)
    assert np.array_equal(np.sort(train.labels), np.sort(arrays[1]))
    assert np.array_equal(test.images[:, 0], arrays[2])


def test_an_explicit_path_is_the_only_place_searched(small_set, nowhere):
    folder, _ = small_set
    shutil.copytree(folder, nowhere / "share" / "datasets" / "mnist")
    with pytest.raises(MissingData, match="elsewhere"):
        load("mnist", path=str(nowhere / "elsewhere"))


@pytest.mark.parametrize(
    ("source", "commands"),
    [
        ("fashion_mnist", ["apt-get install dataset-fashion-mnist", "python -m trainables.data.sources fetch fashion_mnist"]),
        ("mnist", ["python -m trainables.data.sources fetch mnist"]),
    ],
)
def test_a_missing_set_says_where_it_was_looked_for_and_what_to_type(nowhere, source, commands):
    for call in (describe, load):
        with pytest.raises(MissingData) as caught:
            call(source)
        for expected in (*commands, str(nowhere / "share"), str(nowhere / "cache"), FILES[0]):
            assert expected in str(caught.value)


def test_a_file_that_is_not_the_published_one_is_named(small_set):
    folder, arrays = small_set
    (folder / f"{FILES[1]}.gz").write_bytes(gzip.compress(idx(arrays[1] // 2)))
    with pytest.raises(DataError, match=f"{FILES[1]}.gz is not the published file of mnist"):
        load("mnist", path=str(folder))


def test_a_truncated_archive_is_named(small_set):
    folder, _ = small_set
    file = folder / f"{FILES[0]}.gz"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(DataError, match=f"{FILES[0]}.gz cannot be read"):
        load("mnist", path=str(folder))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"source": "cifar"}, "'cifar'; expected digits, fashion_mnist, mnist, cifar10, "),
        ({"source": "digits", "size": 1438}, "1438; digits has 1437 training records: write 1 to 1437"),
        ({"source": "digits", "size": 0}, "write 1 to 1437"),
        ({"source": "digits", "resolution": 64}, "comes in 28 or 32 pixels, and with data.enlarge: true in 64$"),
        ({"source": "digits", "resolution": 40, "enlarge": True}, "comes in 28, 32 or 64 pixels$"),
        ({"source": "digits", "enlarge": True}, "data.resolution is missing: write 28, 32 or 64"),
        ({"source": "digits", "channels": 2}, "1 or 3"),
        ({"source": "digits", "path": "somewhere"}, "leave path out"),
    ],
)
def test_a_request_that_cannot_be_met_says_what_can(arguments, message, tmp_path):
    for call in (describe, load, lambda **request: fingerprint(**request, cache_file=tmp_path / "cache")):
        with pytest.raises(DataError, match=message):
            call(**arguments)


# --- fingerprints -----------------------------------------------------------------------------------------------------


def test_the_fingerprint_of_the_digits_stands_for_ever(tmp_path):
    """It is part of every trial id. If this fails, restore the preparation or raise PREPARATION_VERSION."""
    assert (
        fingerprint("digits", cache_file=tmp_path / "cache")
        == "af05c36d7859cf5c8247d39d024717f339b55749c1436aa80f1cd7d826349aeb"
    )


def test_the_fingerprint_of_idx_files_stands_for_ever(small_set):
    """Likewise: made when these were the only files that were read."""
    folder, _ = small_set
    settings = {"resolution": 32, "channels": 3, "size": 50}
    assert [sources.content_hash(*load("mnist", path=str(folder), **asked)) for asked in ({}, settings)] == [
        "fed81463e3cb0d00b85627a2e263877e744287e8d90a33850a806c8ac8702bb3",
        "8d7c42983d722b387d1cadf733da0806b047074c9c0e6ab049973f85a734e068",
    ]


def test_the_fingerprint_of_fashion_mnist_stands_for_ever(fashion_mnist, tmp_path):
    assert (
        fingerprint("fashion_mnist", cache_file=tmp_path / "cache")
        == "867236b253ed0ab0bf9c99667e65e6fd711a73cfd46213495437ffe79427cebc"
    )


def test_every_preparation_has_its_own_fingerprint_and_a_default_written_out_has_not(tmp_path):
    def of(**request):
        return fingerprint("digits", **request, cache_file=tmp_path / "cache")

    requests = [{}, {"size": 1436}, {"resolution": 32}, {"channels": 3}, {"resolution": 32, "channels": 3}]
    requests += [{"resolution": pixels, "enlarge": True} for pixels in (32, 64)]
    assert len({of(**request) for request in requests}) == len(requests)
    assert of() == of(size=1437, resolution=28, channels=1) == of(resolution=28, enlarge=True)


def test_content_hash_sees_one_pixel_one_label_and_which_split():
    train, test = load("digits", size=50)
    before = sources.content_hash(train, test)
    assert sources.content_hash(test, train) != before
    train.images[7, 0, 3, 3] ^= 1
    changed = sources.content_hash(train, test)
    train.images[7, 0, 3, 3] ^= 1
    assert sources.content_hash(train, test) == before != changed
    test.labels[0] = (test.labels[0] + 1) % 10
    assert sources.content_hash(train, test) != before


def test_a_newer_mtime_keeps_the_fingerprint_and_spoilt_content_is_refused(small_set, tmp_path):
    folder, _ = small_set
    cache = tmp_path / "cache"
    before = fingerprint("mnist", path=str(folder), cache_file=cache)
    file = folder / f"{FILES[0]}.gz"
    os.utime(file, (1, 1))
    assert fingerprint("mnist", path=str(folder), cache_file=cache) == before
    content = bytearray(gzip.decompress(file.read_bytes()))
    content[100] ^= 1
    file.write_bytes(gzip.compress(bytes(content)))
    with pytest.raises(DataError, match="not the published file"):
        fingerprint("mnist", path=str(folder), cache_file=cache)


def test_a_known_fingerprint_is_read_without_decoding_and_a_broken_cache_is_rebuilt(tmp_path):
    cache = tmp_path / "deep" / "fingerprints.json"
    found = fingerprint("digits", size=10, cache_file=cache)
    entries = json.loads(cache.read_text())
    assert list(entries.values()) == [found]
    cache.write_text(json.dumps(dict.fromkeys(entries, "remembered")))
    assert fingerprint("digits", size=10, cache_file=cache) == "remembered"
    for broken in ("{", "[]"):
        cache.write_text(broken)
        assert fingerprint("digits", size=10, cache_file=cache) == found


def test_planning_imports_neither_torch_nor_scikit_learn(tmp_path):
    fingerprint("digits", cache_file=tmp_path / "cache")
    script = f"""
import sys
from pathlib import Path
from trainables.data import sources
sources.describe("digits")
sources.fingerprint("digits", cache_file=Path({str(tmp_path / "cache")!r}))
print([name for name in ("torch", "sklearn", "torchvision") if name in sys.modules])
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


# --- the fetch command ------------------------------------------------------------------------------------------------


def test_fetch_downloads_what_load_then_finds(small_set, nowhere, capsys, monkeypatch):
    import torchvision

    folder, _ = small_set
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    archives = [(name, hashlib.md5((folder / name).read_bytes()).hexdigest()) for name in (f"{file}.gz" for file in FILES)]
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [f"http://127.0.0.1:{server.server_port}/"])
    monkeypatch.setattr(torchvision.datasets.MNIST, "resources", archives)
    with pytest.raises(MissingData):
        load("mnist")
    try:
        assert sources.main(["fetch", "mnist"]) == 0
    finally:
        server.shutdown()
        server.server_close()
    assert str(nowhere / "cache" / "dpsweep" / "data") in capsys.readouterr().out
    assert load("mnist")[0].info.size == 60


def test_fetch_tells_one_line_when_the_network_fails(small_set, nowhere, capsys, monkeypatch):
    import torchvision

    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", ["http://127.0.0.1:9/"])
    assert sources.main(["fetch", "mnist", "--path", str(nowhere / "new")]) == 1
    assert capsys.readouterr().err.startswith("mnist could not be downloaded")


def test_fetch_does_not_offer_what_is_embedded(capsys):
    with pytest.raises(SystemExit) as caught:
        sources.main(["fetch", "digits"])
    assert caught.value.code == 2
    assert "fashion_mnist" in capsys.readouterr().err
