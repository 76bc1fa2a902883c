"""Only the orientation is read from the metadata of an image, and no metadata can refuse an image."""

import io
import itertools
import random
import struct
import zlib
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image, ImageOps, features

from gantrain.datasets import images
from gantrain.datasets.images import BadImageError, load_image, size_and_color
from gantrain.datasets.metadata import until_end_of_jpeg

RNG = np.random.default_rng(0)
COLORS = RNG.integers(0, 256, (6, 10, 3), dtype=np.uint8)
NOISE = RNG.integers(0, 256, (40, 48, 3), dtype=np.uint8)
KINDS = {"JPEG": {"quality": 95}, "PNG": {}, "WEBP": {"lossless": True}}
ORIENTATION, RESOLUTION = 0x0112, 0x011A
NUM_BLOCKS = 7000  # of each kind: 21,000 in all


def exif(orientation: int = 6) -> Image.Exif:
    block = Image.Exif()
    block[0x010E], block[0x010F] = "a description", "a camera"
    block[ORIENTATION] = orientation
    block[RESOLUTION], block[0x0128] = 72.0, 2
    block.get_ifd(0x8769)[0x9003] = "2026:01:31 12:00:00"
    block.get_ifd(0x8825)[1] = "N"
    return block


def saved(kind: str, block: bytes, pixels: np.ndarray = COLORS, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, exif=block, **options)
    return buffer.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_with(*chunks: bytes) -> bytes:
    whole = saved("PNG", b"")
    return whole[:33] + b"".join(chunks) + whole[33:]


def segment(marker: int, content: bytes) -> bytes:
    return bytes((0xFF, marker)) + struct.pack(">H", len(content) + 2) + content


def jpeg_with(*segments: bytes) -> bytes:
    whole = saved("JPEG", b"")
    return whole[:2] + b"".join(segments) + whole[2:]


def pixels_of(content: bytes) -> np.ndarray:
    return np.asarray(load_image(content, channels=3))


def mutations(block: bytes, num: int, seed: str) -> Iterator[tuple[bytes, set[int]]]:
    """Yield copies of a block in which 1 to 8 bytes differ, with their positions."""
    draw = random.Random(seed)
    for _ in range(num):
        changed = bytearray(block)
        places = {draw.randrange(len(block)) for _ in range(draw.choice((1, 1, 2, 8)))}
        for at in places:
            changed[at] ^= draw.randrange(1, 256)
        yield bytes(changed), places


@pytest.mark.parametrize("kind", KINDS)
def test_no_mutated_exif_block_refuses_an_image(kind: str):
    block = exif().tobytes()[6:]  # a TIFF header, then the first directory
    order = "<" if block[:2] == b"II" else ">"
    (num,) = struct.unpack_from(f"{order}H", block, 8)
    tags = [struct.unpack_from(f"{order}H", block, 10 + 12 * i)[0] for i in range(num)]
    entry = 10 + 12 * tags.index(ORIENTATION)
    # The orientation can be read while neither its entry changes, nor the header, the count or the tag of another one.
    needed = {*range(10), *range(entry, entry + 12), *(10 + 12 * i + k for i in range(num) for k in (0, 1))}
    whole = saved(kind, exif().tobytes(), **KINDS[kind])
    start = whole.index(block)
    upright, turned = COLORS.shape[1::-1], COLORS.shape[:2]
    num_turned = 0
    for mutated, places in mutations(block, NUM_BLOCKS, kind):
        content = whole[:start] + mutated + whole[start + len(block) :]
        if kind == "PNG":
            end = start + len(block)
            content = content[:end] + struct.pack(">I", zlib.crc32(content[start - 4 : end])) + content[end + 4 :]
        found = load_image(content, channels=3).size
        assert found in (upright, turned)
        if not needed & places:
            assert found == turned
            num_turned += 1
    assert num_turned > NUM_BLOCKS / 3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("orientation", [*range(10), 65535])
def test_orientations_are_applied_as_pillow_does(kind: str, orientation: int):
    content = saved(kind, exif(orientation).tobytes(), **KINDS[kind])
    with Image.open(io.BytesIO(content)) as image:
        expected = ImageOps.exif_transpose(image).convert("RGB")
    np.testing.assert_array_equal(pixels_of(content), np.asarray(expected))
    assert size_and_color(content) == (*expected.size, True)


def test_rotated_jpeg_whose_resolution_is_undefined_is_turned():
    block = bytearray(exif().tobytes())
    order = "<" if block[6:8] == b"II" else ">"
    rational, undefined = 5, 7
    at = block.index(struct.pack(f"{order}HH", RESOLUTION, rational))
    block[at + 2 : at + 4] = struct.pack(f"{order}H", undefined)
    assert load_image(saved("JPEG", bytes(block)), channels=3).size == (6, 10)


EXIF = exif().tobytes()
XMP = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
PROFILE = f"\nexif\n{len(EXIF):8}\n{EXIF.hex()}\n".encode()
TURNED = {
    "jpeg-xmp": jpeg_with(segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + XMP)),
    "jpeg-second-segment": jpeg_with(segment(0xE1, b"other"), segment(0xED, b"Photoshop 3.0\0"), segment(0xE1, EXIF)),
    "png-xmp": png_with(chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP)),
    "png-xmp-compressed": png_with(chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(XMP))),
    "png-raw-profile": png_with(chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(PROFILE))),
    "png-exif-behind-the-pixels": saved("PNG", b"")[:-12] + chunk(b"eXIf", EXIF[6:]) + chunk(b"IEND", b""),
}


@pytest.mark.parametrize("content", TURNED.values(), ids=TURNED)
def test_orientation_is_found_wherever_pillow_finds_it(content: bytes):
    with Image.open(io.BytesIO(content)) as image:
        expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    assert expected.shape == (10, 6, 3)
    np.testing.assert_array_equal(pixels_of(content), expected)


def without_checksum(made: bytes) -> bytes:
    return made[:-4] + b"\0\0\0\0"


HARMLESS = {
    "png-2-mb-of-zTXt": png_with(chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(2 * 2**20)))),
    "png-2-mb-of-iTXt": png_with(chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + b"x" * 2 * 2**20)),
    "png-exif-without-header": png_with(chunk(b"eXIf", b"not EXIF")),
    "png-wrong-checksum-of-a-text": png_with(without_checksum(chunk(b"tEXt", b"Comment\0x"))),
    "png-wrong-checksum-of-a-profile": png_with(without_checksum(chunk(b"iCCP", b"x\0\0x"))),
    "png-empty-chunks": png_with(
        *(chunk(kind, b"") for kind in (b"pHYs", b"gAMA", b"sRGB", b"acTL", b"eXIf", b"iTXt"))
    ),
    "jpeg-short-segments": jpeg_with(*(segment(0xE0 + k, b"JFIF") for k in range(16)), segment(0xEE, b"Adobe")),
    "jpeg-photoshop": jpeg_with(segment(0xED, b"Photoshop 3.0\0" + b"8BIM" + bytes(3))),
    "jpeg-several-pictures": jpeg_with(segment(0xE2, b"MPF\0II*\0" + b"\xff" * 40)),
    "jpeg-profile": jpeg_with(segment(0xE2, b"ICC_PROFILE\0")),
}


@pytest.mark.parametrize(("kind", "content"), HARMLESS.items(), ids=HARMLESS)
def test_malformed_metadata_changes_nothing(kind: str, content: bytes):
    plain = saved("PNG" if kind.startswith("png") else "JPEG", b"")
    np.testing.assert_array_equal(pixels_of(content), pixels_of(plain))


@pytest.mark.parametrize("mode", ["CMYK", "L", "RGB"])
def test_colors_of_a_jpeg_with_metadata_are_those_without(mode: str):
    buffer = io.BytesIO()
    Image.fromarray(COLORS).convert(mode).save(buffer, "JPEG", exif=exif(1).tobytes(), quality=95)
    with Image.open(buffer) as image:
        expected = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(pixels_of(buffer.getvalue()), expected)


def test_motion_photo_is_its_picture():
    photo = saved("JPEG", exif(1).tobytes(), NOISE, quality=95, progressive=True)
    video = struct.pack(">I4s", 24, b"ftyp") + b"mp42" + bytes(12) + b"\xff\xda\x00\x08abcdef" * 1000
    np.testing.assert_array_equal(pixels_of(photo + video), pixels_of(photo))
    assert until_end_of_jpeg(photo + video) == photo


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 1}], ids=str)
def test_end_of_a_jpeg_is_that_of_its_picture(options: dict):
    with_thumbnail = segment(0xE1, b"Exif\0\0" + saved("JPEG", b""))  # it has an end of its own
    for quality in (10, 60, 95):
        whole = saved("JPEG", b"", NOISE, quality=quality, **options)
        whole = whole[:2] + with_thumbnail + whole[2:]
        assert until_end_of_jpeg(whole + b"\xff\xda\xff\xd9") == whole


def test_scans_of_the_picture_are_still_limited(monkeypatch: pytest.MonkeyPatch):
    content = saved("JPEG", b"", NOISE, progressive=True)
    start = content.rindex(b"\xff\xda")
    many = content[:start] + content[start:-2] * 200 + content[-2:]
    for end in (b"", b"\xff\xd9", b"\xff\xda" * 50):
        with pytest.raises(BadImageError, match="more than 100 scans"):
            load_image(many + end, channels=3)


def test_no_mutated_entry_of_metadata_refuses_a_tiff():
    whole = io.BytesIO()
    Image.fromarray(COLORS).save(whole, "TIFF", exif=exif(), dpi=(72, 72), compression="tiff_lzw")
    content = whole.getvalue()
    expected = np.rot90(COLORS, -1)
    np.testing.assert_array_equal(pixels_of(content), expected)
    order = "<" if content[:2] == b"II" else ">"
    (start,) = struct.unpack_from(f"{order}L", content, 4)
    (num,) = struct.unpack_from(f"{order}H", content, start)
    entries = {struct.unpack_from(f"{order}H", content, at)[0]: at for at in (start + 2 + 12 * i for i in range(num))}
    metadata = [tag for tag in (0x010E, 0x010F, RESOLUTION, 0x0128, 0x8769, 0x8825) if tag in entries]
    assert len(metadata) >= 3
    draw = random.Random(0)
    for _ in range(500):
        changed = bytearray(content)
        for _ in range(draw.choice((1, 2, 8))):
            at = entries[draw.choice(metadata)]
            changed[at + 2 + draw.randrange(10)] ^= draw.randrange(1, 256)
        np.testing.assert_array_equal(pixels_of(bytes(changed)), expected)


@pytest.mark.parametrize("kind", ["AVIF", "HEIF"])
def test_no_mutated_exif_block_refuses_an_avif_or_heic(kind: str):
    if not (features.check("avif") if kind == "AVIF" else images.READS_HEIC):
        pytest.skip("Pillow cannot read it here")
    whole = saved(kind, exif().tobytes(), quality=90)
    end = whole.index(b"a description")
    start = max(whole.rfind(head, 0, end) for head in (b"MM\0*", b"II*\0")) - 4
    for mutated, _ in itertools.islice(mutations(whole[start : end + 60], 300, kind), 300):
        assert load_image(whole[:start] + mutated + whole[end + 60 :], channels=3).size == (6, 10)
