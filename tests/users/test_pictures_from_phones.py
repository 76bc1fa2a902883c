"""What a user sees whose pictures come from phones, cameras and editors: other suffixes and odd metadata."""

import io
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from commands import ROOT
from PIL import Image
from runs import run_json

from gantrain.datasets import images, left_out

RUN = (
    *("model=dcgan", "model.generator.width=2", "model.discriminator.width=1", "dataset.image_size=16", "batch_size=2"),
    *("dataset=image_folder", "dataset.root=photos", "run_dir=run", "steps=1", "metric=[]", "++callback.samples.num=4"),
)
PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 48, 3), dtype=np.uint8))
ORIENTATION, RESOLUTION = 0x0112, 0x011A


def encoded(kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    PICTURE.save(buffer, kind, **options)
    return buffer.getvalue()


def write(files: dict[str, bytes]) -> None:
    Path("photos").mkdir()
    for name, content in files.items():
        Path("photos", name).write_bytes(content)


def test_scans_and_old_suffixes_are_all_trained_on(gantrain: Callable):
    kinds = {"bmp": "BMP", "tif": "TIFF", "gif": "GIF", "jfif": "JPEG", "jpe": "JPEG", "ppm": "PPM", "png": "PNG"}
    write({f"{i}.{suffix}": encoded(kind) for suffix, kind in kinds.items() for i in range(2)})
    result = gantrain(*RUN)
    assert (result.status, run_json(Path("run"))["dataset"]["num_images"]) == (0, 14)
    assert "left out" not in result.stderr


def test_pictures_of_an_iphone_are_read_or_counted(gantrain: Callable, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(left_out, "SUFFIXES", (".jpg",))  # as without the extra
    monkeypatch.setattr(left_out, "READS_HEIC", False)
    write(
        {**{f"IMG_{i}.HEIC": b"" for i in range(9)}, "a.jpg": encoded("JPEG"), "b.MOV": b"", "c.jpg": encoded("JPEG")}
    )
    result = gantrain(*RUN)
    assert (result.status, run_json(Path("run"))["dataset"]["num_images"]) == (0, 2)
    counted = "2 images in photos; left out: 9 .heic, 1 .mov (pip install 'gantrain[heic]' reads HEIC)."
    assert counted in result.stderr
    assert counted in Path("run/gantrain.log").read_text()


@pytest.mark.parametrize(
    "error", ["OSError('libheif.so.1: cannot open shared object file')", "AttributeError('_pillow_heif')"]
)
def test_pictures_of_an_iphone_are_counted_where_the_extra_is_broken(tmp_path: Path, error: str):
    (tmp_path / "pillow_heif.py").write_text(f"raise {error}\n")
    code = (
        "from gantrain.datasets.left_out import select\n"
        "print(*select(['a.jpg', 'IMG_0.HEIC', 'IMG_1.HEIC'], lambda *_: b'', is_zip=False))\n"
    )
    path = os.pathsep.join([str(tmp_path), str(ROOT), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("['a.jpg'] 2 .heic")


@pytest.mark.skipif(not images.READS_HEIC, reason="needs gantrain[heic]")
def test_pictures_of_an_iphone_with_the_extra(gantrain: Callable):
    write({f"IMG_{i}.HEIC": encoded("HEIF") for i in range(3)})
    assert (gantrain(*RUN).status, run_json(Path("run"))["dataset"]["num_images"]) == (0, 3)


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def undefined_resolution() -> bytes:
    exif = Image.Exif()
    exif[ORIENTATION], exif[RESOLUTION] = 6, 72.0
    block = exif.tobytes()
    order, rational, undefined = ("<" if block[6:8] == b"II" else ">"), 5, 7
    start = block.index(struct.pack(f"{order}HH", RESOLUTION, rational))
    block = block[: start + 2] + struct.pack(f"{order}H", undefined) + block[start + 4 :]
    return encoded("JPEG", exif=block)


def test_good_pictures_are_not_refused_for_their_metadata(gantrain: Callable):
    png = encoded("PNG")
    video = b"\0\0\0\x18ftypmp42" + b"\xff\xda\x00\x08abcdef" * 1000
    write(
        {
            "rotated.jpg": undefined_resolution(),
            "motion photo.jpg": encoded("JPEG") + video,
            "exif.png": png[:33] + chunk(b"eXIf", b"not EXIF") + png[33:],
            "exif.webp": encoded("WEBP", exif=b"Exif\0\0not EXIF"),
            "prompt.png": png[:33] + chunk(b"zTXt", b"prompt\0\0" + zlib.compress(bytes(3 * 2**20))) + png[33:],
            "workflow.png": png[:33] + chunk(b"iTXt", b"workflow\0\1\0\0\0" + zlib.compress(b"x" * 2**22)) + png[33:],
        }
    )
    result = gantrain(*RUN)
    assert (result.status, run_json(Path("run"))["dataset"]["num_images"]) == (0, 6), result.stderr
