import hashlib
import logging
import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import CIFAR10

from gantrain.datasets import cifar10 as module
from gantrain.datasets.cifar10 import cifar10, read_batch
from gantrain.errors import DataError

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (5, 4, 3072), dtype=np.uint8)
LABELS = RNG.integers(0, 10, (5, 4))


def write(folder: Path, **changes: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(5):
        batch = {"batch_label": f"batch {i}", "labels": LABELS[i].tolist(), "data": PIXELS[i], "filenames": ["x"] * 4}
        (folder / f"data_batch_{i + 1}").write_bytes(pickle.dumps(batch | changes, protocol=2))


def python2_pickle(data: np.ndarray, labels: list[int]) -> bytes:
    """Pickle a batch as cPickle of Python 2 did: str is a byte string (opcodes U, T), and numpy is in numpy.core."""

    def string(text: bytes) -> bytes:
        return b"U" + bytes([len(text)]) + text if len(text) < 256 else b"T" + len(text).to_bytes(4, "little") + text

    def integer(value: int) -> bytes:
        return b"J" + value.to_bytes(4, "little", signed=True)

    dtype = b"cnumpy\ndtype\n" + string(b"u1") + integer(0) + integer(1) + b"\x87R"
    dtype += b"(" + integer(3) + string(b"|") + b"NNN" + integer(-1) + integer(-1) + integer(0) + b"tb"
    array = b"cnumpy.core.multiarray\n_reconstruct\n" + b"cnumpy\nndarray\n" + integer(0) + b"\x85" + string(b"b")
    array += b"\x87R(" + integer(1) + integer(data.shape[0]) + integer(data.shape[1]) + b"\x86" + dtype
    array += b"\x89" + string(data.tobytes()) + b"tb"
    listed = b"](" + b"".join(map(integer, labels)) + b"e"
    return b"\x80\x02}(" + string(b"data") + array + string(b"labels") + listed + b"u."


def load(root: Path, *, image_size: int | None = None, download: bool = False):
    return cifar10(root=str(root), download=download, image_size=image_size, cache_dir=str(root / "cache"))


def test_native_size(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    write(tmp_path / "cifar-10-batches-py")
    dataset = load(tmp_path)
    assert torch.equal(dataset.images, torch.from_numpy(PIXELS.reshape(20, 3, 32, 32)))
    assert dataset.labels.tolist() == LABELS.flatten().tolist()
    assert (dataset.name, dataset.num_classes, dataset.image_shape) == ("cifar10", 10, (3, 32, 32))
    assert "data_batch_1, data_batch_2" in caplog.text
    assert "differ from the published pixels" in caplog.text


def test_published_pixels_give_no_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch):
    write(tmp_path / "cifar-10-batches-py")
    for i in range(5):
        rows = b"".join(bytes([y]) + x.tobytes() for x, y in zip(PIXELS[i], LABELS[i], strict=True))
        monkeypatch.setitem(module._SHA256, f"data_batch_{i + 1}", hashlib.sha256(rows).hexdigest())
    with caplog.at_level(logging.WARNING):
        load(tmp_path)
    assert not caplog.records


def test_pickles_of_python2_are_read(tmp_path: Path):
    (tmp_path / "batch").write_bytes(python2_pickle(PIXELS[0], LABELS[0].tolist()))
    images, labels = read_batch(tmp_path / "batch")
    np.testing.assert_array_equal(images, PIXELS[0].reshape(4, 3, 32, 32))
    np.testing.assert_array_equal(labels, LABELS[0])


def test_resized_pixels_equal_pillow(tmp_path: Path):
    write(tmp_path / "cifar-10-batches-py")
    found = load(tmp_path, image_size=48).images[5].numpy()
    image = Image.fromarray(PIXELS[1, 1].reshape(3, 32, 32).transpose(1, 2, 0))
    expected = np.asarray(image.resize((48, 48), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    np.testing.assert_array_equal(found, expected)


class Command:
    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


def test_a_pickle_cannot_run_a_command(tmp_path: Path):
    marker = tmp_path / "ran"
    write(tmp_path / "cifar-10-batches-py", filenames=Command(marker))
    with pytest.raises(DataError, match=r"data_batch_1 asks for \w+\.system, .* no code was run"):
        load(tmp_path)
    assert not marker.exists()


def test_a_pickle_cannot_choose_a_codec(tmp_path: Path):
    (tmp_path / "batch").write_bytes(b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x05\x00\x00\x00rot13\x86R.")
    with pytest.raises(DataError, match=r"batch is not a batch .*an encoding other than latin1"):
        read_batch(tmp_path / "batch")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": PIXELS[0][:, :100]}, r"data_batch_1: the pixels must be uint8 \(n, 3072\), not uint8 \(4, 100\)"),
        ({"data": PIXELS[0].astype(np.int16)}, "not int16"),
        ({"data": [1, 2]}, "not list"),
        ({"labels": [0, 1, 2]}, r"labels of shape \(3,\) for 4 images"),
        ({"labels": [0, 1, 2, 10]}, "the label 10"),
        ({"labels": [0, 1, 2, -1]}, "the label -1"),
        ({"labels": ["a"] * 4}, "whole numbers"),
    ],
)
def test_wrong_content_is_named(tmp_path: Path, changes: dict[str, object], message: str):
    write(tmp_path / "cifar-10-batches-py", **changes)
    with pytest.raises(DataError, match=message):
        load(tmp_path)


@pytest.mark.parametrize("content", [b"", b"<html>", pickle.dumps({"data": 1}), pickle.dumps([1])], ids=range(4))
def test_files_that_are_not_batches_are_refused(tmp_path: Path, content: bytes):
    (tmp_path / "batch").write_bytes(content)
    with pytest.raises(DataError, match="batch is not a batch of CIFAR-10"):
        read_batch(tmp_path / "batch")


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["u1", "<i2", ">i8"])
def test_labels_may_be_an_array(tmp_path: Path, dtype: str, order: str):
    batch = {"data": np.asarray(PIXELS[0], order=order), "labels": LABELS[0].astype(dtype)}
    for protocol in range(5):
        (tmp_path / "batch").write_bytes(pickle.dumps(batch, protocol=protocol))
        images, labels = read_batch(tmp_path / "batch")
        np.testing.assert_array_equal(images, PIXELS[0].reshape(4, 3, 32, 32))
        assert (labels.tolist(), labels.dtype) == (LABELS[0].tolist(), np.int64)


def test_large_files_are_not_read(tmp_path: Path):
    with (tmp_path / "batch").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(
        DataError, match=r"batch cannot be read: it takes 1,099,511,627,776 bytes, more than 67,108,864"
    ):
        read_batch(tmp_path / "batch")


def test_missing_files_are_an_error(tmp_path: Path):
    with pytest.raises(DataError, match=r"data_batch_5 .* in .*cifar-10-batches-py.*dataset\.download=true"):
        load(tmp_path)


def test_failed_download_names_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(CIFAR10, "url", "http://127.0.0.1:9/cifar-10-python.tar.gz")
    with pytest.raises(DataError, match=r"The download failed .*refused"):
        load(tmp_path, download=True)


def test_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, serve):
    write(tmp_path / "made" / "cifar-10-batches-py")
    archive = tmp_path / "cifar-10-python.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(tmp_path / "made" / "cifar-10-batches-py", "cifar-10-batches-py")
    monkeypatch.setattr(CIFAR10, "url", f"{serve(tmp_path)}{archive.name}")
    monkeypatch.setattr(CIFAR10, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())
    assert load(tmp_path / "root", download=True).num_images == 20
    assert load(tmp_path / "root").num_images == 20
