"""Broken and hostile data give a valid dataset or a one-line error that names the file, and no code in them runs."""

import gzip
import io
import os
import pickle
import random
import resource
import socket
import stat
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, features

from gantrain.datasets import image_files, walk
from gantrain.datasets.base import ImageDataset
from gantrain.datasets.celeba import celeba
from gantrain.datasets.cifar10 import cifar10
from gantrain.datasets.image_files import open_image_files
from gantrain.datasets.image_folder import image_folder
from gantrain.datasets.images import BadImageError
from gantrain.datasets.mnist import fashion_mnist, mnist
from gantrain.errors import ConfigError, DataError

pytestmark = [pytest.mark.timeout(30), pytest.mark.filterwarnings("ignore")]
SIZE = 8
RNG = np.random.default_rng(0)
COLORS = RNG.integers(0, 256, (20, 24, 3), dtype=np.uint8)


def load_or_message(load: Callable[[], ImageDataset], named: str, image_shape: tuple[int, ...]) -> ImageDataset | str:
    """Return a valid, prepared dataset, or the message of an error that names the file; raise all other errors."""
    try:
        dataset = load()
        dataset.prepare()
    except (DataError, ConfigError) as error:
        message = str(error)
        assert named in message
        assert "\n" not in message
        assert len(message) < 2000
        return message
    assert dataset.images.dtype == torch.uint8
    assert tuple(dataset.images.shape) == (dataset.num_images, *image_shape)
    assert dataset.num_images > 0
    assert int(dataset.images.sum(dtype=torch.int64)) >= 0  # every page can be read
    if dataset.labels is not None:
        assert (dataset.labels.dtype, dataset.labels.shape) == (torch.int64, (dataset.num_images,))
        assert 0 <= int(dataset.labels.min()) <= int(dataset.labels.max()) < (dataset.num_classes or 0)
    return dataset


def damaged_versions(content: bytes, *, num_cuts: int, num_flips: int, seed: str) -> Iterator[tuple[str, bytes]]:
    """Truncate the content, and change one or eight of its bytes, at positions that depend only on the seed."""
    draw = random.Random(seed)
    for at in sorted(draw.sample(range(1, len(content)), num_cuts)):
        yield f"cut-{at}", content[:at]
    for k in range(num_flips):
        changed = bytearray(content)
        positions = draw.sample(range(min(len(content), 64 if k % 2 else len(content))), 8 if k % 3 == 0 else 1)
        for at in positions:
            changed[at] ^= draw.randrange(1, 256)
        yield f"flip-{positions[0]}-{k}", bytes(changed)


def damage_params(valid: Mapping[str, bytes], *, num_cuts: int, num_flips: int) -> list:
    return [
        pytest.param(kind, content, id=f"{kind}-{name}")
        for kind, whole in valid.items()
        for name, content in damaged_versions(whole, num_cuts=num_cuts, num_flips=num_flips, seed=kind)
    ]


def params(kinds: Mapping[str, object]) -> list:
    return [pytest.param(content, id=kind) for kind, content in kinds.items()]


# Images ---------------------------------------------------------------------------------------------------------------


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def with_exif() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "a description"
    return encoded(Image.fromarray(COLORS), "JPEG", exif=exif)


RGB = Image.fromarray(COLORS)
FRAMES = [Image.fromarray(np.roll(COLORS, k, 0)) for k in range(3)]
VALID_IMAGES = {
    "png": encoded(RGB, "PNG"),
    "png.palette": encoded(RGB.quantize(16), "PNG", transparency=3),
    "png.deep": encoded(Image.fromarray(COLORS[..., 0].astype(np.uint16) * 257), "PNG"),
    "png.animated": encoded(FRAMES[0], "PNG", save_all=True, append_images=FRAMES[1:]),
    "jpg": encoded(RGB, "JPEG"),
    "jpg.progressive": encoded(RGB, "JPEG", progressive=True),
    "jpg.cmyk": encoded(RGB.convert("CMYK"), "JPEG"),
    "jpg.exif": with_exif(),
    "webp": encoded(RGB, "WEBP"),
    "webp.lossless": encoded(RGB, "WEBP", lossless=True),
    "webp.animated": encoded(FRAMES[0], "WEBP", save_all=True, append_images=FRAMES[1:]),
    "gif.animated": encoded(FRAMES[0], "GIF", save_all=True, append_images=FRAMES[1:]),
    "bmp": encoded(RGB, "BMP"),
    "tiff": encoded(RGB, "TIFF"),
    "tif.lzw": encoded(RGB, "TIFF", compression="tiff_lzw", dpi=(72, 72)),
    "ppm": encoded(RGB, "PPM"),
    **({"avif": encoded(RGB, "AVIF", quality=90)} if features.check("avif") else {}),
}


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_with(*chunks: bytes) -> bytes:
    whole = VALID_IMAGES["png"]
    return whole[:33] + b"".join(chunks) + whole[33:]


def png_of(width: int, height: int, depth: int = 8, color: int = 2) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


def jpeg_of(width: int, height: int) -> bytes:
    content = bytearray(VALID_IMAGES["jpg"])
    at = content.index(b"\xff\xc0") + 5
    content[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(content)


def jpeg_of_scans(num: int) -> bytes:
    content = VALID_IMAGES["jpg.progressive"]
    start = content.rindex(b"\xff\xda")
    return content[:start] + content[start:-2] * num + content[-2:]


def tiff_with_tiles_of(side: int) -> bytes:
    entries = [
        (256, 9),
        (257, 9),
        (258, 8),
        (259, 1),
        (262, 1),
        (277, 1),
        (322, side),
        (323, side),
        (324, 8),
        (325, 99),
    ]
    directory = b"".join(struct.pack("<HHLL", tag, 4, 1, value) for tag, value in entries)
    return struct.pack("<2sHLH", b"II", 42, 8, len(entries)) + directory + bytes(200)


def gif_of(width: int, height: int) -> bytes:
    content = bytearray(VALID_IMAGES["gif.animated"])
    content[6:10] = struct.pack("<HH", width, height)
    return bytes(content)


def riff(*chunks: tuple[bytes, bytes]) -> bytes:
    body = b"WEBP" + b"".join(kind + struct.pack("<I", len(content)) + content for kind, content in chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def webp_canvas(width: int, height: int) -> bytes:
    canvas = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    frames = VALID_IMAGES["webp.animated"]
    return frames[:24] + canvas + frames[30:]


BAD_IMAGES = {
    "empty": b"",
    "text": b"this is not an image",
    "html": b"<!doctype html><title>404</title>",
    "zeros": bytes(10_000),
    "ones": b"\xff" * 10_000,
    "pcx": encoded(RGB, "PCX"),
    "tiff-float": encoded(Image.fromarray(COLORS[..., 0].astype(np.float32)), "TIFF"),
    "tiff-tile-bomb": tiff_with_tiles_of(2**31 - 16),
    "gif-bomb": gif_of(65535, 65535),
    "ppm": b"P6 100000 100000 255\n" + bytes(100),
    "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(touch marker) (w) file\n",
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
    "png-signature": b"\x89PNG\r\n\x1a\n",
    "png-0x0": png_of(0, 0),
    "png-0x9": png_of(0, 9),
    "png-bomb": png_of(30_000, 30_000),
    "png-bomb-that-pillow-only-warns-of": png_of(10_000, 9_000),
    "png-widest": png_of(2**31 - 1, 2**31 - 1),
    "png-negative": png_of(2**32 - 1, 2**32 - 1),
    "png-long-and-thin": png_of(1, 80_000_000),
    "png-depth": png_of(9, 9, depth=7),
    "png-color": png_of(9, 9, color=5),
    "png-chunk-length": png_with(struct.pack(">I", 2**32 - 1) + b"tEXt"),
    "png-short-header": b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", bytes(4)),
    "png-no-pixels": png_of(20, 20)[:33] + chunk(b"IEND", b""),
    "jpeg-start": b"\xff\xd8",
    "jpeg-bomb": jpeg_of(65_000, 65_000),
    "jpeg-0x0": jpeg_of(0, 0),
    "jpeg-10000-scans": jpeg_of_scans(10_000),
    "jpeg-markers": b"\xff\xd8" + b"\xff\xe1\x00\x02" * 10_000,
    "webp-start": b"RIFF\xff\xff\xff\xffWEBP",
    "webp-canvas-bomb": webp_canvas(2**24, 255),
    "webp-canvas-square-bomb": webp_canvas(60_000, 60_000),
    "webp-canvas-wrong": webp_canvas(3, 3),
    "webp-lossless-bomb": riff((b"VP8L", b"\x2f" + struct.pack("<I", 0x3FFF | 0x3FFF << 14) + bytes(100))),
    "webp-lossy-bomb": riff((b"VP8 ", b"\x10\x00\x00\x9d\x01\x2a" + struct.pack("<HH", 16383, 16383) + bytes(100))),
    "webp-no-chunks": riff(),
}
# Unusual, but valid.
UNUSUAL_IMAGES = {
    "png-text-bomb": png_with(chunk(b"zTXt", b"x\0\0" + zlib.compress(bytes(10**8)))),
    "png-international-text-bomb": png_with(chunk(b"iTXt", b"x\0\1\0\0\0" + zlib.compress(bytes(10**8)))),
    "png-orientation-bomb": png_with(chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(bytes(10**8)))),
    "png-many-texts": png_with(*[chunk(b"zTXt", b"x\0\0" + zlib.compress(bytes(2**20)))] * 70),
    "png-icc-bomb": png_with(chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(10**8)))),
    "png-icc-broken": png_with(chunk(b"iCCP", b"x\0\0broken")),
    "png-exif-broken": png_with(chunk(b"eXIf", b"II*\0" + b"\xff" * 100)),
    "png-exif-circle": png_with(chunk(b"eXIf", b"II*\0\x08\0\0\0\0\0\x08\0\0\0")),
    "png-unknown-chunk": png_with(chunk(b"abCD", bytes(10_000))),
    "png-trailing": VALID_IMAGES["png"] + bytes(10_000),
    "jpeg-trailing": VALID_IMAGES["jpg"] + b"\xff\xd8" * 1000,
    "jpeg-80-scans": jpeg_of_scans(80),
    **VALID_IMAGES,
}


def load_folder(root: Path, *, max_bad_fraction: float = 0.0) -> ImageDataset:
    return image_folder(
        root=str(root),
        labels="auto",
        image_size=SIZE,
        channels=3,
        cache_dir=str(root.parent / "cache"),
        max_bad_fraction=max_bad_fraction,
    )


def load_with_a_valid_image(tmp_path: Path, content: bytes, suffix: str) -> tuple[object, object]:
    """Load a valid image and this one, with a max_bad_fraction of 0 and of 0.5; return both results."""
    root = tmp_path / "photos"
    root.mkdir()
    (root / "a.png").write_bytes(VALID_IMAGES["png"])
    (root / f"broken.{suffix}").write_bytes(content)
    strict, lenient = (
        load_or_message(lambda f=fraction: load_folder(root, max_bad_fraction=f), f"broken.{suffix}", (3, SIZE, SIZE))
        for fraction in (0.0, 0.5)
    )
    assert isinstance(lenient, ImageDataset)
    expected = Image.open(io.BytesIO(VALID_IMAGES["png"])).resize((9, 8), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(lenient.images[0].numpy(), np.asarray(expected)[:, :8].transpose(2, 0, 1))
    if isinstance(strict, str):
        assert strict.startswith(f"1 of 2 images of {root} are bad: broken.{suffix} ")
        assert strict.endswith("leave them out with dataset.max_bad_fraction=0.5.")
    assert lenient.num_images == (1 if isinstance(strict, str) else 2)
    return strict, lenient


@pytest.mark.parametrize(("kind", "content"), damage_params(VALID_IMAGES, num_cuts=5, num_flips=7))
def test_damaged_images_are_read_or_named(tmp_path: Path, kind: str, content: bytes):
    load_with_a_valid_image(tmp_path, content, kind.split(".")[0])


@pytest.mark.parametrize("content", params(BAD_IMAGES))
def test_bad_images_are_named(tmp_path: Path, content: bytes):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    strict, _ = load_with_a_valid_image(tmp_path, content, "png")
    assert isinstance(strict, str)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # kB


@pytest.mark.parametrize("content", params(UNUSUAL_IMAGES))
def test_unusual_images_are_read(tmp_path: Path, content: bytes):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    _, lenient = load_with_a_valid_image(tmp_path, content, "webp")
    assert lenient.num_images == 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # kB


# Folders --------------------------------------------------------------------------------------------------------------


def make_pipe(path: Path) -> None:
    os.mkfifo(path)


def make_socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # paths of sockets are limited to about 100 bytes
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)


def link_to(target: str) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(target)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        pytest.param(make_pipe, "is not a regular file", id="pipe"),
        pytest.param(make_socket, "is not a regular file", id="socket"),
        pytest.param(link_to("/dev/zero"), "is not a regular file", id="device"),
        pytest.param(link_to("/nowhere/x.png"), r"cannot be read \(No such file", id="broken-link"),
        pytest.param(link_to("broken.png"), r"cannot be read \(Too many levels", id="link-to-itself"),
        pytest.param(link_to("a.png/x.png"), r"cannot be read \(Not a directory", id="link-through-a-file"),
    ],
)
def test_entries_that_are_not_regular_files_are_named(tmp_path: Path, make: Callable[[Path], None], reason: str):
    root = tmp_path / "photos"
    root.mkdir()
    (root / "a.png").write_bytes(VALID_IMAGES["png"])
    make(root / "broken.png")
    with pytest.raises(DataError, match=rf"1 of 2 images .*: broken\.png {reason}"):
        load_folder(root).prepare()
    dataset = load_folder(root, max_bad_fraction=0.5)
    dataset.prepare()
    assert dataset.num_images == 1


def replaced_by_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def replaced_by_holes(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(2**40)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (Path.unlink, "No such file"),
        (replaced_by_pipe, "it is not a regular file"),
        (replaced_by_holes, "it takes 1,099,511,627,776 bytes, more than 268,435,456"),
    ],
)
def test_file_that_changes_after_listing_is_named(tmp_path: Path, change: Callable[[Path], None], reason: str):
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(VALID_IMAGES["png"])
    files = open_image_files(tmp_path)
    change(tmp_path / "b.png")
    assert files.read(0) == VALID_IMAGES["png"]
    with pytest.raises(BadImageError, match=reason):
        files.read(1)


def test_folders_that_links_multiply_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(walk, "MAX_FOLDERS", 1000)
    for k in range(40):  # each folder has two links to the next one: 2**40 paths in all
        (tmp_path / f"{k}").mkdir()
        for name in "ab":
            (tmp_path / f"{k}/{name}").symlink_to(tmp_path / f"{k + 1}")
    with pytest.raises(DataError, match=r"dataset\.root=.*/0 leads into more than 1,000 folders"):
        open_image_files(tmp_path / "0")


def test_image_in_a_deeply_nested_folder_is_found(tmp_path: Path):
    deep = tmp_path.joinpath(*["d"] * 1500)
    try:
        for level in reversed([deep, *deep.parents][:1500]):
            level.mkdir(exist_ok=True)
        (deep / "a.png").write_bytes(VALID_IMAGES["png"])
        assert open_image_files(tmp_path).read(0) == VALID_IMAGES["png"]
    finally:  # pytest cannot remove folders that are nested so deeply
        subprocess.run(["rm", "-r", str(tmp_path / "d")], check=True)


@pytest.mark.parametrize("root", ["x" * 300, "x/" * 5000, "a\0b"], ids=["name", "path", "null"])
def test_invalid_root_paths_are_refused(tmp_path: Path, root: str):
    with pytest.raises(DataError, match=r"cannot be read|does not exist"):
        load_folder(tmp_path / root)


def test_file_names_are_escaped_in_messages(tmp_path: Path):
    root = tmp_path / "photos"
    root.mkdir()
    (root / "a.png").write_bytes(VALID_IMAGES["png"])
    (root / "\x1b[2J\nremoved\udcff.png").write_bytes(b"")
    with pytest.raises(DataError) as error:
        load_folder(root).prepare()
    assert str(error.value).isprintable()
    assert r": \x1b[2J removed\udcff.png is not a PNG" in str(error.value)


# Zips -----------------------------------------------------------------------------------------------------------------

Member = tuple[str | zipfile.ZipInfo, bytes]


def zipped(*members: Member, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return buffer.getvalue()


GOOD: tuple[Member, ...] = tuple((f"{name}.png", VALID_IMAGES["png"]) for name in ("cat/1", "cat/2", "dog/3"))
VALID_ZIPS = {
    "deflated": zipped(*GOOD),
    "stored": zipped(*GOOD, method=zipfile.ZIP_STORED),
    "prefixed": b"#!/bin/sh\n" + zipped(*GOOD),
}


def with_field(content: bytes, name: str, *, local: int, central: int, value: bytes) -> bytes:
    """Overwrite a field of the local and the central header of a member, at these offsets from their starts."""
    changed = bytearray(content)
    first = content.index(name.encode())
    for start, offset in ((first - 30, local), (content.index(name.encode(), content.index(b"PK\1\2")) - 46, central)):
        changed[start + offset : start + offset + len(value)] = value
    return bytes(changed)


BOMB = zipped(*GOOD, ("cat/bomb.png", bytes(10**7)))


def with_size(content: bytes, size: int) -> bytes:
    return with_field(content, "cat/bomb.png", local=22, central=24, value=struct.pack("<I", size))


def link(name: str, target: str) -> Member:
    info = zipfile.ZipInfo(name)
    info.create_system = 3
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info, target.encode()


def by_bzip2(name: str, content: bytes) -> Member:
    info = zipfile.ZipInfo(name)
    info.compress_type = zipfile.ZIP_BZIP2
    return info, content


def overlapping(num: int) -> bytes:
    """A zip with `num` directory entries that share one compressed member."""
    whole = zipped(("1000.png", bytes(10**6)))
    start, end = whole.index(b"PK\1\2"), whole.index(b"PK\5\6")
    table = b"".join(whole[start:end].replace(b"1000.png", b"%04d.png" % (1000 + k)) for k in range(num))
    return whole[:start] + table + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, num, num, len(table), start, 0)


def holding_itself() -> bytes:
    """A zip whose stored member spans the zip up to and including its own header, as in zip quines."""
    whole = bytearray(zipped(("self.png", bytes(100)), method=zipfile.ZIP_STORED))
    start = whole.index(b"PK\1\2")
    for at in (18, 22, start + 20, start + 24):
        whole[at : at + 4] = struct.pack("<I", len(whole))
    return bytes(whole)


# Zips with one bad member, and the message about it.
BAD_MEMBERS = {
    "absolute": (zipped(*GOOD, ("/etc/bad.png", b"")), "/etc/bad.png points outside the zip"),
    "up": (zipped(*GOOD, ("../bad.png", b"")), "../bad.png points outside the zip"),
    "up-inside": (zipped(*GOOD, ("cat/../../bad.png", b"")), "cat/../../bad.png points outside the zip"),
    "up-hidden": (zipped(*GOOD, ("cat/../bad.png", b"")), "cat/../bad.png points outside the zip"),
    "drive": (zipped(*GOOD, ("C:/bad.png", b"")), "C:/bad.png points outside the zip"),
    "drive-relative": (zipped(*GOOD, ("c:bad.png", b"")), "c:bad.png points outside the zip"),
    "backslash": (zipped(*GOOD, ("..\\bad.png", b"")), "..\\bad.png points outside the zip"),
    "backslash-absolute": (zipped(*GOOD, ("\\bad.png", b"")), "\\bad.png points outside the zip"),
    "share": (zipped(*GOOD, ("\\\\host\\share\\bad.png", b"")), "share\\bad.png points outside the zip"),
    "escape-with-a-sound-image": (zipped(*GOOD, ("../bad.png", VALID_IMAGES["png"])), "../bad.png points outside"),
    "link": (zipped(*GOOD, link("cat/bad.png", "/etc/passwd")), "cat/bad.png is a link"),
    "link-inside": (zipped(*GOOD, link("cat/bad.png", "1.png")), "cat/bad.png is a link"),
    "bomb": (BOMB, "cat/bomb.png is not a PNG"),
    "bomb-that-lies-low": (with_size(BOMB, 100), "cat/bomb.png cannot be unzipped (Bad CRC-32"),
    "bomb-that-lies-zero": (with_size(BOMB, 0), "cat/bomb.png cannot be unzipped (Bad CRC-32"),
    "bomb-that-lies-high": (with_size(BOMB, 10**8), "cat/bomb.png "),
    "bomb-that-boasts": (with_size(BOMB, 2**32 - 2), "cat/bomb.png takes 4,294,967,294 bytes, more than 268,435,456"),
    "encrypted": (
        with_field(zipped(*GOOD, ("cat/bad.png", b"x" * 50)), "cat/bad.png", local=6, central=8, value=b"\1\0"),
        "is encrypted, password required",
    ),
    **{
        f"method-{method}": (
            with_field(
                zipped(*GOOD, ("cat/bad.png", b"x" * 50)),
                "cat/bad.png",
                local=8,
                central=10,
                value=struct.pack("<H", method),
            ),
            f"cat/bad.png is compressed by method {method}, neither stored nor deflated",
        )
        for method in (1, 6, 9, 93, 99, 65535)
    },
    "bzip2-bomb": (
        zipped(*GOOD, by_bzip2("cat/bad.png", bytes(10**7))),
        "cat/bad.png is compressed by method 12",
    ),
    "crc": (
        with_field(zipped(*GOOD, ("cat/bad.png", b"x")), "cat/bad.png", local=14, central=16, value=b"abcd"),
        "cat/bad.png cannot be unzipped (Bad CRC-32",
    ),
    "other-name-inside": (
        zipped(*GOOD, ("cat/bad.png", b"x")).replace(b"cat/bad.png", b"cat/god.png", 1),
        "cat/bad.png cannot be unzipped (File name in directory",
    ),
    "terminal": (zipped(*GOOD, ("cat/\x1b[2J.png", b"")), r"cat/\x1b[2J.png is not a PNG"),
}


def load_zip(tmp_path: Path, content: bytes, *, max_bad_fraction: float = 0.0) -> ImageDataset | str:
    path = tmp_path / "photos.zip"
    path.write_bytes(content)
    return load_or_message(lambda: load_folder(path, max_bad_fraction=max_bad_fraction), "photos.zip", (3, SIZE, SIZE))


@pytest.mark.parametrize("kind", VALID_ZIPS)
def test_valid_zips_are_read(tmp_path: Path, kind: str):
    dataset = load_zip(tmp_path, VALID_ZIPS[kind])
    assert dataset.labels.tolist() == [0, 0, 1]


@pytest.mark.parametrize(("kind", "content"), damage_params(VALID_ZIPS, num_cuts=6, num_flips=14))
def test_damaged_zips_are_read_or_named(tmp_path: Path, kind: str, content: bytes):
    for fraction in (0.0, 1.0):
        load_zip(tmp_path, content, max_bad_fraction=fraction)


@pytest.mark.parametrize(
    ("kind", "content"),
    damage_params(
        {name: content[content.index(b"PK\1\2") :] for name, content in VALID_ZIPS.items()}, num_cuts=1, num_flips=9
    ),
)
def test_damaged_zip_directories_are_read_or_named(tmp_path: Path, kind: str, content: bytes):
    whole = VALID_ZIPS[kind]
    for fraction in (0.0, 1.0):
        load_zip(tmp_path, whole[: whole.index(b"PK\1\2")] + content, max_bad_fraction=fraction)


@pytest.mark.parametrize(("content", "reason"), BAD_MEMBERS.values(), ids=BAD_MEMBERS)
def test_bad_zip_members_are_named_and_counted(tmp_path: Path, content: bytes, reason: str):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    message = load_zip(tmp_path, content)
    assert isinstance(message, str)
    assert message.startswith(f"1 of 4 images of {tmp_path}/photos.zip are bad: ")
    assert reason in message
    assert load_zip(tmp_path, content, max_bad_fraction=0.2).startswith("1 of 4 images")
    assert load_zip(tmp_path, content, max_bad_fraction=0.25).labels.tolist() == [0, 0, 1]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB


def end_of(content: bytes, **changes: int) -> bytes:
    names = ("disk", "start_disk", "num_here", "num", "num_bytes", "offset", "comment")
    at = content.rindex(b"PK\5\6")
    fields = dict(zip(names, struct.unpack("<4H2LH", content[at + 4 : at + 22]), strict=True)) | changes
    return content[:at] + b"PK\5\6" + struct.pack("<4H2LH", *fields.values()) + content[at + 22 :]


BAD_ZIPS = {
    "empty": b"",
    "rar": b"Rar!\x1a\x07\x01\x00" + bytes(100),
    "tar": b"cat/1.png".ljust(257, b"\0") + b"ustar" + bytes(1000),
    "gzip": gzip.compress(bytes(1000)),
    "zeros": bytes(10_000),
    "no-members": zipped(),
    "no-name": zipped(("x", b"")).replace(b"x", b"\0"),
    "only-folders": zipped(("cat/", b"")),
    "only-text": zipped(("cat/readme.txt", b"x")),
    "end-alone": b"PK\5\6" + bytes(18),
    "table-too-long": end_of(VALID_ZIPS["deflated"], num_bytes=2**32 - 2),
    "table-beyond": end_of(VALID_ZIPS["deflated"], offset=2**32 - 2),
    "table-before": end_of(VALID_ZIPS["deflated"], offset=10**6),
    "zip64-without-it": end_of(VALID_ZIPS["deflated"], num_bytes=2**32 - 1, offset=2**32 - 1, num=65535),
    "zip64-locator-beyond": zipped(*GOOD)[:-22] + struct.pack("<4sLQL", b"PK\6\7", 0, 2**63, 1) + zipped(*GOOD)[-22:],
    "zip64-locator-of-disks": zipped(*GOOD)[:-22] + struct.pack("<4sLQL", b"PK\6\7", 7, 0, 9) + zipped(*GOOD)[-22:],
    "all-overlap": overlapping(200),
    "holds-itself": holding_itself(),
    "all-bombs": zipped(*[(f"{k}.png", bytes(10**6)) for k in range(20)]),
}


@pytest.mark.parametrize("content", params(BAD_ZIPS))
def test_bad_zips_are_named(tmp_path: Path, content: bytes):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert isinstance(load_zip(tmp_path, content, max_bad_fraction=1.0), str)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB


def test_overlapping_zip_entries_are_named(tmp_path: Path):
    message = load_zip(tmp_path, overlapping(200))
    assert message.startswith(f"199 of 200 images of {tmp_path}/photos.zip are bad: ") or "200 of 200" in message
    assert "1000.png overlaps the next entry of the zip" in message


def test_size_of_the_zip_directory_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    content = zipped(*[(f"{k}.png", b"") for k in range(1000)])
    monkeypatch.setattr(image_files, "MAX_DIRECTORY_BYTES", 50_000)
    assert "its directory takes more than 50,000 bytes" in load_zip(tmp_path, content)
    assert "1,000 of 1,000 images" not in load_zip(tmp_path, content)
    monkeypatch.setattr(image_files, "MAX_DIRECTORY_BYTES", 60_000)
    assert "1,000 of 1,000 images" in load_zip(tmp_path, content)


def test_pipe_named_like_a_zip_is_refused(tmp_path: Path):
    os.mkfifo(tmp_path / "photos.zip")
    with pytest.raises(
        DataError, match=r"photos\.zip is neither a folder nor a readable zip \(it is not a regular file\)"
    ):
        load_folder(tmp_path / "photos.zip")


@pytest.mark.parametrize("kind", ["absolute", "link", "bomb-that-lies-low", "encrypted"])
def test_celeba_names_bad_zip_members(tmp_path: Path, kind: str):
    content, reason = BAD_MEMBERS[kind]
    (tmp_path / "img_align_celeba.zip").write_bytes(content)
    settings: dict[str, Any] = {"download": False, "attributes": None, "image_size": SIZE, "crop": None}
    settings |= {"cache_dir": str(tmp_path / "cache")}
    dataset = celeba(root=str(tmp_path), max_bad_fraction=0.2, **settings)
    with pytest.raises(DataError, match=r"1 of 4 images of .*img_align_celeba\.zip are bad") as error:
        dataset.prepare()
    assert reason in str(error.value)
    assert isinstance(
        load_or_message(lambda: celeba(root=str(tmp_path), max_bad_fraction=0.25, **settings), "", (3, SIZE, SIZE)),
        ImageDataset,
    )


# IDX ------------------------------------------------------------------------------------------------------------------


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


DIGITS = idx(RNG.integers(0, 256, (30, 28, 28), dtype=np.uint8))
LABELS = idx((np.arange(30) % 10).astype(np.uint8))
VALID_IDX = {
    "images": DIGITS,
    "images.gz": gzip.compress(DIGITS, mtime=0),
    "labels": LABELS,
    "labels.gz": gzip.compress(LABELS, mtime=0),
}


def load_mnist(tmp_path: Path, kind: str, content: bytes, function: Callable[..., ImageDataset] = mnist):
    folder = tmp_path / {mnist: "MNIST", fashion_mnist: "FashionMNIST"}[function] / "raw"
    folder.mkdir(parents=True)
    names = {"images": "train-images-idx3-ubyte", "labels": "train-labels-idx1-ubyte"}
    for what, whole in (("images", DIGITS), ("labels", LABELS)):
        (folder / names[what]).write_bytes(whole)
    what, _, suffix = kind.partition(".")
    (folder / names[what]).unlink()
    broken = folder / (names[what] + (suffix and f".{suffix}"))
    broken.write_bytes(content)
    options = {"download": False, "image_size": None, "cache_dir": str(tmp_path / "cache")}
    return load_or_message(lambda: function(root=str(tmp_path), **options), str(folder), (1, 28, 28))


@pytest.mark.parametrize(("kind", "content"), damage_params(VALID_IDX, num_cuts=6, num_flips=9))
def test_damaged_idx_files_are_read_or_named(tmp_path: Path, kind: str, content: bytes):
    found = load_mnist(tmp_path, kind, content)
    if len(content) < len(VALID_IDX[kind]):
        assert f"train-{kind.split('.')[0]}-idx" in found


def header(*dims: int, magic: bytes = b"\0\0\x08") -> bytes:
    return magic + bytes([len(dims)]) + struct.pack(f">{len(dims)}I", *dims)


BAD_IDX = {
    "empty": b"",
    "html": b"<html>404 Not Found</html>",
    "pickle": pickle.dumps([1, 2, 3]),
    "magic": header(30, 28, 28, magic=b"\0\1\x08") + bytes(30 * 784),
    "floats": header(30, 28, 28, magic=b"\0\0\x0d") + bytes(4 * 30 * 784),
    "no-dims": header() + bytes(100),
    "255-dims": header(*[1] * 255) + b"x",
    "zero-dim": header(30, 0, 28),
    "zero-images": header(0, 28, 28),
    "overflow-32": header(2**16, 2**16, 1) + bytes(100),
    "overflow-64": header(2**32 - 1, 2**32 - 1, 2**32 - 1) + bytes(100),
    "just-too-large": header(2**11, 2**10, 2**10 + 1) + bytes(100),
    "largest": header(2**11, 2**10, 2**10) + bytes(100),
    "trailing": DIGITS + b"x",
    "trailing-gigabytes": DIGITS + bytes(10**7),
    "two-dims": idx(np.ones((30, 784), np.uint8)),
    "four-dims": idx(np.ones((30, 28, 28, 1), np.uint8)),
    "gzip-in-gzip": gzip.compress(gzip.compress(DIGITS)),
    "gzip-header": b"\x1f\x8b",
    "gzip-method": b"\x1f\x8b\x07" + bytes(20),
    "gzip-name-without-end": b"\x1f\x8b\x08\x08" + b"x" * 10_000,
    "gzip-crc": gzip.compress(DIGITS)[:-8] + bytes(8),
    "gzip-length": gzip.compress(DIGITS)[:-4] + bytes(4),
    "gzip-then-rubbish": gzip.compress(DIGITS) + b"rubbish",
    "gzip-twice": gzip.compress(DIGITS) * 2,
    "gzip-bomb": gzip.compress(DIGITS + bytes(10**8)),
    "gzip-bomb-with-its-size": gzip.compress(header(2**20, 2**10, 2**10) + bytes(10**8)),
}


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("content", params(BAD_IDX))
def test_bad_idx_files_are_named(tmp_path: Path, content: bytes, suffix: str):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert f"train-images-idx3-ubyte{suffix}" in load_mnist(tmp_path, f"images{suffix}", content, fashion_mnist)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB


# Pickles --------------------------------------------------------------------------------------------------------------

PIXELS = RNG.integers(0, 256, (4, 3072), dtype=np.uint8)
BATCH = {"batch_label": "a batch", "labels": [0, 1, 2, 9], "data": PIXELS, "filenames": ["a", "b", "c", "d"]}
VALID_PICKLES = {f"protocol-{protocol}": pickle.dumps(BATCH, protocol=protocol) for protocol in range(5)}


def load_cifar10(tmp_path: Path, content: bytes) -> ImageDataset | str:
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for k in range(1, 6):
        (folder / f"data_batch_{k}").write_bytes(content if k == 3 else VALID_PICKLES["protocol-2"])
    options = {"download": False, "image_size": None, "cache_dir": str(tmp_path / "cache")}
    return load_or_message(lambda: cifar10(root=str(tmp_path), **options), str(folder / "data_batch_3"), (3, 32, 32))


@pytest.mark.parametrize("kind", VALID_PICKLES)
def test_valid_pickles_are_read(tmp_path: Path, kind: str):
    images = load_cifar10(tmp_path, VALID_PICKLES[kind]).images
    np.testing.assert_array_equal(images.numpy().reshape(5, 4, 3072), np.stack([PIXELS] * 5))


@pytest.mark.parametrize(("kind", "content"), damage_params(VALID_PICKLES, num_cuts=6, num_flips=16))
def test_damaged_pickles_are_read_or_named(tmp_path: Path, kind: str, content: bytes):
    found = load_cifar10(tmp_path, content)
    assert isinstance(found, str) or len(content) == len(VALID_PICKLES[kind])


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def call(function: str, *arguments: bytes) -> bytes:
    module, name = function.rsplit(" ", 1)
    return f"c{module}\n{name}\n(".encode() + b"".join(arguments) + b"tR"


def listed(*values: str) -> bytes:
    return b"](" + b"".join(map(text, values)) + b"e"


def hostile_opcodes(marker: str) -> dict[str, bytes]:
    """Return opcodes that create the file `marker` if pickle.loads runs them, and leave an object on the stack."""
    command, argv, code = text(f"touch {marker}"), listed("touch", marker), text(f"open({marker!r}, 'w').close()")
    os_module = call("builtins __import__", text("os"))
    inner = b"cos\nsystem\n(" + command + b"tR."
    return {
        "posix.system": call("posix system", command),
        "os.system": call("os system", command),
        "os.popen": call("os popen", command),
        "os.posix_spawn": call("os posix_spawn", text("/bin/touch"), argv, b"}"),
        "subprocess.call": call("subprocess call", argv),
        "subprocess.run": call("subprocess run", argv),
        "subprocess.Popen": call("subprocess Popen", argv),
        "subprocess.getoutput": call("subprocess getoutput", command),
        "builtins.eval": call("builtins eval", code),
        "builtins.exec": call("builtins exec", code),
        "builtins.getattr": call("builtins getattr", os_module, text("system"))[:-1] + b"R(" + command + b"tR",
        "builtins.open": call("builtins open", text(marker), text("w")),
        "io.open": call("_io open", text(marker), text("w")),
        "codecs.open": call("codecs open", text(marker), text("w")),
        "runpy": call("runpy _run_code", code, b"}"),
        "operator.attrgetter": call("operator attrgetter", text("system"))
        + b"(" + os_module + b"tR(" + command + b"tR",
        "operator.methodcaller": call("operator methodcaller", text("system"), command) + b"(" + os_module + b"tR",
        "functools.partial": call("functools partial", b"cos\nsystem\n", command) + b")R",
        "map-in-a-list": call("builtins list", call("builtins map", b"cos\nsystem\n", b"](" + command + b"e")),
        "pickle-in-pickle": call("_pickle loads", b"B" + struct.pack("<I", len(inner)) + inner),
        "inst": b"(" + command + b"ios\nsystem\n",
        "inst-of-a-class": b"(" + argv + b"isubprocess\nPopen\n",
        "obj": b"(cos\nsystem\n" + command + b"o",
        "obj-of-a-class": b"(csubprocess\nPopen\n" + argv + b"o",
        "stack-global": text("os") + text("system") + b"\x93(" + command + b"tR",
        "dotted-name": text("subprocess") + text("os.system") + b"\x93(" + command + b"tR",
        "dotted-method": text("pathlib") + text("Path.touch") + b"\x93(" + call("pathlib Path", text(marker)) + b"tR",
        "memo": b"cos\nsystem\nq\x050" + command + b"q\x060h\x05(h\x06tR",
        "memo-in-text": b"cos\nsystem\np12345\n0g12345\n(" + command + b"tR",
        "long-memo": b"cos\nsystem\nr\x00\x10\x00\x000j\x00\x10\x00\x00(" + command + b"tR",
        "extension": call("copyreg add_extension", text("os"), text("system"), b"K\xf0")
        + b"0\x82\xf0("
        + command
        + b"tR",
        "newobj-metaclass": call("builtins type", text("T"), b")", b"}(" + text("__setstate__") + b"cos\nsystem\nu")
        + b")\x81"
        + command
        + b"b",
        "build-slots": call("builtins type", text("T"), b")", b"}")
        + b"N}(" + text("__setstate__") + b"cos\nsystem\nu\x86b)\x81" + command + b"b",
        "numpy.runstring": call("numpy.testing._private.utils runstring", code, b"}"),
        "numpy.f2py": call("numpy.f2py.crackfortran myeval", code),
    }  # fmt: skip


def incomplete_opcodes(marker: str) -> dict[str, bytes]:
    """Return hostile opcodes that pickle.loads cannot run alone: they need persistent_load, a file or a registry."""
    return {
        "python-2-name": call("__builtin__ eval", text(f"open({marker!r}, 'w')")),
        "persistent-id": b"Pos.system\n",
        "binary-persistent-id": text(f"touch {marker}") + b"Q",
        "extension-1": b"\x82\x01",
        "extension-2": b"\x83\x01\x00",
        "extension-4": b"\x84\x01\x00\x00\x00",
        "torch.load": call("torch load", text(marker)),
        "torch-storage": call("torch.storage _load_from_bytes", b"B\x04\x00\x00\x00abcd"),
        "torch-rebuild": call("torch._utils _rebuild_tensor_v2", b"NK\x00)))N"),
        "numpy.load": call("numpy load", text(marker), b"N\x88"),
        "numpy.fromfile": call("numpy fromfile", text(marker)),
        "numpy.memmap": call("numpy memmap", text(marker), text("u1"), text("w+"), b"K\x00K\x09"),
        "numpy-method": text("numpy") + text("ndarray.tofile") + b"\x93)R",
        "numpy-module": text("numpy.core.multiarray") + text("_reconstruct.__globals__") + b"\x93",
        "codec": call("_codecs encode", text("x"), text("rot13")),
        "codec-of-a-module": call("_codecs encode", text("x"), text("os")),
        "codec-lookup": call("_codecs lookup", text("os")),
        "codec-register": call("_codecs register", b"cos\nsystem\n"),
        "copyreg": call("copyreg _reconstructor", b"csubprocess\nPopen\n", b"cbuiltins\nobject\n", b"N"),
        "newobj": b"csubprocess\nPopen\n)\x81",
        "newobj-ex": b"csubprocess\nPopen\n)}\x92",
        "no-text-names": b"K\x01K\x02\x93",
        "tuple-names": b"))\x93",
        "relative": b"c..os\nsystem\n",
        "empty-names": b"c\n\n",
    }


OPCODE_KINDS = [*hostile_opcodes(""), *incomplete_opcodes("")]


def opcodes(kind: str, marker: Path) -> bytes:
    return (hostile_opcodes(str(marker)) | incomplete_opcodes(str(marker)))[kind]


@pytest.mark.parametrize("embedded", [False, True], ids=["alone", "in-a-batch"])
@pytest.mark.parametrize("kind", OPCODE_KINDS)
def test_pickles_run_no_code(tmp_path: Path, kind: str, embedded: bool):
    marker = tmp_path / "marker"
    rest = b"0" + VALID_PICKLES["protocol-4"][2:] if embedded else b"."
    message = load_cifar10(tmp_path, b"\x80\x04" + opcodes(kind, marker) + rest)
    assert isinstance(message, str)
    assert not marker.exists()


def test_plain_pickle_runs_the_hostile_opcodes(tmp_path: Path):
    """A control of the test above, in a separate process: plain pickle does run the code in these pickles."""
    pickles = {kind: b"\x80\x04" + content + b"." for kind, content in hostile_opcodes("MARKER").items()}
    program = """
import os, pickle, sys, time
inert = []
for kind, content in pickle.load(sys.stdin.buffer).items():
    try:
        kept = pickle.loads(content)
    except Exception:
        pass
    deadline = time.monotonic() + 5
    while not os.path.exists("MARKER") and time.monotonic() < deadline:
        time.sleep(0.01)
    try:
        os.remove("MARKER")
    except FileNotFoundError:
        inert.append(kind)
sys.stderr.write(repr(inert))
"""
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], input=pickle.dumps(pickles), cwd=tmp_path, capture_output=True
    )
    assert ran.stderr.decode() == "[]"


def nested(deep: int) -> bytes:
    """A tuple of two references to a tuple of two references to ...: few opcodes, 2**deep leaves."""
    return b")" + b"q\x01h\x01\x86" * deep


def array(shape: bytes, dtype: str, content: bytes, *, state: bytes = b"") -> bytes:
    """The pickle of a numpy array, with these opcodes for its shape and content."""
    kind = call("numpy dtype", text(dtype), b"K\x00K\x01") + state
    empty = call("numpy.core.multiarray _reconstruct", b"cnumpy\nndarray\n", b"K\x00\x85", b"C\x01b")
    return empty + b"(K\x01" + shape + kind + b"\x89" + content + b"tb"


def batch(data: bytes = b"N", labels: bytes = b"N") -> bytes:
    return b"}(" + text("data") + data + text("labels") + labels + b"u"


HUGE, VALID_DATA = b"\x8a\x05\x00\x00\x00\x00\x10", array(b"K\x01M\x00\x0c\x86", "u1", b"B\0\x0c\0\0" + bytes(3072))
OBJECT_STATE = b"(K\x03" + text("|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x3ftb"
BAD_PICKLES = {
    "empty": b"",
    "stop": b".",
    "mark": b"(.",
    "marks": b"(" * 100_000 + b".",
    "pop": b"0.",
    "protocol-255": b"\x80\xff.",
    "none": b"N.",
    "wrong-keys": b"}" + text("x") + b"Ns.",
    "unknown-opcode": b"\xff.",
    "memo-of-gigabytes": b"Nr\xff\xff\xff\x7f.",
    "memo-not-there": b"h\x07.",
    "bytes-of-terabytes": b"\x8e" + struct.pack("<Q", 2**42) + b"x.",
    "bytes-of-more": b"\x8e" + struct.pack("<Q", 2**64 - 1) + b"x.",
    "text-of-terabytes": b"\x8d" + struct.pack("<Q", 2**42) + b"x.",
    "bytearray-of-terabytes": b"\x80\x05\x96" + struct.pack("<Q", 2**42) + b"x.",
    "frame-of-terabytes": b"\x80\x04\x95" + struct.pack("<Q", 2**42) + b"N.",
    "negative-length": b"T\xff\xff\xff\xffx.",
    "number-of-gigabytes": b"\x8b\xff\xff\xff\x7f\x01.",
    "number-of-a-million-digits": b"I" + b"9" * 10**6 + b"\n.",
    "buffer": b"\x80\x05\x97.",
    "lists": b"]" * 10**6 + b".",
    "deep-tuple": b")" + b"\x85" * 10**6 + b".",
    "deep-list": b"]" * 10**5 + b"a" * (10**5 - 1) + b".",
    "deep-labels": batch(VALID_DATA, b"]" * 10**5 + b"a" * (10**5 - 1)) + b".",
    "list-of-itself": b"]q\x01h\x01a.",
    "labels-of-themselves": batch(VALID_DATA, b"]q\x01h\x01a") + b".",
    "labels-doubled-60-times": batch(VALID_DATA, b"]" + b"q\x01](h\x01h\x01e" * 60) + b".",
    "key-doubled-60-times": b"}" + nested(60) + b"Ns.",
    "keys-doubled-60-times": b"}(" + nested(60) + b"Nu.",
    "dict-key-doubled-60-times": b"(" + nested(60) + b"Nd.",
    "set-doubled-60-times": b"\x8f(" + nested(60) + b"\x90.",
    "codec-doubled-60-times": call("_codecs encode", text("x"), nested(60)) + b".",
    "encoded-doubled-60-times": call("_codecs encode", nested(60), text("latin1")) + b".",
    "dtype-doubled-60-times": call("numpy dtype", nested(60), b"K\x00K\x01") + b".",
    "byte-order-doubled-60-times": call("numpy dtype", text("u1"), b"NN") + b"N" + nested(60) + b"\x86b.",
    "array-allocated": call("numpy ndarray", HUGE + b"\x85") + b".",
    "array-reconstructed": call("numpy.core.multiarray _reconstruct", b"cnumpy\nndarray\n", HUGE + b"\x85N") + b".",
    "array-larger-than-its-content": batch(array(b"J\xff\xff\xff\x7fM\x00\x0c\x86", "u1", b"C\x01x"), b"]") + b".",
    "array-negative": batch(array(b"J\xff\xff\xff\xffM\x00\x0c\x86", "u1", b"C\x01x"), b"]") + b".",
    "array-doubled-60-times": batch(array(nested(60), "u1", b"C\x01x"), b"]") + b".",
    "array-without-state": batch(call("numpy ndarray", b"NNN"), b"]") + b".",
    "array-in-itself": call("numpy ndarray", b"NNN") + b"q\x01h\x01b.",
    "array-of-objects": batch(array(b"K\x01\x85", "O8", b"](Ne"), b"]") + b".",
    "array-of-pointers": batch(array(b"K\x01\x85", "u8", b"C\x08AAAAAAAA", state=OBJECT_STATE), b"]") + b".",
    "array-of-gigabytes-each": batch(array(b"K\x01\x85", "V2147483647", b"C\x01x"), b"]") + b".",
    "array-of-fields": batch(array(b"K\x01\x85", "u1," * 1000, b"C\x01x"), b"]") + b".",
    "class-with-a-state": b"cnumpy\nndarray\n}(" + text("x") + b"Nub.",
    "function-with-a-state": b"c_codecs\nencode\nN}(" + text("__code__") + b"Nu\x86b.",
    "labels-too-large": batch(VALID_DATA, b"](\x8b\xff\x00\x00\x00" + b"\x7f" * 255 + b"e") + b".",
    "labels-missing": batch(VALID_DATA, b"]") + b".",
    "labels-true": batch(VALID_DATA, b"](\x88e") + b".",
    "labels-float": batch(VALID_DATA, b"](G" + bytes(8) + b"e") + b".",
    "no-images": batch(array(b"K\x00M\x00\x0c\x86", "u1", b"C\x00"), b"]") + b".",
}  # fmt: skip


@pytest.mark.parametrize("content", params(BAD_PICKLES))
def test_bad_pickles_are_named(tmp_path: Path, content: bytes):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert isinstance(load_cifar10(tmp_path, content), str)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB


def test_pickle_that_copies_a_string_many_times_uses_little_memory(tmp_path: Path):
    again = b"c_codecs\nencode\n(h\x01h\x02tR"
    content = text("x" * 10**6) + b"q\x010" + text("latin1") + b"q\x020](" + again * 2000 + b"e."
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert isinstance(load_cifar10(tmp_path, content), str)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB, not 2 GB
