"""CIFAR-10's pickled batches, with small ones of our own making in place of the published ones."""

from __future__ import annotations

import functools
import hashlib
import http.server
import pickle
import tarfile
import threading

import numpy as np
import pytest

from trainables.data import cifar10, sources
from trainables.data.sources import DataError, MissingData, load

pytestmark = pytest.mark.usefixtures("own_cache")

EACH = 4


@pytest.fixture
def batches(tmp_path, monkeypatch):
    """Pickled batches of four images in torchvision's layout: (root, pixels ``[6, 4, 3072]``, labels ``[6, 4]``)."""
    coins = np.random.default_rng(0)
    pixels = coins.integers(0, 256, (6, EACH, 3072), dtype=np.uint8)
    labels = coins.integers(0, 10, (6, EACH))
    folder = tmp_path / "root" / cifar10.FOLDER
    folder.mkdir(parents=True)
    published = {}
    for name, data, own in zip(cifar10.MD5, pixels, labels, strict=True):
        content = pickle.dumps({"data": data, "labels": own.tolist()})
        (folder / name).write_bytes(content)
        published[name] = hashlib.md5(content).hexdigest()
    monkeypatch.setattr(cifar10, "MD5", published)
    monkeypatch.setattr(cifar10, "TRAIN", 5 * EACH)
    return tmp_path / "root", pixels, labels


def test_pickled_batches_are_read_from_the_folder_or_the_one_above(batches):
    root, pixels, labels = batches
    for path in (root, root / cifar10.FOLDER):
        train, test = load("cifar10", path=str(path))
        assert (train.info.size, train.info.shape, train.info.classes) == (20, (3, 32, 32), 10)
        assert np.array_equal(test.images.reshape(EACH, 3072), pixels[5])
        assert np.array_equal(test.labels, labels[5])
        assert sorted(map(bytes, train.images)) == sorted(map(bytes, pixels[:5].reshape(-1, 3072)))


class Planted:
    """A pickle of it makes a file when it is read."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return open, (str(self.file), "w")


def test_a_batch_that_is_not_the_published_one_is_never_unpickled(batches, tmp_path):
    root, _, _ = batches
    trace = tmp_path / "trace"
    (root / cifar10.FOLDER / "data_batch_2").write_bytes(pickle.dumps(Planted(trace)))
    with pytest.raises(DataError, match="data_batch_2 is not the published file of cifar10 and is not unpickled"):
        load("cifar10", path=str(root))
    assert not trace.exists()


def test_the_published_checksums_are_torchvisions():
    from torchvision.datasets import CIFAR10

    assert [list(item) for item in cifar10.MD5.items()] == CIFAR10.train_list + CIFAR10.test_list


def test_fetch_downloads_what_load_then_finds(batches, tmp_path, monkeypatch, capsys):
    from torchvision.datasets import CIFAR10

    root, pixels, _ = batches
    (root / cifar10.FOLDER / "batches.meta").write_bytes(meta := pickle.dumps({"label_names": list("0123456789")}))
    with tarfile.open(tmp_path / "batches.tar.gz", "w:gz") as archive:
        archive.add(root / cifar10.FOLDER, cifar10.FOLDER)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    *train, test = cifar10.MD5.items()
    published = {
        "url": f"http://127.0.0.1:{server.server_port}/batches.tar.gz",
        "tgz_md5": hashlib.md5((tmp_path / "batches.tar.gz").read_bytes()).hexdigest(),
        "train_list": train,
        "test_list": [test],
        "meta": {"filename": "batches.meta", "key": "label_names", "md5": hashlib.md5(meta).hexdigest()},
    }
    for name, value in published.items():
        monkeypatch.setattr(CIFAR10, name, value)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    try:
        assert sources.main(["fetch", "cifar10"]) == 0
    finally:
        server.shutdown()
        server.server_close()
    assert str(tmp_path / "cache" / "dpsweep" / "data") in capsys.readouterr().out
    assert np.array_equal(load("cifar10")[1].images.reshape(EACH, 3072), pixels[5])


def test_a_missing_set_says_what_to_type(tmp_path, monkeypatch):
    with pytest.raises(MissingData, match=f"python -m trainables.data.sources fetch cifar10 --path {tmp_path}"):
        sources.describe("cifar10", path=str(tmp_path))
    with pytest.raises(MissingData, match=r"data_batch_1 to 5 and test_batch .*fetch cifar10$"):
        sources.describe("cifar10")
    monkeypatch.setenv("DPSWEEP_DATA", "~nobody_here/data")
    with pytest.raises(MissingData, match=f"no folder of ~nobody_here/data, ~nobody_here/data/{cifar10.FOLDER}, "):
        sources.describe("cifar10")


@pytest.mark.parametrize("setting", [{"label": "fine_label"}, {"preparation": "crop"}, {"test_split": "valid"}])
def test_settings_of_other_sources_are_refused(setting):
    (name,) = setting
    with pytest.raises(DataError, match=f"data.{name} is set, but cifar10 does not take it"):
        sources.describe("cifar10", **setting)


def test_resolutions(batches):
    root, _, _ = batches
    assert load("cifar10", path=str(root), resolution=28, channels=1)[0].info.shape == (1, 28, 28)
    with pytest.raises(DataError, match=r"64; cifar10 comes in 28 or 32 pixels, and with data.enlarge: true in 64"):
        sources.describe("cifar10", path=str(root), resolution=64)
    enlarged, own = load("cifar10", path=str(root), resolution=64, enlarge=True)[0], load("cifar10", path=str(root))[0]
    assert enlarged.info.shape == (3, 64, 64)
    assert np.array_equal(enlarged.images[:, :, 0, 0], own.images[:, :, 0, 0]), "edges are repeated"
